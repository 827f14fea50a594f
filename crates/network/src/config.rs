//! What the network of a node is set up with, and the paths and names that follow from it.
//!
//! Must not touch the host.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use netplan::overlay::Here;
use netplan::{Cidr, Node};

use crate::NetworkError;

/// How the network of this node is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where state, sockets and CNI files are.
    pub data_dir: PathBuf,
    /// Link that holds the gateway's address, such as `alm0`. The pods' links on the host are
    /// named after it: `alm0-7` belongs to the pod with the seventh address. At most 9 bytes.
    pub bridge: String,
    /// Name of this node: of the others it is told by its own.
    pub node_name: String,
    /// VXLAN device to other nodes' pods, such as `almv0`; there is one while there are other nodes.
    /// At most 15 bytes, and nothing that a pod's link could be called.
    pub overlay: String,
    /// Number of the VXLAN, the same on all nodes of a cluster.
    pub vni: u32,
    /// UDP port of the VXLAN, the same on all nodes; usually [`VXLAN_PORT`].
    pub vxlan_port: u16,
    /// Addresses of all pods.
    pub cluster_cidr: (Ipv4Addr, u8),
    /// Addresses of this node's pods; the first is the gateway.
    pub node_cidr: (Ipv4Addr, u8),
    /// Addresses of services.
    pub service_cidr: (Ipv4Addr, u8),
    /// nftables table of family `ip`, such as `allmend`. Whatever is in it is replaced.
    pub table: String,
    /// The node's own addresses; by the first of IPv4 other nodes reach it. Without one, it is alone.
    pub node_ips: Vec<IpAddr>,
    /// Largest packet of pods; usually [`crate::pod_mtu`].
    pub mtu: u32,
    /// Whether services are to work here; without, pods only reach each other and the world.
    pub proxy: bool,
}

/// The UDP port that most nodes' firewalls know as that of pods' traffic.
pub const VXLAN_PORT: u16 = 8472;
/// Longest name of a link.
const LONGEST_LINK: usize = 15;
/// Longest name of the bridge: the kernel allows 15 bytes, a dash and five digits follow.
const LONGEST_BRIDGE: usize = 9;

impl Config {
    /// The node as the rules see it; an error when something cannot be.
    pub(crate) fn node(&self) -> Result<Node, NetworkError> {
        let cidr = |name: &str, (address, prefix): (Ipv4Addr, u8)| {
            Cidr::new(address, prefix).map_err(|e| NetworkError::Config(format!("{name}: {e}")))
        };
        if self.bridge.is_empty() || self.bridge.len() > LONGEST_BRIDGE {
            let message = format!("bridge {:?} must have 1 to {LONGEST_BRIDGE} bytes", self.bridge);
            return Err(NetworkError::Config(message));
        }
        let pods = format!("{}-", self.bridge);
        if self.overlay.is_empty() || self.overlay.len() > LONGEST_LINK || self.overlay.starts_with(&pods) {
            let message = format!(
                "overlay {:?} must have 1 to {LONGEST_LINK} bytes, and not begin with {pods}",
                self.overlay
            );
            return Err(NetworkError::Config(message));
        }
        if self.vni == 0 || self.vni >= 1 << 24 || self.vxlan_port == 0 {
            let message = format!("VXLAN {} at port {} cannot be", self.vni, self.vxlan_port);
            return Err(NetworkError::Config(message));
        }
        let node_cidr = cidr("node CIDR", self.node_cidr)?;
        if !(16..=29).contains(&node_cidr.prefix()) {
            return Err(NetworkError::Config(format!(
                "node CIDR {node_cidr}: the prefix must be 16 to 29"
            )));
        }
        let gateway = node_cidr.nth(1).unwrap_or(node_cidr.network());
        let v4 = |ip: &IpAddr| match ip {
            IpAddr::V4(v4) => Some(*v4),
            IpAddr::V6(_) => None,
        };
        Ok(Node {
            table: self.table.clone(),
            links: format!("{}-*", self.bridge),
            overlay: self.overlay.clone(),
            gateway,
            cluster_cidr: cidr("cluster CIDR", self.cluster_cidr)?,
            node_cidr,
            service_cidr: cidr("service CIDR", self.service_cidr)?,
            node_ips: self.node_ips.iter().filter_map(v4).collect(),
        })
    }

    /// The node as its peers see it; `None` without an address that they could reach.
    pub(crate) fn here(&self, node: &Node) -> Option<Here> {
        Some(Here {
            vni: self.vni,
            port: self.vxlan_port,
            mtu: self.mtu,
            address: *node.node_ips.first()?,
            cluster_cidr: node.cluster_cidr,
            node_cidr: node.node_cidr,
            gateway: node.gateway,
        })
    }

    /// Where the CNI plugin finds the agent.
    pub(crate) fn socket(&self) -> PathBuf {
        self.data_dir.join("run/cni.sock")
    }

    /// Which sandbox has which address.
    pub(crate) fn state(&self) -> PathBuf {
        self.data_dir.join("agent/network.json")
    }

    /// Where containerd looks for plugins.
    pub(crate) fn plugins(&self) -> PathBuf {
        self.data_dir.join("cni/bin")
    }

    /// Where containerd looks for the network's description.
    pub(crate) fn conflist(&self) -> PathBuf {
        self.data_dir.join("cni/net.d/10-allmend.conflist")
    }
}
