//! [`CriRuntime`]: `PodRuntime` over a CRI v1 socket.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use futures::StreamExt;
use futures::future::try_join_all;
use futures::stream::BoxStream;
use k8s_cri::v1 as cri;
use k8s_cri::v1::image_service_client::ImageServiceClient;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use runtime::{
    ContainerConfig, ContainerStats, ContainerStatus, ExecOutput, ImageInfo, PodRuntime, RegistryAuth, RuntimeError,
    RuntimeEvent, SandboxConfig, SandboxStatus, StreamRequest, StreamTarget,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tracing::trace;

use crate::channel::{error, lazy, socket_path, timed};
use crate::convert;
use crate::events::{self, Owners};
use crate::image::Images;

const CALL: Duration = Duration::from_secs(120);
/// Largest message: lists of many containers.
const MESSAGE_MAX: usize = 64 << 20;

/// Containers through CRI. Connects lazily and again after the runtime was restarted.
pub struct CriRuntime {
    channel: Channel,
    client: RuntimeServiceClient<Channel>,
    images: Images,
    owners: Owners,
}

impl CriRuntime {
    /// A runtime at an endpoint: `unix:///run/x.sock` or a plain path.
    pub fn new(endpoint: &str) -> Self {
        let socket = socket_path(endpoint);
        let channel = lazy(&socket);
        let images = ImageServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX);
        CriRuntime {
            client: RuntimeServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_MAX),
            images: Images {
                client: images,
                ctr: PathBuf::from("ctr"),
                socket,
            },
            channel,
            owners: Owners::default(),
        }
    }

    /// Imports a docker archive or an OCI layout (archive or directory); `name` names images
    /// of a layout that carries no names. Returns the names of what was imported.
    pub async fn import(&self, path: &Path, name: Option<&str>) -> Result<Vec<String>, RuntimeError> {
        self.images.import(path, name).await
    }

    async fn call<M, A, F>(&self, what: &str, message: M, run: impl FnOnce(RuntimeServiceClient<Channel>, Request<M>) -> F) -> Result<A, RuntimeError>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let begun = Instant::now();
        let answer = run(self.client.clone(), timed(message, CALL)).await;
        trace!(call = std::any::type_name::<M>(), microseconds = begun.elapsed().as_micros(), "CRI");
        answer.map(Response::into_inner).map_err(|s| error(what, &s))
    }

    async fn container_list(&self, filter: Option<cri::ContainerFilter>) -> Result<Vec<cri::Container>, RuntimeError> {
        let request = cri::ListContainersRequest { filter };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.list_containers(r).await;
        let list = self.call("list containers", request, run).await?.containers;
        for c in &list {
            self.owners.put(&c.id, &c.pod_sandbox_id);
        }
        Ok(list)
    }

    /// `None` when it was removed meanwhile.
    async fn container_status(&self, id: &str) -> Result<Option<ContainerStatus>, RuntimeError> {
        let request = cri::ContainerStatusRequest {
            container_id: id.to_owned(),
            verbose: false,
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.container_status(r).await;
        match self.call("container status", request, run).await {
            Ok(answer) => Ok(answer.status.map(convert::container_status)),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn sandbox_status(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: id.to_owned(),
            verbose: false,
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.pod_sandbox_status(r).await;
        match self.call("sandbox status", request, run).await {
            Ok(answer) => Ok(answer.status.map(convert::sandbox_status)),
            Err(RuntimeError::NotFound(_)) => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn runtime_condition(&self) -> Result<(), RuntimeError> {
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.status(r).await;
        let answer = self.call("runtime status", cri::StatusRequest::default(), run).await?;
        let conditions = answer.status.unwrap_or_default().conditions;
        match conditions.into_iter().find(|c| !c.status) {
            None => Ok(()),
            Some(c) => Err(RuntimeError::Unavailable(format!("{}: {} {}", c.r#type, c.reason, c.message))),
        }
    }
}

#[async_trait]
impl PodRuntime for CriRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.version(r).await;
        let v = self.call("version", cri::VersionRequest::default(), run).await?;
        // Debian adds its own suffix; kubectl users know the plain number.
        let number = v.runtime_version.trim_start_matches('v').split('~').next().unwrap_or_default();
        Ok(format!("{}://{number}", v.runtime_name))
    }

    async fn ready(&self) -> Result<(), RuntimeError> {
        self.runtime_condition().await
    }

    async fn run_sandbox(&self, sandbox: &SandboxConfig) -> Result<String, RuntimeError> {
        let request = cri::RunPodSandboxRequest {
            config: Some(convert::sandbox(sandbox)),
            runtime_handler: String::new(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.run_pod_sandbox(r).await;
        Ok(self.call("", request, run).await?.pod_sandbox_id)
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StopPodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.stop_pod_sandbox(r).await;
        absent_is_fine(self.call("stop sandbox", request, run).await.map(|_| ()))
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemovePodSandboxRequest {
            pod_sandbox_id: id.to_owned(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.remove_pod_sandbox(r).await;
        absent_is_fine(self.call("remove sandbox", request, run).await.map(|_| ()))
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.list_pod_sandbox(r).await;
        let request = cri::ListPodSandboxRequest::default();
        let sandboxes = self.call("list sandboxes", request, run).await?.items;
        let containers = self.container_list(None).await?;
        let found = try_join_all(containers.iter().map(|c| self.container_status(&c.id))).await?;
        let mut by_sandbox: HashMap<&str, Vec<ContainerStatus>> = HashMap::new();
        for (c, status) in containers.iter().zip(found) {
            by_sandbox.entry(&c.pod_sandbox_id).or_default().extend(status);
        }
        let ids: Vec<_> = sandboxes.iter().map(|s| s.id.clone()).collect();
        let full = try_join_all(ids.iter().map(|id| self.sandbox_status(id))).await?;
        let mut out = Vec::new();
        for (listed, full) in sandboxes.into_iter().zip(full) {
            let mut s = full.unwrap_or_else(|| convert::listed_sandbox(listed));
            s.containers = by_sandbox.remove(s.id.as_str()).unwrap_or_default();
            out.push(s);
        }
        Ok(out)
    }

    async fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        let filter = cri::ContainerFilter {
            pod_sandbox_id: id.to_owned(),
            ..Default::default()
        };
        let (sandbox, containers) = tokio::try_join!(self.sandbox_status(id), self.container_list(Some(filter)))?;
        let Some(mut sandbox) = sandbox else {
            return Ok(None);
        };
        let found = try_join_all(containers.iter().map(|c| self.container_status(&c.id))).await?;
        sandbox.containers = found.into_iter().flatten().collect();
        Ok(Some(sandbox))
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        sandbox: &SandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: sandbox_id.to_owned(),
            config: Some(convert::container(container, sandbox.namespaces)),
            sandbox_config: Some(convert::sandbox(sandbox)),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.create_container(r).await;
        let id = self.call("", request, run).await?.container_id;
        self.owners.put(&id, sandbox_id);
        Ok(id)
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::StartContainerRequest {
            container_id: id.to_owned(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.start_container(r).await;
        self.call("", request, run).await.map(|_| ())
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let message = cri::StopContainerRequest {
            container_id: id.to_owned(),
            timeout: i64::try_from(grace.as_secs()).unwrap_or(i64::MAX),
        };
        let answer = self.client.clone().stop_container(timed(message, grace.saturating_add(CALL))).await;
        absent_is_fine(answer.map(|_| ()).map_err(|s| error("stop container", &s)))
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::RemoveContainerRequest {
            container_id: id.to_owned(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.remove_container(r).await;
        absent_is_fine(self.call("remove container", request, run).await.map(|_| ()))?;
        self.owners.forget(id);
        Ok(())
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        let message = cri::ExecSyncRequest {
            container_id: id.to_owned(),
            cmd: command.to_vec(),
            timeout: i64::try_from(timeout.as_secs().max(1)).unwrap_or(i64::MAX),
        };
        let limit = timeout.saturating_add(Duration::from_secs(10));
        let answer = self.client.clone().exec_sync(timed(message, limit)).await;
        let out = answer.map(Response::into_inner).map_err(|s| error("exec", &s))?;
        Ok(ExecOutput {
            stdout: out.stdout,
            stderr: out.stderr,
            exit_code: out.exit_code,
        })
    }

    async fn open_stream(&self, request: &StreamRequest) -> Result<StreamTarget, RuntimeError> {
        let url = match request {
            StreamRequest::Exec { container_id, command, streams } => {
                let request = cri::ExecRequest {
                    container_id: container_id.clone(),
                    cmd: command.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    // With a terminal there is one output stream, and CRI refuses a second.
                    stderr: streams.stderr && !streams.tty,
                };
                let run = async |mut c: RuntimeServiceClient<Channel>, r| c.exec(r).await;
                self.call("exec", request, run).await?.url
            }
            StreamRequest::Attach { container_id, streams } => {
                let request = cri::AttachRequest {
                    container_id: container_id.clone(),
                    tty: streams.tty,
                    stdin: streams.stdin,
                    stdout: streams.stdout,
                    stderr: streams.stderr && !streams.tty,
                };
                let run = async |mut c: RuntimeServiceClient<Channel>, r| c.attach(r).await;
                self.call("attach", request, run).await?.url
            }
            StreamRequest::PortForward { sandbox_id, ports } => {
                let request = cri::PortForwardRequest {
                    pod_sandbox_id: sandbox_id.clone(),
                    port: ports.iter().map(|p| i32::from(*p)).collect(),
                };
                let run = async |mut c: RuntimeServiceClient<Channel>, r| c.port_forward(r).await;
                self.call("port-forward", request, run).await?.url
            }
            StreamRequest::Machine { .. } => return Err(RuntimeError::Unsupported("a machine's channel".into())),
        };
        Ok(StreamTarget::Url(url))
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        let request = cri::ReopenContainerLogRequest {
            container_id: id.to_owned(),
        };
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.reopen_container_log(r).await;
        self.call("reopen log", request, run).await.map(|_| ())
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        let run = async |mut c: RuntimeServiceClient<Channel>, r| c.list_container_stats(r).await;
        let answer = self.call("stats", cri::ListContainerStatsRequest::default(), run).await?;
        Ok(answer.stats.into_iter().filter_map(stats).collect())
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        let (out, stream) = mpsc::channel(256);
        tokio::spawn(events::follow(self.channel.clone(), self.owners.clone(), out));
        Ok(ReceiverStream::new(stream).boxed())
    }

    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        self.images.status(image).await
    }

    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String, RuntimeError> {
        self.images.pull(image, auth).await
    }

    async fn list_images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        self.images.list().await
    }

    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError> {
        self.images.remove(image).await
    }

    async fn mount_image(&self, image: &str, target: &Path) -> Result<(), RuntimeError> {
        self.images.mount(image, target).await
    }

    async fn unmount_image(&self, target: &Path) -> Result<(), RuntimeError> {
        self.images.unmount(target).await
    }
}

fn absent_is_fine(result: Result<(), RuntimeError>) -> Result<(), RuntimeError> {
    match result {
        Err(RuntimeError::NotFound(_)) => Ok(()),
        other => other,
    }
}

fn stats(s: cri::ContainerStats) -> Option<ContainerStats> {
    let attributes = s.attributes?;
    let cpu = s.cpu.unwrap_or_default();
    let working_set = s.memory.and_then(|m| m.working_set_bytes).map_or(0, |v| v.value);
    Some(ContainerStats {
        pod_uid: attributes.labels.get("io.kubernetes.pod.uid").cloned().unwrap_or_default(),
        name: attributes.metadata.unwrap_or_default().name,
        timestamp: cpu.timestamp,
        cpu_usage: cpu.usage_core_nano_seconds.map_or(0, |v| v.value),
        memory_working_set: working_set,
    })
}
