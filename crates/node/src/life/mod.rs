//! The agent: one worker per pod, fed by the API and the runtimes.
//!
//! ```text
//!   API: pods of this node ──┐                       ┌── runtime: steps
//!   runtimes: events ────────┼─> Agent ──> worker ───┼── API: status, events
//!   ConfigMaps, Secrets ─────┘             (a pod)   └── volumes, probes
//! ```
//!
//! Must not decide what a pod needs: that is `plan`.

mod container;
mod contents;
mod events;
mod files;
mod images;
mod registration;
mod status;
mod steps;
mod volumes;
mod withdrawal;
mod worker;

use std::collections::HashMap;
use std::fs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use client::Client;
use driver::Recorder;
use futures::StreamExt;
use informer::{Change, Informer, Informers};
use k8s_openapi::api::core::v1::Container;
use kinds::resources::{ENDPOINT_SLICES, NODES, PODS, SERVICES};
use meta::Object;
use runtime::{PodRuntime, RuntimeEvent, SandboxStatus};
use tokio::sync::{OnceCell, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::config::{Config, NodeError, Ports, at};
use crate::lookup::{Found, Places, PodLookup};
use crate::probe::Target;
use contents::Contents;
use events::Events;
use worker::{Input, Worker};

/// Annotation that says what runs a pod.
const RUNTIME: &str = "machines.allmend.io/runtime";
/// How long to wait before asking a runtime again that did not answer.
const RETRY: Duration = Duration::from_secs(1);
/// How long steps may take to end when the agent stops.
const DRAIN: Duration = Duration::from_secs(5);

/// A running agent. Cheap to clone.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

/// What all workers share.
pub(crate) struct Shared {
    pub config: Config,
    pub client: Arc<dyn Client>,
    pub ports: Ports,
    pub events: Events,
    pub pods: Arc<Informer>,
    pub services: Arc<Informer>,
    pub slices: Arc<Informer>,
    nodes: Arc<Informer>,
    contents: Contents,
    /// Millicores and bytes of memory.
    pub capacity: (i64, i64),
    workers: Mutex<HashMap<String, mpsc::UnboundedSender<Input>>>,
    /// Names of the runtimes of containers and of machines, once asked.
    names: [OnceCell<String>; 2],
    tasks: TaskTracker,
    pub stop: CancellationToken,
    /// They end when nobody holds them.
    _informers: Arc<Informers>,
}

impl Node {
    /// Takes up the pods that run here already, then follows the API. Pods keep running
    /// when the agent stops.
    pub async fn start(
        config: Config,
        client: Arc<dyn Client>,
        informers: Arc<Informers>,
        ports: Ports,
    ) -> Result<Node, NodeError> {
        for directory in [config.pods_dir(), config.logs_dir()] {
            fs::create_dir_all(&directory).map_err(at("make directory", &directory))?;
        }
        let pods = informers.scoped(&PODS, "", "", &format!("spec.nodeName={}", config.node_name));
        let shared = Arc::new(Shared {
            events: Events::new(Recorder::new(client.clone()), &config.node_name),
            pods,
            services: informers.of(&SERVICES),
            slices: informers.of(&ENDPOINT_SLICES),
            nodes: informers.of(&NODES),
            contents: Contents::default(),
            capacity: registration::capacity(),
            client,
            ports,
            config,
            workers: Mutex::default(),
            names: Default::default(),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            _informers: informers.clone(),
        });
        let s = shared.clone();
        shared.tasks.spawn(async move { registration::keep(&s).await });
        let s = shared.clone();
        shared.tasks.spawn(async move { s.follow_pods().await });
        Ok(Node { shared })
    }

    /// Ends all tasks of the agent.
    pub async fn stop(self) {
        self.shared.stop.cancel();
        self.shared.tasks.close();
        // A step under way, such as a pull, ends with the process; it can be done again.
        let _ = tokio::time::timeout(DRAIN, self.shared.tasks.wait()).await;
    }
}

impl Shared {
    /// What runs a pod.
    pub fn runtime_of(&self, pod: &Object) -> (Arc<dyn PodRuntime>, bool) {
        let machine = pod.annotations().get(RUNTIME).is_some_and(|r| r == "qemu");
        match &self.ports.machines {
            Some(machines) if machine => (machines.clone(), true),
            // Without a runtime for machines their sandboxes are refused.
            _ => (self.ports.containers.clone(), machine),
        }
    }

    /// The name that a runtime gives itself, such as `containerd`.
    pub async fn name_of(&self, runtime: &dyn PodRuntime, machine: bool) -> String {
        let ask = async || {
            let version = runtime.version().await.map_err(drop)?;
            version.split_once("://").map(|(name, _)| name.to_owned()).ok_or(())
        };
        match self.names[usize::from(machine)].get_or_try_init(ask).await {
            Ok(name) => name.clone(),
            Err(()) if machine => "qemu".into(),
            Err(()) => "containerd".into(),
        }
    }

    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>> {
        let containers = std::iter::once(self.ports.containers.clone());
        containers.chain(self.ports.machines.clone()).collect()
    }

    async fn follow_pods(self: &Arc<Self>) {
        let mut changes = self.pods.subscribe();
        let found = tokio::select! {
            found = self.what_runs() => found,
            () = self.stop.cancelled() => return,
        };
        tokio::select! {
            () = self.pods.synced() => {}
            () = self.stop.cancelled() => return,
        }
        self.services.synced().await;
        for runtime in self.runtimes() {
            let s = self.clone();
            self.tasks.spawn(async move { s.follow_runtime(runtime).await });
        }
        self.take_up(found);
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = self.stop.cancelled() => return,
            };
            match change {
                None => return,
                Some(Change { old: None, new: None }) => self.take_up(HashMap::new()),
                Some(Change { old, new: Some(pod) }) => {
                    // Another pod took the name while nobody looked.
                    if let Some(old) = old.filter(|o| o.uid() != pod.uid()) {
                        self.send(old.uid(), Input::Gone);
                    }
                    self.tell(&pod, Vec::new());
                }
                Some(Change {
                    old: Some(pod),
                    new: None,
                }) => self.send(pod.uid(), Input::Gone),
            }
        }
    }

    /// Every sandbox by the uid of its pod. Nothing can be decided before this is known.
    async fn what_runs(&self) -> HashMap<String, Vec<SandboxStatus>> {
        let mut found: HashMap<String, Vec<SandboxStatus>> = HashMap::new();
        for runtime in self.runtimes() {
            loop {
                match runtime.list().await {
                    Ok(list) => {
                        for sandbox in list {
                            found.entry(sandbox.pod_uid.clone()).or_default().push(sandbox);
                        }
                        break;
                    }
                    Err(error) => {
                        warn!(%error, "the runtime does not answer; trying again");
                        tokio::time::sleep(RETRY).await;
                    }
                }
            }
        }
        found
    }

    /// A worker for each pod that is to be here, and for each that still is without being wanted.
    fn take_up(self: &Arc<Self>, mut found: HashMap<String, Vec<SandboxStatus>>) {
        let pods = self.pods.list("");
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        for (uid, worker) in workers.iter() {
            if !pods.iter().any(|p| p.uid() == uid) {
                // A worker that has just ended needs to hear nothing.
                let _ = worker.send(Input::Gone);
            }
        }
        drop(workers);
        for pod in pods {
            let sandboxes = found.remove(pod.uid()).unwrap_or_default();
            self.tell(&pod, sandboxes);
        }
        let known = |uid: &str| {
            self.workers
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .contains_key(uid)
        };
        let left = fs::read_dir(self.config.pods_dir()).into_iter().flatten().flatten();
        for entry in left {
            let uid = entry.file_name().to_string_lossy().into_owned();
            if known(&uid) {
                continue;
            }
            let record = fs::read(entry.path().join("pod.json")).unwrap_or_default();
            match Object::from_json(record) {
                Ok(pod) if pod.uid() == uid => {
                    info!(
                        namespace = pod.namespace(),
                        name = pod.name(),
                        "ending a pod that was deleted while the agent was away"
                    );
                    let sandboxes = found.remove(&uid).unwrap_or_default();
                    self.begin(Arc::new(pod), sandboxes, false);
                }
                _ => {
                    // Made so far and no further: nothing ever ran there.
                    if volumes::unmount_below(&entry.path())
                        .and_then(|()| volumes::remove_tree(&entry.path()))
                        .is_err()
                    {
                        warn!(path = %entry.path().display(), "left behind by a pod, and cannot be removed");
                    }
                }
            }
        }
        for (uid, sandboxes) in found {
            if !known(&uid) {
                let s = self.clone();
                self.tasks.spawn(async move { s.clear(sandboxes).await });
            }
        }
    }

    /// Sandboxes of which nothing is known but that they are there.
    async fn clear(&self, sandboxes: Vec<SandboxStatus>) {
        for sandbox in sandboxes {
            info!(
                namespace = sandbox.pod_namespace,
                name = sandbox.pod_name,
                "removing a sandbox that belongs to no pod"
            );
            for runtime in self.runtimes() {
                if matches!(runtime.sandbox(&sandbox.id).await, Ok(Some(_))) {
                    let ended = runtime.stop_sandbox(&sandbox.id).await;
                    let removed = runtime.remove_sandbox(&sandbox.id).await;
                    if let Err(error) = ended.and(removed) {
                        warn!(%error, id = sandbox.id, "sandbox not removed");
                    }
                }
            }
        }
    }

    /// Tells a pod's worker of its state; starts the worker if there is none.
    fn tell(self: &Arc<Self>, pod: &Arc<Object>, sandboxes: Vec<SandboxStatus>) {
        let known = self
            .workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(pod.uid());
        if known {
            self.send(pod.uid(), Input::Pod(pod.clone()));
        } else {
            self.begin(pod.clone(), sandboxes, true);
        }
    }

    fn begin(self: &Arc<Self>, pod: Arc<Object>, sandboxes: Vec<SandboxStatus>, exists: bool) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let uid = pod.uid().to_owned();
        self.workers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(uid.clone(), sender);
        let s = self.clone();
        self.tasks.spawn(async move {
            let Some(worker) = Worker::new(s.clone(), pod, sandboxes, exists) else {
                return;
            };
            tokio::select! {
                () = worker.run(inbox) => {}
                () = s.stop.cancelled() => return,
            }
            s.workers.lock().unwrap_or_else(PoisonError::into_inner).remove(&uid);
        });
    }

    fn send(&self, uid: &str, input: Input) {
        if let Some(worker) = self.workers.lock().unwrap_or_else(PoisonError::into_inner).get(uid) {
            // A worker that has just ended needs to hear nothing.
            let _ = worker.send(input);
        }
    }

    fn send_all(&self, input: &Input) {
        for worker in self.workers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            let _ = worker.send(input.clone());
        }
    }

    async fn follow_runtime(&self, runtime: Arc<dyn PodRuntime>) {
        loop {
            if let Ok(mut events) = runtime.events().await {
                self.send_all(&Input::Look);
                loop {
                    let event = tokio::select! {
                        event = events.next() => event,
                        () = self.stop.cancelled() => return,
                    };
                    match event {
                        None => break,
                        Some(RuntimeEvent::Sandbox { pod_uid, .. }) if !pod_uid.is_empty() => {
                            self.send(&pod_uid, Input::Look)
                        }
                        Some(RuntimeEvent::Sandbox { .. } | RuntimeEvent::Resync) => self.send_all(&Input::Look),
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }
}

/// What probes and hooks of a container are aimed at; `ip` is `None` with the host's network.
fn target(c: &Container, id: &str, ip: Option<&String>, config: &Config, runtime: &Arc<dyn PodRuntime>) -> Target {
    let ports = c.ports.iter().flatten().filter_map(|p| {
        let number = u16::try_from(p.container_port).ok()?;
        Some((p.name.clone()?, number))
    });
    Target {
        pod_ip: ip.and_then(|ip| ip.parse().ok()),
        host_network_ip: config.node_ip,
        ports: ports.collect(),
        runtime: runtime.clone(),
        container_id: id.to_owned(),
    }
}

#[async_trait]
impl PodLookup for Node {
    async fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let pod = self.shared.pods.get(namespace, name)?;
        let (runtime, _) = self.shared.runtime_of(&pod);
        let all = runtime.list().await.ok()?;
        let own = all.into_iter().filter(|s| s.pod_uid == pod.uid());
        let sandbox = own.max_by_key(|s| (s.attempt, s.created_at));
        Some(Found { pod, runtime, sandbox })
    }

    fn pods(&self) -> Vec<Arc<Object>> {
        self.shared.pods.list("")
    }

    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>> {
        self.shared.runtimes()
    }

    fn places(&self) -> Places {
        let config = &self.shared.config;
        Places {
            node_name: config.node_name.clone(),
            cgroup_root: config.cgroup_root.clone(),
            pods: config.pods_dir(),
            storage: config.data_dir.clone(),
        }
    }
}
