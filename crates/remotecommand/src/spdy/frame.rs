//! Frames of SPDY/3 (section 2.2). Must not keep state of streams.

use std::io;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt};

use super::headers::{Headers, Reader, Writer};

/// Largest control frame that is taken.
const LARGEST: usize = 64 << 10;
/// Most data that is handed on at once.
const CHUNK: usize = 32 << 10;
/// No more data follows in this direction.
const FIN: u8 = 1;
const ID: u32 = 0x7fff_ffff;

/// What the client says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// A new stream.
    Open { id: u32, headers: Headers, fin: bool },
    /// A piece of a stream, and whether it is the last.
    Data { id: u32, data: Bytes, fin: bool },
    /// A stream is given up.
    Reset { id: u32 },
    /// Wants an answer with the same number.
    Ping { number: u32 },
    /// Of no interest here.
    Other,
}

/// Reads frames.
pub(super) struct Frames<R> {
    reader: R,
    headers: Reader,
    /// Stream, bytes to come and last flag of a data frame that is not read whole yet.
    within: Option<(u32, usize, bool)>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub(super) fn new(reader: R) -> Self {
        Frames {
            reader,
            headers: Reader::new(),
            within: None,
        }
    }

    /// The next thing said; `None` at the end.
    pub(super) async fn next(&mut self) -> io::Result<Option<Heard>> {
        if let Some((id, left, fin)) = self.within.take() {
            return self.data(id, left, fin).await.map(Some);
        }
        let mut head = [0; 8];
        match self.reader.read_exact(&mut head).await {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(e) => return Err(e),
        }
        let [a, b, c, d, flags, x, y, z] = head;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        let first = u32::from_be_bytes([a, b, c, d]);
        let fin = flags & FIN != 0;
        if first & !ID == 0 {
            return self.data(first, length, fin).await.map(Some);
        }
        if length > LARGEST {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "SPDY: a control frame is too large",
            ));
        }
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).await?;
        self.control(u16::from_be_bytes([c, d]), fin, &body).map(Some)
    }

    async fn data(&mut self, id: u32, left: usize, fin: bool) -> io::Result<Heard> {
        let mut data = vec![0; left.min(CHUNK)];
        self.reader.read_exact(&mut data).await?;
        let left = left - data.len();
        if left > 0 {
            self.within = Some((id, left, fin));
        }
        Ok(Heard::Data {
            id,
            data: data.into(),
            fin: fin && left == 0,
        })
    }

    fn control(&mut self, kind: u16, fin: bool, body: &[u8]) -> io::Result<Heard> {
        let cut = || io::Error::new(io::ErrorKind::InvalidData, "SPDY: a control frame is cut short");
        let number = body.first_chunk::<4>().map(|b| u32::from_be_bytes(*b));
        Ok(match kind {
            1 => Heard::Open {
                id: number.ok_or_else(cut)? & ID,
                headers: self.headers.read(body.get(10..).ok_or_else(cut)?)?,
                fin,
            },
            3 => Heard::Reset {
                id: number.ok_or_else(cut)? & ID,
            },
            6 => Heard::Ping {
                number: number.ok_or_else(cut)?,
            },
            // More headers of a stream, or the answer to one we never open: without them the
            // next block could not be read.
            2 | 8 => {
                self.headers.read(body.get(4..).ok_or_else(cut)?)?;
                Heard::Other
            }
            _ => Heard::Other,
        })
    }
}

/// What we say.
#[derive(Debug)]
pub(super) enum Said {
    /// A new stream of ours.
    Open { id: u32, headers: Headers },
    /// A stream is accepted.
    Reply { id: u32 },
    /// A piece of a stream, and whether it is the last.
    Data { id: u32, data: Bytes, fin: bool },
    /// A stream is refused.
    Refuse { id: u32 },
    /// The answer to a ping.
    Pong { number: u32 },
}

impl Said {
    /// As bytes. Frames must be encoded in the order in which they are sent.
    pub(super) fn encode(&self, headers: &mut Writer) -> io::Result<Vec<u8>> {
        Ok(match self {
            Said::Open { id, headers: named } => {
                let named: Vec<(&str, &str)> = named.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
                // Neither associated with another stream, nor of any priority.
                let mut body = [id.to_be_bytes().as_slice(), &[0; 6]].concat();
                body.extend(headers.write(&named)?);
                control(1, &body)
            }
            Said::Reply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(headers.write(&[])?);
                control(2, &body)
            }
            Said::Data { id, data, fin } => {
                let mut out = id.to_be_bytes().to_vec();
                out.extend(head(if *fin { FIN } else { 0 }, data.len()));
                out.extend_from_slice(data);
                out
            }
            // REFUSED_STREAM.
            Said::Refuse { id } => control(3, &[id.to_be_bytes(), 3_u32.to_be_bytes()].concat()),
            Said::Pong { number } => control(6, &number.to_be_bytes()),
        })
    }
}

fn control(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut out = vec![0x80, 3];
    out.extend(kind.to_be_bytes());
    out.extend(head(0, body.len()));
    out.extend_from_slice(body);
    out
}

/// Flags and a length of 24 bits; what we send is always shorter.
fn head(flags: u8, length: usize) -> [u8; 4] {
    let [_, x, y, z] = (length as u32).to_be_bytes();
    [flags, x, y, z]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn all(mut bytes: &[u8]) -> io::Result<Vec<Heard>> {
        let mut frames = Frames::new(&mut bytes);
        let mut out = Vec::new();
        while let Some(frame) = frames.next().await? {
            out.push(frame);
        }
        Ok(out)
    }

    #[tokio::test]
    async fn frames_are_read() {
        let mut bytes = Vec::new();
        let block = Writer::new().write(&[("port", "80")]).unwrap();
        bytes.extend(control(1, &[&[0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], &block].concat()));
        let mut headers = Writer::new();
        let long = Bytes::from(vec![1; CHUNK + 1]);
        for said in [
            Said::Data {
                id: 1,
                data: long.clone(),
                fin: true,
            },
            Said::Pong { number: 7 },
            Said::Refuse { id: 5 },
        ] {
            bytes.extend(said.encode(&mut headers).unwrap());
        }
        bytes.extend(control(4, b"settings"));
        let headers = vec![("port".to_owned(), "80".to_owned())];
        let expected = [
            Heard::Open {
                id: 1,
                headers,
                fin: false,
            },
            Heard::Data {
                id: 1,
                data: long.slice(..CHUNK),
                fin: false,
            },
            Heard::Data {
                id: 1,
                data: long.slice(CHUNK..),
                fin: true,
            },
            Heard::Ping { number: 7 },
            Heard::Reset { id: 5 },
            Heard::Other,
        ];
        assert_eq!(all(&bytes).await.unwrap(), expected);
        assert!(all(&control(1, b"short")).await.is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(kind in 0_u8..12, bytes in proptest::collection::vec(any::<u8>(), 0..100)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(all(&bytes));
            let _ = runtime.block_on(all(&control(kind.into(), &bytes)));
        }
    }
}
