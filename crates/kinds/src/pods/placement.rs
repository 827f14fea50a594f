//! Checks of where pods may go: affinity, tolerations, spread.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{any, has, label_selector, named, one_of, show};
use crate::edit::{int, items, text};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";

/// Checks `affinity`.
pub(super) fn check_affinity(affinity: &Value, path: &Path, errors: &mut ErrorList) {
    let (nodes, at) = (&affinity["nodeAffinity"], path.child("nodeAffinity"));
    if nodes[REQUIRED].is_object() {
        check_node_selector(&nodes[REQUIRED], &at.child(REQUIRED), errors);
    }
    for (i, term) in items(nodes, PREFERRED).enumerate() {
        let at = at.child(PREFERRED).index(i);
        check_weight(term, &at, errors);
        check_node_term(&term["preference"], &at.child("preference"), errors);
    }
    for field in ["podAffinity", "podAntiAffinity"] {
        let (pods, at) = (&affinity[field], path.child(field));
        for (i, term) in items(pods, REQUIRED).enumerate() {
            check_pod_term(term, &at.child(REQUIRED).index(i), errors);
        }
        for (i, term) in items(pods, PREFERRED).enumerate() {
            let at = at.child(PREFERRED).index(i);
            check_weight(term, &at, errors);
            check_pod_term(&term["podAffinityTerm"], &at.child("podAffinityTerm"), errors);
        }
    }
}

fn check_weight(term: &Value, at: &Path, errors: &mut ErrorList) {
    let weight = int(term, "/weight");
    if !(1..=100).contains(&weight) {
        errors.invalid(&at.child("weight"), weight, "must be in the range 1-100");
    }
}

/// Checks a selector of nodes.
pub(crate) fn check_node_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("nodeSelectorTerms");
    if !any(selector, "nodeSelectorTerms") {
        errors.required(&at, "must have at least one node selector term");
    }
    for (i, term) in items(selector, "nodeSelectorTerms").enumerate() {
        check_node_term(term, &at.index(i), errors);
    }
}

fn check_node_term(term: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, wanted) in items(term, "matchExpressions").enumerate() {
        check_requirement(wanted, &at.child("matchExpressions").index(i), errors);
    }
    for (i, wanted) in items(term, "matchFields").enumerate() {
        let at = at.child("matchFields").index(i);
        match text(wanted, "operator") {
            "In" | "NotIn" if items(wanted, "values").count() != 1 => errors.required(
                &at.child("values"),
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            ),
            "In" | "NotIn" => {}
            other => errors.invalid(&at.child("operator"), quoted(other), "not a valid selector operator"),
        }
        let key = text(wanted, "key");
        if key != "metadata.name" {
            errors.invalid(&at.child("key"), quoted(key), "not a valid field selector key");
        }
    }
}

fn check_requirement(wanted: &Value, at: &Path, errors: &mut ErrorList) {
    let (values, given) = (at.child("values"), items(wanted, "values").count());
    match (text(wanted, "operator"), given) {
        ("In" | "NotIn", 0) => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        ("Exists" | "DoesNotExist", 1..) => errors.forbidden(
            &values,
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        ),
        ("Gt" | "Lt", n) if n != 1 => errors.required(
            &values,
            "must be specified single value when `operator` is 'Lt' or 'Gt'",
        ),
        ("In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt", _) => {}
        (other, _) => errors.invalid(&at.child("operator"), quoted(other), "not a valid selector operator"),
    }
    named(text(wanted, "key"), names::qualified_name, &at.child("key"), errors);
}

fn check_pod_term(term: &Value, at: &Path, errors: &mut ErrorList) {
    label_selector(&term["labelSelector"], &at.child("labelSelector"), errors);
    label_selector(&term["namespaceSelector"], &at.child("namespaceSelector"), errors);
    for namespace in items(term, "namespaces").filter_map(Value::as_str) {
        named(namespace, names::dns1123_label, &at.child("namespace"), errors);
    }
    for (field, other) in [
        ("matchLabelKeys", "mismatchLabelKeys"),
        ("mismatchLabelKeys", "matchLabelKeys"),
    ] {
        check_label_keys(term, field, Some(other), at, errors);
    }
    check_topology(term, at, errors);
}

fn check_topology(term: &Value, at: &Path, errors: &mut ErrorList) {
    let key = text(term, "topologyKey");
    if key.is_empty() {
        errors.required(&at.child("topologyKey"), "can not be empty");
    }
    named(key, names::qualified_name, &at.child("topologyKey"), errors);
}

fn check_label_keys(term: &Value, field: &str, other: Option<&str>, at: &Path, errors: &mut ErrorList) {
    if any(term, field) && !has(term, "labelSelector") {
        let words = "must not be specified when labelSelector is not set";
        errors.forbidden(&at.child(field), words);
    }
    for (i, key) in items(term, field).filter_map(Value::as_str).enumerate() {
        let at = at.child(field).index(i);
        named(key, names::qualified_name, &at, errors);
        if other.is_some_and(|other| items(term, other).any(|o| o == key)) {
            let words = "exists in both matchLabelKeys and mismatchLabelKeys";
            errors.invalid(&at, quoted(key), words);
        }
        let named_there = term["labelSelector"]["matchLabels"].get(key).is_some()
            || items(&term["labelSelector"], "matchExpressions").any(|e| text(e, "key") == key);
        if named_there && other.is_none() {
            errors.invalid(&at, quoted(key), "exists in both matchLabelKeys and labelSelector");
        }
    }
}

/// Checks `tolerations`.
pub(super) fn check_tolerations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, toleration) in items(spec, "tolerations").enumerate() {
        check_toleration(toleration, &path.child("tolerations").index(i), errors);
    }
}

fn check_toleration(toleration: &Value, at: &Path, errors: &mut ErrorList) {
    let (key, value) = (text(toleration, "key"), text(toleration, "value"));
    let (operator, effect) = (text(toleration, "operator"), text(toleration, "effect"));
    let place = at.child("operator");
    if !key.is_empty() {
        named(key, names::qualified_name, &at.child("key"), errors);
    } else if operator != "Exists" {
        let words = "operator must be Exists when `key` is empty, which means \"match all values and all keys\"";
        errors.invalid(&place, quoted(operator), words);
    }
    if has(toleration, "tolerationSeconds") && effect != "NoExecute" {
        let words = "effect must be 'NoExecute' when `tolerationSeconds` is set";
        errors.invalid(&at.child("effect"), quoted(effect), words);
    }
    match operator {
        "" | "Equal" => {
            let problems = names::label_value(value);
            if !problems.is_empty() {
                errors.invalid(&place, quoted(value), problems.join(";"));
            }
        }
        "Exists" if !value.is_empty() => {
            let words = "value must be empty when `operator` is 'Exists'";
            errors.invalid(&place, show(toleration), words);
        }
        "Exists" => {}
        "Lt" | "Gt" => {
            if value.parse::<i64>().is_err() {
                let words = "value must be a valid integer for numeric operators";
                errors.invalid(&at.child("value"), quoted(value), words);
            }
        }
        other => errors.not_supported(&place, other, &["Equal", "Exists"]),
    }
    one_of(
        toleration,
        "effect",
        &["NoSchedule", "PreferNoSchedule", "NoExecute"],
        at,
        errors,
    );
}

/// Checks `topologySpreadConstraints`.
pub(super) fn check_spread(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const WHEN: [&str; 2] = ["DoNotSchedule", "ScheduleAnyway"];
    let path = path.child("topologySpreadConstraints");
    let mut seen = BTreeSet::new();
    for (i, constraint) in items(spec, "topologySpreadConstraints").enumerate() {
        let at = path.index(i);
        let skew = int(constraint, "/maxSkew");
        if skew <= 0 {
            errors.invalid(&at.child("maxSkew"), skew, "must be greater than zero");
        }
        check_topology(constraint, &at, errors);
        let when = text(constraint, "whenUnsatisfiable");
        if !WHEN.contains(&when) {
            errors.not_supported(&at.child("whenUnsatisfiable"), when, &WHEN);
        }
        let key = text(constraint, "topologyKey");
        if !seen.insert((key, when)) {
            let place = at.child("{topologyKey, whenUnsatisfiable}");
            errors.duplicate(&place, quoted(&format!("{{{key}, {when}}}")));
        }
        if let Some(n) = constraint["minDomains"].as_i64() {
            let place = at.child("minDomains");
            if n <= 0 {
                errors.invalid(&place, n, "must be greater than zero");
            }
            if when != "DoNotSchedule" {
                let words = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {when}");
                errors.invalid(&place, n, words);
            }
        }
        for field in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            one_of(constraint, field, &["Honor", "Ignore"], &at, errors);
        }
        check_label_keys(constraint, "matchLabelKeys", None, &at, errors);
        label_selector(&constraint["labelSelector"], &at.child("labelSelector"), errors);
    }
}
