//! What admission policies and their bindings must hold to. Expressions are
//! compiled by whoever evaluates them; here they only have to be there.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::rules::{check_conditions, check_match};
use crate::check::{self, any, has, must_be_one_of, named, one_of, required_name};
use crate::edit::{items, text};

const MOST_ANNOTATIONS: usize = 20;
const LONGEST_ANNOTATION: usize = 5 * 1024;

/// Checks a policy of either kind.
pub(super) fn check_policy(policy: &Value, mutating: bool, path: &Path, errors: &mut ErrorList) {
    let spec = &policy["spec"];
    must_be_one_of(spec, "failurePolicy", &["Fail", "Ignore"], path, errors);
    if has(spec, "paramKind") {
        check_param_kind(&spec["paramKind"], &path.child("paramKind"), errors);
    }
    let at = path.child("matchConstraints");
    if has(spec, "matchConstraints") {
        check_match(&spec["matchConstraints"], &at, errors);
        if !any(&spec["matchConstraints"], "resourceRules") {
            errors.required(&at.child("resourceRules"), "");
        }
    } else {
        errors.required(&at, "");
    }
    check_conditions(spec, path, errors);
    for (i, variable) in items(spec, "variables").enumerate() {
        let at = path.child("variables").index(i);
        let name = text(variable, "name");
        if name.trim().is_empty() {
            errors.required(&at.child("name"), "name is not specified");
        } else if !is_identifier(name) {
            errors.invalid(&at.child("name"), quoted(name), "name is not a valid CEL identifier");
        }
        check_expression(variable, "expression", &at, errors);
    }
    if mutating {
        check_mutations(spec, path, errors);
    } else {
        check_validations(policy, path, errors);
    }
}

fn check_expression(owner: &Value, field: &str, at: &Path, errors: &mut ErrorList) {
    if text(owner, field).trim().is_empty() {
        errors.required(&at.child(field), &format!("{field} is not specified"));
    }
}

fn check_validations(policy: &Value, path: &Path, errors: &mut ErrorList) {
    let spec = &policy["spec"];
    if !any(spec, "validations") && !any(spec, "auditAnnotations") {
        let words = "validations or auditAnnotations must contain at least one item";
        errors.required(&path.child("validations"), words);
        errors.required(&path.child("auditAnnotations"), words);
    }
    for (i, validation) in items(spec, "validations").enumerate() {
        let at = path.child("validations").index(i);
        check_expression(validation, "expression", &at, errors);
        let blank = |field: &str| {
            let given = text(validation, field);
            !given.is_empty() && given.trim().is_empty()
        };
        if blank("messageExpression") {
            let given = quoted(text(validation, "messageExpression"));
            errors.invalid(&at.child("messageExpression"), given, "must be non-empty if specified");
        }
        let message = text(validation, "message");
        if blank("message") {
            errors.invalid(
                &at.child("message"),
                quoted(message),
                "message must be non-empty if specified",
            );
        } else if message.trim().contains(['\n', '\r']) {
            errors.invalid(
                &at.child("message"),
                quoted(message),
                "message must not contain line breaks",
            );
        }
        one_of(
            validation,
            "reason",
            &["Forbidden", "Invalid", "RequestEntityTooLarge"],
            &at,
            errors,
        );
    }
    check_annotations(policy, &path.child("auditAnnotations"), errors);
}

fn check_annotations(policy: &Value, path: &Path, errors: &mut ErrorList) {
    let (spec, name) = (&policy["spec"], text(&policy["metadata"], "name"));
    if items(spec, "auditAnnotations").count() > MOST_ANNOTATIONS {
        let words = format!("must not have more than {MOST_ANNOTATIONS} auditAnnotations");
        errors.invalid(path, &spec["auditAnnotations"], words);
    }
    let mut seen = BTreeSet::new();
    for (i, annotation) in items(spec, "auditAnnotations").enumerate() {
        let at = path.index(i);
        let key = text(annotation, "key");
        if name.is_empty() {
            errors.invalid(&at.child("key"), quoted(key), "requires metadata.name be non-empty");
        } else {
            named(
                &format!("{name}/{key}"),
                names::qualified_name,
                &at.child("key"),
                errors,
            );
        }
        check_expression(annotation, "valueExpression", &at, errors);
        if text(annotation, "valueExpression").trim().len() > LONGEST_ANNOTATION {
            let words = format!("must not exceed {LONGEST_ANNOTATION} bytes in length");
            errors.required(&at.child("valueExpression"), &words);
        }
        if !seen.insert(key) {
            errors.duplicate(&at.child("key"), quoted(key));
        }
    }
}

fn check_mutations(spec: &Value, path: &Path, errors: &mut ErrorList) {
    must_be_one_of(spec, "reinvocationPolicy", &["IfNeeded", "Never"], path, errors);
    if !any(spec, "mutations") {
        errors.required(&path.child("mutations"), "mutations must contain at least one item");
    }
    for (i, mutation) in items(spec, "mutations").enumerate() {
        let at = path.child("mutations").index(i);
        let fields = [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")];
        let kinds: Vec<&str> = fields.iter().map(|(kind, _)| *kind).collect();
        must_be_one_of(mutation, "patchType", &kinds, &at, errors);
        for (kind, field) in fields {
            match (text(mutation, "patchType") == kind, has(mutation, field)) {
                (true, true) => check_expression(&mutation[field], "expression", &at.child(field), errors),
                (true, false) => {
                    let words = format!("must be specified when patchType is {kind}");
                    errors.required(&at.child(field), &words);
                }
                (false, true) if kinds.contains(&text(mutation, "patchType")) => {
                    let words = format!(
                        "must not be specified when patchType is {}",
                        text(mutation, "patchType")
                    );
                    errors.invalid(&at.child(field), &mutation[field], words);
                }
                (false, _) => {}
            }
        }
    }
}

fn check_param_kind(kind: &Value, at: &Path, errors: &mut ErrorList) {
    let version = text(kind, "apiVersion");
    let place = at.child("apiVersion");
    let joined = |value: &str, problems: Vec<String>, errors: &mut ErrorList| {
        if !problems.is_empty() {
            errors.invalid(&place, quoted(value), problems.join(","));
        }
    };
    match version.split('/').collect::<Vec<_>>().as_slice() {
        [""] => errors.required(&place, ""),
        [_, _, _, ..] => errors.invalid(
            &place,
            quoted(version),
            format!("unexpected GroupVersion string: {version}"),
        ),
        parts => {
            let (group, name) = match parts {
                [group, name] => (*group, *name),
                [name, ..] => ("", *name),
                [] => ("", ""),
            };
            if !group.is_empty() {
                joined(group, names::dns1123_subdomain(group), errors);
            }
            if name.is_empty() {
                errors.invalid(&place, quoted(version), "version must be specified");
            } else {
                joined(name, names::dns1035_label(name), errors);
            }
        }
    }
    let name = text(kind, "kind");
    let problems = names::dns1035_label(&name.to_lowercase());
    if name.is_empty() {
        errors.required(&at.child("kind"), "");
    } else if !problems.is_empty() {
        let words = format!(
            "may have mixed case, but should otherwise match: {}",
            problems.join(",")
        );
        errors.invalid(&at.child("kind"), quoted(name), words);
    }
}

/// Checks a binding of either kind.
pub(super) fn check_binding(spec: &Value, mutating: bool, path: &Path, errors: &mut ErrorList) {
    required_name(spec, "policyName", names::dns1123_subdomain, path, errors);
    if has(spec, "paramRef") {
        check_param_ref(&spec["paramRef"], &path.child("paramRef"), errors);
    }
    if has(spec, "matchResources") {
        check_match(&spec["matchResources"], &path.child("matchResources"), errors);
    }
    if !mutating {
        check_actions(spec, &path.child("validationActions"), errors);
    }
}

fn check_actions(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const ACTIONS: [&str; 3] = ["Audit", "Deny", "Warn"];
    let mut seen = BTreeSet::new();
    for (i, action) in items(spec, "validationActions").enumerate() {
        let action = action.as_str().unwrap_or_default();
        if !ACTIONS.contains(&action) {
            errors.not_supported(&path.index(i), action, &ACTIONS);
        }
        if !seen.insert(action) {
            errors.duplicate(&path.index(i), quoted(action));
        }
    }
    if seen.contains("Deny") && seen.contains("Warn") {
        errors.invalid(
            path,
            &spec["validationActions"],
            "must not contain both Deny and Warn (repeating the same validation failure information in the API \
             response and headers serves no purpose)",
        );
    }
    if seen.is_empty() {
        errors.required(path, "at least one validation action is required");
    }
}

fn check_param_ref(param: &Value, at: &Path, errors: &mut ErrorList) {
    let (name, selector) = (text(param, "name"), has(param, "selector"));
    if !name.is_empty() {
        named(name, names::path_segment, &at.child("name"), errors);
        if selector {
            errors.forbidden(&at.child("name"), "name and selector are mutually exclusive");
            errors.forbidden(&at.child("selector"), "name and selector are mutually exclusive");
        }
    } else if !selector {
        errors.required(at, "one of name or selector must be specified");
    }
    check::label_selector(&param["selector"], &at.child("selector"), errors);
    must_be_one_of(param, "parameterNotFoundAction", &["Deny", "Allow"], at, errors);
}

/// Checks the status of a validating policy.
pub(super) fn check_status(status: &Value, path: &Path, errors: &mut ErrorList) {
    let path = path.child("typeChecking").child("expressionWarnings");
    for (i, warning) in items(&status["typeChecking"], "expressionWarnings").enumerate() {
        for field in ["warning", "fieldRef"] {
            if text(warning, field).trim().is_empty() {
                errors.required(&path.index(i).child(field), "");
            }
        }
    }
}

fn is_identifier(name: &str) -> bool {
    const RESERVED: [&str; 21] = [
        "true",
        "false",
        "null",
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
    ];
    let starts = name.starts_with(|c: char| c == '_' || c.is_ascii_alphabetic());
    let goes_on = name.bytes().all(|b| b == b'_' || b.is_ascii_alphanumeric());
    starts && goes_on && !RESERVED.contains(&name)
}
