//! Namespace.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::names;
use serde_json::{Value, json};

use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{object, set, text};
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Scope, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        scope: Scope::Cluster,
        verbs: &["create", "delete", "get", "list", "patch", "update", "watch"],
        subresources: const {
            &[
                Subresource::Status,
                Subresource::Custom("finalize", "Namespace", &["update"]),
            ]
        },
        selectable_fields: &["status.phase"],
        ..super::core_kind("Namespace", "namespaces", "namespace", &["ns"]).with(
            typed::<v1::Namespace>,
            const { &[column("Status", "string"), AGE] },
            &Namespace,
        )
    }
}

struct Namespace;

impl Strategy for Namespace {
    fn prepare_create(&self, _: &Context<'_>, namespace: &mut Value) {
        set(namespace, "status", json!({"phase": "Active"}));
        if let Some(spec) = object(namespace, "spec") {
            set(spec, "finalizers", json!(["kubernetes"]));
        }
    }

    fn prepare_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        // Finalizers of the spec change through `finalize` alone.
        if let Some(spec) = old.get("spec") {
            set(new, "spec", spec.clone());
        }
    }

    fn default(&self, namespace: &mut Value) {
        let name = namespace
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        if !name.is_empty()
            && let Some(labels) = object(namespace, "metadata").and_then(|m| object(m, "labels"))
            && text(labels, "kubernetes.io/metadata.name") != name
        {
            set(labels, "kubernetes.io/metadata.name", name);
        }
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1123_label(name)
    }

    fn row(&self, namespace: &Value, now: Timestamp) -> Vec<Cell> {
        vec![text_or_none(namespace, "/status/phase"), age(namespace, now)]
    }
}
