//! What the scheduler knows of claims, volumes and storage classes, and what a
//! pod's claims ask of a node.
//!
//! Must not choose a node.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::api::storage::v1::StorageClass;
use meta::{LabelSelector, Object};

use crate::cluster::Cluster;
use crate::facts::Facts;
use crate::terms::{Labels, NodeTerms, selector};

/// The annotation with the node that a claim's volume is to be made for.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// The provisioner of classes whose volumes people make.
const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
const BETA_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

/// A claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Claim {
    namespace: String,
    name: String,
    uid: String,
    deleting: bool,
    /// Whether its volume is settled.
    bound: bool,
    volume: String,
    class: String,
    single_pod: bool,
    owner: Option<String>,
    selected_node: String,
    wants: Wants,
}

/// What a claim asks of a volume, or a volume offers.
#[derive(Clone, Debug, Default, PartialEq)]
struct Wants {
    bytes: i64,
    modes: BTreeSet<String>,
    block: bool,
    labels: Option<LabelSelector>,
}

/// A volume.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Volume {
    pub name: String,
    nodes: Option<NodeTerms>,
    class: String,
    offers: Wants,
    labels: Labels,
    free: bool,
    /// Namespace, name and uid of the claim it is kept for.
    kept_for: Option<(String, String, String)>,
}

/// A storage class.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Class {
    delayed: bool,
    provisions: bool,
    /// Each a conjunction of label and values; none is everywhere.
    topologies: Vec<Vec<(String, Vec<String>)>>,
}

impl Claim {
    pub fn of(object: &Object) -> Self {
        let mut claim = Claim {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            deleting: object.is_deleting(),
            owner: object.controller().map(|o| o.uid.clone()),
            selected_node: object.annotations().get(SELECTED_NODE).cloned().unwrap_or_default(),
            ..Claim::default()
        };
        let Ok(pvc) = object.view::<api::PersistentVolumeClaim>() else {
            return claim;
        };
        let Some(spec) = &pvc.spec else { return claim };
        let modes = spec.access_modes.iter().flatten();
        claim.wants.modes = modes.cloned().collect();
        claim.single_pod = claim.wants.modes.contains("ReadWriteOncePod");
        claim.class = object.annotations().get(BETA_CLASS).cloned().unwrap_or_default();
        if claim.class.is_empty() {
            claim.class = spec.storage_class_name.clone().unwrap_or_default();
        }
        claim.volume = spec.volume_name.clone().unwrap_or_default();
        let phase = pvc.status.as_ref().and_then(|s| s.phase.as_deref());
        let completed = object.annotations().contains_key("pv.kubernetes.io/bind-completed");
        claim.bound = !claim.volume.is_empty() && (completed || phase == Some("Bound"));
        claim.wants.block = spec.volume_mode.as_deref() == Some("Block");
        let requests = spec.resources.as_ref().and_then(|r| r.requests.as_ref());
        claim.wants.bytes = bytes(requests);
        let labels = spec.selector.as_ref();
        claim.wants.labels = labels.map(|s| selector(Some(s), None, None, &Labels::new()));
        claim
    }

    /// Whether only one pod may use it.
    pub fn is_single_pod(&self) -> bool {
        self.single_pod
    }
}

fn bytes(
    list: Option<&std::collections::BTreeMap<String, k8s_openapi::apimachinery::pkg::api::resource::Quantity>>,
) -> i64 {
    let text = list.and_then(|l| l.get("storage"));
    text.and_then(|q| q.0.parse::<meta::Quantity>().ok())
        .map_or(0, |q| q.value())
}

impl Volume {
    pub fn of(object: &Object) -> Self {
        let mut volume = Volume {
            name: object.name().to_owned(),
            labels: object.labels().clone(),
            ..Volume::default()
        };
        let Ok(pv) = object.view::<api::PersistentVolume>() else {
            return volume;
        };
        let Some(spec) = &pv.spec else { return volume };
        let required = spec.node_affinity.as_ref().and_then(|a| a.required.as_ref());
        volume.nodes = required.map(NodeTerms::of);
        volume.class = spec.storage_class_name.clone().unwrap_or_default();
        volume.offers.bytes = bytes(spec.capacity.as_ref());
        volume.offers.modes = spec.access_modes.iter().flatten().cloned().collect();
        volume.offers.block = spec.volume_mode.as_deref() == Some("Block");
        let phase = pv.status.as_ref().and_then(|s| s.phase.as_deref());
        volume.free = !object.is_deleting() && matches!(phase, None | Some("Pending" | "Available"));
        volume.kept_for = spec.claim_ref.as_ref().map(|c| {
            let text = |t: &Option<String>| t.clone().unwrap_or_default();
            (text(&c.namespace), text(&c.name), text(&c.uid))
        });
        volume
    }

    /// Whether pods on a node can use it.
    pub fn reachable(&self, node: &str, labels: &Labels) -> bool {
        self.nodes.as_ref().is_none_or(|t| t.matches(node, labels))
    }

    fn suits(&self, claim: &Claim) -> bool {
        let kept = self.kept_for.as_ref().is_none_or(|(namespace, name, uid)| {
            *namespace == claim.namespace && *name == claim.name && (uid.is_empty() || *uid == claim.uid)
        });
        let wants = &claim.wants;
        self.free
            && kept
            && self.class == claim.class
            && self.offers.bytes >= wants.bytes
            && self.offers.block == wants.block
            && wants.modes.is_subset(&self.offers.modes)
            && wants.labels.as_ref().is_none_or(|s| s.matches(&self.labels))
    }
}

impl Class {
    pub fn of(object: &Object) -> Self {
        let Ok(class) = object.view::<StorageClass>() else {
            return Class::default();
        };
        let terms = class.allowed_topologies.iter().flatten();
        let term = |t: &api::TopologySelectorTerm| {
            let all = t.match_label_expressions.iter().flatten();
            all.map(|r| (r.key.clone(), r.values.clone())).collect()
        };
        Class {
            delayed: class.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
            provisions: class.provisioner != NO_PROVISIONER,
            topologies: terms.map(term).collect(),
        }
    }

    fn allows(&self, labels: &Labels) -> bool {
        let holds = |(key, values): &(String, Vec<String>)| labels.get(key).is_some_and(|v| values.contains(v));
        self.topologies.is_empty() || self.topologies.iter().any(|t| t.iter().all(holds))
    }
}

/// What one claim of a pod asks of a node.
#[derive(Clone, Debug)]
pub(crate) enum Need<'a> {
    /// To reach this volume; `None` when it does not exist.
    Volume(Option<&'a Volume>),
    /// That a volume for the claim is there, or can be made.
    Choice {
        claim: &'a Claim,
        class: &'a Class,
        /// The smallest first.
        present: Vec<&'a Volume>,
    },
}

/// What the claims of a pod ask of nodes, or why no node will do.
pub(crate) fn needs<'a>(cluster: &'a Cluster, pod: &Facts) -> Result<Vec<Need<'a>>, String> {
    let mut out = Vec::new();
    let mut unbound = false;
    for used in &pod.claims {
        let name = &used.name;
        let Some(claim) = cluster.claim(&pod.namespace, name) else {
            return Err(if used.ephemeral {
                format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
            } else {
                format!("persistentvolumeclaim \"{name}\" not found")
            });
        };
        if claim.deleting {
            return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
        }
        if used.ephemeral && claim.owner.as_deref() != Some(&*pod.uid) {
            return Err(format!(
                "PVC {}/{name} was not created for pod {}/{} (pod is not owner)",
                pod.namespace, pod.namespace, pod.name
            ));
        }
        if claim.bound {
            out.push(Need::Volume(cluster.volume(&claim.volume)));
            continue;
        }
        let class = cluster.class(&claim.class).filter(|c| c.delayed);
        match class {
            Some(class) if claim.volume.is_empty() => {
                let mut present: Vec<&Volume> = cluster.volumes().filter(|v| v.suits(claim)).collect();
                present.sort_by_key(|v| (v.kept_for.is_none(), v.offers.bytes, &v.name));
                out.push(Need::Choice { claim, class, present });
            }
            _ => unbound = true,
        }
    }
    if unbound {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    Ok(out)
}

/// Why the volumes keep a pod from a node.
pub(crate) fn check(needs: &[Need<'_>], node: &str, labels: &Labels) -> Result<(), &'static str> {
    let mut taken: Vec<&str> = Vec::new();
    let mut conflict = None;
    for need in needs {
        match need {
            Need::Volume(None) => {
                return Err("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)");
            }
            Need::Volume(Some(volume)) => {
                if !volume.reachable(node, labels) {
                    return Err("node(s) didn't match PersistentVolume's node affinity");
                }
            }
            Need::Choice { claim, class, present } => {
                if !claim.selected_node.is_empty() && claim.selected_node != node {
                    conflict = Some("node(s) didn't find available persistent volumes to bind");
                    continue;
                }
                let mut fitting = present.iter().filter(|v| v.reachable(node, labels));
                if let Some(volume) = fitting.find(|v| !taken.contains(&v.name.as_str())) {
                    taken.push(&volume.name);
                } else if !class.provisions || !class.allows(labels) {
                    conflict = Some("node(s) didn't find available persistent volumes to bind");
                }
            }
        }
    }
    conflict.map_or(Ok(()), Err)
}

/// The claims that have to be told of the node.
pub(crate) fn to_select(needs: &[Need<'_>], node: &str) -> Vec<String> {
    let choice = |need: &Need<'_>| match need {
        Need::Choice { claim, .. } if claim.selected_node != node => Some(claim.name.clone()),
        _ => None,
    };
    needs.iter().filter_map(choice).collect()
}
