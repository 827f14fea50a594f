//! Events of this node's pods, in the kubelet's name.

use driver::Recorder;
use meta::Object;
use reconcile::EventKind;

/// Where events are said. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    recorder: Recorder,
    node: String,
}

impl Events {
    /// In the name of a node.
    pub fn new(recorder: Recorder, node: &str) -> Self {
        Events {
            recorder,
            node: node.to_owned(),
        }
    }

    /// Says something about a pod, or one of its containers.
    pub fn say(&self, object: &Object, field: &str, kind: EventKind, reason: &str, message: &str) {
        self.recorder
            .say_from(("kubelet", &self.node), object, field, kind, reason, message);
    }
}
