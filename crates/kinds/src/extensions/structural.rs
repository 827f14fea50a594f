//! Whether a schema is structural: every field's type is said outside of
//! `allOf`, `anyOf`, `oneOf` and `not`, which only narrow values.

use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use crate::check::{any, has};
use crate::edit::{items, text};

const INT_OR_STRING: &str = "x-kubernetes-int-or-string";
const EMBEDDED: &str = "x-kubernetes-embedded-resource";
const PRESERVE: &str = "x-kubernetes-preserve-unknown-fields";

#[derive(Clone, Copy, PartialEq)]
enum Level {
    Root,
    Item,
    Field,
}

/// Everything that is not structural, in the order of its text.
pub(super) fn check_structural(schema: &Value, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    invariants(schema, Level::Root, path, &mut errors);
    complete_branches(schema, schema, path, path, &mut errors);
    errors.0.sort_by_cached_key(ToString::to_string);
    errors
}

fn invariants(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    if !schema.is_object() {
        return;
    }
    if text(schema, "type") == "array" && !has(schema, "items") {
        errors.required(&path.child("items"), "must be specified");
    }
    invariants(&schema["items"], Level::Item, &path.child("items"), errors);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        invariants(property, Level::Field, &path.child("properties").key(name), errors);
    }
    let more = path.child("additionalProperties");
    if has(schema, "additionalProperties") {
        if level == Level::Root {
            errors.forbidden(&more, "must not be used at the root");
        }
        if schema[EMBEDDED] == true {
            errors.forbidden(&more, "must not be used if x-kubernetes-embedded-resource is set");
        }
        invariants(&schema["additionalProperties"], Level::Field, &more, errors);
    }
    if schema[INT_OR_STRING] == true {
        for extension in [PRESERVE, EMBEDDED] {
            if schema[extension] == true {
                let words = "must be false if x-kubernetes-int-or-string is true";
                errors.invalid(&path.child(extension), true, words);
            }
        }
    }
    let any_of = json!([{"type": "integer"}, {"type": "string"}]);
    let skip_any = schema["anyOf"] == any_of;
    let skip_first = schema["allOf"][0]["anyOf"] == any_of;
    values(schema, skip_any, skip_first, path, errors);
    types(schema, level, path, errors);
    own_fields(schema, level, path, errors);
}

fn types(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    let (kind, at) = (text(schema, "type"), path.child("type"));
    if schema[EMBEDDED] == true && kind != "object" {
        let words = "must be object if x-kubernetes-embedded-resource is true";
        if kind.is_empty() {
            errors.required(&at, words);
        } else {
            errors.invalid(&at, quoted(kind), words);
        }
    } else if kind.is_empty() && schema[INT_OR_STRING] != true && schema[PRESERVE] != true {
        let place = match level {
            Level::Root => "at the root",
            Level::Item => "for specified array items",
            Level::Field => "for specified object fields",
        };
        errors.required(&at, &format!("must not be empty {place}"));
    }
    if level == Level::Root && !matches!(kind, "" | "object") {
        errors.invalid(&at, quoted(kind), "must be object at the root");
    }
    if schema[EMBEDDED] == true && schema[PRESERVE] != true && !any(schema, "properties") {
        errors.required(
            &path.child("properties"),
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        );
    }
}

/// `kind`, `apiVersion` and `metadata` of an object are what they are.
fn own_fields(schema: &Value, level: Level, path: &Path, errors: &mut ErrorList) {
    if level != Level::Root && schema[EMBEDDED] != true {
        return;
    }
    let properties = &schema["properties"];
    for (field, wanted, words) in [
        ("kind", "string", "must be string"),
        ("apiVersion", "string", "must be string"),
        ("metadata", "object", "must be object"),
    ] {
        let Some(given) = properties.get(field) else { continue };
        if text(given, "type") != wanted {
            let at = path.child("properties").key(field).child("type");
            errors.invalid(&at, quoted(text(given, "type")), words);
        }
    }
    let Some(metadata) = properties.get("metadata").filter(|_| level == Level::Root) else {
        return;
    };
    let named = |p: &Value| {
        let mut fields = p.as_object().into_iter().flatten().map(|(k, _)| k.as_str());
        fields.all(|k| matches!(k, "name" | "generateName"))
    };
    let known = metadata.as_object().into_iter().flatten();
    let other = known
        .filter(|(k, _)| !matches!(k.as_str(), "type" | "default"))
        .any(|(k, v)| k != "properties" || !named(v));
    if other {
        errors.forbidden(
            &path.child("properties").key("metadata"),
            "must not specify anything other than name and generateName, but metadata is implicitly specified",
        );
    }
}

fn values(schema: &Value, skip_any: bool, skip_first: bool, path: &Path, errors: &mut ErrorList) {
    if !skip_any {
        for (i, branch) in items(schema, "anyOf").enumerate() {
            nested(branch, false, &path.child("anyOf").index(i), errors);
        }
    }
    for (i, branch) in items(schema, "allOf").enumerate() {
        nested(branch, skip_first && i == 0, &path.child("allOf").index(i), errors);
    }
    for (i, branch) in items(schema, "oneOf").enumerate() {
        nested(branch, false, &path.child("oneOf").index(i), errors);
    }
    nested(&schema["not"], false, &path.child("not"), errors);
}

fn nested(schema: &Value, skip_any: bool, path: &Path, errors: &mut ErrorList) {
    if !schema.is_object() {
        return;
    }
    values(schema, skip_any, false, path, errors);
    nested(&schema["items"], false, &path.child("items"), errors);
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        nested(property, false, &path.child("properties").key(name), errors);
    }
    for (keyword, words) in [
        ("type", "must be empty to be structural"),
        ("additionalProperties", "must be undefined to be structural"),
        ("default", "must be undefined to be structural"),
        ("title", "must be empty to be structural"),
        ("description", "must be empty to be structural"),
        ("nullable", "must be false to be structural"),
        (PRESERVE, "must be false to be structural"),
        (EMBEDDED, "must be false to be structural"),
        (INT_OR_STRING, "must be false to be structural"),
        ("x-kubernetes-list-map-keys", "must be empty to be structural"),
        ("x-kubernetes-list-type", "must be undefined to be structural"),
        ("x-kubernetes-map-type", "must be undefined to be structural"),
        ("x-kubernetes-validations", "must be empty to be structural"),
    ] {
        let empty = match schema.get(keyword) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::String(s)) => s.is_empty(),
            Some(Value::Array(list)) => list.is_empty(),
            Some(_) => false,
        };
        if !empty {
            errors.forbidden(&path.child(keyword), words);
        }
    }
    if schema["properties"].get("metadata").is_some() {
        let at = path.child("properties").key("metadata");
        errors.forbidden(&at, "must not be specified in a nested context");
    }
}

/// Every field that a branch speaks of has to be known outside of it.
fn complete_branches(branches: &Value, known: &Value, at: &Path, seen: &Path, errors: &mut ErrorList) {
    let one = |branch: &Value, seen: Path, errors: &mut ErrorList| {
        if branch.is_object() {
            complete(branch, known, at, &seen, errors);
        }
    };
    one(&branches["not"], seen.child("not"), errors);
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for (i, branch) in items(branches, junctor).enumerate() {
            one(branch, seen.child(junctor).index(i), errors);
        }
    }
}

fn complete(branch: &Value, known: &Value, at: &Path, seen: &Path, errors: &mut ErrorList) {
    if !known.is_object() {
        return errors.required(at, &format!("because it is defined in {seen}"));
    }
    complete_branches(branch, known, at, seen, errors);
    if branch["items"].is_object() {
        let (at, seen) = (at.child("items"), seen.child("items"));
        complete(&branch["items"], &known["items"], &at, &seen, errors);
    }
    for (name, property) in branch["properties"].as_object().into_iter().flatten() {
        let at = at.child("properties").key(name);
        let seen = seen.child("properties").key(name);
        match known["properties"].get(name) {
            Some(known) => complete(property, known, &at, &seen, errors),
            None => errors.required(&at, &format!("because it is defined in {seen}")),
        }
    }
}
