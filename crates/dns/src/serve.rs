//! Sockets: datagrams and streams in, answers out.
//!
//! Must not look into names.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, ResponseCode};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen, socket_with, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::Records;
use crate::answer::{answer, failure, fit, open_alias};
use crate::forward::Upstreams;

/// Queries that wait for other servers at the same time; more are refused.
const FORWARDS: usize = 512;
/// Streams at the same time.
const STREAMS: usize = 256;
/// How long a stream may say nothing.
const IDLE: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 128;

pub(crate) struct Shared {
    pub records: Arc<RwLock<Records>>,
    pub upstreams: Upstreams,
}

/// Binds an address and answers until `stop`.
pub(crate) fn start(address: SocketAddr, shared: &Arc<Shared>, stop: &CancellationToken) -> io::Result<()> {
    let datagrams = std::net::UdpSocket::from(bound(address, SocketType::DGRAM)?);
    let stream = bound(address, SocketType::STREAM)?;
    listen(&stream, BACKLOG)?;
    let datagrams = Arc::new(UdpSocket::from_std(datagrams)?);
    let streams = TcpListener::from_std(stream.into())?;
    let (a, b) = (shared.clone(), shared.clone());
    let (c, d) = (stop.clone(), stop.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = serve_datagrams(datagrams, a) => {}
            () = c.cancelled() => {}
        }
    });
    tokio::spawn(async move {
        tokio::select! {
            () = serve_streams(streams, b) => {}
            () = d.cancelled() => {}
        }
    });
    Ok(())
}

/// A socket on an address that may not be there yet.
fn bound(address: SocketAddr, kind: SocketType) -> io::Result<OwnedFd> {
    let family = if address.is_ipv4() {
        AddressFamily::INET
    } else {
        AddressFamily::INET6
    };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    sockopt::set_ip_freebind(&socket, true)?;
    if kind == SocketType::STREAM {
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &address)?;
    Ok(socket)
}

/// What is sent back, if anything.
async fn respond(shared: &Shared, bytes: &[u8], by_tcp: bool, forwards: &Semaphore) -> Option<Vec<u8>> {
    let query = match Message::from_vec(bytes) {
        Ok(query) => query,
        Err(error) => {
            debug!(%error, "not a query");
            return malformed(bytes);
        }
    };
    // An answer to an answer could go to and fro for ever.
    if query.metadata.message_type != MessageType::Query {
        return None;
    }
    let (ours, open) = {
        let records = shared.records.read().unwrap_or_else(PoisonError::into_inner);
        let ours = answer(&records, &query);
        let open = ours.as_ref().and_then(|response| open_alias(&records, response));
        (ours, open)
    };
    let response = match (ours, open) {
        (Some(response), None) => response,
        (ours, open) => {
            let Ok(_slot) = forwards.try_acquire() else {
                return failure(&query, ResponseCode::ServFail).to_vec().ok();
            };
            match (ours, open) {
                (Some(response), Some(question)) => {
                    let end = shared.upstreams.resolve(query.metadata.id, question).await;
                    end.map_or_else(|| failure(&query, ResponseCode::ServFail), |end| joined(response, end))
                }
                _ => match shared.upstreams.forward(bytes, by_tcp).await {
                    Some(raw) => return Some(raw),
                    None => failure(&query, ResponseCode::ServFail),
                },
            }
        }
    };
    let response = if by_tcp { response } else { fit(&query, response) };
    response.to_vec().ok()
}

/// An alias of ours and what others say of its target.
fn joined(mut response: Message, end: Message) -> Message {
    response.metadata.response_code = end.metadata.response_code;
    response.metadata.authoritative = false;
    response.answers.extend(end.answers);
    // It says how long the absence may be remembered.
    response.authorities = if response.answers.len() > 1 {
        Vec::new()
    } else {
        end.authorities
    };
    response
}

/// The header of an error for something that has at least the header of a query.
fn malformed(bytes: &[u8]) -> Option<Vec<u8>> {
    let [a, b, flags, ..] = bytes.get(..12)? else {
        return None;
    };
    if flags & 0x80 != 0 {
        return None;
    }
    let code = u8::try_from(u16::from(ResponseCode::FormErr)).ok()?;
    Some(vec![*a, *b, 0x80 | (flags & 0x79), 0x80 | code, 0, 0, 0, 0, 0, 0, 0, 0])
}

async fn serve_datagrams(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let forwards = Arc::new(Semaphore::new(FORWARDS));
    let mut buffer = vec![0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else {
            // An ICMP answer to something sent before; the socket is still good.
            continue;
        };
        let Some(bytes) = buffer.get(..length).map(<[u8]>::to_vec) else {
            continue;
        };
        let (socket, shared, forwards) = (socket.clone(), shared.clone(), forwards.clone());
        tokio::spawn(async move {
            if let Some(answer) = respond(&shared, &bytes, false, &forwards).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn serve_streams(listener: TcpListener, shared: Arc<Shared>) {
    let slots = Arc::new(Semaphore::new(STREAMS));
    let forwards = Arc::new(Semaphore::new(FORWARDS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        let Ok((stream, _)) = listener.accept().await else {
            // Out of descriptors, most likely: others must end first.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let (shared, forwards) = (shared.clone(), forwards.clone());
        tokio::spawn(async move {
            let _ = serve_stream(stream, &shared, &forwards).await;
            drop(slot);
        });
    }
}

async fn serve_stream(mut stream: TcpStream, shared: &Shared, forwards: &Semaphore) -> io::Result<()> {
    loop {
        let length = tokio::time::timeout(IDLE, stream.read_u16()).await??;
        let mut query = vec![0; usize::from(length)];
        tokio::time::timeout(IDLE, stream.read_exact(&mut query)).await??;
        let Some(answer) = respond(shared, &query, true, forwards).await else {
            return Ok(());
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        stream
            .write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())
            .await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::Query;
    use hickory_proto::rr::rdata::A;
    use hickory_proto::rr::{Name, RData, Record, RecordType};

    fn query(name: &str) -> Vec<u8> {
        let mut m = Message::query();
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        m.to_vec().unwrap()
    }

    fn records() -> Records {
        let mut records = Records::new("cluster.local");
        let out = serde_json::json!({"spec": {"type": "ExternalName", "externalName": "farm.example.org"}});
        records.set("shop", "out", &serde_json::from_value(out).unwrap(), &[]);
        records.set_complete();
        records
    }

    #[tokio::test]
    async fn datagrams_and_streams_are_answered_and_other_names_go_on() {
        // Another server that knows one name and refuses all others.
        let other = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let upstream = other.local_addr().unwrap();
        tokio::spawn(async move {
            let mut b = [0; 512];
            while let Ok((n, from)) = other.recv_from(&mut b).await {
                let query = Message::from_vec(&b[..n]).unwrap();
                let mut response = failure(&query, ResponseCode::Refused);
                let name = query.queries[0].name.clone();
                if name.to_ascii() == "farm.example.org." {
                    response.metadata.response_code = ResponseCode::NoError;
                    response.add_answer(Record::from_rdata(name, 9, RData::A(A([192, 0, 2, 7].into()))));
                }
                other.send_to(&response.to_vec().unwrap(), from).await.unwrap();
            }
        });
        let shared = Arc::new(Shared {
            records: Arc::new(RwLock::new(records())),
            upstreams: Upstreams::new(vec![upstream]),
        });
        let probe = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let stop = CancellationToken::new();
        start(address, &shared, &stop).unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let mut b = [0; 512];
        for (name, code) in [
            ("10-42-0-7.shop.pod.cluster.local.", ResponseCode::NoError),
            ("none.shop.svc.cluster.local.", ResponseCode::NXDomain),
            ("example.org.", ResponseCode::Refused),
            ("out.shop.svc.cluster.local.", ResponseCode::NoError),
        ] {
            client.send_to(&query(name), address).await.unwrap();
            let (n, _) = tokio::time::timeout(IDLE, client.recv_from(&mut b))
                .await
                .unwrap()
                .unwrap();
            let answer = Message::from_vec(&b[..n]).unwrap();
            assert_eq!(answer.metadata.response_code, code, "{name}");
            let aliased = name.starts_with("out.");
            assert!(!aliased || answer.answers.len() == 2, "the alias and its end: {answer}");
        }
        let mut stream = TcpStream::connect(address).await.unwrap();
        let q = query("10-42-0-7.shop.pod.cluster.local.");
        stream.write_u16(q.len() as u16).await.unwrap();
        stream.write_all(&q).await.unwrap();
        let mut answer = vec![0; stream.read_u16().await.unwrap().into()];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), 1);
        // What is no query, and what is an answer.
        let mut broken = query("web.shop.svc.cluster.local.");
        broken.truncate(14);
        client.send_to(&broken, address).await.unwrap();
        let (n, _) = tokio::time::timeout(IDLE, client.recv_from(&mut b))
            .await
            .unwrap()
            .unwrap();
        let said = Message::from_vec(&b[..n]).unwrap().metadata;
        assert_eq!(said.response_code, ResponseCode::FormErr);
        let response = Message::from_vec(&q).unwrap().into_response().to_vec().unwrap();
        assert!(respond(&shared, &response, false, &Semaphore::new(1)).await.is_none());
        assert!(malformed(&response[..12]).is_none() && malformed(&[1, 2, 3]).is_none());
        stop.cancel();
    }
}
