//! Arguments and results of the API's verbs. Must not do I/O.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use meta::{Object, Status};
use serde_json::{Value, json};

/// An encoded JSON request body.
#[derive(Clone, Debug)]
pub struct Body(pub Bytes);

impl Body {
    /// Encodes a value.
    pub fn from_value(value: &Value) -> Self {
        Body(Bytes::from(value.to_string()))
    }
}

/// Query of LIST and WATCH.
#[derive(Clone, Debug, Default)]
pub struct ListOptions {
    /// `labelSelector`.
    pub label_selector: String,
    /// `fieldSelector`.
    pub field_selector: String,
    /// `resourceVersion`; empty for the most recent.
    pub resource_version: String,
    /// `resourceVersionMatch`.
    pub resource_version_match: String,
    /// `limit`; 0 for no limit.
    pub limit: u64,
    /// `continue`.
    pub continue_token: String,
    /// WATCH: begin with the present state, ended by a bookmark (KEP-3157).
    pub send_initial_events: bool,
    /// WATCH: send bookmarks.
    pub allow_bookmarks: bool,
    /// WATCH: end after so many seconds; 0 for the server's choice.
    pub timeout_seconds: u32,
}

/// Query of writes.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    /// `fieldManager`.
    pub field_manager: String,
    /// `force`, for apply.
    pub force: bool,
    /// `dryRun=All`.
    pub dry_run: bool,
}

/// Body of DELETE.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Overrides the object's own grace period.
    pub grace_period_seconds: Option<i64>,
    /// What must hold for the delete to happen.
    pub preconditions: Preconditions,
    /// `Background` (default), `Foreground` or `Orphan`.
    pub propagation_policy: Option<&'static str>,
}

/// `DeleteOptions.preconditions`; empty fields are not checked.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// The object must have this UID.
    pub uid: String,
    /// The object must have this resourceVersion.
    pub resource_version: String,
}

impl DeleteOptions {
    /// The wire form.
    pub fn to_value(&self) -> Value {
        let mut out = json!({"kind": "DeleteOptions", "apiVersion": "v1"});
        if let Some(grace) = self.grace_period_seconds {
            out["gracePeriodSeconds"] = grace.into();
        }
        if let Some(policy) = self.propagation_policy {
            out["propagationPolicy"] = policy.into();
        }
        let p = &self.preconditions;
        for (field, value) in [("uid", &p.uid), ("resourceVersion", &p.resource_version)] {
            if !value.is_empty() {
                out["preconditions"][field] = value.as_str().into();
            }
        }
        out
    }
}

/// How the body of PATCH is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchType {
    /// RFC 6902.
    Json,
    /// RFC 7386.
    Merge,
    /// Kubernetes' strategic merge patch.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchType {
    /// The content type that selects it.
    pub fn content_type(self) -> &'static str {
        match self {
            PatchType::Json => "application/json-patch+json",
            PatchType::Merge => "application/merge-patch+json",
            PatchType::Strategic => "application/strategic-merge-patch+json",
            PatchType::Apply => "application/apply-patch+yaml",
        }
    }
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct ObjectList {
    /// The items, in key order.
    pub items: Vec<Arc<Object>>,
    /// The revision at which the list was read.
    pub resource_version: u64,
    /// Where the next page begins; empty on the last.
    pub continue_token: String,
}

/// One change. Objects are shared: every watcher in the process sees the same allocation.
#[derive(Clone, Debug)]
pub enum WatchEvent {
    /// The object came into being, or into the selection.
    Added(Arc<Object>),
    /// The object changed.
    Modified(Arc<Object>),
    /// The object is gone, or left the selection; this was its last state.
    Deleted(Arc<Object>),
    /// Everything up to this revision has been sent.
    Bookmark {
        /// The revision.
        resource_version: u64,
        /// Whether this ends the initial events.
        initial_events_end: bool,
    },
}

/// A watch in progress. It ends when the server ends it; an error (410 among them) is the last item.
pub type EventStream = BoxStream<'static, Result<WatchEvent, Status>>;
