//! `/machines/{namespace}/{instance}/{action}`: what reaches into a running
//! virtual machine. Must not know QEMU: it calls the port below.

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use remotecommand::Offer;
use runtime::{ContainerState, MachineChannel, RuntimeError, StreamRequest, StreamTarget};
use serde_json::Value;

use super::answer::{Body, Refusal, document, text};
use super::{Shared, relay};
use crate::lookup::Found;

/// The container of a machine's pod that is the machine.
const COMPUTE: &str = "compute";

/// What can be done to a running machine besides streams. Machines are named by the id
/// of their container.
#[async_trait]
pub trait MachineControl: Send + Sync {
    /// Stops the processors.
    async fn pause(&self, container_id: &str) -> Result<(), RuntimeError>;

    /// Lets the processors run on.
    async fn unpause(&self, container_id: &str) -> Result<(), RuntimeError>;

    /// Presses the reset button.
    async fn reset(&self, container_id: &str) -> Result<(), RuntimeError>;

    /// Asks the guest to reboot.
    async fn soft_reboot(&self, container_id: &str) -> Result<(), RuntimeError>;

    /// What the guest agent says; `what` is `guestosinfo`, `userlist` or `filesystemlist`.
    async fn guest_info(&self, container_id: &str, what: &str) -> Result<Value, RuntimeError>;
}

/// Answers.
pub(super) async fn answer(
    shared: &Shared,
    (namespace, instance): (&str, &str),
    rest: &[&str],
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let reads = request.method() == Method::GET;
    let changes = matches!(*request.method(), Method::PUT | Method::POST);
    match rest {
        ["console"] if reads => {
            stream(
                shared,
                namespace,
                instance,
                Channel::Machine(MachineChannel::Console),
                request,
            )
            .await
        }
        ["vnc"] if reads => {
            stream(
                shared,
                namespace,
                instance,
                Channel::Machine(MachineChannel::Vnc),
                request,
            )
            .await
        }
        ["portforward", port] | ["portforward", port, "tcp"] if reads => {
            let port = port.parse().ok().filter(|p| *p > 0);
            let port = port.ok_or_else(|| Refusal::bad_request("invalid port"))?;
            stream(shared, namespace, instance, Channel::Port(port), request).await
        }
        [what @ ("guestosinfo" | "userlist" | "filesystemlist")] if reads => {
            let (_, id) = machine(shared, namespace, instance).await?;
            let info = control(shared)?.guest_info(&id, what).await;
            Ok(document(&info.map_err(refusal)?))
        }
        [action] if changes => {
            let control = control(shared)?;
            let (_, id) = machine(shared, namespace, instance).await?;
            let done = match *action {
                "pause" => control.pause(&id).await,
                "unpause" => control.unpause(&id).await,
                "reset" => control.reset(&id).await,
                "softreboot" => control.soft_reboot(&id).await,
                other => return Err(unsupported(other)),
            };
            done.map_err(refusal)?;
            Ok(text(StatusCode::OK, ""))
        }
        [action, ..] => Err(unsupported(action)),
        [] => Err(Refusal::not_found("404 page not found")),
    }
}

/// Which bytes of a machine.
enum Channel {
    Machine(MachineChannel),
    Port(u16),
}

async fn stream(
    shared: &Shared,
    namespace: &str,
    instance: &str,
    channel: Channel,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let offer = Offer::of(request.headers());
    let offer = offer.ok_or_else(|| Refusal::bad_request("unable to upgrade: WebSocket is needed"))?;
    let (found, container_id) = machine(shared, namespace, instance).await?;
    let wanted = match channel {
        Channel::Machine(channel) => StreamRequest::Machine { container_id, channel },
        Channel::Port(port) => StreamRequest::PortForward {
            sandbox_id: found.sandbox.map(|s| s.id).unwrap_or_default(),
            ports: vec![port],
        },
    };
    match found.runtime.open_stream(&wanted).await.map_err(refusal)? {
        StreamTarget::Raw(raw) => Ok(relay::plain(shared, request, &offer, raw)),
        StreamTarget::Url(_) => Err(Refusal::internal("the runtime gave no raw stream of the machine")),
    }
}

fn control(shared: &Shared) -> Result<&dyn MachineControl, Refusal> {
    let none = || Refusal::bad_request("this node runs no virtual machines");
    shared.machines.as_deref().ok_or_else(none)
}

/// The pod of an instance, and the id of the container that is the machine.
async fn machine(shared: &Shared, namespace: &str, instance: &str) -> Result<(Found, String), Refusal> {
    let not_running = || Refusal::new(StatusCode::CONFLICT, "VMI is not running");
    let pods = shared.lookup.pods();
    let pods = pods.iter().filter(|pod| {
        let label = |key: &str| pod.labels().get(key).map(String::as_str);
        pod.namespace() == namespace
            && label("kubevirt.io") == Some("virt-launcher")
            && label("vm.kubevirt.io/name") == Some(instance)
    });
    for pod in pods {
        let value = pod.to_value();
        let phase = value.pointer("/status/phase").and_then(Value::as_str);
        if matches!(phase, Some("Succeeded" | "Failed")) {
            continue;
        }
        let Some(found) = shared.lookup.find(namespace, pod.name()).await else {
            continue;
        };
        let containers = found.sandbox.iter().flat_map(|s| &s.containers);
        let running = containers.filter(|c| c.name == COMPUTE && c.state == ContainerState::Running);
        if let Some(id) = running.max_by_key(|c| c.attempt).map(|c| c.id.clone()) {
            return Ok((found, id));
        }
    }
    Err(not_running())
}

/// What the machine cannot do in its present state is a conflict.
fn refusal(e: RuntimeError) -> Refusal {
    match e {
        RuntimeError::Invalid { message, .. } => Refusal::new(StatusCode::CONFLICT, message),
        other => other.into(),
    }
}

fn unsupported(action: &str) -> Refusal {
    Refusal::new(StatusCode::NOT_IMPLEMENTED, format!("{action} is not supported"))
}
