//! What holds at every step, and where every run must end.

use super::*;
use kinds::resources::{DEPLOYMENTS, ENDPOINT_SLICES, JOBS, NAMESPACES, REPLICA_SETS, SERVICES, STATEFUL_SETS};

const SEEDS: u64 = 60;
const STEPS: usize = 400;

fn deployment(replicas: usize, image: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": 600,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 1}},
            "template": {"metadata": {"labels": {"app": "web"}},
                "spec": {"containers": [{"name": "a", "image": format!("web:{image}")}]}}}})
}

fn machine(strategy: &str) -> Value {
    json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"runStrategy": strategy, "template": {"metadata": {"labels": {"app": "db"}},
            "spec": {"domain": {"devices": {}}}}}})
}

fn begin(seed: u64) -> Simulation {
    let mut sim = Simulation::new(seed);
    sim.world.put(
        &NAMESPACES,
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"},
        "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}),
    );
    sim.world.put(
        &SERVICES,
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"clusterIP": "10.43.0.9", "selector": {"app": "web"}, "ports": [{"port": 80}]}}),
    );
    sim
}

#[test]
fn the_same_seed_gives_the_same_run() {
    let run = |seed| {
        let mut sim = begin(seed);
        sim.world.put(&DEPLOYMENTS, deployment(3, 0));
        (0..200).for_each(|_| sim.step(true));
        sim.picture()
    };
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(8));
}

#[test]
fn deployments_come_to_what_was_asked_for_last() {
    for seed in 0..SEEDS {
        let mut sim = begin(seed);
        let (mut replicas, mut image) = (3, 0);
        sim.world.put(&DEPLOYMENTS, deployment(replicas, image));
        for step in 0..STEPS {
            if sim.dice.one_in(40) {
                replicas = sim.dice.below(6);
                image += sim.dice.below(2);
                sim.world.put(&DEPLOYMENTS, deployment(replicas, image));
            }
            sim.step(true);
            let pods = sim.world.list(&PODS, "shop");
            let live = pods.iter().filter(|p| !p.is_deleting()).count();
            assert!(live <= 40, "seed {seed}, step {step}: {live} pods for {replicas}");
        }
        assert!(sim.settle(), "seed {seed} never comes to rest: {}", sim.restless());
        let ready = sim.ready_pods("app", "web");
        assert_eq!(ready.len(), replicas, "seed {seed}");
        let wanted = format!("web:{image}");
        assert!(
            ready
                .iter()
                .all(|p| p.to_value()["spec"]["containers"][0]["image"] == wanted.as_str()),
            "seed {seed}: pods of an old template are left"
        );
        let slices = sim.world.list(&ENDPOINT_SLICES, "shop");
        let endpoints: usize = slices
            .iter()
            .map(|s| s.to_value()["endpoints"].as_array().map_or(0, Vec::len))
            .sum();
        assert_eq!(endpoints, replicas, "seed {seed}: endpoints");
        sim.world.remove(&DEPLOYMENTS, "shop", "web");
        assert!(sim.settle(), "seed {seed}");
        assert!(
            sim.world.list(&REPLICA_SETS, "shop").is_empty() && sim.ready_pods("app", "web").is_empty(),
            "seed {seed}"
        );
    }
}

#[test]
fn there_are_never_two_of_one_machine() {
    for seed in 0..SEEDS {
        let mut sim = begin(seed);
        let mut strategy = "Always";
        sim.world.put(&MACHINES, machine(strategy));
        for step in 0..STEPS {
            if sim.dice.one_in(50) {
                strategy = ["Always", "Halted", "RerunOnFailure"][sim.dice.below(3)];
                sim.world.put(&MACHINES, machine(strategy));
            }
            sim.step(true);
            let (instances, pods) = sim.machine("db");
            assert!(
                instances <= 1 && pods <= 1,
                "seed {seed}, step {step}: {instances} instances, {pods} live pods"
            );
        }
        // What failed before it ran pauses; time passes.
        for _ in 0..4 {
            assert!(sim.settle(), "seed {seed} never comes to rest: {}", sim.restless());
            sim.now = sim.now.checked_add(SignedDuration::from_secs(400)).unwrap();
        }
        assert!(sim.settle(), "seed {seed}");
        let wanted = usize::from(strategy != "Halted");
        assert_eq!(sim.machine("db"), (wanted, wanted), "seed {seed}: {strategy}");
        sim.world.remove(&MACHINES, "shop", "db");
        assert!(sim.settle(), "seed {seed}");
        assert_eq!(sim.machine("db"), (0, 0), "seed {seed}");
        assert!(!sim.has_machine("db"));
    }
}

#[test]
fn a_namespace_that_ends_takes_everything_along() {
    for seed in 0..SEEDS {
        let mut sim = begin(seed);
        sim.world.put(&DEPLOYMENTS, deployment(3, 0));
        sim.world.put(&MACHINES, machine("Always"));
        for step in 0..STEPS {
            if step == STEPS / 2 {
                let going = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["sim"]}});
                sim.world.change(&NAMESPACES, "", "shop", going);
            }
            sim.step(true);
        }
        // In a namespace that is ending nothing can be made; the world does not refuse, so owners go first.
        for _ in 0..5 {
            assert!(sim.settle(), "seed {seed} never comes to rest: {}", sim.restless());
        }
        let namespace = sim.world.get(&NAMESPACES, "", "shop").map(|n| n.to_value());
        let finalizers = namespace.map(|n| n["spec"]["finalizers"].clone()).unwrap_or_default();
        assert_eq!(finalizers, json!([]), "seed {seed}");
        assert!(sim.world.list(&PODS, "shop").is_empty(), "seed {seed}");
    }
}

#[test]
fn stateful_sets_have_the_pods_of_their_ordinals() {
    for seed in 0..SEEDS {
        let mut sim = begin(seed);
        let set = |replicas: usize, image: usize| {
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "db", "namespace": "shop"},
                "spec": {"replicas": replicas, "serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
                    "revisionHistoryLimit": 10, "podManagementPolicy": "OrderedReady",
                    "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
                    "template": {"metadata": {"labels": {"app": "db"}},
                        "spec": {"containers": [{"name": "a", "image": format!("db:{image}")}]}}}})
        };
        let (mut replicas, mut image) = (3, 0);
        sim.world.put(&STATEFUL_SETS, set(replicas, image));
        for _ in 0..STEPS {
            if sim.dice.one_in(60) {
                replicas = sim.dice.below(5);
                image += sim.dice.below(2);
                sim.world.put(&STATEFUL_SETS, set(replicas, image));
            }
            sim.step(true);
        }
        assert!(sim.settle(), "seed {seed} never comes to rest: {}", sim.restless());
        let ready = sim.ready_pods("app", "db");
        let mut names: Vec<&str> = ready.iter().map(|p| p.name()).collect();
        names.sort_unstable();
        let wanted: Vec<String> = (0..replicas).map(|i| format!("db-{i}")).collect();
        assert_eq!(names, wanted, "seed {seed}");
        let wanted = format!("db:{image}");
        assert!(
            ready
                .iter()
                .all(|p| p.to_value()["spec"]["containers"][0]["image"] == wanted.as_str()),
            "seed {seed}: pods of an old revision are left"
        );
    }
}

#[test]
fn jobs_count_every_completion_once() {
    for seed in 0..SEEDS {
        let mut sim = begin(seed);
        sim.world.put(&JOBS, json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "count", "namespace": "shop",
                "labels": {}},
            "spec": {"completions": 4, "parallelism": 2, "backoffLimit": 1000, "completionMode": "NonIndexed", "suspend": false,
                "selector": {"matchLabels": {"batch.kubernetes.io/controller-uid": "uid-job"}},
                "template": {"metadata": {"labels": {"batch.kubernetes.io/controller-uid": "uid-job"}},
                    "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}}}}));
        for _ in 0..STEPS {
            sim.step(true);
        }
        // Pods that failed are replaced after a pause; time passes.
        for _ in 0..30 {
            sim.settle();
            sim.now = sim.now.checked_add(SignedDuration::from_secs(400)).unwrap();
        }
        assert!(sim.settle(), "seed {seed} never comes to rest: {}", sim.restless());
        let job = sim.world.get(&JOBS, "shop", "count").unwrap().to_value();
        assert_eq!(job["status"]["succeeded"], 4, "seed {seed}: {}", job["status"]);
        let held = sim
            .world
            .list(&PODS, "shop")
            .iter()
            .any(|p| !p.header().finalizers.is_empty());
        assert!(!held, "seed {seed}: a pod that was counted is still held");
    }
}
