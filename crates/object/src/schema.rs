//! Structural schemas: the shape of a kind's objects, with Kubernetes' extensions.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

/// A node of a structural schema.
#[derive(Clone, Debug, Default)]
pub struct Schema {
    /// Type and the parts that belong to it.
    pub shape: Shape,
    /// For `explain`.
    pub description: String,
    /// Applied where the field is absent.
    pub default: Option<Value>,
    /// Whether an explicit null is kept.
    pub nullable: bool,
    /// Allowed values; empty for any.
    pub enumeration: Vec<Value>,
    /// OpenAPI `format`, such as `int32`, `int64`, `byte`, `date-time`.
    pub format: String,
    /// Whether fields that the schema does not name are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// An embedded object with its own apiVersion, kind and metadata.
    pub embedded_resource: bool,
    /// Name of the definition in OpenAPI, such as `io.k8s.api.core.v1.PodSpec`; empty when inline.
    pub definition: String,
}

/// Type of a schema node.
#[derive(Clone, Debug, Default)]
pub enum Shape {
    /// Anything at all.
    #[default]
    Any,
    /// A string.
    String,
    /// A whole number.
    Integer,
    /// A number.
    Number,
    /// True or false.
    Boolean,
    /// A string or a whole number (`x-kubernetes-int-or-string`), or a quantity.
    IntOrString,
    /// Named fields.
    Object {
        /// The fields.
        fields: BTreeMap<String, Arc<Schema>>,
        /// Fields that must be there.
        required: Vec<String>,
        /// `x-kubernetes-map-type: atomic`.
        atomic: bool,
    },
    /// A map from strings.
    Map {
        /// Schema of each value.
        values: Arc<Schema>,
        /// `x-kubernetes-map-type: atomic`.
        atomic: bool,
    },
    /// A list.
    List {
        /// Schema of each item.
        items: Arc<Schema>,
        /// `x-kubernetes-list-type`.
        list: ListType,
        /// `x-kubernetes-patch-strategy` and merge key of strategic merge patch; they may
        /// differ from the apply keys (container ports, topology constraints).
        patch: PatchStrategy,
    },
}

/// How server-side apply owns a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum ListType {
    /// Owned whole.
    #[default]
    Atomic,
    /// Each scalar owned alone.
    Set,
    /// Each item owned alone, identified by these keys.
    Map(Vec<String>),
}

/// How strategic merge patch treats a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Merged by this key; `None` with `merge` set means a list of scalars merged as a set.
    pub merge_key: Option<String>,
    /// `merge` given.
    pub merge: bool,
    /// `retainKeys` given.
    pub retain_keys: bool,
}
