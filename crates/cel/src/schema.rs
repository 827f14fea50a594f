//! Structural schemas (OpenAPI v3 with Kubernetes' extensions, as JSON) to
//! declared types. It judges no schema: what cannot be exposed is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::types::{Decl, Field, MAX_REQUEST, ObjectType, Semantics, Shape, Type};

/// Schemas nest at most as deep as JSON parses.
const DEEPEST: usize = 128;

/// The declared type of a schema, `None` if rules cannot see values of it.
///
/// `root` says that the schema is a whole resource: those have `kind`, `apiVersion` and
/// `metadata` with `name` and `generateName`, and nothing else of metadata. `name` names
/// the type in messages.
pub fn from_schema(schema: &Json, name: &str, root: bool) -> Option<Arc<Decl>> {
    convert(schema, name, root, 0)
}

fn convert(schema: &Json, name: &str, resource: bool, depth: usize) -> Option<Arc<Decl>> {
    if depth > DEEPEST {
        return None;
    }
    if flag(schema, "x-kubernetes-int-or-string") {
        let max = number(schema, "maxLength").map_or(MAX_REQUEST - 2, |n| n.saturating_mul(4));
        return Some(sized(Type::Dyn, max, 1));
    }
    let kind = schema.get("type").and_then(Json::as_str).unwrap_or_default();
    match kind {
        "array" => {
            let items = schema.get("items")?;
            let embedded = flag(items, "x-kubernetes-embedded-resource");
            let items = convert(items, &format!("{name}.@idx"), embedded, depth + 1)?;
            Some(Decl::list(items, number(schema, "maxItems"), semantics(schema)))
        }
        "object" | "" if resource || kind == "object" => object(schema, name, resource, depth),
        "string" => Some(string(schema)),
        "boolean" => Some(Decl::plain(Type::Bool)),
        "number" => Some(Decl::plain(Type::Double)),
        "integer" => Some(Decl::plain(Type::Int)),
        _ => None,
    }
}

fn object(schema: &Json, name: &str, resource: bool, depth: usize) -> Option<Arc<Decl>> {
    if let Some(values) = schema.get("additionalProperties").filter(|v| v.is_object()) {
        let embedded = flag(values, "x-kubernetes-embedded-resource");
        let values = convert(values, &format!("{name}.@elem"), embedded, depth + 1)?;
        return Some(Decl::map(values, number(schema, "maxProperties")));
    }
    let required: Vec<&str> = match schema.get("required").and_then(Json::as_array) {
        Some(list) => list.iter().filter_map(Json::as_str).collect(),
        None => Vec::new(),
    };
    // Schemas that say all of this themselves, such as those of built-in kinds, are taken at their word.
    let resource = resource && !describes_itself(schema);
    // An object is at least {}.
    let mut min_size = 2;
    let mut fields = BTreeMap::new();
    for (json, property) in schema.get("properties").and_then(Json::as_object).into_iter().flatten() {
        if resource && json == "metadata" {
            continue;
        }
        let embedded = flag(property, "x-kubernetes-embedded-resource");
        let Some(decl) = convert(property, &format!("{name}.{json}"), embedded, depth + 1) else {
            continue;
        };
        // Defaults are filled in by the server, so a request may be without them.
        if required.contains(&json.as_str()) && property.get("default").is_none() {
            min_size += json.len() as u64 + decl.min_size + 4;
        }
        if let Some(identifier) = crate::escape(json) {
            let json = json.as_str().into();
            fields.insert(identifier.into(), Field { json, decl });
        }
    }
    if resource {
        add_resource_fields(name, &mut fields);
    }
    let name = name.into();
    Some(Decl::of_object(Arc::new(ObjectType { name, fields }), min_size))
}

fn describes_itself(schema: &Json) -> bool {
    [
        "/kind",
        "/apiVersion",
        "/metadata/properties/name",
        "/metadata/properties/generateName",
    ]
    .iter()
    .all(|path| {
        schema
            .pointer(&format!("/properties{path}/type"))
            .and_then(Json::as_str)
            == Some("string")
    })
}

fn add_resource_fields(name: &str, fields: &mut BTreeMap<Box<str>, Field>) {
    let string = Decl::plain(Type::String);
    let metadata = [("name", string.clone()), ("generateName", string.clone())];
    let metadata = Decl::object(&format!("{name}.metadata"), metadata);
    for (json, decl) in [("kind", &string), ("apiVersion", &string), ("metadata", &metadata)] {
        let field = Field {
            json: json.into(),
            decl: decl.clone(),
        };
        fields.insert(json.into(), field);
    }
}

fn string(schema: &Json) -> Arc<Decl> {
    let max = number(schema, "maxLength");
    match schema.get("format").and_then(Json::as_str).unwrap_or_default() {
        "byte" => sized(Type::Bytes, max.unwrap_or(MAX_REQUEST - 2), 2),
        "duration" => sized(Type::Duration, 32, 3),
        "date" => sized(Type::Timestamp, 12, 12),
        "date-time" => sized(Type::Timestamp, 32, 21),
        _ => {
            let longest = || {
                let values = schema.get("enum").and_then(Json::as_array).filter(|v| !v.is_empty())?;
                values.iter().filter_map(Json::as_str).map(|s| s.len() as u64).max()
            };
            // A code point may take four octets.
            let max = max.map(|n| n.saturating_mul(4)).or_else(longest);
            sized(Type::String, max.unwrap_or(MAX_REQUEST - 2), 2)
        }
    }
}

fn sized(ty: Type, max: u64, min_size: u64) -> Arc<Decl> {
    Arc::new(Decl {
        ty,
        max: Some(max),
        min_size,
        shape: Shape::Plain,
    })
}

fn semantics(schema: &Json) -> Semantics {
    match schema.get("x-kubernetes-list-type").and_then(Json::as_str) {
        Some("set") => Semantics::Set,
        Some("map") => {
            let keys = schema.get("x-kubernetes-list-map-keys").and_then(Json::as_array);
            let keys = keys.into_iter().flatten().filter_map(Json::as_str);
            Semantics::Map(keys.map(Into::into).collect())
        }
        _ => Semantics::Atomic,
    }
}

fn flag(schema: &Json, name: &str) -> bool {
    schema.get(name).and_then(Json::as_bool).unwrap_or(false)
}

fn number(schema: &Json, name: &str) -> Option<u64> {
    let n = schema.get(name)?.as_i64()?;
    Some(u64::try_from(n).unwrap_or(0))
}
