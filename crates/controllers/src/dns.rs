//! Where the cluster's names are answered: the Service `kube-dns`, and for each node an
//! EndpointSlice with the address on which that node answers its own pods.
//!
//! Must not answer names itself, and must not touch slices of others.

use std::net::IpAddr;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kinds::resources::{ENDPOINT_SLICES, NODES, SERVICES};
use meta::Object;
use netplan::Cidr;
use reconcile::{Controller, Input, Key, Plan, View};
use serde_json::{Value, json};

const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const US: &str = "dns.allmend.io";
const PORT: u16 = 53;
/// Label of a node that answers no names: `false`.
pub const DNS_LABEL: &str = "allmend.io/dns";

/// See the module.
pub struct ClusterDns {
    /// Address of the Service.
    pub address: IpAddr,
}

impl Controller for ClusterDns {
    fn name(&self) -> &'static str {
        "dns-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let one = |_: &Object, _: &dyn View| vec![Key::new("", "")];
        let services = Input {
            gvr: SERVICES,
            keys: |s, _| {
                let ours = s.namespace() == NAMESPACE && s.name() == SERVICE;
                if ours { vec![Key::new("", "")] } else { Vec::new() }
            },
        };
        let slices = Input {
            gvr: ENDPOINT_SLICES,
            keys: |s, _| if is_ours(s) { vec![Key::new("", "")] } else { Vec::new() },
        };
        vec![Input { gvr: NODES, keys: one }, services, slices]
    }

    fn plan(&self, _now: Timestamp, _key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        if view.get(&SERVICES, NAMESPACE, SERVICE).is_none() {
            plan.ensure(&SERVICES, NAMESPACE, self.service());
        }
        let nodes = view.list(&NODES, "");
        for node in nodes.iter().filter(|n| !n.is_deleting()) {
            let Some(wanted) = slice(node) else { continue };
            match view.get(&ENDPOINT_SLICES, NAMESPACE, &slice_name(node)) {
                None => plan.ensure(&ENDPOINT_SLICES, NAMESPACE, wanted),
                Some(there) => {
                    let now = there.to_value();
                    let parts = ["endpoints", "ports"];
                    let owners = &now["metadata"]["ownerReferences"] == &wanted["metadata"]["ownerReferences"];
                    if !owners || parts.iter().any(|p| now[*p] != wanted[*p]) {
                        let patch = json!({"endpoints": wanted["endpoints"], "ports": wanted["ports"],
                            "metadata": {"ownerReferences": wanted["metadata"]["ownerReferences"]}});
                        plan.patch(&ENDPOINT_SLICES, &there, patch);
                    }
                }
            }
        }
        let wanted: Vec<String> = nodes
            .iter()
            .filter(|n| slice(n).is_some())
            .map(|n| slice_name(n))
            .collect();
        let all = view.list(&ENDPOINT_SLICES, NAMESPACE);
        for stray in all
            .iter()
            .filter(|s| is_ours(s) && !wanted.iter().any(|w| w == s.name()))
        {
            plan.delete(&ENDPOINT_SLICES, stray);
        }
        plan
    }
}

impl ClusterDns {
    fn service(&self) -> Value {
        let labels =
            json!({"k8s-app": SERVICE, "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS"});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": SERVICE, "labels": labels},
            "spec": {"clusterIP": self.address.to_string(), "ports": ports()}})
    }
}

fn ports() -> Value {
    let port = |name: &str, protocol: &str| json!({"name": name, "protocol": protocol, "port": PORT});
    json!([port("dns", "UDP"), port("dns-tcp", "TCP")])
}

fn slice_name(node: &Object) -> String {
    format!("{SERVICE}-{}", node.name())
}

fn is_ours(slice: &Object) -> bool {
    slice.namespace() == NAMESPACE && slice.labels().get(MANAGED_BY).is_some_and(|m| m == US)
}

/// The slice of a node: its gateway's address, for its own pods. The others' answers are the
/// same, but further away.
fn slice(node: &Arc<Object>) -> Option<Value> {
    if node.labels().get(DNS_LABEL).is_some_and(|l| l == "false") {
        return None;
    }
    let typed = node.view::<Node>().ok()?;
    let subnet: Cidr = typed.spec.as_ref()?.pod_cidr.as_deref()?.parse().ok()?;
    let gateway = std::net::Ipv4Addr::from(u32::from(subnet.network()) + 1);
    let name = node.name();
    let owner = json!([{"apiVersion": "v1", "kind": "Node", "name": name, "uid": node.uid()}]);
    let endpoints = json!([{"addresses": [gateway.to_string()], "nodeName": name, "hints": {"forNodes": [{"name": name}]},
        "conditions": {"ready": true, "serving": true, "terminating": false}}]);
    Some(
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": slice_name(node), "ownerReferences": owner,
            "labels": {"kubernetes.io/service-name": SERVICE, MANAGED_BY: US}},
        "ports": ports(), "endpoints": endpoints}),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::World;

    fn node(world: &mut World, name: &str, cidr: &str, dns: &str) {
        world.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "spec": {"podCIDR": cidr},
            "metadata": {"name": name, "labels": {DNS_LABEL: dns}}}),
        );
    }

    fn addresses(world: &World) -> Vec<String> {
        let slices = world.list(&ENDPOINT_SLICES, NAMESPACE);
        slices
            .iter()
            .map(|s| {
                s.to_value()["endpoints"][0]["addresses"][0]
                    .as_str()
                    .unwrap()
                    .to_owned()
            })
            .collect()
    }

    #[test]
    fn each_node_that_answers_has_a_slice() {
        let mut world = World::default();
        let dns = ClusterDns {
            address: "10.43.0.10".parse().unwrap(),
        };
        node(&mut world, "a", "10.42.0.0/24", "true");
        node(&mut world, "b", "10.42.1.0/24", "false");
        node(&mut world, "c", "", "true");
        world.put(
            &ENDPOINT_SLICES,
            json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "gone", "namespace": NAMESPACE, "labels": {MANAGED_BY: US}}, "endpoints": [{"addresses": ["1.1.1.1"]}]}),
        );
        let key = Key::new("", "");
        world.step(Timestamp::UNIX_EPOCH, &dns, &key);
        assert_eq!(addresses(&world), ["10.42.0.1"]);
        let service = world.get(&SERVICES, NAMESPACE, SERVICE).unwrap().to_value();
        assert_eq!(service["spec"]["clusterIP"], "10.43.0.10");
        assert!(dns.plan(Timestamp::UNIX_EPOCH, &key, &world).is_empty());
        node(&mut world, "a", "10.42.7.0/24", "true");
        node(&mut world, "c", "10.42.3.0/24", "true");
        world.step(Timestamp::UNIX_EPOCH, &dns, &key);
        assert_eq!(addresses(&world), ["10.42.7.1", "10.42.3.1"]);
        node(&mut world, "a", "10.42.7.0/24", "false");
        world.step(Timestamp::UNIX_EPOCH, &dns, &key);
        assert_eq!(addresses(&world), ["10.42.3.1"]);
    }
}
