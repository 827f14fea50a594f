//! The way to the pods of other nodes: a VXLAN device with one route, one neighbour and one
//! forwarding entry for each peer. What is to be there is a value, so is what is there, and the
//! difference is what has to be done: an earlier run's leftovers are only a difference like others.
//!
//! Must not touch the kernel, and must not read nodes from the API.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::Ipv4Addr;

use crate::Cidr;

/// What VXLAN adds to a packet: Ethernet, IPv4, UDP and its own header.
const OVERHEAD: u32 = 50;
/// Of an Ethernet; for devices that are none.
const ETHERNET: u32 = 1500;
/// Every host takes packets of this size (RFC 791), and pods' connections need no smaller ones.
const SMALLEST: u32 = 576;

/// Largest packet of pods, when the device with the node's address takes packets of `device` bytes;
/// `None` when there is no such device. The loopback's 64 KiB are no size that anything else takes.
pub fn pod_mtu(device: Option<u32>) -> u32 {
    let device = device.filter(|mtu| *mtu < 65_536).unwrap_or(ETHERNET);
    device.saturating_sub(OVERHEAD).max(SMALLEST)
}

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// That of the device of the node that has a subnet: whoever knows the subnet knows the
    /// address, so that nodes need not tell it to each other. Locally administered, unicast.
    pub fn of(subnet: Cidr) -> Self {
        let [a, b, c, d] = subnet.network().octets();
        Mac([0x0a, 0xa1, a, b, c, d])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// This node, as far as the overlay is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Here {
    /// Number of the overlay, the same on all nodes.
    pub vni: u32,
    /// UDP port, the same on all nodes.
    pub port: u16,
    /// Largest packet of pods.
    pub mtu: u32,
    /// Address by which other nodes reach this one.
    pub address: Ipv4Addr,
    /// Addresses of all pods.
    pub cluster_cidr: Cidr,
    /// Addresses of this node's pods.
    pub node_cidr: Cidr,
    /// The node's own address among them.
    pub gateway: Ipv4Addr,
}

/// Another node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Addresses of its pods.
    pub subnet: Cidr,
    /// Address by which it is reached.
    pub address: Ipv4Addr,
    /// Name, for people.
    pub name: String,
}

/// A VXLAN device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Number of the overlay.
    pub vni: u32,
    /// UDP port.
    pub port: u16,
    /// Source of the packets that carry others.
    pub local: Ipv4Addr,
    /// Hardware address.
    pub mac: Mac,
    /// Largest packet.
    pub mtu: u32,
    /// Whether it notes who sends what; ours does not, it is told.
    pub learning: bool,
}

/// A way out of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// Next hop, taken for being on the link.
    pub via: Option<Ipv4Addr>,
    /// Address that this node's own packets come from.
    pub source: Option<Ipv4Addr>,
}

/// Everything of the overlay on a host. As sets, not maps: the kernel may hold more than one entry
/// for a key, and such must be seen to be removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    /// The device; none without peers.
    pub device: Option<Device>,
    /// Routes through the device.
    pub routes: BTreeSet<(Cidr, Way)>,
    /// Whose hardware address is which.
    pub neighbours: BTreeSet<(Ipv4Addr, Mac)>,
    /// Behind which node a hardware address is.
    pub forwarding: BTreeSet<(Mac, Ipv4Addr)>,
}

/// Why a node cannot be a peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unusable {
    /// Its subnet is not the cluster's.
    #[error("node {name}: its subnet {subnet} is not part of the cluster's {cluster}")]
    Foreign {
        /// Its name.
        name: String,
        /// Its subnet.
        subnet: Cidr,
        /// The cluster's.
        cluster: Cidr,
    },
    /// Somebody else has its subnet.
    #[error("node {name}: its subnet {subnet} overlaps {other} of {owner}")]
    Taken {
        /// Its name.
        name: String,
        /// Its subnet.
        subnet: Cidr,
        /// The other one's.
        other: Cidr,
        /// Who that is.
        owner: String,
    },
    /// It has this node's own address.
    #[error("node {name}: it has the address {address}, as this node has")]
    Same {
        /// Its name.
        name: String,
        /// The address.
        address: Ipv4Addr,
    },
    /// Its subnet has no room for a gateway.
    #[error("node {name}: its subnet {subnet} is too small")]
    Small {
        /// Its name.
        name: String,
        /// Its subnet.
        subnet: Cidr,
    },
}

/// What is to be there for these peers, and which of them it cannot be there for. Of peers whose
/// subnets overlap, the first in the order of subnets and names is served; on every node the same.
pub fn overlay(here: &Here, peers: &[Peer]) -> (Overlay, Vec<Unusable>) {
    let mut overlay = Overlay::default();
    let mut unusable = Vec::new();
    let mut taken: Vec<(Cidr, String)> = vec![(here.node_cidr, "this node".to_owned())];
    let sorted: BTreeSet<&Peer> = peers.iter().collect();
    for peer in sorted {
        match usable(here, peer, &taken) {
            Ok(gateway) => {
                let mac = Mac::of(peer.subnet);
                let way = Way {
                    via: Some(gateway),
                    source: Some(here.gateway),
                };
                overlay.routes.insert((peer.subnet, way));
                overlay.neighbours.insert((gateway, mac));
                overlay.forwarding.insert((mac, peer.address));
                taken.push((peer.subnet, format!("node {}", peer.name)));
            }
            Err(why) => unusable.push(why),
        }
    }
    overlay.device = (!overlay.routes.is_empty()).then(|| Device {
        vni: here.vni,
        port: here.port,
        local: here.address,
        mac: Mac::of(here.node_cidr),
        mtu: here.mtu,
        learning: false,
    });
    (overlay, unusable)
}

/// The peer's gateway.
fn usable(here: &Here, peer: &Peer, taken: &[(Cidr, String)]) -> Result<Ipv4Addr, Unusable> {
    let (name, subnet) = (peer.name.clone(), peer.subnet);
    if !here.cluster_cidr.encloses(&subnet) {
        let cluster = here.cluster_cidr;
        return Err(Unusable::Foreign { name, subnet, cluster });
    }
    if let Some((other, owner)) = taken.iter().find(|(t, _)| t.overlaps(&subnet)) {
        let (other, owner) = (*other, owner.clone());
        return Err(Unusable::Taken {
            name,
            subnet,
            other,
            owner,
        });
    }
    if peer.address == here.address {
        let address = peer.address;
        return Err(Unusable::Same { name, address });
    }
    let gateway = subnet.nth(1).filter(|_| subnet.prefix() <= 30);
    gateway.ok_or(Unusable::Small { name, subnet })
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Remove the device, and with it all else.
    RemoveDevice,
    /// Make the device, which is not there.
    MakeDevice(Device),
    /// Remove a route.
    RemoveRoute(Cidr, Way),
    /// Remove a neighbour.
    RemoveNeighbour(Ipv4Addr),
    /// Remove a forwarding entry.
    RemoveForwarding(Mac, Ipv4Addr),
    /// Set a forwarding entry, in place of the one for the same hardware address.
    SetForwarding(Mac, Ipv4Addr),
    /// Set a neighbour, in place of the one with the same address.
    SetNeighbour(Ipv4Addr, Mac),
    /// Set a route, in place of the one to the same destination.
    SetRoute(Cidr, Way),
}

/// What turns `have` into `want`: nothing when they are equal, and only what differs otherwise.
/// A peer's route goes first and comes last, so that no packet goes where nobody forwards it.
pub fn changes(have: &Overlay, want: &Overlay) -> Vec<Change> {
    let mut changes = Vec::new();
    let Some(device) = &want.device else {
        changes.extend(have.device.is_some().then_some(Change::RemoveDevice));
        return changes;
    };
    let nothing = Overlay::default();
    let mut have = have;
    if have.device.as_ref() != Some(device) {
        changes.extend(have.device.is_some().then_some(Change::RemoveDevice));
        changes.push(Change::MakeDevice(device.clone()));
        have = &nothing;
    }
    let routes = Difference::of(&have.routes, &want.routes);
    let neighbours = Difference::of(&have.neighbours, &want.neighbours);
    let forwarding = Difference::of(&have.forwarding, &want.forwarding);
    changes.extend(routes.remove.into_iter().map(|(to, way)| Change::RemoveRoute(to, way)));
    changes.extend(neighbours.remove.into_iter().map(|(ip, _)| Change::RemoveNeighbour(ip)));
    let stale = forwarding.remove.into_iter();
    changes.extend(stale.map(|(mac, to)| Change::RemoveForwarding(mac, to)));
    changes.extend(
        forwarding
            .set
            .into_iter()
            .map(|(mac, to)| Change::SetForwarding(mac, to)),
    );
    changes.extend(
        neighbours
            .set
            .into_iter()
            .map(|(ip, mac)| Change::SetNeighbour(ip, mac)),
    );
    changes.extend(routes.set.into_iter().map(|(to, way)| Change::SetRoute(to, way)));
    changes
}

struct Difference<K, V> {
    remove: Vec<(K, V)>,
    set: Vec<(K, V)>,
}

impl<K: Copy + Ord, V: Copy + Ord> Difference<K, V> {
    /// An entry of which only the value differs is replaced, not removed: it works all the while.
    /// Where there are several with one key, all go, for which of them a replacement hits is open.
    fn of(have: &BTreeSet<(K, V)>, want: &BTreeSet<(K, V)>) -> Self {
        let mut by_key: BTreeMap<K, Vec<V>> = BTreeMap::new();
        for (key, value) in have {
            by_key.entry(*key).or_default().push(*value);
        }
        let wanted: BTreeSet<K> = want.iter().map(|(key, _)| *key).collect();
        let several = |key: &K| by_key.get(key).is_some_and(|values| values.len() > 1);
        let there = |entry: &&(K, V)| have.contains(*entry) && !several(&entry.0);
        Difference {
            remove: have
                .iter()
                .filter(|(k, _)| !wanted.contains(k) || several(k))
                .copied()
                .collect(),
            set: want.iter().filter(|entry| !there(entry)).copied().collect(),
        }
    }
}
