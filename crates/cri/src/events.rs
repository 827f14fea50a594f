//! What changes in the runtime, from the best source that it has: CRI's container
//! events, else containerd's own events, else a look every second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use k8s_cri::v1 as cri;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use prost::Message;
use runtime::RuntimeEvent;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};
use tracing::{debug, warn};

use crate::NAMESPACE;

/// How long to wait before the runtime is tried again.
const AGAIN: Duration = Duration::from_millis(200);
/// A subscription is in place after this long, though servers say so only with the first event.
const SETTLED: Duration = Duration::from_millis(100);

/// Which sandbox a container belongs to. Grows with what was listed and created; forgotten on removal.
#[derive(Clone, Default)]
pub struct Owners(Arc<Mutex<HashMap<String, String>>>);

impl Owners {
    pub fn put(&self, container: &str, sandbox: &str) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.insert(container.to_owned(), sandbox.to_owned());
    }

    pub fn forget(&self, container: &str) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.remove(container);
    }

    pub fn of(&self, container: &str) -> Option<String> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(container).cloned()
    }
}

/// Feeds `out` until nobody listens any more.
pub async fn follow(channel: Channel, owners: Owners, out: mpsc::Sender<RuntimeEvent>) {
    let source = Source { channel, owners, out };
    let mut use_cri = true;
    while !source.out.is_closed() {
        let ended = if use_cri {
            source.container_events().await
        } else {
            source.containerd_events().await
        };
        match ended {
            Err(status) if status.code() == Code::Unimplemented && use_cri => use_cri = false,
            Err(status) if status.code() == Code::Unimplemented => {
                warn!("the runtime tells no events; it is asked every second");
                return source.relist().await;
            }
            Err(status) => {
                debug!(%status, "runtime events broke off");
                tokio::time::sleep(AGAIN).await;
            }
            Ok(()) => tokio::time::sleep(AGAIN).await,
        }
    }
}

struct Source {
    channel: Channel,
    owners: Owners,
    out: mpsc::Sender<RuntimeEvent>,
}

impl Source {
    async fn send(&self, event: RuntimeEvent) {
        // A receiver that is gone ends `follow` at its next turn.
        let _ = self.out.send(event).await;
    }

    /// Servers answer a subscription with its first event only; until then whoever listens must
    /// look once by itself, since events before the subscription are lost.
    async fn subscribed<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<Streaming<T>>, Status>>,
    ) -> Result<Streaming<T>, Status> {
        tokio::pin!(call);
        tokio::select! {
            answer = &mut call => {
                let stream = answer?.into_inner();
                self.send(RuntimeEvent::Resync).await;
                return Ok(stream);
            }
            () = tokio::time::sleep(SETTLED) => self.send(RuntimeEvent::Resync).await,
        }
        tokio::select! {
            answer = &mut call => answer.map(tonic::Response::into_inner),
            () = self.out.closed() => Err(Status::cancelled("nobody listens")),
        }
    }

    async fn container_events(&self) -> Result<(), Status> {
        let mut client = RuntimeServiceClient::new(self.channel.clone());
        let call = client.get_container_events(cri::GetEventsRequest {});
        let mut events = self.subscribed(call).await?;
        while let Some(event) = next(&mut events, &self.out).await? {
            let sandbox = event.pod_sandbox_status.unwrap_or_default();
            let event = if sandbox.id.is_empty() {
                RuntimeEvent::Resync
            } else {
                RuntimeEvent::Sandbox {
                    id: sandbox.id,
                    pod_uid: sandbox.metadata.unwrap_or_default().uid,
                }
            };
            self.send(event).await;
        }
        Ok(())
    }

    async fn containerd_events(&self) -> Result<(), Status> {
        let mut grpc = Grpc::new(self.channel.clone());
        grpc.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
        let request = SubscribeRequest {
            filters: vec![format!("namespace=={NAMESPACE}")],
        };
        let path = PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
        let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
        let call = grpc.server_streaming(tonic::Request::new(request), path, codec);
        let mut events = self.subscribed(call).await?;
        while let Some(envelope) = next(&mut events, &self.out).await? {
            let payload = envelope.event.unwrap_or_default().value;
            let Ok(task) = TaskEvent::decode(payload.as_slice()) else {
                continue;
            };
            match envelope.topic.as_str() {
                // Processes of exec end too; only the container's own is news.
                "/tasks/exit" if task.exec_id.is_empty() || task.exec_id == task.container_id => {
                    let (channel, owners, out) = (self.channel.clone(), self.owners.clone(), self.out.clone());
                    tokio::spawn(async move { ended(channel, owners, out, task.container_id).await });
                }
                "/tasks/oom" => self.changed(&task.container_id).await,
                _ => {}
            }
        }
        Ok(())
    }

    async fn changed(&self, container: &str) {
        let event = RuntimeEvent::Sandbox {
            id: self.owners.of(container).unwrap_or_else(|| container.to_owned()),
            pod_uid: String::new(),
        };
        self.send(event).await;
    }

    async fn relist(&self) {
        while !self.out.is_closed() {
            self.send(RuntimeEvent::Resync).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

async fn next<T>(events: &mut Streaming<T>, out: &mpsc::Sender<RuntimeEvent>) -> Result<Option<T>, Status> {
    tokio::select! {
        message = events.message() => message,
        () = out.closed() => Ok(None),
    }
}

/// The exit event reaches us and containerd's CRI part at the same time. Whoever looks at once
/// may still see the container running, so the news is passed on when CRI knows it.
async fn ended(channel: Channel, owners: Owners, out: mpsc::Sender<RuntimeEvent>, container: String) {
    let mut client = RuntimeServiceClient::new(channel);
    let sandbox = owners.of(&container);
    for wait in [1_u64, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024] {
        let known = match &sandbox {
            Some(_) => {
                let request = cri::ContainerStatusRequest {
                    container_id: container.clone(),
                    verbose: false,
                };
                let answer = client.container_status(request).await.map(tonic::Response::into_inner);
                answer.map_or(true, |a| {
                    a.status.is_none_or(|s| s.state() == cri::ContainerState::ContainerExited)
                })
            }
            None => {
                let request = cri::PodSandboxStatusRequest {
                    pod_sandbox_id: container.clone(),
                    verbose: false,
                };
                let answer = client.pod_sandbox_status(request).await.map(tonic::Response::into_inner);
                answer.map_or(true, |a| {
                    a.status.is_none_or(|s| s.state() == cri::PodSandboxState::SandboxNotready)
                })
            }
        };
        if known {
            break;
        }
        tokio::time::sleep(Duration::from_millis(wait)).await;
    }
    let id = sandbox.unwrap_or(container);
    let event = RuntimeEvent::Sandbox {
        id,
        pod_uid: String::new(),
    };
    let _ = out.send(event).await;
}

/// `containerd.services.events.v1.SubscribeRequest`.
#[derive(Clone, PartialEq, Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// `containerd.services.events.v1.Envelope`.
#[derive(Clone, PartialEq, Message)]
struct Envelope {
    #[prost(message, optional, tag = "1")]
    timestamp: Option<prost_types::Timestamp>,
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<prost_types::Any>,
}

/// What `containerd.events.TaskExit` and `TaskOOM` have in common. Only `TaskExit` has an id
/// of its process; it equals the container's for the main process.
#[derive(Clone, PartialEq, Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    exec_id: String,
}
