//! Netlink's framing: requests, acknowledgements, dumps and attributes.
//!
//! Synchronous, because a socket belongs to the network namespace of the thread that opens it
//! and a request is answered within microseconds. Must not know any message's meaning.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket,
};

const HEADER: usize = 16;
/// Flag in an attribute's type: its value is a list of attributes.
pub(crate) const NESTED: u16 = 1 << 15;

/// A socket in the network namespace of the thread that opened it.
pub(crate) struct Socket {
    fd: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Socket {
    pub(crate) fn open(protocol: SockProtocol) -> io::Result<Self> {
        let fd = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, protocol)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Socket {
            fd,
            sequence: 0,
            // The kernel fills dumps up to 32 KiB at once.
            buffer: vec![0; 64 * 1024],
        })
    }

    /// Sends a request and waits until the kernel has carried it out.
    pub(crate) fn request(&mut self, message: Message) -> io::Result<()> {
        self.exchange(message, libc::NLM_F_ACK as u16, &mut |_, _| ())
    }

    /// Sends a request and hands every answer to `each`: its type and its bytes after the header.
    pub(crate) fn dump(&mut self, message: Message, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
        self.exchange(message, libc::NLM_F_DUMP as u16, each)
    }

    /// Sends a request that has answers and an acknowledgement.
    pub(crate) fn query(&mut self, message: Message, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
        self.exchange(message, libc::NLM_F_ACK as u16, each)
    }

    fn exchange(&mut self, message: Message, flags: u16, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<()> {
        self.sequence += 1;
        let bytes = message.finish(flags | libc::NLM_F_REQUEST as u16, self.sequence);
        send(self.fd.as_raw_fd(), &bytes, MsgFlags::empty())?;
        loop {
            let length = match recv(self.fd.as_raw_fd(), &mut self.buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => continue,
                other => other?,
            };
            if answers(&self.buffer[..length], self.sequence, each)? {
                return Ok(());
            }
        }
    }
}

/// Goes through one datagram; true when the exchange is complete.
fn answers(mut rest: &[u8], sequence: u32, each: &mut dyn FnMut(u16, &[u8])) -> io::Result<bool> {
    while let (Some(length), Some(kind), Some(of)) = (u32_at(rest, 0), u16_at(rest, 4), u32_at(rest, 8)) {
        let length = length as usize;
        if length < HEADER || length > rest.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "truncated netlink message"));
        }
        let body = &rest[HEADER..length];
        if of == sequence {
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(true),
                libc::NLMSG_ERROR => {
                    return match u32_at(body, 0).map_or(0, u32::cast_signed) {
                        0 => Ok(true),
                        code => Err(io::Error::from_raw_os_error(-code)),
                    };
                }
                _ => each(kind, body),
            }
        }
        rest = rest.get(align(length)..).unwrap_or_default();
    }
    Ok(false)
}

/// A request being written.
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A request of a type, with its fixed part.
    pub(crate) fn new(kind: u16, flags: i32, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
        let mut message = Message { bytes };
        message.raw(fixed);
        message
    }

    /// Bytes as they are, padded.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(align(self.bytes.len()), 0);
    }

    /// An attribute.
    pub(crate) fn put(&mut self, kind: u16, value: &[u8]) {
        let length = (value.len() + 4) as u16;
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.raw(value);
    }

    /// An attribute that is a name, with the zero byte at its end.
    pub(crate) fn put_name(&mut self, kind: u16, name: &str) {
        let mut value = name.as_bytes().to_vec();
        value.push(0);
        self.put(kind, &value);
    }

    /// An attribute made of what `inner` writes.
    pub(crate) fn nest(&mut self, kind: u16, inner: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.put(kind, &[]);
        inner(self);
        let length = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
    }

    fn finish(mut self, flags: u16, sequence: u32) -> Vec<u8> {
        let length = self.bytes.len() as u32;
        let all = flags | u16_at(&self.bytes, 6).unwrap_or(0);
        self.bytes[0..4].copy_from_slice(&length.to_ne_bytes());
        self.bytes[6..8].copy_from_slice(&all.to_ne_bytes());
        self.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.bytes
    }
}

/// The attributes in a list: types without flags, and values.
pub(crate) fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16_at(rest, 0)?);
        let kind = u16_at(rest, 2)? & !(3 << 14);
        let value = rest.get(4..length)?;
        rest = rest.get(align(length)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// The value of the first attribute of a type.
pub(crate) fn attribute(list: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(list).find(|(k, _)| *k == kind).map(|(_, value)| value)
}

pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn align(length: usize) -> usize {
    length.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_read_back_what_was_written() {
        let mut message = Message::new(1, 0, &[]);
        message.put_name(3, "eth0");
        message.nest(18 | NESTED, |m| m.put(1, &7u32.to_ne_bytes()));
        let bytes = message.finish(0, 1);
        let list = &bytes[HEADER..];
        assert_eq!(attribute(list, 3), Some(b"eth0\0".as_slice()));
        assert_eq!(u32_at(attribute(attribute(list, 18).unwrap(), 1).unwrap(), 0), Some(7));
        assert_eq!(u32_at(&bytes, 0), Some(bytes.len() as u32));
    }

    #[test]
    fn junk_ends_a_list() {
        assert_eq!(attributes(&[3, 0, 1, 0, 9]).count(), 0);
        assert_eq!(attributes(&[200, 0, 1, 0]).count(), 0);
        assert!(answers(&[1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 0, &mut |_, _| ()).is_err());
    }
}
