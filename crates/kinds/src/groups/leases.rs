//! Lease.

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use crate::check::{NOT_NEGATIVE, has};
use crate::columns::{AGE, age, column};
use crate::edit::text;
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    names("coordination.k8s.io", "v1", "Lease", "leases", "lease", &[]).with(
        typed::<v1::Lease>,
        const { &[column("Holder", "string"), AGE] },
        &Lease,
    )
}

struct Lease;

impl Strategy for Lease {
    fn validate_create(&self, lease: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&lease["spec"], Path::new("spec"));
        if let Some(n) = spec["leaseDurationSeconds"].as_i64().filter(|n| *n <= 0) {
            errors.invalid(&path.child("leaseDurationSeconds"), n, "must be greater than 0");
        }
        if let Some(n) = spec["leaseTransitions"].as_i64().filter(|n| *n < 0) {
            errors.invalid(&path.child("leaseTransitions"), n, NOT_NEGATIVE);
        }
        let preferred = text(spec, "preferredHolder");
        if !preferred.is_empty() && text(spec, "strategy").is_empty() {
            let words = "may only be specified if `strategy` is defined";
            errors.forbidden(&path.child("preferredHolder"), words);
        }
        if has(spec, "strategy") {
            let (strategy, at) = (text(spec, "strategy"), path.child("strategy"));
            for problem in meta::names::qualified_name(strategy) {
                errors.invalid(&at, quoted(strategy), problem);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, lease: &Value, now: Timestamp) -> Vec<Cell> {
        vec![text(&lease["spec"], "holderIdentity").into(), age(lease, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn leases() {
        assert!(
            Lease
                .validate_create(&json!({"spec": {"holderIdentity": "a", "leaseDurationSeconds": 1}}))
                .is_empty()
        );
        let errors = Lease.validate_create(&json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}}));
        crate::check::expect(
            &errors,
            "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
        );
        crate::check::expect(
            &errors,
            "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
        );
    }
}
