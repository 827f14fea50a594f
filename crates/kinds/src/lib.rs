//! The registry of built-in kinds: one file per kind. A kind is a schema plus
//! a strategy; discovery, OpenAPI, tables, storage and RBAC names are read off
//! the registry, so that adding a kind is one file and one line.
//!
//! Must not do I/O or read a clock; must not panic on any object.

mod admission;
mod apps;
mod autoscaling;
mod batch;
mod check;
mod columns;
mod core;
pub mod crd;
pub mod custom;
mod devices;
mod edit;
mod extensions;
mod facts;
mod flow;
mod groups;
mod kind;
mod kubevirt;
mod networking;
mod plain;
mod pods;
mod rbac;
pub mod resources;
mod reviews;
mod schemas;
mod storage;
pub mod versions;

pub use extensions::check_schema;
pub(crate) use kind::Declared;
pub use kind::{Cell, Column, Context, Kind, ScalePaths, Scope, Strategy, Subresource, Text};

use std::sync::{Arc, OnceLock};

/// Every built-in kind, in the order of discovery.
pub fn all() -> &'static [Arc<Kind>] {
    static ALL: OnceLock<Vec<Arc<Kind>>> = OnceLock::new();
    ALL.get_or_init(|| {
        let mut out: Vec<Declared> = Vec::new();
        out.extend(core::kinds());
        out.extend(apps::kinds());
        out.extend(batch::kinds());
        out.extend(groups::kinds());
        out.extend(admission::kinds());
        out.extend(extensions::kinds());
        out.extend(flow::kinds());
        out.extend(networking::kinds());
        out.extend(storage::kinds());
        out.extend(autoscaling::kinds());
        out.extend(devices::kinds());
        out.extend(rbac::kinds());
        out.extend(reviews::kinds());
        out.extend(crd::kinds());
        out.extend(kubevirt::kinds());
        out.into_iter().map(|declared| Arc::new(declared.into())).collect()
    })
}

/// A kind by group and resource name.
pub fn by_resource(group: &str, plural: &str) -> Option<&'static Arc<Kind>> {
    all().iter().find(|k| k.group == group && k.plural == plural)
}

/// A kind by group and kind.
pub fn by_kind(group: &str, kind: &str) -> Option<&'static Arc<Kind>> {
    all().iter().find(|k| k.group == group && k.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use object::schema::Shape;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// The kinds in every form.
    fn every() -> impl Iterator<Item = &'static Arc<Kind>> {
        all().iter().chain(versions::all().iter().map(|second| &second.kind))
    }

    #[test]
    fn names_are_unique_and_schemas_build() {
        let mut seen = std::collections::BTreeSet::new();
        for kind in all() {
            assert!(seen.insert((&kind.group, &kind.plural)), "{} twice", kind.plural);
            let schema = kind.schema();
            let typed = matches!(schema.shape, Shape::Object { .. });
            assert!(typed, "{} has no fields", kind.kind);
        }
        assert!(by_resource("apps", "deployments").is_some() && by_kind("", "Pod").is_some());
    }

    #[test]
    fn list_facts_name_fields_that_exist() {
        let mut definitions = object::openapi::Definitions::v2();
        for kind in all() {
            definitions.reference(kind.schema());
        }
        let known = |owner: &str, field: &str| {
            definitions.all.iter().any(|(name, schema)| {
                name.rsplit('.').next() == Some(owner) && schema["properties"].get(field).is_some()
            })
        };
        for fact in facts::LISTS {
            assert!(known(fact.0, fact.1), "{}.{}", fact.0, fact.1);
        }
        for (owner, field) in facts::ATOMIC_MAPS {
            assert!(known(owner, field), "{owner}.{field}");
        }
    }

    #[test]
    fn rows_fit_their_columns_and_defaults_are_idempotent() {
        let now = Timestamp::UNIX_EPOCH;
        for kind in every() {
            for object in [json!({}), json!({"metadata": {"name": "a"}, "spec": {}, "status": {}})] {
                assert_eq!(
                    kind.strategy().row(&object, now).len(),
                    kind.columns.len(),
                    "{}",
                    kind.kind
                );
                let mut once = object.clone();
                kind.strategy().default(&mut once);
                let mut twice = once.clone();
                kind.strategy().default(&mut twice);
                assert_eq!(once, twice, "{}", kind.kind);
            }
        }
    }

    fn junk() -> impl Strategy_<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "[a-z]{0,6}".prop_map(Value::from),
        ];
        let names = proptest::sample::select(vec![
            "metadata",
            "spec",
            "status",
            "template",
            "containers",
            "ports",
            "name",
            "labels",
            "selector",
            "rules",
            "volumes",
            "disks",
            "domain",
            "conditions",
            "replicas",
            "strategy",
            "data",
            "type",
            "metrics",
            "resource",
            "target",
            "devices",
            "requests",
            "webhooks",
            "versions",
            "properties",
            "items",
            "resources",
            "limits",
            "tolerations",
            "affinity",
            "env",
            "subsets",
            "annotations",
        ]);
        leaf.prop_recursive(5, 40, 5, move |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    use proptest::strategy::Strategy as Strategy_;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn no_strategy_panics_on_junk(object in junk(), other in junk()) {
            let context = Context { now: Timestamp::UNIX_EPOCH, namespace: "n", user: "u" };
            for second in versions::all() {
                let stored = (second.to_stored)(object.clone());
                let _ = (second.from_stored)(stored);
            }
            for kind in every() {
                let mut new = object.clone();
                kind.strategy().prepare_create(&context, &mut new);
                kind.strategy().prepare_update(&context, &mut new, &other);
                kind.strategy().default(&mut new);
                let _ = kind.strategy().validate_create(&new);
                let _ = kind.strategy().validate_update(&new, &other);
                let _ = kind.strategy().validate_status_update(&new, &other);
                let _ = kind.strategy().warnings(&new);
                let _ = kind.strategy().row(&new, Timestamp::UNIX_EPOCH);
                let _ = kind.strategy().delete_grace(&new, None);
                let _ = kind.strategy().field(&new, "status.phase");
            }
        }
    }
}
