//! Nodes that stop answering: their conditions, their taints, and the pods
//! that must not stay on them (KEP-589, taint-based eviction).

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kinds::resources::{LEASES, NODES, PODS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View};
use serde_json::json;

use crate::common::is_terminal;
use crate::status::{self, Conditions};

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How long a node may be silent.
pub const GRACE: Duration = Duration::from_secs(50);
/// How long a pod may name a node that is not there.
const STRAY: i64 = 40;
const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taints by condition: type, status that taints, key.
const PRESSURES: [(&str, &str); 4] = [
    ("MemoryPressure", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "node.kubernetes.io/network-unavailable"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";

/// See the module.
pub struct NodeController;

impl Controller for NodeController {
    fn name(&self) -> &'static str {
        "node-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let leases = Input {
            gvr: LEASES,
            keys: |lease, _| {
                if lease.namespace() == LEASE_NAMESPACE {
                    vec![Key::new("", lease.name())]
                } else {
                    Vec::new()
                }
            },
        };
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                // A pod on a node that is well concerns nobody here.
                let Ok(pod) = pod.view::<Pod>() else { return Vec::new() };
                let node = pod.spec.as_ref().and_then(|s| s.node_name.clone());
                let Some(name) = node else { return Vec::new() };
                let well = view.get(&NODES, "", &name).is_some_and(|n| evicting(&n).is_empty());
                if well { Vec::new() } else { vec![Key::new("", &name)] }
            },
        };
        vec![Input::primary(NODES), leases, pods]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        match view.get(&NODES, "", &key.name) {
            None => strays(&mut plan, now, &key.name, view),
            Some(node) => {
                watch_lease(&mut plan, now, &node, view);
                taint(&mut plan, now, &node);
                evict(&mut plan, now, &node, view);
            }
        }
        plan
    }
}

fn on_node(view: &dyn View, node: &str) -> Vec<(Arc<Object>, Arc<Pod>)> {
    let pods = view.list(&PODS, "").into_iter().filter_map(|o| {
        let pod = o.view::<Pod>().ok()?;
        Some((o, pod))
    });
    pods.filter(|(_, p)| p.spec.as_ref().and_then(|s| s.node_name.as_deref()) == Some(node))
        .collect()
}

/// Pods of a node that was removed: nobody else will end them.
fn strays(plan: &mut Plan, now: Timestamp, node: &str, view: &dyn View) {
    for (object, _) in on_node(view, node) {
        let created = object
            .header()
            .creation_timestamp
            .as_deref()
            .and_then(meta::time::parse);
        let age = created.map_or(STRAY, |c| now.duration_since(c).as_secs());
        if age >= STRAY {
            plan.delete_within(&PODS, &object, Some(0));
        } else {
            plan.again(Duration::from_secs(u64::try_from(STRAY - age).unwrap_or(0)));
        }
    }
}

fn watch_lease(plan: &mut Plan, now: Timestamp, node: &Arc<Object>, view: &dyn View) {
    let renewed = view
        .get(&LEASES, LEASE_NAMESPACE, node.name())
        .and_then(|l| l.view::<Lease>().ok())
        .and_then(|l| l.spec.as_ref()?.renew_time.as_ref().map(|t| t.0));
    let created = node.header().creation_timestamp.as_deref().and_then(meta::time::parse);
    let Some(seen) = renewed.or(created) else { return };
    let grace = SignedDuration::try_from(GRACE).unwrap_or(SignedDuration::MAX);
    let left = grace - now.duration_since(seen);
    if left.is_positive() {
        return plan.again(left.unsigned_abs() + Duration::from_millis(100));
    }
    let value = node.to_value();
    let mut conditions = Conditions::of(&value, now);
    if conditions.is("Ready", "Unknown") {
        return;
    }
    for kind in ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"] {
        let message = match conditions.get(kind) {
            Some(_) => ("NodeStatusUnknown", "Kubelet stopped posting node status."),
            None => ("NodeStatusNeverUpdated", "Kubelet never posted node status."),
        };
        conditions.set_text(kind, "Unknown", message.0, message.1);
    }
    let message = format!("Node {} status is now: NodeNotReady", node.name());
    plan.event(node, EventKind::Normal, "NodeNotReady", message);
    status::write(
        plan,
        &NODES,
        node,
        &value,
        &json!({"conditions": conditions.into_value()}),
    );
    for (object, pod) in on_node(view, node.name()) {
        let value = object.to_value();
        let mut conditions = Conditions::of(&value, now);
        if !is_terminal(&pod) && conditions.is("Ready", "True") {
            // Readiness is all that a silent node's pods lose at once: Services leave them out.
            conditions.set("Ready", false, "", "");
            status::write(
                plan,
                &PODS,
                &object,
                &value,
                &json!({"conditions": conditions.into_value()}),
            );
        }
    }
}

fn taint(plan: &mut Plan, now: Timestamp, node: &Object) {
    let Ok(typed) = node.view::<Node>() else { return };
    let conditions = typed.status.as_ref().and_then(|s| s.conditions.as_ref());
    let status = |kind: &str| {
        let c = conditions.into_iter().flatten().find(|c| c.type_ == kind);
        c.map(|c| c.status.clone())
    };
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match status("Ready").as_deref() {
        Some("True") => {}
        Some("Unknown") => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
        _ => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
    }
    for (kind, key) in PRESSURES {
        if status(kind).as_deref() == Some("True") {
            wanted.push((key, "NoSchedule"));
        }
    }
    let spec = typed.spec.clone().unwrap_or_default();
    if spec.unschedulable == Some(true) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let ours = |t: &Taint| {
        let keys = [NOT_READY, UNREACHABLE, UNSCHEDULABLE];
        keys.contains(&t.key.as_str()) || PRESSURES.iter().any(|(_, k)| *k == t.key)
    };
    let present = spec.taints.unwrap_or_default();
    let still = |t: &Taint| !ours(t) || wanted.contains(&(t.key.as_str(), t.effect.as_str()));
    let mut taints: Vec<serde_json::Value> = present.iter().filter(|t| still(t)).map(|t| json!(t)).collect();
    let mut changed = taints.len() != present.len();
    for (key, effect) in wanted {
        if present.iter().any(|t| t.key == key && t.effect == effect) {
            continue;
        }
        changed = true;
        let mut taint = json!({"key": key, "effect": effect});
        if effect == "NoExecute" || key == UNSCHEDULABLE {
            taint["timeAdded"] = meta::time::rfc3339(now).into();
        }
        taints.push(taint);
    }
    if changed {
        let version = node.resource_version().to_string();
        let taints = if taints.is_empty() {
            serde_json::Value::Null
        } else {
            taints.into()
        };
        plan.patch(
            &NODES,
            node,
            json!({"metadata": {"resourceVersion": version}, "spec": {"taints": taints}}),
        );
    }
}

/// The taints of a node that end pods.
fn evicting(node: &Object) -> Vec<Taint> {
    let taints = node.view::<Node>().ok().and_then(|n| n.spec.as_ref()?.taints.clone());
    let mut taints = taints.unwrap_or_default();
    taints.retain(|t| t.effect == "NoExecute");
    taints
}

fn evict(plan: &mut Plan, now: Timestamp, node: &Object, view: &dyn View) {
    let taints = evicting(node);
    if taints.is_empty() {
        return;
    }
    for (object, pod) in on_node(view, node.name()) {
        if object.is_deleting() || is_terminal(&pod) {
            continue;
        }
        let tolerations = pod
            .spec
            .as_ref()
            .and_then(|s| s.tolerations.clone())
            .unwrap_or_default();
        let Some(stay) = stay(&taints, &tolerations, now) else {
            continue;
        };
        if stay.is_zero() {
            let message = format!("Marking for deletion Pod {}/{}", object.namespace(), object.name());
            plan.event(&object, EventKind::Normal, "TaintManagerEviction", message);
            plan.delete(&PODS, &object);
        } else {
            plan.again(stay);
        }
    }
}

/// How long a pod may stay; `None` for ever.
fn stay(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Option<Duration> {
    let mut shortest: Option<Duration> = None;
    for taint in taints {
        let mut matching = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if matching.peek().is_none() {
            return Some(Duration::ZERO);
        }
        // The shortest of those that have an end; none of them has one: for ever.
        let Some(seconds) = matching.filter_map(|t| t.toleration_seconds).min() else {
            continue;
        };
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let left = SignedDuration::from_secs(seconds.max(0)) - now.duration_since(since);
        let left = if left.is_positive() {
            left.unsigned_abs()
        } else {
            Duration::ZERO
        };
        shortest = Some(shortest.map_or(left, |s| s.min(left)));
    }
    shortest
}

fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let any = |field: &Option<String>| field.as_deref().is_none_or(str::is_empty);
    if !any(&t.effect) && t.effect.as_deref() != Some(taint.effect.as_str()) {
        return false;
    }
    if !any(&t.key) && t.key.as_deref() != Some(taint.key.as_str()) {
        return false;
    }
    match t.operator.as_deref() {
        Some("Exists") => true,
        _ => t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_silent_node_is_tainted_and_its_pods_end_after_their_time() {
        let mut world = World::default();
        world.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}, "spec": {},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        world.put(&LEASES, json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": "n", "namespace": "kube-node-lease"}, "spec": {"renewTime": "2026-01-01T00:00:00.000000Z"}}));
        world.put(&PODS, json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "shop"},
            "spec": {"nodeName": "n", "containers": [], "tolerations": [{"key": UNREACHABLE, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": 300}]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}));
        let key = Key::new("", "n");
        let plan = world.step(at("2026-01-01T00:00:20Z"), &NodeController, &key);
        assert!(plan.is_empty() && plan.again.is_some());
        for _ in 0..3 {
            world.step(at("2026-01-01T00:01:00Z"), &NodeController, &key);
        }
        let node = world.get(&NODES, "", "n").unwrap().to_value();
        assert_eq!(node["status"]["conditions"][0]["status"], "Unknown");
        assert_eq!(node["spec"]["taints"].as_array().unwrap().len(), 2);
        let pod = world.get(&PODS, "shop", "p").unwrap();
        assert!(!crate::common::is_ready(&pod.view::<Pod>().unwrap()) && !pod.is_deleting());
        world.step(at("2026-01-01T00:06:01Z"), &NodeController, &key);
        assert!(world.get(&PODS, "shop", "p").unwrap().is_deleting());
        // It comes back.
        world.change(
            &NODES,
            "",
            "n",
            json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}}),
        );
        world.change(
            &LEASES,
            "kube-node-lease",
            "n",
            json!({"spec": {"renewTime": "2026-01-01T00:07:00.000000Z"}}),
        );
        world.step(at("2026-01-01T00:07:01Z"), &NodeController, &key);
        assert!(world.get(&NODES, "", "n").unwrap().to_value()["spec"]["taints"].is_null());
        world.remove(&NODES, "", "n");
        world.step(at("2026-01-01T00:08:00Z"), &NodeController, &key);
        assert!(world.get(&PODS, "shop", "p").is_none(), "a stray pod goes");
    }
}
