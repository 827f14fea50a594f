//! The subnet of this node's pods: the node says that it is there, and the control loops give it one.
//!
//! Must not choose one itself: nobody but they sees all nodes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use client::{Client, ClientExt};
use informer::Informers;
use k8s_openapi::api::core::v1::{Node, Taint};
use kinds::resources::NODES;
use meta::Object;
use netplan::Cidr;
use serde_json::{Value, json};
use tracing::warn;

/// How long to wait before it is said what is waited for, and before a node that somebody deleted
/// is made again.
const PATIENCE: Duration = Duration::from_secs(5);

/// The node's subnet. Registers the node when it is not known yet: without conditions, so that no
/// pod is sent here before its agent runs.
pub async fn of_node(
    client: &dyn Client,
    informers: &Arc<Informers>,
    name: &str,
    labels: &BTreeMap<String, String>,
    taints: &[Taint],
) -> Result<(Ipv4Addr, u8)> {
    let node = bare(name, labels, taints);
    let nodes = informers.of(&NODES);
    let mut changes = nodes.subscribe();
    nodes.synced().await;
    loop {
        match nodes.get("", name) {
            Some(node) => {
                if let Some(subnet) = subnet(&node)? {
                    return Ok(subnet);
                }
            }
            None => match client.create_object(&NODES, "", &node).await {
                Err(e) if !e.is_already_exists() => {
                    warn!(error = e.message, "the node was not registered; trying again")
                }
                _ => {}
            },
        }
        match tokio::time::timeout(PATIENCE, changes.next()).await {
            Ok(Some(_)) => {}
            Ok(None) => bail!("the API's changes ended while the node waited for its subnet"),
            Err(_) => warn!(
                node = name,
                "still waiting for a subnet (spec.podCIDR); `kubectl describe node` says why"
            ),
        }
    }
}

fn bare(name: &str, labels: &BTreeMap<String, String>, taints: &[Taint]) -> Value {
    let mut spec = json!({});
    if !taints.is_empty() {
        spec["taints"] = json!(taints);
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": spec})
}

/// `spec.podCIDR`, if there is one yet.
fn subnet(node: &Object) -> Result<Option<(Ipv4Addr, u8)>> {
    let typed = node
        .view::<Node>()
        .with_context(|| format!("read the node {}", node.name()))?;
    let text = typed.spec.as_ref().and_then(|s| s.pod_cidr.clone()).unwrap_or_default();
    if text.is_empty() {
        return Ok(None);
    }
    let cidr: Cidr = text.parse().with_context(|| {
        format!(
            "spec.podCIDR of node {}: delete the node, and it gets another one",
            node.name()
        )
    })?;
    Ok(Some((cidr.network(), cidr.prefix())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_subnet_is_read_from_the_node() {
        let node = |cidr: &str| {
            let mut node = bare("n", &BTreeMap::new(), &[]);
            node["spec"]["podCIDR"] = cidr.into();
            Object::from_value(node).unwrap()
        };
        assert_eq!(
            subnet(&node("10.42.3.0/24")).unwrap(),
            Some((Ipv4Addr::new(10, 42, 3, 0), 24))
        );
        assert_eq!(subnet(&node("")).unwrap(), None);
        let error = format!("{:#}", subnet(&node("fd00::/64")).unwrap_err());
        assert!(error.contains("node n") && error.contains("fd00::/64"), "{error}");
    }
}
