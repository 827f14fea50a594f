//! The worker of one pod: looks, asks the plan, starts its steps, writes the status.
//!
//! Must not choose what to do. Steps run beside it and report back, so that a
//! slow pull never keeps a deletion waiting.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use client::ClientExt;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Container, Pod};
use kinds::resources::PODS;
use meta::Object;
use reconcile::EventKind;
use runtime::{ContainerState, PodRuntime, SandboxStatus};
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::images::Images;
use super::steps::{Done, Outcome as Result_, Steps};
use super::volumes::{Mounted, Tokens, remove_tree, unmount_below};
use super::{Shared, container, status};
use crate::plan::{self, Busy, ContainerMemory, Failure, Memory, Plan, Step, View};
use crate::pods;
use crate::probe::{self, Kind as Probe, Outcome, Target, Watching};

/// Pause after a failure that has none of its own, seconds; it doubles.
const FIRST_PAUSE: i64 = 1;
const LONGEST_PAUSE: i64 = 120;
/// Pause before a status is written again that the API did not take.
const STATUS_PAUSE: Duration = Duration::from_secs(1);
/// Largest last words (upstream: 4096 bytes).
const WORDS_MAX: u64 = 4096;
/// Largest end of the log that stands in for last words (upstream: 2048 bytes).
const LOG_WORDS_MAX: u64 = 2048;

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
            runtime_name: if machine { "qemu" } else { "containerd" }.into(),
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
        if let Ok(version) = self.runtime.version().await
            && let Some((name, _)) = version.split_once("://")
        {
            self.runtime_name = name.to_owned();
        }
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
        let mut fresh = Vec::new();
        for sandbox in &self.sandboxes {
            match self.runtime.sandbox(&sandbox.id).await {
                Ok(Some(status)) => fresh.push(status),
                Ok(None) => {}
                Err(error) => {
                    debug!(%error, "the runtime does not say; what was known stays");
                    fresh.push(sandbox.clone());
                }
            }
        }
        self.sandboxes = fresh;
        self.sort();
    }

    /// Like [`Worker::look`], but also finds sandboxes of which nothing was known.
    async fn look_for_all(&mut self) {
        match self.runtime.list().await {
            Ok(all) => {
                self.sandboxes = all.into_iter().filter(|s| s.pod_uid == self.object.uid()).collect();
                self.sort();
            }
            Err(error) => debug!(%error, "the runtime does not say; what was known stays"),
        }
    }

    fn sort(&mut self) {
        self.sandboxes
            .sort_by_key(|s| std::cmp::Reverse((s.attempt, s.created_at)));
    }

    /// Containers that run get their probes; those that do not lose them.
    fn watch_containers(&mut self) {
        let current: Vec<(String, String)> = self
            .sandboxes
            .iter()
            .flat_map(|s| &s.containers)
            .filter(|c| c.state == ContainerState::Running)
            .map(|c| (c.name.clone(), c.id.clone()))
            .collect();
        self.probes
            .retain(|name, (id, _)| current.iter().any(|(n, i)| n == name && i == id));
        for (name, id) in current {
            if self.probes.get(&name).is_some_and(|(i, _)| *i == id)
                || self.memory.busy.contains(&Busy::Container(name.clone()))
            {
                continue;
            }
            let Some((c, _)) = pods::all(&self.pod).find(|(c, _)| c.name == name) else {
                continue;
            };
            let api = self.api_status(&name, &id);
            let memory = self.memory.containers.entry(name.clone()).or_default();
            memory.id = id.clone();
            memory.unhealthy = None;
            // An agent that has just started believes what the one before it found.
            memory.started = c.startup_probe.is_none() || api.is_some_and(|(started, _)| started);
            memory.ready = match &c.readiness_probe {
                None => true,
                Some(_) => api.is_some_and(|(_, ready)| ready),
            };
            if c.readiness_probe.is_some() && memory.ready {
                self.carried.insert(name.clone(), 0);
            } else {
                self.carried.remove(&name);
            }
            let watching = probe::watch(&c, self.target(&c, &id), self.outcomes.clone());
            self.probes.insert(name, (id, watching));
        }
    }

    /// Started and ready, as the API has it of this very container.
    fn api_status(&self, name: &str, id: &str) -> Option<(bool, bool)> {
        let status = self.pod.status.as_ref()?;
        let lists = [&status.container_statuses, &status.init_container_statuses];
        let found = lists.into_iter().flatten().flatten().find(|c| c.name == name)?;
        let same = found.container_id.as_deref().is_some_and(|i| i.ends_with(id));
        same.then(|| (found.started == Some(true), found.ready))
    }

    fn target(&self, c: &Container, id: &str) -> Target {
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let ips = self.ips();
        let ip = if host { None } else { ips.first() };
        super::target(c, id, ip, &self.shared.config, &self.runtime)
    }

    fn ips(&self) -> Vec<String> {
        self.sandboxes.first().map(|s| s.ips.clone()).unwrap_or_default()
    }

    fn probed(&mut self, outcome: Outcome) {
        let current = self
            .memory
            .containers
            .get_mut(&outcome.container)
            .filter(|m| m.id == outcome.id);
        let Some(memory) = current else { return };
        if outcome.event {
            self.doubt(&outcome);
            let field = self.field(&outcome.container);
            let events = &self.shared.events;
            return events.say(&self.object, &field, EventKind::Warning, "Unhealthy", &outcome.message);
        }
        match (outcome.kind, outcome.healthy) {
            (Probe::Startup, true) => memory.started = true,
            (Probe::Readiness, healthy) => {
                memory.ready = healthy;
                self.carried.remove(&outcome.container);
            }
            (Probe::Liveness, true) => {}
            (kind, false) => {
                let kind = if kind == Probe::Startup { "startup" } else { "liveness" };
                memory.unhealthy = Some(format!(
                    "Container {} failed {kind} probe, will be restarted",
                    outcome.container
                ));
            }
        }
    }

    /// A probe begins as unready, so it does not tell when a container that was ready under an
    /// earlier agent is not any more: its failures are counted here.
    fn doubt(&mut self, outcome: &Outcome) {
        if outcome.kind != Probe::Readiness {
            return;
        }
        let Some(failures) = self.carried.get_mut(&outcome.container) else {
            return;
        };
        *failures += 1;
        let container = pods::all(&self.pod).find(|(c, _)| c.name == outcome.container);
        let limit = container.and_then(|(c, _)| c.readiness_probe?.failure_threshold);
        if *failures >= limit.unwrap_or(3) {
            self.carried.remove(&outcome.container);
            if let Some(memory) = self.memory.containers.get_mut(&outcome.container) {
                memory.ready = false;
            }
        }
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
                let outcome = steps.run(&step, now).await;
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
            (Step::Mount, Result_::Mounted(mounted)) => {
                self.memory.mounted = true;
                self.memory.unmounted = false;
                self.memory.mount_failure = None;
                if self.memory.refresh_at.is_none() {
                    self.memory.refresh_at = mounted.refresh_at;
                }
                self.mounted = Arc::new(mounted);
            }
            (Step::Unmount, Result_::Ok) => {
                self.memory.unmounted = true;
                self.memory.mounted = false;
                self.memory.mount_failure = None;
            }
            (Step::Mount | Step::Start { .. }, Result_::Failed(_)) if self.cancel.is_cancelled() => {
                self.look_for_all().await;
            }
            (Step::Mount | Step::Unmount, Result_::Failed(why)) => {
                self.shared
                    .events
                    .say(&self.object, "", EventKind::Warning, why.reason, &why.message);
                self.memory.mount_failure = Some(next(
                    self.memory.mount_failure.as_ref(),
                    why.reason,
                    why.message,
                    why.pause,
                    now,
                ));
            }
            (Step::RunSandbox { .. }, Result_::Sandbox) => {
                self.memory.sandbox_failure = None;
                self.look_for_all().await;
            }
            (Step::RunSandbox { .. }, Result_::Failed(why)) => {
                let message = format!("Failed to create pod sandbox: {}", why.message);
                self.shared
                    .events
                    .say(&self.object, "", EventKind::Warning, "FailedCreatePodSandBox", &message);
                self.memory.sandbox_failure = Some(next(
                    self.memory.sandbox_failure.as_ref(),
                    why.reason,
                    message,
                    why.pause,
                    now,
                ));
                self.look_for_all().await;
            }
            (Step::Start { name, .. }, Result_::Failed(why)) => {
                let memory = self.memory.containers.entry(name.clone()).or_default();
                memory.failure = Some(next(memory.failure.as_ref(), why.reason, why.message, why.pause, now));
                self.look_for_all().await;
            }
            (Step::Start { name, .. }, _) => {
                let memory = self.memory.containers.entry(name.clone()).or_default();
                memory.failure = None;
                self.look().await;
            }
            (Step::Kill { name, .. }, outcome) => {
                self.memory
                    .containers
                    .entry(name.clone())
                    .or_insert_with(ContainerMemory::default)
                    .kill_grace = None;
                if let Result_::Failed(why) = outcome {
                    self.shared.events.say(
                        &self.object,
                        &self.field(name),
                        EventKind::Warning,
                        "FailedKillPod",
                        &why.message,
                    );
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                self.look().await;
            }
            (Step::Finish, Result_::Ok) => self.memory.finished = true,
            (step, outcome) => {
                if let Result_::Failed(why) = outcome {
                    debug!(?step, error = why.message, "step failed; trying again");
                    // Nothing tells when to try such a step again.
                    tokio::time::sleep(Duration::from_millis(500)).await;
                }
                self.look_for_all().await;
            }
        }
    }

    async fn write_status(&mut self, now: Timestamp) {
        if !self.exists || self.memory.finished {
            return;
        }
        self.read_words();
        let host_ip = self.shared.config.node_ip.to_string();
        let new = status::status(&status::Facts {
            now,
            pod: &self.pod,
            sandboxes: &self.sandboxes,
            memory: &self.memory,
            runtime: &self.runtime_name,
            host_ip: &host_ip,
            words: &self.words,
        });
        let changed = differences(&self.object.to_value()["status"], &new);
        self.retry_status = false;
        if changed.is_empty() || changed == self.refused {
            return;
        }
        let patch = json!({"metadata": {"uid": self.object.uid()}, "status": changed});
        let (namespace, name) = (self.object.namespace(), self.object.name());
        let client = &self.shared.client;
        match client.merge_patch(&PODS, namespace, name, "status", &patch).await {
            Ok(object) => {
                self.refused = differences(&object.to_value()["status"], &new);
                // The answer is what the watch will bring; with it the next look starts even.
                if object.resource_version() > self.object.resource_version()
                    && let Ok(pod) = object.view::<Pod>()
                {
                    self.object = object;
                    self.pod = pod;
                }
            }
            Err(e) if e.is_not_found() || e.is_conflict() => debug!(error = %e.message, "the pod is gone or another"),
            Err(e) => {
                warn!(namespace = self.object.namespace(), name = self.object.name(), error = %e.message, "status not written; trying again");
                self.retry_status = true;
            }
        }
    }

    /// Last words of containers that have ended.
    fn read_words(&mut self) {
        for c in self.sandboxes.iter().flat_map(|s| &s.containers) {
            if c.state != ContainerState::Exited || self.words.contains_key(&c.id) {
                continue;
            }
            let file = container::last_words(&self.shared.config, self.object.uid(), &c.name, c.attempt);
            let mut text = tail(&file, WORDS_MAX);
            let spec = pods::all(&self.pod).find(|(s, _)| s.name == c.name).map(|(s, _)| s);
            let fallback = spec.and_then(|s| s.termination_message_policy).as_deref() == Some("FallbackToLogsOnError");
            if text.is_empty() && fallback && c.exit_code != 0 {
                text = plain_log(&tail(&c.log_path, LOG_WORDS_MAX * 2), LOG_WORDS_MAX);
            }
            self.words.insert(c.id.clone(), text);
        }
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

/// Fields of a status that are not yet as they should be.
fn differences(old: &Value, new: &Value) -> Map<String, Value> {
    let fields = new.as_object().into_iter().flatten();
    let differ = fields.filter(|(field, value)| old.get(field).unwrap_or(&Value::Null) != *value);
    differ.map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// The failure to remember: its pause is its own, or twice the one before.
fn next(before: Option<&Failure>, reason: &str, message: String, pause: Option<Duration>, now: Timestamp) -> Failure {
    let delay = match pause {
        Some(pause) => i64::try_from(pause.as_secs()).unwrap_or(FIRST_PAUSE).max(1),
        None => before.map_or(FIRST_PAUSE, |f| (f.delay * 2).min(LONGEST_PAUSE)),
    };
    Failure {
        reason: reason.to_owned(),
        message,
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

/// The end of a file, as text.
fn tail(path: &Path, most: u64) -> String {
    let Ok(mut file) = fs::File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(length.saturating_sub(most)));
    if read.and_then(|_| file.take(most).read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was printed, without the times and tags of the log's lines.
fn plain_log(text: &str, most: u64) -> String {
    let lines = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3));
    let plain = lines.collect::<Vec<_>>().join("\n");
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let start = plain.len().saturating_sub(most);
    let start = (start..plain.len())
        .find(|i| plain.is_char_boundary(*i))
        .unwrap_or(plain.len());
    plain[start..].to_owned()
}
