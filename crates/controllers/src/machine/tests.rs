//! A machine and its instances in a small world.

use super::*;
use reconcile::World;

fn now() -> Timestamp {
    "2026-01-01T00:10:00Z".parse().unwrap()
}

fn machine(strategy: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"runStrategy": strategy, "template": {"metadata": {"labels": {"app": "db"}}, "spec": {
            "domain": {}, "volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}]}}}})
}

fn world(strategy: &str) -> World {
    let mut world = World::default();
    world.put(
        &CLAIMS,
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": "data", "namespace": "shop"}, "status": {"phase": "Bound"}}),
    );
    world.put(&MACHINES, machine(strategy));
    turn(&mut world);
    world
}

fn turn(world: &mut World) {
    for _ in 0..3 {
        world.step(now(), &MachineController, &Key::new("shop", "db"));
    }
}

fn status(world: &World) -> Value {
    world.get(&MACHINES, "shop", "db").unwrap().to_value()["status"].clone()
}

fn instance(world: &World) -> Option<Arc<Object>> {
    world.get(&MACHINE_INSTANCES, "shop", "db")
}

fn phase(world: &mut World, phase: &str) {
    let patch = json!({"status": {"phase": phase, "phaseTransitionTimestamps": [{"phase": phase}],
        "conditions": [{"type": "Ready", "status": if phase == "Running" { "True" } else { "False" }}]}});
    world.change(&MACHINE_INSTANCES, "shop", "db", patch);
    turn(world);
}

#[test]
fn always_means_always() {
    let mut world = world("Always");
    let first = instance(&world).unwrap().uid().to_owned();
    assert_eq!(status(&world)["printableStatus"], "Starting");
    phase(&mut world, "Running");
    assert_eq!(
        (&status(&world)["printableStatus"], &status(&world)["ready"]),
        (&json!("Running"), &json!(true))
    );
    phase(&mut world, "Succeeded");
    assert!(instance(&world).unwrap().is_deleting());
    assert_eq!(status(&world)["printableStatus"], "Stopping");
    world.change(
        &MACHINE_INSTANCES,
        "shop",
        "db",
        json!({"metadata": {"finalizers": null}}),
    );
    turn(&mut world);
    assert_ne!(instance(&world).unwrap().uid(), first);
}

#[test]
fn halted_stops_and_manual_waits_to_be_asked() {
    let mut world = world("Always");
    phase(&mut world, "Running");
    world.change(&MACHINES, "shop", "db", json!({"spec": {"runStrategy": "Halted"}}));
    turn(&mut world);
    assert!(instance(&world).unwrap().is_deleting());
    world.change(
        &MACHINE_INSTANCES,
        "shop",
        "db",
        json!({"metadata": {"finalizers": null}}),
    );
    turn(&mut world);
    assert!(instance(&world).is_none());
    assert_eq!(status(&world)["printableStatus"], "Stopped");
    world.change(&MACHINES, "shop", "db", json!({"spec": {"runStrategy": "Manual"}}));
    turn(&mut world);
    assert!(instance(&world).is_none());
    world.change(
        &MACHINES,
        "shop",
        "db",
        json!({"status": {"stateChangeRequests": [{"action": "Start"}]}}),
    );
    turn(&mut world);
    let uid = instance(&world).unwrap().uid().to_owned();
    assert!(status(&world)["stateChangeRequests"].is_null());
    phase(&mut world, "Running");
    let restart = json!([{"action": "Stop", "uid": uid}, {"action": "Start"}]);
    world.change(
        &MACHINES,
        "shop",
        "db",
        json!({"status": {"stateChangeRequests": restart}}),
    );
    turn(&mut world);
    assert!(instance(&world).unwrap().is_deleting());
    world.change(
        &MACHINE_INSTANCES,
        "shop",
        "db",
        json!({"metadata": {"finalizers": null}}),
    );
    turn(&mut world);
    assert_ne!(instance(&world).unwrap().uid(), uid);
    assert!(status(&world)["stateChangeRequests"].is_null());
}

#[test]
fn failures_before_running_pause() {
    let mut world = world("Always");
    phase(&mut world, "Failed");
    assert_eq!(status(&world)["startFailure"]["consecutiveFailCount"], 1);
    world.change(
        &MACHINE_INSTANCES,
        "shop",
        "db",
        json!({"metadata": {"finalizers": null}}),
    );
    turn(&mut world);
    assert!(instance(&world).is_none());
    assert_eq!(status(&world)["printableStatus"], "CrashLoopBackOff");
    let later = now().checked_add(SignedDuration::from_secs(11)).unwrap();
    world.step(later, &MachineController, &Key::new("shop", "db"));
    assert!(instance(&world).is_some());
}

#[test]
fn memory_is_dumped_by_a_pod_and_the_request_says_how_far() {
    let mut world = world("Always");
    phase(&mut world, "Running");
    let ask = |world: &mut World, request: Value| {
        let request = json!({"status": {"memoryDumpRequest": request}});
        world.change(&MACHINES, "shop", "db", request);
        turn(world);
    };
    ask(&mut world, json!({"claimName": "dump", "phase": "Associating"}));
    let request = status(&world)["memoryDumpRequest"].clone();
    assert_eq!(request["phase"], "InProgress");
    assert_eq!(request["fileName"], "db-dump-20260101-001000.memory.dump");
    let [pod] = world.list(&PODS, "shop").try_into().unwrap();
    let value = pod.to_value();
    assert_eq!(
        value["spec"]["volumes"][0]["persistentVolumeClaim"]["claimName"],
        "dump"
    );
    world.change(&PODS, "shop", pod.name(), json!({"status": {"phase": "Succeeded"}}));
    turn(&mut world);
    assert_eq!(status(&world)["memoryDumpRequest"]["phase"], "Completed");
    world.remove(&PODS, "shop", pod.name());
    ask(
        &mut world,
        json!({"claimName": "dump", "phase": "Dissociating", "remove": true}),
    );
    assert!(status(&world)["memoryDumpRequest"].is_null());
}

#[test]
fn blank_volumes_become_claims_and_others_are_named() {
    let mut world = World::default();
    let mut vm = machine("Halted");
    vm["spec"]["dataVolumeTemplates"] = json!([
        {"metadata": {"name": "empty"}, "spec": {"source": {"blank": {}},
            "storage": {"resources": {"requests": {"storage": "1Gi"}}}}},
        {"metadata": {"name": "fetched"}, "spec": {"source": {"http": {"url": "u"}}}}]);
    world.put(&MACHINES, vm);
    turn(&mut world);
    let claim = world.get(&CLAIMS, "shop", "empty").unwrap().to_value();
    assert_eq!(claim["spec"]["resources"]["requests"]["storage"], "1Gi");
    assert_eq!(claim["spec"]["accessModes"], json!(["ReadWriteOnce"]));
    assert_eq!(claim["metadata"]["ownerReferences"][0]["kind"], "VirtualMachine");
    assert!(world.get(&CLAIMS, "shop", "fetched").is_none());
    let conditions = status(&world)["conditions"].to_string();
    assert!(
        conditions.contains("DataVolume fetched cannot be filled"),
        "{conditions}"
    );
}

#[test]
fn a_missing_claim_is_named() {
    let mut world = World::default();
    world.put(&MACHINES, machine("Always"));
    turn(&mut world);
    assert_eq!(status(&world)["printableStatus"], "ErrorPvcNotFound");
}
