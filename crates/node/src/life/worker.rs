//! The worker of one pod: looks, asks the plan, starts its steps, writes the status.
//!
//! Must not choose what to do. Steps run beside it and report back, so that a
//! slow pull never keeps a deletion waiting.

mod probing;
mod report;

use std::collections::HashMap;
use std::fs;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use meta::Object;
use reconcile::EventKind;
use runtime::{ContainerState, PodRuntime, SandboxStatus};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Shared;
use super::images::Images;
use super::steps::{Done, Outcome as Result_, Steps, Why};
use super::volumes::{Mounted, Tokens, remove_tree, unmount_below};
use crate::plan::{self, Busy, Failure, Memory, Plan, Step, View};
use crate::pods;
use crate::probe::{Outcome, Watching};

/// Pause after a failure that has none of its own, seconds; it doubles.
const FIRST_PAUSE: i64 = 1;
const LONGEST_PAUSE: i64 = 120;
/// Pause before a runtime is asked again that did not answer.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// Pause after a failure that nothing else says when to try again.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause before a status is written again that the API did not take.
const STATUS_PAUSE: Duration = Duration::from_secs(1);

/// What a worker is told.
#[derive(Clone)]
pub(super) enum Input {
    /// The pod's present state.
    Pod(Arc<Object>),
    /// The API has it no more.
    Gone,
    /// Something happened in the runtime.
    Look,
}

pub(super) struct Worker {
    shared: Arc<Shared>,
    object: Arc<Object>,
    pod: Arc<Pod>,
    exists: bool,
    runtime: Arc<dyn PodRuntime>,
    runtime_name: String,
    machine: bool,
    /// The newest first.
    sandboxes: Vec<SandboxStatus>,
    memory: Memory,
    mounted: Arc<Mounted>,
    images: Arc<Images>,
    probes: HashMap<String, (String, Option<Watching>)>,
    words: HashMap<String, String>,
    /// What of the last status the API did not keep as it was written: not to be written again.
    refused: Map<String, Value>,
    retry_status: bool,
    /// The runtime did not say how the pod is.
    blind: bool,
    /// Ended when the pod must go: pulls and mounts under way are given up.
    cancel: CancellationToken,
    /// Failures of readiness probes that an earlier agent had seen succeed.
    carried: HashMap<String, i32>,
    said_backoff: HashMap<String, i64>,
    steps: mpsc::UnboundedSender<Done>,
    done: mpsc::UnboundedReceiver<Done>,
    outcomes: mpsc::Sender<Outcome>,
    probed: mpsc::Receiver<Outcome>,
    tokens: Arc<Tokens>,
    /// Watches ConfigMaps and Secrets.
    _following: JoinSet<()>,
    changed: mpsc::Receiver<()>,
}

impl Worker {
    /// A worker for a pod with the sandboxes that it has already. `None` for what is no pod.
    pub fn new(shared: Arc<Shared>, object: Arc<Object>, sandboxes: Vec<SandboxStatus>, exists: bool) -> Option<Self> {
        let pod = object.view::<Pod>().ok()?;
        let (runtime, machine) = shared.runtime_of(&object);
        let (steps, done) = mpsc::unbounded_channel();
        let (outcomes, probed) = mpsc::channel(64);
        let (tell, changed) = mpsc::channel(1);
        let following = match exists {
            true => shared.contents.follow(&shared.client, object.namespace(), &pod, &tell),
            false => JoinSet::new(),
        };
        let mut worker = Worker {
            images: Arc::new(Images::new(shared.client.clone(), shared.events.clone())),
            runtime_name: String::new(),
            shared,
            object,
            pod,
            exists,
            runtime,
            machine,
            sandboxes,
            memory: Memory::default(),
            mounted: Arc::default(),
            probes: HashMap::new(),
            words: HashMap::new(),
            refused: Map::new(),
            retry_status: false,
            blind: false,
            cancel: CancellationToken::new(),
            carried: HashMap::new(),
            said_backoff: HashMap::new(),
            steps,
            done,
            outcomes,
            probed,
            tokens: Arc::default(),
            _following: following,
            changed,
        };
        worker.sort();
        Some(worker)
    }

    /// Works until nothing is left of the pod.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Input>) {
        if self.exists {
            self.record();
        }
        self.runtime_name = self.shared.name_of(self.runtime.as_ref(), self.machine).await;
        loop {
            self.watch_containers();
            self.give_up();
            let now = Timestamp::now();
            let plan = plan::plan(&View {
                now,
                pod: &self.pod,
                exists: self.exists,
                sandboxes: &self.sandboxes,
                memory: &self.memory,
            });
            if plan.gone {
                return self.forget();
            }
            let wake = plan.wake;
            self.carry_out(plan, now);
            self.write_status(now).await;
            tokio::select! {
                input = inbox.recv() => match input {
                    Some(input) => {
                        self.take(input).await;
                        while let Ok(input) = inbox.try_recv() {
                            self.take(input).await;
                        }
                    }
                    None => return,
                },
                Some(done) = self.done.recv() => self.finished(done).await,
                Some(outcome) = self.probed.recv() => self.probed(outcome),
                Some(()) = self.changed.recv() => self.refresh(),
                () = until(wake, now) => {}
                () = tokio::time::sleep(STATUS_PAUSE), if self.retry_status => {}
                () = tokio::time::sleep(LOOK_PAUSE), if self.blind => self.look_for_all().await,
            }
        }
    }

    /// What a pod that must go waits for need not be waited for.
    fn give_up(&mut self) {
        let going = !self.exists || self.object.is_deleting() || self.memory.fatal.is_some();
        if going && !self.cancel.is_cancelled() {
            self.cancel.cancel();
            self.memory.mount_failure = None;
        }
    }

    /// Writes the pod down, so that a later agent can end it even if the API has forgotten it.
    fn record(&self) {
        let directory = self.shared.config.pod_dir(self.object.uid());
        let file = directory.join("pod.json");
        let fresh = directory.join("pod.json.new");
        let written = fs::create_dir_all(&directory)
            .and_then(|()| fs::write(&fresh, self.object.raw()))
            .and_then(|()| fs::rename(&fresh, &file));
        if let Err(error) = written {
            warn!(%error, path = %file.display(), "the pod was not written down");
        }
    }

    async fn take(&mut self, input: Input) {
        match input {
            Input::Pod(object) => {
                if let Ok(pod) = object.view::<Pod>() {
                    let old = self.object.header();
                    let new = object.header();
                    if (&old.labels, &old.annotations) != (&new.labels, &new.annotations) {
                        self.refresh();
                    }
                    self.object = object;
                    self.pod = pod;
                }
            }
            Input::Gone => self.exists = false,
            Input::Look => self.look().await,
        }
    }

    /// What volumes show has changed.
    fn refresh(&mut self) {
        if self.memory.mounted || self.memory.busy.contains(&Busy::Volumes) {
            self.memory.refresh_at = Some(Timestamp::now());
        }
    }

    /// Asks the runtime what there is of this pod.
    async fn look(&mut self) {
        self.blind = false;
        let mut fresh = Vec::new();
        for sandbox in &self.sandboxes {
            match self.runtime.sandbox(&sandbox.id).await {
                Ok(Some(status)) => fresh.push(status),
                Ok(None) => {}
                Err(error) => {
                    debug!(%error, "the runtime does not say; what was known stays");
                    self.blind = true;
                    fresh.push(sandbox.clone());
                }
            }
        }
        self.sandboxes = fresh;
        self.sort();
    }

    /// Takes in a sandbox that was just made.
    async fn look_at_new(&mut self, id: &str) {
        match self.runtime.sandbox(id).await {
            Ok(Some(status)) => {
                self.sandboxes.retain(|s| s.id != id);
                self.sandboxes.push(status);
                self.sort();
            }
            _ => self.look_for_all().await,
        }
    }

    /// Like [`Worker::look`], but also finds sandboxes of which nothing was known.
    async fn look_for_all(&mut self) {
        match self.runtime.list().await {
            Ok(all) => {
                self.blind = false;
                self.sandboxes = all.into_iter().filter(|s| s.pod_uid == self.object.uid()).collect();
                self.sort();
            }
            Err(error) => {
                debug!(%error, "the runtime does not say; what was known stays");
                self.blind = true;
            }
        }
    }

    fn sort(&mut self) {
        self.sandboxes
            .sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
    }

    /// The part of the pod that events about a container are about.
    fn field(&self, name: &str) -> String {
        pods::field(&self.pod, name)
    }

    fn carry_out(&mut self, plan: Plan, now: Timestamp) {
        if let Some(fatal) = plan.fatal {
            self.shared
                .events
                .say(&self.object, "", EventKind::Normal, "DeadlineExceeded", &fatal.1);
            self.memory.fatal = Some(fatal);
        }
        for (name, delay) in plan.crash_delays {
            let memory = self.memory.containers.entry(name).or_default();
            memory.crash_delay = delay;
        }
        self.say_backoff();
        for step in plan.steps {
            let busy = step.busy();
            self.memory.busy.insert(busy);
            if let Step::Kill { name, grace, .. } = &step {
                self.memory.containers.entry(name.clone()).or_default().kill_grace = Some(*grace);
            }
            if matches!(step, Step::Mount) {
                self.memory.refresh_at = None;
            }
            let steps = self.steps_for();
            let sender = self.steps.clone();
            self.shared.tasks.spawn(async move {
                let begun = Instant::now();
                let outcome = steps.run(&step, now).await;
                debug!(pod = %steps.object.key(), ?step, milliseconds = begun.elapsed().as_millis(), "step");
                // The worker may have ended meanwhile.
                let _ = sender.send(Done { step, outcome });
            });
        }
    }

    /// Tells that a crashed container waits, once per pause.
    fn say_backoff(&mut self) {
        for (name, memory) in &self.memory.containers {
            let waits = memory.crash_delay > 0
                && plan::latest(&self.sandboxes, name).is_some_and(|c| c.state == ContainerState::Exited)
                && !self.memory.busy.contains(&Busy::Container(name.clone()));
            if waits && self.said_backoff.get(name) != Some(&memory.crash_delay) {
                self.said_backoff.insert(name.clone(), memory.crash_delay);
                let message = format!(
                    "Back-off restarting failed container {name} in pod {}_{}({})",
                    self.object.name(),
                    self.object.namespace(),
                    self.object.uid()
                );
                let field = format!("spec.containers{{{name}}}");
                self.shared
                    .events
                    .say(&self.object, &field, EventKind::Warning, "BackOff", &message);
            }
        }
    }

    fn steps_for(&self) -> Steps {
        Steps {
            shared: self.shared.clone(),
            object: self.object.clone(),
            pod: self.pod.clone(),
            runtime: self.runtime.clone(),
            machine: self.machine,
            sandbox: self.sandboxes.first().cloned(),
            mounted: self.mounted.clone(),
            images: self.images.clone(),
            exists: self.exists,
            cancel: self.cancel.clone(),
            tokens: self.tokens.clone(),
        }
    }

    async fn finished(&mut self, done: Done) {
        let busy = done.step.busy();
        self.memory.busy.remove(&busy);
        let now = Timestamp::now();
        match (&done.step, done.outcome) {
            (step, Result_::Failed(why)) => return self.failed(step, why, now).await,
            (Step::Mount, Result_::Mounted(mounted)) => {
                self.memory.mounted = true;
                self.memory.unmounted = false;
                self.memory.mount_failure = None;
                if self.memory.refresh_at.is_none() {
                    self.memory.refresh_at = mounted.refresh_at;
                }
                self.mounted = Arc::new(mounted);
            }
            (Step::Unmount, _) => {
                self.memory.unmounted = true;
                self.memory.mounted = false;
                self.memory.mount_failure = None;
            }
            (Step::Start { name, .. }, _) => {
                self.memory.containers.entry(name.clone()).or_default().failure = None;
                self.look().await;
            }
            (Step::Kill { name, .. }, _) => {
                self.memory.containers.entry(name.clone()).or_default().kill_grace = None;
                self.look().await;
            }
            (Step::Finish, _) => self.memory.finished = true,
            (Step::RunSandbox { .. }, Result_::Sandbox(id)) => {
                self.memory.sandbox_failure = None;
                self.look_at_new(&id).await;
            }
            _ => self.look().await,
        }
    }

    /// Remembers why a step failed, and when to try it again.
    async fn failed(&mut self, step: &Step, why: Why, now: Timestamp) {
        let memory = &mut self.memory;
        let say = |field: &str, reason: &str, text: &str| {
            let events = &self.shared.events;
            events.say(&self.object, field, EventKind::Warning, reason, text);
        };
        match step {
            // Given up, because the pod must go.
            Step::Mount | Step::Start { .. } if self.cancel.is_cancelled() => {}
            Step::Mount | Step::Unmount => {
                say("", why.reason, &why.message);
                memory.mount_failure = Some(next(memory.mount_failure.as_ref(), why, now));
                return;
            }
            Step::RunSandbox { .. } => {
                let message = format!("Failed to create pod sandbox: {}", why.message);
                say("", "FailedCreatePodSandBox", &message);
                let why = Why { message, ..why };
                memory.sandbox_failure = Some(next(memory.sandbox_failure.as_ref(), why, now));
            }
            Step::Start { name, .. } => {
                let memory = memory.containers.entry(name.clone()).or_default();
                memory.failure = Some(next(memory.failure.as_ref(), why, now));
            }
            Step::Kill { name, .. } => {
                say(&pods::field(&self.pod, name), "FailedKillPod", &why.message);
                memory.containers.entry(name.clone()).or_default().kill_grace = None;
                tokio::time::sleep(AGAIN).await;
            }
            Step::StopSandbox { .. } | Step::RemoveSandbox { .. } | Step::Finish => {
                debug!(?step, error = why.message, "step failed; trying again");
                tokio::time::sleep(AGAIN).await;
            }
        }
        self.look_for_all().await;
    }

    /// Takes away what the agent itself kept of the pod.
    fn forget(&self) {
        let (config, o) = (&self.shared.config, &self.object);
        let directory = config.pod_dir(o.uid());
        let removed = unmount_below(&directory).and_then(|()| remove_tree(&directory));
        let removed = removed.and_then(|()| remove_tree(&config.pod_logs(o.namespace(), o.name(), o.uid())));
        if let Err(error) = removed {
            warn!(%error, namespace = o.namespace(), name = o.name(), "left behind by a pod");
        }
    }
}

/// The failure to remember: its pause is its own, or twice the one before.
fn next(before: Option<&Failure>, why: Why, now: Timestamp) -> Failure {
    let delay = match why.pause {
        Some(pause) => i64::try_from(pause.as_secs()).unwrap_or(FIRST_PAUSE).max(1),
        None => before.map_or(FIRST_PAUSE, |f| (f.delay * 2).min(LONGEST_PAUSE)),
    };
    Failure {
        reason: why.reason.to_owned(),
        message: why.message,
        retry_at: now.checked_add(SignedDuration::from_secs(delay)).unwrap_or(now),
        delay,
    }
}

async fn until(wake: Option<Timestamp>, now: Timestamp) {
    match wake {
        Some(at) => {
            let left = at.duration_since(now);
            let left = if left.is_positive() {
                left.unsigned_abs()
            } else {
                Duration::ZERO
            };
            tokio::time::sleep(left + Duration::from_millis(1)).await;
        }
        None => std::future::pending().await,
    }
}
