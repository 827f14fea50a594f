//! Services with their endpoints, as far as packets are concerned.
//!
//! Must not know nftables.

use std::fmt;
use std::net::Ipv4Addr;

use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::{Endpoint as ApiEndpoint, EndpointSlice};

use crate::Cidr;

/// Label of services that another proxy takes care of.
const OTHER_PROXY: &str = "service.kubernetes.io/service-proxy-name";
/// `sessionAffinityConfig.clientIP.timeoutSeconds` when it is not given.
const AFFINITY_SECONDS: u32 = 10_800;

/// A service that has an address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// `spec.clusterIPs`, those of IPv4.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs`, those of IPv4.
    pub external_ips: Vec<Ipv4Addr>,
    /// `status.loadBalancer.ingress[*].ip` that this node answers for.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// `spec.loadBalancerSourceRanges`, those of IPv4; `None` when everyone may connect.
    pub source_ranges: Option<Vec<Cidr>>,
    /// Seconds for which a client stays with its endpoint, with `sessionAffinity: ClientIP`.
    pub affinity: Option<u32>,
    /// `internalTrafficPolicy: Local`.
    pub internal_local: bool,
    /// `externalTrafficPolicy: Local`.
    pub external_local: bool,
    /// The ports.
    pub ports: Vec<ServicePort>,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServicePort {
    /// Protocol.
    pub protocol: Protocol,
    /// `port`.
    pub port: u16,
    /// `nodePort`.
    pub node_port: Option<u16>,
    /// Who answers, ready or not; without duplicates, in order.
    pub endpoints: Vec<Endpoint>,
}

/// Who answers on a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
    /// Whether it takes new connections.
    pub ready: bool,
    /// Whether it would answer, even while it is terminating.
    pub serving: bool,
    /// Whether it is being stopped.
    pub terminating: bool,
    /// Whether it is on this node; `None` when nobody has said where it is.
    pub here: Option<bool>,
    /// Whether it is meant for this node's connections (`hints.forNodes`, KEP-3015); `None` when it
    /// is for all.
    pub near: Option<bool>,
}

/// A transport protocol with ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// From `TCP`, `UDP` or `SCTP`; nothing else, and TCP for nothing.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "TCP" | "tcp" => Some(Protocol::Tcp),
            "UDP" | "udp" => Some(Protocol::Udp),
            "SCTP" | "sctp" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// In nftables' words.
impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
            Protocol::Sctp => "sctp",
        })
    }
}

/// What a service and its slices mean for packets on a node. `None` for one without an address (headless,
/// ExternalName), or that another proxy takes care of.
pub fn from_api(service: &v1::Service, slices: &[&EndpointSlice], node: &str) -> Option<Service> {
    let spec = service.spec.as_ref()?;
    let labels = service.metadata.labels.as_ref();
    if spec.type_.as_deref() == Some("ExternalName") || labels.is_some_and(|l| l.contains_key(OTHER_PROXY)) {
        return None;
    }
    let own = spec
        .cluster_ips
        .clone()
        .or_else(|| Some(vec![spec.cluster_ip.clone()?]));
    let cluster_ips = addresses(own.iter().flatten());
    if cluster_ips.is_empty() {
        return None;
    }
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let config = spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref());
        let seconds = config
            .and_then(|c| c.timeout_seconds)
            .and_then(|s| u32::try_from(s).ok());
        seconds.filter(|s| *s > 0).unwrap_or(AFFINITY_SECONDS)
    });
    let ranges = spec.load_balancer_source_ranges.as_ref().filter(|r| !r.is_empty());
    Some(Service {
        namespace: service.metadata.namespace.clone().unwrap_or_default(),
        name: service.metadata.name.clone().unwrap_or_default(),
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips: load_balancer_ips(service),
        source_ranges: ranges.map(|r| r.iter().filter_map(|text| text.parse().ok()).collect()),
        affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        ports: spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p, slices, node))
            .collect(),
    })
}

fn addresses<'a>(texts: impl Iterator<Item = &'a String>) -> Vec<Ipv4Addr> {
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// Addresses in `Proxy` mode belong to something in front of the nodes.
fn load_balancer_ips(service: &v1::Service) -> Vec<Ipv4Addr> {
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|l| l.ingress.as_ref());
    let ours = ingress
        .into_iter()
        .flatten()
        .filter(|i| i.ip_mode.as_deref() != Some("Proxy"));
    ours.filter_map(|i| i.ip.as_ref()?.parse().ok()).collect()
}

fn port(port: &v1::ServicePort, slices: &[&EndpointSlice], node: &str) -> Option<ServicePort> {
    let protocol = Protocol::parse(port.protocol.as_deref().unwrap_or_default())?;
    let name = port.name.as_deref().unwrap_or_default();
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for slice in slices.iter().filter(|s| s.address_type == "IPv4") {
        let ports = slice.ports.iter().flatten();
        let same = ports.filter(|p| {
            p.name.as_deref().unwrap_or_default() == name
                && Protocol::parse(p.protocol.as_deref().unwrap_or_default()) == Some(protocol)
        });
        for number in same.filter_map(|p| p.port.and_then(number)) {
            endpoints.extend(
                slice
                    .endpoints
                    .iter()
                    .flatten()
                    .filter_map(|e| endpoint(e, number, node)),
            );
        }
    }
    // While an endpoint moves between slices it is in both; the better state wins.
    endpoints.sort_by_key(|e| (e.address, e.port, !e.ready, !e.serving));
    endpoints.dedup_by_key(|e| (e.address, e.port));
    Some(ServicePort {
        protocol,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number),
        endpoints,
    })
}

fn endpoint(endpoint: &ApiEndpoint, port: u16, node: &str) -> Option<Endpoint> {
    let address = endpoint.addresses.first()?.parse().ok()?;
    let conditions = endpoint.conditions.as_ref();
    let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
    let hinted = endpoint
        .hints
        .as_ref()
        .and_then(|h| h.for_nodes.as_ref())
        .filter(|n| !n.is_empty());
    Some(Endpoint {
        address,
        port,
        ready,
        serving: conditions.and_then(|c| c.serving).unwrap_or(ready),
        terminating: conditions.and_then(|c| c.terminating).unwrap_or(false),
        here: endpoint.node_name.as_ref().map(|name| name == node),
        near: hinted.map(|names| names.iter().any(|n| n.name == node)),
    })
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p > 0)
}

/// Who of `endpoints` gets connections: those that are ready, else those that still serve while
/// they terminate (KEP-1669).
pub(crate) fn usable(endpoints: &[Endpoint], which: impl Fn(&Endpoint) -> bool) -> Vec<Endpoint> {
    let of = |wanted: &dyn Fn(&Endpoint) -> bool| -> Vec<Endpoint> {
        endpoints.iter().filter(|e| which(e) && wanted(e)).copied().collect()
    };
    let ready = of(&|e| e.ready);
    if ready.is_empty() {
        return of(&|e| e.serving && e.terminating);
    }
    ready
}

/// Those of `endpoints` that are meant for this node, if all are meant for some node and any for
/// this one; else all.
pub(crate) fn nearest(endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let hinted = endpoints.iter().all(|e| e.near.is_some()) && endpoints.iter().any(|e| e.near == Some(true));
    if hinted {
        return endpoints.into_iter().filter(|e| e.near == Some(true)).collect();
    }
    endpoints
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(spec: Value) -> v1::Service {
        let value = json!({"metadata": {"namespace": "default", "name": "web"}, "spec": spec});
        serde_json::from_value(value).unwrap()
    }

    fn slice(port: Value, endpoints: Value) -> EndpointSlice {
        let value = json!({"addressType": "IPv4", "metadata": {}, "ports": [port], "endpoints": endpoints});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_service_finds_the_ports_of_its_slices_by_name() {
        let service = service(json!({"clusterIP": "10.43.0.9", "type": "NodePort",
            "sessionAffinity": "ClientIP", "externalTrafficPolicy": "Local",
            "ports": [{"name": "http", "port": 80, "nodePort": 30080}, {"name": "dns", "port": 53, "protocol": "UDP"}]}));
        let a = slice(
            json!({"name": "http", "port": 8080, "protocol": "TCP"}),
            json!([{"addresses": ["10.42.0.3"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.42.0.2"], "conditions": {"ready": false}}]),
        );
        let b = slice(
            json!({"name": "http", "port": 8080}),
            json!([{"addresses": ["10.42.0.2"], "nodeName": "n"}]),
        );
        let elsewhere = from_api(&service, &[&b], "m").unwrap();
        assert_eq!(elsewhere.ports[0].endpoints[0].here, Some(false));
        let got = from_api(&service, &[&a, &b], "n").unwrap();
        assert_eq!(got.cluster_ips, [Ipv4Addr::new(10, 43, 0, 9)]);
        assert!(got.external_local && !got.internal_local);
        assert_eq!(got.affinity, Some(10_800));
        assert_eq!(got.ports[0].node_port, Some(30080));
        assert_eq!(got.ports[1].protocol, Protocol::Udp);
        assert!(got.ports[1].endpoints.is_empty());
        let endpoints = &got.ports[0].endpoints;
        assert_eq!(endpoints.len(), 2);
        assert_eq!((endpoints[0].here, endpoints[1].here), (Some(true), None));
        assert!(endpoints[0].ready && endpoints[0].address.octets()[3] == 2);
        assert_eq!(usable(endpoints, |_| true), [endpoints[0]]);
        assert_eq!(usable(&endpoints[1..], |_| true), [endpoints[1]]);
        assert!(usable(endpoints, |_| false).is_empty());
    }

    #[test]
    fn endpoints_may_be_meant_for_a_node() {
        let service = service(json!({"clusterIP": "10.43.0.10", "ports": [{"port": 53}]}));
        let for_node = |ip: &str, node: &str| json!({"addresses": [ip], "hints": {"forNodes": [{"name": node}]}});
        let all = |endpoints: Value, node: &str| {
            let got = from_api(&service, &[&slice(json!({"port": 53}), endpoints)], node).unwrap();
            let near = nearest(got.ports[0].endpoints.clone());
            near.iter().map(|e| e.address.octets()[3]).collect::<Vec<_>>()
        };
        let hinted = json!([for_node("10.42.0.1", "a"), for_node("10.42.1.1", "b")]);
        assert_eq!(all(hinted.clone(), "a"), [1]);
        assert_eq!(all(hinted, "c"), [1, 1], "none is meant for c: all are");
        let mixed = json!([for_node("10.42.0.1", "a"), {"addresses": ["10.42.1.1"]}]);
        assert_eq!(all(mixed, "a"), [1, 1]);
    }

    #[test]
    fn services_without_an_address_are_left_out() {
        assert_eq!(from_api(&service(json!({"clusterIP": "None"})), &[], "n"), None);
        assert_eq!(
            from_api(
                &service(json!({"type": "ExternalName", "externalName": "a.b"})),
                &[],
                "n"
            ),
            None
        );
        assert_eq!(from_api(&service(json!({"clusterIP": "fd00::1"})), &[], "n"), None);
    }
}
