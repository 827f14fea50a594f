//! Startup, readiness and liveness probes of one container: when to look, and
//! when enough looks agree.
//!
//! Must not change anything: it reports outcomes, the pod's worker acts on them.

mod check;
mod grpc;
#[cfg(test)]
mod tests;
mod web;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use runtime::PodRuntime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use check::{Handler, Verdict};

/// How often a probe that could not be carried out is tried again at once.
const RETRIES: u32 = 3;

/// What is probed.
#[derive(Clone)]
pub struct Target {
    /// The pod's address; `None` with the host's network.
    pub pod_ip: Option<IpAddr>,
    /// The node's address.
    pub host_network_ip: IpAddr,
    /// Named ports of the container.
    pub ports: Vec<(String, u16)>,
    /// What runs it.
    pub runtime: Arc<dyn PodRuntime>,
    /// Id of the container.
    pub container_id: String,
}

/// Which of a container's probes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Whether it has started. The other two wait for it.
    Startup,
    /// Whether it takes traffic.
    Readiness,
    /// Whether it must be restarted.
    Liveness,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Which probe.
    pub kind: Kind,
    /// Name of the container.
    pub container: String,
    /// Id of the container.
    pub id: String,
    /// Whether the threshold that was crossed is the good one; false for events.
    pub healthy: bool,
    /// For people; of an event the whole text.
    pub message: String,
    /// An event of reason `Unhealthy` to be recorded, rather than a crossing of a threshold.
    pub event: bool,
}

/// Probes that run; dropping this ends them.
#[derive(Debug)]
pub struct Watching {
    _tasks: JoinSet<()>,
}

/// Starts the probes of a container that has just started. `None` when it has none.
///
/// A container is taken to be unready and alive at first. After a failure of startup or
/// liveness nothing more is reported of that probe: the container is to be replaced.
pub fn watch(container: &Container, target: Target, outcomes: mpsc::Sender<Outcome>) -> Option<Watching> {
    let probes = [
        (Kind::Startup, &container.startup_probe),
        (Kind::Readiness, &container.readiness_probe),
        (Kind::Liveness, &container.liveness_probe),
    ];
    let begun = Instant::now();
    let (started, _) = watch::channel(container.startup_probe.is_none());
    let started = Arc::new(started);
    let mut tasks = JoinSet::new();
    for (kind, probe) in probes {
        let Some(probe) = probe else { continue };
        let one = One {
            kind,
            container: container.name.clone(),
            handler: Handler::of(probe, container, &target),
            timing: Timing::of(probe),
            target: target.clone(),
            outcomes: outcomes.clone(),
            started: started.clone(),
        };
        tasks.spawn(one.run(begun));
    }
    (!tasks.is_empty()).then_some(Watching { _tasks: tasks })
}

/// Asks a container by HTTP once, for a lifecycle hook. The error is for people.
pub(crate) async fn get_once(
    get: &k8s_openapi::api::core::v1::HTTPGetAction,
    container: &Container,
    target: &Target,
    limit: Duration,
) -> Result<(), String> {
    let probe = Probe {
        http_get: Some(get.clone()),
        ..Probe::default()
    };
    match Handler::of(&probe, container, target).check(target, limit).await {
        Verdict::Success => Ok(()),
        Verdict::Failure(why) | Verdict::Error(why) => Err(why),
    }
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Readiness => "Readiness",
            Kind::Liveness => "Liveness",
        }
    }
}

/// The numbers of a probe, with defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Timing {
    delay: Duration,
    period: Duration,
    timeout: Duration,
    successes: u32,
    failures: u32,
}

impl Timing {
    fn of(probe: &Probe) -> Self {
        let at_least = |n: Option<i32>, default: u32| n.and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
        let some = |n: Option<i32>, default: u32| at_least(n, default).max(1);
        let seconds = |n: u32| Duration::from_secs(n.into());
        Timing {
            delay: seconds(at_least(probe.initial_delay_seconds, 0)),
            period: seconds(some(probe.period_seconds, 10)),
            timeout: seconds(some(probe.timeout_seconds, 1)),
            successes: some(probe.success_threshold, 1),
            failures: some(probe.failure_threshold, 3),
        }
    }
}

/// Counts results of the same kind in a row.
struct Tally {
    successes: u32,
    failures: u32,
    last: Option<bool>,
    run: u32,
    state: Option<bool>,
}

impl Tally {
    fn new(kind: Kind, timing: Timing) -> Self {
        let state = match kind {
            Kind::Startup => None,
            Kind::Readiness => Some(false),
            Kind::Liveness => Some(true),
        };
        Tally {
            successes: timing.successes,
            failures: timing.failures,
            last: None,
            run: 0,
            state,
        }
    }

    /// Takes a result; gives the new state when it changes.
    fn add(&mut self, good: bool) -> Option<bool> {
        if self.last == Some(good) {
            self.run = self.run.saturating_add(1);
        } else {
            (self.last, self.run) = (Some(good), 1);
        }
        let needed = if good { self.successes } else { self.failures };
        if self.run < needed || self.state == Some(good) {
            return None;
        }
        self.state = Some(good);
        self.state
    }
}

/// One probe of one container.
struct One {
    kind: Kind,
    container: String,
    handler: Handler,
    timing: Timing,
    target: Target,
    outcomes: mpsc::Sender<Outcome>,
    started: Arc<watch::Sender<bool>>,
}

impl One {
    async fn run(self, begun: Instant) {
        if self.kind != Kind::Startup && self.started.subscribe().wait_for(|started| *started).await.is_err() {
            return;
        }
        tokio::time::sleep_until(begun + self.timing.delay).await;
        let mut tally = Tally::new(self.kind, self.timing);
        let mut ticks = tokio::time::interval(self.timing.period);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let (good, message) = match self.look().await {
                Verdict::Success => (true, String::new()),
                Verdict::Failure(why) => {
                    let text = format!("{} probe failed: {why}", self.kind.as_str());
                    if self.report(false, text, true).await.is_err() {
                        return;
                    }
                    (false, why)
                }
                // The probe itself went wrong: that says nothing about the container.
                Verdict::Error(why) => {
                    let text = format!(
                        "{} probe errored and resulted in unknown state: {why}",
                        self.kind.as_str()
                    );
                    if self.report(false, text, true).await.is_err() {
                        return;
                    }
                    continue;
                }
            };
            let Some(healthy) = tally.add(good) else { continue };
            if self.report(healthy, message, false).await.is_err() {
                return;
            }
            if self.kind == Kind::Startup && healthy {
                self.started.send_replace(true);
            }
            if self.kind == Kind::Startup || !healthy && self.kind == Kind::Liveness {
                return;
            }
        }
    }

    async fn look(&self) -> Verdict {
        let mut verdict = Verdict::Error(String::new());
        for _ in 0..RETRIES {
            verdict = self.handler.check(&self.target, self.timing.timeout).await;
            if !matches!(verdict, Verdict::Error(_)) {
                break;
            }
        }
        verdict
    }

    async fn report(&self, healthy: bool, message: String, event: bool) -> Result<(), mpsc::error::SendError<Outcome>> {
        let outcome = Outcome {
            kind: self.kind,
            container: self.container.clone(),
            id: self.target.container_id.clone(),
            healthy,
            message,
            event,
        };
        self.outcomes.send(outcome).await
    }
}
