//! Structural schemas: the shape of a kind's objects, with Kubernetes' extensions.

use std::collections::BTreeMap;
use std::sync::Arc;

use meta::Gvk;
use serde_json::Value;

use crate::rules::Rules;

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
    /// What the definition itself says, where [`Schema::description`] speaks of the field
    /// that refers to it; empty to use the latter.
    pub definition_description: String,
    /// `x-kubernetes-group-version-kind` of the definition.
    pub gvks: Vec<Gvk>,
    /// `x-kubernetes-patch-strategy: retainKeys` on an object.
    pub retain_keys: bool,
    /// Validations beyond type, required and enum; built-in kinds have none.
    pub rules: Option<Box<Rules>>,
}

/// The schema of anything.
pub static ANY: Schema = Schema {
    shape: Shape::Any,
    description: String::new(),
    default: None,
    nullable: true,
    enumeration: Vec::new(),
    format: String::new(),
    preserve_unknown: true,
    embedded_resource: false,
    definition: String::new(),
    definition_description: String::new(),
    gvks: Vec::new(),
    retain_keys: false,
    rules: None,
};

impl Schema {
    /// A schema of a shape, with nothing else said.
    pub fn of(shape: Shape) -> Self {
        Schema {
            shape,
            ..Schema::default()
        }
    }

    /// The schema of a field: of a named field, or of a map's value. `None` when unknown.
    pub fn field(&self, name: &str) -> Option<&Schema> {
        match &self.shape {
            Shape::Object { fields, .. } => fields.get(name).map(|s| &**s),
            Shape::Map { values, .. } => Some(values),
            _ => None,
        }
    }

    /// The schema of a list's items.
    pub fn items(&self) -> Option<&Schema> {
        match &self.shape {
            Shape::List { items, .. } => Some(items),
            _ => None,
        }
    }

    /// The node at a dotted path such as `spec.template.spec.containers.image`; lists are
    /// stepped into without being named, and a leading dot is ignored.
    pub fn at(&self, path: &str) -> Option<&Schema> {
        let parts = path.split('.').filter(|p| !p.is_empty());
        parts.into_iter().try_fold(self, |node, part| {
            let mut node = node;
            while let Some(items) = node.items() {
                node = items;
            }
            node.field(part)
        })
    }

    /// Whether the node is owned and merged whole.
    pub fn is_atomic(&self) -> bool {
        match &self.shape {
            Shape::Object { atomic, .. } | Shape::Map { atomic, .. } => *atomic,
            Shape::List { list, .. } => *list == ListType::Atomic,
            _ => false,
        }
    }

    /// Calls `visit` with the dotted path and the schema of every node, parents first.
    /// Map values are `*`, list items `[]`.
    pub fn walk(&self, visit: &mut dyn FnMut(&str, &Schema)) {
        self.walk_from(&mut String::new(), visit);
    }

    fn walk_from(&self, path: &mut String, visit: &mut dyn FnMut(&str, &Schema)) {
        visit(path, self);
        let at = path.len();
        let mut step = |part: &str, node: &Schema, path: &mut String| {
            if at > 0 && part != "[]" {
                path.push('.');
            }
            path.push_str(part);
            node.walk_from(path, visit);
            path.truncate(at);
        };
        match &self.shape {
            Shape::Object { fields, .. } => fields.iter().for_each(|(name, node)| step(name, node, path)),
            Shape::Map { values, .. } => step("*", values, path),
            Shape::List { items, .. } => step("[]", items, path),
            _ => {}
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::schema;

    #[test]
    fn nodes_are_found_by_path() {
        let s = schema();
        assert!(matches!(
            s.at(".spec.items.image").map(|n| &n.shape),
            Some(Shape::String)
        ));
        assert!(matches!(
            s.at("metadata.labels.anything").map(|n| &n.shape),
            Some(Shape::String)
        ));
        assert!(s.at("spec.nothing").is_none());
        assert!(s.at("spec.replicas.deeper").is_none());
        assert!(s.at("").is_some_and(|root| root.field("spec").is_some()));
        assert!(s.at("spec.items.args").is_some_and(Schema::is_atomic));
    }

    #[test]
    fn a_walk_meets_every_node_once() {
        let mut paths = Vec::new();
        schema().walk(&mut |path, _| paths.push(path.to_owned()));
        for path in [
            "",
            "metadata.labels.*",
            "spec.items",
            "spec.items[]",
            "spec.items[].args[]",
        ] {
            assert_eq!(paths.iter().filter(|p| *p == path).count(), 1, "{path}");
        }
    }
}
