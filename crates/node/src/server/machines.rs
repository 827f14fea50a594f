//! `/machines/{namespace}/{instance}/{action}`: what reaches into a running
//! virtual machine. Must not know QEMU: it calls the port below.

use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use remotecommand::Offer;
use runtime::{ContainerState, MachineChannel, RuntimeError, StreamRequest, StreamTarget};
use serde_json::Value;

use super::answer::{Body, Refusal, document, text, typed};
use super::{Shared, relay};
use crate::lookup::Found;

/// The container of a machine's pod that is the machine.
const COMPUTE: &str = "compute";
/// Longest body of a request.
const LONGEST_BODY: usize = 64 << 10;

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

    /// Holds the guest's filesystems still; by itself it lets them go on after `at_most`, when that
    /// is not zero.
    async fn freeze(&self, _container_id: &str, _at_most: Duration) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported("freeze".into()))
    }

    /// Lets the guest's filesystems go on.
    async fn unfreeze(&self, _container_id: &str) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported("unfreeze".into()))
    }

    /// A picture of the display, as PNG.
    async fn screenshot(&self, _container_id: &str) -> Result<Vec<u8>, RuntimeError> {
        Err(RuntimeError::Unsupported("a screenshot".into()))
    }
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
        ["usbredir"] if reads => {
            let channel = Channel::Machine(MachineChannel::UsbRedirection);
            stream(shared, namespace, instance, channel, request).await
        }
        ["vnc", "screenshot"] if reads => {
            let (_, id) = machine(shared, namespace, instance).await?;
            let picture = control(shared)?.screenshot(&id).await.map_err(refusal)?;
            Ok(typed(StatusCode::OK, "image/png", picture))
        }
        ["portforward", port] | ["portforward", port, "tcp"] if reads => {
            let port = port.parse().ok().filter(|p| *p > 0);
            let port = port.ok_or_else(|| Refusal::bad_request("invalid port"))?;
            stream(shared, namespace, instance, Channel::Port(port), request).await
        }
        ["portforward", port, "udp"] if reads => {
            let port = port.parse().ok().filter(|p| *p > 0);
            let port = port.ok_or_else(|| Refusal::bad_request("invalid port"))?;
            let channel = Channel::Machine(MachineChannel::Udp(port));
            stream(shared, namespace, instance, channel, request).await
        }
        [what @ ("guestosinfo" | "userlist" | "filesystemlist")] if reads => {
            let (_, id) = machine(shared, namespace, instance).await?;
            let info = control(shared)?.guest_info(&id, what).await;
            Ok(document(&info.map_err(refusal)?))
        }
        [action] if changes => {
            let control = control(shared)?;
            let (_, id) = machine(shared, namespace, instance).await?;
            let options = body(request).await?;
            let mut dry = options["dryRun"].as_array().into_iter().flatten();
            if dry.any(|d| d == "All") {
                return Ok(text(StatusCode::OK, ""));
            }
            let done = match *action {
                "pause" => control.pause(&id).await,
                "unpause" => control.unpause(&id).await,
                "reset" => control.reset(&id).await,
                "softreboot" => control.soft_reboot(&id).await,
                "freeze" => {
                    let at_most = thaw_after(&options)?;
                    control.freeze(&id, at_most).await
                }
                "unfreeze" => control.unfreeze(&id).await,
                other => return Err(unsupported(other)),
            };
            done.map_err(refusal)?;
            Ok(text(StatusCode::OK, ""))
        }
        [action, ..] => Err(unsupported(action)),
        [] => Err(Refusal::not_found("404 page not found")),
    }
}

/// A small body, as JSON; null for none.
async fn body(request: Request<Incoming>) -> Result<Value, Refusal> {
    let limited = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
    let bytes = limited.map_err(|e| Refusal::bad_request(e.to_string()))?.to_bytes();
    if bytes.trim_ascii().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(&bytes).map_err(|e| Refusal::bad_request(e.to_string()))
}

/// When a frozen guest goes on by itself, as the request says.
fn thaw_after(body: &Value) -> Result<Duration, Refusal> {
    let Some(text) = body["unfreezeTimeout"].as_str() else {
        return Err(Refusal::bad_request("Unfreeze timeout in freeze request is not set"));
    };
    duration(text).ok_or_else(|| Refusal::bad_request("failed to unmarshal unfreeze timeout"))
}

/// A duration as Go writes it, such as `5m0s`.
fn duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() && rest != "0" {
        let number = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (value, after) = rest.split_at(number);
        let unit = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, next) = after.split_at(unit);
        let scale = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "\u{b5}s" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += value.parse::<f64>().ok()? * scale;
        rest = next;
    }
    Duration::try_from_secs_f64(seconds).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_writes_them() {
        let seconds = |text: &str| duration(text).map(|d| d.as_secs_f64());
        assert_eq!(seconds("5m0s"), Some(300.0));
        assert_eq!(seconds("1h2m3.5s"), Some(3723.5));
        assert_eq!(seconds("250ms"), Some(0.25));
        assert_eq!(seconds("0"), Some(0.0));
        for junk in ["5", "m", "5x", "-5s", "1e9s"] {
            assert_eq!(duration(junk), None, "{junk}");
        }
    }
}
