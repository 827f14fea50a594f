//! Which connections over UDP lead to somewhere that is no endpoint any more. UDP has no end of
//! a connection, so the kernel would send to the old place for as long as the client goes on.
//!
//! Must not know how connections are found and forgotten.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};

use crate::service::usable;
use crate::{HostPort, Protocol, Service};

/// Everywhere that UDP can be sent to, and who answers there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Frontends {
    addresses: BTreeMap<SocketAddrV4, BTreeSet<SocketAddrV4>>,
    ports: BTreeMap<u16, BTreeSet<SocketAddrV4>>,
}

impl Frontends {
    /// Those of services and host ports.
    pub fn of(services: &[Service], host_ports: &[HostPort]) -> Self {
        let mut frontends = Frontends::default();
        for service in services {
            let public = service.external_ips.iter().chain(&service.load_balancer_ips);
            let addresses: Vec<Ipv4Addr> = service.cluster_ips.iter().chain(public).copied().collect();
            for port in service.ports.iter().filter(|p| p.protocol == Protocol::Udp) {
                let endpoints = usable(&port.endpoints, |_| true);
                let behind = || endpoints.iter().map(|e| SocketAddrV4::new(e.address, e.port));
                for address in &addresses {
                    let at = SocketAddrV4::new(*address, port.port);
                    frontends.addresses.entry(at).or_default().extend(behind());
                }
                if let Some(number) = port.node_port {
                    frontends.ports.entry(number).or_default().extend(behind());
                }
            }
        }
        for port in host_ports.iter().filter(|p| p.protocol == Protocol::Udp) {
            let behind = match port.host_ip {
                Some(ip) => frontends
                    .addresses
                    .entry(SocketAddrV4::new(ip, port.host_port))
                    .or_default(),
                None => frontends.ports.entry(port.host_port).or_default(),
            };
            behind.insert(SocketAddrV4::new(port.pod, port.pod_port));
        }
        frontends
    }

    /// Whether a connection to `destination`, answered from `by`, is to be forgotten, `old` being
    /// what was before. `is_local` tells the node's own addresses.
    pub fn is_stale(
        &self,
        old: &Frontends,
        destination: SocketAddrV4,
        by: SocketAddrV4,
        is_local: &dyn Fn(Ipv4Addr) -> bool,
    ) -> bool {
        if let Some(endpoints) = self.addresses.get(&destination) {
            return !endpoints.contains(&by);
        }
        if old.addresses.contains_key(&destination) {
            return true;
        }
        if !is_local(*destination.ip()) {
            return false;
        }
        match self.ports.get(&destination.port()) {
            Some(endpoints) => !endpoints.contains(&by),
            None => old.ports.contains_key(&destination.port()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Endpoint, ServicePort};

    fn at(text: &str) -> SocketAddrV4 {
        text.parse().unwrap()
    }

    fn dns(endpoints: &[&str]) -> Service {
        let endpoints = endpoints.iter().map(|e| Endpoint {
            address: *at(e).ip(),
            port: at(e).port(),
            ready: true,
            serving: true,
            terminating: false,
            here: None,
            near: None,
        });
        Service {
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 10)],
            ports: vec![ServicePort {
                protocol: Protocol::Udp,
                port: 53,
                node_port: Some(30053),
                endpoints: endpoints.collect(),
            }],
            ..Service::default()
        }
    }

    #[test]
    fn connections_to_former_endpoints_are_stale() {
        let local = |a: Ipv4Addr| a == Ipv4Addr::new(192, 168, 0, 1);
        let old = Frontends::of(&[dns(&["10.42.0.2:53", "10.42.0.3:53"])], &[]);
        let new = Frontends::of(&[dns(&["10.42.0.3:53"])], &[]);
        let stale = |frontends: &Frontends, to: &str, by: &str| frontends.is_stale(&old, at(to), at(by), &local);
        assert!(stale(&new, "10.43.0.10:53", "10.42.0.2:53"));
        assert!(!stale(&new, "10.43.0.10:53", "10.42.0.3:53"));
        assert!(stale(&new, "192.168.0.1:30053", "10.42.0.2:53"));
        assert!(!stale(&new, "8.8.8.8:30053", "8.8.8.8:30053"));
        // Sent before there were rules: answered by nobody, or by the node itself.
        assert!(stale(&new, "10.43.0.10:53", "10.43.0.10:53"));
        let gone = Frontends::of(&[], &[]);
        assert!(stale(&gone, "10.43.0.10:53", "10.42.0.3:53"));
        assert!(stale(&gone, "192.168.0.1:30053", "10.42.0.3:53"));
        assert!(!stale(&gone, "192.168.0.1:53", "192.168.0.1:53"));
    }
}
