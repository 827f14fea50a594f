//! What of a pod may change once it is there.

use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use crate::check::has;
use crate::edit::{drop, items, items_mut, text};

/// Checks a change of a pod's spec.
pub(crate) fn check_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let (spec, was, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    for list in ["containers", "initContainers"] {
        if items(spec, list).count() != items(was, list).count() {
            let words = "pod updates may not add or remove containers";
            return errors.forbidden(&path.child(list), words);
        }
    }
    check_deadline(spec, was, &path.child("activeDeadlineSeconds"), errors);
    check_tolerations(spec, was, &path.child("tolerations"), errors);
    check_gates(spec, was, &path.child("schedulingGates"), errors);
    let gated = items(was, "schedulingGates").next().is_some();
    if gated {
        check_narrowing(spec, was, &path, errors);
    }
    if rest(spec, gated) != rest(was, gated) || !grace_kept(spec, was) {
        errors.forbidden(
            &path,
            "pod updates may not change fields other than `spec.containers[*].image`,\
             `spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to \
             existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
             previously negative)",
        );
    }
}

/// A spec without what may change, or is checked elsewhere.
fn rest(spec: &Value, gated: bool) -> Value {
    let mut spec = spec.clone();
    for field in [
        "activeDeadlineSeconds",
        "tolerations",
        "schedulingGates",
        "terminationGracePeriodSeconds",
        "ephemeralContainers",
    ] {
        drop(&mut spec, field);
    }
    for list in ["containers", "initContainers"] {
        items_mut(&mut spec, list).for_each(|c| drop(c, "image"));
    }
    if gated {
        drop(&mut spec, "nodeSelector");
        if let Some(nodes) = spec.pointer_mut("/affinity/nodeAffinity") {
            *nodes = Value::Null;
        }
        // An affinity that came with the change, and has nothing else in it, is no change.
        let empty = |v: &Value| v.as_object().is_none_or(|m| m.values().all(Value::is_null));
        if empty(&spec["affinity"]) {
            drop(&mut spec, "affinity");
        }
    }
    spec
}

fn grace_kept(spec: &Value, was: &Value) -> bool {
    let seconds = |s: &Value| s["terminationGracePeriodSeconds"].as_i64();
    seconds(spec) == seconds(was) || (seconds(was).is_some_and(|n| n < 0) && seconds(spec) == Some(1))
}

fn check_deadline(spec: &Value, was: &Value, at: &Path, errors: &mut ErrorList) {
    let seconds = |s: &Value| s["activeDeadlineSeconds"].as_i64();
    match (seconds(spec), seconds(was)) {
        (Some(new), Some(old)) if new > old => {
            errors.invalid(at, new, "must be less than or equal to previous value");
        }
        (None, Some(_)) => errors.invalid(at, "null", "must not update from a positive integer to nil value"),
        _ => {}
    }
}

fn check_tolerations(spec: &Value, was: &Value, at: &Path, errors: &mut ErrorList) {
    let same = |a: &Value, b: &Value| {
        let bare = |t: &Value| {
            let mut t = t.clone();
            drop(&mut t, "tolerationSeconds");
            t
        };
        bare(a) == bare(b)
    };
    for old in items(was, "tolerations") {
        if !items(spec, "tolerations").any(|new| same(new, old)) {
            let words = "existing toleration can not be modified except its tolerationSeconds";
            return errors.forbidden(at, words);
        }
    }
}

fn check_gates(spec: &Value, was: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, gate) in items(spec, "schedulingGates").enumerate() {
        if !items(was, "schedulingGates").any(|g| text(g, "name") == text(gate, "name")) {
            let words = format!(
                "only deletion is allowed, but found new scheduling gate '{}'",
                text(gate, "name")
            );
            errors.forbidden(&at.index(i), words);
        }
    }
}

/// While it is gated, a pod may be tied to fewer nodes, but not to others.
fn check_narrowing(spec: &Value, was: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, value) in was["nodeSelector"].as_object().into_iter().flatten() {
        if spec["nodeSelector"].get(key) != Some(value) {
            let at = path.child("nodeSelector").key(key);
            errors.invalid(
                &at,
                quoted(value.as_str().unwrap_or_default()),
                "only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            );
        }
    }
    const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
    let terms = |s: &Value| s["affinity"]["nodeAffinity"][REQUIRED].clone();
    if has(&was["affinity"]["nodeAffinity"], REQUIRED)
        && items(&terms(spec), "nodeSelectorTerms").count() != items(&terms(was), "nodeSelectorTerms").count()
    {
        let at = path
            .child("affinity")
            .child("nodeAffinity")
            .child(REQUIRED)
            .child("nodeSelectorTerms");
        errors.invalid(
            &at,
            &terms(spec)["nodeSelectorTerms"],
            "no additions/deletions to non-empty NodeSelectorTerms list are allowed",
        );
    }
}
