//! What a plan consists of.

use std::sync::Arc;
use std::time::Duration;

use meta::{Gvr, Object};
use serde_json::Value;

/// One write. Carried out in order; the first that fails ends the plan, and the
/// key is planned again after a pause.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Create an object. That it is there already is an error only if `exists_ok` is false.
    Create {
        /// Resource.
        gvr: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// The object.
        object: Value,
        /// Whether an object of that name is as good.
        exists_ok: bool,
    },
    /// Merge-patch an object (RFC 7386). With `metadata.resourceVersion` or `metadata.uid` in the
    /// patch it happens only to that version or object.
    Patch {
        /// Resource.
        gvr: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name.
        name: String,
        /// Empty, or such as `status`.
        subresource: &'static str,
        /// The patch.
        patch: Value,
    },
    /// Replace an object, or a subresource that knows no other way, such as `finalize`.
    Replace {
        /// Resource.
        gvr: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name.
        name: String,
        /// Empty, or such as `finalize`.
        subresource: &'static str,
        /// The object.
        object: Value,
    },
    /// Create a subresource, such as a Binding.
    Post {
        /// Resource.
        gvr: Gvr,
        /// Namespace.
        namespace: String,
        /// Name.
        name: String,
        /// Such as `binding`.
        subresource: &'static str,
        /// Body.
        body: Value,
    },
    /// Delete an object, and only the one with this uid. That it is gone already is no error.
    Delete {
        /// Resource.
        gvr: Gvr,
        /// Namespace; empty when cluster-scoped.
        namespace: String,
        /// Name.
        name: String,
        /// Uid.
        uid: String,
        /// Seconds; the object's own when `None`.
        grace: Option<i64>,
    },
    /// Record an Event about an object.
    Event {
        /// The object.
        regarding: Arc<Object>,
        /// Normal or warning.
        kind: EventKind,
        /// CamelCase reason.
        reason: &'static str,
        /// For people.
        message: String,
    },
}

/// Type of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// As intended.
    Normal,
    /// Somebody should look.
    Warning,
}

/// What to do, and when to look again even if nothing changes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// Writes, in order.
    pub actions: Vec<Action>,
    /// Plan again after so long.
    pub again: Option<Duration>,
}

impl Plan {
    /// Nothing to do.
    pub fn nothing() -> Self {
        Plan::default()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.actions.is_empty()
    }

    /// Adds a creation; that the object is there already is an error.
    pub fn create(&mut self, gvr: &Gvr, namespace: &str, object: Value) {
        self.actions.push(Action::Create {
            gvr: gvr.clone(),
            namespace: namespace.to_owned(),
            object,
            exists_ok: false,
        });
    }

    /// Adds a creation; an object of that name is as good.
    pub fn ensure(&mut self, gvr: &Gvr, namespace: &str, object: Value) {
        self.actions.push(Action::Create {
            gvr: gvr.clone(),
            namespace: namespace.to_owned(),
            object,
            exists_ok: true,
        });
    }

    /// Adds a merge patch of the main resource.
    pub fn patch(&mut self, gvr: &Gvr, object: &Object, patch: Value) {
        self.patch_subresource(gvr, object, "", patch);
    }

    /// Adds a merge patch of `status`.
    pub fn patch_status(&mut self, gvr: &Gvr, object: &Object, patch: Value) {
        self.patch_subresource(gvr, object, "status", patch);
    }

    /// Adds a merge patch; it happens only while the object has this uid.
    pub fn patch_subresource(&mut self, gvr: &Gvr, object: &Object, subresource: &'static str, mut patch: Value) {
        if !object.uid().is_empty() {
            patch["metadata"]["uid"] = object.uid().into();
        }
        self.actions.push(Action::Patch {
            gvr: gvr.clone(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            subresource,
            patch,
        });
    }

    /// Adds a deletion.
    pub fn delete(&mut self, gvr: &Gvr, object: &Object) {
        self.delete_within(gvr, object, None);
    }

    /// Adds a deletion with a grace period.
    pub fn delete_within(&mut self, gvr: &Gvr, object: &Object, grace: Option<i64>) {
        self.actions.push(Action::Delete {
            gvr: gvr.clone(),
            namespace: object.namespace().to_owned(),
            name: object.name().to_owned(),
            uid: object.uid().to_owned(),
            grace,
        });
    }

    /// Adds an Event.
    pub fn event(
        &mut self,
        regarding: &Arc<Object>,
        kind: EventKind,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        self.actions.push(Action::Event {
            regarding: regarding.clone(),
            kind,
            reason,
            message: message.into(),
        });
    }

    /// Plans again after so long, or sooner if asked before.
    pub fn again(&mut self, after: Duration) {
        self.again = Some(self.again.map_or(after, |a| a.min(after)));
    }
}
