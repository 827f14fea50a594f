//! StatefulSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use super::SCALE;
use crate::columns::{AGE, age, column, containers, wide};
use crate::edit::{default, default_text, int, items_mut, object, text};
use crate::pods::{Owner, default_template, validate_template};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const { &[Subresource::Status, Subresource::Scale(SCALE)] },
        ..super::apps_kind("StatefulSet", "statefulsets", "statefulset", &["sts"]).with(
            typed::<v1::StatefulSet>,
            const {
                &[
                    column("Ready", "string"),
                    AGE,
                    wide("Containers", "string"),
                    wide("Images", "string"),
                ]
            },
            &StatefulSet,
        )
    }
}

/// What upstream's messages call it.
const OWNER: Owner = Owner {
    kind: "StatefulSet",
    selector: "statefulset",
};

struct StatefulSet;

/// Fields of the spec that may change.
const MUTABLE: [&str; 8] = [
    "replicas",
    "template",
    "updateStrategy",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
    "ordinals",
    "revisionHistoryLimit",
    "podManagementPolicy",
];

impl Strategy for StatefulSet {
    fn default(&self, set: &mut Value) {
        let Some(spec) = object(set, "spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default_text(spec, "podManagementPolicy", "OrderedReady");
        if let Some(strategy) = object(spec, "updateStrategy") {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                default(rolling, "partition", 0);
            }
        }
        default(
            spec,
            "persistentVolumeClaimRetentionPolicy",
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"}),
        );
        for claim in items_mut(spec, "volumeClaimTemplates") {
            default(claim, "apiVersion", "v1");
            default(claim, "kind", "PersistentVolumeClaim");
            if let Some(spec) = object(claim, "spec") {
                default_text(spec, "volumeMode", "Filesystem");
            }
            default(claim, "status", json!({"phase": "Pending"}));
        }
        default_template(spec);
        if let Some(status) = object(set, "status") {
            default(status, "replicas", 0);
        }
    }

    fn validate_create(&self, set: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&set["spec"], Path::new("spec"));
        validate_template(spec, &path, &OWNER, &mut errors);
        if let Some(n) = spec["replicas"].as_i64().filter(|n| *n < 0) {
            errors.invalid(&path.child("replicas"), n, "must be greater than or equal to 0");
        }
        let policy = text(spec, "podManagementPolicy");
        if !["OrderedReady", "Parallel"].contains(&policy) {
            errors.not_supported(
                &path.child("podManagementPolicy"),
                policy,
                &["OrderedReady", "Parallel"],
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let rest = |set: &Value| {
            let mut spec = set["spec"].clone();
            MUTABLE.iter().for_each(|f| crate::edit::drop(&mut spec, f));
            spec
        };
        if rest(new) != rest(old) {
            errors.forbidden(
                &Path::new("spec"),
                "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', \
                 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
            );
        }
        errors
    }

    fn row(&self, set: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(set.pointer("/spec/template/spec"));
        vec![
            format!("{}/{}", int(set, "/status/readyReplicas"), int(set, "/spec/replicas")).into(),
            age(set, now),
            names.into(),
            images.into(),
        ]
    }
}
