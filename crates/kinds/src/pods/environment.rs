//! Checks of containers' environments.

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{has, named, required};
use crate::edit::{items, text};

/// What is wrong with the name of a variable.
fn name_problems(name: &str) -> Vec<String> {
    let fine = |c: char| c.is_ascii_graphic() && c != '=' || c == ' ';
    if name.chars().all(fine) {
        return Vec::new();
    }
    vec!["a valid environment variable name must consist only of printable ASCII characters other than '='".to_owned()]
}

const SOURCES: [&str; 5] = [
    "fieldRef",
    "resourceFieldRef",
    "configMapKeyRef",
    "secretKeyRef",
    "fileKeyRef",
];

/// Checks `env` and `envFrom`.
pub(super) fn check_environment(container: &Value, at: &Path, errors: &mut ErrorList) {
    for (i, variable) in items(container, "env").enumerate() {
        let at = at.child("env").index(i);
        if required(variable, "name", &at, errors) {
            named(text(variable, "name"), name_problems, &at.child("name"), errors);
        }
        if has(variable, "valueFrom") {
            check_source(variable, &at.child("valueFrom"), errors);
        }
    }
    for (i, source) in items(container, "envFrom").enumerate() {
        let at = at.child("envFrom").index(i);
        named(text(source, "prefix"), name_problems, &at.child("prefix"), errors);
        let given: Vec<&str> = ["configMapRef", "secretRef"]
            .into_iter()
            .filter(|f| has(source, f))
            .collect();
        for field in &given {
            let name = text(&source[*field], "name");
            named(name, names::dns1123_subdomain, &at.child(field).child("name"), errors);
        }
        match given.len() {
            0 => errors.invalid(&at, "\"\"", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&at, "\"\"", "may not have more than one field specified at a time"),
        }
    }
}

fn check_source(variable: &Value, at: &Path, errors: &mut ErrorList) {
    let source = &variable["valueFrom"];
    let given: Vec<&str> = SOURCES.into_iter().filter(|f| has(source, f)).collect();
    for field in &given {
        let (reference, at) = (&source[*field], at.child(field));
        match *field {
            "fieldRef" => check_field(reference, &IN_ENVIRONMENT, &at, errors),
            "resourceFieldRef" => check_resource_field(reference, true, &at, errors),
            "fileKeyRef" => {
                for field in ["volumeName", "path", "key"] {
                    required(reference, field, &at, errors);
                }
            }
            _ => check_key(reference, &at, errors),
        }
    }
    if given.is_empty() {
        let words = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                     `fileKeyRef`";
        return errors.invalid(at, "\"\"", words);
    }
    if !text(variable, "value").is_empty() {
        errors.invalid(at, "\"\"", "may not be specified when `value` is not empty");
    } else if given.len() > 1 {
        errors.invalid(at, "\"\"", "may not have more than one field specified at a time");
    }
}

fn check_key(reference: &Value, at: &Path, errors: &mut ErrorList) {
    let name = text(reference, "name");
    named(name, names::dns1123_subdomain, &at.child("name"), errors);
    match text(reference, "key") {
        "" => errors.required(&at.child("key"), ""),
        key => named(key, names::config_key, &at.child("key"), errors),
    }
}

/// Fields that the environment may show.
const IN_ENVIRONMENT: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
/// Fields that a volume may show.
const IN_VOLUMES: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];

fn check_field(reference: &Value, known: &[&str], at: &Path, errors: &mut ErrorList) {
    if !required(reference, "apiVersion", at, errors) || !required(reference, "fieldPath", at, errors) {
        return;
    }
    let (path, place) = (text(reference, "fieldPath"), at.child("fieldPath"));
    let keyed = ["metadata.annotations['", "metadata.labels['"]
        .iter()
        .find_map(|p| path.strip_prefix(p)?.strip_suffix("']"));
    match keyed {
        Some(key) => named(key, names::qualified_name, &place, errors),
        None if known.contains(&path) => {}
        None if IN_ENVIRONMENT.contains(&path) || IN_VOLUMES.contains(&path) => {
            errors.not_supported(&place, path, known);
        }
        None => {
            let words = format!("error converting fieldPath: field label not supported: {path}");
            errors.invalid(&place, quoted(path), words);
        }
    }
}

/// Checks a reference to a resource of a container.
pub(super) fn check_resource_field(reference: &Value, in_env: bool, at: &Path, errors: &mut ErrorList) {
    const RESOURCES: [&str; 6] = [
        "limits.cpu",
        "limits.ephemeral-storage",
        "limits.memory",
        "requests.cpu",
        "requests.ephemeral-storage",
        "requests.memory",
    ];
    if !in_env {
        required(reference, "containerName", at, errors);
    }
    if !required(reference, "resource", at, errors) {
        return;
    }
    let resource = text(reference, "resource");
    let huge = ["limits.hugepages-", "requests.hugepages-"]
        .iter()
        .any(|p| resource.starts_with(p));
    if !RESOURCES.contains(&resource) && !huge {
        errors.not_supported(&at.child("resource"), resource, &RESOURCES);
    }
}

/// Checks an item of a downward API volume.
pub(super) fn check_item(item: &Value, at: &Path, errors: &mut ErrorList) {
    match (has(item, "fieldRef"), has(item, "resourceFieldRef")) {
        (true, true) => {
            let words = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid(at, "\"resource\"", words);
        }
        (true, false) => check_field(&item["fieldRef"], &IN_VOLUMES, &at.child("fieldRef"), errors),
        (false, true) => check_resource_field(&item["resourceFieldRef"], false, &at.child("resourceFieldRef"), errors),
        (false, false) => errors.required(at, "one of fieldRef and resourceFieldRef is required"),
    }
}
