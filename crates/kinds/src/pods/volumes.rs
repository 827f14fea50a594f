//! Checks of a pod's volumes.

use std::collections::BTreeMap;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::environment::check_item;
use super::mounts::descending;
use crate::check::{has, named, one_of, quantity, required, required_name};
use crate::edit::{items, text};

/// Names of the volumes, and their sources.
pub(super) struct Volumes(BTreeMap<String, String>);

impl Volumes {
    /// Whether there is a volume of this name.
    pub fn contains(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Whether it comes from a claim.
    pub fn is_claim(&self, name: &str) -> bool {
        let source = self.0.get(name).map(String::as_str);
        matches!(source, Some("persistentVolumeClaim" | "ephemeral"))
    }
}

/// Checks all volumes.
pub(super) fn check_volumes(spec: &Value, path: &Path, errors: &mut ErrorList) -> Volumes {
    let mut known = BTreeMap::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(i);
        let source = check_sources(volume, &at, errors);
        let name = text(volume, "name");
        required_name(volume, "name", names::dns1123_label, &at, errors);
        if !name.is_empty() {
            if known.contains_key(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
            known.insert(name.to_owned(), source);
        }
    }
    Volumes(known)
}

fn check_sources(volume: &Value, at: &Path, errors: &mut ErrorList) -> String {
    let mut first = String::new();
    let given = volume.as_object().into_iter().flatten();
    for (kind, source) in given.filter(|(k, v)| *k != "name" && !v.is_null()) {
        let at = at.child(kind);
        if first.is_empty() {
            first.clone_from(kind);
            check_source(kind, source, &at, errors);
        } else {
            errors.forbidden(&at, "may not specify more than 1 volume type");
        }
    }
    if first.is_empty() {
        errors.required(at, "must specify a volume type");
    }
    first
}

fn check_source(kind: &str, source: &Value, at: &Path, errors: &mut ErrorList) {
    match kind {
        "emptyDir" => {
            if quantity(&source["sizeLimit"]).is_some_and(|q| q.is_negative()) {
                let words = "SizeLimit field must be a valid resource quantity";
                errors.forbidden(&at.child("sizeLimit"), words);
            }
        }
        "hostPath" => check_host_path(source, at, errors),
        "secret" => {
            required(source, "secretName", at, errors);
            check_files(source, at, errors);
        }
        "configMap" => {
            required(source, "name", at, errors);
            check_files(source, at, errors);
        }
        "downwardAPI" => check_downward(source, at, errors),
        "projected" => check_projected(source, at, errors),
        "persistentVolumeClaim" => {
            required(source, "claimName", at, errors);
        }
        "ephemeral" => {
            let place = at.child("volumeClaimTemplate");
            if has(source, "volumeClaimTemplate") {
                let spec = &source["volumeClaimTemplate"]["spec"];
                crate::core::check_claim_spec(spec, &place.child("spec"), errors);
            } else {
                errors.required(&place, "");
            }
        }
        "csi" => {
            required_name(source, "driver", names::dns1123_subdomain, at, errors);
        }
        "nfs" => {
            required(source, "server", at, errors);
            if required(source, "path", at, errors) && !text(source, "path").starts_with('/') {
                let path = quoted(text(source, "path"));
                errors.invalid(&at.child("path"), path, "must be an absolute path");
            }
        }
        "image" => {
            required(source, "reference", at, errors);
            one_of(source, "pullPolicy", &["Always", "IfNotPresent", "Never"], at, errors);
        }
        _ => check_old(kind, source, at, errors),
    }
}

/// Kinds of storage that were built in once: what they cannot be without.
fn check_old(kind: &str, source: &Value, at: &Path, errors: &mut ErrorList) {
    let fields: &[&str] = match kind {
        "gcePersistentDisk" => &["pdName"],
        "awsElasticBlockStore" => &["volumeID"],
        "gitRepo" => &["repository"],
        "iscsi" => &["targetPortal", "iqn"],
        "glusterfs" => &["endpoints", "path"],
        "rbd" => &["image"],
        "flexVolume" => &["driver"],
        "cinder" => &["volumeID"],
        "azureFile" => &["secretName", "shareName"],
        "vsphereVolume" => &["volumePath"],
        "quobyte" => &["registry", "volume"],
        "azureDisk" => &["diskName", "diskURI"],
        "portworxVolume" => &["volumeID"],
        "scaleIO" => &["gateway", "system", "volumeName"],
        "storageos" => &[],
        _ => &[],
    };
    for field in fields {
        required(source, field, at, errors);
    }
}

/// Checks a path on the node.
pub(crate) fn check_host_path(source: &Value, at: &Path, errors: &mut ErrorList) {
    const TYPES: [&str; 8] = [
        "",
        "BlockDevice",
        "CharDevice",
        "Directory",
        "DirectoryOrCreate",
        "File",
        "FileOrCreate",
        "Socket",
    ];
    if required(source, "path", at, errors) {
        let path = text(source, "path");
        if path.split('/').any(|part| part == "..") {
            errors.invalid(&at.child("path"), quoted(path), "must not contain '..'");
        }
    }
    one_of(source, "type", &TYPES, at, errors);
}

const MODE: &str = "must be a number between 0 and 0777 (octal), both inclusive";

fn check_mode(owner: &Value, field: &str, at: &Path, errors: &mut ErrorList) {
    if let Some(mode) = owner[field].as_i64().filter(|m| !(0..=0o777).contains(m)) {
        errors.invalid(&at.child(field), mode, MODE);
    }
}

fn check_target(path: &str, at: &Path, errors: &mut ErrorList) {
    descending(path, at, errors);
    if path.starts_with("..") && !path.starts_with("../") && path != ".." {
        errors.invalid(at, quoted(path), "must not start with '..'");
    }
}

fn check_files(source: &Value, at: &Path, errors: &mut ErrorList) {
    check_mode(source, "defaultMode", at, errors);
    for (i, item) in items(source, "items").enumerate() {
        let at = at.child("items").index(i);
        required(item, "key", &at, errors);
        if required(item, "path", &at, errors) {
            check_target(text(item, "path"), &at.child("path"), errors);
        }
        check_mode(item, "mode", &at, errors);
    }
}

fn check_downward(source: &Value, at: &Path, errors: &mut ErrorList) {
    check_mode(source, "defaultMode", at, errors);
    for item in items(source, "items") {
        if required(item, "path", at, errors) {
            check_target(text(item, "path"), &at.child("path"), errors);
        }
        check_item(item, at, errors);
        check_mode(item, "mode", at, errors);
    }
}

fn check_projected(source: &Value, at: &Path, errors: &mut ErrorList) {
    const KINDS: [&str; 6] = [
        "secret",
        "configMap",
        "downwardAPI",
        "serviceAccountToken",
        "clusterTrustBundle",
        "podCertificate",
    ];
    check_mode(source, "defaultMode", at, errors);
    for (i, part) in items(source, "sources").enumerate() {
        let at = at.child("sources").index(i);
        let mut given = KINDS.into_iter().filter(|k| has(part, k));
        let Some(kind) = given.next() else {
            errors.required(&at, "must specify a volume type");
            continue;
        };
        if let Some(second) = given.next() {
            errors.forbidden(&at.child(second), "may not specify more than 1 volume type");
        }
        check_part(kind, &part[kind], &at.child(kind), errors);
    }
}

fn check_part(kind: &str, part: &Value, at: &Path, errors: &mut ErrorList) {
    const SHORTEST: i64 = 600;
    match kind {
        "secret" | "configMap" => {
            required(part, "name", at, errors);
            check_files(part, at, errors);
        }
        "downwardAPI" => check_downward(part, at, errors),
        "serviceAccountToken" => {
            let (seconds, place) = (part["expirationSeconds"].as_i64(), at.child("expirationSeconds"));
            if let Some(n) = seconds.filter(|n| *n < SHORTEST) {
                errors.invalid(&place, n, "may not specify a duration less than 10 minutes");
            }
            if let Some(n) = seconds.filter(|n| *n > 1 << 32) {
                errors.invalid(&place, n, "may not specify a duration larger than 2^32 seconds");
            }
            if required(part, "path", at, errors) {
                check_target(text(part, "path"), &at.child("path"), errors);
            }
        }
        _ => {
            let field = if kind == "clusterTrustBundle" {
                "path"
            } else {
                "signerName"
            };
            required(part, field, at, errors);
            let name = text(part, "name");
            if !name.is_empty() {
                named(name, names::path_segment, &at.child("name"), errors);
            }
        }
    }
}
