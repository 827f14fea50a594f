//! NodeRestriction: a node writes about itself, its pods, its machines and its volumes.
//! Must not refuse anybody but nodes.

use async_trait::async_trait;
use meta::Status;
use serde_json::Value;

use crate::admission::{Admission, Attributes, Operation};
use crate::core::Core;

/// Labels in Kubernetes' own domains that a node may give itself, as upstream has them.
const OWN_LABELS: [&str; 11] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "failure-domain.beta.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "topology.kubernetes.io/zone",
];
const OWN_DOMAINS: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];

pub(in crate::admission) struct NodeRestriction;

#[async_trait]
impl Admission for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let kinds = [
            "Node",
            "Pod",
            "Lease",
            "PersistentVolume",
            "PersistentVolumeClaim",
            "VirtualMachineInstance",
        ];
        a.call.user.as_node().is_some() && kinds.contains(&&*a.kind().kind)
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(node) = a.call.user.as_node() else {
            return Ok(());
        };
        let own = |name: &str| name == node;
        let both = || a.old.into_iter().chain((!a.object.is_null()).then_some(&a.object));
        match (&*a.kind().kind, a.operation) {
            ("Node", _) if !own(a.target.name) => Err(a.target.forbidden(format!(
                "node \"{node}\" is not allowed to modify node \"{}\"",
                a.target.name
            ))),
            ("Node", Operation::Create | Operation::Update) => {
                about_itself(node, a.old, &a.object).map_err(|why| a.target.forbidden(why))
            }
            ("Pod", Operation::Create) => mirror(node, a),
            ("Pod", _) if !core.pod_is_on(node, a.target.namespace, a.target.name) => Err(a.target.forbidden(format!(
                "node \"{node}\" can only update pods with spec.nodeName set to itself"
            ))),
            ("Lease", _) if a.target.namespace != "kube-node-lease" || !own(a.target.name) => Err(a
                .target
                .forbidden(format!("node \"{node}\" can only access its own lease"))),
            ("PersistentVolume", _) if both().any(|v| !is_on(v, node)) => Err(a
                .target
                .forbidden(format!("node \"{node}\" can only write local volumes of its own"))),
            ("PersistentVolumeClaim", _) if !core.claim_is_on(node, &a.object) => Err(a.target.forbidden(format!(
                "node \"{node}\" can only write the status of claims on its volumes"
            ))),
            ("VirtualMachineInstance", _) if !core.machine_is_on(node, a.target.namespace, a.target.name) => Err(a
                .target
                .forbidden(format!("node \"{node}\" can only update machines whose pod is on it"))),
            _ => Ok(()),
        }
    }
}

fn mirror(node: &str, a: &Attributes<'_>) -> Result<(), Status> {
    let annotations = a.object.pointer("/metadata/annotations");
    let mirror = annotations.is_some_and(|x| x.get("kubernetes.io/config.mirror").is_some());
    let on = a.object.pointer("/spec/nodeName").and_then(Value::as_str);
    if mirror && on == Some(node) {
        return Ok(());
    }
    Err(a.target.forbidden(format!(
        "pod does not have \"kubernetes.io/config.mirror\" annotation, node \"{node}\" can only create mirror pods"
    )))
}

/// What a node may not say about itself: whether pods are kept away from it, and labels by which
/// administrators tell nodes apart.
fn about_itself(node: &str, old: Option<&Value>, new: &Value) -> Result<(), String> {
    let taints = |v: &Value| {
        v.pointer("/spec/taints")
            .cloned()
            .unwrap_or_else(|| Value::Array(Vec::new()))
    };
    if old.is_some_and(|old| taints(old) != taints(new)) {
        return Err(format!("node \"{node}\" is not allowed to modify taints"));
    }
    let labels = |v: &Value| {
        v.pointer("/metadata/labels")
            .and_then(Value::as_object)
            .cloned()
            .unwrap_or_default()
    };
    let (before, after) = (old.map(labels).unwrap_or_default(), labels(new));
    let all = before.keys().chain(after.keys());
    let changed = all.filter(|k| before.get(*k) != after.get(*k));
    let mut refused: Vec<&str> = changed.map(String::as_str).filter(|k| is_reserved(k)).collect();
    refused.dedup();
    if refused.is_empty() {
        return Ok(());
    }
    Err(format!("is not allowed to modify labels: {}", refused.join(", ")))
}

fn is_reserved(label: &str) -> bool {
    let domain = label.split_once('/').map_or("", |(domain, _)| domain);
    let within = |of: &str| domain == of || domain.ends_with(&format!(".{of}"));
    (within("kubernetes.io") || within("k8s.io"))
        && !OWN_LABELS.contains(&label)
        && !OWN_DOMAINS.iter().any(|d| within(d))
}

/// Whether a volume is on a node, and nowhere else.
fn is_on(volume: &Value, node: &str) -> bool {
    let terms = volume.pointer("/spec/nodeAffinity/required/nodeSelectorTerms");
    let terms = terms.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let here = |term: &Value| {
        let mut all = term["matchExpressions"].as_array().into_iter().flatten();
        all.any(|e| {
            e["key"] == "kubernetes.io/hostname" && e["operator"] == "In" && e["values"] == serde_json::json!([node])
        })
    };
    volume.pointer("/spec/local").is_some() && !terms.is_empty() && terms.iter().all(here)
}

impl Core {
    /// Whether a claim is bound to a volume on a node.
    fn claim_is_on(&self, node: &str, claim: &Value) -> bool {
        let name = claim
            .pointer("/spec/volumeName")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let volumes = self.catalog.find("", "persistentvolumes");
        let volume = volumes.and_then(|v| v.cache.get(name));
        volume.is_some_and(|v| is_on(&v.object.to_value(), node))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_node_says_about_itself() {
        let node = |labels: Value, taints: Value| json!({"metadata": {"labels": labels}, "spec": {"taints": taints}});
        let plain = node(json!({"a": "b"}), Value::Array(vec![]));
        let check = |labels: Value, taints: Value| about_itself("n", Some(&plain), &node(labels, taints));
        assert_eq!(
            check(json!({"a": "c", "topology.kubernetes.io/zone": "z"}), json!([])),
            Ok(())
        );
        assert_eq!(
            check(json!({"node.kubernetes.io/x": "y", "example.org/x": "y"}), json!([])),
            Ok(())
        );
        for label in [
            "node-role.kubernetes.io/x",
            "node-restriction.kubernetes.io/x",
            "a.k8s.io/x",
            "kubernetes.io/x",
        ] {
            assert!(check(json!({label: "y"}), json!([])).unwrap_err().contains(label));
            let had = node(json!({label: "y"}), json!([]));
            assert!(about_itself("n", Some(&had), &plain).is_err(), "nor take it away");
            assert!(about_itself("n", Some(&had), &had).is_ok());
        }
        assert!(check(json!({}), json!([{"key": "x", "effect": "NoSchedule"}])).is_err());
        assert!(about_itself("n", None, &node(json!({}), json!([{"key": "x"}]))).is_ok());
    }

    #[test]
    fn volumes_are_on_one_node() {
        let volume = |values: Value| {
            json!({"spec": {"local": {"path": "/x"}, "nodeAffinity": {"required": {"nodeSelectorTerms": [
                {"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": values}]}]}}}})
        };
        assert!(is_on(&volume(json!(["a"])), "a"));
        for values in [json!(["b"]), json!(["a", "b"]), json!([])] {
            assert!(!is_on(&volume(values), "a"));
        }
        assert!(!is_on(&json!({"spec": {"hostPath": {"path": "/"}}}), "a"));
    }
}
