//! Who has to leave for whom.

use super::*;
use crate::Preemption;

fn important(name: &str, priority: i32, cpu: &str, change: Value) -> Arc<Object> {
    let mut spec = json!({"spec": {"priority": priority,
        "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]}});
    merge(&mut spec, change);
    pod(name, spec)
}

fn victims(c: &Cluster, pod: &Object) -> (String, Vec<String>) {
    match schedule(c, pod, 0) {
        Decision::Wait {
            preempt: Some(Preemption { node, victims }),
            message,
        } => {
            assert!(!message.contains("preemption"), "{message}");
            (node, victims.into_iter().map(|v| v.1).collect())
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_fewest_and_least_important_leave() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.assume(&important("a1", 10, "2", json!({})), "a");
    c.assume(&important("a2", 5, "2", json!({})), "a");
    c.assume(&important("b1", 8, "4", json!({})), "b");
    // On a the less important of two leaves, on b one of 8.
    assert_eq!(
        victims(&c, &important("p", 100, "1", json!({}))),
        ("a".into(), vec!["a2".into()])
    );
    // Both of a, the higher being 10, or b1.
    assert_eq!(
        victims(&c, &important("p", 100, "3", json!({}))),
        ("b".into(), vec!["b1".into()])
    );
}

#[test]
fn nobody_leaves_in_vain() {
    let mut c = cluster(&[
        node("a", json!({})),
        node("b", json!({"spec": {"unschedulable": true}})),
        node("c", json!({})),
    ]);
    c.assume(&important("a1", 10, "4", json!({})), "a");
    c.assume(&important("c1", 1, "1", json!({})), "c");
    c.assume(&important("c2", 10, "3", json!({})), "c");
    let Decision::Wait { message, preempt } = schedule(&c, &important("p", 10, "3", json!({})), 0) else {
        panic!("bound");
    };
    assert_eq!(preempt, None);
    assert_eq!(
        message,
        "0/3 nodes are available: 1 node(s) were unschedulable, 2 Insufficient cpu. preemption: 0/3 nodes are \
         available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, \
         1 Preemption is not helpful for scheduling."
    );
    let Decision::Wait { message, .. } = schedule(
        &c,
        &important("p", 99, "3", json!({"spec": {"preemptionPolicy": "Never"}})),
        0,
    ) else {
        panic!("bound");
    };
    assert!(message.ends_with("preemption: not eligible due to preemptionPolicy=Never."));
}

#[test]
fn budgets_are_broken_last() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.set_budget(&object(json!({"metadata": {"name": "b", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "a1"}}}, "status": {"disruptionsAllowed": 0}})));
    c.assume(&important("a1", 1, "4", json!({})), "a");
    c.assume(&important("b1", 50, "4", json!({})), "b");
    assert_eq!(
        victims(&c, &important("p", 100, "4", json!({}))),
        ("b".into(), vec!["b1".into()])
    );
    c.remove_budget("default", "b");
    assert_eq!(
        victims(&c, &important("p", 100, "4", json!({}))),
        ("a".into(), vec!["a1".into()])
    );
}

#[test]
fn anti_affinity_is_resolved_too() {
    let mut c = cluster(&[node("a", json!({}))]);
    let term = json!([{"labelSelector": {"matchLabels": {"app": "low"}}, "topologyKey": "kubernetes.io/hostname"}]);
    let apart = json!({"spec": {"affinity": {"podAntiAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": term}}}});
    c.assume(&important("low", 1, "1", json!({})), "a");
    c.assume(&important("bystander", 1, "1", json!({})), "a");
    assert_eq!(
        victims(&c, &important("p", 2, "1", apart)),
        ("a".into(), vec!["low".into()])
    );
}

#[test]
fn room_that_was_made_is_kept() {
    let mut c = cluster(&[node("a", json!({}))]);
    let waiting = json!({"status": {"nominatedNodeName": "a"}});
    let first = important("first", 10, "4", waiting);
    c.set_pod(&first);
    refused(&c, &important("later", 5, "1", json!({})));
    assert_eq!(bound(&c, &important("more", 11, "1", json!({}))), "a");
    assert_eq!(bound(&c, &first), "a");
    c.assume(&first, "a");
    c.remove_pod("uid-first");
    assert_eq!(bound(&c, &important("later", 5, "1", json!({}))), "a");
}

#[test]
fn those_who_are_leaving_are_waited_for() {
    let mut c = cluster(&[node("a", json!({}))]);
    let leaving = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}, "spec": {"nodeName": "a"}});
    c.set_pod(&important("low", 1, "4", leaving));
    let waiting = json!({"status": {"nominatedNodeName": "a"}});
    let Decision::Wait { message, preempt } = schedule(&c, &important("p", 10, "4", waiting), 0) else {
        panic!("bound");
    };
    assert_eq!(preempt, None);
    assert!(message.ends_with("not eligible due to a terminating pod on the nominated node."));
}
