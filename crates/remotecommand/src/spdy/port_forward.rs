//! `portforward.k8s.io`: for every connection a pair of streams, one for its
//! data and one for what went wrong. Must not open ports itself.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::frame::{Frames, Heard, Said};
use super::headers::{Headers, Writer};

/// Pieces that wait for a slow end.
const QUEUE: usize = 16;
/// Most data in one frame.
const CHUNK: usize = 32 << 10;
/// Most streams at once.
const STREAMS: usize = 1024;

/// One stream of the client.
enum Stream {
    /// Tells what went wrong with a connection; the client says nothing on it.
    Errors,
    /// Data of a connection.
    Data {
        pieces: Option<mpsc::Sender<Bytes>>,
        given_up: CancellationToken,
    },
}

/// Serves a SPDY connection until it ends. `connect` leads to a port.
pub async fn serve_port_forward<S, C, F>(io: S, connect: impl Fn(u16) -> F + Send + Sync + 'static) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Send,
    C: AsyncRead + AsyncWrite + Send + 'static,
    F: Future<Output = Result<C, String>> + Send + 'static,
{
    let (reader, writer) = tokio::io::split(io);
    let (said, queue) = mpsc::channel(QUEUE);
    let mut session = Session {
        said,
        connect: Arc::new(connect),
        streams: HashMap::new(),
        errors: HashMap::new(),
        // Ends the connections together with the session.
        tasks: JoinSet::new(),
    };
    let mut frames = Frames::new(reader);
    let listening = async {
        while let Some(heard) = frames.next().await? {
            session.hear(heard).await?;
        }
        Ok(())
    };
    tokio::select! {
        result = listening => result,
        result = write(writer, queue) => result,
    }
}

async fn write<W: AsyncWrite + Unpin>(mut writer: W, mut queue: mpsc::Receiver<Said>) -> io::Result<()> {
    let mut headers = Writer::new();
    while let Some(said) = queue.recv().await {
        writer.write_all(&said.encode(&mut headers)?).await?;
        writer.flush().await?;
    }
    Ok(())
}

struct Session<F> {
    said: mpsc::Sender<Said>,
    connect: Arc<F>,
    streams: HashMap<u32, Stream>,
    /// Streams for errors by the request they belong to.
    errors: HashMap<String, u32>,
    tasks: JoinSet<(u32, Option<u32>)>,
}

impl<F> Session<F> {
    async fn say(&self, said: Said) -> io::Result<()> {
        self.said.send(said).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn hear<C, R>(&mut self, heard: Heard) -> io::Result<()>
    where
        F: Fn(u16) -> R + Send + Sync + 'static,
        C: AsyncRead + AsyncWrite + Send + 'static,
        R: Future<Output = Result<C, String>> + Send + 'static,
    {
        while let Some(ended) = self.tasks.try_join_next() {
            let Ok((id, errors)) = ended else { continue };
            for id in [Some(id), errors].into_iter().flatten() {
                self.streams.remove(&id);
                self.errors.retain(|_, of| *of != id);
            }
        }
        match heard {
            Heard::Open { id, headers, fin } => self.open(id, &headers, fin).await,
            Heard::Data { id, data, fin } => {
                let Some(Stream::Data { pieces, .. }) = self.streams.get_mut(&id) else {
                    return Ok(());
                };
                if let Some(sender) = pieces
                    && !data.is_empty()
                {
                    // The connection may have ended already.
                    let _ = sender.send(data).await;
                }
                if fin {
                    *pieces = None;
                }
                Ok(())
            }
            Heard::Reset { id } => {
                match self.streams.remove(&id) {
                    Some(Stream::Data { given_up, .. }) => given_up.cancel(),
                    Some(Stream::Errors) => self.errors.retain(|_, of| *of != id),
                    None => {}
                }
                Ok(())
            }
            Heard::Ping { number } => self.say(Said::Pong { number }).await,
            Heard::Other => Ok(()),
        }
    }

    async fn open<C, R>(&mut self, id: u32, headers: &Headers, fin: bool) -> io::Result<()>
    where
        F: Fn(u16) -> R + Send + Sync + 'static,
        C: AsyncRead + AsyncWrite + Send + 'static,
        R: Future<Output = Result<C, String>> + Send + 'static,
    {
        let of = |name: &str| {
            let found = headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
            found.map(|(_, value)| value.as_str()).unwrap_or_default()
        };
        let port = of("port").parse().ok().filter(|p: &u16| *p > 0);
        let request = of("requestid").to_owned();
        let (Some(port), true) = (port, self.streams.len() < STREAMS && !self.streams.contains_key(&id)) else {
            return self.say(Said::Refuse { id }).await;
        };
        match of("streamtype") {
            "error" => {
                self.errors.insert(request, id);
                self.streams.insert(id, Stream::Errors);
                self.say(Said::Reply { id }).await
            }
            "data" => {
                let (sender, pieces) = mpsc::channel(QUEUE);
                let given_up = CancellationToken::new();
                let stream = Stream::Data {
                    pieces: (!fin).then_some(sender),
                    given_up: given_up.clone(),
                };
                self.streams.insert(id, stream);
                self.say(Said::Reply { id }).await?;
                let connection = Connection {
                    id,
                    errors: self.errors.get(&request).copied(),
                    said: self.said.clone(),
                    pieces,
                };
                let connect = self.connect.clone();
                self.tasks
                    .spawn(connection.run(given_up, async move { connect(port).await }));
                Ok(())
            }
            _ => self.say(Said::Refuse { id }).await,
        }
    }
}

/// One forwarded connection.
struct Connection {
    id: u32,
    errors: Option<u32>,
    said: mpsc::Sender<Said>,
    pieces: mpsc::Receiver<Bytes>,
}

impl Connection {
    async fn run<C>(
        mut self,
        given_up: CancellationToken,
        connect: impl Future<Output = Result<C, String>>,
    ) -> (u32, Option<u32>)
    where
        C: AsyncRead + AsyncWrite,
    {
        let result = tokio::select! {
            result = async { self.copy(connect.await?).await.map_err(|e| e.to_string()) } => result,
            () = given_up.cancelled() => Ok(()),
        };
        let words = result.err().unwrap_or_default();
        let mut last = vec![(self.id, Bytes::new())];
        // The client waits for the end of the errors, if there were none too.
        last.extend(self.errors.map(|id| (id, Bytes::from(words))));
        for (id, data) in last {
            // The whole session may have ended.
            let _ = self.said.send(Said::Data { id, data, fin: true }).await;
        }
        (self.id, self.errors)
    }

    async fn copy<C: AsyncRead + AsyncWrite>(&mut self, connection: C) -> io::Result<()> {
        let (mut reader, mut writer) = tokio::io::split(connection);
        let pieces = &mut self.pieces;
        let inwards = async {
            while let Some(piece) = pieces.recv().await {
                writer.write_all(&piece).await?;
                writer.flush().await?;
            }
            writer.shutdown().await?;
            // The answer may still come.
            std::future::pending::<io::Result<()>>().await
        };
        let (id, said) = (self.id, &self.said);
        let outwards = async {
            let mut buffer = vec![0; CHUNK];
            loop {
                let n = reader.read(&mut buffer).await?;
                if n == 0 {
                    return Ok(());
                }
                let data = Bytes::copy_from_slice(&buffer[..n]);
                let sent = said.send(Said::Data { id, data, fin: false }).await;
                sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
            }
        };
        tokio::select! {
            result = inwards => result,
            result = outwards => result,
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{DuplexStream, ReadHalf, WriteHalf};

    use super::*;

    /// A client that speaks frames.
    struct Client {
        frames: Frames<ReadHalf<DuplexStream>>,
        writer: WriteHalf<DuplexStream>,
        headers: Writer,
    }

    impl Client {
        fn new(io: DuplexStream) -> Self {
            let (reader, writer) = tokio::io::split(io);
            Client {
                frames: Frames::new(reader),
                writer,
                headers: Writer::new(),
            }
        }

        async fn open(&mut self, id: u32, kind: &str, port: &str) {
            let block = self
                .headers
                .write(&[("Streamtype", kind), ("Port", port), ("Requestid", "0")])
                .unwrap();
            let length = (10 + block.len()) as u32;
            let mut frame = vec![0x80, 3, 0, 1];
            frame.extend(length.to_be_bytes());
            frame.extend(id.to_be_bytes());
            frame.extend([0; 6]);
            frame.extend(block);
            self.writer.write_all(&frame).await.unwrap();
        }

        async fn say(&mut self, said: Said) {
            let bytes = said.encode(&mut self.headers).unwrap();
            self.writer.write_all(&bytes).await.unwrap();
        }

        /// Everything on the streams until so many of them have ended.
        async fn until_ends(&mut self, mut ends: usize) -> Vec<(u32, String)> {
            let mut out: Vec<(u32, String)> = Vec::new();
            while ends > 0 {
                match self.frames.next().await.unwrap().expect("more frames") {
                    Heard::Data { id, data, fin } => {
                        let text = String::from_utf8_lossy(&data).into_owned();
                        match out.iter_mut().find(|(of, _)| *of == id) {
                            Some((_, all)) => all.push_str(&text),
                            None => out.push((id, text)),
                        }
                        ends -= usize::from(fin);
                    }
                    Heard::Other => {}
                    other => panic!("unexpected {other:?}"),
                }
            }
            out
        }
    }

    fn served() -> Client {
        let (near, far) = tokio::io::duplex(1024);
        let connect = async |port: u16| {
            if port == 1 {
                return Err("connection refused".to_owned());
            }
            let (ours, theirs) = tokio::io::duplex(1024);
            tokio::spawn(async move {
                let (mut reader, mut writer) = tokio::io::split(theirs);
                let _ = writer.write_all(format!("port {port}: ").as_bytes()).await;
                let _ = tokio::io::copy(&mut reader, &mut writer).await;
                let _ = writer.shutdown().await;
            });
            Ok(ours)
        };
        tokio::spawn(async move { serve_port_forward(far, connect).await });
        Client::new(near)
    }

    #[tokio::test]
    async fn data_crosses_and_ends() {
        let mut client = served();
        client.open(1, "error", "80").await;
        client.open(3, "data", "80").await;
        let data = Bytes::from("hello");
        client.say(Said::Data { id: 3, data, fin: true }).await;
        let expected = [(3, "port 80: hello".to_owned()), (1, String::new())];
        assert_eq!(client.until_ends(2).await, expected);
    }

    #[tokio::test]
    async fn streams_that_have_ended_make_room() {
        let mut client = served();
        for n in 0..STREAMS as u32 {
            client.open(4 * n + 1, "error", "1").await;
            client.open(4 * n + 3, "data", "1").await;
            client.until_ends(2).await;
        }
    }

    #[tokio::test]
    async fn errors_have_a_stream_of_their_own() {
        let mut client = served();
        client.open(1, "error", "1").await;
        client.open(3, "data", "1").await;
        let expected = [(3, String::new()), (1, "connection refused".to_owned())];
        assert_eq!(client.until_ends(2).await, expected);
    }

    #[tokio::test]
    async fn what_is_given_up_ends() {
        let mut client = served();
        client.open(1, "error", "80").await;
        client.open(3, "data", "80").await;
        client.say(Said::Refuse { id: 3 }).await;
        let ends = client.until_ends(2).await;
        assert!(ends.contains(&(1, String::new())), "{ends:?}");
        client.say(Said::Pong { number: 9 }).await;
        assert_eq!(client.frames.next().await.unwrap(), Some(Heard::Ping { number: 9 }));
        client.open(5, "other", "80").await;
        assert_eq!(client.frames.next().await.unwrap(), Some(Heard::Reset { id: 5 }));
    }
}
