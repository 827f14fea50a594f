//! WebSocket (RFC 6455) as a carrier of plain bytes. Must not look into the bytes.

use futures::{SinkExt, StreamExt};
use http::header::{self, HeaderName};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::frame::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};

/// Names of subprotocols.
pub mod protocol {
    /// Exec and attach, with a close of standard input.
    pub const V5: &str = "v5.channel.k8s.io";
    /// Exec and attach.
    pub const V4: &str = "v4.channel.k8s.io";
    /// A SPDY connection for port-forward, carried in binary frames.
    pub const PORT_FORWARD_TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";
    /// The protocol inside that SPDY connection.
    pub const PORT_FORWARD: &str = "portforward.k8s.io";
    /// Bytes of a machine's console, display or port.
    pub const PLAIN: &str = "plain.kubevirt.io";
}

/// Most bytes of raw data in one frame.
const CHUNK: usize = 32 << 10;
/// Largest message that is taken.
const LARGEST: usize = 4 << 20;

/// A client's wish to speak WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Subprotocols, most wanted first.
    pub protocols: Vec<String>,
    key: String,
}

impl Offer {
    /// Reads it from the head of a request; `None` if the client wants something else.
    pub fn of(headers: &HeaderMap) -> Option<Offer> {
        if !tokens(headers, header::CONNECTION).any(|t| t.eq_ignore_ascii_case("upgrade"))
            || !tokens(headers, header::UPGRADE).any(|t| t.eq_ignore_ascii_case("websocket"))
        {
            return None;
        }
        let key = headers.get(header::SEC_WEBSOCKET_KEY)?.to_str().ok()?.to_owned();
        let protocols = tokens(headers, header::SEC_WEBSOCKET_PROTOCOL);
        Some(Offer {
            protocols: protocols.map(str::to_owned).collect(),
            key,
        })
    }

    /// Whether a subprotocol is offered.
    pub fn has(&self, protocol: &str) -> bool {
        self.protocols.iter().any(|p| p == protocol)
    }

    /// The answer that switches to WebSocket, with one of the offered subprotocols or none.
    pub fn accept<B: Default>(&self, protocol: Option<&str>) -> Response<B> {
        let mut response = Response::new(B::default());
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        let accept = derive_accept_key(self.key.as_bytes());
        for (name, value) in [
            (header::SEC_WEBSOCKET_ACCEPT, Some(accept.as_str())),
            (header::SEC_WEBSOCKET_PROTOCOL, protocol),
        ] {
            if let Some(Ok(value)) = value.map(HeaderValue::from_str) {
                headers.insert(name, value);
            }
        }
        response
    }
}

fn tokens(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = &str> {
    let values = headers.get_all(name).into_iter().filter_map(|v| v.to_str().ok());
    values
        .flat_map(|v| v.split(','))
        .map(str::trim)
        .filter(|t| !t.is_empty())
}

/// The server's end of a connection that has switched to WebSocket.
pub(crate) async fn server_side<S: AsyncRead + AsyncWrite + Unpin>(socket: S) -> WebSocketStream<S> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(LARGEST))
        .max_frame_size(Some(LARGEST));
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}

/// Copies between the messages of a WebSocket, of which this is the server, and a
/// stream of bytes, until either ends. Text counts as bytes.
pub async fn bridge<S, R>(socket: S, raw: R) -> std::io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    R: AsyncRead + AsyncWrite + Unpin,
{
    let socket = server_side(socket).await;
    let (mut sink, mut messages) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(raw);
    let inwards = async {
        while let Some(message) = messages.next().await {
            let data = match message.map_err(std::io::Error::other)? {
                Message::Binary(data) => data,
                Message::Text(text) => Bytes::from(text),
                Message::Close(_) => break,
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            writer.write_all(&data).await?;
            writer.flush().await?;
        }
        // The other side may have more to do with what it got.
        writer.shutdown().await
    };
    let outwards = async {
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = reader.read(&mut buffer).await?;
            if n == 0 {
                return Ok(());
            }
            let message = Message::Binary(Bytes::copy_from_slice(&buffer[..n]));
            sink.send(message).await.map_err(std::io::Error::other)?;
        }
    };
    let result: std::io::Result<()> = tokio::select! {
        result = inwards => result,
        result = outwards => result,
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pairs = pairs.iter();
        pairs
            .map(|(k, v)| (HeaderName::from_static(k), HeaderValue::from_static(v)))
            .collect()
    }

    #[test]
    fn an_offer_is_read_and_accepted() {
        let offer = Offer::of(&headers(&[
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("sec-websocket-protocol", "v5.channel.k8s.io, v4.channel.k8s.io"),
        ]))
        .unwrap();
        assert_eq!(offer.protocols, [protocol::V5, protocol::V4]);
        assert!(offer.has(protocol::V4) && !offer.has(protocol::PLAIN));
        let response: Response<()> = offer.accept(Some(protocol::V4));
        // The example of RFC 6455, section 1.3.
        assert_eq!(
            response.headers()["sec-websocket-accept"],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(response.headers()["sec-websocket-protocol"], protocol::V4);
        assert_eq!(response.status(), 101);
    }

    #[test]
    fn other_requests_are_no_offers() {
        assert_eq!(
            Offer::of(&headers(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")])),
            None
        );
        assert_eq!(
            Offer::of(&headers(&[("upgrade", "websocket"), ("sec-websocket-key", "x")])),
            None
        );
    }

    #[tokio::test]
    async fn bytes_cross_in_both_directions() {
        let (near, far) = tokio::io::duplex(64 << 10);
        let (raw, mut inside) = tokio::io::duplex(64 << 10);
        let bridged = tokio::spawn(bridge(far, raw));
        let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
        client.send(Message::binary(&b"hello"[..])).await.unwrap();
        client.send(Message::text("!")).await.unwrap();
        let mut got = [0; 6];
        inside.read_exact(&mut got).await.unwrap();
        assert_eq!(&got, b"hello!");

        let long = vec![7_u8; 100_000];
        let sent = long.clone();
        let writing = tokio::spawn(async move {
            inside.write_all(&sent).await.unwrap();
        });
        let mut received = Vec::new();
        while received.len() < long.len() {
            match client.next().await.unwrap().unwrap() {
                Message::Binary(data) => received.extend_from_slice(&data),
                other => panic!("unexpected {other:?}"),
            }
        }
        assert_eq!(received, long);
        writing.await.unwrap();
        // The inner end is gone: the client is told.
        let last = client.next().await.unwrap().unwrap();
        assert!(matches!(last, Message::Close(Some(f)) if f.code == CloseCode::Normal));
        bridged.await.unwrap().unwrap();
    }
}
