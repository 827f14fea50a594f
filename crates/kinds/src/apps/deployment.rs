//! Deployment.

use jiff::Timestamp;
use k8s_openapi::api::apps::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use super::SCALE;
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
                    column("Up-to-date", "integer"),
                    column("Available", "integer"),
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
        validate_template(spec, &path, &OWNER, &mut errors);
        for field in [
            "replicas",
            "minReadySeconds",
            "revisionHistoryLimit",
            "progressDeadlineSeconds",
        ] {
            if let Some(n) = spec.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
                errors.invalid(&path.child(field), n, "must be greater than or equal to 0");
            }
        }
        if int(spec, "/progressDeadlineSeconds") <= int(spec, "/minReadySeconds")
            && spec.get("minReadySeconds").is_some()
        {
            let n = int(spec, "/progressDeadlineSeconds");
            errors.invalid(
                &path.child("progressDeadlineSeconds"),
                n,
                "must be greater than minReadySeconds",
            );
        }
        validate_strategy(&spec["strategy"], &path.child("strategy"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        if new["spec"]["selector"] != old["spec"]["selector"] {
            let at = Path::new("spec").child("selector");
            errors.invalid(&at, new["spec"]["selector"].clone(), "field is immutable");
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
        "RollingUpdate" => {
            let Some(rolling) = rolling else { return };
            let at = path.child("rollingUpdate");
            let amounts: Vec<Option<i64>> = ["maxUnavailable", "maxSurge"]
                .iter()
                .map(|f| amount(&rolling[*f], &at.child(f), errors))
                .collect();
            if amounts == [Some(0), Some(0)] {
                errors.invalid(
                    &at.child("maxUnavailable"),
                    json!(0),
                    "may not be 0 when `maxSurge` is 0",
                );
            }
        }
        other => errors.not_supported(&path.child("type"), other, &["Recreate", "RollingUpdate"]),
    }
}

/// A number or a percentage; its number for the check against zero.
pub(super) fn amount(value: &Value, path: &Path, errors: &mut ErrorList) -> Option<i64> {
    match value {
        Value::Null => None,
        Value::Number(n) => {
            let n = n.as_i64().unwrap_or(-1);
            if n < 0 {
                errors.invalid(path, n, "must be greater than or equal to 0");
            }
            Some(n)
        }
        Value::String(s) => {
            let percent = s.strip_suffix('%').and_then(|p| p.parse::<u32>().ok());
            if percent.is_none() {
                errors.invalid(path, quoted(s), "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')");
            }
            percent.map(i64::from)
        }
        other => {
            errors.invalid(path, other, "must be an integer or percentage (e.g '5%')");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
