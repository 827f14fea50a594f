//! What an autoscaler must hold to.

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{any, has, label_selector, must_be_one_of, named, one_of, quantity, required_name, show};
use crate::edit::{int, items, text};

/// Sources of metrics: type and field.
pub(crate) const SOURCES: [(&str, &str); 5] = [
    ("ContainerResource", "containerResource"),
    ("External", "external"),
    ("Object", "object"),
    ("Pods", "pods"),
    ("Resource", "resource"),
];

/// Checks a spec.
pub(super) fn check_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (least, most) = (spec["minReplicas"].as_i64(), int(spec, "/maxReplicas"));
    if let Some(n) = least.filter(|n| *n < 1) {
        errors.invalid(&path.child("minReplicas"), n, "must be greater than or equal to 1");
    }
    let at = path.child("maxReplicas");
    if most < 1 {
        errors.invalid(&at, most, "must be greater than 0");
    }
    if least.is_some_and(|n| most < n) {
        errors.invalid(&at, most, "must be greater than or equal to `minReplicas`");
    }
    check_reference(&spec["scaleTargetRef"], &path.child("scaleTargetRef"), errors);
    for (i, metric) in items(spec, "metrics").enumerate() {
        check_metric(metric, &path.child("metrics").index(i), errors);
    }
    for direction in ["scaleUp", "scaleDown"] {
        let rules = &spec["behavior"][direction];
        if rules.is_object() {
            check_rules(rules, &path.child("behavior").child(direction), errors);
        }
    }
}

fn check_reference(reference: &Value, at: &Path, errors: &mut ErrorList) {
    for field in ["kind", "name"] {
        required_name(reference, field, names::path_segment, at, errors);
    }
    let version = text(reference, "apiVersion");
    if version.matches('/').count() > 1 {
        let words = format!("unexpected GroupVersion string: {version}");
        errors.invalid(&at.child("apiVersion"), quoted(version), words);
    }
}

fn check_metric(metric: &Value, at: &Path, errors: &mut ErrorList) {
    let kind = text(metric, "type");
    if kind.is_empty() {
        errors.required(&at.child("type"), "must specify a metric source type");
    }
    one_of(metric, "type", &SOURCES.map(|(kind, _)| kind), at, errors);
    for (name, field) in SOURCES {
        let (given, place) = (has(metric, field), at.child(field));
        if given {
            check_source(&metric[field], name, &place, errors);
        }
        if name == kind && !given {
            errors.required(&place, "must populate information for the given metric source");
        }
        if name != kind && given && SOURCES.iter().any(|(k, _)| *k == kind) {
            errors.forbidden(&place, "must populate the given metric source only");
        }
    }
}

fn check_source(source: &Value, kind: &str, at: &Path, errors: &mut ErrorList) {
    let (target, place) = (&source["target"], at.child("target"));
    if matches!(kind, "Resource" | "ContainerResource") {
        if text(source, "name").is_empty() {
            errors.required(&at.child("name"), "must specify a resource name");
        }
        if kind == "ContainerResource" && text(source, "container").is_empty() {
            errors.required(&at.child("container"), "must specify a container");
        }
    } else {
        check_identifier(&source["metric"], &at.child("metric"), errors);
    }
    if kind == "Object" {
        check_reference(&source["describedObject"], &at.child("describedObject"), errors);
    }
    check_target(target, &place, errors);
    let average = has(target, "averageValue");
    let value = has(target, "value");
    match kind {
        "Resource" | "ContainerResource" => match (average, has(target, "averageUtilization")) {
            (false, false) => errors.required(
                &place.child("averageUtilization"),
                "must set either a target raw value or a target utilization",
            ),
            (true, true) => errors.forbidden(
                &place.child("averageValue"),
                "may not set both a target raw value and a target utilization",
            ),
            _ => {}
        },
        "Pods" if !average => errors.required(
            &place.child("averageValue"),
            "must specify a positive target averageValue",
        ),
        "Object" if !average && !value => errors.required(
            &place.child("averageValue"),
            "must set either a target value or averageValue",
        ),
        "External" if !average && !value => errors.required(
            &place.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        ),
        "External" if average && value => errors.forbidden(
            &place.child("value"),
            "may not set both a target value for metric and a per-pod target",
        ),
        _ => {}
    }
}

fn check_identifier(metric: &Value, at: &Path, errors: &mut ErrorList) {
    match text(metric, "name") {
        "" => errors.required(&at.child("name"), "must specify a metric name"),
        name => named(name, names::path_segment, &at.child("name"), errors),
    }
    label_selector(&metric["selector"], &at.child("selector"), errors);
}

fn check_target(target: &Value, at: &Path, errors: &mut ErrorList) {
    let kind = text(target, "type");
    if kind.is_empty() {
        errors.required(&at.child("type"), "must specify a metric target type");
    } else if !["Utilization", "Value", "AverageValue"].contains(&kind) {
        let words = "must be either Utilization, Value, or AverageValue";
        errors.invalid(&at.child("type"), quoted(kind), words);
    }
    for field in ["value", "averageValue"] {
        if let Some(q) = quantity(&target[field]).filter(|q| q.is_zero() || q.is_negative()) {
            errors.invalid(&at.child(field), quoted(&q.to_string()), "must be positive");
        }
    }
    if let Some(n) = target["averageUtilization"].as_i64().filter(|n| *n < 1) {
        errors.invalid(&at.child("averageUtilization"), n, "must be greater than 0");
    }
}

fn check_rules(rules: &Value, at: &Path, errors: &mut ErrorList) {
    const LONGEST_WINDOW: i64 = 3600;
    const LONGEST_PERIOD: i64 = 1800;
    let window = at.child("stabilizationWindowSeconds");
    match rules["stabilizationWindowSeconds"].as_i64() {
        Some(n) if n < 0 => errors.invalid(&window, n, "must be greater than or equal to zero"),
        Some(n) if n > LONGEST_WINDOW => {
            errors.invalid(&window, n, format!("must be less than or equal to {LONGEST_WINDOW}"));
        }
        _ => {}
    }
    one_of(rules, "selectPolicy", &["Disabled", "Max", "Min"], at, errors);
    if !any(rules, "policies") {
        errors.required(&at.child("policies"), "must specify at least one Policy");
    }
    for (i, policy) in items(rules, "policies").enumerate() {
        let at = at.child("policies").index(i);
        must_be_one_of(policy, "type", &["Percent", "Pods"], &at, errors);
        let (value, period) = (int(policy, "/value"), int(policy, "/periodSeconds"));
        if value <= 0 {
            errors.invalid(&at.child("value"), value, "must be greater than zero");
        }
        let place = at.child("periodSeconds");
        if period <= 0 {
            errors.invalid(&place, period, "must be greater than zero");
        }
        if period > LONGEST_PERIOD {
            errors.invalid(
                &place,
                period,
                format!("must be less than or equal to {LONGEST_PERIOD}"),
            );
        }
    }
    if quantity(&rules["tolerance"]).is_some_and(|q| q.is_negative()) {
        errors.invalid(
            &at.child("tolerance"),
            show(&rules["tolerance"]),
            "must be non-negative",
        );
    }
}
