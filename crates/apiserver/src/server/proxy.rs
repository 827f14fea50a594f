//! Requests that are passed on: to nodes (logs, exec, attach, port-forward,
//! consoles) and to pods and services. Upgrades (WebSocket, SPDY) are passed
//! through unchanged. Must not pass on credentials.

use std::net::IpAddr;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::{HeaderMap, Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use meta::Status;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Body, Frontend};
use crate::registry::Target;

/// Limit of a connection to a node.
const CONNECT: Duration = Duration::from_secs(10);
/// Headers that belong to one hop, and credentials.
const HELD_BACK: [HeaderName; 8] = [
    header::AUTHORIZATION,
    header::COOKIE,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
];

/// Where a request is passed on to.
pub(crate) struct Destination {
    /// Host and port.
    pub address: (String, u16),
    /// Name in the certificate; `None` for plain HTTP.
    pub tls: Option<String>,
    /// Path and query.
    pub path: String,
}

impl Frontend {
    /// A path on a node's server.
    pub(crate) fn on_node(&self, node: &str, path: String) -> Result<Destination, Status> {
        let nodes = self.core.catalog.find("", "nodes").ok_or_else(Status::no_such_path)?;
        let object = self.core.current(Target::of(nodes, "", node))?;
        let value = object.to_value();
        let addresses = value.pointer("/status/addresses").and_then(serde_json::Value::as_array);
        let of = |kind: &str| {
            let found = addresses.into_iter().flatten().find(|a| a["type"] == kind);
            found.and_then(|a| a["address"].as_str()).map(str::to_owned)
        };
        let host = of("InternalIP").or_else(|| of("Hostname"));
        let host = host.ok_or_else(|| Status::unavailable(format!("node {node:?} has reported no address yet")))?;
        let port = value
            .pointer("/status/daemonEndpoints/kubeletEndpoint/Port")
            .and_then(serde_json::Value::as_u64);
        let port = port
            .and_then(|p| u16::try_from(p).ok())
            .filter(|p| *p > 0)
            .unwrap_or(10250);
        Ok(Destination {
            address: (host, port),
            tls: Some(node.to_owned()),
            path,
        })
    }

    /// Passes a request on and its answer back.
    pub(crate) async fn pass_on(
        &self,
        mut request: Request<Incoming>,
        to: Destination,
    ) -> Result<Response<Body>, Status> {
        let upgrade = upgrade_of(request.headers());
        let client_side = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let (parts, body) = request.into_parts();
        let mut onward = Request::builder().method(parts.method);
        let uri = to
            .path
            .parse::<Uri>()
            .map_err(|_| Status::bad_request("the path cannot be passed on"))?;
        onward = onward.uri(uri);
        let mut onward = onward.body(body).map_err(Status::internal)?;
        *onward.headers_mut() = onward_headers(&parts.headers, upgrade.as_ref());
        if let Ok(host) = HeaderValue::from_str(to.tls.as_deref().unwrap_or(&to.address.0)) {
            onward.headers_mut().insert(header::HOST, host);
        }
        let failed = |why: &dyn std::fmt::Display| {
            Status::new(
                502,
                meta::Reason::ServiceUnavailable,
                format!("error dialing backend {}:{}: {why}", to.address.0, to.address.1),
            )
        };
        let connect = self.connect(&to, onward);
        let connected = tokio::time::timeout(CONNECT, connect)
            .await
            .map_err(|_| failed(&"timed out"))?;
        let mut response = connected.map_err(|e| failed(&e))?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client_side) = client_side
        {
            let node_side = hyper::upgrade::on(&mut response);
            let stop = self.core.stop.clone();
            tokio::spawn(async move {
                let (Ok(client), Ok(node)) = (client_side.await, node_side.await) else {
                    return;
                };
                let (mut client, mut node) = (TokioIo::new(client), TokioIo::new(node));
                tokio::select! {
                    // Either end may hang up at any time.
                    _ = tokio::io::copy_bidirectional_with_sizes(&mut client, &mut node, 32 << 10, 32 << 10) => {}
                    () = stop.cancelled() => {}
                }
            });
            let (parts, _) = response.into_parts();
            return Ok(Response::from_parts(parts, Body::empty()));
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.remove(header::CONNECTION);
        parts.headers.remove(header::TRANSFER_ENCODING);
        Ok(Response::from_parts(parts, Body::Node(body)))
    }

    async fn connect(
        &self,
        to: &Destination,
        request: Request<Incoming>,
    ) -> Result<Response<Incoming>, std::io::Error> {
        let stream = TcpStream::connect((to.address.0.as_str(), to.address.1)).await?;
        stream.set_nodelay(true)?;
        let Some(name) = &to.tls else {
            return exchange(stream, request).await;
        };
        let config = self.core.config.node_tls.clone();
        let config = config.ok_or_else(|| std::io::Error::other("no client certificate for nodes is configured"))?;
        let name = match name.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(name.clone()).map_err(std::io::Error::other)?,
        };
        let tls = TlsConnector::from(config).connect(name, stream).await?;
        exchange(tls, request).await
    }
}

async fn exchange<S>(stream: S, request: Request<Incoming>) -> Result<Response<Incoming>, std::io::Error>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(std::io::Error::other)?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(std::io::Error::other)
}

fn upgrade_of(headers: &HeaderMap) -> Option<HeaderValue> {
    let connection = headers.get(header::CONNECTION)?.to_str().ok()?;
    let upgrades = connection.split(',').any(|c| c.trim().eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| upgrades).cloned()
}

fn onward_headers(headers: &HeaderMap, upgrade: Option<&HeaderValue>) -> HeaderMap {
    let mut out = HeaderMap::new();
    for (name, value) in headers {
        let hop = *name == header::CONNECTION || *name == header::UPGRADE || name.as_str() == "keep-alive";
        let identity = name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-");
        if !hop && !identity && !HELD_BACK.contains(name) {
            out.append(name.clone(), value.clone());
        }
    }
    // A token may travel as a subprotocol.
    if let Some(protocols) = headers.get("sec-websocket-protocol").and_then(|v| v.to_str().ok()) {
        let kept: Vec<&str> = protocols
            .split(',')
            .map(str::trim)
            .filter(|p| !p.starts_with("base64url.bearer."))
            .collect();
        if let Ok(value) = HeaderValue::from_str(&kept.join(", ")) {
            out.insert("sec-websocket-protocol", value);
        }
    }
    if let Some(upgrade) = upgrade {
        out.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        out.insert(header::UPGRADE, upgrade.clone());
    }
    out
}
