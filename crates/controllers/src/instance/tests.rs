//! An instance and its pod in a small world.

use super::*;
use reconcile::{Action, World};

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn instance() -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "db", "namespace": "shop", "labels": {"app": "db"}},
        "spec": {"terminationGracePeriodSeconds": 20,
            "domain": {"cpu": {"cores": 2}, "memory": {"guest": "256Mi"}, "devices": {
                "disks": [{"name": "root", "disk": {"bus": "virtio"}}, {"name": "data", "disk": {"bus": "virtio"}}],
                "interfaces": [{"name": "default", "masquerade": {}}]}},
            "readinessProbe": {"tcpSocket": {"port": 5432}},
            "volumes": [{"name": "root", "containerDisk": {"image": "debian:1"}},
                {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]},
        "status": {"phase": "Pending"}})
}

fn turn(world: &mut World) {
    for _ in 0..3 {
        world.step(now(), &InstanceController, &Key::new("shop", "db"));
    }
}

fn claim(world: &mut World) {
    world.put(
        &CLAIMS,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "shop"}}),
    );
}

fn started() -> World {
    let mut world = World::default();
    claim(&mut world);
    world.put(&MACHINE_INSTANCES, instance());
    turn(&mut world);
    world
}

fn status(world: &World) -> Value {
    world.get(&MACHINE_INSTANCES, "shop", "db").unwrap().to_value()["status"].clone()
}

fn pod(world: &World) -> Arc<Object> {
    let [pod] = world.list(&PODS, "shop").try_into().unwrap();
    pod
}

fn pod_status(world: &mut World, status: Value) {
    let name = pod(world).name().to_owned();
    world.change(
        &PODS,
        "shop",
        &name,
        json!({"spec": {"nodeName": "n"}, "status": status}),
    );
    turn(world);
}

#[test]
fn the_pod_looks_as_tools_expect() {
    let world = started();
    let pod = pod(&world);
    assert!(pod.name().starts_with("virt-launcher-db-"));
    assert_eq!(pod.labels()["kubevirt.io"], "virt-launcher");
    assert_eq!(
        (
            pod.labels()["vm.kubevirt.io/name"].as_str(),
            pod.labels()["app"].as_str()
        ),
        ("db", "db")
    );
    let spec = pod.to_value()["spec"].clone();
    let container = &spec["containers"][0];
    assert_eq!(container["name"], "compute");
    assert_eq!(
        container["resources"]["requests"],
        json!({"cpu": "200m", "memory": "368Mi"})
    );
    assert_eq!(container["readinessProbe"]["tcpSocket"]["port"], 5432);
    assert_eq!(
        spec["volumes"],
        json!([{"name": "root", "image": {"reference": "debian:1"}},
        {"name": "data", "persistentVolumeClaim": {"claimName": "data"}}])
    );
    assert_eq!(
        container["volumeMounts"][1]["mountPath"],
        "/var/run/kubevirt-private/vmi-disks/data"
    );
    assert_eq!(spec["terminationGracePeriodSeconds"], 35);
}

#[test]
fn phases_follow_the_pod() {
    let mut world = started();
    assert_eq!(status(&world)["phase"], "Scheduling");
    pod_status(
        &mut world,
        json!({"phase": "Pending", "conditions": [
        {"type": "PodReadyToStartContainers", "status": "True"}]}),
    );
    assert_eq!(status(&world)["phase"], "Scheduled");
    let running = json!([{"name": "compute", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
    pod_status(
        &mut world,
        json!({"phase": "Running", "podIP": "10.42.0.9", "containerStatuses": running,
        "conditions": [{"type": "Ready", "status": "True"}]}),
    );
    let s = status(&world);
    assert_eq!((&s["phase"], &s["nodeName"]), (&json!("Running"), &json!("n")));
    assert_eq!(s["interfaces"][0]["ipAddress"], "10.42.0.9");
    assert_eq!(s["volumeStatus"][1]["target"], "vdb");
    assert!(Conditions::of(&json!({"status": s}), now()).is("Ready", "True"));
    pod_status(&mut world, json!({"phase": "Succeeded"}));
    assert_eq!(status(&world)["phase"], "Succeeded");
    turn(&mut world);
    assert_eq!(world.list(&PODS, "shop").len(), 1, "nothing is started again");
}

use crate::status::Conditions;

#[test]
fn deletion_waits_for_the_pod_and_a_lost_pod_is_a_failure() {
    let mut world = started();
    pod_status(&mut world, json!({"phase": "Running"}));
    let name = pod(&world).name().to_owned();
    world.change(
        &MACHINE_INSTANCES,
        "shop",
        "db",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    );
    turn(&mut world);
    assert!(pod(&world).is_deleting());
    assert!(world.get(&MACHINE_INSTANCES, "shop", "db").is_some());
    world.remove(&PODS, "shop", &name);
    turn(&mut world);
    assert!(world.get(&MACHINE_INSTANCES, "shop", "db").is_none());

    let mut world = started();
    let name = pod(&world).name().to_owned();
    world.remove(&PODS, "shop", &name);
    turn(&mut world);
    assert_eq!(status(&world)["phase"], "Failed");
}

#[test]
fn a_missing_claim_is_said_once_and_awaited() {
    let mut world = World::default();
    world.put(&MACHINE_INSTANCES, instance());
    turn(&mut world);
    assert_eq!(world.events.iter().filter(|(r, _)| r == "FailedPvcNotFound").count(), 1);
    assert!(world.list(&PODS, "shop").is_empty());
    claim(&mut world);
    turn(&mut world);
    assert_eq!(world.list(&PODS, "shop").len(), 1);
}

#[test]
fn a_shorter_grace_reaches_the_pod() {
    let mut world = started();
    pod_status(&mut world, json!({"phase": "Running"}));
    let graces = |world: &mut World, asked: i64| -> Vec<Option<i64>> {
        let spec = json!({"spec": {"terminationGracePeriodSeconds": asked}});
        world.change(&MACHINE_INSTANCES, "shop", "db", spec);
        let plan = world.step(now(), &InstanceController, &Key::new("shop", "db"));
        let graces = plan.actions.iter().filter_map(|a| match a {
            Action::Delete { grace, .. } => Some(*grace),
            _ => None,
        });
        graces.collect()
    };
    let ends = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}});
    world.change(&MACHINE_INSTANCES, "shop", "db", ends);
    assert_eq!(graces(&mut world, 20), [None]);
    let name = pod(&world).name().to_owned();
    world.change(
        &PODS,
        "shop",
        &name,
        json!({"metadata": {"deletionGracePeriodSeconds": 35}}),
    );
    assert_eq!(graces(&mut world, 20), []);
    assert_eq!(graces(&mut world, 0), [Some(1)]);
    world.change(
        &PODS,
        "shop",
        &name,
        json!({"metadata": {"deletionGracePeriodSeconds": 1}}),
    );
    assert_eq!(graces(&mut world, 0), []);
}

#[test]
fn a_disk_comes_and_goes_with_a_pod_of_its_own() {
    let mut world = started();
    let running = json!([{"name": "compute", "image": "", "imageID": "", "ready": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}]);
    pod_status(&mut world, json!({"phase": "Running", "containerStatuses": running}));
    world.put(
        &CLAIMS,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "more", "namespace": "shop"}}),
    );
    let mut spec = instance()["spec"].clone();
    let volume = json!({"name": "extra", "persistentVolumeClaim": {"claimName": "more", "hotpluggable": true}});
    let (volumes, disks) = (spec["volumes"].clone(), spec["domain"]["devices"]["disks"].clone());
    let with = |list: &Value, one: Value| {
        let mut list = list.as_array().cloned().unwrap_or_default();
        list.push(one);
        Value::from(list)
    };
    spec["volumes"] = with(&volumes, volume);
    spec["domain"]["devices"]["disks"] = with(&disks, json!({"name": "extra", "disk": {"bus": "scsi"}}));
    world.change(&MACHINE_INSTANCES, "shop", "db", json!({"spec": spec}));
    turn(&mut world);
    let find = |world: &World| {
        let all = world.list(&PODS, "shop");
        all.into_iter().find(|p| p.labels()["kubevirt.io"] == "hotplug-disk")
    };
    let attachment = find(&world).unwrap();
    assert!(attachment.name().starts_with("hp-volume-"));
    let value = attachment.to_value();
    assert_eq!(
        value["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "more"
    );
    let entry = |world: &World| status(world)["volumeStatus"][2].clone();
    assert_eq!(
        (&entry(&world)["phase"], &entry(&world)["target"]),
        (&json!("Bound"), &json!("sda"))
    );
    let up = json!({"spec": {"nodeName": "n"}, "status": {"phase": "Running"}});
    world.change(&PODS, "shop", attachment.name(), up);
    turn(&mut world);
    assert_eq!(entry(&world)["phase"], "Ready");
    assert_eq!(entry(&world)["hotplugVolume"]["attachPodName"], attachment.name());
    spec["volumes"] = volumes;
    spec["domain"]["devices"]["disks"] = disks;
    world.change(&MACHINE_INSTANCES, "shop", "db", json!({"spec": spec}));
    turn(&mut world);
    assert!(find(&world).is_some_and(|p| p.is_deleting()));
    assert_eq!(entry(&world)["phase"], "Detaching");
    world.remove(&PODS, "shop", attachment.name());
    turn(&mut world);
    assert!(entry(&world).is_null());
}
