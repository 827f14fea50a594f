//! Selectors and configurations of devices: what classes and claims share.

use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::Value;

use crate::check::{has, named};
use crate::edit::{items, text};

const MOST: usize = 32;
const LONGEST_EXPRESSION: usize = 10 * 1024;
const LONGEST_DRIVER: usize = 63;

/// A list that may not be longer than upstream's.
pub(super) fn check_size(owner: &Value, field: &str, most: usize, at: &Path, errors: &mut ErrorList) {
    let n = items(owner, field).count();
    if n > most {
        errors.too_many(&at.child(field), n, most);
    }
}

/// Name of a driver.
pub(super) fn check_driver(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    if name.len() > LONGEST_DRIVER {
        errors.too_long(at, LONGEST_DRIVER);
    }
    named(name, names::dns1123_subdomain, at, errors);
}

/// `selectors`. Expressions are compiled by whoever evaluates them.
pub(super) fn check_selectors(owner: &Value, at: &Path, errors: &mut ErrorList) {
    check_size(owner, "selectors", MOST, at, errors);
    for (i, selector) in items(owner, "selectors").enumerate() {
        let at = at.child("selectors").index(i).child("cel");
        if !has(selector, "cel") {
            errors.required(&at, "");
            continue;
        }
        let expression = text(&selector["cel"], "expression");
        if expression.trim().is_empty() {
            errors.required(&at.child("expression"), "");
        }
        if expression.len() > LONGEST_EXPRESSION {
            errors.too_long(&at.child("expression"), LONGEST_EXPRESSION);
        }
    }
}

/// `config`; `known` are the names of requests that an entry may refer to.
pub(super) fn check_config(owner: &Value, known: Option<&[String]>, at: &Path, errors: &mut ErrorList) {
    check_size(owner, "config", MOST, at, errors);
    for (i, entry) in items(owner, "config").enumerate() {
        let at = at.child("config").index(i);
        check_references(entry, known.unwrap_or_default(), &at, errors);
        let opaque = &entry["opaque"];
        if !opaque.is_object() {
            errors.required(&at.child("opaque"), "");
            continue;
        }
        let at = at.child("opaque");
        check_driver(text(opaque, "driver"), &at.child("driver"), errors);
        let parameters = at.child("parameters");
        match &opaque["parameters"] {
            Value::Null => errors.required(&parameters, ""),
            Value::Object(_) => {}
            other => errors.invalid(&parameters, other, "must be a valid JSON object"),
        }
    }
}

/// `requests` of a constraint or a configuration: each must be a request of the claim.
pub(super) fn check_references(entry: &Value, known: &[String], at: &Path, errors: &mut ErrorList) {
    check_size(entry, "requests", MOST, at, errors);
    for (i, name) in items(entry, "requests").filter_map(Value::as_str).enumerate() {
        if !known.iter().any(|k| k == name) {
            errors.invalid(
                &at.child("requests").index(i),
                meta::field::quoted(name),
                "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
            );
        }
    }
}
