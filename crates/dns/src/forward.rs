//! Names of others: the query goes on as it came, the answer comes back as it is.
//!
//! Must not cache, and must not believe an answer that does not belong to its question.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// How long a server may take.
const PATIENCE: Duration = Duration::from_secs(2);
const LARGEST: usize = 65_535;

/// Asks the servers in turn; `None` when none answered.
pub(crate) async fn forward(upstreams: &[SocketAddr], query: &[u8], by_tcp: bool) -> Option<Vec<u8>> {
    for server in upstreams {
        let asked = async {
            if by_tcp {
                ask_tcp(*server, query).await
            } else {
                ask_udp(*server, query).await
            }
        };
        if let Ok(Ok(answer)) = timeout(PATIENCE, asked).await {
            return Some(answer);
        }
    }
    None
}

async fn ask_udp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    // A socket of its own for each query: the kernel picks a port that nobody can guess.
    let any = if server.is_ipv4() {
        SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))
    } else {
        SocketAddr::from(([0u16; 8], 0))
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; LARGEST];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if buffer.get(..2) == query.get(..2) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn ask_tcp(server: SocketAddr, query: &[u8]) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_be_bytes()).await?;
    stream.write_all(query).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    Ok(answer)
}
