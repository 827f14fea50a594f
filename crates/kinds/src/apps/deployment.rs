//! Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use super::{SCALE, check_counts, check_rolling};
use crate::check::{immutable, not_negative};
use crate::columns::{AGE, age, column, containers, selector, wide};
use crate::edit::{default, default_text, int, object, text};
use crate::pods::{Owner, default_template, validate_template};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const { &[Subresource::Status, Subresource::Scale(SCALE)] },
        ..super::apps_kind("Deployment", "deployments", "deployment", &["deploy"]).with(
            typed::<v1::Deployment>,
            const {
                &[
                    column("Ready", "string"),
                    column("Up-to-date", "string"),
                    column("Available", "string"),
                    AGE,
                    wide("Containers", "string"),
                    wide("Images", "string"),
                    wide("Selector", "string"),
                ]
            },
            &Deployment,
        )
    }
}

/// What upstream's messages call it.
const OWNER: Owner = Owner {
    kind: "ReplicaSet",
    selector: "deployment",
};

struct Deployment;

impl Strategy for Deployment {
    fn default(&self, deployment: &mut Value) {
        let Some(spec) = object(deployment, "spec") else { return };
        default(spec, "replicas", 1);
        default(spec, "revisionHistoryLimit", 10);
        default(spec, "progressDeadlineSeconds", 600);
        if let Some(strategy) = object(spec, "strategy") {
            default_text(strategy, "type", "RollingUpdate");
            if text(strategy, "type") == "RollingUpdate"
                && let Some(rolling) = object(strategy, "rollingUpdate")
            {
                default(rolling, "maxUnavailable", "25%");
                default(rolling, "maxSurge", "25%");
            }
        }
        default_template(spec);
    }

    fn validate_create(&self, deployment: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&deployment["spec"], Path::new("spec"));
        not_negative(spec, &["replicas"], &path, &mut errors);
        validate_template(spec, &path, &OWNER, &mut errors);
        validate_strategy(&spec["strategy"], &path.child("strategy"), &mut errors);
        not_negative(spec, &["minReadySeconds", "revisionHistoryLimit"], &path, &mut errors);
        if let Some(deadline) = spec["progressDeadlineSeconds"].as_i64() {
            let at = path.child("progressDeadlineSeconds");
            not_negative(spec, &["progressDeadlineSeconds"], &path, &mut errors);
            if deadline <= int(spec, "/minReadySeconds") {
                errors.invalid(&at, deadline, "must be greater than minReadySeconds");
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("selector");
        immutable(&new["spec"]["selector"], &old["spec"]["selector"], &at, &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (status, path) = (&new["status"], Path::new("status"));
        let counts = [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ];
        not_negative(status, &counts, &path, &mut errors);
        check_counts(
            status,
            &[
                ("updatedReplicas", "replicas"),
                ("readyReplicas", "replicas"),
                ("availableReplicas", "replicas"),
                ("availableReplicas", "readyReplicas"),
            ],
            &mut errors,
        );
        let collisions = |d: &Value| int(d, "/status/collisionCount");
        if collisions(new) < collisions(old) {
            errors.invalid(&path.child("collisionCount"), collisions(new), "cannot be decremented");
        }
        errors
    }

    fn row(&self, deployment: &Value, now: Timestamp) -> Vec<Cell> {
        let (names, images) = containers(deployment.pointer("/spec/template/spec"));
        vec![
            format!(
                "{}/{}",
                int(deployment, "/status/readyReplicas"),
                int(deployment, "/spec/replicas")
            )
            .into(),
            int(deployment, "/status/updatedReplicas").into(),
            int(deployment, "/status/availableReplicas").into(),
            age(deployment, now),
            names.into(),
            images.into(),
            selector(deployment.pointer("/spec/selector")),
        ]
    }
}

fn validate_strategy(strategy: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = text(strategy, "type");
    let rolling = strategy.get("rollingUpdate").filter(|r| !r.is_null());
    match kind {
        "Recreate" if rolling.is_some() => errors.forbidden(
            &path.child("rollingUpdate"),
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        "Recreate" => {}
        "RollingUpdate" => match rolling {
            Some(rolling) => check_rolling(rolling, &path.child("rollingUpdate"), errors),
            None => errors.required(
                &path.child("rollingUpdate"),
                "this should be defaulted and never be nil",
            ),
        },
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn deployment() -> Value {
        let mut d = json!({"spec": {
            "selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }});
        Deployment.default(&mut d);
        d
    }

    #[test]
    fn a_plain_deployment_is_filled_in_and_fine() {
        let d = deployment();
        assert_eq!(
            d["spec"]["strategy"]["rollingUpdate"],
            json!({"maxUnavailable": "25%", "maxSurge": "25%"})
        );
        assert_eq!(d["spec"]["template"]["spec"]["restartPolicy"], "Always");
        assert!(
            Deployment.validate_create(&d).is_empty(),
            "{}",
            Deployment.validate_create(&d)
        );
    }

    #[test]
    fn errors() {
        let with = |p: &str, v: Value| {
            let mut d = deployment();
            *d.pointer_mut(p).unwrap() = v;
            Deployment.validate_create(&d).to_string()
        };
        assert!(with("/spec/replicas", json!(-1)).contains("spec.replicas: Invalid value: -1"));
        assert!(
            with("/spec/template/metadata/labels", json!({"a": "x"}))
                .contains("`selector` does not match template `labels`")
        );
        let zero = json!({"maxUnavailable": 0, "maxSurge": 0});
        assert!(with("/spec/strategy/rollingUpdate", zero).contains("may not be 0 when `maxSurge` is 0"));
        let mut other = deployment();
        other["spec"]["selector"]["matchLabels"]["a"] = "c".into();
        assert!(
            Deployment
                .validate_update(&other, &deployment())
                .to_string()
                .contains("field is immutable")
        );
    }
}
