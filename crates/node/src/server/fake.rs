//! Runtimes and pods that are made up for tests. Must not touch anything real.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use meta::Object;
use runtime::{
    ContainerConfig, ContainerStats, ExecOutput, ImageInfo, PodRuntime, RegistryAuth, RuntimeError, RuntimeEvent,
    SandboxConfig, SandboxStatus, StreamRequest, StreamTarget,
};

use crate::lookup::{Found, PodLookup};

/// What a command came to.
pub(crate) type Ran = Result<ExecOutput, RuntimeError>;

/// Answers from what it was given.
#[derive(Default)]
pub(crate) struct FakeRuntime {
    /// What commands come to, one after the other; the last one stays.
    pub(crate) runs: Mutex<VecDeque<Ran>>,
    /// What streams lead to, one after the other.
    pub(crate) streams: Mutex<VecDeque<StreamTarget>>,
    /// Whether ports lead to those of loopback, one at a time.
    pub(crate) connects: bool,
    /// What was asked for.
    pub(crate) asked: Mutex<Vec<StreamRequest>>,
    /// The one sandbox.
    pub(crate) sandbox: Mutex<Option<SandboxStatus>>,
    /// Use of resources.
    pub(crate) stats: Vec<ContainerStats>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A command that ended with a code.
pub(crate) fn ran(exit_code: i32) -> Ran {
    Ok(ExecOutput {
        stdout: b"out".to_vec(),
        stderr: b"err".to_vec(),
        exit_code,
    })
}

impl FakeRuntime {
    pub(crate) fn running(runs: impl IntoIterator<Item = Ran>) -> Arc<Self> {
        Arc::new(FakeRuntime {
            runs: Mutex::new(runs.into_iter().collect()),
            ..FakeRuntime::default()
        })
    }
}

fn unused<T>() -> Result<T, RuntimeError> {
    Err(RuntimeError::Unsupported("this".into()))
}

#[async_trait]
impl PodRuntime for FakeRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        Ok("fake://1".into())
    }
    async fn ready(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
    async fn run_sandbox(&self, _: &SandboxConfig) -> Result<String, RuntimeError> {
        unused()
    }
    async fn stop_sandbox(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
    async fn remove_sandbox(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        Ok(lock(&self.sandbox).iter().cloned().collect())
    }
    async fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        Ok(lock(&self.sandbox).clone().filter(|s| s.id == id))
    }
    async fn create_container(&self, _: &str, _: &SandboxConfig, _: &ContainerConfig) -> Result<String, RuntimeError> {
        unused()
    }
    async fn start_container(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
    async fn stop_container(&self, _: &str, _: Duration) -> Result<(), RuntimeError> {
        unused()
    }
    async fn remove_container(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
    async fn exec_sync(&self, _: &str, _: &[String], _: Duration) -> Ran {
        let mut runs = lock(&self.runs);
        let next = runs.pop_front().unwrap_or_else(|| ran(0));
        if runs.is_empty() {
            runs.push_back(next.clone());
        }
        next
    }
    async fn open_stream(&self, request: &StreamRequest) -> Result<StreamTarget, RuntimeError> {
        lock(&self.asked).push(request.clone());
        if let (true, StreamRequest::PortForward { ports, .. }) = (self.connects, request) {
            let [port] = ports.as_slice() else { return unused() };
            let stream = tokio::net::TcpStream::connect(("127.0.0.1", *port)).await;
            let stream = stream.map_err(|e| RuntimeError::Failed(e.to_string()))?;
            return Ok(StreamTarget::Raw(Box::new(stream)));
        }
        let next = lock(&self.streams).pop_front();
        next.ok_or_else(|| RuntimeError::Unsupported("streaming".into()))
    }
    async fn reopen_log(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        Ok(self.stats.clone())
    }
    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        unused()
    }
    async fn image_status(&self, _: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        unused()
    }
    async fn pull_image(&self, _: &str, _: Option<&RegistryAuth>) -> Result<String, RuntimeError> {
        unused()
    }
    async fn list_images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        unused()
    }
    async fn remove_image(&self, _: &str) -> Result<(), RuntimeError> {
        unused()
    }
}

/// Pods of one runtime.
pub(crate) struct FakeLookup {
    pub(crate) pods: Vec<Arc<Object>>,
    pub(crate) runtime: Arc<FakeRuntime>,
}

#[async_trait]
impl PodLookup for FakeLookup {
    async fn find(&self, namespace: &str, name: &str) -> Option<Found> {
        let pod = self
            .pods
            .iter()
            .find(|p| p.namespace() == namespace && p.name() == name)?;
        let sandbox = lock(&self.runtime.sandbox).clone();
        Some(Found {
            pod: pod.clone(),
            runtime: self.runtime.clone(),
            sandbox: sandbox.filter(|s| s.pod_name == name),
        })
    }

    fn pods(&self) -> Vec<Arc<Object>> {
        self.pods.clone()
    }

    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>> {
        vec![self.runtime.clone()]
    }
}
