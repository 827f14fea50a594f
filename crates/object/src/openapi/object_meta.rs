//! The schema of `ObjectMeta`, for custom resources and embedded objects, whose own
//! schemas need not spell it. Must follow `meta/v1 ObjectMeta`.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use crate::schema::{ListType, PatchStrategy, Schema, Shape};

/// Adds apiVersion, kind and metadata to an object's schema. What a definition says of
/// `metadata` can only narrow its name, so the full schema replaces it.
pub(super) fn add_to(schema: &mut Schema) {
    if !matches!(schema.shape, Shape::Object { .. } | Shape::Map { .. }) {
        schema.shape = Shape::Object {
            fields: BTreeMap::new(),
            required: Vec::new(),
            atomic: false,
        };
    }
    if let Shape::Map { .. } = schema.shape {
        return;
    }
    if let Shape::Object { fields, .. } = &mut schema.shape {
        for name in ["apiVersion", "kind"] {
            fields.entry(name.into()).or_insert_with(|| leaf(Shape::String));
        }
        fields.insert("metadata".into(), object_meta());
    }
}

/// `ObjectMeta`.
pub fn object_meta() -> Arc<Schema> {
    static SCHEMA: OnceLock<Arc<Schema>> = OnceLock::new();
    SCHEMA.get_or_init(build).clone()
}

fn leaf(shape: Shape) -> Arc<Schema> {
    Arc::new(Schema::of(shape))
}

fn formatted(shape: Shape, format: &str) -> Arc<Schema> {
    Arc::new(Schema {
        format: format.into(),
        ..Schema::of(shape)
    })
}

fn object(fields: Vec<(&str, Arc<Schema>)>, required: &[&str], atomic: bool, definition: &str) -> Schema {
    let fields = fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let required = required.iter().map(|r| (*r).to_owned()).collect();
    let definition = format!("io.k8s.apimachinery.pkg.apis.meta.v1.{definition}");
    Schema {
        definition,
        ..Schema::of(Shape::Object {
            fields,
            required,
            atomic,
        })
    }
}

fn string() -> Arc<Schema> {
    leaf(Shape::String)
}

fn time() -> Arc<Schema> {
    formatted(Shape::String, "date-time")
}

fn merged(merge_key: Option<&str>) -> PatchStrategy {
    PatchStrategy {
        merge_key: merge_key.map(str::to_owned),
        merge: true,
        retain_keys: false,
    }
}

fn owner_references() -> Arc<Schema> {
    let owner = object(
        vec![
            ("apiVersion", string()),
            ("kind", string()),
            ("name", string()),
            ("uid", string()),
            ("controller", leaf(Shape::Boolean)),
            ("blockOwnerDeletion", leaf(Shape::Boolean)),
        ],
        &["apiVersion", "kind", "name", "uid"],
        true,
        "OwnerReference",
    );
    leaf(Shape::List {
        items: Arc::new(owner),
        list: ListType::Map(vec!["uid".into()]),
        patch: merged(Some("uid")),
    })
}

fn managed_fields() -> Arc<Schema> {
    let entry = object(
        vec![
            ("manager", string()),
            ("operation", string()),
            ("apiVersion", string()),
            ("time", time()),
            ("fieldsType", string()),
            ("fieldsV1", Arc::new(crate::schema::ANY.clone())),
            ("subresource", string()),
        ],
        &[],
        false,
        "ManagedFieldsEntry",
    );
    leaf(Shape::List {
        items: Arc::new(entry),
        list: ListType::Atomic,
        patch: PatchStrategy::default(),
    })
}

fn build() -> Arc<Schema> {
    let int64 = || formatted(Shape::Integer, "int64");
    let strings = || {
        leaf(Shape::Map {
            values: string(),
            atomic: false,
        })
    };
    let finalizers = Shape::List {
        items: string(),
        list: ListType::Set,
        patch: merged(None),
    };
    let fields = vec![
        ("annotations", strings()),
        ("creationTimestamp", time()),
        ("deletionGracePeriodSeconds", int64()),
        ("deletionTimestamp", time()),
        ("finalizers", leaf(finalizers)),
        ("generateName", string()),
        ("generation", int64()),
        ("labels", strings()),
        ("managedFields", managed_fields()),
        ("name", string()),
        ("namespace", string()),
        ("ownerReferences", owner_references()),
        ("resourceVersion", string()),
        ("selfLink", string()),
        ("uid", string()),
    ];
    Arc::new(object(fields, &[], false, "ObjectMeta"))
}
