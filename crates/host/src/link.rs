//! Links, addresses and routes of the network namespace that the calling thread is in.
//!
//! Must not choose names or addresses.

use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::SockProtocol;

use crate::netlink::{Message, NESTED, Socket, attribute, u32_at};

const VETH_INFO_PEER: u16 = 1;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// Hardware address as `02:00:00:00:00:01`; empty when it has none.
    pub mac: String,
    /// Largest packet.
    pub mtu: u32,
}

/// A route of the main table through a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub to: (Ipv4Addr, u8),
    /// Next hop; none for what is on the link.
    pub via: Option<Ipv4Addr>,
    /// Address that this host's own packets come from.
    pub source: Option<Ipv4Addr>,
}

/// Access to the links of a network namespace.
pub struct Links {
    pub(crate) socket: Socket,
}

impl Links {
    /// Access to the namespace that the calling thread is in, for as long as this lives.
    pub fn open() -> io::Result<Self> {
        Ok(Links {
            socket: Socket::open(SockProtocol::NetlinkRoute)?,
        })
    }

    /// All links.
    pub fn list(&mut self) -> io::Result<Vec<Link>> {
        let mut links = Vec::new();
        let message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0));
        self.socket.dump(message, &mut |_, body| links.extend(link(body)))?;
        Ok(links)
    }

    /// A link by name.
    pub fn get(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut found = None;
        let mut message = Message::new(libc::RTM_GETLINK, 0, &link_header(0, 0));
        message.put_name(libc::IFLA_IFNAME, check_name(name)?);
        match self.socket.query(message, &mut |_, body| found = link(body)) {
            Err(e) if is(&e, Errno::ENODEV) => Ok(None),
            Err(e) => Err(e),
            Ok(()) => Ok(found),
        }
    }

    /// Makes a bridge that is up; one that is there already is kept. Returns its index.
    pub fn bridge(&mut self, name: &str) -> io::Result<u32> {
        if let Some(link) = self.get(name)? {
            self.up(link.index)?;
            return Ok(link.index);
        }
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, libc::IFF_UP));
        message.put_name(libc::IFLA_IFNAME, check_name(name)?);
        message.nest(libc::IFLA_LINKINFO | NESTED, |m| {
            m.put_name(libc::IFLA_INFO_KIND, "bridge")
        });
        self.socket.request(message)?;
        self.expect(name)
    }

    /// Makes a pair of links: `name` here, which is up, and `peer` in another namespace, which
    /// is not: the kernel brings no end up before both are there. Returns the index of the one here.
    pub fn veth(&mut self, name: &str, peer: &str, peer_namespace: &File, mtu: u32) -> io::Result<u32> {
        let (name, peer) = (check_name(name)?, check_name(peer)?);
        let mut message = Message::new(libc::RTM_NEWLINK, CREATE, &link_header(0, libc::IFF_UP));
        message.put_name(libc::IFLA_IFNAME, name);
        message.put(libc::IFLA_MTU, &mtu.to_ne_bytes());
        message.nest(libc::IFLA_LINKINFO | NESTED, |m| {
            m.put_name(libc::IFLA_INFO_KIND, "veth");
            m.nest(libc::IFLA_INFO_DATA | NESTED, |m| {
                m.nest(VETH_INFO_PEER | NESTED, |m| {
                    m.raw(&link_header(0, 0));
                    m.put_name(libc::IFLA_IFNAME, peer);
                    m.put(libc::IFLA_MTU, &mtu.to_ne_bytes());
                    m.put(libc::IFLA_NET_NS_FD, &peer_namespace.as_raw_fd().to_ne_bytes());
                });
            });
        });
        self.socket.request(message)?;
        self.expect(name)
    }

    /// Sets the size of the largest packet.
    pub fn mtu(&mut self, index: u32, mtu: u32) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, 0));
        message.put(libc::IFLA_MTU, &mtu.to_ne_bytes());
        self.socket.request(message)
    }

    /// Brings a link up.
    pub fn up(&mut self, index: u32) -> io::Result<()> {
        let message = Message::new(libc::RTM_NEWLINK, 0, &link_header(index, libc::IFF_UP));
        self.socket.request(message)
    }

    /// Removes a link, and with a veth its other end. One that is not there is no error.
    pub fn delete(&mut self, name: &str) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_DELLINK, 0, &link_header(0, 0));
        message.put_name(libc::IFLA_IFNAME, check_name(name)?);
        match self.socket.request(message) {
            Err(e) if is(&e, Errno::ENODEV) => Ok(()),
            other => other,
        }
    }

    /// Gives a link an address; doing it again is no error.
    pub fn address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_NEWADDR, REPLACE, &address_header(index, prefix));
        message.put(libc::IFA_LOCAL, &address.octets());
        message.put(libc::IFA_ADDRESS, &address.octets());
        self.socket.request(message)
    }

    /// All IPv4 addresses: the index of the link, the address and its prefix.
    pub fn addresses(&mut self) -> io::Result<Vec<(u32, Ipv4Addr, u8)>> {
        let mut addresses = Vec::new();
        let message = Message::new(libc::RTM_GETADDR, 0, &address_header(0, 0));
        self.socket
            .dump(message, &mut |_, body| addresses.extend(address(body)))?;
        Ok(addresses)
    }

    /// Takes an address from a link. One that is not there is no error.
    pub fn remove_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        let mut message = Message::new(libc::RTM_DELADDR, 0, &address_header(index, prefix));
        message.put(libc::IFA_LOCAL, &address.octets());
        match self.socket.request(message) {
            Err(e) if is(&e, Errno::EADDRNOTAVAIL) => Ok(()),
            other => other,
        }
    }

    /// Sets a route through a link; another one to the same destination is replaced.
    pub fn route(&mut self, index: u32, route: &Route) -> io::Result<()> {
        let scope = match route.via {
            Some(_) => libc::RT_SCOPE_UNIVERSE,
            None => libc::RT_SCOPE_LINK,
        };
        let mut header = vec![libc::AF_INET as u8, route.to.1, 0, 0];
        header.extend_from_slice(&[
            libc::RT_TABLE_MAIN,
            libc::RTPROT_STATIC,
            scope,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ]);
        let mut message = Message::new(libc::RTM_NEWROUTE, REPLACE, &header);
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
        self.socket.request(message)
    }

    pub(crate) fn expect(&mut self, name: &str) -> io::Result<u32> {
        let found = self.get(name)?;
        found.map(|link| link.index).ok_or_else(|| Errno::ENODEV.into())
    }
}

/// Writes a kernel parameter such as `net/ipv4/ip_forward` of the calling thread's network namespace.
pub fn set_sysctl(name: &str, value: &str) -> io::Result<()> {
    let path = format!("/proc/sys/{name}");
    // Where /proc/sys is read-only, what already has the value must not fail.
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("{path}: {e}")))
}

pub(crate) const CREATE: i32 = libc::NLM_F_CREATE | libc::NLM_F_EXCL;
pub(crate) const REPLACE: i32 = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;

/// `struct ifinfomsg`.
pub(crate) fn link_header(index: u32, flags: i32) -> [u8; 16] {
    let mut header = [0; 16];
    header[4..8].copy_from_slice(&index.to_ne_bytes());
    header[8..12].copy_from_slice(&flags.to_ne_bytes());
    header[12..16].copy_from_slice(&flags.to_ne_bytes());
    header
}

/// `struct ifaddrmsg`.
fn address_header(index: u32, prefix: u8) -> Vec<u8> {
    let mut header = vec![libc::AF_INET as u8, prefix, 0, libc::RT_SCOPE_UNIVERSE];
    header.extend_from_slice(&index.to_ne_bytes());
    header
}

fn address(body: &[u8]) -> Option<(u32, Ipv4Addr, u8)> {
    let octets: [u8; 4] = attribute(body.get(8..)?, libc::IFA_LOCAL)?.try_into().ok()?;
    Some((u32_at(body, 4)?, octets.into(), *body.get(1)?))
}

fn link(body: &[u8]) -> Option<Link> {
    let list = body.get(16..)?;
    let name = attribute(list, libc::IFLA_IFNAME)?;
    let mac = attribute(list, libc::IFLA_ADDRESS).unwrap_or_default();
    let mac: Vec<String> = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(Link {
        index: u32_at(body, 4)?,
        name: String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned(),
        mac: mac.join(":"),
        mtu: attribute(list, libc::IFLA_MTU)
            .and_then(|m| u32_at(m, 0))
            .unwrap_or_default(),
    })
}

pub(crate) fn check_name(name: &str) -> io::Result<&str> {
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains(['/', '\0']) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("{name:?} cannot name a link"),
        ));
    }
    Ok(name)
}

pub(crate) fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code as i32)
}
