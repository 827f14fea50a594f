//! ReplicaSets: as many pods of a template as were asked for.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::ReplicaSet;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{PODS, REPLICA_SETS};
use meta::{Gvr, Object};
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{
    claim, fresh_name, is_active, is_available, is_ready, owner_reference, phase, ready_since, selector,
    selectors_of_orphan,
};
use crate::status::{self, Conditions};

/// Pods that one plan makes or deletes at most, as upstream.
const BURST: usize = 500;

/// See the module.
pub struct ReplicaSetController;

impl Controller for ReplicaSetController {
    fn name(&self) -> &'static str {
        "replicaset-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let mut keys = controller_key(pod, "ReplicaSet");
                keys.extend(selectors_of_orphan(&REPLICA_SETS, pod, view));
                keys
            },
        };
        vec![Input::primary(REPLICA_SETS), pods]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&REPLICA_SETS, &key.namespace, &key.name) else {
            return plan;
        };
        if let Ok(set) = object.view::<ReplicaSet>() {
            let template = object.to_value()["spec"]["template"].clone();
            let wanted = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
            let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
            let replicas = Replicas {
                gvr: &REPLICA_SETS,
                object: &object,
                template,
                wanted,
                min_ready,
            };
            replicas.plan(&mut plan, now, view);
        }
        plan
    }
}

/// Something that keeps a number of pods: ReplicaSet and ReplicationController.
pub(crate) struct Replicas<'a> {
    /// Its resource.
    pub gvr: &'a Gvr,
    /// Itself.
    pub object: &'a Arc<Object>,
    /// `spec.template`.
    pub template: Value,
    /// `spec.replicas`.
    pub wanted: i32,
    /// `spec.minReadySeconds`.
    pub min_ready: i32,
}

/// A pod with its decoded form.
struct Member {
    object: Arc<Object>,
    pod: Arc<Pod>,
}

impl Replicas<'_> {
    /// Writes into `plan` what is to be done.
    pub fn plan(&self, plan: &mut Plan, now: Timestamp, view: &dyn View) {
        let Some(selector) = selector(self.object).filter(|s| !s.is_everything()) else {
            return;
        };
        let claimed = claim(plan, &PODS, self.object, &selector, view);
        let members = claimed.into_iter().filter_map(|object| {
            let pod = object.view::<Pod>().ok()?;
            is_active(&object, &pod).then_some(Member { object, pod })
        });
        let members: Vec<Member> = members.collect();
        self.write_status(plan, &members, now);
        if self.object.is_deleting() {
            return;
        }
        let have = i32::try_from(members.len()).unwrap_or(i32::MAX);
        if have < self.wanted {
            let missing = usize::try_from(self.wanted - have).unwrap_or(0).min(BURST);
            let prefix = format!("{}-", self.object.name());
            let names = (0..).map(|index| fresh_name(&prefix, self.object.uid(), now, index));
            let free = names.filter(|n| view.get(&PODS, self.object.namespace(), n).is_none());
            for name in free.take(missing) {
                self.create(plan, &prefix, &name);
            }
        } else if have > self.wanted {
            let surplus = usize::try_from(have - self.wanted.max(0)).unwrap_or(0).min(BURST);
            self.delete(plan, members, surplus, now);
        }
    }

    fn create(&self, plan: &mut Plan, prefix: &str, name: &str) {
        let mut metadata = json!({"name": name, "generateName": prefix,
            "ownerReferences": [owner_reference(self.object)]});
        for field in ["labels", "annotations", "finalizers"] {
            let value = &self.template["metadata"][field];
            if !value.is_null() {
                metadata[field] = value.clone();
            }
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self.template["spec"]});
        plan.create(&PODS, self.object.namespace(), pod);
        let message = format!("Created pod: {name}");
        plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
    }

    fn delete(&self, plan: &mut Plan, members: Vec<Member>, surplus: usize, now: Timestamp) {
        let mut per_node: HashMap<String, usize> = HashMap::new();
        for m in &members {
            *per_node.entry(node(&m.pod).to_owned()).or_default() += 1;
        }
        let mut members = members;
        members.sort_by_cached_key(|m| rank(m, &per_node, now));
        for m in members.iter().take(surplus) {
            plan.delete(&PODS, &m.object);
            let message = format!("Deleted pod: {}", m.object.name());
            plan.event(self.object, EventKind::Normal, "SuccessfulDelete", message);
        }
    }

    fn write_status(&self, plan: &mut Plan, members: &[Member], now: Timestamp) {
        let value = self.object.to_value();
        let labels = &self.template["metadata"]["labels"];
        let labelled = |m: &&Member| {
            let wanted = labels.as_object().into_iter().flatten();
            wanted
                .into_iter()
                .all(|(k, v)| m.object.labels().get(k).map(String::as_str) == v.as_str())
        };
        let mut available = 0;
        for m in members {
            match is_available(&m.pod, self.min_ready, now) {
                Ok(()) => available += 1,
                Err(Some(left)) => plan.again(left),
                Err(None) => {}
            }
        }
        let conditions = Conditions::of(&value, now).into_value();
        let new = json!({
            "replicas": members.len(),
            "fullyLabeledReplicas": members.iter().filter(labelled).count(),
            "readyReplicas": members.iter().filter(|m| is_ready(&m.pod)).count(),
            "availableReplicas": available,
            "observedGeneration": self.object.header().generation,
            "conditions": conditions,
        });
        status::write(plan, self.gvr, self.object, &value, &new);
    }
}

fn node(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.node_name.as_deref())
        .unwrap_or_default()
}

/// Pods that go first come first (upstream: `ActivePodsWithRanks`).
type Rank = (
    bool,
    u8,
    bool,
    i64,
    Reverse<usize>,
    i64,
    Reverse<i32>,
    Reverse<String>,
    String,
);

fn rank(m: &Member, per_node: &HashMap<String, usize>, now: Timestamp) -> Rank {
    let node = node(&m.pod);
    let phase = match phase(&m.pod) {
        "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let cost = m.object.annotations().get("controller.kubernetes.io/pod-deletion-cost");
    let cost = cost.and_then(|c| c.parse().ok()).unwrap_or(0);
    let crowd = per_node.get(node).copied().unwrap_or(0);
    // Upstream compares ages by powers of two, so that the newest of equals is not always the victim.
    let ready_for = ready_since(&m.pod).map_or(0, |t| now.duration_since(t).as_secs().max(1).ilog2().into());
    let statuses = m.pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let restarts = statuses
        .into_iter()
        .flatten()
        .map(|c| c.restart_count)
        .max()
        .unwrap_or(0);
    let created = m.object.header().creation_timestamp.clone().unwrap_or_default();
    (
        !node.is_empty(),
        phase,
        is_ready(&m.pod),
        cost,
        Reverse(crowd),
        ready_for,
        Reverse(restarts),
        Reverse(created),
        m.object.name().to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    fn set(replicas: i32) -> Value {
        json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {"name": "web", "namespace": "shop"},
            "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": {
                "metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}}})
    }

    fn now() -> Timestamp {
        "2026-01-01T00:10:00Z".parse().unwrap()
    }

    fn pods(world: &World) -> Vec<Arc<Object>> {
        world.list(&PODS, "shop")
    }

    #[test]
    fn pods_are_made_and_the_least_useful_deleted() {
        let mut world = World::default();
        world.put(&REPLICA_SETS, set(3));
        assert!(world.settle(now(), &ReplicaSetController, 5));
        assert_eq!(pods(&world).len(), 3);
        let ready = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        let names: Vec<String> = pods(&world).iter().map(|p| p.name().to_owned()).collect();
        for name in &names[1..] {
            world.change(&PODS, "shop", name, ready.clone());
        }
        assert!(world.settle(now(), &ReplicaSetController, 5));
        let object = world.get(&REPLICA_SETS, "shop", "web").unwrap().to_value();
        assert_eq!(object["status"]["readyReplicas"], 2);
        world.change(&REPLICA_SETS, "shop", "web", json!({"spec": {"replicas": 2}}));
        assert!(world.settle(now(), &ReplicaSetController, 5));
        assert!(world.get(&PODS, "shop", &names[0]).is_none(), "the pending one goes");
    }

    #[test]
    fn orphans_are_adopted_and_strangers_let_go() {
        let mut world = World::default();
        world.put(&REPLICA_SETS, set(2));
        world.put(
            &PODS,
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "lost", "namespace": "shop",
            "labels": {"app": "web"}}}),
        );
        assert!(world.settle(now(), &ReplicaSetController, 5));
        assert_eq!(pods(&world).len(), 2);
        assert!(world.get(&PODS, "shop", "lost").unwrap().controller().is_some());
        world.change(&PODS, "shop", "lost", json!({"metadata": {"labels": {"app": "debug"}}}));
        assert!(world.settle(now(), &ReplicaSetController, 5));
        assert_eq!(pods(&world).len(), 3);
        assert!(world.get(&PODS, "shop", "lost").unwrap().controller().is_none());
    }
}
