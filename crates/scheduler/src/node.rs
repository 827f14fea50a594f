//! A node with what its pods use.
//!
//! Must not decide whether a pod fits.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as api;
use meta::Object;

use crate::facts::{Facts, Port};
use crate::resources::Resources;
use crate::terms::{Labels, Taint};

/// See the module.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Node {
    pub name: Arc<str>,
    /// Whether there is an object: pods may be known before their node is, and after.
    pub known: bool,
    pub labels: Labels,
    pub taints: Vec<Taint>,
    pub unschedulable: bool,
    pub allocatable: Resources,
    pub images: HashMap<String, i64>,
    pub used: Resources,
    pub scored: (i64, i64),
    pub pods: Vec<Arc<Facts>>,
    pub ports: Vec<Port>,
    /// Pods that are not bound, but for which others were made to leave.
    pub nominated: Vec<Arc<Facts>>,
}

impl Node {
    pub fn named(name: &str) -> Self {
        Node {
            name: name.into(),
            ..Node::default()
        }
    }

    /// Takes over what the object says, and keeps what is counted.
    pub fn read(&mut self, object: &Object) {
        self.known = true;
        self.labels = object.labels().clone();
        let Ok(node) = object.view::<api::Node>() else {
            return;
        };
        let spec = node.spec.as_ref();
        self.unschedulable = spec.and_then(|s| s.unschedulable).unwrap_or(false);
        let taints = spec.and_then(|s| s.taints.as_ref()).into_iter().flatten();
        self.taints = taints.map(Taint::of).collect();
        let status = node.status.as_ref();
        self.allocatable = Resources::of(status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref())));
        self.images.clear();
        for image in status.and_then(|s| s.images.as_ref()).into_iter().flatten() {
            for name in image.names.iter().flatten() {
                self.images.insert(name.clone(), image.size_bytes.unwrap_or(0));
            }
        }
    }

    /// Forgets the object.
    pub fn lose(&mut self) {
        *self = Node {
            name: self.name.clone(),
            used: std::mem::take(&mut self.used),
            scored: self.scored,
            pods: std::mem::take(&mut self.pods),
            ports: std::mem::take(&mut self.ports),
            nominated: std::mem::take(&mut self.nominated),
            ..Node::default()
        };
    }

    /// Whether nothing would be lost with it.
    pub fn is_idle(&self) -> bool {
        !self.known && self.pods.is_empty() && self.nominated.is_empty()
    }

    pub fn add(&mut self, pod: &Arc<Facts>) {
        self.used.add(&pod.request);
        self.scored.0 += pod.scored.0;
        self.scored.1 += pod.scored.1;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod.clone());
    }

    pub fn remove(&mut self, uid: &str) {
        let Some(at) = self.pods.iter().position(|p| &*p.uid == uid) else {
            return;
        };
        let pod = self.pods.remove(at);
        self.used.sub(&pod.request);
        self.scored.0 -= pod.scored.0;
        self.scored.1 -= pod.scored.1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|p| p == port) {
                self.ports.remove(at);
            }
        }
    }
}
