//! Rollouts in a small world: the Deployment controller and the ReplicaSet
//! controller take turns, and pods become ready when the test says so.

use super::*;
use crate::ReplicaSetController;
use kinds::resources::PODS;
use reconcile::World;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn deployment(replicas: i32, image: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 10,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "a", "image": image}]}}}})
}

fn settle(world: &mut World) {
    let picture = |w: &World| {
        let objects = [w.list(&DEPLOYMENTS, ""), w.list(&REPLICA_SETS, "")].concat();
        objects.iter().map(|o| o.resource_version()).collect::<Vec<_>>()
    };
    for _ in 0..40 {
        let before = picture(world);
        assert!(
            world.settle(now(), &DeploymentController, 10),
            "the deployment controller never ends"
        );
        assert!(
            world.settle(now(), &ReplicaSetController, 10),
            "the replica set controller never ends"
        );
        if before == picture(world) {
            return;
        }
    }
    panic!("never at rest");
}

fn pods(world: &World) -> Vec<Arc<Object>> {
    world.list(&PODS, "shop")
}

fn make_ready(world: &mut World, count: usize) -> usize {
    let waiting = pods(world)
        .into_iter()
        .filter(|p| p.to_value()["status"]["phase"].is_null());
    let names: Vec<String> = waiting.map(|p| p.name().to_owned()).take(count).collect();
    for name in &names {
        let status = json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
        world.change(&PODS, "shop", name, status);
    }
    names.len()
}

fn status(world: &World) -> Value {
    world.get(&DEPLOYMENTS, "shop", "web").unwrap().to_value()["status"].clone()
}

fn condition(world: &World, kind: &str) -> Value {
    let status = status(world);
    let list = status["conditions"].as_array().cloned().unwrap_or_default();
    list.into_iter().find(|c| c["type"] == kind).unwrap_or_default()
}

fn rolled_out(replicas: i32) -> World {
    let mut world = World::default();
    world.put(&DEPLOYMENTS, deployment(replicas, "one"));
    settle(&mut world);
    make_ready(&mut world, 99);
    settle(&mut world);
    world
}

#[test]
fn a_new_deployment_becomes_available() {
    let mut world = World::default();
    world.put(&DEPLOYMENTS, deployment(3, "one"));
    settle(&mut world);
    assert_eq!(pods(&world).len(), 3);
    assert_eq!(condition(&world, "Available")["reason"], "MinimumReplicasUnavailable");
    assert_eq!(status(&world)["unavailableReplicas"], 3);
    make_ready(&mut world, 3);
    settle(&mut world);
    let s = status(&world);
    assert_eq!(
        (&s["readyReplicas"], &s["availableReplicas"], &s["updatedReplicas"]),
        (&json!(3), &json!(3), &json!(3))
    );
    assert_eq!(condition(&world, "Progressing")["reason"], "NewReplicaSetAvailable");
    assert_eq!(
        world.get(&DEPLOYMENTS, "shop", "web").unwrap().annotations()[REVISION],
        "1"
    );
    assert!(world.events.iter().any(|(r, m)| r == "ScalingReplicaSet"
        && m.starts_with("Scaled up replica set web-")
        && m.ends_with("from 0 to 3")));
}

#[test]
fn a_rolling_update_is_never_below_the_wanted_number_nor_above_the_surge() {
    let mut world = rolled_out(3);
    world.put(&DEPLOYMENTS, deployment(3, "two"));
    for _ in 0..20 {
        settle(&mut world);
        let live = pods(&world);
        let ready = live
            .iter()
            .filter(|p| !p.to_value()["status"]["phase"].is_null())
            .count();
        assert!(ready >= 3, "available pods: {ready}");
        assert!(live.len() <= 4, "pods: {}", live.len());
        if make_ready(&mut world, 1) == 0 {
            break;
        }
    }
    let images: Vec<String> = pods(&world)
        .iter()
        .map(|p| p.to_value()["spec"]["containers"][0]["image"].to_string())
        .collect();
    assert_eq!(images, ["\"two\""; 3]);
    assert_eq!(
        world.get(&DEPLOYMENTS, "shop", "web").unwrap().annotations()[REVISION],
        "2"
    );
    assert_eq!(condition(&world, "Progressing")["reason"], "NewReplicaSetAvailable");
    // Back again: the old ReplicaSet is used anew, under a new revision.
    world.put(&DEPLOYMENTS, deployment(3, "one"));
    for _ in 0..20 {
        settle(&mut world);
        if make_ready(&mut world, 1) == 0 {
            break;
        }
    }
    assert_eq!(world.list(&REPLICA_SETS, "shop").len(), 2);
    assert_eq!(
        world.get(&DEPLOYMENTS, "shop", "web").unwrap().annotations()[REVISION],
        "3"
    );
    let old = world
        .list(&REPLICA_SETS, "shop")
        .into_iter()
        .find(|s| s.annotations()[REVISION] == "3")
        .unwrap();
    assert_eq!(old.annotations()[REVISION_HISTORY], "1");
}

#[test]
fn scaling_during_a_rollout_is_shared() {
    let mut world = rolled_out(10);
    world.put(&DEPLOYMENTS, deployment(10, "two"));
    settle(&mut world);
    make_ready(&mut world, 1);
    settle(&mut world);
    world.change(&DEPLOYMENTS, "shop", "web", json!({"spec": {"replicas": 20}}));
    settle(&mut world);
    let total: i64 = world
        .list(&REPLICA_SETS, "shop")
        .iter()
        .map(|s| s.to_value()["spec"]["replicas"].as_i64().unwrap())
        .sum();
    assert!((20..=21).contains(&total), "{total}");
    world.change(&DEPLOYMENTS, "shop", "web", json!({"spec": {"replicas": 0}}));
    settle(&mut world);
    assert!(pods(&world).is_empty());
}

#[test]
fn recreate_waits_for_the_end_of_the_old() {
    let mut world = World::default();
    let mut d = deployment(2, "one");
    d["spec"]["strategy"] = json!({"type": "Recreate"});
    world.put(&DEPLOYMENTS, d.clone());
    settle(&mut world);
    let names: Vec<String> = pods(&world).iter().map(|p| p.name().to_owned()).collect();
    for name in &names {
        // Bound pods end when their node says so.
        world.change(&PODS, "shop", name, json!({"spec": {"nodeName": "n"}}));
    }
    make_ready(&mut world, 2);
    settle(&mut world);
    d["spec"]["template"]["spec"]["containers"][0]["image"] = "two".into();
    world.put(&DEPLOYMENTS, d);
    settle(&mut world);
    assert_eq!(pods(&world).len(), 2, "the old ones are still ending");
    for name in &names {
        world.remove(&PODS, "shop", name);
    }
    settle(&mut world);
    assert_eq!(pods(&world).len(), 2);
    assert!(
        pods(&world)
            .iter()
            .all(|p| p.to_value()["spec"]["containers"][0]["image"] == "two")
    );
}

#[test]
fn a_rollout_that_hangs_says_so_and_a_paused_one_waits() {
    let mut world = rolled_out(2);
    world.put(&DEPLOYMENTS, deployment(2, "bad"));
    settle(&mut world);
    let later = now().checked_add(jiff::SignedDuration::from_secs(601)).unwrap();
    world.step(later, &DeploymentController, &Key::new("shop", "web"));
    let progressing = condition(&world, "Progressing");
    assert_eq!(
        (&progressing["status"], &progressing["reason"]),
        (&json!("False"), &json!("ProgressDeadlineExceeded"))
    );
    let mut paused = deployment(2, "third");
    paused["spec"]["paused"] = true.into();
    world.put(&DEPLOYMENTS, paused);
    settle(&mut world);
    assert!(
        pods(&world)
            .iter()
            .all(|p| p.to_value()["spec"]["containers"][0]["image"] != "third")
    );
    assert_eq!(condition(&world, "Progressing")["reason"], "DeploymentPaused");
}

#[test]
fn old_replica_sets_beyond_the_limit_go() {
    let mut world = rolled_out(1);
    for image in ["two", "three", "four"] {
        let mut d = deployment(1, image);
        d["spec"]["revisionHistoryLimit"] = 1.into();
        world.put(&DEPLOYMENTS, d);
        for _ in 0..9 {
            settle(&mut world);
            make_ready(&mut world, 9);
        }
    }
    assert_eq!(world.list(&REPLICA_SETS, "shop").len(), 2);
}
