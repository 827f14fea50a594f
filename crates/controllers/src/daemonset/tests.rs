//! Tests of DaemonSets in a small world.

use super::*;
use reconcile::World;

fn set(change: Value) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "sys", "annotations": {GENERATION: "1"}},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "a", "image": "i:1"}]}}}});
    for (k, v) in change.as_object().into_iter().flatten() {
        set["spec"][k] = v.clone();
    }
    set
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn world(nodes: &[&str], change: Value) -> World {
    let mut world = World::default();
    for name in nodes {
        world.put(
            &NODES,
            json!({"kind": "Node", "metadata": {"name": name, "labels": {"name": name}}, "spec": {}}),
        );
    }
    world.put(&DAEMON_SETS, set(change));
    world
}

fn settle(world: &mut World) {
    assert!(world.settle(now(), &DaemonSetController, 20));
}

/// What the scheduler and the nodes do.
fn run_pods(world: &mut World) {
    for pod in world.list(&PODS, "sys") {
        if pod.is_deleting() {
            world.remove(&PODS, "sys", pod.name());
            continue;
        }
        let node = nodes::target(&pod.view::<Pod>().unwrap()).unwrap().to_owned();
        let change = json!({"spec": {"nodeName": node}, "status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        world.change(&PODS, "sys", pod.name(), change);
    }
}

fn roll(world: &mut World) -> Vec<usize> {
    let mut seen = Vec::new();
    for _ in 0..20 {
        settle(world);
        run_pods(world);
        seen.push(world.list(&PODS, "sys").len());
    }
    settle(world);
    seen
}

fn on(world: &World) -> Vec<String> {
    let pods = world.list(&PODS, "sys");
    let mut nodes: Vec<String> = pods
        .iter()
        .filter(|p| !p.is_deleting())
        .map(|p| nodes::target(&p.view::<Pod>().unwrap()).unwrap().to_owned())
        .collect();
    nodes.sort();
    nodes
}

fn images(world: &World) -> Vec<String> {
    let pods = world.list(&PODS, "sys");
    let image = |p: &Arc<Object>| {
        p.to_value()["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    pods.iter().map(image).collect()
}

fn update(world: &mut World, image: &str) {
    let containers = json!([{"name": "a", "image": image}]);
    let change = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    world.change(&DAEMON_SETS, "sys", "agent", change);
}

fn status(world: &World) -> Value {
    world.get(&DAEMON_SETS, "sys", "agent").unwrap().to_value()["status"].clone()
}

#[test]
fn one_pod_on_each_node() {
    let mut world = world(&["a", "b"], json!({}));
    settle(&mut world);
    assert_eq!(on(&world), ["a", "b"]);
    let pod = world.list(&PODS, "sys")[0].clone();
    assert_eq!(pod.labels()[GENERATION_LABEL], "1");
    let revision = world.list(&CONTROLLER_REVISIONS, "sys")[0].clone();
    assert_eq!(pod.labels()[HASH], revision.labels()[HASH]);
    assert_eq!(pod.to_value()["spec"]["tolerations"].as_array().unwrap().len(), 6);
    assert_eq!(status(&world)["desiredNumberScheduled"], 2);
    assert_eq!(status(&world)["numberUnavailable"], 2);
    roll(&mut world);
    assert_eq!(status(&world)["numberAvailable"], 2);
    world.put(&NODES, json!({"kind": "Node", "metadata": {"name": "c"}}));
    settle(&mut world);
    assert_eq!(on(&world), ["a", "b", "c"]);
    world.remove(&NODES, "", "c");
    settle(&mut world);
    assert_eq!(on(&world), ["a", "b"]);
}

#[test]
fn nodes_are_chosen_and_taints_respected() {
    let mut world = world(&["a", "b", "c", "d"], json!({}));
    roll(&mut world);
    let taint = |key: &str, effect: &str| json!({"spec": {"taints": [{"key": key, "effect": effect}]}});
    world.change(&NODES, "", "a", taint("x", "NoExecute"));
    world.change(&NODES, "", "b", taint("x", "NoSchedule"));
    world.change(&NODES, "", "c", taint("node.kubernetes.io/unschedulable", "NoSchedule"));
    roll(&mut world);
    assert_eq!(
        on(&world),
        ["b", "c", "d"],
        "what is there may stay in spite of NoSchedule"
    );
    let s = status(&world);
    assert_eq!(
        (&s["desiredNumberScheduled"], &s["numberMisscheduled"]),
        (&json!(2), &json!(1))
    );
    let term = json!({"matchExpressions": [{"key": "name", "operator": "In", "values": ["d"]}]});
    let affinity =
        json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}});
    let change = json!({"spec": {"template": {"spec": {"affinity": affinity}}}});
    world.change(&DAEMON_SETS, "sys", "agent", change);
    roll(&mut world);
    assert_eq!(on(&world), ["d"]);
}

#[test]
fn failed_pods_are_replaced() {
    let mut world = world(&["a"], json!({}));
    roll(&mut world);
    let before = world.list(&PODS, "sys")[0].clone();
    let name = before.name().to_owned();
    world.change(
        &PODS,
        "sys",
        &name,
        json!({"status": {"phase": "Failed"},
        "metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    settle(&mut world);
    assert!(world.events.iter().any(|(r, m)| r == "FailedDaemonPod"
        && *m == format!("Found failed daemon pod sys/{name} on node a, will try to kill it")));
    roll(&mut world);
    assert_ne!(world.list(&PODS, "sys")[0].uid(), before.uid());
}

#[test]
fn updates_take_down_no_more_than_allowed() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}});
    let mut world = world(&["a", "b", "c"], json!({"updateStrategy": strategy}));
    roll(&mut world);
    update(&mut world, "i:2");
    settle(&mut world);
    assert_eq!(on(&world).len(), 2);
    roll(&mut world);
    assert_eq!(images(&world), ["i:2", "i:2", "i:2"]);
    assert_eq!(status(&world)["updatedNumberScheduled"], 3);
    assert_eq!(world.list(&CONTROLLER_REVISIONS, "sys").len(), 2);
}

#[test]
fn updates_may_surge() {
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    let mut world = world(&["a", "b", "c"], json!({"updateStrategy": strategy}));
    roll(&mut world);
    update(&mut world, "i:2");
    let seen = roll(&mut world);
    assert!(seen.iter().all(|n| *n >= 3) && seen.contains(&4), "{seen:?}");
    assert_eq!(images(&world), ["i:2", "i:2", "i:2"]);
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = world(&["a"], json!({"updateStrategy": {"type": "OnDelete"}}));
    roll(&mut world);
    update(&mut world, "i:2");
    roll(&mut world);
    assert_eq!(images(&world), ["i:1"]);
    let name = world.list(&PODS, "sys")[0].name().to_owned();
    world.remove(&PODS, "sys", &name);
    roll(&mut world);
    assert_eq!(images(&world), ["i:2"]);
}
