//! DaemonSet.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::check::{amount, has, immutable, not_negative, not_over_100, percent, show};
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

/// On a node there is either one pod too few for a while, or one too many: not both.
fn check_daemons(rolling: &Value, at: &Path, errors: &mut ErrorList) {
    let (missing, more) = (&rolling["maxUnavailable"], &rolling["maxSurge"]);
    for (field, value) in [("maxUnavailable", missing), ("maxSurge", more)] {
        amount(value, &at.child(field), errors);
        not_over_100(value, &at.child(field), errors);
    }
    let some = |v: &Value| v.as_i64().or(percent(v)).is_some_and(|n| n != 0);
    if some(missing) && some(more) {
        let words = "may not be set when maxUnavailable is non-zero";
        errors.invalid(&at.child("maxSurge"), show(more), words);
    }
    if !some(missing) && !some(more) {
        let words = "cannot be 0 when maxSurge is 0";
        errors.invalid(&at.child("maxUnavailable"), show(missing), words);
    }
}

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
        let (spec, path) = (&set["spec"], Path::new("spec"));
        validate_template(spec, &path, &OWNER, &mut errors);
        not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, &mut errors);
        let (strategy, at) = (&spec["updateStrategy"], path.child("updateStrategy"));
        match text(strategy, "type") {
            "OnDelete" => {}
            "RollingUpdate" if has(strategy, "rollingUpdate") => {
                check_daemons(&strategy["rollingUpdate"], &at.child("rollingUpdate"), &mut errors);
            }
            "RollingUpdate" => errors.required(&at.child("rollingUpdate"), ""),
            other => errors.not_supported(&at.child("type"), other, &["RollingUpdate", "OnDelete"]),
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let counts = [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
            "collisionCount",
        ];
        not_negative(&new["status"], &counts, &Path::new("status"), &mut errors);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn sets() {
        let mut good = json!({"spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "c", "image": "i"}]}}}});
        DaemonSet.default(&mut good);
        assert_eq!(
            good["spec"]["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}})
        );
        assert_eq!(good["spec"]["revisionHistoryLimit"], 10);
        assert!(DaemonSet.validate_create(&good).is_empty());
        for (rolling, words) in [
            (
                json!({"maxUnavailable": 1, "maxSurge": 1}),
                "rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
            ),
            (
                json!({"maxUnavailable": 0, "maxSurge": 0}),
                "rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0 when maxSurge is 0",
            ),
            (json!({"maxUnavailable": "101%"}), "must not be greater than 100%"),
        ] {
            let mut set = good.clone();
            set["spec"]["updateStrategy"]["rollingUpdate"] = rolling;
            expect(&DaemonSet.validate_create(&set), words);
        }
        let mut set = good.clone();
        set["spec"]["selector"] = json!({});
        expect(
            &DaemonSet.validate_update(&set, &good),
            "empty selector is invalid for daemonset",
        );
    }
}
