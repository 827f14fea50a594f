//! Connections that the kernel tracks: forgetting those that lead nowhere any more.
//!
//! Must not choose which.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Message, NESTED, Socket, attribute};

// linux/netfilter/nfnetlink_conntrack.h
const GET: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 1;
const DELETE: u16 = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | 2;
const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SOURCE: u16 = 1;
const IP_V4_DESTINATION: u16 = 2;
const PROTO_NUMBER: u16 = 1;
const PROTO_SOURCE_PORT: u16 = 2;
const PROTO_DESTINATION_PORT: u16 = 3;

/// A connection over IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Number of the protocol: 6 TCP, 17 UDP, 132 SCTP.
    pub protocol: u8,
    /// Where its first packet was sent to.
    pub destination: SocketAddrV4,
    /// Who answers: what [`Flow::destination`] was translated to.
    pub answered_by: SocketAddrV4,
}

/// Forgets every connection that `which` picks. Returns how many.
pub fn forget(which: &dyn Fn(&Flow) -> bool) -> io::Result<usize> {
    let mut socket = Socket::open(SockProtocol::NetlinkNetFilter)?;
    let header = [libc::AF_INET as u8, 0, 0, 0];
    let mut tuples: Vec<Vec<u8>> = Vec::new();
    socket.dump(Message::new(GET, 0, &header), &mut |_, body| {
        let list = body.get(4..).unwrap_or_default();
        if let (Some(flow), Some(tuple)) = (flow(list), attribute(list, TUPLE_ORIGINAL))
            && which(&flow)
        {
            tuples.push(tuple.to_vec());
        }
    })?;
    let mut count = 0;
    for tuple in tuples {
        let mut message = Message::new(DELETE, 0, &header);
        message.put(TUPLE_ORIGINAL | NESTED, &tuple);
        match socket.request(message) {
            Ok(()) => count += 1,
            // It ended by itself.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(count)
}

fn flow(list: &[u8]) -> Option<Flow> {
    let (original, reply) = (attribute(list, TUPLE_ORIGINAL)?, attribute(list, TUPLE_REPLY)?);
    let protocol = *attribute(attribute(original, TUPLE_PROTO)?, PROTO_NUMBER)?.first()?;
    Some(Flow {
        protocol,
        destination: end(original, IP_V4_DESTINATION, PROTO_DESTINATION_PORT)?,
        answered_by: end(reply, IP_V4_SOURCE, PROTO_SOURCE_PORT)?,
    })
}

fn end(tuple: &[u8], address: u16, port: u16) -> Option<SocketAddrV4> {
    let address: [u8; 4] = attribute(attribute(tuple, TUPLE_IP)?, address)?.try_into().ok()?;
    let port: [u8; 2] = attribute(attribute(tuple, TUPLE_PROTO)?, port)?.try_into().ok()?;
    Some(SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port)))
}
