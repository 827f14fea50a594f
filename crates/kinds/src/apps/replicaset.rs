//! ReplicaSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use super::SCALE;
use crate::check::{immutable, not_negative};
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
        let (spec, path) = (&set["spec"], Path::new("spec"));
        not_negative(spec, &["replicas", "minReadySeconds"], &path, &mut errors);
        validate_template(spec, &path, &OWNER, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        check_status(&new["status"])
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

/// Checks the counts of a ReplicaSet, or of a ReplicationController.
pub(crate) fn check_status(status: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let counts = [
        "replicas",
        "fullyLabeledReplicas",
        "readyReplicas",
        "availableReplicas",
        "observedGeneration",
    ];
    not_negative(status, &counts, &Path::new("status"), &mut errors);
    super::check_counts(
        status,
        &[
            ("fullyLabeledReplicas", "replicas"),
            ("readyReplicas", "replicas"),
            ("availableReplicas", "replicas"),
            ("availableReplicas", "readyReplicas"),
        ],
        &mut errors,
    );
    errors
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn sets() {
        let mut good = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        ReplicaSet.default(&mut good);
        assert_eq!(good["spec"]["replicas"], 1);
        assert!(ReplicaSet.validate_create(&good).is_empty());
        let mut other = good.clone();
        other["spec"]["selector"] = json!({"matchLabels": {"a": "c"}});
        other["spec"]["template"]["spec"]["activeDeadlineSeconds"] = 5.into();
        other["spec"]["template"]["spec"]["restartPolicy"] = "Never".into();
        let errors = ReplicaSet.validate_update(&other, &good);
        expect(
            &errors,
            "spec.template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
        );
        expect(
            &errors,
            "spec.template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
        );
        expect(
            &errors,
            "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
        );
        expect(
            &errors,
            "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable",
        );
        let status = json!({"status": {"replicas": 1, "readyReplicas": 2}});
        expect(
            &ReplicaSet.validate_status_update(&status, &good),
            "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
        );
    }
}
