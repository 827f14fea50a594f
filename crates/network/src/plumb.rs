//! Links and routes of pods. Every pod has a pair of links of its own and a route of its own on
//! the host, and sends everything to the gateway: all traffic is routed, also between pods of
//! this node, so that translated connections are seen in both directions. Nothing depends on
//! whether the kernel filters bridged frames.
//!
//! Blocks; must not know addresses' owners.

use std::fs::File;
use std::io;
use std::net::Ipv4Addr;
use std::path::Path;

use host::link::{Links, Route, set_sysctl};
use host::netns;
use netplan::{Cidr, Node};

/// Name of the link inside a pod.
pub(crate) const INSIDE: &str = "eth0";
const EEXIST: i32 = 17;

/// What all pods of the node have in common.
pub(crate) struct Plumber {
    bridge: String,
    mtu: u32,
    gateway: Ipv4Addr,
    node_cidr: Cidr,
    service_cidr: Cidr,
}

/// A pod's link, as CNI wants to hear of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plugged {
    /// Name on the host.
    pub host_link: String,
    /// Hardware address inside.
    pub mac: String,
}

impl Plumber {
    pub(crate) fn new(bridge: &str, mtu: u32, node: &Node) -> Self {
        Plumber {
            bridge: bridge.to_owned(),
            mtu,
            gateway: node.gateway,
            node_cidr: node.node_cidr,
            service_cidr: node.service_cidr,
        }
    }

    /// The node's own side: it forwards, and services' addresses lead to where they can be
    /// translated, also without any other route.
    pub(crate) fn prepare(&self) -> io::Result<()> {
        set_sysctl("net/ipv4/ip_forward", "1")?;
        let mut links = Links::open()?;
        let bridge = links.bridge(&self.bridge)?;
        links.mtu(bridge, self.mtu)?;
        links.address(bridge, self.gateway, 32)?;
        // Of a subnet that the node had before; another node's gateway may have it now.
        for (index, address, prefix) in links.addresses()? {
            if index == bridge && address != self.gateway {
                links.remove_address(index, address, prefix)?;
            }
        }
        let services = Route {
            to: (self.service_cidr.network(), self.service_cidr.prefix()),
            via: None,
            source: Some(self.gateway),
        };
        links.route(bridge, &services)
    }

    /// Name of a pod's link on the host.
    pub(crate) fn host_link(&self, address: Ipv4Addr) -> String {
        format!("{}-{}", self.bridge, self.node_cidr.offset(address).unwrap_or_default())
    }

    /// The pods' links that are there.
    pub(crate) fn host_links(&self) -> io::Result<Vec<String>> {
        let prefix = format!("{}-", self.bridge);
        let names = Links::open()?.list()?.into_iter().map(|link| link.name);
        Ok(names.filter(|name| name.starts_with(&prefix)).collect())
    }

    /// Connects a namespace; what is connected already is left as it is.
    pub(crate) fn connect(&self, netns: &Path, address: Ipv4Addr) -> io::Result<Plugged> {
        let namespace = File::open(netns)?;
        let host_link = self.host_link(address);
        let mut links = Links::open()?;
        let index = match links.get(&host_link)? {
            Some(link) if inside_link(&namespace)? => link.index,
            Some(_) => {
                links.delete(&host_link)?;
                self.pair(&mut links, &host_link, &namespace)?
            }
            None => self.pair(&mut links, &host_link, &namespace)?,
        };
        // Without: the kernel would announce itself to the pod as a host of IPv6. Kernels without
        // IPv6 have nothing to turn off.
        let _ = set_sysctl(&format!("net/ipv6/conf/{host_link}/disable_ipv6"), "1");
        // Node ports answer on the node's loopback addresses too.
        set_sysctl(&format!("net/ipv4/conf/{host_link}/route_localnet"), "1")?;
        let mac = netns::inside(&namespace, || self.furnish(address))?;
        let route = Route {
            to: (address, 32),
            via: None,
            source: Some(self.gateway),
        };
        links.route(index, &route)?;
        Ok(Plugged { host_link, mac })
    }

    /// Disconnects whoever has an address.
    pub(crate) fn disconnect(&self, address: Ipv4Addr) -> io::Result<()> {
        Links::open()?.delete(&self.host_link(address))
    }

    fn pair(&self, links: &mut Links, host_link: &str, namespace: &File) -> io::Result<u32> {
        match links.veth(host_link, INSIDE, namespace, self.mtu) {
            // Left from an address that the sandbox had before.
            Err(e) if e.raw_os_error() == Some(EEXIST) => {
                netns::inside(namespace, || Links::open()?.delete(INSIDE))?;
                links.veth(host_link, INSIDE, namespace, self.mtu)
            }
            other => other,
        }
    }

    /// The inside of a pod. Returns the hardware address.
    fn furnish(&self, address: Ipv4Addr) -> io::Result<String> {
        let mut links = Links::open()?;
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let lo = links.get("lo")?.ok_or_else(missing)?;
        links.up(lo.index)?;
        let link = links.get(INSIDE)?.ok_or_else(missing)?;
        links.address(link.index, address, 32)?;
        links.up(link.index)?;
        let gateway = Route {
            to: (self.gateway, 32),
            via: None,
            source: None,
        };
        links.route(link.index, &gateway)?;
        let everything = Route {
            to: (Ipv4Addr::UNSPECIFIED, 0),
            via: Some(self.gateway),
            source: None,
        };
        links.route(link.index, &everything)?;
        Ok(link.mac)
    }
}

fn inside_link(namespace: &File) -> io::Result<bool> {
    netns::inside(namespace, || Ok(Links::open()?.get(INSIDE)?.is_some()))
}
