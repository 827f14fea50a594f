//! Blocks of headers, compressed over the whole connection as SPDY/3 says
//! (section 2.6.10). Must not keep more of a block than its limit.

use std::io;

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Largest block of headers.
const LARGEST: usize = 64 << 10;
/// Words of the dictionary, each with its length before it.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding accept-language \
    accept-ranges age allow authorization cache-control connection content-base content-encoding content-language \
    content-length content-location content-md5 content-range content-type date etag expect expires from host \
    if-match if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma \
    proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade \
    user-agent vary via warning www-authenticate method get status";
/// Words of the dictionary after those, one of which has a space in it.
const MORE: [&str; 9] = [
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
    "",
];
/// The rest of the dictionary.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
    Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 \
    Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
    Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
    application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
    charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// Names and values, in order.
pub(super) type Headers = Vec<(String, String)>;

/// The dictionary that both sides begin with.
pub(super) fn dictionary() -> Vec<u8> {
    let mut out = Vec::with_capacity(1423);
    let more = MORE.iter().copied().filter(|w| !w.is_empty());
    for word in WORDS.split_whitespace().chain(more) {
        out.extend_from_slice(&(word.len() as u32).to_be_bytes());
        out.extend_from_slice(word.as_bytes());
    }
    out.extend_from_slice(TAIL.as_bytes());
    out
}

/// Reads the peer's blocks.
pub(super) struct Reader(Decompress);

impl Reader {
    pub(super) fn new() -> Self {
        Reader(Decompress::new(true))
    }

    /// Must be given every block of the connection, in order.
    pub(super) fn read(&mut self, block: &[u8]) -> io::Result<Headers> {
        parse(&self.inflate(block)?).ok_or_else(|| wrong("headers are cut short"))
    }

    fn inflate(&mut self, mut block: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = Vec::with_capacity(1024);
        loop {
            let (read, written) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(block, &mut out, FlushDecompress::Sync);
            let used = usize::try_from(self.0.total_in() - read).unwrap_or(usize::MAX);
            block = block.get(used..).unwrap_or_default();
            match result {
                Ok(Status::StreamEnd) => return Err(wrong("the stream of headers has ended")),
                Ok(_) => {}
                Err(e) if e.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|e| wrong(&e.to_string()))?;
                    continue;
                }
                Err(e) => return Err(wrong(&e.to_string())),
            }
            if out.len() > LARGEST {
                return Err(wrong("headers are too large"));
            }
            if out.len() == out.capacity() {
                out.reserve(out.capacity());
            } else if block.is_empty() || used == 0 && out.len() == written {
                return Ok(out);
            }
        }
    }
}

/// Writes our blocks.
pub(super) struct Writer(Compress);

impl Writer {
    pub(super) fn new() -> Self {
        // A dictionary is not needed by the one who writes.
        Writer(Compress::new(Compression::fast(), true))
    }

    pub(super) fn write(&mut self, headers: &[(&str, &str)]) -> io::Result<Vec<u8>> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        // More than anything incompressible can grow to.
        let mut out = Vec::with_capacity(plain.len() * 2 + 128);
        self.0
            .compress_vec(&plain, &mut out, FlushCompress::Sync)
            .map_err(io::Error::other)?;
        Ok(out)
    }
}

fn parse(mut block: &[u8]) -> Option<Headers> {
    let count = number(&mut block)?;
    // No capacity is taken on the word of the peer.
    let mut out = Vec::new();
    for _ in 0..count {
        let name = text(&mut block)?;
        out.push((name, text(&mut block)?));
    }
    Some(out)
}

fn number(block: &mut &[u8]) -> Option<u32> {
    let (head, rest) = block.split_first_chunk::<4>()?;
    *block = rest;
    Some(u32::from_be_bytes(*head))
}

fn text(block: &mut &[u8]) -> Option<String> {
    let length = usize::try_from(number(block)?).ok()?;
    let (text, rest) = block.split_at_checked(length)?;
    *block = rest;
    Some(String::from_utf8_lossy(text).into_owned())
}

fn wrong(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {why}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_has_the_length_and_sum_of_the_standard() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        // The Adler-32 sum by which zlib knows it.
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2);
    }

    #[test]
    fn blocks_with_and_without_the_dictionary_are_read() {
        let mut with = Compress::new(Compression::best(), true);
        with.set_dictionary(&dictionary()).unwrap();
        for mut writer in [Writer::new(), Writer(with)] {
            let mut reader = Reader::new();
            for n in 0..50 {
                let value = "x".repeat(n * 37);
                let block = writer.write(&[("streamtype", "data"), ("port", &value)]).unwrap();
                let expected = [("streamtype".into(), "data".into()), ("port".into(), value)];
                assert_eq!(reader.read(&block).unwrap(), expected);
            }
        }
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let block = Writer::new().write(&[("a", &"x".repeat(1 << 20))]).unwrap();
        assert!(Reader::new().read(&block).is_err());
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
            let _ = Reader::new().read(&bytes);
            let mut framed = vec![0x78, 0x01, 0, bytes.len() as u8, 0, !(bytes.len() as u8), 0xff];
            framed.extend(&bytes);
            let _ = Reader::new().read(&framed);
        }
    }
}
