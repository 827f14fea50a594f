//! ResourceSlice: which devices a driver has to give.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::resource::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::configuration::{check_driver, check_size};
use crate::check::{has, immutable, must_be_one_of, named, required, required_name};
use crate::columns::{AGE, age, column};
use crate::edit::{default, int, items, items_mut, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    kind_names(
        super::GROUP,
        "v1",
        "ResourceSlice",
        "resourceslices",
        "resourceslice",
        &[],
    )
    .with(
        typed::<v1::ResourceSlice>,
        const {
            &[
                column("Node", "string"),
                column("Driver", "string"),
                column("Pool", "string"),
                AGE,
            ]
        },
        &Slice,
    )
    .cluster()
    .fields(&["spec.driver", "spec.nodeName"])
}

struct Slice;

const MOST_DEVICES: usize = 128;
const MOST_ATTRIBUTES: usize = 32;
const MOST_TAINTS: usize = 16;

fn stamp_taints(now: Timestamp, slice: &mut Value) {
    let Some(spec) = slice.get_mut("spec") else { return };
    for device in items_mut(spec, "devices") {
        for taint in items_mut(device, "taints") {
            default(taint, "timeAdded", meta::time::rfc3339(now));
        }
    }
}

impl Strategy for Slice {
    fn prepare_create(&self, context: &Context<'_>, slice: &mut Value) {
        stamp_taints(context.now, slice);
    }

    fn prepare_update(&self, context: &Context<'_>, new: &mut Value, _: &Value) {
        stamp_taints(context.now, new);
    }

    fn validate_create(&self, slice: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&slice["spec"], Path::new("spec"));
        check_driver(text(spec, "driver"), &path.child("driver"), &mut errors);
        check_pool(&spec["pool"], &path.child("pool"), &mut errors);
        check_place(spec, &path, &mut errors);
        check_size(spec, "devices", MOST_DEVICES, &path, &mut errors);
        let mut seen = BTreeSet::new();
        for (i, device) in items(spec, "devices").enumerate() {
            let at = path.child("devices").index(i);
            check_device(device, &at, &mut errors);
            let name = text(device, "name");
            if !seen.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let (spec, was, path) = (&new["spec"], &old["spec"], Path::new("spec"));
        for field in ["driver", "nodeName", "nodeSelector", "allNodes"] {
            immutable(&spec[field], &was[field], &path.child(field), &mut errors);
        }
        let at = path.child("pool").child("name");
        immutable(&spec["pool"]["name"], &was["pool"]["name"], &at, &mut errors);
        errors
    }

    fn row(&self, slice: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &slice["spec"];
        vec![
            text(spec, "nodeName").into(),
            text(spec, "driver").into(),
            text(&spec["pool"], "name").into(),
            age(slice, now),
        ]
    }
}

fn check_pool(pool: &Value, at: &Path, errors: &mut ErrorList) {
    const LONGEST: usize = 253;
    if required(pool, "name", at, errors) {
        let (name, at) = (text(pool, "name"), at.child("name"));
        if name.len() > LONGEST {
            errors.too_long(&at, LONGEST);
        }
        for part in name.split('/') {
            named(part, names::dns1123_subdomain, &at, errors);
        }
    }
    let slices = int(pool, "/resourceSliceCount");
    if slices <= 0 {
        let at = at.child("resourceSliceCount");
        errors.invalid(&at, slices, "must be greater than zero");
    }
    let generation = int(pool, "/generation");
    if generation < 0 {
        let words = "must be greater than or equal to zero";
        errors.invalid(&at.child("generation"), generation, words);
    }
}

fn check_place(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const WORDS: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection`, `sharedCounters` is required";
    if !text(spec, "nodeName").is_empty() {
        let at = path.child("nodeName");
        named(text(spec, "nodeName"), names::dns1123_subdomain, &at, errors);
    }
    let given = [
        has(spec, "nodeName"),
        has(spec, "nodeSelector"),
        spec["allNodes"] == true,
        spec["perDeviceNodeSelection"] == true,
        items(spec, "sharedCounters").next().is_some(),
    ];
    match given.iter().filter(|g| **g).count() {
        0 => errors.required(path, WORDS),
        1 => {}
        _ => errors.invalid(path, "null", format!("{WORDS}, but multiple fields are set")),
    }
}

fn check_device(device: &Value, at: &Path, errors: &mut ErrorList) {
    required_name(device, "name", names::dns1123_label, at, errors);
    let attributes = device["attributes"].as_object();
    let capacity = device["capacity"].as_object();
    let count = attributes.map_or(0, |m| m.len()) + capacity.map_or(0, |m| m.len());
    if count > MOST_ATTRIBUTES {
        let words = format!("the total number of attributes and capacities must not exceed {MOST_ATTRIBUTES}");
        errors.invalid(at, count, words);
    }
    for (key, value) in attributes.into_iter().flatten() {
        let at = at.child("attributes").key(key);
        match value
            .as_object()
            .into_iter()
            .flatten()
            .filter(|(_, v)| !v.is_null())
            .count()
        {
            0 => errors.required(&at, "exactly one value must be specified"),
            1 => {}
            _ => errors.invalid(&at, value, "exactly one value must be specified"),
        }
    }
    check_size(device, "taints", MOST_TAINTS, at, errors);
    for (i, taint) in items(device, "taints").enumerate() {
        let at = at.child("taints").index(i);
        required_name(taint, "key", names::qualified_name, &at, errors);
        named(text(taint, "value"), names::label_value, &at.child("value"), errors);
        must_be_one_of(taint, "effect", &["NoExecute", "NoSchedule", "None"], &at, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn slices() {
        let good = json!({"spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "resourceSliceCount": 1},
            "devices": [{"name": "gpu0", "attributes": {"model": {"string": "x"}}, "taints": [{"key": "a", "effect": "NoSchedule"}]}]}});
        assert!(Slice.validate_create(&good).is_empty());
        assert_eq!(
            Slice.row(&good, Timestamp::UNIX_EPOCH)[..3],
            [json!("n"), json!("d.example.com"), json!("p")]
        );
        for (pointer, value, words) in [
            ("/spec/driver", json!(""), "spec.driver: Required value"),
            (
                "/spec/pool",
                json!({"name": "p"}),
                "spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
            ),
            (
                "/spec/nodeName",
                json!(null),
                "spec: Required value: exactly one of `nodeName`, `nodeSelector`",
            ),
            (
                "/spec/devices/0/attributes",
                json!({"a": {}}),
                "attributes[a]: Required value: exactly one value must be specified",
            ),
            (
                "/spec/devices/0/taints",
                json!([{"key": "a"}]),
                "taints[0].effect: Required value",
            ),
        ] {
            let mut slice = good.clone();
            *slice.pointer_mut(pointer).unwrap() = value;
            expect(&Slice.validate_create(&slice), words);
        }
        let mut other = good.clone();
        other["spec"]["nodeName"] = "m".into();
        expect(
            &Slice.validate_update(&other, &good),
            "spec.nodeName: Invalid value: \"m\": field is immutable",
        );
    }
}
