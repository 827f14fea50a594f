//! What kubectl shows of pods in typical states.

use super::*;
use crate::plan::Failure;

fn pod(spec: Value) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "shop", "uid": "u"}, "spec": spec})).unwrap()
}

fn container(name: &str, attempt: u32, state: ContainerState, exit_code: i32) -> ContainerStatus {
    ContainerStatus {
        id: format!("{name}{attempt}"),
        name: name.into(),
        attempt,
        state,
        exit_code,
        image: "i".into(),
        started_at: 1_000_000_000_000,
        finished_at: if state == ContainerState::Exited {
            1_010_000_000_000
        } else {
            0
        },
        ..ContainerStatus::default()
    }
}

fn look(pod: &Pod, containers: Vec<ContainerStatus>, memory: &Memory) -> Value {
    let sandboxes = [SandboxStatus {
        ready: true,
        ips: vec!["10.42.0.7".into()],
        containers,
        ..SandboxStatus::default()
    }];
    status(&Facts {
        now: Timestamp::from_second(2000).unwrap(),
        pod,
        sandboxes: &sandboxes,
        memory,
        runtime: "containerd",
        host_ip: "192.0.2.1",
        words: &HashMap::from([("a0".to_owned(), "last words".to_owned())]),
    })
}

fn remembers(name: &str, change: impl FnOnce(&mut ContainerMemory)) -> Memory {
    let mut memory = Memory::default();
    change(memory.containers.entry(name.into()).or_default());
    memory
}

fn condition(status: &Value, kind: &str) -> Value {
    let all = status["conditions"].as_array().unwrap();
    all.iter().find(|c| c["type"] == kind).cloned().unwrap_or_default()
}

#[test]
fn a_running_pod_is_ready_once_its_probe_says_so() {
    let p = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let running = || vec![container("a", 0, ContainerState::Running, 0)];
    let mut memory = remembers("a", |m| {
        m.id = "a0".into();
        m.started = true;
    });
    let s = look(&p, running(), &memory);
    assert_eq!((&s["phase"], &s["podIP"]), (&json!("Running"), &json!("10.42.0.7")));
    assert_eq!(condition(&s, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(condition(&s, "Ready")["message"], "containers with unready status: [a]");
    memory.containers.get_mut("a").unwrap().ready = true;
    let s = look(&p, running(), &memory);
    assert_eq!(condition(&s, "Ready")["status"], "True");
    assert_eq!(s["containerStatuses"][0]["containerID"], "containerd://a0");
}

#[test]
fn waiting_says_what_for() {
    let p = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let s = look(&p, vec![], &Memory::default());
    assert_eq!(
        s["containerStatuses"][0]["state"]["waiting"]["reason"],
        "ContainerCreating"
    );
    let memory = remembers("a", |m| {
        m.failure = Some(Failure {
            reason: "ImagePullBackOff".into(),
            message: "m".into(),
            retry_at: Timestamp::UNIX_EPOCH,
            delay: 10,
        });
    });
    let s = look(&p, vec![], &memory);
    assert_eq!(s["phase"], "Pending");
    assert_eq!(
        s["containerStatuses"][0]["state"]["waiting"]["reason"],
        "ImagePullBackOff"
    );
}

#[test]
fn crashes_are_told_with_what_was_before() {
    let p = pod(json!({"containers": [{"name": "a", "image": "i"}]}));
    let memory = remembers("a", |m| m.crash_delay = 80);
    let s = look(&p, vec![container("a", 0, ContainerState::Exited, 3)], &memory);
    let c = &s["containerStatuses"][0];
    assert_eq!(s["phase"], "Running");
    assert_eq!(
        c["state"]["waiting"]["message"],
        "back-off 1m20s restarting failed container=a pod=p_shop(u)"
    );
    assert_eq!(c["lastState"]["terminated"]["exitCode"], 3);
    assert_eq!(c["lastState"]["terminated"]["message"], "last words");
    let s = look(
        &p,
        vec![
            container("a", 0, ContainerState::Exited, 3),
            container("a", 1, ContainerState::Running, 0),
        ],
        &memory,
    );
    let c = &s["containerStatuses"][0];
    assert_eq!(
        (&c["restartCount"], &c["lastState"]["terminated"]["exitCode"]),
        (&json!(1), &json!(3))
    );
}

#[test]
fn pods_that_end_say_how() {
    for (policy, code, phase) in [
        ("Never", 0, "Succeeded"),
        ("Never", 1, "Failed"),
        ("OnFailure", 0, "Succeeded"),
    ] {
        let p = pod(json!({"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}));
        let s = look(
            &p,
            vec![container("a", 0, ContainerState::Exited, code)],
            &Memory::default(),
        );
        assert_eq!(s["phase"], phase, "{policy} {code}");
        assert_ne!(condition(&s, "Ready")["status"], "True");
    }
}

#[test]
fn init_containers_come_first() {
    let p = pod(json!({"initContainers": [{"name": "i", "image": "i"}], "containers": [{"name": "a", "image": "i"}]}));
    let s = look(
        &p,
        vec![container("i", 0, ContainerState::Running, 0)],
        &Memory::default(),
    );
    assert_eq!(s["phase"], "Pending");
    assert_eq!(
        s["containerStatuses"][0]["state"]["waiting"]["reason"],
        "PodInitializing"
    );
    assert_eq!(
        condition(&s, "Initialized")["message"],
        "containers with incomplete status: [i]"
    );
    let s = look(
        &p,
        vec![container("i", 0, ContainerState::Exited, 0)],
        &Memory::default(),
    );
    assert_eq!(condition(&s, "Initialized")["status"], "True");
}
