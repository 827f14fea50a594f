//! Pod network, services and host ports on one node.
//!
//! Addresses and rules are decided in `netplan` and carried out by `host`. Must not know pods:
//! it is asked for sandboxes, by runtimes through [`runtime::PodNetwork`] and by containerd
//! through CNI, and it reads Services, EndpointSlices and Nodes.

mod agent;
mod book;
pub mod cni;
mod config;
mod overlay;
mod plumb;
mod proxy;
mod purge;

use std::io;

pub use agent::Network;
pub use cni::cni_main;
pub use config::{Config, VXLAN_PORT};
pub use overlay::pod_mtu;
pub use purge::purge;

/// Why the network does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// The configuration cannot work.
    #[error("network configuration: {0}")]
    Config(String),
    /// The host refuses something.
    #[error("cannot {what}")]
    Host {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// No address, or a state that cannot be read.
    #[error(transparent)]
    Addresses(#[from] netplan::ipam::IpamError),
    /// The rules are refused.
    #[error("cannot apply the rules of table {table}")]
    Rules {
        /// The table.
        table: String,
        /// Why not.
        source: host::nft::NftError,
    },
    /// The rules that were asked for are not in force yet; they may come.
    #[error("the rules for host ports are not in force after {seconds} s")]
    Late {
        /// How long it was waited.
        seconds: u64,
    },
}

impl NetworkError {
    pub(crate) fn host(what: &'static str) -> impl Fn(io::Error) -> NetworkError {
        move |source| NetworkError::Host { what, source }
    }

    /// With all causes, in one line.
    pub(crate) fn chain(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }
}
