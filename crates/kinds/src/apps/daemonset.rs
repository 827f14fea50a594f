//! DaemonSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::columns::{AGE, age, column, containers, labels, selector, wide};
use crate::edit::{default, default_text, int, object, text};
use crate::pods::{Owner, default_template, validate_template};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const { &[Subresource::Status] },
        ..super::apps_kind("DaemonSet", "daemonsets", "daemonset", &["ds"]).with(
            typed::<v1::DaemonSet>,
            const {
                &[
                    column("Desired", "integer"),
                    column("Current", "integer"),
                    column("Ready", "integer"),
                    column("Up-to-date", "integer"),
                    column("Available", "integer"),
                    column("Node Selector", "string"),
                    AGE,
                    wide("Containers", "string"),
                    wide("Images", "string"),
                    wide("Selector", "string"),
                ]
            },
            &DaemonSet,
        )
    }
}

/// What upstream's messages call it.
const OWNER: Owner = Owner {
    kind: "DaemonSet",
    selector: "daemonset",
};

struct DaemonSet;

impl Strategy for DaemonSet {
    fn default(&self, set: &mut Value) {
        let Some(spec) = object(set, "spec") else { return };
        default(spec, "revisionHistoryLimit", 10);
        if let Some(strategy) = object(spec, "updateStrategy") {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", 1);
                default(rolling, "maxSurge", 0);
            }
        }
        default_template(spec);
        if let Some(status) = object(set, "status") {
            for field in [
                "currentNumberScheduled",
                "desiredNumberScheduled",
                "numberMisscheduled",
                "numberReady",
            ] {
                default(status, field, 0);
            }
        }
    }

    fn validate_create(&self, set: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_template(&set["spec"], &Path::new("spec"), &OWNER, &mut errors);
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
        let count = |field: &str| -> Cell { int(set, &format!("/status/{field}")).into() };
        vec![
            count("desiredNumberScheduled"),
            count("currentNumberScheduled"),
            count("numberReady"),
            count("updatedNumberScheduled"),
            count("numberAvailable"),
            labels(set.pointer("/spec/template/spec/nodeSelector")).into(),
            age(set, now),
            names.into(),
            images.into(),
            selector(set.pointer("/spec/selector")),
        ]
    }
}
