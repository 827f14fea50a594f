//! Which subnet of the pods' addresses belongs to which node.
//!
//! Must not take a subnet from a node that has one, not even one that two nodes have.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kinds::resources::NODES;
use meta::Object;
use netplan::Cidr;
use reconcile::{Controller, EventKind, Input, Key, Plan, View};
use serde_json::json;

/// Prefix of a node's subnet, unless the whole cluster has a longer one.
const NODE_PREFIX: u8 = 24;

/// Gives each node without `spec.podCIDR` the first free subnet of the cluster's. A subnet is free
/// again when its Node is gone.
#[derive(Clone, Debug)]
pub struct NodeIpam {
    cluster: Cidr,
    prefix: u8,
}

impl NodeIpam {
    /// Subnets of `prefix` bits out of the cluster's addresses.
    pub fn new(cluster: Cidr, prefix: u8) -> Self {
        NodeIpam { cluster, prefix }
    }

    /// Subnets of the usual size.
    pub fn of(cluster: Cidr) -> Self {
        NodeIpam::new(cluster, NODE_PREFIX.max(cluster.prefix()))
    }
}

impl Controller for NodeIpam {
    fn name(&self) -> &'static str {
        "cidrAllocator"
    }

    fn inputs(&self) -> Vec<Input> {
        vec![Input {
            gvr: NODES,
            // One key for all nodes: of one key there is one plan at a time, and no plan before the
            // cache shows what the last one wrote. So no subnet is given twice.
            keys: |node, view| {
                let here = view.get(&NODES, "", node.name());
                let settled = here.is_some() && !subnets(node).is_empty() && rival(node, view).is_none();
                if settled { Vec::new() } else { vec![Key::new("", "")] }
            },
        }]
    }

    fn plan(&self, _now: Timestamp, _key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let nodes = view.list(&NODES, "");
        let mut used: Vec<Cidr> = nodes.iter().flat_map(|n| subnets(n)).collect();
        let mut waiting: Vec<&Arc<Object>> = Vec::new();
        for node in &nodes {
            if !is_bare(node) {
                conflict(&mut plan, node, view);
            } else if !node.is_deleting() {
                waiting.push(node);
            }
        }
        waiting.sort_by_key(|n| age(n));
        for node in waiting {
            let free = self.cluster.subnets(self.prefix);
            let Some(subnet) = free.into_iter().find(|s| !used.iter().any(|u| u.overlaps(s))) else {
                let message = format!("Node {} status is now: CIDRNotAvailable", node.name());
                plan.event(node, EventKind::Normal, "CIDRNotAvailable", message);
                continue;
            };
            used.push(subnet);
            // Only to the version that has none: somebody else may have given it one meanwhile.
            let version = node.resource_version();
            let text = subnet.to_string();
            let patch =
                json!({"metadata": {"resourceVersion": version}, "spec": {"podCIDR": text, "podCIDRs": [text]}});
            plan.patch(&NODES, node, patch);
        }
        plan
    }
}

/// The older of two nodes has the better right to a subnet.
fn age(node: &Object) -> (Option<String>, String) {
    (node.header().creation_timestamp.clone(), node.name().to_owned())
}

/// Whether a node has no subnet, not even one that cannot be read.
fn is_bare(node: &Object) -> bool {
    let typed = node.view::<Node>().ok();
    let Some(spec) = typed.as_ref().and_then(|n| n.spec.as_ref()) else {
        // What cannot be read is not to be overwritten.
        return typed.is_some();
    };
    spec.pod_cidr.as_deref().unwrap_or_default().is_empty() && spec.pod_cidrs.iter().flatten().next().is_none()
}

/// The subnets that a node has. Those of IPv6 are in nobody's way.
fn subnets(node: &Object) -> Vec<Cidr> {
    let typed = node.view::<Node>().ok();
    let Some(spec) = typed.as_ref().and_then(|n| n.spec.as_ref()) else {
        return Vec::new();
    };
    let all = spec.pod_cidr.iter().chain(spec.pod_cidrs.iter().flatten());
    let mut subnets: Vec<Cidr> = all.filter_map(|text| text.parse().ok()).collect();
    subnets.dedup();
    subnets
}

/// An older node whose subnet overlaps one of this node's: the two subnets, and whose it is.
fn rival(node: &Object, view: &dyn View) -> Option<(Cidr, Cidr, String)> {
    let own = subnets(node);
    let nodes = view.list(&NODES, "");
    let older = nodes.iter().filter(|o| age(o) < age(node));
    older.into_iter().find_map(|other| {
        let theirs = subnets(other);
        let pairs = own.iter().flat_map(|a| theirs.iter().map(move |b| (*a, *b)));
        let (a, b) = pairs.into_iter().find(|(a, b)| a.overlaps(b))?;
        Some((a, b, other.name().to_owned()))
    })
}

fn conflict(plan: &mut Plan, node: &Arc<Object>, view: &dyn View) {
    if let Some((own, theirs, other)) = rival(node, view) {
        let message = format!(
            "The subnet {own} overlaps {theirs} of node {other}: pods of one of the two cannot be reached; \
             drain one of the nodes, stop it, delete its Node and start it again"
        );
        plan.event(node, EventKind::Warning, "CIDRConflict", message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::{Action, World};

    const NOW: Timestamp = Timestamp::UNIX_EPOCH;

    fn node(world: &mut World, name: &str, cidr: &str) {
        let mut spec = json!({});
        if !cidr.is_empty() {
            spec = json!({"podCIDR": cidr, "podCIDRs": [cidr]});
        }
        world.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}, "spec": spec}),
        );
    }

    fn cidr(world: &World, name: &str) -> String {
        let node = world.get(&NODES, "", name).unwrap().to_value();
        let one = node["spec"]["podCIDR"].as_str().unwrap_or_default().to_owned();
        if !one.is_empty() {
            assert_eq!(node["spec"]["podCIDRs"], json!([one]));
        }
        one
    }

    fn ipam(cluster: &str) -> NodeIpam {
        NodeIpam::of(cluster.parse().unwrap())
    }

    fn step(world: &mut World, ipam: &NodeIpam) -> Vec<String> {
        let plan = world.step(NOW, ipam, &Key::new("", ""));
        let events = plan.actions.iter().filter_map(|a| match a {
            Action::Event { regarding, reason, .. } => Some(format!("{}: {reason}", regarding.name())),
            _ => None,
        });
        events.collect()
    }

    /// What nodes have, and what those without get: in the order of their names.
    #[test]
    fn each_node_gets_the_first_subnet_that_is_free() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("10.42.0.0/16", &[("", "10.42.0.0/24")]),
            (
                "10.42.0.0/16",
                &[("", "10.42.0.0/24"), ("", "10.42.1.0/24"), ("", "10.42.2.0/24")],
            ),
            (
                "10.42.0.0/16",
                &[
                    ("10.42.1.0/24", "10.42.1.0/24"),
                    ("", "10.42.0.0/24"),
                    ("", "10.42.2.0/24"),
                ],
            ),
            // Larger, smaller, of another cluster, of another family, and unreadable ones.
            (
                "10.42.0.0/16",
                &[("10.42.0.0/22", "10.42.0.0/22"), ("", "10.42.4.0/24")],
            ),
            (
                "10.42.0.0/16",
                &[("10.42.0.64/26", "10.42.0.64/26"), ("", "10.42.1.0/24")],
            ),
            (
                "10.42.0.0/16",
                &[("172.16.0.0/24", "172.16.0.0/24"), ("", "10.42.0.0/24")],
            ),
            ("10.42.0.0/16", &[("10.0.0.0/8", "10.0.0.0/8"), ("", "")]),
            ("10.42.0.0/16", &[("fd00::/64", "fd00::/64"), ("", "10.42.0.0/24")]),
            ("10.42.0.0/16", &[("junk", "junk"), ("", "10.42.0.0/24")]),
            // A cluster that is a subnet, or smaller than one, or named by an address within.
            ("10.42.7.0/24", &[("", "10.42.7.0/24"), ("", "")]),
            ("10.42.7.0/26", &[("", "10.42.7.0/26"), ("", "")]),
            ("10.42.7.9/23", &[("", "10.42.6.0/24"), ("", "10.42.7.0/24"), ("", "")]),
        ];
        for (cluster, nodes) in table {
            let (mut world, ipam) = (World::default(), ipam(cluster));
            for (n, (has, _)) in nodes.iter().enumerate() {
                node(&mut world, &format!("n{n}"), has);
            }
            let events = step(&mut world, &ipam);
            let empty = nodes.iter().enumerate().filter(|(_, (_, gets))| gets.is_empty());
            let wanted: Vec<String> = empty.map(|(n, _)| format!("n{n}: CIDRNotAvailable")).collect();
            assert_eq!(events, wanted, "{cluster} {nodes:?}");
            for (n, (_, gets)) in nodes.iter().enumerate() {
                assert_eq!(cidr(&world, &format!("n{n}")), *gets, "{cluster} {nodes:?}");
            }
            let again = world.step(NOW, &ipam, &Key::new("", ""));
            assert!(
                again.actions.iter().all(|a| matches!(a, Action::Event { .. })),
                "{again:?}"
            );
        }
    }

    #[test]
    fn a_node_that_goes_makes_room() {
        let (mut world, ipam) = (World::default(), ipam("10.42.0.0/23"));
        for name in ["a", "b", "c"] {
            node(&mut world, name, "");
        }
        assert_eq!(step(&mut world, &ipam), ["c: CIDRNotAvailable"]);
        let gone = world.get(&NODES, "", "a").unwrap();
        world.remove(&NODES, "", "a");
        let keys = ipam.inputs()[0].keys;
        assert_eq!(keys(&gone, &world), [Key::new("", "")]);
        assert!(step(&mut world, &ipam).is_empty());
        assert_eq!(
            (cidr(&world, "b").as_str(), cidr(&world, "c").as_str()),
            ("10.42.1.0/24", "10.42.0.0/24")
        );
        let settled = world.get(&NODES, "", "b").unwrap();
        assert!(keys(&settled, &world).is_empty());
    }

    #[test]
    fn what_two_nodes_have_is_left_to_people() {
        let (mut world, ipam) = (World::default(), ipam("10.42.0.0/16"));
        node(&mut world, "a", "10.42.0.0/24");
        node(&mut world, "b", "10.42.0.0/24");
        node(&mut world, "c", "10.42.0.128/25");
        node(&mut world, "d", "");
        assert_eq!(step(&mut world, &ipam), ["b: CIDRConflict", "c: CIDRConflict"]);
        assert_eq!(cidr(&world, "b"), "10.42.0.0/24");
        assert_eq!(cidr(&world, "d"), "10.42.1.0/24");
        let (a, b) = (world.get(&NODES, "", "a").unwrap(), world.get(&NODES, "", "b").unwrap());
        let keys = ipam.inputs()[0].keys;
        assert!(keys(&a, &world).is_empty() && !keys(&b, &world).is_empty());
    }
}
