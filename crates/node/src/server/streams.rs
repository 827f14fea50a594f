//! Exec, attach and port-forward. Must not speak a stream protocol itself: the
//! runtime's streaming server and crate `remotecommand` do.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use remotecommand::{Channels, Offer, protocol};
use runtime::{ContainerState, PodRuntime, RuntimeError, StreamRequest, StreamTarget, Streams};

use super::answer::{Body, Refusal};
use super::route::Query;
use super::{Shared, relay};
use crate::lookup::Found;

/// Bytes between a WebSocket and the SPDY connection in it.
const TUNNEL: usize = 64 << 10;
/// WebSocket subprotocols that the streaming servers of runtimes speak; the first we turn into SPDY,
/// which they all speak.
const SPOKEN: [&str; 6] = [
    protocol::V5,
    protocol::V4,
    "v4.base64.channel.k8s.io",
    "channel.k8s.io",
    "base64.channel.k8s.io",
    protocol::PORT_FORWARD,
];

/// What a client wants to change the connection to.
enum Wish {
    WebSocket(Offer),
    Spdy,
}

impl Wish {
    fn of(headers: &HeaderMap) -> Result<Wish, Refusal> {
        if let Some(offer) = Offer::of(headers) {
            return Ok(Wish::WebSocket(offer));
        }
        let upgrade = headers
            .get(header::UPGRADE)
            .and_then(|u| u.to_str().ok())
            .unwrap_or_default();
        if upgrade.to_ascii_lowercase().starts_with("spdy/") {
            return Ok(Wish::Spdy);
        }
        Err(Refusal::bad_request(
            "unable to upgrade: missing upgrade headers in request",
        ))
    }

    /// Whether the streaming server of a runtime can fulfil it. Clients that are refused
    /// here try SPDY next.
    fn check(&self) -> Result<(), Refusal> {
        match self {
            Wish::WebSocket(offer) if !offer.protocols.is_empty() && !SPOKEN.iter().any(|spoken| offer.has(spoken)) => {
                let offered = offer.protocols.join(", ");
                Err(Refusal::bad_request(format!(
                    "unable to upgrade: none of the subprotocols is supported: {offered}"
                )))
            }
            _ => Ok(()),
        }
    }
}

/// Runs a command.
pub(super) async fn exec(
    shared: &Shared,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wish = Wish::of(request.headers())?;
    wish.check()?;
    let streams = streams(query)?;
    let command: Vec<String> = query.all("command").map(str::to_owned).collect();
    if command.is_empty() {
        return Err(Refusal::bad_request("you must specify a command"));
    }
    let (found, container_id) = running(shared, namespace, pod, container).await?;
    let wanted = StreamRequest::Exec {
        container_id,
        command,
        streams,
    };
    let target = found.runtime.open_stream(&wanted).await?;
    channels(shared, request, &wish, target, streams).await
}

/// Attaches to the main process.
pub(super) async fn attach(
    shared: &Shared,
    (namespace, pod, container): (&str, &str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wish = Wish::of(request.headers())?;
    let streams = streams(query)?;
    let (found, container_id) = running(shared, namespace, pod, container).await?;
    if !matches!(&wish, Wish::WebSocket(offer) if offer.has(protocol::PLAIN)) {
        wish.check()?;
    }
    let wanted = StreamRequest::Attach { container_id, streams };
    let target = found.runtime.open_stream(&wanted).await?;
    channels(shared, request, &wish, target, streams).await
}

/// Leads a client to the process's streams.
async fn channels(
    shared: &Shared,
    request: Request<Incoming>,
    wish: &Wish,
    target: StreamTarget,
    streams: Streams,
) -> Result<Response<Body>, Refusal> {
    match (&target, wish) {
        (StreamTarget::Url(url), Wish::WebSocket(offer)) if offer.has(protocol::V5) => {
            let wanted = Channels {
                stdin: streams.stdin,
                stdout: streams.stdout,
                stderr: streams.stderr,
                resize: streams.tty,
            };
            relay::channels(shared, request, offer, url, wanted).await
        }
        _ => onward(shared, request, wish, target).await,
    }
}

/// Connects to ports of a pod.
pub(super) async fn port_forward(
    shared: &Shared,
    (namespace, pod): (&str, &str),
    query: &Query,
    request: Request<Incoming>,
) -> Result<Response<Body>, Refusal> {
    let wish = Wish::of(request.headers())?;
    let ports = query.all("ports").chain(query.all("port")).flat_map(|p| p.split(','));
    let wrong = |p: &str| Refusal::bad_request(format!("invalid port {p:?}"));
    let ports: Result<Vec<u16>, Refusal> = ports
        .filter(|p| !p.is_empty())
        .map(|p| p.parse().ok().filter(|p| *p > 0).ok_or_else(|| wrong(p)))
        .collect();
    let found = find(shared, namespace, pod).await?;
    let sandbox = found.sandbox.as_ref().filter(|s| s.ready);
    let sandbox = sandbox.ok_or_else(|| Refusal::bad_request(format!("pod {pod:?} is not running")))?;
    let ports = ports?;
    let any_port = ports.is_empty();
    let wanted = StreamRequest::PortForward {
        sandbox_id: sandbox.id.clone(),
        ports,
    };
    let target = match found.runtime.open_stream(&wanted).await {
        // The runtime gives one port at a time, and has no streaming server for many.
        Err(RuntimeError::Unsupported(_)) if any_port => {
            return one_by_one(shared, request, &wish, found.runtime.clone(), sandbox.id.clone());
        }
        other => other?,
    };
    match (&wish, &target) {
        (Wish::WebSocket(offer), StreamTarget::Url(url)) if offer.has(protocol::PORT_FORWARD_TUNNEL) => {
            relay::tunnel(shared, request, offer, url).await
        }
        _ => onward(shared, request, &wish, target).await,
    }
}

/// Serves port-forward in the place of the runtime, with a stream of it for every connection.
fn one_by_one(
    shared: &Shared,
    request: Request<Incoming>,
    wish: &Wish,
    runtime: Arc<dyn PodRuntime>,
    sandbox_id: String,
) -> Result<Response<Body>, Refusal> {
    let connect = move |port| {
        let (runtime, sandbox_id) = (runtime.clone(), sandbox_id.clone());
        async move {
            let ports = vec![port];
            let wanted = StreamRequest::PortForward { sandbox_id, ports };
            match runtime.open_stream(&wanted).await {
                Ok(StreamTarget::Raw(raw)) => Ok(raw),
                Ok(StreamTarget::Url(_)) => Err(format!("port {port} has no raw stream")),
                Err(e) => Err(e.to_string()),
            }
        }
    };
    match wish {
        Wish::Spdy => Ok(relay::spdy_port_forward(shared, request, connect)),
        Wish::WebSocket(offer) if offer.has(protocol::PORT_FORWARD_TUNNEL) => {
            let (near, far) = tokio::io::duplex(TUNNEL);
            shared.streams.spawn(async move {
                if let Err(error) = remotecommand::serve_port_forward(far, connect).await {
                    tracing::debug!(%error, "port-forward in a WebSocket");
                }
            });
            Ok(relay::tunnelled(shared, request, offer, near))
        }
        Wish::WebSocket(_) => Err(Refusal::bad_request(
            "unable to upgrade: none of the subprotocols is supported for this pod",
        )),
    }
}

async fn onward(
    shared: &Shared,
    request: Request<Incoming>,
    wish: &Wish,
    target: StreamTarget,
) -> Result<Response<Body>, Refusal> {
    match (target, wish) {
        (StreamTarget::Url(url), _) => {
            wish.check()?;
            relay::pass(shared, request, &url).await
        }
        (StreamTarget::Raw(raw), Wish::WebSocket(offer)) if offer.has(protocol::PLAIN) => {
            Ok(relay::plain(shared, request, offer, raw))
        }
        (StreamTarget::Raw(_), _) => Err(Refusal::bad_request(format!(
            "unable to upgrade: this stream is only served as WebSocket with subprotocol {}",
            protocol::PLAIN
        ))),
    }
}

/// Which streams are wanted; there must be one.
fn streams(query: &Query) -> Result<Streams, Refusal> {
    let tty = query.is_on("tty");
    let streams = Streams {
        stdin: query.is_on("input"),
        stdout: query.is_on("output"),
        // A terminal has one output.
        stderr: query.is_on("error") && !tty,
        tty,
    };
    if !streams.stdin && !streams.stdout && !streams.stderr {
        return Err(Refusal::bad_request(
            "you must specify at least 1 of stdin, stdout, stderr",
        ));
    }
    Ok(streams)
}

async fn find(shared: &Shared, namespace: &str, pod: &str) -> Result<Found, Refusal> {
    let found = shared.lookup.find(namespace, pod).await;
    found.ok_or_else(|| Refusal::not_found("pod does not exist"))
}

/// A pod and the id of one of its containers that runs.
async fn running(shared: &Shared, namespace: &str, pod: &str, container: &str) -> Result<(Found, String), Refusal> {
    let found = find(shared, namespace, pod).await?;
    let containers = found.sandbox.iter().flat_map(|s| &s.containers);
    let newest = containers
        .filter(|c| c.name == container && c.state == ContainerState::Running)
        .max_by_key(|c| c.attempt);
    let id = newest.map(|c| c.id.clone());
    let missing = || Refusal::new(StatusCode::NOT_FOUND, format!("container not found ({container:?})"));
    let id = id.ok_or_else(missing)?;
    Ok((found, id))
}
