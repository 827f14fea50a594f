//! What may stand in a schema of a CustomResourceDefinition: keywords, their
//! combinations, defaults. Whether it is structural is judged in [`super::structural`].

use meta::field::{ErrorList, Path, quoted};
use serde_json::{Map, Value};

use super::structural::check_structural;
use crate::check::{any, has, show};
use crate::edit::{items, text};

/// Checks `openAPIV3Schema` of a version; `with_status` when the version serves `status`.
/// Rules in CEL have to be there, but are compiled by whoever evaluates them.
pub fn check_schema(schema: &Value, path: &Path, with_status: bool) -> ErrorList {
    let mut errors = ErrorList::new();
    if with_status {
        check_root(schema, path, &mut errors);
    }
    if schema["nullable"] == true {
        errors.forbidden(
            &Path::new(&format!("{path}.nullable")),
            "nullable cannot be true at the root",
        );
    }
    let mut structural = check_structural(schema, path);
    if structural.is_empty() {
        check_defaults(schema, path, true, &mut structural);
    }
    errors.extend(structural);
    Walk {
        root: true,
        in_meta: false,
        no_defaults: None,
    }
    .check(schema, path, &mut errors);
    if errors.is_empty()
        && let Err(e) = object::openapi::from_crd(schema)
    {
        // What objects cannot be held against must not be let in, whatever the reason.
        let at = if e.path.is_empty() {
            path.clone()
        } else {
            path.child(&e.path)
        };
        errors.invalid(&at, "\"\"", format!("error building validator: {}", e.problem));
    }
    errors
}

/// Keywords that a root may have whose `status` is taken out of it.
const AT_ROOT: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];

fn check_root(schema: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = text(schema, "type");
    if !matches!(kind, "" | "object") {
        errors.invalid(
            &path.child("type"),
            quoted(kind),
            "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled",
        );
    }
    let given = schema.as_object().into_iter().flatten();
    if given.map(|(k, _)| k).any(|k| !AT_ROOT.contains(&k.as_str())) {
        let known: Vec<String> = AT_ROOT.iter().map(|k| go_name(k)).collect();
        errors.invalid(
            path,
            schema,
            format!(
                "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
                known.join(" ")
            ),
        );
    }
}

/// A keyword as upstream's message names it.
fn go_name(keyword: &str) -> String {
    let (prefix, rest) = match keyword.strip_prefix("x-kubernetes-") {
        Some(rest) => ("X", rest),
        None => ("", keyword),
    };
    let mut out = prefix.to_owned();
    for part in rest.split('-') {
        let mut chars = part.chars();
        out.extend(chars.next().map(|c| c.to_ascii_uppercase()));
        out.push_str(chars.as_str());
    }
    out
}

/// What a walk down a schema knows of the way.
#[derive(Clone)]
struct Walk {
    root: bool,
    in_meta: bool,
    no_defaults: Option<String>,
}

impl Walk {
    fn check(&self, schema: &Value, path: &Path, errors: &mut ErrorList) {
        if !schema.is_object() {
            return;
        }
        self.check_keywords(schema, path, errors);
        check_extensions(schema, path, errors);
        check_map_keys(schema, path, errors);
        check_rules(schema, path, errors);
        let below = Walk {
            root: false,
            ..self.clone()
        };
        let properties = schema["properties"].as_object();
        if has(schema, "additionalProperties") {
            let more = &schema["additionalProperties"];
            if properties.is_some_and(|p| !p.is_empty()) && *more != true {
                errors.forbidden(
                    &path.child("additionalProperties"),
                    "additionalProperties and properties are mutual exclusive",
                );
            }
            let mut inner = below.clone();
            if self.in_meta {
                inner.no_defaults = Some("inside additionalProperties applying to object metadata".into());
            }
            inner.check(more, &path.child("additionalProperties"), errors);
        }
        for (name, property) in properties.into_iter().flatten() {
            let mut inner = below.clone();
            let embedded = schema["x-kubernetes-embedded-resource"] == true;
            if (self.root || embedded) && matches!(name.as_str(), "metadata" | "kind" | "apiVersion") {
                inner.in_meta = true;
                if self.root {
                    inner.no_defaults = Some(format!("in top-level {name}"));
                }
            }
            inner.check(property, &path.child("properties").key(name), errors);
        }
        below.check(&schema["not"], &path.child("not"), errors);
        for junctor in ["allOf", "oneOf", "anyOf"] {
            for (i, branch) in items(schema, junctor).enumerate() {
                below.check(branch, &path.child(junctor).index(i), errors);
            }
        }
        below.check(&schema["items"], &path.child("items"), errors);
    }

    fn check_keywords(&self, schema: &Value, path: &Path, errors: &mut ErrorList) {
        const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
        let kind = text(schema, "type");
        if !kind.is_empty() && !TYPES.contains(&kind) {
            errors.not_supported(&path.child("type"), kind, &TYPES);
        }
        if let Some(reason) = &self.no_defaults
            && has(schema, "default")
        {
            errors.forbidden(&path.child("default"), format!("must not be set {reason}"));
        }
        for keyword in [
            "id",
            "additionalItems",
            "patternProperties",
            "definitions",
            "dependencies",
            "$ref",
        ] {
            if has(schema, keyword) {
                errors.forbidden(&path.child(keyword), format!("{keyword} is not supported"));
            }
        }
        if kind == "null" {
            errors.forbidden(
                &path.child("type"),
                "type cannot be set to null, use nullable as an alternative",
            );
        }
        if schema["items"].is_array() {
            errors.forbidden(&path.child("items"), "items must be a schema object and not an array");
        }
        if self.in_meta && schema["x-kubernetes-embedded-resource"] == true {
            errors.forbidden(
                &path.child("x-kubernetes-embedded-resource"),
                "must not be used inside of resource meta",
            );
        }
        if schema["uniqueItems"] == true {
            errors.forbidden(
                &path.child("uniqueItems"),
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            );
        }
    }
}

/// `type` must be as an extension wants it.
fn wants(schema: &Value, wanted: &str, extension: &str, path: &Path, errors: &mut ErrorList) {
    let (kind, at) = (text(schema, "type"), path.child("type"));
    let words = format!("must be {wanted} if {extension} is specified");
    if kind.is_empty() {
        errors.required(&at, &words);
    } else if kind != wanted {
        errors.invalid(&at, quoted(kind), words);
    }
}

fn check_extensions(schema: &Value, path: &Path, errors: &mut ErrorList) {
    const MAP: &str = "x-kubernetes-map-type";
    const LIST: &str = "x-kubernetes-list-type";
    if schema["x-kubernetes-preserve-unknown-fields"] == false {
        errors.invalid(
            &path.child("x-kubernetes-preserve-unknown-fields"),
            false,
            "must be true or undefined",
        );
    }
    if has(schema, MAP) {
        wants(schema, "object", MAP, path, errors);
        if !["atomic", "granular"].contains(&text(schema, MAP)) {
            errors.not_supported(&path.child(MAP), text(schema, MAP), &["atomic", "granular"]);
        }
    }
    if !has(schema, LIST) {
        return;
    }
    let (list, item) = (text(schema, LIST), &schema["items"]);
    if text(schema, "type") != "array" {
        wants(schema, "array", LIST, path, errors);
    } else if list == "set" {
        let words = "must be atomic as item of a list with x-kubernetes-list-type=set";
        let (place, fine) = match text(item, "type") {
            "array" => (LIST, matches!(text(item, LIST), "" | "atomic")),
            "object" => (MAP, text(item, MAP) == "atomic"),
            _ => (LIST, true),
        };
        if !fine {
            errors.invalid(&path.child("items").child(place), show(&item[LIST]), words);
        }
        if item["nullable"] == true {
            let words = "cannot be nullable when x-kubernetes-list-type is set";
            errors.forbidden(&path.child("items").child("nullable"), words);
        }
    }
    if !["atomic", "set", "map"].contains(&list) {
        errors.not_supported(&path.child(LIST), list, &["atomic", "set", "map"]);
    }
}

fn check_map_keys(schema: &Value, path: &Path, errors: &mut ErrorList) {
    const LIST: &str = "x-kubernetes-list-type";
    const KEYS: &str = "x-kubernetes-list-map-keys";
    let list = text(schema, LIST);
    if any(schema, KEYS) && list != "map" {
        let words = "must be map if x-kubernetes-list-map-keys is non-empty";
        if list.is_empty() {
            errors.required(&path.child(LIST), words);
        } else {
            errors.invalid(&path.child(LIST), quoted(list), words);
        }
    }
    if list != "map" {
        return;
    }
    if !any(schema, KEYS) {
        errors.required(&path.child(KEYS), "must not be empty if x-kubernetes-list-type is map");
    }
    let (item, at) = (&schema["items"], path.child("items"));
    if !has(schema, "items") {
        return errors.required(&at, "must have a schema if x-kubernetes-list-type is map");
    }
    if item["nullable"] == true {
        let words = "cannot be nullable when x-kubernetes-list-type is map";
        errors.forbidden(&at.child("nullable"), words);
    }
    if text(item, "type") != "object" {
        let words = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.invalid(&at.child("type"), quoted(text(item, "type")), words);
    }
    let keys: Vec<&str> = items(schema, KEYS).filter_map(Value::as_str).collect();
    for (i, key) in keys.iter().enumerate() {
        if keys[..i].contains(key) {
            errors.invalid(&path.child(KEYS), &schema[KEYS], "must not contain duplicate entries");
        }
        let Some(property) = item["properties"].get(key) else {
            errors.invalid(
                &path.child(KEYS),
                &schema[KEYS],
                "entries must all be names of item properties",
            );
            continue;
        };
        let place = at.child("properties").key(key);
        if matches!(text(property, "type"), "array" | "object") {
            let words = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.invalid(&place.child("type"), quoted(text(item, "type")), words);
        }
        if property["nullable"] == true {
            errors.forbidden(
                &place.child("nullable"),
                "this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
            );
        }
        let needed = items(item, "required").any(|r| r == key);
        if !needed && !has(property, "default") {
            errors.required(
                &place.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property",
            );
        }
    }
}

fn check_rules(schema: &Value, path: &Path, errors: &mut ErrorList) {
    const REASONS: [&str; 4] = [
        "FieldValueDuplicate",
        "FieldValueForbidden",
        "FieldValueInvalid",
        "FieldValueRequired",
    ];
    let lines = |s: &str| s.contains(['\n', '\r']);
    for (i, rule) in items(schema, "x-kubernetes-validations").enumerate() {
        let at = path.child("x-kubernetes-validations").index(i);
        let (source, message) = (text(rule, "rule").trim(), text(rule, "message"));
        let place = at.child("message");
        if source.is_empty() {
            errors.required(&at.child("rule"), "rule is not specified");
        } else if !message.is_empty() && message.trim().is_empty() {
            errors.invalid(&place, quoted(message), "must be non-empty if specified");
        } else if lines(message.trim()) {
            errors.invalid(&place, quoted(message), "must not contain line breaks");
        } else if lines(source) && message.is_empty() {
            errors.required(&place, "message must be specified if rule contains line breaks");
        }
        let expression = text(rule, "messageExpression");
        if !expression.is_empty() && expression.trim().is_empty() {
            errors.required(
                &at.child("messageExpression"),
                "messageExpression must be non-empty if specified",
            );
        }
        let reason = text(rule, "reason");
        if !reason.is_empty() && !REASONS.contains(&reason) {
            errors.not_supported(&at.child("reason"), reason, &REASONS);
        }
        let field = text(rule, "fieldPath");
        if !field.is_empty() && field.trim().is_empty() {
            errors.invalid(&at.child("fieldPath"), quoted(field), "must be non-empty if specified");
        }
        if lines(field) {
            errors.invalid(&at.child("fieldPath"), quoted(field), "must not contain line breaks");
        }
    }
}

/// Defaults must be what the schema lets in, without unknown fields.
fn check_defaults(schema: &Value, path: &Path, root: bool, errors: &mut ErrorList) {
    if !schema.is_object() {
        return;
    }
    if let Some(default) = schema.get("default").filter(|d| !d.is_null()) {
        let mut alone = schema.clone();
        if let Some(map) = alone.as_object_mut() {
            map.remove("default");
        }
        if let Ok(read) = object::openapi::from_openapi_v3(&alone) {
            let at = path.child("default");
            let mut pruned = default.clone();
            object::shape::prune(&read, &mut pruned);
            if pruned != *default {
                errors.invalid(&at, default, "must not have unknown fields");
            }
            for mut problem in object::shape::validate(&read, default).0 {
                let below = problem.path.as_str();
                problem.path = match below {
                    "" => at.clone(),
                    b if b.starts_with('[') => Path::new(&format!("{at}{b}")),
                    b => at.child(b),
                };
                errors.0.push(problem);
            }
        }
    }
    check_defaults(&schema["items"], &path.child("items"), false, errors);
    let none = Map::new();
    for (name, property) in schema["properties"].as_object().unwrap_or(&none) {
        // Those of the object's own metadata are forbidden elsewhere.
        if !(root && matches!(name.as_str(), "metadata" | "kind" | "apiVersion")) {
            check_defaults(property, &path.child("properties").key(name), false, errors);
        }
    }
}
