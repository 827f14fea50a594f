//! What to do next for a pod: a pure function of the pod, what the runtime has,
//! what the worker remembers, and the clock.
//!
//! ```text
//!            Mount + RunSandbox          Start in order            all ended
//!  new pod ─────────────────────> ready ───────────────> running ───────────> ended
//!                                   │ deletion, deadline    │                   │
//!                                   └────────> Kill ── StopSandbox ── Unmount ──┴─> RemoveSandbox, Finish
//! ```
//!
//! Must not do I/O or read a clock. Steps that are under way (`Memory::busy`) are not given again.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use runtime::{ContainerState, ContainerStatus, SandboxStatus};

use crate::pods::{self, Kind};

/// First pause before a crashed container starts again after its first restart.
const CRASH_FIRST: i64 = 10;
/// Longest pause.
const CRASH_MAX: i64 = 300;
/// A container that ran this long starts its pauses anew.
const CRASH_RESET: i64 = 600;

/// All that a decision may depend on.
pub struct View<'a> {
    /// The clock.
    pub now: Timestamp,
    /// The pod as last seen.
    pub pod: &'a Pod,
    /// Whether the API still has it.
    pub exists: bool,
    /// Its sandboxes, the newest first.
    pub sandboxes: &'a [SandboxStatus],
    /// What the worker remembers.
    pub memory: &'a Memory,
}

/// What a worker remembers between decisions. A new agent starts with an empty one.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// Steps under way.
    pub busy: BTreeSet<Busy>,
    /// Whether all volumes are there.
    pub mounted: bool,
    /// Whether the volumes were taken away at the end.
    pub unmounted: bool,
    /// Why volumes could not be mounted, and when to try again.
    pub mount_failure: Option<Failure>,
    /// Why the sandbox could not be made, and when to try again.
    pub sandbox_failure: Option<Failure>,
    /// When volumes with tokens are to be written again.
    pub refresh_at: Option<Timestamp>,
    /// By container name.
    pub containers: BTreeMap<String, ContainerMemory>,
    /// Reason and message of a pod that must not run (deadline, refused admission).
    pub fatal: Option<(String, String)>,
    /// The API object was deleted by us.
    pub finished: bool,
}

/// What is remembered of a container.
#[derive(Clone, Debug, Default)]
pub struct ContainerMemory {
    /// Why it could not start, and when to try again.
    pub failure: Option<Failure>,
    /// Pause before the next restart, seconds; 0 before the first.
    pub crash_delay: i64,
    /// Id of the container that the fields below are about.
    pub id: String,
    /// Result of the startup probe, or true without one.
    pub started: bool,
    /// Result of the readiness probe, or true without one.
    pub ready: bool,
    /// Why a probe wants it killed.
    pub unhealthy: Option<String>,
    /// Grace of the kill under way.
    pub kill_grace: Option<i64>,
}

/// A step that failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// CamelCase reason.
    pub reason: String,
    /// For people.
    pub message: String,
    /// When to try again.
    pub retry_at: Timestamp,
    /// Pause that led to `retry_at`, seconds.
    pub delay: i64,
}

/// What a step occupies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Busy {
    /// Mounting or unmounting.
    Volumes,
    /// Running, stopping or removing a sandbox.
    Sandbox,
    /// Starting, killing or removing the named container.
    Container(String),
    /// Deleting the API object.
    Api,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Mount all volumes, or write them again.
    Mount,
    /// Make a sandbox.
    RunSandbox {
        /// Its attempt.
        attempt: u32,
    },
    /// Pull, create and start a container, and run its postStart hook.
    Start {
        /// Its name.
        name: String,
        /// Its restart count.
        attempt: u32,
        /// Containers to remove before: leftovers of an interrupted start and the dead of earlier attempts.
        remove: Vec<String>,
    },
    /// Run the preStop hook and stop a container.
    Kill {
        /// Its name.
        name: String,
        /// Its id.
        id: String,
        /// Seconds for hook and stop together.
        grace: i64,
        /// For the event.
        message: String,
    },
    /// Stop a sandbox.
    StopSandbox {
        /// Its id.
        id: String,
    },
    /// Remove a sandbox and its containers.
    RemoveSandbox {
        /// Its id.
        id: String,
    },
    /// Take the volumes away.
    Unmount,
    /// Delete the API object for good.
    Finish,
}

impl Step {
    /// What it occupies.
    pub fn busy(&self) -> Busy {
        match self {
            Step::Mount | Step::Unmount => Busy::Volumes,
            Step::RunSandbox { .. } | Step::StopSandbox { .. } | Step::RemoveSandbox { .. } => Busy::Sandbox,
            Step::Start { name, .. } | Step::Kill { name, .. } => Busy::Container(name.clone()),
            Step::Finish => Busy::Api,
        }
    }
}

/// The decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// What to do now, all at the same time.
    pub steps: Vec<Step>,
    /// When to decide again though nothing happened.
    pub wake: Option<Timestamp>,
    /// Nothing is left of the pod on this node.
    pub gone: bool,
    /// Pause before the next restart, for containers that are started again.
    pub crash_delays: Vec<(String, i64)>,
    /// Reason and message with which the pod failed just now.
    pub fatal: Option<(String, String)>,
}

impl Plan {
    fn wake_at(&mut self, at: Timestamp) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// Decides.
pub fn plan(view: &View<'_>) -> Plan {
    let mut plan = Plan::default();
    let deleting = !view.exists || view.pod.metadata.deletion_timestamp.is_some();
    plan.fatal = deadline(view, &mut plan);
    let fatal = view.memory.fatal.is_some() || plan.fatal.is_some();
    let ended = ended(view);
    if deleting || fatal || ended {
        wind_down(view, deleting, &mut plan);
    } else {
        run(view, &mut plan);
    }
    plan.steps.retain(|s| allowed(s, view.memory));
    plan
}

/// A step under way is not given again, but for a kill that must be quicker.
fn allowed(step: &Step, memory: &Memory) -> bool {
    if !memory.busy.contains(&step.busy()) {
        return true;
    }
    match step {
        Step::Kill { name, grace, .. } => {
            let kill = memory.containers.get(name).and_then(|c| c.kill_grace);
            kill.is_some_and(|k| *grace < k)
        }
        _ => false,
    }
}

fn deadline(view: &View<'_>, plan: &mut Plan) -> Option<(String, String)> {
    let limit = view.pod.spec.as_ref()?.active_deadline_seconds?;
    let start = view.pod.status.as_ref()?.start_time.as_ref()?.0;
    let end = start.checked_add(SignedDuration::from_secs(limit)).ok()?;
    if view.now >= end {
        let message = "Pod was active on the node longer than the specified deadline";
        return (view.memory.fatal.is_none()).then(|| ("DeadlineExceeded".into(), message.into()));
    }
    plan.wake_at(end);
    None
}

/// The newest container of a name.
pub fn latest<'a>(sandboxes: &'a [SandboxStatus], name: &str) -> Option<&'a ContainerStatus> {
    let all = sandboxes.iter().flat_map(|s| &s.containers);
    all.filter(|c| c.name == name).max_by_key(|c| (c.attempt, c.created_at))
}

/// Whether a pod is at its end: every container has ended for good, or the API already says so.
pub fn ended(view: &View<'_>) -> bool {
    let phase = view.pod.status.as_ref().and_then(|s| s.phase.as_deref());
    if matches!(phase, Some("Succeeded" | "Failed")) {
        return true;
    }
    let policy = pods::restart_policy(view.pod);
    for c in pods::plain_inits(view.pod) {
        if let Some(status) = latest(view.sandboxes, &c.name)
            && status.state == ContainerState::Exited
            && status.exit_code != 0
            && policy == "Never"
        {
            return true;
        }
    }
    let mut mains = pods::mains(view.pod).peekable();
    mains.peek().is_some() && mains.all(|c| done(view, c, &policy))
}

fn done(view: &View<'_>, c: &Container, policy: &str) -> bool {
    latest(view.sandboxes, &c.name).is_some_and(|s| s.state == ContainerState::Exited && !restarts(s, policy))
}

/// Whether an ended container is started again.
pub fn restarts(status: &ContainerStatus, policy: &str) -> bool {
    match policy {
        "Never" => false,
        "OnFailure" => status.exit_code != 0,
        _ => true,
    }
}

fn running(view: &View<'_>, name: &str) -> bool {
    let all = view.sandboxes.iter().flat_map(|s| &s.containers);
    all.filter(|c| c.name == name)
        .any(|c| c.state == ContainerState::Running)
}

/// Ends a pod: containers, then sidecars, sandbox, volumes, and the API object when it is being deleted.
fn wind_down(view: &View<'_>, deleting: bool, plan: &mut Plan) {
    let memory = view.memory;
    let grace = pods::grace(view.pod);
    let starting = memory.busy.iter().any(|b| matches!(b, Busy::Container(_)));
    let mains_run = pods::all(view.pod).any(|(c, kind)| kind != Kind::Sidecar && running(view, &c.name));
    let mut any = false;
    // Sidecars end after those they serve, the last started first.
    let sidecars: Vec<_> = pods::sidecars(view.pod).filter(|c| running(view, &c.name)).collect();
    let last_sidecar = sidecars.last().map(|c| c.name.clone());
    for (c, kind) in pods::all(view.pod) {
        let wanted = kind != Kind::Sidecar || (!mains_run && Some(&c.name) == last_sidecar.as_ref());
        for status in view.sandboxes.iter().flat_map(|s| &s.containers) {
            if status.name == c.name && status.state == ContainerState::Running {
                any = true;
                if wanted {
                    plan.steps.push(Step::Kill {
                        name: c.name.clone(),
                        id: status.id.clone(),
                        grace,
                        message: format!("Stopping container {}", c.name),
                    });
                }
            }
        }
    }
    if any || starting {
        return;
    }
    if memory.busy.contains(&Busy::Sandbox) || memory.busy.contains(&Busy::Volumes) {
        return;
    }
    if let Some(sandbox) = view.sandboxes.iter().find(|s| s.ready) {
        plan.steps.push(Step::StopSandbox { id: sandbox.id.clone() });
        return;
    }
    if !memory.unmounted {
        if let Some(at) = memory
            .mount_failure
            .as_ref()
            .map(|f| f.retry_at)
            .filter(|at| *at > view.now)
        {
            return plan.wake_at(at);
        }
        plan.steps.push(Step::Unmount);
        return;
    }
    if !deleting {
        return;
    }
    if let Some(sandbox) = view.sandboxes.last() {
        plan.steps.push(Step::RemoveSandbox { id: sandbox.id.clone() });
    } else if view.exists && !memory.finished {
        plan.steps.push(Step::Finish);
    } else if !view.exists {
        plan.gone = true;
    }
}

/// Brings a pod up and keeps it up.
fn run(view: &View<'_>, plan: &mut Plan) {
    let memory = view.memory;
    match &memory.mount_failure {
        Some(f) if f.retry_at > view.now => plan.wake_at(f.retry_at),
        _ if !memory.mounted => plan.steps.push(Step::Mount),
        _ => match memory.refresh_at {
            Some(at) if at <= view.now => plan.steps.push(Step::Mount),
            Some(at) => plan.wake_at(at),
            None => {}
        },
    }
    let current = view.sandboxes.first();
    let Some(sandbox) = current.filter(|s| s.ready) else {
        return new_sandbox(view, current, plan);
    };
    if let Some(old) = view.sandboxes.get(1..).and_then(<[_]>::last) {
        // The dead containers of an old sandbox were the history; the attempt carries the count on.
        plan.steps.push(if old.ready {
            Step::StopSandbox { id: old.id.clone() }
        } else {
            Step::RemoveSandbox { id: old.id.clone() }
        });
    }
    if !memory.mounted {
        return;
    }
    let policy = pods::restart_policy(view.pod);
    // Whoever sees a main container knows that the init containers are done, even when
    // their remains were cleared away.
    let initialized = pods::mains(view.pod).any(|c| latest(std::slice::from_ref(sandbox), &c.name).is_some());
    for c in pods::inits(view.pod) {
        let status = latest(std::slice::from_ref(sandbox), &c.name);
        let sidecar = pods::is_sidecar(c);
        if sidecar {
            keep(view, c, status, "Always", plan);
            let started = memory.containers.get(&c.name).is_some_and(|m| m.started);
            let up = status.is_some_and(|s| s.state == ContainerState::Running) && started;
            if !up && !initialized {
                return;
            }
        } else if !initialized && !status.is_some_and(|s| s.state == ContainerState::Exited && s.exit_code == 0) {
            let policy = if policy == "Never" { "Never" } else { "OnFailure" };
            return keep(view, c, status, policy, plan);
        }
    }
    for c in pods::mains(view.pod) {
        keep(view, c, latest(std::slice::from_ref(sandbox), &c.name), &policy, plan);
        // As upstream: the next begins when this one's start, hook included, is through.
        if memory.busy.contains(&Busy::Container(c.name.clone())) {
            break;
        }
        if let Some(Step::Start { name, .. }) = plan.steps.last()
            && *name == c.name
        {
            break;
        }
    }
    for c in pods::ephemerals(view.pod) {
        if latest(view.sandboxes, &c.name).is_none() {
            keep(view, &c, None, "Never", plan);
        }
    }
}

fn new_sandbox(view: &View<'_>, old: Option<&SandboxStatus>, plan: &mut Plan) {
    if let Some(f) = view.memory.sandbox_failure.as_ref().filter(|f| f.retry_at > view.now) {
        return plan.wake_at(f.retry_at);
    }
    plan.steps.push(match old {
        None => Step::RunSandbox { attempt: 0 },
        Some(old) => {
            // Containers of a dead sandbox cannot be used any more.
            if let Some(c) = old.containers.iter().find(|c| c.state == ContainerState::Running) {
                plan.steps.push(Step::Kill {
                    name: c.name.clone(),
                    id: c.id.clone(),
                    grace: pods::grace(view.pod),
                    message: "Pod sandbox changed, it will be killed and re-created.".into(),
                });
                return;
            }
            Step::RunSandbox {
                attempt: old.attempt + 1,
            }
        }
    });
}

/// Starts, restarts or kills one container.
fn keep(view: &View<'_>, c: &Container, status: Option<&ContainerStatus>, policy: &str, plan: &mut Plan) {
    let empty = ContainerMemory::default();
    let memory = view.memory.containers.get(&c.name).unwrap_or(&empty);
    if let Some(f) = memory.failure.as_ref().filter(|f| f.retry_at > view.now) {
        return plan.wake_at(f.retry_at);
    }
    let history: Vec<_> = view
        .sandboxes
        .iter()
        .flat_map(|s| &s.containers)
        .filter(|x| x.name == c.name)
        .collect();
    let api_count = pods::api_restarts(view.pod, &c.name);
    let next = history.iter().map(|c| c.attempt + 1).max().unwrap_or(0).max(api_count);
    let start = |attempt: u32| {
        let newest = history
            .iter()
            .filter(|c| c.state == ContainerState::Exited)
            .max_by_key(|c| c.attempt);
        // One dead container per name is kept for `logs --previous`.
        let kept = newest.map(|c| c.id.as_str());
        let stale = |s: &&&ContainerStatus| s.state != ContainerState::Running && Some(s.id.as_str()) != kept;
        Step::Start {
            name: c.name.clone(),
            attempt,
            remove: history.iter().filter(stale).map(|c| c.id.clone()).collect(),
        }
    };
    match status.map(|s| (s.state, s)) {
        None => plan.steps.push(start(next)),
        Some((ContainerState::Created | ContainerState::Unknown, s)) => plan.steps.push(start(s.attempt)),
        Some((ContainerState::Running, s)) => {
            if let Some(message) = memory.unhealthy.as_ref().filter(|_| memory.id == s.id) {
                plan.steps.push(Step::Kill {
                    name: c.name.clone(),
                    id: s.id.clone(),
                    grace: pods::probe_grace(view.pod, c),
                    message: message.clone(),
                });
            }
        }
        Some((ContainerState::Exited, s)) => {
            if !restarts(s, policy) {
                return;
            }
            let ran = (s.finished_at - s.started_at) / 1_000_000_000;
            let delay = if ran >= CRASH_RESET { 0 } else { memory.crash_delay };
            let at = Timestamp::from_nanosecond(i128::from(s.finished_at))
                .ok()
                .and_then(|t| t.checked_add(SignedDuration::from_secs(delay)).ok())
                .unwrap_or(view.now);
            if at > view.now {
                return plan.wake_at(at);
            }
            if !view.memory.busy.contains(&Busy::Container(c.name.clone())) {
                plan.crash_delays
                    .push((c.name.clone(), (delay * 2).clamp(CRASH_FIRST, CRASH_MAX)));
            }
            plan.steps.push(start(next));
        }
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
