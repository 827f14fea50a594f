//! Names of others: the query goes on as it came, the answer comes back as it is.
//!
//! Must not cache, and must not believe an answer that does not belong to its question.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_proto::op::{Edns, Message, Query};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: usize = 65_535;
/// What we take as an answer over UDP (RFC 9715).
const PAYLOAD: u16 = 1232;
/// Length of a message's header.
const HEADER: usize = 12;

/// The servers for all other names.
#[derive(Debug, Default)]
pub(crate) struct Upstreams {
    servers: Vec<SocketAddr>,
    /// The one that answered last is asked first: a dead one costs its time once.
    first: AtomicUsize,
}

impl Upstreams {
    pub(crate) fn new(servers: Vec<SocketAddr>) -> Self {
        Upstreams {
            servers,
            first: AtomicUsize::new(0),
        }
    }

    /// Asks the servers in turn; `None` when none answered.
    pub(crate) async fn forward(&self, query: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
        let first = self.first.load(Ordering::Relaxed);
        for turn in 0..self.servers.len() {
            let place = (first + turn) % self.servers.len();
            let server = *self.servers.get(place)?;
            let asked = async {
                if by_tcp {
                    ask_tcp(server, query).await
                } else {
                    ask_udp(server, query).await
                }
            };
            if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await {
                self.first.store(place, Ordering::Relaxed);
                return Some(answer);
            }
        }
        None
    }

    /// Asks a question of our own, and once more by TCP where the answer is cut.
    pub(crate) async fn resolve(&self, id: u16, question: Query) -> Option<Message> {
        let mut query = Message::query();
        query.metadata.id = id;
        query.metadata.recursion_desired = true;
        query.add_query(question);
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        query.set_edns(edns);
        let bytes = query.to_vec().ok()?;
        let answer = Message::from_vec(&self.forward(&bytes, false).await?).ok()?;
        if !answer.metadata.truncation {
            return Some(answer);
        }
        let whole = self.forward(&bytes, true).await;
        whole.and_then(|b| Message::from_vec(&b).ok()).or(Some(answer))
    }
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // A socket of its own for each query: the kernel picks a port that nobody can guess.
    let any = if server.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if let Some(answer) = buffer.get(..length).filter(|a| belongs(query, a)) {
            return Ok(answer.to_vec());
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    if !belongs(query, &answer) {
        return Err(io::Error::other("the answer belongs to another question"));
    }
    Ok(answer)
}

/// Whether an answer has the id and the question of a query. An error may come without a question.
fn belongs(query: &[u8], answer: &[u8]) -> bool {
    let is_response = answer.get(2).is_some_and(|flags| flags & 0x80 != 0);
    if answer.len() < HEADER || answer.get(..2) != query.get(..2) || !is_response {
        return false;
    }
    if answer.get(4..6) == Some(&[0, 0]) {
        return true;
    }
    match (question(query), question(answer)) {
        // A server may answer in another case than it was asked in.
        (Some(asked), Some(answered)) => asked.eq_ignore_ascii_case(answered),
        _ => false,
    }
}

/// The first question of a message: name, type and class.
fn question(message: &[u8]) -> Option<&[u8]> {
    let mut end = HEADER;
    loop {
        match *message.get(end)? {
            0 => return message.get(HEADER..end + 5),
            // The first name of a message has nothing to point to.
            length if length >= 0xc0 => return None,
            length => end += 1 + usize::from(length),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    fn message(id: u16, name: &str, is_response: bool) -> Vec<u8> {
        let mut m = Message::query();
        m.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        m.metadata.id = id;
        let m = if is_response { m.into_response() } else { m };
        m.to_vec().unwrap()
    }

    #[test]
    fn an_answer_to_another_question_is_not_believed() {
        let query = message(7, "Example.org.", false);
        assert!(belongs(&query, &message(7, "example.ORG.", true)));
        assert!(!belongs(&query, &message(7, "example.net.", true)));
        assert!(!belongs(&query, &message(8, "example.org.", true)));
        assert!(!belongs(&query, &query), "a query is no answer");
        assert!(
            belongs(&query, &[0, 7, 0x81, 0x82, 0, 0, 0, 0, 0, 0, 0, 0]),
            "an error alone"
        );
    }

    #[tokio::test]
    async fn a_dead_server_costs_its_time_once() {
        let alive = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let gone = UdpSocket::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let upstreams = Upstreams::new(vec![gone, alive.local_addr().unwrap()]);
        tokio::spawn(async move {
            let mut b = [0; 512];
            while let Ok((n, from)) = alive.recv_from(&mut b).await {
                let query = Message::from_vec(&b[..n]).unwrap();
                let answer = query.into_response().to_vec().unwrap();
                alive.send_to(&answer, from).await.unwrap();
            }
        });
        let query = message(1, "example.org.", false);
        assert!(upstreams.forward(&query, false).await.is_some());
        assert_eq!(upstreams.first.load(Ordering::Relaxed), 1);
        assert!(Upstreams::default().forward(&query, false).await.is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_do_no_harm(a in proptest::collection::vec(any::<u8>(), 0..64), b in proptest::collection::vec(any::<u8>(), 0..64)) {
            belongs(&a, &b);
        }
    }
}
