//! Checks of requests and limits.

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{NOT_NEGATIVE, must_be_one_of, named, quantity, show};
use crate::edit::{items, text};

/// Whether more of a resource may be promised than there is.
fn overcommits(name: &str) -> bool {
    (!name.contains('/') || name.starts_with("kubernetes.io/") || name.contains(".kubernetes.io/"))
        && !name.starts_with("hugepages-")
}

/// What is wrong with the name of a resource that containers ask for.
fn check_name(name: &str, at: &Path, errors: &mut ErrorList) {
    let before = errors.0.len();
    named(name, names::qualified_name, at, errors);
    if errors.0.len() > before {
        return;
    }
    let standard = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
    if !name.contains('/') {
        if !standard {
            errors.invalid(at, quoted(name), "must be a standard resource for containers");
        }
    } else if !native(name) && name.starts_with("requests.") {
        errors.invalid(at, quoted(name), "doesn't follow extended resource name standard");
    }
}

fn native(name: &str) -> bool {
    name.split('/')
        .next()
        .is_some_and(|domain| domain == "kubernetes.io" || domain.ends_with(".kubernetes.io"))
}

/// Checks `resources` of a container, or of a pod as a whole.
pub(super) fn check_resources(owner: &Value, spec: &Value, at: &Path, errors: &mut ErrorList) {
    let (resources, at) = (&owner["resources"], at.child("resources"));
    for kind in ["limits", "requests"] {
        for (name, value) in resources[kind].as_object().into_iter().flatten() {
            let place = at.child(kind).key(name);
            check_name(name, &place, errors);
            check_amount(name, value, &place, errors);
            if kind == "requests" {
                check_limit(resources, name, &at, errors);
            }
        }
    }
    for (i, claim) in items(resources, "claims").enumerate() {
        let name = text(claim, "name");
        let place = at.child("claims").index(i);
        if name.is_empty() {
            errors.required(&place.child("name"), "");
        } else if !items(spec, "resourceClaims").any(|c| text(c, "name") == name) {
            errors.not_found(&place, quoted(name));
        }
    }
}

fn check_amount(name: &str, value: &Value, at: &Path, errors: &mut ErrorList) {
    let Some(amount) = quantity(value) else {
        return errors.invalid(
            at,
            show(value),
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        );
    };
    if amount.is_negative() {
        errors.invalid(at, quoted(&amount.to_string()), NOT_NEGATIVE);
    }
    let whole = name.contains('/') || name.starts_with("hugepages-");
    if whole && amount.millis() % 1000 != 0 {
        errors.invalid(at, quoted(&amount.to_string()), "must be an integer");
    }
}

fn check_limit(resources: &Value, name: &str, at: &Path, errors: &mut ErrorList) {
    let of = |kind: &str| quantity(&resources[kind][name]);
    let Some(request) = of("requests") else { return };
    let place = at.child("requests");
    match of("limits") {
        None if !overcommits(name) => errors.required(
            &at.child("limits"),
            "Limit must be set for non overcommitable resources",
        ),
        None => {}
        Some(limit) if request != limit && !overcommits(name) => {
            let words = format!("must be equal to {name} limit of {limit}");
            errors.invalid(&place, quoted(&request.to_string()), words);
        }
        Some(limit) if request > limit => {
            let words = format!("must be less than or equal to {name} limit of {limit}");
            errors.invalid(&place, quoted(&request.to_string()), words);
        }
        Some(_) => {}
    }
}

/// Checks `resizePolicy`.
pub(super) fn check_resize(container: &Value, at: &Path, errors: &mut ErrorList) {
    let mut seen = Vec::new();
    for policy in items(container, "resizePolicy") {
        let at = at.child("resizePolicy");
        let name = text(policy, "resourceName");
        must_be_one_of(policy, "resourceName", &["cpu", "memory"], &at, errors);
        must_be_one_of(
            policy,
            "restartPolicy",
            &["NotRequired", "RestartContainer"],
            &at,
            errors,
        );
        if seen.contains(&name) {
            errors.duplicate(&at, quoted(name));
        }
        seen.push(name);
    }
}
