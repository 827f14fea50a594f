//! Which node is preferred, and what holds for any sequence of changes.

use proptest::prelude::*;

use super::*;
use crate::queue_order;

#[test]
fn the_emptier_node_is_better() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.assume(&asking("x", json!({"cpu": "2", "memory": "2Gi"})), "a");
    assert_eq!(bound(&c, &asking("y", json!({"cpu": "1", "memory": "1Gi"}))), "b");
}

#[test]
fn preferences_count() {
    let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "PreferNoSchedule"}]}});
    let c = cluster(&[node("a", tainted), node("b", json!({}))]);
    assert_eq!(bound(&c, &pod("x", json!({}))), "b");
    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": ["b"]}]});
    let preferred = json!([{"weight": 1, "preference": term}]);
    let affinity = json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}});
    let c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    assert_eq!(bound(&c, &pod("x", json!({"spec": {"affinity": affinity}}))), "b");
}

#[test]
fn images_attract() {
    let image = json!({"status": {"images": [{"names": ["i:latest"], "sizeBytes": 900_000_000}]}});
    let c = cluster(&[node("a", json!({})), node("b", image)]);
    assert_eq!(bound(&c, &pod("x", json!({}))), "b");
}

#[test]
fn pods_of_one_controller_spread() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let owner = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
    let mut seen = std::collections::BTreeSet::new();
    for i in 0..3 {
        let p = pod(&format!("p{i}"), json!({"metadata": {"ownerReferences": owner}}));
        let on = bound(&c, &p);
        c.assume(&p, &on);
        seen.insert(on);
    }
    assert_eq!(seen.len(), 3);
}

#[test]
fn liked_pods_attract_and_disliked_ones_repel() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.assume(&pod("web", json!({})), "a");
    let with = |kind: &str| {
        let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "topologyKey": "kubernetes.io/hostname"});
        let preferred = json!([{"weight": 50, "podAffinityTerm": term}]);
        let mut affinity = json!({});
        affinity[kind] = json!({"preferredDuringSchedulingIgnoredDuringExecution": preferred});
        pod("x", json!({"spec": {"affinity": affinity}}))
    };
    assert_eq!(bound(&c, &with("podAffinity")), "a");
    assert_eq!(bound(&c, &with("podAntiAffinity")), "b");
}

#[test]
fn ties_are_broken_by_the_seed() {
    let c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let p = pod("x", json!({}));
    let seen: std::collections::BTreeSet<String> =
        (0..50).map(|seed| format!("{:?}", schedule(&c, &p, seed))).collect();
    assert_eq!(seen.len(), 3);
    assert_eq!(schedule(&c, &p, 7), schedule(&c, &p, 7));
}

#[test]
fn the_truth_replaces_an_assumption() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let p = asking("x", json!({"cpu": "4"}));
    c.assume(&p, "a");
    // News of the pod from before it was bound change nothing.
    c.set_pod(&p);
    assert_eq!(bound(&c, &asking("y", json!({"cpu": "4"}))), "b");
    let mut truth = p.to_value();
    truth["spec"]["nodeName"] = "b".into();
    c.set_pod(&object(truth.clone()));
    assert_eq!(bound(&c, &asking("y", json!({"cpu": "4"}))), "a");
    c.forget("uid-x");
    assert_eq!(c.pod_count(), 1);
    truth["status"] = json!({"phase": "Succeeded"});
    c.set_pod(&object(truth));
    assert_eq!(c.pod_count(), 0);
}

#[test]
fn the_important_and_the_old_come_first() {
    let p = |name: &str, priority: i32, time: &str| {
        let change = json!({"metadata": {"creationTimestamp": time}, "spec": {"priority": priority}});
        pod(name, change)
    };
    let mut pods = [
        p("young", 0, "2026-01-02T00:00:00Z"),
        p("old", 0, "2026-01-01T00:00:00Z"),
        p("important", 5, "2026-01-03T00:00:00Z"),
    ];
    pods.sort_by_key(|p| queue_order(p));
    let names: Vec<&str> = pods.iter().map(|p| p.name()).collect();
    assert_eq!(names, ["important", "old", "young"]);
}

fn any_pod(i: usize, cpu: u32, memory: u32, kind: u8, priority: i32) -> Arc<Object> {
    let term = json!([{"labelSelector": {"matchLabels": {"g": "x"}}, "topologyKey": "kubernetes.io/hostname"}]);
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": term});
    let affinity = match kind {
        0 => json!({"podAntiAffinity": required}),
        1 => json!({"podAffinity": required}),
        _ => json!({}),
    };
    let port = if kind == 2 {
        json!([{"hostPort": 80}])
    } else {
        json!([])
    };
    let owner = json!([{"kind": "ReplicaSet", "name": "r", "uid": "r", "controller": true}]);
    pod(
        &format!("p{i}"),
        json!({"metadata": {"labels": {"g": if kind.is_multiple_of(2) { "x" } else { "y" }},
            "ownerReferences": if kind == 3 { owner } else { json!([]) }},
        "spec": {"affinity": affinity, "priority": priority, "containers": [{"name": "c", "ports": port,
            "resources": {"requests": {"cpu": format!("{cpu}m"), "memory": format!("{memory}Mi"),
                "example.com/x": (kind == 4).to_string().len() - 4}}}]}}),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn placements_fit_and_leave_no_trace(
        pods in prop::collection::vec((0u32..2500, 0u32..4000, 0u8..6, 0i32..3), 1..25),
        seed: u64,
    ) {
        let x = json!({"status": {"allocatable": {"example.com/x": "2"}}});
        let mut c = cluster(&[node("a", x), node("b", json!({})), node("c", json!({}))]);
        let before = c.clone();
        let mut placed = Vec::new();
        for (i, (cpu, memory, kind, priority)) in pods.into_iter().enumerate() {
            let p = any_pod(i, cpu, memory, kind, priority);
            match schedule(&c, &p, seed.wrapping_add(i as u64)) {
                Decision::Bind { node, .. } => {
                    c.assume(&p, &node);
                    placed.push((p, node));
                }
                Decision::Wait { preempt: Some(preemption), .. } => {
                    // With the victims gone it fits.
                    let mut after = c.clone();
                    for (_, _, uid) in &preemption.victims {
                        after.remove_pod(uid);
                    }
                    let fits = matches!(schedule(&after, &p, 0), Decision::Bind { .. });
                    prop_assert!(fits);
                    prop_assert!(!preemption.victims.is_empty());
                }
                Decision::Wait { .. } => {}
            }
        }
        for n in c.nodes() {
            let there = &n.allocatable;
            prop_assert!(n.used.cpu <= there.cpu && n.used.memory <= there.memory && n.used.pods <= there.pods);
            let x = |r: &crate::resources::Resources| r.extended.get("example.com/x").copied().unwrap_or(0);
            prop_assert!(x(&n.used) <= x(there));
            prop_assert!(n.ports.len() <= 1);
        }
        // Confirmed or not, in whatever order they go: nothing is left of them.
        for (i, (p, node)) in placed.iter().enumerate() {
            if i % 2 == 0 {
                let mut truth = p.to_value();
                truth["spec"]["nodeName"] = node.as_str().into();
                c.set_pod(&object(truth));
            }
        }
        for (p, _) in placed.iter().rev() {
            c.forget(p.uid());
            c.remove_pod(p.uid());
        }
        prop_assert_eq!(c, before);
    }
}
