//! LimitRange and ResourceQuota.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::Quantity;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Map, Value};

use crate::check::{NOT_NEGATIVE, any, immutable, named, quantity};
use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{default, items, items_mut, object, text};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        super::core_kind("LimitRange", "limitranges", "limitrange", &["limits"]).with(
            typed::<v1::LimitRange>,
            const { &[column("Created At", "date")] },
            &LimitRange,
        ),
        super::core_kind("ResourceQuota", "resourcequotas", "resourcequota", &["quota"])
            .with(
                typed::<v1::ResourceQuota>,
                const { &[column("Request", "string"), column("Limit", "string"), AGE] },
                &Quota,
            )
            .status(),
    ]
}

struct LimitRange;
struct Quota;

impl Strategy for LimitRange {
    fn default(&self, range: &mut Value) {
        let Some(spec) = range.get_mut("spec") else { return };
        for limit in items_mut(spec, "limits") {
            if text(limit, "type") != "Container" {
                continue;
            }
            for (from, to) in [
                ("max", "default"),
                ("default", "defaultRequest"),
                ("min", "defaultRequest"),
            ] {
                let Some(known) = limit.get(from).and_then(Value::as_object).cloned() else {
                    continue;
                };
                if let Some(target) = object(limit, to) {
                    known
                        .into_iter()
                        .for_each(|(name, amount)| default(target, &name, amount));
                }
            }
        }
    }

    fn validate_create(&self, range: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("limits");
        let mut seen = BTreeSet::new();
        for (i, limit) in items(&range["spec"], "limits").enumerate() {
            let at = path.index(i);
            let kind = text(limit, "type");
            named(kind, names::qualified_name, &at.child("type"), &mut errors);
            if !seen.insert(kind) {
                errors.duplicate(&at.child("type"), quoted(kind));
            }
            if kind == "Pod" {
                for field in ["default", "defaultRequest"] {
                    if any(limit, field) {
                        let words = "may not be specified when `type` is 'Pod'";
                        errors.forbidden(&at.child(field), words);
                    }
                }
            }
            let storage = |field: &str| limit[field].get("storage").is_some();
            if kind == "PersistentVolumeClaim" && !storage("min") && !storage("max") {
                let words = "either minimum or maximum storage value is required, but neither was provided";
                errors.required(&at, words);
            }
            check_order(limit, &at, &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, range: &Value, _: Timestamp) -> Vec<Cell> {
        vec![text_or_none(range, "/metadata/creationTimestamp")]
    }
}

/// Pairs of which the first may not be more than the second: field, what it is called,
/// field, what it is called, and where the error stands.
const ORDER: [(&str, &str, &str, &str, &str); 6] = [
    ("min", "min value", "max", "max value", "min"),
    (
        "min",
        "min value",
        "defaultRequest",
        "default request value",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "max",
        "max value",
        "defaultRequest",
    ),
    (
        "defaultRequest",
        "default request value",
        "default",
        "default limit value",
        "defaultRequest",
    ),
    ("min", "min value", "default", "default value", "default"),
    ("default", "default value", "max", "max value", "default"),
];

fn check_order(limit: &Value, at: &Path, errors: &mut ErrorList) {
    let amounts = |field: &str| -> BTreeMap<&String, Quantity> {
        let map = limit[field].as_object().into_iter().flatten();
        map.filter_map(|(k, v)| Some((k, quantity(v)?))).collect()
    };
    for (low, low_name, high, high_name, place) in ORDER {
        let most = amounts(high);
        for (key, least) in amounts(low) {
            if let Some(most) = most.get(key).filter(|most| least > **most) {
                let words = format!("{low_name} {least} is greater than {high_name} {most}");
                let shown = if place == low { &least } else { most };
                errors.invalid(&at.child(place).key(key), quoted(&shown.to_string()), words);
            }
        }
    }
    for (key, ratio) in amounts("maxLimitRequestRatio") {
        if ratio.millis() < 1000 {
            let words = format!("ratio {ratio} is less than 1");
            let at = at.child("maxLimitRequestRatio").key(key);
            errors.invalid(&at, quoted(&ratio.to_string()), words);
        }
    }
}

impl Strategy for Quota {
    fn validate_create(&self, quota: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&quota["spec"], Path::new("spec"));
        check_amounts(spec["hard"].as_object(), &path.child("hard"), &mut errors);
        check_scopes(spec, &path, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("scopes");
        immutable(&new["spec"]["scopes"], &old["spec"]["scopes"], &at, &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for field in ["hard", "used"] {
            let at = Path::new("status").child(field);
            check_amounts(new["status"][field].as_object(), &at, &mut errors);
        }
        errors
    }

    fn row(&self, quota: &Value, now: Timestamp) -> Vec<Cell> {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        let shown = |v: &Value| quantity(v).map_or_else(|| "0".to_owned(), |q| q.to_string());
        let status = &quota["status"];
        for (name, hard) in status["hard"].as_object().into_iter().flatten() {
            let list = if name.starts_with("limits.") {
                &mut limits
            } else {
                &mut requests
            };
            let used = status["used"].get(name).unwrap_or(&Value::Null);
            list.push(format!("{name}: {}/{}", shown(used), shown(hard)));
        }
        vec![requests.join(", ").into(), limits.join(", ").into(), age(quota, now)]
    }
}

fn check_amounts(map: Option<&Map<String, Value>>, at: &Path, errors: &mut ErrorList) {
    for (name, value) in map.into_iter().flatten() {
        let at = at.key(name);
        named(name, names::qualified_name, &at, errors);
        let Some(amount) = quantity(value) else { continue };
        if amount.is_negative() {
            errors.invalid(&at, quoted(&amount.to_string()), NOT_NEGATIVE);
        }
        let counted = name.starts_with("count/")
            || ["pods", "services", "secrets", "configmaps", "replicationcontrollers"].contains(&name.as_str());
        if counted && amount.millis() % 1000 != 0 {
            errors.invalid(&at, quoted(&amount.to_string()), "must be an integer");
        }
    }
}

fn check_scopes(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const SCOPES: [&str; 7] = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let at = path.child("scopes");
    let given: Vec<&str> = items(spec, "scopes").filter_map(Value::as_str).collect();
    if given.iter().any(|s| !SCOPES.contains(s)) {
        errors.invalid(&at, &spec["scopes"], "unsupported scope");
    }
    for (a, b) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if given.contains(&a) && given.contains(&b) {
            errors.invalid(&at, &spec["scopes"], "conflicting scopes");
        }
    }
    let at = path.child("scopeSelector").child("matchExpressions");
    for (i, wanted) in items(&spec["scopeSelector"], "matchExpressions").enumerate() {
        let (scope, operator, place) = (text(wanted, "scopeName"), text(wanted, "operator"), at.index(i));
        if !SCOPES.contains(&scope) {
            errors.invalid(&place.child("scopeName"), quoted(scope), "unsupported scope");
        }
        let values = place.child("values");
        match operator {
            "In" | "NotIn" if !any(wanted, "values") => {
                let words = "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector";
                errors.required(&values, words);
            }
            "Exists" | "DoesNotExist" if any(wanted, "values") => {
                let words = "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector";
                errors.invalid(&values, &wanted["values"], words);
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => errors.invalid(&place.child("operator"), quoted(other), "not a valid selector operator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn ranges() {
        let mut range =
            json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}]}});
        LimitRange.default(&mut range);
        let limit = &range["spec"]["limits"][0];
        assert_eq!(limit["default"], json!({"cpu": "2"}));
        assert_eq!(limit["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(LimitRange.validate_create(&range).is_empty());
        for (limit, words) in [
            (
                json!({"type": "Pod", "default": {"cpu": "1"}}),
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
            ),
            (
                json!({"type": "Container", "min": {"cpu": "2"}, "max": {"cpu": "1"}}),
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ),
            (
                json!({"type": "PersistentVolumeClaim"}),
                "either minimum or maximum storage value is required",
            ),
            (
                json!({"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}),
                "ratio 500m is less than 1",
            ),
        ] {
            expect(
                &LimitRange.validate_create(&json!({"spec": {"limits": [limit]}})),
                words,
            );
        }
    }

    #[test]
    fn quotas() {
        let quota = json!({"spec": {"hard": {"pods": "2"}}, "status": {"hard": {"pods": "2", "limits.cpu": "1"}, "used": {"pods": "1"}}});
        assert!(Quota.validate_create(&quota).is_empty());
        assert_eq!(
            Quota.row(&quota, Timestamp::UNIX_EPOCH)[..2],
            [json!("pods: 1/2"), json!("limits.cpu: 0/1")]
        );
        let bad = json!({"spec": {"hard": {"pods": "-1"}, "scopes": ["BestEffort", "NotBestEffort"]}});
        let errors = Quota.validate_update(&bad, &quota);
        expect(
            &errors,
            "spec.hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
        );
        expect(&errors, "conflicting scopes");
        expect(&errors, "field is immutable");
    }
}
