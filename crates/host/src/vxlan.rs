//! VXLAN devices and what belongs to one: routes, neighbours and forwarding entries.
//!
//! Must not choose names, addresses or peers.

use std::io;
use std::net::Ipv4Addr;

use nix::errno::Errno;
use nix::libc;

use crate::link::{CREATE, Links, REPLACE, Route, check_name, is, link_header};
use crate::netlink::{Message, NESTED, attribute, u32_at};

// linux/if_link.h
const VXLAN_ID: u16 = 1;
const VXLAN_LOCAL: u16 = 4;
const VXLAN_LEARNING: u16 = 7;
const VXLAN_PORT: u16 = 15;
// linux/neighbour.h
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;
const NUD_PERMANENT: u16 = 0x80;
const NTF_SELF: u8 = 0x02;
/// `struct ndmsg`.
const NEIGHBOUR_HEADER: usize = 12;
/// `struct rtmsg`.
const ROUTE_HEADER: usize = 12;
/// The next hop is on the link, whatever the addresses say.
const ONLINK: u32 = 4;

/// A VXLAN device without a default destination: it sends only where it is told to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Number of the network.
    pub vni: u32,
    /// UDP port, both ends.
    pub port: u16,
    /// Source of the packets that carry others.
    pub local: Ipv4Addr,
    /// Hardware address.
    pub mac: [u8; 6],
    /// Largest packet.
    pub mtu: u32,
    /// Whether it notes who sends what.
    pub learning: bool,
}

impl Links {
    /// The VXLAN device of a name, with its index. `Some` without a device: the name belongs to a
    /// link of another kind.
    pub fn vxlan(&mut self, name: &str) -> io::Result<Option<(u32, Option<Vxlan>)>> {
        let mut found = None;
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0));
        message.put_name(libc::IFLA_IFNAME, check_name(name)?);
        let each = &mut |_: u16, body: &[u8]| found = u32_at(body, 4).map(|index| (index, vxlan(body)));
        match self.socket.query(message, each) {
            Err(e) if is(&e, Errno::ENODEV) => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(found),
        }
    }

    /// Makes a VXLAN device that is up. Returns its index.
    pub fn make_vxlan(&mut self, name: &str, device: &Vxlan) -> io::Result<u32> {
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, libc::IFF_UP));
        message.put_name(libc::IFLA_IFNAME, check_name(name)?);
        message.put(libc::IFLA_ADDRESS, &device.mac);
        message.put(libc::IFLA_MTU, &device.mtu.to_ne_bytes());
        message.nest(libc::IFLA_LINKINFO | NESTED, |m| {
            m.put_name(libc::IFLA_INFO_KIND, "vxlan");
            m.nest(libc::IFLA_INFO_DATA | NESTED, |m| {
                m.put(VXLAN_ID, &device.vni.to_ne_bytes());
                m.put(VXLAN_LOCAL, &device.local.octets());
                m.put(VXLAN_LEARNING, &[u8::from(device.learning)]);
                m.put(VXLAN_PORT, &device.port.to_be_bytes());
            });
        });
        self.socket.request(message)?;
        self.expect(name)
    }

    /// The routes of the main table through a link. Those with several next hops are left out.
    pub fn routes(&mut self, index: u32) -> io::Result<Vec<Route>> {
        let mut routes = Vec::new();
        let message = Message::new(libc::RTM_GETROUTE, 0, &route_header(0, [0; 3], 0));
        self.socket.dump(message, &mut |_, body| {
            routes.extend(route(body).filter(|(through, _)| *through == index).map(|(_, r)| r));
        })?;
        Ok(routes)
    }

    /// Sets a route through a link to a next hop that is taken for being on it; another one to the
    /// same destination is replaced.
    pub fn route_onlink(&mut self, index: u32, route: &Route) -> io::Result<()> {
        self.socket
            .request(route_message(libc::RTM_NEWROUTE, REPLACE, index, route, ONLINK))
    }

    /// Removes a route through a link. One that is not there is no error.
    pub fn remove_route(&mut self, index: u32, route: &Route) -> io::Result<()> {
        let message = route_message(libc::RTM_DELROUTE, 0, index, route, 0);
        gone(self.socket.request(message), Errno::ESRCH)
    }

    /// The permanent neighbours on a link.
    pub fn neighbours(&mut self, index: u32) -> io::Result<Vec<(Ipv4Addr, [u8; 6])>> {
        let entries = self.entries(libc::AF_INET, index)?;
        Ok(entries.into_iter().map(|(mac, ip)| (ip, mac)).collect())
    }

    /// Sets a permanent neighbour, in place of the one with the same address.
    pub fn neighbour(&mut self, index: u32, address: Ipv4Addr, mac: [u8; 6]) -> io::Result<()> {
        let header = neighbour_header(libc::AF_INET, index, NUD_PERMANENT, 0);
        let mut message = Message::new(libc::RTM_NEWNEIGH, REPLACE, &header);
        message.put(NDA_DST, &address.octets());
        message.put(NDA_LLADDR, &mac);
        self.socket.request(message)
    }

    /// Removes a neighbour. One that is not there is no error.
    pub fn remove_neighbour(&mut self, index: u32, address: Ipv4Addr) -> io::Result<()> {
        let header = neighbour_header(libc::AF_INET, index, 0, 0);
        let mut message = Message::new(libc::RTM_DELNEIGH, 0, &header);
        message.put(NDA_DST, &address.octets());
        gone(self.socket.request(message), Errno::ENOENT)
    }

    /// The forwarding entries of a VXLAN device: which hardware address is behind which host.
    pub fn forwarding(&mut self, index: u32) -> io::Result<Vec<([u8; 6], Ipv4Addr)>> {
        self.entries(libc::AF_BRIDGE, index)
    }

    /// Sets a forwarding entry, in place of the one for the same hardware address.
    pub fn forward(&mut self, index: u32, mac: [u8; 6], to: Ipv4Addr) -> io::Result<()> {
        let header = neighbour_header(libc::AF_BRIDGE, index, NUD_PERMANENT, NTF_SELF);
        let mut message = Message::new(libc::RTM_NEWNEIGH, REPLACE, &header);
        message.put(NDA_LLADDR, &mac);
        message.put(NDA_DST, &to.octets());
        self.socket.request(message)
    }

    /// Removes a forwarding entry. One that is not there is no error.
    pub fn remove_forwarding(&mut self, index: u32, mac: [u8; 6], to: Ipv4Addr) -> io::Result<()> {
        let header = neighbour_header(libc::AF_BRIDGE, index, 0, NTF_SELF);
        let mut message = Message::new(libc::RTM_DELNEIGH, 0, &header);
        message.put(NDA_LLADDR, &mac);
        message.put(NDA_DST, &to.octets());
        gone(self.socket.request(message), Errno::ENOENT)
    }

    fn entries(&mut self, family: i32, index: u32) -> io::Result<Vec<([u8; 6], Ipv4Addr)>> {
        let mut entries = Vec::new();
        // Without an index: what the kernel makes of one here differs by family and by version.
        let message = Message::new(libc::RTM_GETNEIGH, 0, &neighbour_header(family, 0, 0, 0));
        self.socket
            .dump(message, &mut |_, body| entries.extend(entry(body, index)))?;
        Ok(entries)
    }
}

fn gone(done: io::Result<()>, code: Errno) -> io::Result<()> {
    match done {
        Err(e) if is(&e, code) => Ok(()),
        other => other,
    }
}

fn vxlan(body: &[u8]) -> Option<Vxlan> {
    let list = body.get(16..)?;
    let info = attribute(list, libc::IFLA_LINKINFO)?;
    if attribute(info, libc::IFLA_INFO_KIND)? != b"vxlan\0" {
        return None;
    }
    let data = attribute(info, libc::IFLA_INFO_DATA)?;
    let port: [u8; 2] = attribute(data, VXLAN_PORT)?.try_into().ok()?;
    // Absent when it has none.
    let local = attribute(data, VXLAN_LOCAL).and_then(address);
    Some(Vxlan {
        vni: u32_at(attribute(data, VXLAN_ID)?, 0)?,
        port: u16::from_be_bytes(port),
        local: local.unwrap_or(Ipv4Addr::UNSPECIFIED),
        mac: attribute(list, libc::IFLA_ADDRESS)?.try_into().ok()?,
        mtu: u32_at(attribute(list, libc::IFLA_MTU)?, 0)?,
        learning: attribute(data, VXLAN_LEARNING)? != [0],
    })
}

fn route_header(prefix: u8, rest: [u8; 3], flags: u32) -> Vec<u8> {
    let [protocol, scope, kind] = rest;
    let mut header = vec![
        libc::AF_INET as u8,
        prefix,
        0,
        0,
        libc::RT_TABLE_MAIN,
        protocol,
        scope,
        kind,
    ];
    header.extend_from_slice(&flags.to_ne_bytes());
    header
}

fn route_message(kind: u16, how: i32, index: u32, route: &Route, flags: u32) -> Message {
    let rest = match (kind, route.via) {
        // Whoever made it, and however.
        (libc::RTM_DELROUTE, _) => [0, libc::RT_SCOPE_NOWHERE, 0],
        (_, Some(_)) => [libc::RTPROT_STATIC, libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST],
        (_, None) => [libc::RTPROT_STATIC, libc::RT_SCOPE_LINK, libc::RTN_UNICAST],
    };
    let mut message = Message::new(kind, how, &route_header(route.to.1, rest, flags));
    if route.to.1 > 0 {
        message.put(libc::RTA_DST, &route.to.0.octets());
    }
    if let Some(via) = route.via {
        message.put(libc::RTA_GATEWAY, &via.octets());
    }
    if let Some(source) = route.source {
        message.put(libc::RTA_PREFSRC, &source.octets());
    }
    message.put(libc::RTA_OIF, &index.to_ne_bytes());
    message
}

/// A route of the main table, and the link that it leads through.
fn route(body: &[u8]) -> Option<(u32, Route)> {
    let (prefix, table, kind) = (*body.get(1)?, *body.get(4)?, *body.get(7)?);
    let list = body.get(ROUTE_HEADER..)?;
    if table != libc::RT_TABLE_MAIN || kind != libc::RTN_UNICAST {
        return None;
    }
    let get = |which| attribute(list, which).and_then(address);
    let route = Route {
        to: (get(libc::RTA_DST).unwrap_or(Ipv4Addr::UNSPECIFIED), prefix),
        via: get(libc::RTA_GATEWAY),
        source: get(libc::RTA_PREFSRC),
    };
    Some((u32_at(attribute(list, libc::RTA_OIF)?, 0)?, route))
}

fn neighbour_header(family: i32, index: u32, state: u16, flags: u8) -> Vec<u8> {
    let mut header = vec![family as u8, 0, 0, 0];
    header.extend_from_slice(&index.to_ne_bytes());
    header.extend_from_slice(&state.to_ne_bytes());
    header.extend_from_slice(&[flags, 0]);
    header
}

/// An entry of a link, of neighbours or of forwarding: both are written alike.
fn entry(body: &[u8], index: u32) -> Option<([u8; 6], Ipv4Addr)> {
    let state = u16::from_ne_bytes(body.get(8..10)?.try_into().ok()?);
    // Neighbours that the kernel found by itself are its own affair.
    let found = i32::from(*body.first()?) == libc::AF_INET && state & NUD_PERMANENT == 0;
    if u32_at(body, 4)? != index || found {
        return None;
    }
    let list = body.get(NEIGHBOUR_HEADER..)?;
    let mac = attribute(list, NDA_LLADDR)?.try_into().ok()?;
    Some((mac, address(attribute(list, NDA_DST)?)?))
}

fn address(bytes: &[u8]) -> Option<Ipv4Addr> {
    let octets: [u8; 4] = bytes.try_into().ok()?;
    Some(octets.into())
}
