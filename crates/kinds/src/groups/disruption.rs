//! PodDisruptionBudget.

use jiff::Timestamp;
use k8s_openapi::api::policy::v1;
use meta::field::{ErrorList, Path};
use serde_json::Value;

use crate::check::{amount, has, label_selector, not_negative, not_over_100, one_of};
use crate::columns::{AGE, age, column};
use crate::edit::int;
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    names(
        "policy",
        "v1",
        "PodDisruptionBudget",
        "poddisruptionbudgets",
        "poddisruptionbudget",
        &["pdb"],
    )
    .with(
        typed::<v1::PodDisruptionBudget>,
        const {
            &[
                column("Min Available", "string"),
                column("Max Unavailable", "string"),
                column("Allowed Disruptions", "integer"),
                AGE,
            ]
        },
        &Budget,
    )
    .status()
}

struct Budget;

impl Strategy for Budget {
    fn validate_create(&self, budget: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&budget["spec"], Path::new("spec"));
        if has(spec, "minAvailable") && has(spec, "maxUnavailable") {
            errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for field in ["minAvailable", "maxUnavailable"] {
            amount(&spec[field], &path.child(field), &mut errors);
            not_over_100(&spec[field], &path.child(field), &mut errors);
        }
        label_selector(&spec["selector"], &path.child("selector"), &mut errors);
        one_of(
            spec,
            "unhealthyPodEvictionPolicy",
            &["AlwaysAllow", "IfHealthyBudget"],
            &path,
            &mut errors,
        );
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let counts = ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"];
        not_negative(&new["status"], &counts, &Path::new("status"), &mut errors);
        errors
    }

    fn row(&self, budget: &Value, now: Timestamp) -> Vec<Cell> {
        let bound = |field: &str| -> Cell {
            match &budget["spec"][field] {
                Value::String(s) => s.as_str().into(),
                Value::Number(n) => n.to_string().into(),
                _ => "N/A".into(),
            }
        };
        vec![
            bound("minAvailable"),
            bound("maxUnavailable"),
            int(budget, "/status/disruptionsAllowed").into(),
            age(budget, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn budgets() {
        let good = json!({"spec": {"minAvailable": "50%", "selector": {}}});
        assert!(Budget.validate_create(&good).is_empty());
        assert_eq!(
            Budget.row(&good, Timestamp::UNIX_EPOCH)[..3],
            [json!("50%"), json!("N/A"), json!(0)]
        );
        for (spec, words) in [
            (
                json!({"minAvailable": 1, "maxUnavailable": 1}),
                "minAvailable and maxUnavailable cannot be both set",
            ),
            (
                json!({"minAvailable": -1}),
                "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0",
            ),
            (json!({"maxUnavailable": "101%"}), "must not be greater than 100%"),
            (
                json!({"maxUnavailable": "many"}),
                "a valid percent string must be a numeric string followed by an ending '%'",
            ),
        ] {
            expect(&Budget.validate_create(&json!({"spec": spec})), words);
        }
    }
}
