//! StatefulSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use super::SCALE;
use crate::check::{amount, must_be_one_of, named, not_negative, not_over_100, one_of};
use crate::columns::{AGE, age, column, containers, wide};
use crate::edit::{default, default_text, int, items, items_mut, object, text};
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

fn check_strategy(strategy: &Value, at: &Path, errors: &mut ErrorList) {
    let rolling = &strategy["rollingUpdate"];
    let place = at.child("rollingUpdate");
    match text(strategy, "type") {
        "" => errors.required(at, ""),
        "OnDelete" if !rolling.is_null() => {
            errors.invalid(&place, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        "OnDelete" => {}
        "RollingUpdate" => {
            not_negative(rolling, &["partition"], &place, errors);
            let at = place.child("maxUnavailable");
            amount(&rolling["maxUnavailable"], &at, errors);
            if rolling["maxUnavailable"].as_i64() == Some(0) {
                errors.invalid(&at, 0, "cannot be 0");
            }
            not_over_100(&rolling["maxUnavailable"], &at, errors);
        }
        other => errors.invalid(
            at,
            strategy,
            format!("must be 'RollingUpdate' or 'OnDelete', not {}", quoted(other)),
        ),
    }
}

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
        must_be_one_of(
            spec,
            "podManagementPolicy",
            &["OrderedReady", "Parallel"],
            &path,
            &mut errors,
        );
        check_strategy(&spec["updateStrategy"], &path.child("updateStrategy"), &mut errors);
        let at = path.child("persistentVolumeClaimRetentionPolicy");
        for field in ["whenDeleted", "whenScaled"] {
            let policy = &spec["persistentVolumeClaimRetentionPolicy"];
            one_of(policy, field, &["Delete", "Retain"], &at, &mut errors);
        }
        not_negative(
            spec,
            &["replicas", "minReadySeconds", "revisionHistoryLimit"],
            &path,
            &mut errors,
        );
        not_negative(&spec["ordinals"], &["start"], &path.child("ordinals"), &mut errors);
        validate_template(spec, &path, &OWNER, &mut errors);
        for (i, claim) in items(spec, "volumeClaimTemplates").enumerate() {
            let at = path.child("volumeClaimTemplates").index(i);
            let name = text(&claim["metadata"], "name");
            if !name.is_empty() {
                let at = at.child("metadata").child("name");
                named(name, meta::names::dns1123_subdomain, &at, &mut errors);
            }
            crate::core::check_claim_spec(&claim["spec"], &at.child("spec"), &mut errors);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let status = &new["status"];
        let counts = [
            "replicas",
            "readyReplicas",
            "currentReplicas",
            "updatedReplicas",
            "observedGeneration",
            "collisionCount",
            "availableReplicas",
        ];
        not_negative(status, &counts, &Path::new("status"), &mut errors);
        super::check_counts(
            status,
            &[
                ("readyReplicas", "replicas"),
                ("currentReplicas", "replicas"),
                ("updatedReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "readyReplicas"),
            ],
            &mut errors,
        );
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        meta::names::dns1123_label(name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    #[test]
    fn sets() {
        let mut good = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}, "volumeClaimTemplates": [{"metadata": {"name": "d"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}]}});
        StatefulSet.default(&mut good);
        let spec = &good["spec"];
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert!(StatefulSet.validate_create(&good).is_empty());
        for (field, value, words) in [
            (
                "podManagementPolicy",
                json!("X"),
                "spec.podManagementPolicy: Unsupported value: \"X\": supported values: \"OrderedReady\", \"Parallel\"",
            ),
            (
                "replicas",
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                "updateStrategy",
                json!({"type": "OnDelete", "rollingUpdate": {}}),
                "only allowed for updateStrategy 'RollingUpdate'",
            ),
            (
                "volumeClaimTemplates",
                json!([{"spec": {}}]),
                "spec.volumeClaimTemplates[0].spec.accessModes: Required value: at least 1 access mode is required",
            ),
        ] {
            let mut set = good.clone();
            set["spec"][field] = value;
            expect(&StatefulSet.validate_create(&set), words);
        }
        let mut other = good.clone();
        other["spec"]["serviceName"] = "x".into();
        expect(
            &StatefulSet.validate_update(&other, &good),
            "spec: Forbidden: updates to statefulset spec for fields other than 'replicas'",
        );
    }
}
