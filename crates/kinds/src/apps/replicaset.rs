//! ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use super::SCALE;
use crate::columns::{AGE, age, column, containers, selector, wide};
use crate::edit::{default, int, object};
use crate::pods::{Owner, default_template, validate_template};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const { &[Subresource::Status, Subresource::Scale(SCALE)] },
        selectable_fields: &["status.replicas"],
        ..super::apps_kind("ReplicaSet", "replicasets", "replicaset", &["rs"]).with(
            typed::<v1::ReplicaSet>,
            const {
                &[
                    column("Desired", "integer"),
                    column("Current", "integer"),
                    column("Ready", "integer"),
                    AGE,
                    wide("Containers", "string"),
                    wide("Images", "string"),
                    wide("Selector", "string"),
                ]
            },
            &ReplicaSet,
        )
    }
}

/// What upstream's messages call it.
const OWNER: Owner = Owner {
    kind: "ReplicaSet",
    selector: "deployment",
};

struct ReplicaSet;

impl Strategy for ReplicaSet {
    fn default(&self, set: &mut Value) {
        if let Some(spec) = object(set, "spec") {
            default(spec, "replicas", 1);
            default_template(spec);
        }
        if let Some(status) = object(set, "status") {
            default(status, "replicas", 0);
        }
    }

    fn validate_create(&self, set: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        validate_template(&set["spec"], &path, &OWNER, &mut errors);
        if let Some(n) = set["spec"]["replicas"].as_i64().filter(|n| *n < 0) {
            errors.invalid(&path.child("replicas"), n, "must be greater than or equal to 0");
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["spec"]["selector"] != old["spec"]["selector"] {
            errors.invalid(
                &Path::new("spec").child("selector"),
                new["spec"]["selector"].clone(),
                "field is immutable",
            );
        }
        errors
    }

    fn row(&self, set: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(set.pointer("/spec/template/spec"));
        vec![
            int(set, "/spec/replicas").into(),
            int(set, "/status/replicas").into(),
            int(set, "/status/readyReplicas").into(),
            age(set, now),
            names.into(),
            images.into(),
            selector(set.pointer("/spec/selector")),
        ]
    }
}
