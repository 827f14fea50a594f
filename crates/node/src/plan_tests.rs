//! Tables of decisions. Each row: a pod, what the runtime has, what is remembered, what must be done.

use super::*;
use serde_json::{Value, json};

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    if spec.get("containers").is_none() {
        spec["containers"] = json!([{"name": "a", "image": "i"}]);
    }
    serde_json::from_value(json!({"metadata": {"name": "p", "uid": "u"}, "spec": spec})).unwrap()
}

fn container(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        state,
        exit_code,
        started_at: 1_000_000_000_000,
        finished_at: if state == ContainerState::Exited {
            1_010_000_000_000
        } else {
            0
        },
        ..ContainerStatus::default()
    }
}

fn sandbox(ready: bool, containers: Vec<ContainerStatus>) -> Vec<SandboxStatus> {
    vec![SandboxStatus {
        id: "s".into(),
        ready,
        containers,
        ..SandboxStatus::default()
    }]
}

fn mounted() -> Memory {
    Memory {
        mounted: true,
        ..Memory::default()
    }
}

fn decide(pod: &Pod, sandboxes: &[SandboxStatus], memory: &Memory, now: i64) -> Plan {
    plan(&View {
        now: at(now),
        pod,
        exists: true,
        sandboxes,
        memory,
    })
}

fn start(name: &str, attempt: u32) -> Step {
    Step::Start {
        name: name.into(),
        attempt,
        remove: vec![],
    }
}

use ContainerState::{Created, Exited, Running};

#[test]
fn a_new_pod_gets_volumes_and_a_sandbox_at_the_same_time() {
    let p = pod(json!({}));
    let plan = decide(&p, &[], &Memory::default(), 0);
    assert_eq!(plan.steps, [Step::Mount, Step::RunSandbox { attempt: 0 }]);
    // While they are under way nothing is given again.
    let busy = Memory {
        busy: [Busy::Volumes, Busy::Sandbox].into(),
        ..Memory::default()
    };
    assert_eq!(decide(&p, &[], &busy, 0).steps, []);
    // No container starts before the volumes are there.
    assert_eq!(decide(&p, &sandbox(true, vec![]), &busy, 0).steps, []);
    assert_eq!(decide(&p, &sandbox(true, vec![]), &mounted(), 0).steps, [start("a", 0)]);
}

#[test]
fn init_containers_run_one_by_one_and_sidecars_before_what_they_serve() {
    let p = pod(json!({"initContainers": [
        {"name": "i1"}, {"name": "side", "restartPolicy": "Always"}, {"name": "i2"}]}));
    let rows: Vec<(Vec<ContainerStatus>, bool, Vec<Step>)> = vec![
        (vec![], false, vec![start("i1", 0)]),
        (vec![container("i1", 0, Running, 0)], false, vec![]),
        (vec![container("i1", 0, Exited, 0)], false, vec![start("side", 0)]),
        (
            vec![container("i1", 0, Exited, 0), container("side", 0, Running, 0)],
            false,
            vec![],
        ),
        (
            vec![container("i1", 0, Exited, 0), container("side", 0, Running, 0)],
            true,
            vec![start("i2", 0)],
        ),
        (
            vec![
                container("i1", 0, Exited, 0),
                container("side", 0, Running, 0),
                container("i2", 0, Exited, 0),
            ],
            true,
            vec![start("a", 0)],
        ),
        // Only the main container is left: its init containers were cleared away.
        (
            vec![container("side", 0, Running, 0), container("a", 0, Running, 0)],
            true,
            vec![],
        ),
    ];
    for (containers, side_started, steps) in rows {
        let mut memory = mounted();
        memory.containers.entry("side".into()).or_default().started = side_started;
        let seen = sandbox(true, containers);
        assert_eq!(decide(&p, &seen, &memory, 2000).steps, steps, "{seen:?}");
    }
}

#[test]
fn crashes_wait_longer_each_time() {
    let p = pod(json!({}));
    let dead = sandbox(true, vec![container("a", 3, Exited, 1)]);
    let mut memory = mounted();
    let first = decide(&p, &dead, &memory, 1010);
    assert_eq!(first.steps, [start("a", 4)]);
    assert_eq!(first.crash_delays, [("a".to_owned(), 10)]);
    memory.containers.entry("a".into()).or_default().crash_delay = 10;
    let waits = decide(&p, &dead, &memory, 1012);
    assert_eq!((waits.steps, waits.wake), (vec![], Some(at(1020))));
    let again = decide(&p, &dead, &memory, 1020);
    assert_eq!(
        (again.steps, again.crash_delays),
        (vec![start("a", 4)], vec![("a".to_owned(), 20)])
    );
    memory.containers.entry("a".into()).or_default().crash_delay = 300;
    assert_eq!(decide(&p, &dead, &memory, 1310).crash_delays, [("a".to_owned(), 300)]);
    // Who ran ten minutes is forgiven.
    let mut long = container("a", 3, Exited, 1);
    long.finished_at = 1_700_000_000_000;
    assert_eq!(
        decide(&p, &sandbox(true, vec![long]), &memory, 1700).steps,
        [start("a", 4)]
    );
}

#[test]
fn older_dead_containers_go_when_the_next_starts() {
    let p = pod(json!({}));
    let dead = sandbox(true, vec![container("a", 1, Exited, 1), container("a", 2, Exited, 1)]);
    let steps = decide(&p, &dead, &mounted(), 2000).steps;
    assert_eq!(
        steps,
        [Step::Start {
            name: "a".into(),
            attempt: 3,
            remove: vec!["a1".into()]
        }]
    );
    // A start that an agent's death interrupted is done again under the same number.
    let half = sandbox(true, vec![container("a", 1, Created, 0)]);
    let steps = decide(&p, &half, &mounted(), 2000).steps;
    assert_eq!(
        steps,
        [Step::Start {
            name: "a".into(),
            attempt: 1,
            remove: vec!["a1".into()]
        }]
    );
}

#[test]
fn restart_policies_end_pods() {
    let rows = [
        ("Always", 0, true),
        ("Always", 1, true),
        ("OnFailure", 0, false),
        ("OnFailure", 1, true),
        ("Never", 0, false),
        ("Never", 1, false),
    ];
    for (policy, code, again) in rows {
        let p = pod(json!({"restartPolicy": policy}));
        let seen = sandbox(true, vec![container("a", 0, Exited, code)]);
        let plan = decide(&p, &seen, &mounted(), 2000);
        let expected = if again {
            start("a", 1)
        } else {
            Step::StopSandbox { id: "s".into() }
        };
        assert_eq!(plan.steps, [expected], "{policy} {code}");
    }
    // A failed init container ends a pod that must not restart.
    let p = pod(json!({"restartPolicy": "Never", "initContainers": [{"name": "i"}]}));
    let seen = sandbox(true, vec![container("i", 0, Exited, 1)]);
    assert_eq!(
        decide(&p, &seen, &mounted(), 2000).steps,
        [Step::StopSandbox { id: "s".into() }]
    );
}

#[test]
fn deletion_goes_step_by_step() {
    let mut p = pod(json!({"terminationGracePeriodSeconds": 7,
        "initContainers": [{"name": "side", "restartPolicy": "Always"}]}));
    p.metadata.deletion_timestamp = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
    let kill = |name: &str, grace| Step::Kill {
        name: name.into(),
        id: format!("{name}0"),
        grace,
        message: format!("Stopping container {name}"),
    };
    let both = sandbox(
        true,
        vec![container("side", 0, Running, 0), container("a", 0, Running, 0)],
    );
    assert_eq!(decide(&p, &both, &mounted(), 0).steps, [kill("a", 7)]);
    let side = sandbox(
        true,
        vec![container("side", 0, Running, 0), container("a", 0, Exited, 0)],
    );
    assert_eq!(decide(&p, &side, &mounted(), 0).steps, [kill("side", 7)]);
    // A deletion made more urgent overtakes the kill under way; an equal one does not.
    let mut busy = mounted();
    busy.busy.insert(Busy::Container("a".into()));
    busy.containers.entry("a".into()).or_default().kill_grace = Some(7);
    assert_eq!(decide(&p, &both, &busy, 0).steps, []);
    p.metadata.deletion_grace_period_seconds = Some(1);
    assert_eq!(decide(&p, &both, &busy, 0).steps, [kill("a", 1)]);

    let stopped = vec![container("side", 0, Exited, 0), container("a", 0, Exited, 0)];
    let up = sandbox(true, stopped.clone());
    assert_eq!(
        decide(&p, &up, &mounted(), 0).steps,
        [Step::StopSandbox { id: "s".into() }]
    );
    let down = sandbox(false, stopped);
    assert_eq!(decide(&p, &down, &mounted(), 0).steps, [Step::Unmount]);
    let clear = Memory {
        unmounted: true,
        ..mounted()
    };
    assert_eq!(
        decide(&p, &down, &clear, 0).steps,
        [Step::RemoveSandbox { id: "s".into() }]
    );
    assert_eq!(decide(&p, &[], &clear, 0).steps, [Step::Finish]);
    let gone = plan(&View {
        now: at(0),
        pod: &p,
        exists: false,
        sandboxes: &[],
        memory: &clear,
    });
    assert!(gone.gone && gone.steps.is_empty());
}

#[test]
fn a_dead_sandbox_is_replaced_and_counts_go_on() {
    let p = pod(json!({}));
    let old = sandbox(false, vec![container("a", 2, Exited, 137)]);
    assert_eq!(
        decide(&p, &old, &mounted(), 2000).steps,
        [Step::RunSandbox { attempt: 1 }]
    );
    let fresh = SandboxStatus {
        id: "n".into(),
        ready: true,
        attempt: 1,
        ..SandboxStatus::default()
    };
    let both = [fresh, old[0].clone()];
    let steps = decide(&p, &both, &mounted(), 2000).steps;
    assert_eq!(steps, [Step::RemoveSandbox { id: "s".into() }, start("a", 3)]);
}

#[test]
fn probes_and_deadlines_kill() {
    let mut p = pod(json!({"activeDeadlineSeconds": 100, "terminationGracePeriodSeconds": 3}));
    let up = sandbox(true, vec![container("a", 0, Running, 0)]);
    let mut memory = mounted();
    *memory.containers.entry("a".into()).or_default() = ContainerMemory {
        id: "a0".into(),
        unhealthy: Some("why".into()),
        ..Default::default()
    };
    let kill = Step::Kill {
        name: "a".into(),
        id: "a0".into(),
        grace: 3,
        message: "why".into(),
    };
    assert_eq!(decide(&p, &up, &memory, 0).steps, [kill]);
    p.status = serde_json::from_value(json!({"startTime": "1970-01-01T00:00:10Z"})).unwrap();
    assert_eq!(decide(&p, &up, &mounted(), 50).wake, Some(at(110)));
    let over = decide(&p, &up, &mounted(), 110);
    assert_eq!(over.fatal.unwrap().0, "DeadlineExceeded");
    assert!(matches!(over.steps[..], [Step::Kill { .. }]));
}
