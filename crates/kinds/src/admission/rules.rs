//! Which requests webhooks and policies are about: rules, selectors, conditions.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Value, json};

use crate::check::{self, any, must_be_one_of, named, one_of};
use crate::edit::{default, default_text, items, items_mut, text};

/// Defaults of `rules` or `resourceRules`.
pub(super) fn default_rules(owner: &mut Value, field: &str) {
    for rule in items_mut(owner, field) {
        default_text(rule, "scope", "*");
    }
}

/// Defaults of what a policy matches.
pub(super) fn default_match(resources: &mut Value) {
    default_text(resources, "matchPolicy", "Equivalent");
    default(resources, "namespaceSelector", json!({}));
    default(resources, "objectSelector", json!({}));
    default_rules(resources, "resourceRules");
    default_rules(resources, "excludeResourceRules");
}

/// Checks one rule with its operations.
pub(super) fn check_rule(rule: &Value, at: &Path, errors: &mut ErrorList) {
    const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
    star_alone(rule, "operations", "operations", at, errors);
    for (i, operation) in items(rule, "operations").enumerate() {
        let operation = operation.as_str().unwrap_or_default();
        if !OPERATIONS.contains(&operation) {
            errors.not_supported(&at.child("operations").index(i), operation, &OPERATIONS);
        }
    }
    star_alone(rule, "apiGroups", "API groups", at, errors);
    star_alone(rule, "apiVersions", "API versions", at, errors);
    for (i, version) in items(rule, "apiVersions").enumerate() {
        if version == "" {
            errors.required(&at.child("apiVersions").index(i), "");
        }
    }
    check_resources(rule, &at.child("resources"), errors);
    one_of(rule, "scope", &["*", "Cluster", "Namespaced"], at, errors);
}

/// A list that has something in it, and nothing beside a star.
fn star_alone(rule: &Value, field: &str, words: &str, at: &Path, errors: &mut ErrorList) {
    let at = at.child(field);
    if !any(rule, field) {
        errors.required(&at, "");
    }
    if items(rule, field).count() > 1 && items(rule, field).any(|v| v == "*") {
        errors.invalid(
            &at,
            &rule[field],
            format!("if '*' is present, must not specify other {words}"),
        );
    }
}

fn check_resources(rule: &Value, at: &Path, errors: &mut ErrorList) {
    let all: Vec<&str> = items(rule, "resources").filter_map(Value::as_str).collect();
    if all.is_empty() {
        errors.required(at, "");
    }
    let (mut whole, mut below) = (BTreeSet::new(), BTreeSet::new());
    let mut plain = false;
    for (i, resource) in all.iter().enumerate() {
        if resource.is_empty() {
            errors.required(&at.index(i), "");
            continue;
        }
        let Some((name, sub)) = resource.split_once('/') else {
            plain |= *resource != "*";
            continue;
        };
        if whole.contains(name) {
            let words = format!("if '{name}/*' is present, must not specify {resource}");
            errors.invalid(&at.index(i), quoted(resource), words);
        }
        if below.contains(sub) {
            let words = format!("if '*/{sub}' is present, must not specify {resource}");
            errors.invalid(&at.index(i), quoted(resource), words);
        }
        if sub == "*" {
            whole.insert(name);
        }
        if name == "*" {
            below.insert(sub);
        }
    }
    if all.len() > 1 && all.contains(&"*/*") {
        errors.invalid(
            at,
            &rule["resources"],
            "if '*/*' is present, must not specify other resources",
        );
    }
    if all.contains(&"*") && plain {
        errors.invalid(
            at,
            &rule["resources"],
            "if '*' is present, must not specify other resources without subresources",
        );
    }
}

/// Checks what a policy or a binding matches.
pub(super) fn check_match(resources: &Value, at: &Path, errors: &mut ErrorList) {
    must_be_one_of(resources, "matchPolicy", &["Equivalent", "Exact"], at, errors);
    for field in ["namespaceSelector", "objectSelector"] {
        match resources.get(field) {
            None | Some(Value::Null) => errors.required(&at.child(field), ""),
            Some(selector) => check::label_selector(selector, &at.child(field), errors),
        }
    }
    for field in ["resourceRules", "excludeResourceRules"] {
        for (i, rule) in items(resources, field).enumerate() {
            let at = at.child(field).index(i);
            let mut seen = BTreeSet::new();
            for (n, name) in items(rule, "resourceNames").filter_map(Value::as_str).enumerate() {
                let at = at.child("resourceNames").index(n);
                named(name, names::path_segment, &at, errors);
                if !seen.insert(name) {
                    errors.duplicate(&at, quoted(name));
                }
            }
            check_rule(rule, &at, errors);
        }
    }
}

/// Checks `matchConditions`. Expressions are compiled by whoever evaluates them.
pub(super) fn check_conditions(owner: &Value, at: &Path, errors: &mut ErrorList) {
    const MOST: usize = 64;
    let at = at.child("matchConditions");
    let n = items(owner, "matchConditions").count();
    if n > MOST {
        errors.too_many(&at, n, MOST);
    }
    let mut seen = BTreeSet::new();
    for (i, condition) in items(owner, "matchConditions").enumerate() {
        let at = at.index(i);
        if text(condition, "expression").trim().is_empty() {
            errors.required(&at.child("expression"), "");
        }
        let name = text(condition, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
            continue;
        }
        named(name, names::qualified_name, &at.child("name"), errors);
        if !seen.insert(name) {
            errors.duplicate(&at.child("name"), quoted(name));
        }
    }
}
