//! Object metadata: what the engine sets, keeps and checks for every kind.
//! Must not know any kind.

use jiff::Timestamp;
use meta::field::{ErrorKind, ErrorList, Path, quoted};
use meta::{Status, names, time};
use rand::Rng;
use serde_json::{Map, Value, json};

use super::Target;
use crate::resource::Resource;

/// Characters of generated names: no vowels, nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Longest base of a generated name.
const GENERATE_MAX: usize = 58;
/// Keys and values of all annotations together.
const ANNOTATIONS_MAX: usize = 256 << 10;

/// `n` random characters as generated names end with.
pub(crate) fn suffix(n: usize) -> String {
    let mut rng = rand::rng();
    (0..n)
        .map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]))
        .collect()
}

/// The object's metadata, made if it is missing. `None` when the value is not an object.
pub(crate) fn meta_mut(value: &mut Value) -> Option<&mut Map<String, Value>> {
    let object = value.as_object_mut()?;
    let metadata = object.entry("metadata").or_insert_with(|| json!({}));
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut()
}

/// A string of the metadata; empty when unset.
pub(crate) fn meta_str<'v>(value: &'v Value, field: &str) -> &'v str {
    value
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// Strings of a metadata list.
pub(crate) fn meta_list(value: &Value, field: &str) -> Vec<String> {
    let list = value
        .get("metadata")
        .and_then(|m| m.get(field))
        .and_then(Value::as_array);
    list.into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect()
}

/// Checks that the body is of the resource's kind and belongs where the path says.
pub(crate) fn check_place(target: Target<'_>, value: &mut Value) -> Result<(), Status> {
    let resource = target.resource;
    if !value.is_object() {
        return Err(Status::bad_request("the body of the request must be an object"));
    }
    check_kind(resource, value)?;
    let Some(metadata) = meta_mut(value) else {
        return Err(Status::bad_request("metadata must be an object"));
    };
    let given = match metadata.get("namespace") {
        None | Some(Value::Null) => "",
        Some(Value::String(s)) => s.as_str(),
        Some(_) => return Err(Status::bad_request("metadata.namespace must be a string")),
    };
    if !resource.kind.namespaced() {
        metadata.remove("namespace");
    } else if given.is_empty() {
        metadata.insert("namespace".into(), target.namespace.into());
    } else if given != target.namespace {
        return Err(Status::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    Ok(())
}

fn check_kind(resource: &Resource, value: &mut Value) -> Result<(), Status> {
    let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
    let (api_version, kind) = (text(value, "apiVersion"), text(value, "kind"));
    if !kind.is_empty() && kind != resource.kind.kind {
        return Err(Status::bad_request(format!(
            "the kind in the data ({kind}) does not match the expected kind ({})",
            resource.kind.kind
        )));
    }
    if !api_version.is_empty() && api_version != resource.api_version {
        return Err(Status::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({})",
            resource.api_version
        )));
    }
    value["apiVersion"] = resource.api_version.as_str().into();
    value["kind"] = (*resource.kind.kind).into();
    Ok(())
}

/// Sets what the server decides about a new object.
pub(crate) fn fill_new(value: &mut Value, resource: &Resource, now: Timestamp) {
    let Some(metadata) = meta_mut(value) else {
        return;
    };
    for field in [
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "selfLink",
        "resourceVersion",
        "generation",
    ] {
        metadata.remove(field);
    }
    metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
    metadata.insert("creationTimestamp".into(), time::rfc3339(now).into());
    if resource.counts_generation {
        metadata.insert("generation".into(), 1.into());
    }
}

/// Gives a name to an object that asks for one by `generateName`.
pub(crate) fn generate_name(value: &mut Value) {
    if !meta_str(value, "name").is_empty() {
        return;
    }
    let base: String = meta_str(value, "generateName").chars().take(GENERATE_MAX).collect();
    if base.is_empty() {
        return;
    }
    if let Some(metadata) = meta_mut(value) {
        metadata.insert("name".into(), format!("{base}{}", suffix(5)).into());
    }
}

/// Keeps what a client cannot change in an update.
pub(crate) fn keep_old(new: &mut Value, old: &Value) {
    let old = old.get("metadata").and_then(Value::as_object);
    let (Some(metadata), Some(old)) = (meta_mut(new), old) else {
        return;
    };
    for field in [
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "resourceVersion",
        "generateName",
    ] {
        match old.get(field) {
            Some(kept) => metadata.insert(field.into(), kept.clone()),
            None => metadata.remove(field),
        };
    }
    metadata.remove("selfLink");
    metadata.remove("managedFields");
}

/// Drops empty maps and lists, so that setting and not setting them is the same.
pub(crate) fn tidy(value: &mut Value) {
    let Some(metadata) = meta_mut(value) else {
        return;
    };
    metadata.retain(|field, v| match v {
        Value::Null => false,
        Value::Object(m) => !m.is_empty() || !matches!(field.as_str(), "labels" | "annotations"),
        Value::Array(a) => !a.is_empty(),
        Value::String(s) => !s.is_empty(),
        _ => true,
    });
}

/// Checks metadata that clients write.
pub(crate) fn validate(resource: &Resource, value: &Value, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    let name = meta_str(value, "name");
    let generated = meta_str(value, "generateName");
    if name.is_empty() {
        errors.required(&path.child("name"), "name or generateName is required");
    } else {
        for problem in resource.kind.strategy().validate_name(name) {
            errors.invalid(&path.child("name"), quoted(name), problem);
        }
    }
    if !generated.is_empty() && name.is_empty() {
        for problem in resource.kind.strategy().validate_name(&format!("{generated}x")) {
            errors.invalid(&path.child("generateName"), quoted(generated), problem);
        }
    }
    if resource.kind.namespaced() {
        let namespace = meta_str(value, "namespace");
        for problem in names::dns1123_label(namespace) {
            errors.invalid(&path.child("namespace"), quoted(namespace), problem);
        }
    }
    validate_maps(value, &path, errors);
    // Upstream asks this of the kinds that its own servers have, not of those that extend the API.
    let strict = !resource.kind.custom && resource.kind.group != "apiextensions.k8s.io";
    for (i, finalizer) in meta_list(value, "finalizers").iter().enumerate() {
        let at = path.child("finalizers").index(i);
        for problem in names::qualified_name(finalizer) {
            errors.invalid(&at, quoted(finalizer), problem);
        }
        if strict
            && !finalizer.contains('/')
            && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes")
        {
            errors.invalid(
                &at,
                quoted(finalizer),
                "name is neither a standard finalizer name nor is it fully qualified",
            );
        }
    }
    validate_owners(value, &path.child("ownerReferences"), errors);
}

fn validate_maps(value: &Value, path: &Path, errors: &mut ErrorList) {
    let map = |field: &str| value.pointer(&format!("/metadata/{field}")).and_then(Value::as_object);
    for (key, text) in map("labels").into_iter().flatten() {
        let at = path.child("labels");
        for problem in names::qualified_name(key) {
            errors.invalid(&at, quoted(key), problem);
        }
        match text.as_str() {
            Some(text) => {
                for problem in names::label_value(text) {
                    errors.invalid(&at, quoted(text), problem);
                }
            }
            None => errors.add(ErrorKind::TypeInvalid, &at.key(key), text, "must be a string"),
        }
    }
    let mut size = 0;
    let at = path.child("annotations");
    for (key, text) in map("annotations").into_iter().flatten() {
        for problem in names::qualified_name(&key.to_lowercase()) {
            errors.invalid(&at, quoted(key), problem);
        }
        match text.as_str() {
            Some(text) => size += key.len() + text.len(),
            None => errors.add(ErrorKind::TypeInvalid, &at.key(key), text, "must be a string"),
        }
    }
    if size > ANNOTATIONS_MAX {
        errors.too_long(&at, ANNOTATIONS_MAX);
    }
}

fn validate_owners(value: &Value, path: &Path, errors: &mut ErrorList) {
    let owners = value.pointer("/metadata/ownerReferences").and_then(Value::as_array);
    let mut controllers = Vec::new();
    for (i, owner) in owners.into_iter().flatten().enumerate() {
        let at = path.index(i);
        let text = |f: &str| owner.get(f).and_then(Value::as_str).unwrap_or_default();
        for field in ["apiVersion", "kind", "name", "uid"] {
            if text(field).is_empty() {
                let detail = if field == "apiVersion" {
                    "version must not be empty"
                } else {
                    "must not be empty"
                };
                errors.invalid(&at.child(field), quoted(""), detail);
            }
        }
        if owner.get("controller").and_then(Value::as_bool) == Some(true) {
            controllers.push(format!("{}/{}", text("kind"), text("name")));
        }
    }
    if let [first, second, ..] = controllers.as_slice() {
        errors.invalid(
            path,
            "ownerReferences",
            format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {second}"
            ),
        );
    }
}

/// Checks metadata that may not change.
pub(crate) fn validate_update(new: &Value, old: &Value, errors: &mut ErrorList) {
    let path = Path::new("metadata");
    for field in ["name", "namespace", "uid"] {
        let (n, o) = (meta_str(new, field), meta_str(old, field));
        if n != o {
            errors.invalid(&path.child(field), quoted(n), "field is immutable");
        }
    }
    if meta_str(old, "deletionTimestamp").is_empty() {
        return;
    }
    let before = meta_list(old, "finalizers");
    let added: Vec<String> = meta_list(new, "finalizers")
        .into_iter()
        .filter(|f| !before.contains(f))
        .collect();
    if !added.is_empty() {
        errors.forbidden(
            &path.child("finalizers"),
            format!("no new finalizers can be added if the object is being deleted, found new finalizers {added:?}"),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_fit() {
        let mut value = json!({"metadata": {"generateName": "x".repeat(80)}});
        generate_name(&mut value);
        assert_eq!(meta_str(&value, "name").len(), 63);
        assert!(names::dns1123_label(meta_str(&value, "name")).is_empty());
    }

    #[test]
    fn clients_cannot_forge_server_fields() {
        let old = json!({"metadata": {"name": "a", "uid": "1", "generation": 3, "deletionTimestamp": "t"}});
        let mut new = json!({"metadata": {"name": "a", "uid": "2", "selfLink": "x", "resourceVersion": "9"}});
        keep_old(&mut new, &old);
        assert_eq!(new, old);
        new["metadata"]["finalizers"] = json!(["a/b"]);
        let mut errors = ErrorList::new();
        validate_update(&new, &old, &mut errors);
        assert!(errors.to_string().contains("no new finalizers can be added"));
    }
}
