//! Where the pods of a DaemonSet may run, and how a pod is aimed at a node.
//!
//! Must not look at resources: that a pod does not fit is for the scheduler to say.

use k8s_openapi::api::core::v1::{Node, NodeSelector, NodeSelectorRequirement, Pod, Taint, Toleration};
use meta::Object;
use meta::selector::LabelSelector;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What a node is to a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fit {
    /// Whether a pod should be made there.
    pub should_run: bool,
    /// Whether one that is there may stay.
    pub should_continue: bool,
}

/// What a template asks of nodes.
pub(super) struct Rules {
    node_name: Option<String>,
    labels: BTreeMap<String, String>,
    /// Label and field terms, one of which must hold.
    terms: Option<Vec<(LabelSelector, LabelSelector)>>,
    tolerations: Vec<Toleration>,
}

/// Tolerations of every pod of a DaemonSet: key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];

impl Rules {
    /// Of the `spec` of a template.
    pub fn of(spec: &Value) -> Self {
        let mut aimed = spec.clone();
        tolerate(&mut aimed);
        let required = &spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
        let selector: Option<NodeSelector> = serde_json::from_value(required.clone()).ok();
        Rules {
            node_name: spec["nodeName"].as_str().filter(|n| !n.is_empty()).map(str::to_owned),
            labels: serde_json::from_value(spec["nodeSelector"].clone()).unwrap_or_default(),
            terms: selector.map(|s| s.node_selector_terms.iter().map(term).collect()),
            tolerations: serde_json::from_value(aimed["tolerations"].take()).unwrap_or_default(),
        }
    }

    /// What a node is to the set.
    pub fn fit(&self, object: &Object, node: &Node) -> Fit {
        let refused = Fit {
            should_run: false,
            should_continue: false,
        };
        let labels = object.labels();
        let named = self.node_name.as_ref().is_none_or(|n| n == object.name());
        let labelled = self.labels.iter().all(|(k, v)| labels.get(k) == Some(v));
        let name = BTreeMap::from([("metadata.name".to_owned(), object.name().to_owned())]);
        let chosen = |terms: &Vec<(LabelSelector, LabelSelector)>| {
            terms.iter().any(|(l, f)| l.matches(labels) && f.matches(&name))
        };
        if !named || !labelled || !self.terms.as_ref().is_none_or(chosen) {
            return refused;
        }
        let taints = node.spec.as_ref().and_then(|s| s.taints.as_ref());
        let open = |effects: &[&str]| {
            let mut hard = taints.into_iter().flatten();
            hard.any(|t| effects.contains(&t.effect.as_str()) && !self.tolerations.iter().any(|own| tolerates(own, t)))
        };
        Fit {
            should_run: !open(&["NoSchedule", "NoExecute"]),
            should_continue: !open(&["NoExecute"]),
        }
    }
}

fn term(term: &k8s_openapi::api::core::v1::NodeSelectorTerm) -> (LabelSelector, LabelSelector) {
    let empty = |l: &Option<Vec<NodeSelectorRequirement>>| l.as_ref().is_none_or(Vec::is_empty);
    if empty(&term.match_expressions) && empty(&term.match_fields) {
        return (LabelSelector::nothing(), LabelSelector::nothing());
    }
    let selector = |list: &Option<Vec<NodeSelectorRequirement>>| {
        let list = list.iter().flatten();
        let expressions: Vec<Value> = list
            .map(|r| json!({"key": r.key, "operator": r.operator, "values": r.values}))
            .collect();
        LabelSelector::from_object(&json!({"matchExpressions": expressions})).unwrap_or(LabelSelector::nothing())
    };
    (selector(&term.match_expressions), selector(&term.match_fields))
}

fn tolerates(own: &Toleration, taint: &Taint) -> bool {
    let text = |t: &Option<String>| t.clone().unwrap_or_default();
    let (effect, key) = (text(&own.effect), text(&own.key));
    let exists = own.operator.as_deref() == Some("Exists");
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && (exists || text(&own.value) == text(&taint.value))
}

/// Adds the tolerations of DaemonSets to the `spec` of a pod.
fn tolerate(spec: &mut Value) {
    let mut list = spec["tolerations"].as_array().cloned().unwrap_or_default();
    let network = [("node.kubernetes.io/network-unavailable", "NoSchedule")];
    let network = network.iter().filter(|_| spec["hostNetwork"] == true);
    for (key, effect) in TOLERATED.iter().chain(network) {
        let wanted = json!({"key": key, "operator": "Exists", "effect": effect});
        if !list.contains(&wanted) {
            list.push(wanted);
        }
    }
    spec["tolerations"] = list.into();
}

/// Makes the `spec` of a pod one for a certain node.
pub(super) fn aim(spec: &mut Value, node: &str) {
    let field = json!({"key": "metadata.name", "operator": "In", "values": [node]});
    spec["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"] =
        json!({"nodeSelectorTerms": [{"matchFields": [field]}]});
    tolerate(spec);
}

/// Whether a pod has its node.
pub(super) fn is_bound(pod: &Pod) -> bool {
    let node = pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
    node.is_some_and(|n| !n.is_empty())
}

/// The node that a pod is on, or was aimed at.
pub(super) fn target(pod: &Pod) -> Option<&str> {
    let spec = pod.spec.as_ref()?;
    if let Some(node) = spec.node_name.as_deref().filter(|n| !n.is_empty()) {
        return Some(node);
    }
    let affinity = spec.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let fields = required
        .node_selector_terms
        .iter()
        .flat_map(|t| t.match_fields.iter().flatten());
    let mut named = fields.filter(|r| r.key == "metadata.name" && r.operator == "In");
    named.next()?.values.as_ref()?.first().map(String::as_str)
}
