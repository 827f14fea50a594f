//! Exec and attach: a WebSocket with channels (`v5.channel.k8s.io`) on one side,
//! a runtime's streaming server that speaks SPDY on the other. Each channel is a
//! stream of its own there, so that the end of standard input can be told.
//!
//! Must not look into what passes.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::{SplitSink, SplitStream};
use futures::{SinkExt, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::frame::{Frames, Heard, Said};
use super::headers::Writer;
use crate::websocket::server_side;

/// Pieces that wait for a slow end.
const QUEUE: usize = 16;
/// Channel by which a client ends another.
const CLOSE: u8 = 255;
/// Names of the streams, by channel.
const NAMES: [&str; 5] = ["stdin", "stdout", "stderr", "error", "resize"];
/// The order in which upstream's clients open the streams: servers expect the errors first.
const ORDER: [u8; 5] = [3, 0, 1, 2, 4];

/// Which streams there are besides that for errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// Sizes of the terminal.
    pub resize: bool,
}

impl Channels {
    fn has(self, channel: u8) -> bool {
        match channel {
            0 => self.stdin,
            1 => self.stdout,
            2 => self.stderr,
            3 => true,
            4 => self.resize,
            _ => false,
        }
    }
}

/// Stream of a channel. Those that a client opens are odd, and each is greater than the one before:
/// a server takes no notice of others.
fn stream_of(channel: u8) -> u32 {
    (1..).step_by(2).zip(ORDER).find(|(_, c)| *c == channel).map_or(0, |(id, _)| id)
}

fn channel_of(stream: u32) -> Option<u8> {
    ORDER.into_iter().find(|c| stream_of(*c) == stream)
}

/// Carries channels between a client's WebSocket and a runtime's SPDY connection, until either ends.
///
/// # Errors
/// When a side breaks off, or says what makes no sense.
pub async fn bridge_channels<W, S>(client: W, runtime: S, wanted: Channels) -> io::Result<()>
where
    W: AsyncRead + AsyncWrite + Unpin,
    S: AsyncRead + AsyncWrite,
{
    let (mut sink, messages) = server_side(client).await.split();
    let (reader, writer) = tokio::io::split(runtime);
    let (said, queue) = mpsc::channel(QUEUE);
    for channel in ORDER.into_iter().filter(|c| wanted.has(*c)) {
        let open = Said::Open {
            id: stream_of(channel),
            headers: vec![("streamtype".to_owned(), NAMES[usize::from(channel)].to_owned())],
        };
        // The queue holds more than there are streams.
        said.try_send(open).map_err(io::Error::other)?;
    }
    let result = tokio::select! {
        result = outwards(Frames::new(reader), &mut sink, &said, wanted) => result,
        result = inwards(messages, &said, wanted) => result,
        result = write(writer, queue) => result,
    };
    let code = if result.is_ok() {
        CloseCode::Normal
    } else {
        CloseCode::Error
    };
    let close = CloseFrame {
        code,
        reason: "".into(),
    };
    // The client may have gone already.
    let _ = sink.send(Message::Close(Some(close))).await;
    let _ = sink.close().await;
    result
}

async fn write<W: AsyncWrite>(writer: W, mut queue: mpsc::Receiver<Said>) -> io::Result<()> {
    tokio::pin!(writer);
    let mut headers = Writer::new();
    while let Some(said) = queue.recv().await {
        let bytes = said.encode(&mut headers)?;
        let written = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if written.await.is_err() {
            // A command that has ended reads no more, and its last words are on their way: what is
            // said from now on is lost, as it is in a pipe.
            while queue.recv().await.is_some() {}
        }
    }
    Ok(())
}

async fn say(said: &mpsc::Sender<Said>, what: Said) -> io::Result<()> {
    said.send(what).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
}

/// From the runtime to the client, until the runtime has ended the streams that it writes.
async fn outwards<R, W>(
    mut frames: Frames<R>,
    sink: &mut SplitSink<WebSocketStream<W>, Message>,
    said: &mpsc::Sender<Said>,
    wanted: Channels,
) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncRead + AsyncWrite + Unpin,
{
    let mut open: Vec<u8> = [1, 2, 3].into_iter().filter(|c| wanted.has(*c)).collect();
    while let Some(heard) = frames.next().await? {
        match heard {
            Heard::Data { id, data, fin } => {
                let Some(channel) = channel_of(id) else { continue };
                if !data.is_empty() {
                    let mut message = BytesMut::with_capacity(data.len() + 1);
                    message.put_u8(channel);
                    message.put_slice(&data);
                    let message = Message::Binary(message.freeze());
                    sink.send(message).await.map_err(io::Error::other)?;
                }
                if fin {
                    open.retain(|c| *c != channel);
                }
            }
            Heard::Reset { id } => open.retain(|c| Some(*c) != channel_of(id)),
            Heard::Ping { number } => say(said, Said::Pong { number }).await?,
            Heard::Open { id, .. } => say(said, Said::Refuse { id }).await?,
            Heard::Other => {}
        }
        if open.is_empty() {
            return Ok(());
        }
    }
    Ok(())
}

/// From the client to the runtime, until the client goes.
async fn inwards<W>(
    mut messages: SplitStream<WebSocketStream<W>>,
    said: &mpsc::Sender<Said>,
    wanted: Channels,
) -> io::Result<()>
where
    W: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = messages.next().await {
        let data = match message.map_err(io::Error::other)? {
            Message::Binary(data) => data,
            Message::Text(text) => Bytes::from(text),
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
        };
        match data.first() {
            Some(&CLOSE) => {
                let Some(&channel @ (0 | 4)) = data.get(1) else {
                    continue;
                };
                if wanted.has(channel) {
                    let (id, data) = (stream_of(channel), Bytes::new());
                    say(said, Said::Data { id, data, fin: true }).await?;
                }
            }
            Some(&channel @ (0 | 4)) if wanted.has(channel) && data.len() > 1 => {
                let (id, data) = (stream_of(channel), data.slice(1..));
                say(said, Said::Data { id, data, fin: false }).await?;
            }
            // Upstream's servers ignore the rest too.
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::DuplexStream;
    use tokio_tungstenite::tungstenite::protocol::Role;

    use super::*;

    const ALL: Channels = Channels {
        stdin: true,
        stdout: true,
        stderr: true,
        resize: false,
    };

    async fn start(
        wanted: Channels,
    ) -> (
        WebSocketStream<DuplexStream>,
        DuplexStream,
        tokio::task::JoinHandle<io::Result<()>>,
    ) {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (spdy, runtime) = tokio::io::duplex(64 << 10);
        let bridge = tokio::spawn(bridge_channels(far, spdy, wanted));
        let client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        (client, runtime, bridge)
    }

    fn data(id: u32, text: &str, fin: bool) -> Said {
        let data = Bytes::copy_from_slice(text.as_bytes());
        Said::Data { id, data, fin }
    }

    async fn tell(runtime: &mut DuplexStream, all: &[Said]) {
        let mut headers = Writer::new();
        for said in all {
            runtime.write_all(&said.encode(&mut headers).unwrap()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn channels_become_streams_and_back() {
        let (mut client, mut runtime, bridge) = start(ALL).await;
        client.send(Message::binary(&b"\0hello"[..])).await.unwrap();
        client.send(Message::binary(&b"\x04{}"[..])).await.unwrap();
        client.send(Message::binary(&[CLOSE, 0][..])).await.unwrap();
        let mut frames = Frames::new(&mut runtime);
        let mut heard = Vec::new();
        while heard.len() < 6 {
            heard.push(frames.next().await.unwrap().unwrap());
        }
        let opened: Vec<(u32, &str)> = heard
            .iter()
            .filter_map(|h| match h {
                Heard::Open { id, headers, .. } => Some((*id, headers[0].1.as_str())),
                _ => None,
            })
            .collect();
        assert_eq!(opened, [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")]);
        let piece = |text: &'static [u8], fin| Heard::Data {
            id: 3,
            data: text.into(),
            fin,
        };
        assert_eq!(heard[4..], [piece(b"hello", false), piece(b"", true)]);
        drop(frames);
        let status = "{\"status\":\"Success\"}";
        tell(
            &mut runtime,
            &[
                data(5, "out", false),
                data(7, "err", true),
                data(5, "", true),
                data(1, status, true),
            ],
        )
        .await;
        let mut got = Vec::new();
        while let Some(Ok(message)) = client.next().await {
            got.push(message);
        }
        let expected = [
            Message::binary(&b"\x01out"[..]),
            Message::binary(&b"\x02err"[..]),
            Message::binary(format!("\x03{status}").into_bytes()),
        ];
        assert_eq!(got[..3], expected);
        assert!(matches!(&got[3], Message::Close(Some(frame)) if frame.code == CloseCode::Normal));
        bridge.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn either_end_may_go() {
        let (client, mut runtime, bridge) = start(ALL).await;
        drop(client);
        let _ = bridge.await.unwrap();
        let mut rest = Vec::new();
        // The runtime is told by the end of its connection.
        tokio::io::AsyncReadExt::read_to_end(&mut runtime, &mut rest)
            .await
            .unwrap();

        let (mut client, runtime, bridge) = start(ALL).await;
        drop(runtime);
        let _ = bridge.await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
    }
}
