//! One look at everything: which pods and containers there are by the API's status, and what
//! their control groups say. Must not wait, and must not compare with earlier looks.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use meta::Object;
use runtime::ContainerStats;

use super::{Groups, Host, Memory, Usage};
use crate::pods;

/// Everything at one time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Snapshot {
    pub host: Host,
    /// In order of namespace and name.
    pub pods: Vec<PodUse>,
    /// Whether something that should run could not be read.
    pub failed: bool,
}

/// One pod's use.
#[derive(Clone, Debug, Default)]
pub(crate) struct PodUse {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Nanoseconds since the epoch, 0 when not known.
    pub started: i64,
    pub host_network: bool,
    /// Its control group.
    pub group: String,
    pub usage: Usage,
    pub containers: Vec<ContainerUse>,
}

/// One container's use.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerUse {
    pub name: String,
    pub id: String,
    pub image: String,
    /// Nanoseconds since the epoch, 0 when not known.
    pub started: i64,
    /// Its control group; empty when only its runtime knows it.
    pub group: String,
    pub usage: Usage,
}

impl ContainerUse {
    /// What it is compared by with earlier looks: another attempt is another container.
    pub(crate) fn key(&self) -> &str {
        &self.id
    }
}

impl Snapshot {
    /// Looks. `root` is the group below which pods are.
    pub(crate) fn take(groups: &Groups, root: &str, pods: &[Arc<Object>]) -> io::Result<Self> {
        let host = Host::read()?;
        let looked = pods.iter().filter_map(|pod| look(groups, root, pod)).collect();
        Ok(Snapshot {
            host,
            pods: looked,
            failed: false,
        })
    }

    /// Whether there are containers whose groups were not found.
    pub(crate) fn wants_more(&self) -> bool {
        let mut containers = self.pods.iter().flat_map(|p| &p.containers);
        containers.any(|c| c.group.is_empty())
    }

    /// Fills in what runtimes say where no group was found, and drops what nobody knows.
    pub(crate) fn complete(&mut self, said: Vec<ContainerStats>) {
        let mut by: HashMap<(String, String), Usage> = HashMap::new();
        for one in said {
            let memory = Memory {
                usage: one.memory_working_set,
                working_set: one.memory_working_set,
                ..Memory::default()
            };
            let usage = Usage {
                at: one.timestamp,
                cpu: one.cpu_usage,
                memory,
            };
            by.insert((one.pod_uid, one.name), usage);
        }
        for pod in &mut self.pods {
            for c in pod.containers.iter_mut().filter(|c| c.group.is_empty()) {
                if let Some(usage) = by.remove(&(pod.uid.clone(), c.name.clone())) {
                    c.usage = usage;
                }
            }
            pod.containers.retain(|c| c.usage.at > 0);
            if pod.usage.at == 0 {
                pod.usage = sum(&pod.containers);
            }
        }
        self.pods.retain(|p| p.usage.at > 0);
    }
}

fn sum(containers: &[ContainerUse]) -> Usage {
    let mut out = Usage::default();
    for c in containers {
        let (u, m) = (&c.usage, &c.usage.memory);
        out.at = out.at.max(u.at);
        out.cpu = out.cpu.saturating_add(u.cpu);
        out.memory.usage = out.memory.usage.saturating_add(m.usage);
        out.memory.working_set = out.memory.working_set.saturating_add(m.working_set);
    }
    out
}

/// A pod with containers that run; `None` for one without.
fn look(groups: &Groups, root: &str, object: &Object) -> Option<PodUse> {
    let pod = object.view::<Pod>().ok()?;
    let status = pod.status.as_ref()?;
    let lists = [
        &status.init_container_statuses,
        &status.container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let group = pods::cgroup(root, &pod);
    let children = groups.children(&group);
    let all = lists.into_iter().flatten().flatten();
    let containers: Vec<ContainerUse> = all.filter_map(|s| container(groups, &group, &children, s)).collect();
    if containers.is_empty() {
        return None;
    }
    Some(PodUse {
        namespace: object.namespace().to_owned(),
        name: object.name().to_owned(),
        uid: object.uid().to_owned(),
        started: status.start_time.as_ref().map_or(0, |t| nanoseconds(t.0)),
        host_network: pod.spec.as_ref().and_then(|s| s.host_network).unwrap_or(false),
        usage: groups.usage(&group).unwrap_or_default(),
        group,
        containers,
    })
}

fn container(groups: &Groups, pod: &str, children: &[String], status: &ContainerStatus) -> Option<ContainerUse> {
    let running = status.state.as_ref()?.running.as_ref()?;
    let id = status.container_id.as_deref().unwrap_or_default();
    let id = id.split_once("://").map_or(id, |(_, id)| id);
    let group = child(children, id).map(|c| format!("{pod}/{c}"));
    let usage = group.as_deref().and_then(|g| groups.usage(g));
    Some(ContainerUse {
        name: status.name.clone(),
        id: id.to_owned(),
        image: status.image.clone(),
        started: running.started_at.as_ref().map_or(0, |t| nanoseconds(t.0)),
        group: group.filter(|_| usage.is_some()).unwrap_or_default(),
        usage: usage.unwrap_or_default(),
    })
}

/// The group of a container: named by its id, with a word before it (CRI-O), or without the
/// attempt behind it (machines, whose group belongs to the sandbox).
fn child<'a>(children: &'a [String], id: &str) -> Option<&'a String> {
    let names = |name: &str| {
        let before = name
            .strip_suffix(id)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('-'));
        before || id.strip_prefix(name).is_some_and(|rest| rest.starts_with('.'))
    };
    children.iter().find(|name| !id.is_empty() && names(name.as_str()))
}

fn nanoseconds(time: jiff::Timestamp) -> i64 {
    i64::try_from(time.as_nanosecond()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn groups_are_found_by_id() {
        let children: Vec<String> = ["abc", "crio-def", "vm-1"].map(str::to_owned).into();
        let find = |id: &str| child(&children, id).map(String::as_str);
        assert_eq!(find("abc"), Some("abc"));
        assert_eq!(find("def"), Some("crio-def"));
        assert_eq!(find("vm-1.2"), Some("vm-1"));
        for other in ["", "ab", "bc", "vm-12.1", "ef"] {
            assert_eq!(find(other), None, "{other}");
        }
    }

    #[test]
    fn runtimes_are_believed_where_there_is_no_group() {
        let running = json!({"running": {"startedAt": "2026-01-01T00:00:00Z"}});
        let pod = json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": {"containers": [{"name": "c"}]},
            "status": {"containerStatuses": [
                {"name": "c", "containerID": "containerd://x", "state": running, "image": "i", "imageID": "",
                 "ready": true, "restartCount": 0},
                {"name": "gone", "containerID": "containerd://y", "state": running, "image": "i", "imageID": "",
                 "ready": true, "restartCount": 0}]}});
        let pods = [Arc::new(Object::from_value(pod).unwrap())];
        let mut snapshot = Snapshot::take(&Groups::default(), "r", &pods).unwrap();
        assert!(snapshot.wants_more());
        snapshot.complete(vec![ContainerStats {
            pod_uid: "u".into(),
            name: "c".into(),
            timestamp: 5,
            cpu_usage: 7,
            memory_working_set: 9,
        }]);
        let pod = &snapshot.pods[0];
        assert_eq!(pod.containers.len(), 1);
        assert_eq!((pod.usage.cpu, pod.usage.memory.working_set, pod.usage.at), (7, 9, 5));
        assert_eq!(pod.containers[0].key(), "x");
        snapshot.pods[0].containers[0].usage.at = 0;
        snapshot.pods[0].usage.at = 0;
        snapshot.complete(Vec::new());
        assert!(snapshot.pods.is_empty());
    }
}
