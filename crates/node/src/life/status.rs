//! A pod's status, from what the runtime has and what the worker remembers.
//! Phases, conditions and reasons are the kubelet's.
//!
//! Must not do I/O: last words of containers come in.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerState, ContainerStatus, SandboxStatus};
use serde_json::{Map, Value, json};

use crate::plan::{ContainerMemory, Memory, restarts};
use crate::pods::{self, Kind};

/// What a status is made of.
pub(crate) struct Facts<'a> {
    pub now: Timestamp,
    pub pod: &'a Pod,
    /// The newest first.
    pub sandboxes: &'a [SandboxStatus],
    pub memory: &'a Memory,
    /// Such as `containerd`.
    pub runtime: &'a str,
    pub host_ip: &'a str,
    /// Last words by container id.
    pub words: &'a HashMap<String, String>,
}

/// How one container is.
struct One {
    value: Value,
    state: State,
    ready: bool,
    started: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Waiting,
    /// Waiting, after it has run.
    Again,
    Running,
    Succeeded,
    Failed,
}

/// The status.
pub(crate) fn status(f: &Facts<'_>) -> Value {
    let old = f.pod.status.clone().unwrap_or_default();
    let all: Vec<(Kind, One)> = pods::all(f.pod).map(|(c, kind)| (kind, one(f, &c, kind))).collect();
    let of = |kinds: &[Kind]| -> Vec<&One> { all.iter().filter(|(k, _)| kinds.contains(k)).map(|(_, o)| o).collect() };
    let (mains, inits) = (of(&[Kind::Main]), of(&[Kind::Init, Kind::Sidecar]));
    let initialized = initialized(&all) || mains.iter().any(|o| o.state != State::Waiting);
    let phase = match &f.memory.fatal {
        Some(_) => "Failed",
        None => match old.phase.as_deref() {
            Some("Succeeded") => "Succeeded",
            Some("Failed") => "Failed",
            _ => phase(f, &mains, &of(&[Kind::Init]), initialized),
        },
    };
    let values = |list: Vec<&One>| -> Value {
        let list: Vec<Value> = list.into_iter().map(|o| o.value.clone()).collect();
        if list.is_empty() { Value::Null } else { list.into() }
    };
    let mut out = json!({
        "phase": phase,
        "conditions": conditions(f, &all, initialized, phase),
        "containerStatuses": values(mains),
        "initContainerStatuses": values(inits),
        "ephemeralContainerStatuses": values(of(&[Kind::Ephemeral])),
        "hostIP": f.host_ip,
        "hostIPs": [{"ip": f.host_ip}],
        "qosClass": pods::qos(f.pod),
        "observedGeneration": f.pod.metadata.generation,
    });
    let start = old.start_time.map_or(f.now, |t| t.0);
    out["startTime"] = meta::time::rfc3339(start).into();
    if let Some((reason, message)) = &f.memory.fatal {
        out["reason"] = reason.as_str().into();
        out["message"] = message.as_str().into();
    }
    let ips = ips(f);
    if let Some(first) = ips.first() {
        out["podIP"] = first.as_str().into();
        out["podIPs"] = ips.iter().map(|ip| json!({"ip": ip})).collect();
    }
    out
}

/// The pod's addresses: its sandbox's, the node's with the host's network, or those it had.
fn ips(f: &Facts<'_>) -> Vec<String> {
    if f.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true) {
        return vec![f.host_ip.to_owned()];
    }
    let current = f.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default();
    if !current.is_empty() {
        return current;
    }
    let old = f
        .pod
        .status
        .as_ref()
        .and_then(|s| s.pod_ips.clone())
        .unwrap_or_default();
    old.into_iter().map(|p| p.ip).collect()
}

fn initialized(all: &[(Kind, One)]) -> bool {
    all.iter().all(|(kind, o)| match kind {
        Kind::Init => o.state == State::Succeeded,
        Kind::Sidecar => o.started,
        _ => true,
    })
}

fn phase(f: &Facts<'_>, mains: &[&One], inits: &[&One], initialized: bool) -> &'static str {
    let policy = pods::restart_policy(f.pod);
    if policy == "Never" && inits.iter().any(|o| o.state == State::Failed) {
        return "Failed";
    }
    if !initialized {
        return "Pending";
    }
    let count = |wanted: &[State]| mains.iter().filter(|o| wanted.contains(&o.state)).count();
    if count(&[State::Waiting]) > 0 {
        return "Pending";
    }
    if count(&[State::Running]) > 0 || mains.is_empty() {
        return "Running";
    }
    match policy.as_str() {
        // A pod that is being deleted does not start again.
        "Always" if f.pod.metadata.deletion_timestamp.is_none() => "Running",
        _ if count(&[State::Succeeded]) == mains.len() => "Succeeded",
        "Never" => "Failed",
        _ if f.pod.metadata.deletion_timestamp.is_some() => "Failed",
        _ => "Running",
    }
}

fn one(f: &Facts<'_>, c: &Container, kind: Kind) -> One {
    let empty = ContainerMemory::default();
    let memory = f.memory.containers.get(&c.name).unwrap_or(&empty);
    let mut history: Vec<&ContainerStatus> = f
        .sandboxes
        .iter()
        .flat_map(|s| &s.containers)
        .filter(|x| x.name == c.name)
        .collect();
    history.sort_by_key(|x| std::cmp::Reverse((x.attempt, x.created_at)));
    // One that was made but never started says nothing.
    history.retain(|x| x.state != ContainerState::Created);
    let newest = history.first().copied();
    if newest.is_none()
        && let Some(ended) = as_it_ended(f, c)
    {
        return ended;
    }
    let (state, value) = state(f, c, kind, memory, newest);
    let known = newest.filter(|x| memory.id == x.id);
    let running = state == State::Running;
    let started = match kind {
        Kind::Init => running,
        _ => running && known.is_some_and(|_| memory.started),
    };
    let ready = match kind {
        Kind::Init => state == State::Succeeded,
        Kind::Ephemeral => false,
        _ => started && memory.ready,
    };
    let shown_in_state = value.get("terminated").is_some();
    let last = if shown_in_state {
        history.get(1)
    } else {
        history.iter().find(|x| x.state == ContainerState::Exited)
    };
    let last = last
        .filter(|x| x.state == ContainerState::Exited)
        .map(|x| json!({"terminated": terminated(f, x)}));
    let count = newest.map_or(0, |x| x.attempt).max(if newest.is_none() {
        pods::api_restarts(f.pod, &c.name).saturating_sub(1)
    } else {
        0
    });
    let mut out = json!({
        "name": c.name,
        "image": newest.map_or_else(|| c.image.clone().unwrap_or_default(), |x| x.image.clone()),
        "imageID": newest.map(|x| x.image_ref.clone()).unwrap_or_default(),
        "state": value,
        "lastState": last.unwrap_or_else(|| json!({})),
        "ready": ready,
        "restartCount": count,
        "started": started,
    });
    if let Some(x) = newest {
        out["containerID"] = format!("{}://{}", f.runtime, x.id).into();
    }
    One {
        value: out,
        state,
        ready,
        started,
    }
}

/// What the API has of a container that ended in a pod that is over: the runtime may have
/// forgotten it.
fn as_it_ended(f: &Facts<'_>, c: &Container) -> Option<One> {
    let status = f.pod.status.as_ref()?;
    if !matches!(status.phase.as_deref(), Some("Succeeded" | "Failed")) {
        return None;
    }
    let lists = [
        &status.container_statuses,
        &status.init_container_statuses,
        &status.ephemeral_container_statuses,
    ];
    let known = lists.into_iter().flatten().flatten().find(|s| s.name == c.name)?;
    let code = known.state.as_ref()?.terminated.as_ref()?.exit_code;
    Some(One {
        value: serde_json::to_value(known).ok()?,
        state: if code == 0 { State::Succeeded } else { State::Failed },
        ready: known.ready,
        started: known.started == Some(true),
    })
}

fn state(
    f: &Facts<'_>,
    c: &Container,
    kind: Kind,
    memory: &ContainerMemory,
    newest: Option<&ContainerStatus>,
) -> (State, Value) {
    let waiting = |reason: &str, message: &str| {
        let mut w = Map::from_iter([("reason".to_owned(), reason.into())]);
        if !message.is_empty() {
            w.insert("message".into(), message.into());
        }
        json!({"waiting": w})
    };
    let Some(x) = newest else {
        let value = match &memory.failure {
            Some(failure) => waiting(&failure.reason, &failure.message),
            None if kind == Kind::Main && pods::inits(f.pod).next().is_some() => waiting("PodInitializing", ""),
            None => waiting("ContainerCreating", ""),
        };
        return (State::Waiting, value);
    };
    match x.state {
        ContainerState::Running => {
            let since = time(x.started_at);
            (State::Running, json!({"running": {"startedAt": since}}))
        }
        ContainerState::Exited => {
            let policy = policy(f, kind);
            let again = restarts(x, &policy) && f.memory.fatal.is_none() && f.pod.metadata.deletion_timestamp.is_none();
            if again && let Some(failure) = &memory.failure {
                return (State::Again, waiting(&failure.reason, &failure.message));
            }
            if again && memory.crash_delay > 0 {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    duration(memory.crash_delay),
                    c.name,
                    f.pod.metadata.name.as_deref().unwrap_or_default(),
                    f.pod.metadata.namespace.as_deref().unwrap_or_default(),
                    f.pod.metadata.uid.as_deref().unwrap_or_default(),
                );
                return (State::Again, waiting("CrashLoopBackOff", &message));
            }
            let state = match (again, x.exit_code) {
                (_, 0) => State::Succeeded,
                (true, _) => State::Again,
                (false, _) => State::Failed,
            };
            (state, json!({"terminated": terminated(f, x)}))
        }
        ContainerState::Created | ContainerState::Unknown => (State::Waiting, waiting("ContainerCreating", "")),
    }
}

/// When a container of a kind starts again.
fn policy(f: &Facts<'_>, kind: Kind) -> String {
    let pod = pods::restart_policy(f.pod);
    match kind {
        Kind::Sidecar => "Always".into(),
        Kind::Ephemeral => "Never".into(),
        Kind::Init if pod == "Always" => "OnFailure".into(),
        _ => pod,
    }
}

fn terminated(f: &Facts<'_>, x: &ContainerStatus) -> Value {
    let reason = match (x.reason.as_str(), x.exit_code) {
        ("", 0) => "Completed",
        ("", _) => "Error",
        (reason, _) => reason,
    };
    let mut out = json!({
        "exitCode": x.exit_code,
        "reason": reason,
        "startedAt": time(x.started_at),
        "finishedAt": time(x.finished_at),
        "containerID": format!("{}://{}", f.runtime, x.id),
    });
    let words = f.words.get(&x.id).filter(|w| !w.is_empty()).cloned();
    if let Some(message) = words.or_else(|| Some(x.message.clone()).filter(|m| !m.is_empty())) {
        out["message"] = message.into();
    }
    out
}

fn conditions(f: &Facts<'_>, all: &[(Kind, One)], initialized: bool, phase: &str) -> Value {
    let old = f
        .pod
        .status
        .as_ref()
        .and_then(|s| s.conditions.clone())
        .unwrap_or_default();
    let mut list: Vec<Value> = Vec::new();
    let mut add = |kind: &str, status: bool, reason: &str, message: String| {
        let status = if status { "True" } else { "False" };
        let before = old.iter().find(|c| c.type_ == kind);
        let since = before
            .filter(|c| c.status == status)
            .and_then(|c| c.last_transition_time.as_ref());
        let since = since.map_or(f.now, |t| t.0);
        let mut c = json!({"type": kind, "status": status, "lastProbeTime": null,
            "lastTransitionTime": meta::time::rfc3339(since), "observedGeneration": f.pod.metadata.generation});
        if !reason.is_empty() {
            c["reason"] = reason.into();
        }
        if !message.is_empty() {
            c["message"] = message.into();
        }
        list.push(c);
    };
    let done = matches!(phase, "Succeeded" | "Failed");
    let sandbox = f.sandboxes.first().is_some_and(|s| s.ready);
    add("PodReadyToStartContainers", sandbox, "", String::new());
    let unfinished = names(all, |k, o| match k {
        Kind::Init => o.state != State::Succeeded,
        Kind::Sidecar => !o.started,
        _ => false,
    });
    if phase == "Succeeded" {
        add("Initialized", true, "PodCompleted", String::new());
    } else if initialized {
        add("Initialized", true, "", String::new());
    } else {
        let message = format!("containers with incomplete status: [{unfinished}]");
        add("Initialized", false, "ContainersNotInitialized", message);
    }
    let unready = names(all, |k, o| matches!(k, Kind::Main | Kind::Sidecar) && !o.ready);
    let (ready, reason, message) = match () {
        () if phase == "Succeeded" => (false, "PodCompleted", String::new()),
        () if phase == "Failed" => (false, "PodFailed", String::new()),
        () if unready.is_empty() => (true, "", String::new()),
        () => (
            false,
            "ContainersNotReady",
            format!("containers with unready status: [{unready}]"),
        ),
    };
    let gates = pods::unmet_gates(f.pod);
    if ready && !gates.is_empty() {
        let message = format!(
            "corresponding condition of pod readiness gate \"{}\" does not exist.",
            gates.join("\", \"")
        );
        add("Ready", false, "ReadinessGatesNotReady", message);
    } else {
        add("Ready", ready && !done, reason, message.clone());
    }
    add("ContainersReady", ready && !done, reason, message);
    // What others wrote is theirs.
    let ours: Vec<String> = list
        .iter()
        .filter_map(|c| c["type"].as_str().map(str::to_owned))
        .collect();
    let others = old
        .iter()
        .filter(|c| !ours.contains(&c.type_))
        .filter_map(|c| serde_json::to_value(c).ok());
    let mut all: Vec<Value> = list.into_iter().chain(others).collect();
    if !all.iter().any(|c| c["type"] == "PodScheduled") {
        all.push(json!({"type": "PodScheduled", "status": "True", "lastProbeTime": null,
            "lastTransitionTime": meta::time::rfc3339(f.now), "observedGeneration": f.pod.metadata.generation}));
    }
    Value::Array(all)
}

fn names(all: &[(Kind, One)], pick: impl Fn(Kind, &One) -> bool) -> String {
    let picked = all.iter().filter(|(k, o)| pick(*k, o));
    picked
        .filter_map(|(_, o)| o.value["name"].as_str())
        .collect::<Vec<_>>()
        .join(" ")
}

fn time(nanoseconds: i64) -> Value {
    match Timestamp::from_nanosecond(nanoseconds.into()) {
        Ok(t) if nanoseconds > 0 => meta::time::rfc3339(t).into(),
        _ => Value::Null,
    }
}

/// Seconds as Go prints them: `10s`, `1m20s`, `5m0s`.
fn duration(seconds: i64) -> String {
    match (seconds / 60, seconds % 60) {
        (0, s) => format!("{s}s"),
        (m, s) => format!("{m}m{s}s"),
    }
}

#[cfg(test)]
mod tests;
