//! Byte streams of a machine: console, display, forwarded ports.

use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use runtime::{MachineChannel, RuntimeError, StreamRequest, StreamTarget};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UdpSocket, UnixStream};
use tokio::sync::OwnedMutexGuard;

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
            MachineChannel::Udp(port) => {
                let sandbox = container_id.split('.').next().unwrap_or_default();
                let socket = UdpSocket::bind(("0.0.0.0", 0)).await.map_err(failed("bind"))?;
                let connected = socket.connect((address(inner, sandbox)?.as_str(), *port)).await;
                connected.map_err(failed(format!("connect to port {port} of the machine")))?;
                Ok(StreamTarget::Raw(Box::new(Datagrams(socket))))
            }
            MachineChannel::UsbRedirection => usb(inner, container_id).await,
        },
        StreamRequest::PortForward { sandbox_id, ports } => {
            let ip = address(inner, sandbox_id)?;
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

/// The address of a machine's pod.
fn address(inner: &Inner, sandbox_id: &str) -> Result<String, RuntimeError> {
    let sandbox = inner.sandbox(sandbox_id)?;
    let ip = sandbox.and_then(|s| s.ips.first().cloned());
    ip.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {sandbox_id}")))
}

/// A socket whose every read and write is one datagram.
struct Datagrams(UdpSocket);

impl AsyncRead for Datagrams {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.poll_recv(cx, buf)
    }
}

impl AsyncWrite for Datagrams {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.0.poll_send(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A USB port that nobody has.
async fn usb(inner: &Inner, container_id: &str) -> Result<StreamTarget, RuntimeError> {
    let gone = || RuntimeError::NotFound(format!("running container {container_id}"));
    let live = inner.live(container_id).ok_or_else(gone)?;
    let mut ports = live.usb.iter().enumerate();
    let free = ports.find_map(|(i, port)| Some((i, port.clone().try_lock_owned().ok()?)));
    let (port, held) = free.ok_or_else(|| RuntimeError::Invalid {
        reason: "NoFreePort".into(),
        message: "all USB ports of the machine are in use".into(),
    })?;
    let path = inner.container_dir(container_id)?.run().join(format!("usb{port}.sock"));
    let stream = UnixStream::connect(&path).await;
    let stream = stream.map_err(failed("the machine's USB port"))?;
    Ok(StreamTarget::Raw(Box::new(Held { stream, _held: held })))
}

/// A stream that keeps its port while it lasts.
struct Held {
    stream: UnixStream,
    _held: OwnedMutexGuard<()>,
}

impl AsyncRead for Held {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Held {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
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
