//! Tests of StatefulSets in a small world.

use super::*;
use reconcile::World;

fn set(replicas: i64, change: Value) -> Value {
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "template": {"metadata": {"labels": {"app": "db"}, "creationTimestamp": null},
                "spec": {"containers": [{"name": "a", "image": "i:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]}});
    for (k, v) in change.as_object().into_iter().flatten() {
        set["spec"][k] = v.clone();
    }
    set
}

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn settle(world: &mut World) {
    assert!(world.settle(now(), &StatefulSetController, 20));
}

fn names(world: &World) -> Vec<String> {
    world.list(&PODS, "shop").iter().map(|p| p.name().to_owned()).collect()
}

fn ready(world: &mut World, name: &str) {
    let change = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running", "conditions": [
        {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
    world.change(&PODS, "shop", name, change);
}

/// What nodes do: pods that are going are gone, the others get ready.
fn run_pods(world: &mut World) {
    for pod in world.list(&PODS, "shop") {
        if pod.is_deleting() {
            world.remove(&PODS, "shop", pod.name());
        } else {
            ready(world, pod.name());
        }
    }
}

/// Until nothing changes any more; the number of pods after each round.
fn roll(world: &mut World) -> Vec<usize> {
    let mut seen = Vec::new();
    for _ in 0..30 {
        settle(world);
        seen.push(world.list(&PODS, "shop").iter().filter(|p| !p.is_deleting()).count());
        run_pods(world);
    }
    seen
}

fn status(world: &World) -> Value {
    world.get(&STATEFUL_SETS, "shop", "db").unwrap().to_value()["status"].clone()
}

fn image(world: &World, pod: &str) -> String {
    let pod = world.get(&PODS, "shop", pod).unwrap().to_value();
    pod["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
}

fn update(world: &mut World, image: &str) {
    let containers = json!([{"name": "a", "image": image}]);
    let change = json!({"spec": {"template": {"spec": {"containers": containers}}}});
    world.change(&STATEFUL_SETS, "shop", "db", change);
}

#[test]
fn pods_come_one_after_another_with_names_and_claims() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(3, json!({"ordinals": {"start": 5}})));
    settle(&mut world);
    assert_eq!(names(&world), ["db-5"]);
    let pod = world.get(&PODS, "shop", "db-5").unwrap();
    let value = pod.to_value();
    assert_eq!(value["spec"]["hostname"], "db-5");
    assert_eq!(value["spec"]["subdomain"], "db");
    assert_eq!(
        value["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "data-db-5"
    );
    assert_eq!(pod.labels()["statefulset.kubernetes.io/pod-name"], "db-5");
    assert_eq!(pod.labels()["apps.kubernetes.io/pod-index"], "5");
    let revision = world.list(&CONTROLLER_REVISIONS, "shop")[0].name().to_owned();
    assert_eq!(pod.labels()[REVISION], revision);
    assert!(world.get(&CLAIMS, "shop", "data-db-5").is_some());
    roll(&mut world);
    assert_eq!(names(&world), ["db-5", "db-6", "db-7"]);
    let status = status(&world);
    assert_eq!(
        (&status["readyReplicas"], &status["availableReplicas"]),
        (&json!(3), &json!(3))
    );
    assert_eq!(status["currentRevision"], revision);
    assert!(world.events.contains(&(
        "SuccessfulCreate".into(),
        "create Pod db-6 in StatefulSet db successful".into()
    )));
}

#[test]
fn parallel_sets_come_and_go_at_once() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(3, json!({"podManagementPolicy": "Parallel"})));
    settle(&mut world);
    assert_eq!(names(&world).len(), 3);
    run_pods(&mut world);
    world.change(&STATEFUL_SETS, "shop", "db", json!({"spec": {"replicas": 1}}));
    settle(&mut world);
    run_pods(&mut world);
    assert_eq!(names(&world), ["db-0"]);
}

#[test]
fn the_highest_goes_first() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(3, json!({})));
    roll(&mut world);
    world.change(&STATEFUL_SETS, "shop", "db", json!({"spec": {"replicas": 1}}));
    settle(&mut world);
    let going = |w: &World| {
        let pods = w.list(&PODS, "shop");
        pods.iter()
            .filter(|p| p.is_deleting())
            .map(|p| p.name().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(going(&world), ["db-2"]);
    roll(&mut world);
    assert_eq!(names(&world), ["db-0"]);
    assert!(world.get(&CLAIMS, "shop", "data-db-2").is_some(), "claims are retained");
}

#[test]
fn updates_go_down_to_the_partition() {
    let mut world = World::default();
    let strategy = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 1}});
    world.put(&STATEFUL_SETS, set(3, json!({"updateStrategy": strategy})));
    roll(&mut world);
    update(&mut world, "i:2");
    let seen = roll(&mut world);
    assert!(seen.iter().all(|n| *n >= 2), "one at a time: {seen:?}");
    let images = |w: &World| ["db-0", "db-1", "db-2"].map(|p| image(w, p));
    assert_eq!(images(&world), ["i:1", "i:2", "i:2"]);
    let s = status(&world);
    assert_ne!(s["currentRevision"], s["updateRevision"]);
    assert_eq!((&s["currentReplicas"], &s["updatedReplicas"]), (&json!(1), &json!(2)));
    // A pod below the partition comes back as it was.
    world.remove(&PODS, "shop", "db-0");
    roll(&mut world);
    assert_eq!(image(&world, "db-0"), "i:1");
    let strategy = json!({"rollingUpdate": {"partition": 0}});
    world.change(
        &STATEFUL_SETS,
        "shop",
        "db",
        json!({"spec": {"updateStrategy": strategy}}),
    );
    roll(&mut world);
    assert_eq!(images(&world), ["i:2", "i:2", "i:2"]);
    let s = status(&world);
    assert_eq!(s["currentRevision"], s["updateRevision"]);
    // And back: the old revision is used again.
    update(&mut world, "i:1");
    roll(&mut world);
    assert_eq!(world.list(&CONTROLLER_REVISIONS, "shop").len(), 2);
    assert_eq!(images(&world), ["i:1", "i:1", "i:1"]);
}

#[test]
fn on_delete_waits_for_people() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(2, json!({"updateStrategy": {"type": "OnDelete"}})));
    roll(&mut world);
    update(&mut world, "i:2");
    roll(&mut world);
    assert_eq!(image(&world, "db-1"), "i:1");
    world.remove(&PODS, "shop", "db-1");
    roll(&mut world);
    assert_eq!(image(&world, "db-1"), "i:2");
}

#[test]
fn failed_pods_are_made_anew() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(1, json!({})));
    roll(&mut world);
    let before = world.get(&PODS, "shop", "db-0").unwrap().uid().to_owned();
    world.change(&PODS, "shop", "db-0", json!({"status": {"phase": "Failed"}}));
    settle(&mut world);
    assert!(world.events.iter().any(|(r, _)| r == "RecreatingFailedPod"));
    roll(&mut world);
    assert_ne!(world.get(&PODS, "shop", "db-0").unwrap().uid(), before);
}

#[test]
fn claims_go_with_whom_the_policy_says() {
    let mut world = World::default();
    let policy = json!({"whenDeleted": "Delete", "whenScaled": "Delete"});
    world.put(
        &STATEFUL_SETS,
        set(2, json!({"persistentVolumeClaimRetentionPolicy": policy})),
    );
    roll(&mut world);
    let owner = |w: &World, name: &str| {
        let claim = w.get(&CLAIMS, "shop", name).unwrap();
        claim
            .header()
            .owner_references
            .iter()
            .map(|o| o.kind.clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(owner(&world, "data-db-1"), ["StatefulSet"]);
    world.change(&STATEFUL_SETS, "shop", "db", json!({"spec": {"replicas": 1}}));
    settle(&mut world);
    assert_eq!(owner(&world, "data-db-1"), ["Pod"]);
    assert_eq!(owner(&world, "data-db-0"), ["StatefulSet"]);
}

#[test]
fn old_history_is_forgotten() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(1, json!({"revisionHistoryLimit": 2})));
    for i in 0..6 {
        update(&mut world, &format!("i:{i}"));
        roll(&mut world);
    }
    assert_eq!(world.list(&CONTROLLER_REVISIONS, "shop").len(), 3);
}

#[test]
fn readiness_has_to_last() {
    let mut world = World::default();
    world.put(&STATEFUL_SETS, set(2, json!({"minReadySeconds": 900})));
    settle(&mut world);
    ready(&mut world, "db-0");
    settle(&mut world);
    assert_eq!(names(&world), ["db-0"]);
    let plan = StatefulSetController.plan(now(), &Key::new("shop", "db"), &world);
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(300)));
}
