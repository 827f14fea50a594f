//! Checks of what containers mount, and of paths within volumes.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use super::volumes::Volumes;
use crate::check::{has, one_of};
use crate::edit::{items, text};

/// Checks `volumeMounts` and `volumeDevices`.
pub(super) fn check_mounts(container: &Value, volumes: &Volumes, at: &Path, errors: &mut ErrorList) {
    let collect = |list: &str, field: &str| -> BTreeSet<&str> {
        items(container, list)
            .map(|m| text(m, field))
            .filter(|t| !t.is_empty())
            .collect()
    };
    let devices = (collect("volumeDevices", "name"), collect("volumeDevices", "devicePath"));
    let mut places = BTreeSet::new();
    for (i, mount) in items(container, "volumeMounts").enumerate() {
        let at = at.child("volumeMounts").index(i);
        check_name(mount, volumes, &at, errors);
        let (name, place) = (text(mount, "name"), text(mount, "mountPath"));
        if devices.0.contains(name) {
            errors.invalid(
                &at.child("name"),
                quoted(name),
                "must not already exist in volumeDevices",
            );
        }
        if place.is_empty() {
            errors.required(&at.child("mountPath"), "");
        } else {
            if !places.insert(place) {
                errors.invalid(&at.child("mountPath"), quoted(place), "must be unique");
            }
            if devices.1.contains(place) {
                let words = "must not already exist as a path in volumeDevices";
                errors.invalid(&at.child("mountPath"), quoted(place), words);
            }
        }
        check_sub_paths(mount, &at, errors);
        check_propagation(mount, container, &at, errors);
    }
    let (mut names, mut paths) = (BTreeSet::new(), BTreeSet::new());
    for (i, device) in items(container, "volumeDevices").enumerate() {
        let at = at.child("volumeDevices").index(i);
        check_name(device, volumes, &at, errors);
        let (name, path) = (text(device, "name"), text(device, "devicePath"));
        if !name.is_empty() && !names.insert(name) {
            errors.invalid(&at.child("name"), quoted(name), "must be unique");
        }
        if volumes.contains(name) && !volumes.is_claim(name) {
            let words = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
            errors.invalid(&at.child("name"), quoted(name), words);
        }
        if path.is_empty() {
            errors.required(&at.child("devicePath"), "");
        } else {
            if !paths.insert(path) {
                errors.invalid(&at.child("devicePath"), quoted(path), "must be unique");
            }
            if path.split('/').any(|p| p == "..") {
                errors.invalid(&at.child("devicePath"), quoted(path), "must not contain '..'");
            }
            if places.contains(path) {
                let words = "must not already exist as a path in volumeMounts";
                errors.invalid(&at.child("devicePath"), quoted(path), words);
            }
        }
    }
}

fn check_name(mount: &Value, volumes: &Volumes, at: &Path, errors: &mut ErrorList) {
    match text(mount, "name") {
        "" => errors.required(&at.child("name"), ""),
        name if !volumes.contains(name) => errors.not_found(&at.child("name"), quoted(name)),
        _ => {}
    }
}

fn check_sub_paths(mount: &Value, at: &Path, errors: &mut ErrorList) {
    let (plain, expanded) = (text(mount, "subPath"), text(mount, "subPathExpr"));
    if !plain.is_empty() {
        descending(plain, &at.child("subPath"), errors);
    }
    if !expanded.is_empty() {
        if !plain.is_empty() {
            let words = "subPathExpr and subPath are mutually exclusive";
            errors.invalid(&at.child("subPathExpr"), quoted(expanded), words);
        }
        descending(expanded, &at.child("subPathExpr"), errors);
    }
}

fn check_propagation(mount: &Value, container: &Value, at: &Path, errors: &mut ErrorList) {
    const MODES: [&str; 3] = ["Bidirectional", "HostToContainer", "None"];
    one_of(mount, "mountPropagation", &MODES, at, errors);
    let propagation = text(mount, "mountPropagation");
    if propagation == "Bidirectional" && container["securityContext"]["privileged"] != true {
        errors.forbidden(
            &at.child("mountPropagation"),
            "Bidirectional mount propagation is available only to privileged containers",
        );
    }
    if has(mount, "recursiveReadOnly") {
        let place = at.child("recursiveReadOnly");
        let mode = text(mount, "recursiveReadOnly");
        if !["Disabled", "Enabled", "IfPossible"].contains(&mode) {
            errors.not_supported(&place, mode, &["Disabled", "Enabled", "IfPossible"]);
        } else if mode != "Disabled" {
            if mount["readOnly"] != true {
                errors.forbidden(&place, "may only be specified when readOnly is true");
            }
            if !matches!(propagation, "" | "None") {
                errors.forbidden(
                    &place,
                    "may only be specified when mountPropagation is None or not specified",
                );
            }
        }
    }
}

/// A path that stays below where it begins.
pub(super) fn descending(path: &str, at: &Path, errors: &mut ErrorList) {
    if path.starts_with('/') {
        errors.invalid(at, quoted(path), "must be a relative path");
    }
    if path.split('/').any(|part| part == "..") {
        errors.invalid(at, quoted(path), "must not contain '..'");
    }
}
