//! `/stats/summary`, in the shape of `stats/v1alpha1`. Must not measure: it shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use http::Response;
use serde_json::{Map, Value, json};

use super::{blocking, document, measure, network, node_name, rfc3339};
use crate::server::Shared;
use crate::server::answer::{Body, Refusal};
use crate::stats::{
    ContainerUse, Groups, Host, Interface, Measured, Memory, PodUse, Rate, Space, interfaces, now, space_below,
    space_of,
};

/// `/stats/summary`; without `full` processors and memory only.
pub(crate) async fn summary(shared: &Shared, full: bool) -> Result<Response<Body>, Refusal> {
    let measured = measure(shared).await?;
    let mut node = node(&measured);
    node["nodeName"] = node_name(shared).into();
    let pods = measured.snapshot.pods.iter().map(|p| pod(&measured, p));
    let mut pods: Vec<Value> = pods.collect();
    if full {
        let places = Places {
            groups: shared.stats.groups.clone(),
            logs: shared.logs_root.clone(),
            pods: shared.lookup.places().pods,
            storage: shared.lookup.places().storage,
        };
        let storages = storages(shared, &measured.snapshot.pods);
        let more = move || {
            more_of_node(&mut node, &places, &measured.snapshot.host);
            for (value, pod) in pods.iter_mut().zip(&measured.snapshot.pods) {
                more_of_pod(value, &places, pod, &storages);
            }
            (node, pods)
        };
        (node, pods) = blocking(more).await?;
    }
    Ok(document(&json!({"node": node, "pods": pods})))
}

struct Places {
    groups: Arc<Groups>,
    logs: PathBuf,
    pods: PathBuf,
    storage: PathBuf,
}

/// Directories that runtimes name, by container id.
fn storages(shared: &Shared, pods: &[PodUse]) -> std::collections::HashMap<String, PathBuf> {
    let runtimes = shared.lookup.runtimes();
    let ids = pods.iter().flat_map(|p| &p.containers).map(|c| &c.id);
    let found = ids.filter_map(|id| Some((id.clone(), runtimes.iter().find_map(|r| r.storage(id))?)));
    found.collect()
}

fn cpu(at: i64, used: u64, rate: Option<Rate>) -> Value {
    let mut out = json!({"time": rfc3339(at), "usageCoreNanoSeconds": used});
    if let Some(rate) = rate {
        out["usageNanoCores"] = rate.nanocores.into();
    }
    out
}

fn memory(at: i64, m: &Memory) -> Value {
    let mut out = json!({
        "time": rfc3339(at), "usageBytes": m.usage, "workingSetBytes": m.working_set, "rssBytes": m.rss,
        "pageFaults": m.faults, "majorPageFaults": m.major_faults,
    });
    if let Some(limit) = m.limit {
        out["availableBytes"] = limit.saturating_sub(m.working_set).into();
    }
    out
}

fn node(measured: &Measured) -> Value {
    let host = &measured.snapshot.host;
    let time = rfc3339(host.at);
    json!({
        "startTime": rfc3339(host.started),
        "cpu": cpu(host.at, host.cpu, measured.host_rate()),
        "memory": {
            "time": time, "availableBytes": host.available, "usageBytes": host.usage,
            "workingSetBytes": host.working_set, "rssBytes": host.rss,
            "pageFaults": host.faults, "majorPageFaults": host.major_faults,
        },
        "swap": {"time": time, "swapUsageBytes": host.swap},
        "rlimit": {"time": time, "maxpid": host.most_tasks, "curproc": host.tasks},
    })
}

fn pod(measured: &Measured, pod: &PodUse) -> Value {
    let container = |c: &ContainerUse| {
        let u = &c.usage;
        let rate = measured.rate(c.key(), c.started, (u.at, u.cpu));
        json!({"name": c.name, "startTime": rfc3339(c.started),
            "cpu": cpu(u.at, u.cpu, rate), "memory": memory(u.at, &u.memory),
            "swap": {"time": rfc3339(u.at), "swapUsageBytes": u.memory.swap}})
    };
    let containers: Vec<Value> = pod.containers.iter().map(container).collect();
    let u = &pod.usage;
    let rate = measured.rate(&pod.uid, pod.started, (u.at, u.cpu));
    json!({
        "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
        "startTime": rfc3339(pod.started), "containers": containers,
        "cpu": cpu(u.at, u.cpu, rate), "memory": memory(u.at, &u.memory),
        "swap": {"time": rfc3339(u.at), "swapUsageBytes": u.memory.swap},
    })
}

fn interface(i: &Interface) -> Value {
    json!({"name": i.name, "rxBytes": i.rx_bytes, "rxErrors": i.rx_errors,
        "txBytes": i.tx_bytes, "txErrors": i.tx_errors})
}

/// The first interface for itself, and all of them.
fn network_value(at: i64, all: &[Interface]) -> Option<Value> {
    let mut out = interface(all.first()?);
    out["time"] = rfc3339(at).into();
    out["interfaces"] = all.iter().map(interface).collect();
    Some(out)
}

/// What is used of a file system; by one thing, or by all.
fn space(s: &Space, used: Option<(u64, u64)>) -> Value {
    let (used, files) = used.unwrap_or((s.used, s.files_used));
    json!({"time": rfc3339(now()), "availableBytes": s.available, "capacityBytes": s.capacity, "usedBytes": used,
        "inodesFree": s.files_free, "inodes": s.files, "inodesUsed": files})
}

fn more_of_node(node: &mut Value, places: &Places, host: &Host) {
    if let Some(network) = network_value(host.at, &interfaces()) {
        node["network"] = network;
    }
    if let Some(found) = space_of(&places.storage) {
        node["fs"] = space(&found, None);
        node["runtime"] = json!({"imageFs": space(&found, None), "containerFs": space(&found, None)});
    }
}

fn more_of_pod(
    value: &mut Value,
    places: &Places,
    pod: &PodUse,
    storages: &std::collections::HashMap<String, PathBuf>,
) {
    if let Some(network) = network_value(pod.usage.at, &network(&places.groups, pod)) {
        value["network"] = network;
    }
    let groups = places.groups.children(&pod.group).into_iter();
    let pids = groups.map(|c| places.groups.pids(&format!("{}/{c}", pod.group)).len());
    value["process_stats"] = json!({"process_count": pids.sum::<usize>()});
    let Some(disk) = space_of(&places.storage) else { return };
    let mut all = (0, 0);
    let mut add = |used: (u64, u64)| {
        all = (all.0 + used.0, all.1 + used.1);
        used
    };
    let logs = format!("{}_{}_{}", pod.namespace, pod.name, pod.uid);
    for (i, c) in pod.containers.iter().enumerate() {
        let own = storages.get(&c.id).cloned().or_else(|| upper(&places.groups, &c.group));
        if let Some(own) = own {
            value["containers"][i]["rootfs"] = space(&disk, Some(add(space_below(&own))));
        }
        let logged = add(space_below(&places.logs.join(&logs).join(&c.name)));
        value["containers"][i]["logs"] = space(&disk, Some(logged));
    }
    let mut volumes = Vec::new();
    for (name, path, mounted) in volumes_of(&places.pods.join(&pod.uid).join("volumes")) {
        let mut one = match space_of(&path).filter(|_| mounted) {
            Some(other) => space(&other, None),
            None => space(&disk, Some(add(space_below(&path)))),
        };
        one["name"] = name.into();
        volumes.push(one);
    }
    value["volume"] = volumes.into();
    value["ephemeral-storage"] = space(&disk, Some(all));
    drop_nulls(value);
}

/// Name, path, and whether another file system is mounted there.
fn volumes_of(directory: &Path) -> Vec<(String, PathBuf, bool)> {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| std::fs::symlink_metadata(path).map(|m| m.dev()).ok();
    let own = device(directory);
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let mut all: Vec<_> = entries
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .filter_map(|e| {
            let path = e.path();
            let mounted = device(&path) != own;
            Some((e.file_name().into_string().ok()?, path, mounted))
        })
        .collect();
    all.sort();
    all
}

/// The upper layer of the root file system of a group's processes, if it is not the host's own.
fn upper(groups: &Groups, group: &str) -> Option<PathBuf> {
    if group.is_empty() {
        return None;
    }
    let pid = groups.pids(group).into_iter().next()?;
    let of = |who: &str| upper_of(&std::fs::read_to_string(format!("/proc/{who}/mountinfo")).ok()?);
    let found = of(&pid.to_string())?;
    (of("self").as_ref() != Some(&found)).then_some(found)
}

fn upper_of(mountinfo: &str) -> Option<PathBuf> {
    let roots = mountinfo.lines().filter(|l| l.split(' ').nth(4) == Some("/"));
    let (_, options) = roots.last()?.split_once(" - overlay ")?;
    let options = options.split(' ').next_back()?;
    let upper = options.split(',').find_map(|o| o.strip_prefix("upperdir="))?;
    Some(upper.into())
}

fn drop_nulls(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let full = std::mem::take(map).into_iter().filter(|(_, v)| !v.is_null());
            *map = full.collect::<Map<String, Value>>();
            map.values_mut().for_each(drop_nulls);
        }
        Value::Array(all) => all.iter_mut().for_each(drop_nulls),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upper_layers_are_found() {
        let text = "1 0 0:5 / /proc rw - proc proc rw\n\
                    2 0 0:9 / / rw,relatime - overlay overlay rw,lowerdir=/a:/b,upperdir=/x/fs,workdir=/x/work\n";
        assert_eq!(upper_of(text), Some("/x/fs".into()));
        assert_eq!(upper_of("2 0 0:9 / / rw - ext4 /dev/sda rw\n"), None);
    }

    #[test]
    fn networks_have_a_first_interface() {
        assert_eq!(network_value(1, &[]), None);
        let one = Interface {
            name: "eth0".into(),
            rx_bytes: 5,
            ..Interface::default()
        };
        let value = network_value(1, &[one]).unwrap();
        assert_eq!(
            (&value["rxBytes"], &value["interfaces"][0]["name"]),
            (&json!(5), &json!("eth0"))
        );
    }
}
