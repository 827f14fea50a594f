//! Cluster DNS, answered on the node from the informers' view of Services and
//! EndpointSlices (the Kubernetes DNS-based service discovery specification 1.1).
//!
//! Must not store anything: names come and go with their objects. Names outside
//! the cluster domain are handed to the servers that the host uses.

mod answer;
mod follow;
mod forward;
mod records;
mod serve;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, RwLock};

use informer::Informers;
use tokio_util::sync::CancellationToken;

pub use answer::answer;
pub use records::Records;

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP and TCP. The addresses need not exist yet (`IP_FREEBIND`).
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain, such as `cluster.local`.
    pub domain: String,
    /// Servers for all other names.
    pub upstreams: Vec<SocketAddr>,
}

/// Why the server cannot be started.
#[derive(Debug, thiserror::Error)]
#[error("listen for DNS on {address}: {source}; another server may have the port")]
pub struct DnsError {
    /// The address.
    address: SocketAddr,
    /// What the system said.
    source: std::io::Error,
}

/// A running server. It ends with [`Dns::stop`], or when dropped.
pub struct Dns {
    stop: CancellationToken,
}

impl Dns {
    /// Binds all addresses and begins to answer once the caches are complete.
    pub async fn start(config: Config, informers: Arc<Informers>) -> Result<Dns, DnsError> {
        let records = Arc::new(RwLock::new(Records::new(&config.domain)));
        let stop = CancellationToken::new();
        tokio::spawn(follow::follow(records.clone(), informers, stop.clone()));
        let shared = Arc::new(serve::Shared {
            records,
            upstreams: forward::Upstreams::new(config.upstreams),
        });
        for address in &config.listen {
            let failed = |source| DnsError {
                address: *address,
                source,
            };
            serve::start(*address, &shared, &stop).map_err(failed)?;
        }
        Ok(Dns { stop })
    }

    /// Ends the server.
    pub fn stop(self) {
        self.stop.cancel();
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The servers of a resolv.conf but those that are ourselves.
pub fn upstreams(resolv_conf: &Path, ourselves: &[SocketAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(resolv_conf).unwrap_or_default();
    let servers = text.lines().filter_map(|l| l.trim().strip_prefix("nameserver"));
    let addresses = servers.filter_map(|s| s.trim().parse().ok());
    addresses
        .map(|ip| SocketAddr::new(ip, 53))
        .filter(|a| !ourselves.contains(a))
        .collect()
}
