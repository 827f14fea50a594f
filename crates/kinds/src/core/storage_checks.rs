//! What claims and volumes must hold to.

use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use crate::edit::{items, text};

/// Access modes, and how tables show them.
pub(super) const MODES: [(&str, &str); 4] = [
    ("ReadWriteOnce", "RWO"),
    ("ReadOnlyMany", "ROX"),
    ("ReadWriteMany", "RWX"),
    ("ReadWriteOncePod", "RWOP"),
];

/// Checks the spec of a claim, or of a template of one.
pub(crate) fn check_claim_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    check_claim_modes(spec, &path.child("accessModes"), errors);
    crate::check::label_selector(&spec["selector"], &path.child("selector"), errors);
    let at = path.child("resources").key("storage");
    match spec.pointer("/resources/requests/storage") {
        None | Some(Value::Null) => errors.required(&at, ""),
        Some(given) => match crate::check::quantity(given) {
            Some(q) if !q.is_negative() && !q.is_zero() => {}
            Some(q) => errors.invalid(&at, quoted(&q.to_string()), "must be greater than zero"),
            None => errors.invalid(&at, crate::check::show(given), "must be a valid resource quantity"),
        },
    }
    for field in ["storageClassName", "volumeAttributesClassName"] {
        let name = text(spec, field);
        if !name.is_empty() {
            crate::check::named(name, meta::names::dns1123_subdomain, &path.child(field), errors);
        }
    }
    crate::check::one_of(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
    check_source(spec, path, errors);
}

fn check_claim_modes(spec: &Value, at: &Path, errors: &mut ErrorList) {
    if items(spec, "accessModes").next().is_none() {
        errors.required(at, "at least 1 access mode is required");
    }
    let mut known: Vec<&str> = MODES.iter().map(|(long, _)| *long).collect();
    known.sort_unstable();
    let given: Vec<&str> = items(spec, "accessModes").filter_map(Value::as_str).collect();
    for mode in &given {
        if !known.contains(mode) {
            errors.not_supported(at, mode, &known);
        }
    }
    if given.len() > 1 && given.contains(&"ReadWriteOncePod") {
        errors.forbidden(at, "may not use ReadWriteOncePod with other access modes");
    }
}

/// Where a claim's first content comes from.
fn check_source(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in ["dataSource", "dataSourceRef"] {
        let (source, at) = (&spec[field], path.child(field));
        if !source.is_object() {
            continue;
        }
        crate::check::required(source, "name", &at, errors);
        crate::check::required(source, "kind", &at, errors);
        if text(source, "apiGroup").is_empty() && text(source, "kind") != "PersistentVolumeClaim" {
            let words = "must be 'PersistentVolumeClaim' when referencing the default apiGroup";
            errors.invalid(&at, quoted(text(source, "kind")), words);
        }
    }
}

/// Checks the spec of a volume.
pub(super) fn check_volume(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const KNOWN: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    check_claim_modes(spec, &path.child("accessModes"), errors);
    let capacity = path.child("capacity");
    match spec["capacity"].as_object().filter(|c| !c.is_empty()) {
        None => errors.required(&capacity, ""),
        Some(map) if map.len() > 1 || !map.contains_key("storage") => {
            let shown = quoted(&spec["capacity"].to_string());
            errors.add(
                meta::field::ErrorKind::NotSupported,
                &capacity,
                shown,
                "supported values: \"storage\"",
            );
        }
        Some(map) => {
            let amount = crate::check::quantity(&map["storage"]);
            if let Some(q) = amount.filter(|q| q.is_negative() || q.is_zero()) {
                let at = capacity.key("storage");
                errors.invalid(&at, quoted(&q.to_string()), "must be greater than zero");
            }
        }
    }
    if let Some(selector) = spec["nodeAffinity"].get("required").filter(|r| r.is_object()) {
        let at = path.child("nodeAffinity").child("required");
        crate::pods::check_node_selector(selector, &at, errors);
    } else if spec["nodeAffinity"].is_object() {
        let words = "must specify required node constraints";
        errors.required(&path.child("nodeAffinity").child("required"), words);
    }
    let mut sources = spec
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(k, v)| !KNOWN.contains(&k.as_str()) && !v.is_null());
    match sources.next() {
        None => errors.required(path, "must specify a volume type"),
        Some((kind, source)) => check_volume_source(kind, source, spec, path, errors),
    }
    for (kind, _) in sources {
        errors.forbidden(&path.child(kind), "may not specify more than 1 volume type");
    }
    let class = text(spec, "storageClassName");
    if !class.is_empty() {
        crate::check::named(
            class,
            meta::names::dns1123_subdomain,
            &path.child("storageClassName"),
            errors,
        );
    }
    crate::check::one_of(
        spec,
        "persistentVolumeReclaimPolicy",
        &["Delete", "Recycle", "Retain"],
        path,
        errors,
    );
    crate::check::one_of(spec, "volumeMode", &["Block", "Filesystem"], path, errors);
}

fn check_volume_source(kind: &str, source: &Value, spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child(kind);
    match kind {
        "hostPath" => crate::pods::check_host_path(source, &at, errors),
        "local" => {
            crate::check::required(source, "path", &at, errors);
            if !spec["nodeAffinity"].is_object() {
                let words = "Local volume requires node affinity";
                errors.required(&path.child("nodeAffinity"), words);
            }
        }
        "csi" => {
            crate::check::required(source, "driver", &at, errors);
            crate::check::required(source, "volumeHandle", &at, errors);
        }
        "nfs" => {
            crate::check::required(source, "server", &at, errors);
            crate::check::required(source, "path", &at, errors);
        }
        _ => {}
    }
}
