//! The autoscaling group: HorizontalPodAutoscaler in its stored form, `v2`.

mod checks;
mod display;

pub(crate) use checks::SOURCES;

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use crate::check::{any, has};
use crate::columns::{AGE, age, column};
use crate::edit::{default, default_text, int, items, object, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Column, Context, Declared, Strategy};

/// Columns of both versions.
pub(crate) const COLUMNS: &[Column] = &[
    column("Reference", "string"),
    column("Targets", "string"),
    column("MinPods", "string"),
    column("MaxPods", "string"),
    column("Replicas", "string"),
    AGE,
];

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![
        names(
            "autoscaling",
            "v2",
            "HorizontalPodAutoscaler",
            "horizontalpodautoscalers",
            "horizontalpodautoscaler",
            &["hpa"],
        )
        .with(typed::<v2::HorizontalPodAutoscaler>, COLUMNS, &Autoscaler)
        .status(),
    ]
}

/// What can be said of autoscalers in the form in which they are stored.
pub(crate) struct Autoscaler;

impl Strategy for Autoscaler {
    fn prepare_create(&self, _: &Context<'_>, scaler: &mut Value) {
        crate::edit::set(scaler, "status", json!({"desiredReplicas": 0}));
    }

    fn default(&self, scaler: &mut Value) {
        let Some(spec) = object(scaler, "spec") else { return };
        default(spec, "minReplicas", 1);
        if !any(spec, "metrics") {
            let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}});
            crate::edit::set(spec, "metrics", json!([{"type": "Resource", "resource": cpu}]));
        }
        if let Some(behavior) = spec.get_mut("behavior").filter(|b| b.is_object()) {
            let fast = json!([
                {"type": "Pods", "value": 4, "periodSeconds": 15},
                {"type": "Percent", "value": 100, "periodSeconds": 15},
            ]);
            if let Some(up) = object(behavior, "scaleUp") {
                default(up, "stabilizationWindowSeconds", 0);
                default_rules(up, fast);
            }
            if let Some(down) = object(behavior, "scaleDown") {
                default_rules(down, json!([{"type": "Percent", "value": 100, "periodSeconds": 15}]));
            }
        }
    }

    fn validate_create(&self, scaler: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        checks::check_spec(&scaler["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let fields = ["currentReplicas", "desiredReplicas"];
        crate::check::not_negative(&new["status"], &fields, &Path::new("status"), &mut errors);
        errors
    }

    fn row(&self, scaler: &Value, now: Timestamp) -> Vec<Cell> {
        let (spec, target) = (&scaler["spec"], &scaler["spec"]["scaleTargetRef"]);
        let least = match spec["minReplicas"].as_i64() {
            Some(n) => n.to_string(),
            None => "<unset>".to_owned(),
        };
        vec![
            format!("{}/{}", text(target, "kind"), text(target, "name")).into(),
            display::metrics(spec, &scaler["status"]).into(),
            least.into(),
            int(spec, "/maxReplicas").into(),
            int(scaler, "/status/currentReplicas").into(),
            age(scaler, now),
        ]
    }
}

fn default_rules(rules: &mut Value, policies: Value) {
    default_text(rules, "selectPolicy", "Max");
    if !has(rules, "policies") || items(rules, "policies").next().is_none() {
        crate::edit::set(rules, "policies", policies);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    fn scaler() -> Value {
        let mut scaler = json!({"spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}});
        Autoscaler.default(&mut scaler);
        scaler
    }

    #[test]
    fn defaults_and_cells() {
        let mut scaler = scaler();
        assert_eq!(scaler["spec"]["minReplicas"], 1);
        assert!(Autoscaler.validate_create(&scaler).is_empty());
        let row = |s: &Value| Autoscaler.row(s, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row(&scaler)[..4],
            [
                json!("Deployment/web"),
                json!("cpu: <unknown>/80%"),
                json!("1"),
                json!(3)
            ]
        );
        scaler["status"] = json!({"currentMetrics": [{"resource": {"current": {"averageUtilization": 20}}}]});
        assert_eq!(row(&scaler)[1], "cpu: 20%/80%");
        scaler["spec"]["behavior"] = json!({"scaleDown": {}});
        Autoscaler.default(&mut scaler);
        assert_eq!(
            scaler["spec"]["behavior"]["scaleUp"]["policies"][0],
            json!({"type": "Pods", "value": 4, "periodSeconds": 15})
        );
        assert_eq!(scaler["spec"]["behavior"]["scaleDown"]["selectPolicy"], "Max");
        assert!(Autoscaler.validate_create(&scaler).is_empty());
    }

    #[test]
    fn errors() {
        for (field, value, words) in [
            (
                "minReplicas",
                json!(0),
                "spec.minReplicas: Invalid value: 0: must be greater than or equal to 1",
            ),
            (
                "maxReplicas",
                json!(0),
                "spec.maxReplicas: Invalid value: 0: must be greater than 0",
            ),
            (
                "minReplicas",
                json!(4),
                "spec.maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`",
            ),
            ("scaleTargetRef", json!({}), "spec.scaleTargetRef.kind: Required value"),
            (
                "metrics",
                json!([{}]),
                "spec.metrics[0].type: Required value: must specify a metric source type",
            ),
            (
                "metrics",
                json!([{"type": "Pods"}]),
                "spec.metrics[0].pods: Required value: must populate information for the given metric source",
            ),
            (
                "metrics",
                json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization"}}}]),
                "target.averageUtilization: Required value: must set either a target raw value or a target utilization",
            ),
            (
                "behavior",
                json!({"scaleUp": {"stabilizationWindowSeconds": 3601, "selectPolicy": "Max", "policies": []}}),
                "stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
            ),
            (
                "behavior",
                json!({"scaleDown": {"selectPolicy": "No", "policies": [{"type": "X", "value": 0, "periodSeconds": 1}]}}),
                "policies[0].value: Invalid value: 0: must be greater than zero",
            ),
        ] {
            let mut scaler = scaler();
            scaler["spec"][field] = value;
            expect(&Autoscaler.validate_create(&scaler), words);
        }
    }
}
