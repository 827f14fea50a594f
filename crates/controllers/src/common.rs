//! What several controllers do in the same way: owners, adoption, names, the
//! state of pods.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition};
use meta::selector::LabelSelector;
use meta::{Gvr, Object};
use reconcile::{Key, Plan, View};
use serde_json::{Value, json};

/// An owner reference that says who controls.
pub(crate) fn owner_reference(owner: &Object) -> Value {
    json!({"apiVersion": owner.header().api_version, "kind": owner.header().kind, "name": owner.name(),
        "uid": owner.uid(), "controller": true, "blockOwnerDeletion": true})
}

/// Whether an object is controlled by this very owner.
pub(crate) fn controlled_by(object: &Object, owner: &Object) -> bool {
    object.controller().is_some_and(|o| o.uid == owner.uid())
}

/// The objects that an owner controls. Those that match the selector without being controlled
/// are adopted, those that are controlled without matching are let go: both are written into `plan`.
pub(crate) fn claim(
    plan: &mut Plan,
    gvr: &Gvr,
    owner: &Object,
    selector: &LabelSelector,
    view: &dyn View,
) -> Vec<Arc<Object>> {
    let mut out = Vec::new();
    for object in view.owned(gvr, owner.uid()) {
        if !controlled_by(&object, owner) {
            continue;
        }
        if selector.matches(object.labels()) || object.is_deleting() {
            out.push(object);
        } else {
            let others = object.header().owner_references.iter().filter(|o| o.uid != owner.uid());
            let patch = json!({"metadata": {"ownerReferences": others.collect::<Vec<_>>()}});
            plan.patch(gvr, &object, patch);
        }
    }
    if owner.is_deleting() {
        return out;
    }
    for object in view.owned(gvr, "") {
        let ours = object.namespace() == owner.namespace() && selector.matches(object.labels());
        if !ours || object.is_deleting() {
            continue;
        }
        let mut owners = json!(object.header().owner_references);
        if let Some(list) = owners.as_array_mut() {
            list.push(owner_reference(owner));
        }
        plan.patch(gvr, &object, json!({"metadata": {"ownerReferences": owners}}));
        out.push(object);
    }
    out
}

/// The keys of the objects of `gvr` whose `spec.selector` matches an object that nobody controls.
pub(crate) fn selectors_of_orphan(gvr: &Gvr, object: &Object, view: &dyn View) -> Vec<Key> {
    if object.controller().is_some() {
        return Vec::new();
    }
    let all = view.list(gvr, object.namespace());
    all.iter()
        .filter(|o| selector(o).is_some_and(|s| !s.is_everything() && s.matches(object.labels())))
        .map(|o| Key::of(o))
        .collect()
}

/// `spec.selector` as a label selector.
pub(crate) fn selector(object: &Object) -> Option<LabelSelector> {
    #[derive(serde::Deserialize)]
    struct Wanted {
        spec: Spec,
    }
    #[derive(serde::Deserialize)]
    struct Spec {
        #[serde(default)]
        selector: Value,
    }
    let wanted: Wanted = serde_json::from_slice(object.raw()).ok()?;
    LabelSelector::from_object(&wanted.spec.selector).ok()
}

/// The alphabet of generated names: no vowels, so that no words come out.
const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// FNV-1a, 64 bits: stable across versions, unlike the standard library's hasher.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| {
        (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// A number as `length` letters that may stand in a name.
pub(crate) fn letters(mut number: u64, length: usize) -> String {
    let base = LETTERS.len() as u64;
    // Mix: the low digits of FNV alone are weak.
    number ^= number >> 29;
    number = number.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    number ^= number >> 32;
    let mut out = String::with_capacity(length);
    for _ in 0..length {
        out.push(char::from(LETTERS[(number % base) as usize]));
        number /= base;
    }
    out
}

/// A name for something new: `<prefix><5 letters>`, another one for each owner, time and index.
pub(crate) fn fresh_name(prefix: &str, uid: &str, now: Timestamp, index: usize) -> String {
    let seed = format!("{uid}/{}/{index}", now.as_nanosecond());
    format!("{}{}", base_name(prefix), letters(hash(seed.as_bytes()), 5))
}

/// As much of a prefix as leaves room for a suffix of 5 letters.
pub(crate) fn base_name(prefix: &str) -> &str {
    let end = prefix.len().min(meta::names::LABEL_MAX - 5);
    prefix.get(..end).unwrap_or(prefix)
}

/// A condition of a pod.
pub(crate) fn pod_condition<'a>(pod: &'a Pod, kind: &str) -> Option<&'a PodCondition> {
    pod.status
        .as_ref()?
        .conditions
        .as_ref()?
        .iter()
        .find(|c| c.type_ == kind)
}

/// Whether a pod is ready.
pub(crate) fn is_ready(pod: &Pod) -> bool {
    pod_condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Since when a pod is ready.
pub(crate) fn ready_since(pod: &Pod) -> Option<Timestamp> {
    let ready = pod_condition(pod, "Ready").filter(|c| c.status == "True")?;
    Some(ready.last_transition_time.as_ref()?.0)
}

/// Whether a pod has been ready for so many seconds; if not yet, how long it takes.
pub(crate) fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Result<(), Option<Duration>> {
    if !is_ready(pod) {
        return Err(None);
    }
    if min_ready_seconds <= 0 {
        return Ok(());
    }
    let since = ready_since(pod).ok_or(None)?;
    let left = SignedDuration::from_secs(min_ready_seconds.into()) - now.duration_since(since);
    if left.is_positive() {
        Err(Some(left.unsigned_abs()))
    } else {
        Ok(())
    }
}

/// `status.phase`.
pub(crate) fn phase(pod: &Pod) -> &str {
    pod.status
        .as_ref()
        .and_then(|s| s.phase.as_deref())
        .unwrap_or("Pending")
}

/// Whether a pod has ended.
pub(crate) fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether a pod counts towards what was asked for.
pub(crate) fn is_active(object: &Object, pod: &Pod) -> bool {
    !is_terminal(pod) && !object.is_deleting()
}

/// A count or a percentage of `total`.
pub(crate) fn scaled(value: Option<&Value>, total: i32, round_up: bool) -> i32 {
    match value {
        Some(Value::Number(n)) => n.as_i64().and_then(|n| n.try_into().ok()).unwrap_or(0),
        Some(Value::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let product = percent * i64::from(total);
            let scaled = if round_up { (product + 99) / 100 } else { product / 100 };
            scaled.try_into().unwrap_or(i32::MAX)
        }
        _ => 0,
    }
}

/// A map as JSON with one more entry.
pub(crate) fn with_label(labels: &BTreeMap<String, String>, name: &str, value: &str) -> BTreeMap<String, String> {
    let mut out = labels.clone();
    out.insert(name.to_owned(), value.to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_asked() {
        assert_eq!(scaled(Some(&json!("25%")), 10, true), 3);
        assert_eq!(scaled(Some(&json!("25%")), 10, false), 2);
        assert_eq!(scaled(Some(&json!(4)), 10, false), 4);
        assert_eq!(scaled(None, 10, true), 0);
    }

    #[test]
    fn fresh_names_differ_and_fit() {
        let now = Timestamp::UNIX_EPOCH;
        let long = "x".repeat(80);
        let names: std::collections::BTreeSet<_> = (0..1000).map(|i| fresh_name(&long, "uid", now, i)).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|n| n.len() == 63));
    }
}
