//! A runtime in memory whose containers do as their image says: `exit-0` and
//! `exit-1` end at once, `slow` is never pulled, `missing` does not exist.
//! Must not run anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::BoxStream;
use jiff::Timestamp;
use runtime::{
    ContainerConfig, ContainerState, ContainerStats, ContainerStatus, ExecOutput, ImageInfo, PodRuntime, RegistryAuth,
    RuntimeError, RuntimeEvent, SandboxConfig, SandboxStatus, StreamRequest, StreamTarget,
};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

#[derive(Default)]
struct State {
    next: u64,
    sandboxes: BTreeMap<String, SandboxStatus>,
    configs: BTreeMap<String, ContainerConfig>,
    journal: Vec<String>,
    /// What `exec_sync` answers.
    exec: i32,
}

/// The runtime.
pub struct Fake {
    state: Mutex<State>,
    events: broadcast::Sender<RuntimeEvent>,
}

impl Fake {
    pub fn new() -> Arc<Self> {
        Arc::new(Fake {
            state: Mutex::default(),
            events: broadcast::channel(256).0,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was asked of it, in order.
    pub fn journal(&self) -> Vec<String> {
        self.lock().journal.clone()
    }

    pub fn forget_journal(&self) {
        self.lock().journal.clear();
    }

    pub fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.lock().sandboxes.values().cloned().collect()
    }

    /// The configuration of the newest container of a name.
    pub fn config(&self, name: &str) -> Option<ContainerConfig> {
        let state = self.lock();
        let of = state.configs.values().filter(|c| c.name == name);
        of.max_by_key(|c| c.attempt).cloned()
    }

    /// Commands end with this code from now on.
    pub fn exec_code(&self, code: i32) {
        self.lock().exec = code;
    }

    /// Forgets everything, as a host does that starts anew.
    pub fn reboot(&self) {
        let mut state = self.lock();
        state.sandboxes.clear();
        state.configs.clear();
    }

    /// A sandbox that no pod asked for.
    pub fn stray(&self, uid: &str) {
        let sandbox = SandboxStatus {
            id: format!("stray-{uid}"),
            pod_uid: uid.into(),
            pod_name: "stray".into(),
            pod_namespace: "shop".into(),
            ready: true,
            ..SandboxStatus::default()
        };
        self.lock().sandboxes.insert(sandbox.id.clone(), sandbox);
    }

    fn tell(&self) {
        // Nobody listening is fine.
        let _ = self.events.send(RuntimeEvent::Resync);
    }
}

fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap()
}

impl State {
    fn container(&mut self, id: &str) -> Option<&mut ContainerStatus> {
        let mut all = self.sandboxes.values_mut().flat_map(|s| &mut s.containers);
        all.find(|c| c.id == id)
    }

    fn end(&mut self, id: &str, code: i32) {
        if let Some(c) = self.container(id).filter(|c| c.state == ContainerState::Running) {
            c.state = ContainerState::Exited;
            c.exit_code = code;
            c.finished_at = now();
        }
    }
}

#[async_trait]
impl PodRuntime for Fake {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake://1.0".into())
    }
    async fn ready(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn run_sandbox(&self, sandbox: &SandboxConfig) -> Result<String, RuntimeError> {
        let mut state = self.lock();
        state.next += 1;
        let id = format!("s{}", state.next);
        state.journal.push(format!("run {}", sandbox.pod.name()));
        let status = SandboxStatus {
            id: id.clone(),
            pod_uid: sandbox.pod.uid().into(),
            pod_name: sandbox.pod.name().into(),
            pod_namespace: sandbox.pod.namespace().into(),
            attempt: sandbox.attempt,
            ready: true,
            ips: vec!["127.0.0.1".into()],
            created_at: now(),
            ..SandboxStatus::default()
        };
        state.sandboxes.insert(id.clone(), status);
        Ok(id)
    }
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        state.journal.push("stop sandbox".into());
        if let Some(s) = state.sandboxes.get_mut(id) {
            s.ready = false;
        }
        Ok(())
    }
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        state.journal.push("remove sandbox".into());
        state.sandboxes.remove(id);
        Ok(())
    }
    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(self.sandboxes())
    }
    async fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        Ok(self.lock().sandboxes.get(id).cloned())
    }
    async fn create_container(
        &self,
        sandbox_id: &str,
        _sandbox: &SandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let mut state = self.lock();
        let id = format!("{sandbox_id}-{}-{}", container.name, container.attempt);
        let status = ContainerStatus {
            id: id.clone(),
            name: container.name.clone(),
            attempt: container.attempt,
            state: ContainerState::Created,
            image: container.image.clone(),
            image_ref: container.image_ref.clone(),
            created_at: now(),
            ..ContainerStatus::default()
        };
        let sandbox = state.sandboxes.get_mut(sandbox_id);
        let sandbox = sandbox.ok_or_else(|| RuntimeError::NotFound("sandbox".into()))?;
        if sandbox.containers.iter().any(|c| c.id == id) {
            return Err(RuntimeError::Failed(format!("{id} is there already")));
        }
        sandbox.containers.push(status);
        state.configs.insert(id.clone(), container.clone());
        Ok(id)
    }
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        {
            let mut state = self.lock();
            let image = state.configs.get(id).map(|c| c.image.clone()).unwrap_or_default();
            let c = state
                .container(id)
                .ok_or_else(|| RuntimeError::NotFound("container".into()))?;
            c.state = ContainerState::Running;
            c.started_at = now();
            let name = c.name.clone();
            state.journal.push(format!("start {name}"));
            if let Some(code) = image.strip_prefix("exit-").and_then(|c| c.parse().ok()) {
                state.end(id, code);
            }
        }
        self.tell();
        Ok(())
    }
    async fn stop_container(&self, id: &str, _grace: Duration) -> Result<(), RuntimeError> {
        {
            let mut state = self.lock();
            let name = state.container(id).map(|c| c.name.clone()).unwrap_or_default();
            state.journal.push(format!("stop {name}"));
            // The next attempt is well.
            state.exec = 0;
            state.end(id, 137);
        }
        self.tell();
        Ok(())
    }
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let mut state = self.lock();
        for s in state.sandboxes.values_mut() {
            s.containers.retain(|c| c.id != id);
        }
        Ok(())
    }
    async fn exec_sync(&self, id: &str, command: &[String], _timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let mut state = self.lock();
        let name = state.container(id).map(|c| c.name.clone()).unwrap_or_default();
        if command.first().is_some_and(|c| c != "probe") {
            state.journal.push(format!("exec {name} {}", command.join(" ")));
        }
        Ok(ExecOutput {
            exit_code: state.exec,
            ..ExecOutput::default()
        })
    }
    async fn open_stream(&self, _request: &StreamRequest) -> Result<StreamTarget, RuntimeError> {
        Err(RuntimeError::Unsupported("streams".into()))
    }
    async fn reopen_log(&self, _id: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(Vec::new())
    }
    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        let stream = BroadcastStream::new(self.events.subscribe());
        Ok(stream.map(|e| e.unwrap_or(RuntimeEvent::Resync)).boxed())
    }
    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        let there = !image.starts_with("slow") && !image.starts_with("missing");
        Ok(there.then(|| ImageInfo {
            id: format!("sha256:{image}"),
            uid: image.starts_with("user").then_some(1000),
            ..ImageInfo::default()
        }))
    }
    async fn pull_image(&self, image: &str, _auth: Option<&RegistryAuth>) -> Result<String, RuntimeError> {
        if image.starts_with("slow") {
            self.lock().journal.push("pull slow".into());
            std::future::pending::<()>().await;
        }
        if image.starts_with("missing") {
            return Err(RuntimeError::Failed("not found in the registry".into()));
        }
        Ok(format!("sha256:{image}"))
    }
    async fn list_images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        Ok(Vec::new())
    }
    async fn remove_image(&self, _image: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
}
