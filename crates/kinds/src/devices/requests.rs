//! What a claim asks for: requests, their alternatives, constraints.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::configuration::{check_config, check_references, check_selectors, check_size};
use crate::check::{any, has, required_name};
use crate::edit::{default, default_text, items, items_mut, text};

const MOST_REQUESTS: usize = 32;
const MOST_ALTERNATIVES: usize = 8;
const MOST_TOLERATIONS: usize = 16;

/// Defaults of `spec` of a claim.
pub(super) fn default_claim(spec: &mut Value) {
    let Some(devices) = spec.get_mut("devices") else { return };
    for request in items_mut(devices, "requests") {
        if let Some(exactly) = request.get_mut("exactly").filter(|e| e.is_object()) {
            default_request(exactly);
        }
        items_mut(request, "firstAvailable").for_each(default_request);
    }
}

fn default_request(request: &mut Value) {
    default_text(request, "allocationMode", "ExactCount");
    if text(request, "allocationMode") == "ExactCount" {
        default(request, "count", 1);
    }
    for toleration in items_mut(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

/// Checks `spec` of a claim.
pub(super) fn check_claim(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (devices, at) = (&spec["devices"], path.child("devices"));
    check_size(devices, "requests", MOST_REQUESTS, &at, errors);
    let mut seen = BTreeSet::new();
    let mut known = Vec::new();
    for (i, request) in items(devices, "requests").enumerate() {
        let at = at.child("requests").index(i);
        let name = text(request, "name");
        check_request(request, &at, errors);
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), quoted(name));
        }
        known.push(name.to_owned());
        known.extend(items(request, "firstAvailable").map(|sub| format!("{name}/{}", text(sub, "name"))));
    }
    check_size(devices, "constraints", MOST_REQUESTS, &at, errors);
    for (i, constraint) in items(devices, "constraints").enumerate() {
        let at = at.child("constraints").index(i);
        check_references(constraint, &known, &at, errors);
        check_attribute(constraint, &at, errors);
    }
    check_config(devices, Some(&known), &at, errors);
}

fn check_attribute(constraint: &Value, at: &Path, errors: &mut ErrorList) {
    let field = match (has(constraint, "matchAttribute"), has(constraint, "distinctAttribute")) {
        (true, false) => "matchAttribute",
        (false, true) => "distinctAttribute",
        _ => return errors.required(at, "exactly one of `matchAttribute` or `distinctAttribute` is required"),
    };
    let (name, at) = (text(constraint, field), at.child(field));
    if name.is_empty() {
        errors.required(&at, "name required");
    } else if !name.contains('/') {
        errors.invalid(&at, quoted(name), "must include a domain");
    }
}

fn check_request(request: &Value, at: &Path, errors: &mut ErrorList) {
    required_name(request, "name", names::dns1123_label, at, errors);
    match (has(request, "exactly"), any(request, "firstAvailable")) {
        (true, false) => {
            let at = at.child("exactly");
            check_wanted(&request["exactly"], &at, errors);
        }
        (false, true) => {
            check_size(request, "firstAvailable", MOST_ALTERNATIVES, at, errors);
            let mut seen = BTreeSet::new();
            for (i, sub) in items(request, "firstAvailable").enumerate() {
                let at = at.child("firstAvailable").index(i);
                required_name(sub, "name", names::dns1123_label, &at, errors);
                check_wanted(sub, &at, errors);
                if !seen.insert(text(sub, "name")) {
                    errors.duplicate(&at.child("name"), quoted(text(sub, "name")));
                }
            }
        }
        (true, true) => errors.invalid(
            at,
            "null",
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        ),
        (false, false) => errors.required(at, "exactly one of `exactly` or `firstAvailable` is required"),
    }
}

fn check_wanted(wanted: &Value, at: &Path, errors: &mut ErrorList) {
    required_name(wanted, "deviceClassName", names::dns1123_subdomain, at, errors);
    check_selectors(wanted, at, errors);
    let count = wanted["count"].as_i64().unwrap_or(0);
    match text(wanted, "allocationMode") {
        "ExactCount" if count <= 0 => {
            errors.invalid(&at.child("count"), count, "must be greater than zero");
        }
        "All" if count != 0 => {
            let words = "must not be specified when allocationMode is 'All'";
            errors.invalid(&at.child("count"), count, words);
        }
        "ExactCount" | "All" => {}
        other => errors.not_supported(&at.child("allocationMode"), other, &["All", "ExactCount"]),
    }
    check_size(wanted, "tolerations", MOST_TOLERATIONS, at, errors);
    for (i, toleration) in items(wanted, "tolerations").enumerate() {
        check_toleration(toleration, &at.child("tolerations").index(i), errors);
    }
}

fn check_toleration(toleration: &Value, at: &Path, errors: &mut ErrorList) {
    let (key, value) = (text(toleration, "key"), text(toleration, "value"));
    if !key.is_empty() {
        crate::check::named(key, names::qualified_name, &at.child("key"), errors);
    }
    match text(toleration, "operator") {
        "Exists" if !value.is_empty() => {
            let words = "must be empty for operator `Exists`";
            errors.invalid(&at.child("value"), quoted(value), words);
        }
        "Equal" if key.is_empty() => {
            errors.required(&at.child("operator"), "operator must be Exists when `key` is empty");
        }
        "Equal" => crate::check::named(value, names::label_value, &at.child("value"), errors),
        "Exists" => {}
        "" => errors.required(&at.child("operator"), ""),
        other => errors.not_supported(&at.child("operator"), other, &["Equal", "Exists"]),
    }
    crate::check::one_of(toleration, "effect", &["NoExecute", "NoSchedule", "None"], at, errors);
}
