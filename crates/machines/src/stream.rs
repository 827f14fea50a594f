//! Byte streams of a machine: console, display, forwarded ports.

use std::path::Path;

use runtime::{MachineChannel, RuntimeError, StreamRequest, StreamTarget};
use tokio::net::{TcpStream, UnixStream};

use crate::failed;
use crate::pod_runtime::Inner;

/// Opens the stream.
pub(crate) async fn open(inner: &Inner, request: &StreamRequest) -> Result<StreamTarget, RuntimeError> {
    match request {
        StreamRequest::Exec { .. } => Err(RuntimeError::Unsupported(
            "an interactive exec into a virtual machine (use its console or ssh)".into(),
        )),
        StreamRequest::Attach { container_id, .. } => console(inner, container_id).await,
        StreamRequest::Machine { container_id, channel } => match channel {
            MachineChannel::Console => console(inner, container_id).await,
            MachineChannel::Vnc => {
                let path = inner.container_dir(container_id)?.run().join("vnc.sock");
                unix(&path, "display").await
            }
        },
        StreamRequest::PortForward { sandbox_id, ports } => {
            let sandbox = inner.sandbox(sandbox_id)?;
            let ip = sandbox.and_then(|s| s.ips.first().cloned());
            let ip = ip.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {sandbox_id}")))?;
            let [port] = ports.as_slice() else {
                return Err(RuntimeError::Unsupported(
                    "forwarding several ports in one stream".into(),
                ));
            };
            let stream = TcpStream::connect((ip.as_str(), *port)).await;
            let stream = stream.map_err(failed(format!("connect to port {port} of the machine")))?;
            Ok(StreamTarget::Raw(Box::new(stream)))
        }
    }
}

async fn console(inner: &Inner, container_id: &str) -> Result<StreamTarget, RuntimeError> {
    unix(
        &inner.container_dir(container_id)?.join("console.sock"),
        "serial console",
    )
    .await
}

async fn unix(path: &Path, what: &str) -> Result<StreamTarget, RuntimeError> {
    match UnixStream::connect(path).await {
        Ok(stream) => Ok(StreamTarget::Raw(Box::new(stream))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(RuntimeError::NotFound(format!("the machine's {what}")))
        }
        Err(e) => Err(RuntimeError::Unavailable(format!("the machine's {what}: {e}"))),
    }
}
