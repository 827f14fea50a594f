//! What a kind is made of. Must not name any particular kind.

use std::borrow::Cow;
use std::sync::Arc;

use jiff::Timestamp;
use meta::field::ErrorList;
use meta::{Gvk, Gvr};
use object::schema::Schema;
use serde_json::Value;

/// Text that is known at compile time, or belongs to a custom resource.
pub type Text = Cow<'static, str>;

/// A kind that the API serves: built in, or made from a custom resource's definition.
#[derive(Clone)]
pub struct Kind {
    /// API group; empty for the core group.
    pub group: Text,
    /// The served version.
    pub version: Text,
    /// Kind, such as `Deployment`.
    pub kind: Text,
    /// Kind of lists, such as `DeploymentList`.
    pub list_kind: Text,
    /// Resource name in paths, such as `deployments`.
    pub plural: Text,
    /// Singular name, such as `deployment`.
    pub singular: Text,
    /// Short names, such as `deploy`.
    pub short_names: Vec<Text>,
    /// Categories, such as `all`.
    pub categories: Vec<Text>,
    /// Namespaced or cluster-wide.
    pub scope: Scope,
    /// Subresources that are served.
    pub subresources: Vec<Subresource>,
    /// Verbs of the main resource; most kinds have [`Kind::ALL_VERBS`].
    pub verbs: &'static [&'static str],
    /// Printer columns after `Name`; `Age` is written out like any other.
    pub columns: Vec<Column>,
    /// Field labels that field selectors may use besides `metadata.name` and `metadata.namespace`.
    pub selectable_fields: Vec<Text>,
    /// Whether a definition made it: no strategic merge, no protobuf, and generations count always.
    pub custom: bool,
    schema: SchemaOf,
    strategy: StrategyOf,
}

#[derive(Clone)]
enum StrategyOf {
    BuiltIn(&'static dyn Strategy),
    Custom(Arc<dyn Strategy>),
}

/// A schema that is built at first use, or one of a custom resource.
#[derive(Clone)]
enum SchemaOf {
    BuiltIn(fn() -> &'static Schema),
    Custom(Arc<Schema>),
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

    /// A custom resource: its names, schema and strategy; the rest is empty and may be set.
    pub fn custom(gvk: &Gvk, plural: &str, scope: Scope, schema: Arc<Schema>, strategy: Arc<dyn Strategy>) -> Self {
        Kind {
            group: gvk.group.clone(),
            version: gvk.version.clone(),
            kind: gvk.kind.clone(),
            list_kind: format!("{}List", gvk.kind).into(),
            plural: plural.to_owned().into(),
            singular: gvk.kind.to_lowercase().into(),
            short_names: Vec::new(),
            categories: Vec::new(),
            scope,
            subresources: Vec::new(),
            verbs: Kind::ALL_VERBS,
            columns: Vec::new(),
            selectable_fields: Vec::new(),
            custom: true,
            schema: SchemaOf::Custom(schema),
            strategy: StrategyOf::Custom(strategy),
        }
    }

    /// Structural schema.
    pub fn schema(&self) -> &Schema {
        match &self.schema {
            SchemaOf::BuiltIn(build) => build(),
            SchemaOf::Custom(schema) => schema,
        }
    }

    /// What a schema cannot say.
    pub fn strategy(&self) -> &dyn Strategy {
        match &self.strategy {
            StrategyOf::BuiltIn(strategy) => *strategy,
            StrategyOf::Custom(strategy) => &**strategy,
        }
    }

    /// Group, version and kind.
    pub fn gvk(&self) -> Gvk {
        Gvk {
            group: self.group.clone(),
            version: self.version.clone(),
            kind: self.kind.clone(),
        }
    }

    /// Group, version and resource.
    pub fn gvr(&self) -> Gvr {
        Gvr {
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.plural.clone(),
        }
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

impl From<Declared> for Kind {
    fn from(declared: Declared) -> Self {
        let texts = |list: &'static [&'static str]| list.iter().copied().map(Text::Borrowed).collect();
        Kind {
            group: declared.group.into(),
            version: declared.version.into(),
            kind: declared.kind.into(),
            list_kind: format!("{}List", declared.kind).into(),
            plural: declared.plural.into(),
            singular: declared.singular.into(),
            short_names: texts(declared.short_names),
            categories: texts(declared.categories),
            scope: declared.scope,
            subresources: declared.subresources.to_vec(),
            verbs: declared.verbs,
            columns: declared.columns.to_vec(),
            selectable_fields: texts(declared.selectable_fields),
            custom: false,
            schema: SchemaOf::BuiltIn(declared.schema),
            strategy: StrategyOf::BuiltIn(declared.strategy),
        }
    }
}

/// A built-in kind as its file writes it down.
pub(crate) struct Declared {
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
    /// Verbs of the main resource.
    pub verbs: &'static [&'static str],
    /// Structural schema, built at first use.
    pub schema: fn() -> &'static Schema,
    /// Printer columns after `Name`.
    pub columns: &'static [Column],
    /// What a schema cannot say.
    pub strategy: &'static dyn Strategy,
    /// Field labels that field selectors may use.
    pub selectable_fields: &'static [&'static str],
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScalePaths {
    /// Such as `.spec.replicas`.
    pub spec_replicas: Text,
    /// Such as `.status.replicas`.
    pub status_replicas: Text,
    /// Such as `.spec.selector`; the object form or the string form.
    pub selector: Text,
}

/// A printer column.
#[derive(Clone, Debug)]
pub struct Column {
    /// Heading.
    pub name: Text,
    /// `string`, `integer`, `date`, `boolean`, `number`.
    pub kind: Text,
    /// OpenAPI format; `name` for the name column.
    pub format: Text,
    /// 0 shows always, 1 with `-o wide`.
    pub priority: i32,
    /// For `kubectl explain` of tables.
    pub description: Text,
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

    /// The cell under `Name`; `None` for kinds whose tables have no such column.
    fn name_cell(&self, object: &Value) -> Option<Cell> {
        let name = object.pointer("/metadata/name").cloned();
        Some(name.unwrap_or_default())
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

    /// Finalizers that DELETE adds to an object, for what must be cleared away before it goes.
    fn delete_finalizers(&self) -> &'static [&'static str] {
        &[]
    }

    /// Grace period in seconds for DELETE: `None` deletes at once. `asked` is the client's wish.
    fn delete_grace(&self, _object: &Value, _asked: Option<i64>) -> Option<i64> {
        None
    }
}
