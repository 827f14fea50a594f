//! The node's HTTPS server: logs, streams into containers and machines, and numbers.
//! Must not change pods, and must not answer anybody but the API server and administrators.

mod answer;
#[cfg(test)]
pub(crate) mod fake;
mod logs;
mod machines;
mod numbers;
mod relay;
mod route;
mod streams;
#[cfg(test)]
mod tests;

pub use machines::MachineControl;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::lookup::PodLookup;
use numbers::Stats;
use route::Caller;

/// Limit of a TLS handshake, and of the head of a request.
const HANDSHAKE: Duration = Duration::from_secs(10);
const HEAD: Duration = Duration::from_secs(30);
/// How long answers may take to finish after the server was told to stop.
const DRAIN: Duration = Duration::from_secs(2);

/// The node's HTTPS server.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

/// What all requests share.
struct Shared {
    lookup: Arc<dyn PodLookup>,
    machines: Option<Arc<dyn MachineControl>>,
    logs_root: PathBuf,
    stats: Stats,
    stop: CancellationToken,
    /// Streams that go on after their request was answered.
    streams: TaskTracker,
}

impl Server {
    /// A server for the pods of a node. `machines` controls virtual machines, if the node
    /// can run them; `logs_root` holds the pods' log directories, usually `/var/log/pods`.
    pub fn new(
        lookup: Arc<dyn PodLookup>,
        machines: Option<Arc<dyn MachineControl>>,
        logs_root: impl Into<PathBuf>,
    ) -> Self {
        let shared = Shared {
            lookup,
            machines,
            logs_root: logs_root.into(),
            stats: Stats::default(),
            stop: CancellationToken::new(),
            streams: TaskTracker::new(),
        };
        Server {
            shared: Arc::new(shared),
        }
    }

    /// Serves until `stop`, then lets answers finish for a short while. `tls` must demand
    /// client certificates.
    pub async fn serve(
        self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> io::Result<()> {
        let acceptor = TlsAcceptor::from(tls);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => break,
            };
            let stream = match accepted {
                Ok((stream, _)) => stream,
                // Out of file descriptors, or the peer gave up: others may still get through.
                Err(error) => {
                    tracing::warn!(%error, "accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            connections.spawn(connection(self.shared.clone(), acceptor.clone(), stream, stop.clone()));
        }
        drop(listener);
        self.shared.stop.cancel();
        connections.close();
        self.shared.streams.close();
        let all = async {
            connections.wait().await;
            self.shared.streams.wait().await;
        };
        // What has not finished by then is cut off when the process ends.
        let _ = tokio::time::timeout(DRAIN, all).await;
        Ok(())
    }
}

async fn connection(shared: Arc<Shared>, acceptor: TlsAcceptor, stream: TcpStream, stop: CancellationToken) {
    // Without it small answers wait; nothing depends on it.
    let _ = stream.set_nodelay(true);
    let tls = match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(tls)) => tls,
        Ok(Err(error)) => {
            tracing::debug!(%error, "TLS handshake with a client of the node");
            return;
        }
        Err(_) => return,
    };
    let caller = Arc::new(Caller::of(tls.get_ref().1.peer_certificates()));
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (shared, caller) = (shared.clone(), caller.clone());
        async move { Ok::<_, std::convert::Infallible>(route::answer(&shared, &caller, request).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    builder.http2().timer(TokioTimer::new());
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(tls), service);
    tokio::pin!(serving);
    let result = tokio::select! {
        result = serving.as_mut() => result,
        () = stop.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "connection of a client of the node");
    }
}
