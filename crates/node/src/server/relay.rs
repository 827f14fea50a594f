//! Passes upgraded connections on: to the streaming server of a runtime, or to
//! raw bytes. Must not look into what passes.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use remotecommand::{Channels, Offer, protocol};
use runtime::Duplex;
use tokio::io::DuplexStream;
use tokio::net::TcpStream;

use super::Shared;
use super::answer::{Body, Refusal, empty, typed};

/// Limit of connecting to a runtime's streaming server and of its answer.
const CONNECT: Duration = Duration::from_secs(10);
/// Most bytes of its refusal that are passed on.
const REFUSAL: usize = 64 << 10;

/// Passes a request with its upgrade on to a URL, and the answer back.
pub(super) async fn pass(
    shared: &Shared,
    mut request: Request<Incoming>,
    url: &str,
) -> Result<Response<Body>, Refusal> {
    let client_side = hyper::upgrade::on(&mut request);
    let mut headers = request.headers().clone();
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING] {
        headers.remove(name);
    }
    let mut response = dial(url, request.method().clone(), headers).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(refused(response).await);
    }
    let runtime_side = hyper::upgrade::on(&mut response);
    let stop = shared.stop.clone();
    shared.streams.spawn(async move {
        let both = async {
            let (Ok(client), Ok(runtime)) = (client_side.await, runtime_side.await) else {
                return;
            };
            let (mut client, mut runtime) = (TokioIo::new(client), TokioIo::new(runtime));
            // Either end may hang up at any time.
            let _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut runtime, 32 << 10, 32 << 10).await;
        };
        tokio::select! {
            () = both => {}
            () = stop.cancelled() => {}
        }
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, empty()))
}

/// Carries a SPDY connection of a runtime's streaming server in a WebSocket.
pub(super) async fn tunnel(
    shared: &Shared,
    request: Request<Incoming>,
    offer: &Offer,
    url: &str,
) -> Result<Response<Body>, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    let inner = HeaderValue::from_static(protocol::PORT_FORWARD);
    headers.insert("x-stream-protocol-version", inner);
    let mut response = dial(url, Method::POST, headers).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(refused(response).await);
    }
    let runtime_side = hyper::upgrade::on(&mut response);
    let raw = async { runtime_side.await.map(TokioIo::new).map_err(io::Error::other) };
    Ok(web_socket(shared, request, offer, protocol::PORT_FORWARD_TUNNEL, raw))
}

/// Carries the channels of a WebSocket to a runtime's streaming server, as streams of SPDY.
pub(super) async fn channels(
    shared: &Shared,
    mut request: Request<Incoming>,
    offer: &Offer,
    url: &str,
    wanted: Channels,
) -> Result<Response<Body>, Refusal> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    headers.insert("x-stream-protocol-version", HeaderValue::from_static(protocol::V4));
    let mut response = dial(url, Method::POST, headers).await?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(refused(response).await);
    }
    let runtime_side = hyper::upgrade::on(&mut response);
    let client_side = hyper::upgrade::on(&mut request);
    let stop = shared.stop.clone();
    shared.streams.spawn(async move {
        let both = async {
            let client = TokioIo::new(client_side.await.map_err(io::Error::other)?);
            let runtime = TokioIo::new(runtime_side.await.map_err(io::Error::other)?);
            remotecommand::bridge_channels(client, runtime, wanted).await
        };
        tokio::select! {
            result = both => {
                if let Err(error) = result {
                    tracing::debug!(%error, "channels in a WebSocket");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    Ok(offer.accept::<()>(Some(protocol::V5)).map(|()| empty()))
}

/// Carries a SPDY connection of our own in a WebSocket.
pub(super) fn tunnelled(
    shared: &Shared,
    request: Request<Incoming>,
    offer: &Offer,
    near: DuplexStream,
) -> Response<Body> {
    web_socket(shared, request, offer, protocol::PORT_FORWARD_TUNNEL, async {
        Ok(near)
    })
}

/// Switches to SPDY and serves port-forward; `connect` leads to a port.
pub(super) fn spdy_port_forward<F>(
    shared: &Shared,
    mut request: Request<Incoming>,
    connect: impl Fn(u16) -> F + Send + Sync + 'static,
) -> Response<Body>
where
    F: Future<Output = Result<Box<dyn Duplex>, String>> + Send + 'static,
{
    let client_side = hyper::upgrade::on(&mut request);
    let stop = shared.stop.clone();
    shared.streams.spawn(async move {
        let serving = async {
            let client = TokioIo::new(client_side.await.map_err(io::Error::other)?);
            remotecommand::serve_port_forward(client, connect).await
        };
        tokio::select! {
            result = serving => {
                if let Err(error) = result {
                    tracing::debug!(%error, "port-forward over SPDY");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    let mut response = Response::new(empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
    let inner = HeaderValue::from_static(protocol::PORT_FORWARD);
    headers.insert("x-stream-protocol-version", inner);
    response
}

/// Carries raw bytes in a WebSocket.
pub(super) fn plain(
    shared: &Shared,
    request: Request<Incoming>,
    offer: &Offer,
    raw: Box<dyn Duplex>,
) -> Response<Body> {
    web_socket(shared, request, offer, protocol::PLAIN, async { Ok(raw) })
}

fn web_socket<R: Duplex + 'static>(
    shared: &Shared,
    mut request: Request<Incoming>,
    offer: &Offer,
    protocol: &'static str,
    raw: impl Future<Output = io::Result<R>> + Send + 'static,
) -> Response<Body> {
    let client_side = hyper::upgrade::on(&mut request);
    let stop = shared.stop.clone();
    shared.streams.spawn(async move {
        tokio::select! {
            result = joined(client_side, raw) => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a stream of bytes in a WebSocket");
                }
            }
            () = stop.cancelled() => {}
        }
    });
    let chosen = offer.has(protocol).then_some(protocol);
    offer.accept::<()>(chosen).map(|()| empty())
}

async fn joined<R: Duplex>(client: OnUpgrade, raw: impl Future<Output = io::Result<R>>) -> io::Result<()> {
    let client = TokioIo::new(client.await.map_err(io::Error::other)?);
    remotecommand::bridge(client, raw.await?).await
}

/// Sends the head of a request to a runtime's streaming server.
async fn dial(url: &str, method: Method, headers: HeaderMap) -> Result<Response<Incoming>, Refusal> {
    let failed = |why: String| Refusal::new(StatusCode::BAD_GATEWAY, format!("error dialing backend: {why}"));
    let uri: Uri = url.parse().map_err(|e| failed(format!("{e}")))?;
    let (Some("http"), Some(host)) = (uri.scheme_str(), uri.host()) else {
        return Err(failed("the runtime's streaming server must be reached by http".into()));
    };
    let address = (host.trim_matches(['[', ']']).to_owned(), uri.port_u16().unwrap_or(80));
    let path = uri.path_and_query().map_or("/", |p| p.as_str());
    let mut request = Request::new(Empty::<Bytes>::new());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().map_err(|e| failed(format!("{e}")))?;
    *request.headers_mut() = headers;
    if let Some(authority) = uri.authority()
        && let Ok(value) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, value);
    }
    let exchange = async {
        let stream = TcpStream::connect((address.0.as_str(), address.1)).await?;
        stream.set_nodelay(true)?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(io::Error::other)?;
        // Ends with the stream that comes of it.
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await.map_err(io::Error::other)
    };
    match tokio::time::timeout(CONNECT, exchange).await {
        Ok(answered) => answered.map_err(|e| failed(e.to_string())),
        Err(_) => Err(failed("timed out".into())),
    }
}

async fn refused(response: Response<Incoming>) -> Response<Body> {
    let status = response.status();
    // Without its words the status has to say it all.
    let body = Limited::new(response.into_body(), REFUSAL).collect().await;
    let bytes = body.map(|b| b.to_bytes()).unwrap_or_default();
    let status = if status.is_success() {
        StatusCode::BAD_GATEWAY
    } else {
        status
    };
    typed(status, "text/plain; charset=utf-8", bytes)
}
