//! What the scheduler knows of a pod: read once from its object, compared often.
//!
//! Must not know the cluster.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use meta::Object;

use crate::resources::{Resources, requests, scored_requests};
use crate::terms::{Labels, NodeTerm, NodeTerms, PodTerm, Spread, Toleration};

/// A port of the host.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Port {
    ip: String,
    protocol: String,
    number: i32,
}

impl Port {
    /// Whether both cannot be used at once.
    pub fn collides(&self, other: &Port) -> bool {
        let any = |ip: &str| ip == "0.0.0.0";
        self.number == other.number
            && self.protocol == other.protocol
            && (self.ip == other.ip || any(&self.ip) || any(&other.ip))
    }
}

/// A claim that a pod mounts.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClaimUse {
    pub name: String,
    /// Made for this pod from a template.
    pub ephemeral: bool,
}

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub namespace: String,
    pub name: String,
    pub uid: Arc<str>,
    pub labels: Labels,
    pub owner: Option<String>,
    pub priority: i32,
    /// Seconds since the epoch at which it started, or was made.
    pub started: i64,
    pub deleting: bool,
    pub finished: bool,
    pub node: String,
    pub nominated: String,
    pub never_preempts: bool,
    pub request: Resources,
    /// CPU and memory for comparisons between nodes.
    pub scored: (i64, i64),
    pub ports: Vec<Port>,
    pub node_labels: Vec<(String, String)>,
    pub required: Option<NodeTerms>,
    pub preferred: Vec<(i64, NodeTerm)>,
    pub tolerations: Vec<Toleration>,
    pub near: Vec<PodTerm>,
    pub apart: Vec<PodTerm>,
    /// Weighted; below zero for those to keep away from.
    pub liked: Vec<(i64, PodTerm)>,
    pub spread: Vec<Spread>,
    pub claims: Vec<ClaimUse>,
    pub images: Vec<String>,
    pub containers: usize,
}

impl Facts {
    /// Reads a pod. What does not decode asks for nothing.
    pub fn of(object: &Object) -> Self {
        let mut facts = Facts {
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().into(),
            labels: object.labels().clone(),
            owner: object.controller().map(|o| o.uid.clone()),
            deleting: object.is_deleting(),
            started: seconds(object.header().creation_timestamp.as_deref()),
            ..Facts::default()
        };
        facts.request.pods = 1;
        if let Ok(pod) = object.view::<api::Pod>() {
            facts.read(&pod);
        }
        facts
    }

    fn read(&mut self, pod: &api::Pod) {
        if let Some(status) = &pod.status {
            self.finished = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
            self.nominated = status.nominated_node_name.clone().unwrap_or_default();
            if let Some(time) = &status.start_time {
                self.started = time.0.as_second();
            }
        }
        let Some(spec) = &pod.spec else { return };
        self.node = spec.node_name.clone().unwrap_or_default();
        self.priority = spec.priority.unwrap_or(0);
        self.never_preempts = spec.preemption_policy.as_deref() == Some("Never");
        self.request = requests(spec);
        self.scored = scored_requests(spec);
        let selector = spec.node_selector.iter().flatten();
        self.node_labels = selector.map(|(k, v)| (k.clone(), v.clone())).collect();
        self.tolerations = spec.tolerations.iter().flatten().map(Toleration::of).collect();
        self.read_affinity(spec.affinity.as_ref());
        let spread = spec.topology_spread_constraints.iter().flatten();
        self.spread = spread.map(|c| Spread::of(c, &self.labels)).collect();
        if self.spread.is_empty()
            && let Some(owner) = &self.owner
        {
            self.spread = Spread::defaults(owner);
        }
        self.read_containers(spec);
        self.read_volumes(spec);
    }

    fn read_affinity(&mut self, affinity: Option<&api::Affinity>) {
        let Some(affinity) = affinity else { return };
        if let Some(node) = &affinity.node_affinity {
            let required = node.required_during_scheduling_ignored_during_execution.as_ref();
            self.required = required.map(NodeTerms::of);
            let preferred = node
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            self.preferred = preferred
                .map(|p| (p.weight.into(), NodeTerm::of(&p.preference)))
                .collect();
        }
        let term = |t: &api::PodAffinityTerm| PodTerm::of(t, &self.namespace, &self.labels);
        let mut liked = Vec::new();
        if let Some(pods) = &affinity.pod_affinity {
            let required = pods
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            self.near = required.map(term).collect();
            let preferred = pods
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            liked.extend(preferred.map(|p| (i64::from(p.weight), term(&p.pod_affinity_term))));
        }
        if let Some(pods) = &affinity.pod_anti_affinity {
            let required = pods
                .required_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            self.apart = required.map(term).collect();
            let preferred = pods
                .preferred_during_scheduling_ignored_during_execution
                .iter()
                .flatten();
            liked.extend(preferred.map(|p| (-i64::from(p.weight), term(&p.pod_affinity_term))));
        }
        self.liked = liked;
    }

    fn read_containers(&mut self, spec: &api::PodSpec) {
        let sidecars = spec.init_containers.iter().flatten();
        let sidecars = sidecars.filter(|c| c.restart_policy.as_deref() == Some("Always"));
        for c in spec.containers.iter().chain(sidecars) {
            for p in c.ports.iter().flatten() {
                let Some(number) = p.host_port.filter(|n| *n > 0) else {
                    continue;
                };
                let ip = p.host_ip.clone().filter(|ip| !ip.is_empty());
                self.ports.push(Port {
                    ip: ip.unwrap_or_else(|| "0.0.0.0".into()),
                    protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                    number,
                });
            }
        }
        let all = spec.init_containers.iter().flatten().chain(&spec.containers);
        self.images = all.filter_map(|c| c.image.as_deref()).map(image_name).collect();
        self.containers = spec.containers.len() + spec.init_containers.as_ref().map_or(0, Vec::len);
    }

    fn read_volumes(&mut self, spec: &api::PodSpec) {
        for v in spec.volumes.iter().flatten() {
            if let Some(claim) = &v.persistent_volume_claim {
                self.claims.push(ClaimUse {
                    name: claim.claim_name.clone(),
                    ephemeral: false,
                });
            } else if v.ephemeral.is_some() {
                self.claims.push(ClaimUse {
                    name: format!("{}-{}", self.name, v.name),
                    ephemeral: true,
                });
            }
        }
    }

    /// Whether the pod's own labels and affinity admit a node.
    pub fn chooses(&self, name: &str, labels: &Labels) -> bool {
        self.node_labels.iter().all(|(k, v)| labels.get(k) == Some(v))
            && self.required.as_ref().is_none_or(|t| t.matches(name, labels))
    }
}

/// An image as nodes list it: with a tag.
fn image_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || last.contains('@') {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Seconds since the epoch; 0 when there is no time.
pub(crate) fn seconds(time: Option<&str>) -> i64 {
    time.and_then(meta::time::parse).map_or(0, |t| t.as_second())
}
