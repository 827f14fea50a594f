//! HTTPS: connections, limits, and the way of a request through the server.
//! Must not decide what a request means: that is the engine's.

mod accept;
mod body;
mod compress;
mod dispatch;
mod form;
mod handle;
mod health;
mod intake;
mod machine;
mod metrics;
mod proxy;
mod recent;
mod respond;
mod route;
mod subresource;
mod writer;

pub use body::Body;
pub use metrics::Metrics;

/// What discovery needs of the server to answer.
pub(crate) mod discovery_tools {
    pub(crate) use super::compress::{document as gzip, wanted as wants_gzip};
    pub(crate) use super::dispatch::{Admitted, header};
    pub(crate) use super::health::accept;
    pub(crate) use super::respond::json as json_answer;

    /// A document in the media type that the client accepts, else in JSON.
    pub(crate) fn answer(admitted: &Admitted, value: &serde_json::Value) -> http::Response<super::Body> {
        super::respond::value(200, super::accept::Media::for_errors(accept(admitted)), value)
    }
}

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::core::Core;
use crate::discovery::Discovery;
use crate::identity::User;

/// Limit of a TLS handshake, and of the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// How long requests may take to finish after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Bytes of the head of a request.
const HEAD_BYTES: usize = 64 << 10;

/// What all connections share.
pub struct Frontend {
    pub(crate) core: Arc<Core>,
    pub(crate) discovery: Discovery,
    pub(crate) metrics: Metrics,
    pub(crate) recent: Arc<recent::Recent>,
    pub(crate) in_flight: tokio::sync::Semaphore,
    pub(crate) stop: CancellationToken,
}

/// What a connection's requests have in common.
pub(crate) struct Connection {
    /// From a verified client certificate.
    pub certificate: Option<Arc<User>>,
    /// The other end.
    pub peer: SocketAddr,
}

impl Frontend {
    /// A frontend of an engine.
    pub fn new(core: Arc<Core>) -> Arc<Self> {
        let in_flight = tokio::sync::Semaphore::new(core.config.max_in_flight);
        Arc::new(Frontend {
            discovery: Discovery::new(),
            metrics: Metrics::default(),
            recent: Arc::default(),
            in_flight,
            stop: core.stop.child_token(),
            core,
        })
    }

    /// Accepts connections until `stop`, then lets requests finish.
    pub async fn serve(
        self: Arc<Self>,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors, most likely: others must close first.
                    tracing::warn!(%error, "accept");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (frontend, acceptor, stop) = (self.clone(), acceptor.clone(), stop.clone());
            connections.spawn(async move {
                if let Err(error) = frontend.connection(stream, peer, acceptor, stop).await {
                    tracing::debug!(%peer, %error, "connection");
                }
            });
        }
        drop(listener);
        self.stop.cancel();
        self.core.catalog.stored().iter().for_each(|r| r.cache.end_watches());
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::warn!(open = connections.len(), "connections that did not finish are closed");
        }
        Ok(())
    }

    async fn connection(
        self: Arc<Self>,
        stream: TcpStream,
        peer: SocketAddr,
        acceptor: TlsAcceptor,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let tls = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream))
            .await
            .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))??;
        let certificate = tls.get_ref().1.peer_certificates().and_then(|c| c.first());
        let certificate = certificate.and_then(pki::peer_identity).map(|(name, groups)| {
            let groups: Vec<&str> = groups.iter().map(String::as_str).collect();
            Arc::new(User::new(&name, &groups))
        });
        let connection = Arc::new(Connection { certificate, peer });
        self.http(tls, connection, stop).await;
        Ok(())
    }

    async fn http<S>(self: Arc<Self>, stream: S, connection: Arc<Connection>, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            // Never `pipeline_flush`: it lifts the limit on unsent output, and a client that does
            // not read would fill the memory.
            .max_buf_size(HEAD_BYTES)
            .http2()
            .timer(TokioTimer::new())
            // A node watches each Secret and ConfigMap of its pods, all over one connection.
            .max_concurrent_streams(1000)
            .max_header_list_size(HEAD_BYTES as u32)
            .initial_stream_window_size(256 << 10)
            .initial_connection_window_size(4 << 20)
            .keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(15));
        let peer = connection.peer;
        let service = service_fn(move |request: http::Request<Incoming>| {
            let (frontend, connection) = (self.clone(), connection.clone());
            async move { Ok::<_, std::convert::Infallible>(frontend.respond(&connection, request).await) }
        });
        let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
        tokio::pin!(serving);
        let done = tokio::select! {
            done = serving.as_mut() => done,
            () = stop.cancelled() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%peer, %error, "connection");
        }
    }
}
