//! The conditions that pods put on nodes and on other pods: node selector
//! terms, tolerations, pod affinity terms and spread constraints.
//!
//! Must not know the cluster: what is matched is passed in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as ApiSelector;
use meta::LabelSelector;
use serde_json::{Value, json};

pub(crate) type Labels = BTreeMap<String, String>;

/// One of several terms must hold.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct NodeTerms(Vec<NodeTerm>);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct NodeTerm {
    labels: LabelSelector,
    fields: LabelSelector,
    /// Of `metadata.name In [..]`: the only nodes that can match.
    names: Option<Vec<String>>,
}

impl NodeTerms {
    pub fn of(selector: &api::NodeSelector) -> Self {
        NodeTerms(selector.node_selector_terms.iter().map(NodeTerm::of).collect())
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        self.0.iter().any(|t| t.matches(name, labels))
    }

    /// The only nodes that can match, if every term names some.
    pub fn names(&self) -> Option<Vec<&str>> {
        let mut out = Vec::new();
        for term in &self.0 {
            out.extend(term.names.as_ref()?.iter().map(String::as_str));
        }
        out.sort_unstable();
        out.dedup();
        (!self.0.is_empty()).then_some(out)
    }
}

impl NodeTerm {
    pub fn of(term: &api::NodeSelectorTerm) -> Self {
        let empty = |l: &Option<Vec<api::NodeSelectorRequirement>>| l.as_ref().is_none_or(Vec::is_empty);
        if empty(&term.match_expressions) && empty(&term.match_fields) {
            return NodeTerm {
                labels: LabelSelector::nothing(),
                fields: LabelSelector::nothing(),
                names: None,
            };
        }
        let by_name = |r: &&api::NodeSelectorRequirement| r.key == "metadata.name" && r.operator == "In";
        let fields = term.match_fields.iter().flatten();
        NodeTerm {
            labels: requirements(term.match_expressions.as_deref()),
            fields: requirements(term.match_fields.as_deref()),
            names: fields
                .filter(by_name)
                .map(|r| r.values.clone().unwrap_or_default())
                .next(),
        }
    }

    pub fn matches(&self, name: &str, labels: &Labels) -> bool {
        if !self.labels.matches(labels) {
            return false;
        }
        if let Some(names) = &self.names
            && !names.iter().any(|n| n == name)
        {
            return false;
        }
        self.fields.is_everything()
            || self
                .fields
                .matches(&Labels::from([("metadata.name".to_owned(), name.to_owned())]))
    }
}

/// What is malformed matches nothing.
fn requirements(list: Option<&[api::NodeSelectorRequirement]>) -> LabelSelector {
    let list = list.unwrap_or_default();
    let expressions: Vec<Value> = list
        .iter()
        .map(|r| json!({"key": r.key, "operator": r.operator, "values": r.values}))
        .collect();
    LabelSelector::from_object(&json!({"matchExpressions": expressions})).unwrap_or(LabelSelector::nothing())
}

/// A label selector; `None` matches nothing. Keys in `like` must have the pod's own value,
/// keys in `unlike` must not.
pub(crate) fn selector(
    selector: Option<&ApiSelector>,
    like: Option<&Vec<String>>,
    unlike: Option<&Vec<String>>,
    own: &Labels,
) -> LabelSelector {
    let Some(selector) = selector else {
        return LabelSelector::nothing();
    };
    let mut expressions: Vec<Value> = selector
        .match_expressions
        .iter()
        .flatten()
        .map(|r| json!({"key": r.key, "operator": r.operator, "values": r.values}))
        .collect();
    for (keys, operator) in [(like, "In"), (unlike, "NotIn")] {
        for key in keys.into_iter().flatten() {
            if let Some(value) = own.get(key) {
                expressions.push(json!({"key": key, "operator": operator, "values": [value]}));
            }
        }
    }
    let object = json!({"matchLabels": selector.match_labels, "matchExpressions": expressions});
    LabelSelector::from_object(&object).unwrap_or(LabelSelector::nothing())
}

/// A taint of a node.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Taint {
    pub key: String,
    pub value: String,
    pub effect: String,
}

impl Taint {
    pub fn of(taint: &api::Taint) -> Self {
        Taint {
            key: taint.key.clone(),
            value: taint.value.clone().unwrap_or_default(),
            effect: taint.effect.clone(),
        }
    }

    /// Whether it keeps pods away, rather than being disliked only.
    pub fn is_hard(&self) -> bool {
        matches!(self.effect.as_str(), "NoSchedule" | "NoExecute")
    }
}

/// A taint that a pod puts up with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Toleration {
    key: String,
    value: String,
    effect: String,
    operator: Operator,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Operator {
    Exists,
    Equal,
    Gt,
    Lt,
    Unknown,
}

impl Toleration {
    pub fn of(t: &api::Toleration) -> Self {
        Toleration {
            key: t.key.clone().unwrap_or_default(),
            value: t.value.clone().unwrap_or_default(),
            effect: t.effect.clone().unwrap_or_default(),
            operator: match t.operator.as_deref() {
                Some("Exists") => Operator::Exists,
                None | Some("" | "Equal") => Operator::Equal,
                Some("Gt") => Operator::Gt,
                Some("Lt") => Operator::Lt,
                Some(_) => Operator::Unknown,
            },
        }
    }

    pub fn tolerates(&self, taint: &Taint) -> bool {
        if !self.effect.is_empty() && self.effect != taint.effect || !self.key.is_empty() && self.key != taint.key {
            return false;
        }
        let numbers = || Some((taint.value.parse::<i64>().ok()?, self.value.parse::<i64>().ok()?));
        match self.operator {
            Operator::Exists => true,
            Operator::Equal => self.value == taint.value,
            Operator::Gt => numbers().is_some_and(|(taint, own)| taint > own),
            Operator::Lt => numbers().is_some_and(|(taint, own)| taint < own),
            Operator::Unknown => false,
        }
    }
}

/// Which pods, counted by which label of their nodes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PodTerm {
    pub key: String,
    pub selector: LabelSelector,
    pub namespaces: Vec<String>,
    pub namespace_selector: LabelSelector,
    /// Equal for equal terms: pods of one template share what is counted for it.
    pub id: Box<str>,
}

impl PodTerm {
    pub fn of(term: &api::PodAffinityTerm, namespace: &str, own: &Labels) -> Self {
        let mut namespaces = term.namespaces.clone().unwrap_or_default();
        if namespaces.is_empty() && term.namespace_selector.is_none() {
            namespaces.push(namespace.to_owned());
        }
        let pods = selector(
            term.label_selector.as_ref(),
            term.match_label_keys.as_ref(),
            term.mismatch_label_keys.as_ref(),
            own,
        );
        let spaces = selector(term.namespace_selector.as_ref(), None, None, own);
        let known = term.label_selector.is_some();
        let id = format!(
            "{}|{known}|{pods}|{namespaces:?}|{}|{spaces}",
            term.topology_key,
            term.namespace_selector.is_some()
        );
        PodTerm {
            key: term.topology_key.clone(),
            selector: pods,
            namespaces,
            namespace_selector: spaces,
            id: id.into(),
        }
    }

    /// Whether a pod is meant; `spaces` are the labels of its namespace.
    pub fn matches(&self, namespace: &str, labels: &Labels, spaces: Option<&Labels>) -> bool {
        self.meant(namespace, spaces) && self.selector.matches(labels)
    }

    /// Whether pods of a namespace are meant.
    pub fn meant(&self, namespace: &str, labels: Option<&Labels>) -> bool {
        self.namespaces.iter().any(|n| n == namespace)
            || self.namespace_selector.is_everything()
            || labels.is_some_and(|l| self.namespace_selector.matches(l))
    }
}

/// A spread constraint.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Spread {
    pub key: String,
    pub max_skew: i64,
    pub min_domains: Option<usize>,
    pub hard: bool,
    pub who: Who,
    pub honor_affinity: bool,
    pub honor_taints: bool,
}

/// Whom a spread constraint counts, in the pod's namespace.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Who {
    Labels(LabelSelector),
    /// Pods of the same controller: pods that ask for no spread get a mild one.
    Owner(Box<str>),
}

impl Spread {
    pub fn of(c: &api::TopologySpreadConstraint, own: &Labels) -> Self {
        Spread {
            key: c.topology_key.clone(),
            max_skew: c.max_skew.into(),
            min_domains: c.min_domains.and_then(|n| n.try_into().ok()),
            hard: c.when_unsatisfiable != "ScheduleAnyway",
            who: Who::Labels(selector(
                c.label_selector.as_ref(),
                c.match_label_keys.as_ref(),
                None,
                own,
            )),
            honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
            honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
        }
    }

    /// Upstream's defaults for pods of a controller that ask for nothing else.
    pub fn defaults(owner: &str) -> Vec<Self> {
        let default = |key: &str, max_skew| Spread {
            key: key.to_owned(),
            max_skew,
            min_domains: None,
            hard: false,
            who: Who::Owner(owner.into()),
            honor_affinity: true,
            honor_taints: false,
        };
        vec![
            default("kubernetes.io/hostname", 3),
            default("topology.kubernetes.io/zone", 5),
        ]
    }
}
