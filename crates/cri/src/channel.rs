//! gRPC over a Unix socket. The channel connects when it is used and connects
//! again when the runtime was restarted.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use runtime::RuntimeError;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

/// Longest path of a Unix socket on Linux (`sun_path` less its NUL).
pub const SOCKET_PATH_MAX: usize = 107;

/// A channel to the socket; nothing is connected yet.
pub fn lazy(socket: &Path) -> Channel {
    let path: PathBuf = socket.to_owned();
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    }))
}

/// `unix:///run/x.sock` or a plain path.
pub fn socket_path(endpoint: &str) -> PathBuf {
    PathBuf::from(endpoint.strip_prefix("unix://").unwrap_or(endpoint))
}

/// A request that is given up after `limit`.
pub fn timed<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// What a gRPC status means to the node agent; `what` is the operation and its object.
pub fn error(what: &str, status: &Status) -> RuntimeError {
    let text = if what.is_empty() {
        status.message().to_owned()
    } else {
        format!("{what}: {}", status.message())
    };
    match status.code() {
        Code::NotFound => RuntimeError::NotFound(text),
        Code::Unavailable => RuntimeError::Unavailable(text),
        Code::DeadlineExceeded | Code::Cancelled => RuntimeError::Timeout(what.to_owned()),
        Code::Unimplemented => RuntimeError::Unsupported(what.to_owned()),
        _ => RuntimeError::Failed(text),
    }
}
