//! The rules of a node: services, host ports and masquerading.
//!
//! A packet's way: hook chains look its destination up in two maps, `addresses` and `node-ports`,
//! whose verdicts lead to the chain of the service's port; that one picks an endpoint. So the
//! cost of a packet does not grow with the number of services, and a change of one service
//! touches its own chains and elements only.
//!
//! Must not read services from the API, and must not apply anything.

use std::net::Ipv4Addr;

use crate::service::{nearest, usable};
use crate::{Cidr, Endpoint, Protocol, Ruleset, Service, ServicePort};

/// What the rules must know of the node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Name of the table.
    pub table: String,
    /// Names of the pods' links on the host, such as `alm0-*`.
    pub links: String,
    /// Name of the device that leads to other nodes' pods, such as `almv0`; it may not be there.
    pub overlay: String,
    /// Where pods send everything: the address of the node that they see.
    pub gateway: Ipv4Addr,
    /// Addresses of all pods.
    pub cluster_cidr: Cidr,
    /// Addresses of this node's pods.
    pub node_cidr: Cidr,
    /// Addresses of services. Connections to those that nobody has are refused.
    pub service_cidr: Cidr,
    /// The node's own addresses: its endpoints with the host's network.
    pub node_ips: Vec<Ipv4Addr>,
}

/// A port of the node that leads to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct HostPort {
    /// Protocol.
    pub protocol: Protocol,
    /// The node's address; `None` for all.
    pub host_ip: Option<Ipv4Addr>,
    /// The node's port.
    pub host_port: u16,
    /// The pod's address.
    pub pod: Ipv4Addr,
    /// The pod's port.
    pub pod_port: u16,
}

/// Mark of packets that must be answered through this node, so their source is replaced.
const MARK: &str = "meta mark set meta mark | 0x4000";
const MARKED: &str = "meta mark & 0x4000 == 0x4000";
/// The packet that carries it to another node would have the mark too, and be taken for it.
const UNMARK: &str = "meta mark set meta mark & 0xffffbfff";

/// The table.
pub fn rules(node: &Node, services: &[Service], host_ports: &[HostPort]) -> Ruleset {
    let mut rules = Ruleset::new(&node.table);
    base(node, &mut rules);
    for service in services {
        for port in &service.ports {
            Port::new(node, service, port).write(&mut rules);
        }
    }
    for port in host_ports {
        host_port(node, port, &mut rules);
    }
    rules
}

const BY_ADDRESS: &str = "ip daddr . meta l4proto . th dport vmap";
const BY_PORT: &str = "fib daddr type local meta l4proto . th dport vmap";

fn base(node: &Node, rules: &mut Ruleset) {
    let by_address = "type ipv4_addr . inet_proto . inet_service : verdict";
    let by_port = "type inet_proto . inet_service : verdict";
    rules.declare("addresses", true, by_address);
    rules.declare("node-ports", true, by_port);
    rules.declare("refused-addresses", true, by_address);
    rules.declare("refused-ports", true, by_port);
    rules.declare("hairpin", false, "type ipv4_addr . ipv4_addr");
    let Node {
        cluster_cidr,
        service_cidr,
        links,
        overlay,
        gateway,
        ..
    } = node;
    rules.chain(
        "services",
        vec![
            // Someone outside who uses this node as a router to services.
            format!("ip daddr {service_cidr} ip saddr != {cluster_cidr} fib saddr type != local {MARK}"),
            format!("{BY_ADDRESS} @addresses"),
            format!("{BY_PORT} @node-ports"),
        ],
    );
    let enter = || vec!["jump services".to_owned()];
    rules.hook("nat-prerouting", "type nat hook prerouting priority dstnat", enter());
    rules.hook("nat-output", "type nat hook output priority -100", enter());
    rules.hook(
        "nat-postrouting",
        "type nat hook postrouting priority srcnat",
        vec![
            // A pod that reaches itself would not recognise the answer from its own address.
            format!("ip saddr . ip daddr @hairpin snat ip to {gateway} fully-random"),
            format!("ip saddr 127.0.0.0/8 oifname \"{links}\" snat ip to {gateway} fully-random"),
            format!("{MARKED} oifname \"{links}\" {UNMARK} snat ip to {gateway} fully-random"),
            // Another node's pod answers through the overlay only whom it knows to be behind it.
            format!("{MARKED} oifname \"{overlay}\" {UNMARK} snat ip to {gateway} fully-random"),
            format!("ip saddr != {cluster_cidr} oifname \"{overlay}\" snat ip to {gateway} fully-random"),
            format!("{MARKED} oifname != \"lo\" {UNMARK} masquerade fully-random"),
            format!("ip saddr {cluster_cidr} ip daddr != {cluster_cidr} oifname != \"lo\" masquerade fully-random"),
        ],
    );
    rules.chain(
        "refuse",
        vec!["meta l4proto tcp reject with tcp reset".to_owned(), "reject".to_owned()],
    );
    rules.chain(
        "refusals",
        vec![
            format!("{BY_ADDRESS} @refused-addresses"),
            format!("{BY_PORT} @refused-ports"),
            format!("ip daddr {service_cidr} fib daddr type != local goto refuse"),
        ],
    );
    let refusals = || "ct state new jump refusals".to_owned();
    // The links let the node's own loopback connections through to pods; nobody may come the other way.
    let martians =
        |from: &str| format!("iifname \"{from}\" ip daddr 127.0.0.0/8 ct state != {{ established, related }} drop");
    let hook = |name: &str| format!("type filter hook {name} priority -10");
    rules.hook(
        "filter-input",
        &hook("input"),
        vec![martians(links), martians(overlay), refusals()],
    );
    rules.hook("filter-forward", &hook("forward"), vec![refusals()]);
    rules.hook("filter-output", &hook("output"), vec![refusals()]);
}

/// One port of a service, with its endpoints chosen.
struct Port<'a> {
    node: &'a Node,
    service: &'a Service,
    port: &'a ServicePort,
    /// `namespace/name/protocol/port`, the part of chains' names.
    id: String,
    all: Vec<Endpoint>,
    local: Vec<Endpoint>,
}

impl<'a> Port<'a> {
    fn new(node: &'a Node, service: &'a Service, port: &'a ServicePort) -> Self {
        let by_address = |ip| node.node_cidr.contains(ip) || node.node_ips.contains(&ip);
        let is_local = |e: &Endpoint| e.here.unwrap_or_else(|| by_address(e.address));
        let Service { namespace, name, .. } = service;
        Port {
            node,
            service,
            port,
            id: format!("{namespace}/{name}/{}/{}", port.protocol, port.port),
            all: nearest(usable(&port.endpoints, |_| true)),
            local: usable(&port.endpoints, is_local),
        }
    }

    fn write(&self, rules: &mut Ruleset) {
        self.cluster_addresses(rules);
        self.external(rules);
        if self.all.is_empty() {
            return;
        }
        self.balance(rules, &format!("svc/{}", self.id), &self.all);
        if (self.service.internal_local || self.service.external_local) && !self.local.is_empty() {
            self.balance(rules, &format!("local/{}", self.id), &self.local);
        }
        for endpoint in self.all.iter().chain(&self.local) {
            hairpin(self.node, rules, endpoint.address);
        }
    }

    fn cluster_addresses(&self, rules: &mut Ruleset) {
        let (set, verdict) = match (self.service.internal_local, self.all.is_empty(), self.local.is_empty()) {
            (_, true, _) => ("refused-addresses", "goto refuse".to_owned()),
            (true, false, true) => ("refused-addresses", "drop".to_owned()),
            (true, false, false) => ("addresses", format!("goto local/{}", self.id)),
            (false, false, _) => ("addresses", format!("goto svc/{}", self.id)),
        };
        for address in &self.service.cluster_ips {
            rules.element(set, self.key(*address), verdict.clone());
        }
    }

    /// External and load balancer's addresses and the node port, which have the same policy.
    fn external(&self, rules: &mut Ruleset) {
        let Service {
            external_ips,
            load_balancer_ips,
            source_ranges,
            ..
        } = self.service;
        let protocol = self.port.protocol;
        if external_ips.is_empty() && load_balancer_ips.is_empty() && self.port.node_port.is_none() {
            return;
        }
        let empty = self.all.is_empty();
        let (by_address, by_port) = match empty {
            true => ("refused-addresses", "refused-ports"),
            false => ("addresses", "node-ports"),
        };
        let enter = match empty {
            true => "goto refuse".to_owned(),
            false => format!("goto ext/{}", self.id),
        };
        for address in external_ips {
            rules.element(by_address, self.key(*address), enter.clone());
        }
        if let Some(number) = self.port.node_port {
            rules.element(by_port, format!("{protocol} . {number}"), enter.clone());
        }
        let mut enter_balanced = enter;
        if let Some(ranges) = source_ranges
            .as_ref()
            .filter(|_| !empty && !load_balancer_ips.is_empty())
        {
            let ranges: Vec<String> = ranges.iter().map(Cidr::to_string).collect();
            let refuse = match ranges.is_empty() {
                true => "drop".to_owned(),
                false => format!("ip saddr != {{ {} }} drop", ranges.join(", ")),
            };
            rules.chain(format!("from/{}", self.id), vec![refuse, enter_balanced]);
            enter_balanced = format!("goto from/{}", self.id);
        }
        for address in load_balancer_ips {
            rules.element(by_address, self.key(*address), enter_balanced.clone());
        }
        if !empty {
            rules.chain(format!("ext/{}", self.id), self.external_chain());
        }
    }

    fn external_chain(&self) -> Vec<String> {
        let any = format!("goto svc/{}", self.id);
        if !self.service.external_local {
            return vec![MARK.to_owned(), any];
        }
        // The policy keeps clients' addresses; what comes from inside has nothing to keep and
        // may go anywhere.
        let last = match self.local.is_empty() {
            true => "drop".to_owned(),
            false => format!("goto local/{}", self.id),
        };
        vec![
            format!("ip saddr {} {any}", self.node.cluster_cidr),
            format!("fib saddr type local {MARK} {any}"),
            last,
        ]
    }

    fn balance(&self, rules: &mut Ruleset, chain: &str, endpoints: &[Endpoint]) {
        let protocol = self.port.protocol;
        let Some(seconds) = self.service.affinity else {
            let to = match endpoints {
                [one] => format!("{}:{}", one.address, one.port),
                many => choice(many.iter().map(|e| format!("{} . {}", e.address, e.port)), "map"),
            };
            return rules.chain(chain, vec![format!("meta l4proto {protocol} dnat ip to {to}")]);
        };
        let mut chain_rules = Vec::new();
        let mut chains = Vec::new();
        for Endpoint { address, port, .. } in endpoints {
            let id = format!("{}/{address}_{port}", self.id);
            // The time is part of the name: a set cannot change its own.
            let (chain, seen) = (format!("to/{id}"), format!("seen/{seconds}/{id}"));
            rules.declare(
                &seen,
                false,
                &format!("type ipv4_addr; flags dynamic,timeout; timeout {seconds}s"),
            );
            let remember = format!("update @{seen} {{ ip saddr }}");
            let translate = format!("meta l4proto {protocol} dnat ip to {address}:{port}");
            rules.chain(&chain, vec![remember, translate]);
            chain_rules.push(format!("ip saddr @{seen} goto {chain}"));
            chains.push(format!("goto {chain}"));
        }
        chain_rules.push(choice(chains.into_iter(), "vmap"));
        rules.chain(chain, chain_rules);
    }

    fn key(&self, address: Ipv4Addr) -> String {
        format!("{address} . {} . {}", self.port.protocol, self.port.port)
    }
}

/// One of many, each as likely as the others.
fn choice(of: impl ExactSizeIterator<Item = String>, how: &str) -> String {
    let count = of.len();
    let entries: Vec<String> = of.enumerate().map(|(n, value)| format!("{n} : {value}")).collect();
    format!("numgen random mod {count} {how} {{ {} }}", entries.join(", "))
}

fn host_port(node: &Node, port: &HostPort, rules: &mut Ruleset) {
    let HostPort {
        protocol,
        host_ip,
        host_port,
        pod,
        pod_port,
    } = port;
    let chain = format!("pod/{protocol}/{pod}_{pod_port}");
    rules.chain(
        &chain,
        vec![format!("meta l4proto {protocol} dnat ip to {pod}:{pod_port}")],
    );
    let verdict = format!("goto {chain}");
    match host_ip {
        Some(ip) => rules.element("addresses", format!("{ip} . {protocol} . {host_port}"), verdict),
        None => rules.element("node-ports", format!("{protocol} . {host_port}"), verdict),
    }
    hairpin(node, rules, *pod);
}

fn hairpin(node: &Node, rules: &mut Ruleset, address: Ipv4Addr) {
    if node.node_cidr.contains(address) {
        rules.element("hairpin", format!("{address} . {address}"), String::new());
    }
}
