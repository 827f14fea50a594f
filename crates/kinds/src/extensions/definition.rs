//! What a CustomResourceDefinition must hold to: names, versions, subresources,
//! columns. Its schemas are judged in [`super::properties`] and [`super::structural`];
//! the kind itself is in [`crate::crd`].

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::properties::check_schema;
use crate::admission::{check_service, check_url};
use crate::check::{any, has, immutable, must_be_one_of, named, required, show};
use crate::edit::{items, text};

/// Checks a new definition.
pub(crate) fn check_create(crd: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, name) = (&crd["spec"], text(&crd["metadata"], "name"));
    if name != format!("{}.{}", text(&spec["names"], "plural"), text(spec, "group")) {
        let words = "must be spec.names.plural+\".\"+spec.group";
        errors.invalid(&Path::new("metadata").child("name"), quoted(name), words);
    }
    check_spec(spec, true, &mut errors);
    check_approval(crd, None, &mut errors);
    if spec["preserveUnknownFields"] == true {
        preserve_forbidden(&mut errors);
    }
    errors
}

/// Checks a changed definition.
pub(crate) fn check_update(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let (spec, was, path) = (&new["spec"], &old["spec"], Path::new("spec"));
    // Schemas that were let in once are not held against a later change elsewhere.
    check_spec(spec, spec["versions"] != was["versions"], &mut errors);
    let mut fixed = |field: &str, at: Path| {
        let pointer = format!("/{}", field.replace('.', "/"));
        let value = |spec: &Value| spec.pointer(&pointer).cloned().unwrap_or_default();
        immutable(&value(spec), &value(was), &at, &mut errors);
    };
    let names = path.child("names");
    if crate::crd::is_true(old, "Established") {
        fixed("scope", path.child("scope"));
        fixed("names.kind", names.child("kind"));
    }
    fixed("group", path.child("group"));
    fixed("names.plural", names.child("plural"));
    check_stored(new, &mut errors);
    check_approval(new, Some(old), &mut errors);
    if was["preserveUnknownFields"] != true && spec["preserveUnknownFields"] == true {
        preserve_forbidden(&mut errors);
    }
    errors
}

/// Checks a changed status.
pub(crate) fn check_status(new: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let at = Path::new("status").child("acceptedNames");
    check_names(&new["status"]["acceptedNames"], &at, &mut errors);
    errors
}

fn preserve_forbidden(errors: &mut ErrorList) {
    errors.invalid(
        &Path::new("spec").child("preserveUnknownFields"),
        true,
        "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead",
    );
}

fn joined(value: &str, problems: Vec<String>, prefix: &str, at: &Path, errors: &mut ErrorList) {
    if !value.is_empty() && !problems.is_empty() {
        errors.invalid(at, quoted(value), format!("{prefix}{}", problems.join(",")));
    }
}

fn check_spec(spec: &Value, schemas: bool, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let group = text(spec, "group");
    let problems = names::dns1123_subdomain(group);
    if required(spec, "group", &path, errors) && problems.is_empty() && !group.contains('.') {
        let words = "should be a domain with at least one dot";
        errors.invalid(&path.child("group"), quoted(group), words);
    }
    joined(group, problems, "", &path.child("group"), errors);
    must_be_one_of(spec, "scope", &["Cluster", "Namespaced"], &path, errors);
    check_versions(spec, schemas, &path, errors);
    let at = path.child("names");
    for field in ["plural", "singular", "kind", "listKind"] {
        required(&spec["names"], field, &at, errors);
    }
    check_names(&spec["names"], &at, errors);
    check_conversion(&spec["conversion"], &path.child("conversion"), errors);
}

/// Where upstream says a field of a version stands: above the versions when all say the same.
fn place(spec: &Value, i: usize, field: &str, above: &str) -> Path {
    let mut all = items(spec, "versions").map(|v| v.get(field));
    let first = all.next().flatten();
    let path = Path::new("spec");
    if first.is_some() && all.all(|v| v == first) {
        path.child(above)
    } else {
        path.child("versions").index(i).child(field)
    }
}

fn check_versions(spec: &Value, schemas: bool, path: &Path, errors: &mut ErrorList) {
    let versions = path.child("versions");
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, version) in items(spec, "versions").enumerate() {
        let at = versions.index(i);
        let name = text(version, "name");
        unique &= seen.insert(name);
        let problems = names::dns1035_label(name);
        if !problems.is_empty() {
            errors.invalid(&at.child("name"), quoted(name), problems.join(","));
        }
        check_deprecation(version, &at.child("deprecationWarning"), errors);
        let schema = &version["schema"]["openAPIV3Schema"];
        if !schema.is_object() {
            errors.required(&at.child("schema").child("openAPIV3Schema"), "");
        } else if schemas {
            let place = place(spec, i, "schema", "validation").child("openAPIV3Schema");
            let with_status = has(&version["subresources"], "status");
            errors.extend(check_schema(schema, &place, with_status));
        }
        check_scale(
            &version["subresources"],
            &place(spec, i, "subresources", "subresources"),
            errors,
        );
        let columns = place(spec, i, "additionalPrinterColumns", "additionalPrinterColumns");
        for (n, column) in items(version, "additionalPrinterColumns").enumerate() {
            check_column(column, &columns.index(n), errors);
        }
        check_selectable(version, &place(spec, i, "selectableFields", "selectableFields"), errors);
    }
    if !unique {
        errors.invalid(&versions, &spec["versions"], "must contain unique version names");
    }
    if items(spec, "versions").filter(|v| v["storage"] == true).count() != 1 {
        errors.invalid(
            &versions,
            &spec["versions"],
            "must have exactly one version marked as storage version",
        );
    }
}

fn check_deprecation(version: &Value, at: &Path, errors: &mut ErrorList) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else {
        return;
    };
    let odd = warning.char_indices().find(|(_, c)| c.is_control());
    for (wrong, words) in [
        (version["deprecated"] != true, "can only be set for deprecated versions"),
        (warning.len() > 256, "must be <= 256 characters long"),
        (warning.is_empty(), "must not be an empty string"),
    ] {
        if wrong {
            return errors.invalid(at, quoted(warning), words);
        }
    }
    if let Some((i, _)) = odd {
        let words = format!("must only contain printable UTF-8 characters; non-printable character found at index {i}");
        errors.invalid(at, quoted(warning), words);
    }
}

fn check_names(names: &Value, at: &Path, errors: &mut ErrorList) {
    const MIXED: &str = "may have mixed case, but should otherwise match: ";
    for field in ["plural", "singular"] {
        let value = text(names, field);
        joined(value, names::dns1035_label(value), "", &at.child(field), errors);
    }
    for field in ["kind", "listKind"] {
        let value = text(names, field);
        let problems = names::dns1035_label(&value.to_lowercase());
        joined(value, problems, MIXED, &at.child(field), errors);
    }
    let (kind, list) = (text(names, "kind"), text(names, "listKind"));
    if !kind.is_empty() && kind == list {
        let words = "kind and listKind may not be the same";
        errors.invalid(&at.child("listKind"), quoted(list), words);
    }
    for field in ["shortNames", "categories"] {
        for (i, value) in items(names, field).enumerate() {
            let value = value.as_str().unwrap_or_default();
            let problems = names::dns1035_label(value);
            if !problems.is_empty() {
                errors.invalid(&at.child(field).index(i), quoted(value), problems.join(","));
            }
        }
    }
}

fn check_scale(subresources: &Value, path: &Path, errors: &mut ErrorList) {
    let scale = &subresources["scale"];
    if !scale.is_object() {
        return;
    }
    for (field, root) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
        let at = path.child(&format!("scale.{field}"));
        let given = text(scale, field);
        if given.is_empty() {
            errors.required(&at, "");
        } else if check_path(given, &at, errors) && !given.starts_with(root) {
            let words = format!("should be a json path under {}", root.trim_end_matches('.'));
            errors.invalid(&at, quoted(given), words);
        }
    }
    let (given, at) = (text(scale, "labelSelectorPath"), path.child("scale.labelSelectorPath"));
    let known = given.starts_with(".spec.") || given.starts_with(".status.");
    if !given.is_empty() && check_path(given, &at, errors) && !known {
        let words = "should be a json path under either .spec or .status";
        errors.invalid(&at, quoted(given), words);
    }
}

fn check_path(given: &str, at: &Path, errors: &mut ErrorList) -> bool {
    let fine = given.starts_with('.');
    if !fine {
        errors.invalid(at, quoted(given), "must be a simple json path starting with .");
    }
    fine
}

fn check_column(column: &Value, at: &Path, errors: &mut ErrorList) {
    const TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
    const FORMATS: [&str; 8] = [
        "byte",
        "date",
        "date-time",
        "double",
        "float",
        "int32",
        "int64",
        "password",
    ];
    required(column, "name", at, errors);
    let (kind, format, path) = (text(column, "type"), text(column, "format"), text(column, "jsonPath"));
    let words = format!("must be one of {}", TYPES.join(","));
    if kind.is_empty() {
        errors.required(&at.child("type"), &words);
    } else if !TYPES.contains(&kind) {
        errors.invalid(&at.child("type"), quoted(kind), words);
    }
    if !format.is_empty() && !FORMATS.contains(&format) {
        let words = format!("must be one of {}", FORMATS.join(","));
        errors.invalid(&at.child("format"), quoted(format), words);
    }
    if path.is_empty() {
        errors.required(&at.child("JSONPath"), "");
    } else {
        check_path(path, &at.child("JSONPath"), errors);
    }
}

fn check_selectable(version: &Value, at: &Path, errors: &mut ErrorList) {
    const MOST: usize = 8;
    let mut seen = BTreeSet::new();
    for (i, field) in items(version, "selectableFields").enumerate() {
        let at = at.index(i).child("jsonPath");
        let path = text(field, "jsonPath");
        if path.is_empty() {
            errors.required(&at, "");
            continue;
        }
        let mut parts = path.split('.').skip(1).peekable();
        if parts.peek() == Some(&"metadata") {
            errors.invalid(&at, quoted(path), "must not point to fields in metadata");
        }
        let root = &version["schema"]["openAPIV3Schema"];
        let found = parts.try_fold(root, |schema, part| schema["properties"].get(part));
        match found.filter(|_| path.starts_with('.')) {
            None => {
                let words = format!("is an invalid path: does not refer to a valid field: {path}");
                errors.invalid(&at, quoted(path), words);
                continue;
            }
            Some(schema) if !["string", "boolean", "integer"].contains(&text(schema, "type")) => errors.invalid(
                &at,
                quoted(path),
                "must point to a field of type string, boolean or integer. Enum string fields and strings with \
                 formats are allowed.",
            ),
            Some(_) => {}
        }
        if !seen.insert(path) {
            errors.duplicate(&at, quoted(path));
        }
    }
    if seen.len() > MOST {
        errors.too_many(at, seen.len(), MOST);
    }
}

fn check_conversion(conversion: &Value, at: &Path, errors: &mut ErrorList) {
    must_be_one_of(conversion, "strategy", &["None", "Webhook"], at, errors);
    let (webhook, place) = (&conversion["webhook"], at.child("webhookClientConfig"));
    let reviews = at.child("conversionReviewVersions");
    if text(conversion, "strategy") != "Webhook" {
        if has(webhook, "clientConfig") {
            errors.forbidden(&place, "should not be set when strategy is not set to Webhook");
        }
        if any(webhook, "conversionReviewVersions") {
            errors.forbidden(&reviews, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    let client = &webhook["clientConfig"];
    match (has(client, "url"), has(client, "service")) {
        _ if !client.is_object() => errors.required(&place, "required when strategy is set to Webhook"),
        (true, false) => check_url(text(client, "url"), &place.child("url"), errors),
        (false, true) => check_service(&client["service"], &place.child("service"), errors),
        _ => errors.required(&place, "exactly one of url or service is required"),
    }
    let versions: Vec<&str> = items(webhook, "conversionReviewVersions")
        .filter_map(Value::as_str)
        .collect();
    if versions.is_empty() {
        return errors.required(&reviews, "");
    }
    for (i, version) in versions.iter().enumerate() {
        if versions[..i].contains(version) {
            errors.invalid(&reviews.index(i), quoted(version), "duplicate version");
        } else {
            named(version, names::dns1035_label, &reviews.index(i), errors);
        }
    }
    if !versions.iter().any(|v| matches!(*v, "v1" | "v1beta1")) {
        errors.invalid(
            &reviews,
            &webhook["conversionReviewVersions"],
            "must include at least one of v1, v1beta1",
        );
    }
}

fn check_stored(crd: &Value, errors: &mut ErrorList) {
    let at = Path::new("status").child("storedVersions");
    let list = &crd["status"]["storedVersions"];
    let served: Vec<&str> = items(&crd["spec"], "versions").map(|v| text(v, "name")).collect();
    for (i, version) in items(&crd["status"], "storedVersions").enumerate() {
        let name = version.as_str().unwrap_or_default();
        if !served.contains(&name) {
            let words = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&at.index(i), quoted(name), words);
        }
    }
    if list.as_array().is_none_or(Vec::is_empty) {
        errors.invalid(&at, show(list), "must have at least one stored version");
    }
}

/// Groups of the community need a word of where they were approved.
fn check_approval(crd: &Value, old: Option<&Value>, errors: &mut ErrorList) {
    const KEY: &str = "api-approved.kubernetes.io";
    let group = text(&crd["spec"], "group");
    if !["k8s.io", "kubernetes.io"]
        .iter()
        .any(|d| group == *d || group.ends_with(&format!(".{d}")))
    {
        return;
    }
    let value = |crd: &Value| text(&crd["metadata"]["annotations"], KEY).to_owned();
    let given = value(crd);
    let fine = |v: &str| v.starts_with("unapproved") || v.contains("://");
    if old.is_some_and(|old| value(old) == given) || (!given.is_empty() && fine(&given)) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(KEY);
    if given.is_empty() {
        let words = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                     https://github.com/kubernetes/enhancements/pull/1111";
        errors.required(&at, words);
    } else {
        let words = format!(
            "protected groups must have approval annotation \"{KEY}\" with either a URL or a reason starting with \
             \"unapproved\", see https://github.com/kubernetes/enhancements/pull/1111"
        );
        errors.invalid(&at, quoted(&given), words);
    }
}
