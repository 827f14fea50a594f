//! Structural schemas of the built-in kinds, converted from the JSON schemas
//! that `k8s-openapi` derives, with the list keys of [`crate::facts`] added.
//! Each definition is built once, at first use, and shared.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use object::schema::{ListType, PatchStrategy, Schema, Shape};
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value};

use crate::facts;

/// Definitions that contain themselves, or anything at all: kept as they come.
const OPAQUE: [&str; 4] = ["JSONSchemaProps", "RawExtension", "FieldsV1", "JSON"];

#[derive(Default)]
struct Cache {
    roots: HashMap<String, &'static Schema>,
    definitions: HashMap<String, Arc<Schema>>,
}

static CACHE: Mutex<Option<Cache>> = Mutex::new(None);

/// The schema of a type.
pub fn typed<T: JsonSchema>() -> &'static Schema {
    let name = T::schema_name().into_owned();
    let mut guard = CACHE.lock().unwrap_or_else(PoisonError::into_inner);
    let cache = guard.get_or_insert_default();
    if let Some(known) = cache.roots.get(&name) {
        return known;
    }
    let mut generator = SchemaGenerator::default();
    generator.subschema_for::<T>();
    let definitions = generator.take_definitions(true);
    let built = definition(&name, &definitions, &mut cache.definitions);
    // Lives as long as the process: kinds are handed out as `&'static`.
    let root: &'static Schema = Box::leak(Box::new(built.as_ref().clone()));
    cache.roots.insert(name, root);
    root
}

fn definition(name: &str, all: &Map<String, Value>, done: &mut HashMap<String, Arc<Schema>>) -> Arc<Schema> {
    if let Some(known) = done.get(name) {
        return known.clone();
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let mut schema = match all.get(name) {
        Some(_) if OPAQUE.contains(&last) => Schema {
            preserve_unknown: true,
            ..Schema::default()
        },
        Some(_) if last == "Quantity" => Schema {
            shape: Shape::IntOrString,
            format: "quantity".into(),
            ..Schema::default()
        },
        Some(value) => convert(last, value, all, done),
        None => Schema::default(),
    };
    schema.definition = name.to_owned();
    let shared = Arc::new(schema);
    done.insert(name.to_owned(), shared.clone());
    shared
}

/// Converts a node; `owner` is the definition that it stands in, for the facts.
fn convert(owner: &str, value: &Value, all: &Map<String, Value>, done: &mut HashMap<String, Arc<Schema>>) -> Schema {
    let description = value["description"].as_str().unwrap_or_default().to_owned();
    let reference = value["$ref"].as_str().or_else(|| value["allOf"][0]["$ref"].as_str());
    if let Some(name) = reference.and_then(|r| r.strip_prefix("#/$defs/")) {
        let mut out = definition(name, all, done).as_ref().clone();
        if !description.is_empty() {
            out.description = description;
        }
        return out;
    }
    let mut out = Schema {
        description,
        format: value["format"].as_str().unwrap_or_default().to_owned(),
        ..Schema::default()
    };
    if value["x-kubernetes-int-or-string"] == true {
        out.shape = Shape::IntOrString;
        return out;
    }
    let kind = match &value["type"] {
        Value::String(s) => s.as_str(),
        // An optional type is written as [type, "null"].
        Value::Array(list) => list
            .iter()
            .filter_map(Value::as_str)
            .find(|s| *s != "null")
            .unwrap_or_default(),
        _ => "",
    };
    out.shape = match kind {
        "string" => Shape::String,
        "integer" => Shape::Integer,
        "number" => Shape::Number,
        "boolean" => Shape::Boolean,
        "array" => Shape::List {
            items: Arc::new(convert(owner, &value["items"], all, done)),
            list: ListType::Atomic,
            patch: PatchStrategy::default(),
        },
        "object" if value["properties"].is_object() => fields(owner, value, all, done),
        "object" if value["additionalProperties"].is_object() => Shape::Map {
            values: Arc::new(convert(owner, &value["additionalProperties"], all, done)),
            atomic: false,
        },
        _ => {
            out.preserve_unknown = true;
            Shape::Any
        }
    };
    out
}

fn fields(owner: &str, value: &Value, all: &Map<String, Value>, done: &mut HashMap<String, Arc<Schema>>) -> Shape {
    let mut fields = BTreeMap::new();
    for (name, field) in value["properties"].as_object().into_iter().flatten() {
        let mut schema = convert(owner, field, all, done);
        facts::amend(owner, name, &mut schema);
        fields.insert(name.clone(), Arc::new(schema));
    }
    let required = value["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|r| r.as_str().map(str::to_owned));
    Shape::Object {
        fields,
        required: required.collect(),
        atomic: facts::ATOMIC_STRUCTS.contains(&owner),
    }
}
