//! What a kind is made of. Must not name any particular kind.

use jiff::Timestamp;
use meta::field::ErrorList;
use meta::{Gvk, Gvr};
use object::schema::Schema;
use serde_json::Value;

/// A kind that the API serves.
pub struct Kind {
    /// API group; empty for the core group.
    pub group: &'static str,
    /// The one served version.
    pub version: &'static str,
    /// Kind, such as `Deployment`.
    pub kind: &'static str,
    /// Resource name in paths, such as `deployments`.
    pub plural: &'static str,
    /// Singular name, such as `deployment`.
    pub singular: &'static str,
    /// Short names, such as `deploy`.
    pub short_names: &'static [&'static str],
    /// Categories, such as `all`.
    pub categories: &'static [&'static str],
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Subresources that are served.
    pub subresources: &'static [Subresource],
    /// Verbs of the main resource; most kinds have [`Kind::ALL_VERBS`].
    pub verbs: &'static [&'static str],
    /// Structural schema, built at first use.
    pub schema: fn() -> &'static Schema,
    /// Printer columns after `Name`; `Age` is written out like any other.
    pub columns: &'static [Column],
    /// What a schema cannot say.
    pub strategy: &'static dyn Strategy,
    /// Field labels that field selectors may use besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: &'static [&'static str],
}

impl Kind {
    /// All verbs of an ordinary resource.
    pub const ALL_VERBS: &'static [&'static str] = &[
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "update",
        "watch",
    ];

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk::of(self.group, self.version, self.kind)
    }

    /// Group, version and resource.
    pub fn gvr(&self) -> Gvr {
        Gvr::of(self.group, self.version, self.plural)
    }

    /// Whether objects live in namespaces.
    pub fn namespaced(&self) -> bool {
        self.scope == Scope::Namespaced
    }

    /// Whether the `status` subresource is served, and so apart from the main resource.
    pub fn has_status(&self) -> bool {
        self.subresources.iter().any(|s| matches!(s, Subresource::Status))
    }
}

/// Where objects of a kind live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In a namespace.
    Namespaced,
    /// In the cluster.
    Cluster,
}

/// A subresource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subresource {
    /// `status`: written apart from the rest.
    Status,
    /// `scale`: replicas as `autoscaling/v1 Scale`.
    Scale(ScalePaths),
    /// Anything with a handler of its own: `log`, `exec`, `binding`, `token` and so on.
    /// Fields: name, kind of body, verbs.
    Custom(&'static str, &'static str, &'static [&'static str]),
}

/// Where `scale` reads and writes, as dotted paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Such as `.spec.replicas`.
    pub spec_replicas: &'static str,
    /// Such as `.status.replicas`.
    pub status_replicas: &'static str,
    /// Such as `.spec.selector`; the object form or the string form.
    pub selector: &'static str,
}

/// A printer column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: &'static str,
    /// OpenAPI format; `name` for the name column.
    pub format: &'static str,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i32,
    /// For `kubectl explain` of tables.
    pub description: &'static str,
}

/// A value in a table: string, number or boolean.
pub type Cell = Value;

/// What a strategy may know of the request.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The time of the request.
    pub now: Timestamp,
    /// Namespace of the request; empty when cluster-scoped.
    pub namespace: &'a str,
    /// Name of the user.
    pub user: &'a str,
}

/// What a schema cannot say about a kind. The engine calls, in this order:
/// `prepare_*` -> (schema defaults) -> `default` -> (schema validation) -> `validate_*` -> `warnings`.
///
/// The engine itself handles metadata (names, uid, generation, timestamps,
/// resourceVersion), takes `status` away from main-resource writes and everything
/// but `status` and permitted metadata away from status writes, and raises
/// `metadata.generation` when anything outside `metadata` and `status` changed.
pub trait Strategy: Send + Sync {
    /// Drops or sets fields that clients may not choose at creation.
    fn prepare_create(&self, _ctx: &Context<'_>, _object: &mut Value) {}

    /// Drops or restores fields that clients may not change.
    fn prepare_update(&self, _ctx: &Context<'_>, _new: &mut Value, _old: &Value) {}

    /// Defaults that the schema cannot express. Must be idempotent.
    fn default(&self, _object: &mut Value) {}

    /// Checks a new object. Schema types have been checked already.
    fn validate_create(&self, _object: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Checks a change; should include what [`Strategy::validate_create`] checks where upstream does.
    fn validate_update(&self, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Checks a change made through the `status` subresource.
    fn validate_status_update(&self, _new: &Value, _old: &Value) -> ErrorList {
        ErrorList::new()
    }

    /// Checks `metadata.name`; messages as in `meta::names`.
    fn validate_name(&self, name: &str) -> Vec<String> {
        meta::names::dns1123_subdomain(name)
    }

    /// Warnings for the client, after validation passed.
    fn warnings(&self, _object: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Cells of the table row after `Name`, in the order of the kind's columns.
    fn row(&self, _object: &Value, _now: Timestamp) -> Vec<Cell> {
        Vec::new()
    }

    /// Value of a selectable field; empty when unset.
    fn field(&self, object: &Value, path: &str) -> String {
        let found = path.split('.').try_fold(object, |v, part| v.get(part));
        match found {
            Some(Value::String(s)) => s.clone(),
            None | Some(Value::Null) => String::new(),
            Some(other) => other.to_string(),
        }
    }

    /// Grace period in seconds for DELETE: `None` deletes at once. `asked` is the client's wish.
    fn delete_grace(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
}
