//! Holding a value against its schema: unknown fields, defaults, types.
//!
//! All walks are recursive; their depth is bounded by [`crate::decode::MAX_DEPTH`].

use meta::field::{ErrorKind, ErrorList, Path, quoted};
use serde_json::{Map, Value};

use crate::schema::{Schema, Shape};

/// Drops the fields that the schema does not know, and nulls where null means nothing.
/// Returns the paths of unknown fields, such as `spec.foo`.
pub fn prune(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, value, &Path::root(), &mut unknown);
    unknown
}

fn prune_at(schema: &Schema, value: &mut Value, path: &Path, unknown: &mut Vec<String>) {
    match (&schema.shape, value) {
        (Shape::Object { fields, .. }, Value::Object(map)) => {
            map.retain(|name, field| {
                let Some(known) = fields.get(name) else {
                    // An embedded object carries the type fields that its schema need not name.
                    let kept = schema.preserve_unknown
                        || (schema.embedded_resource && matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
                    if !kept {
                        unknown.push(path.child(name).as_str().to_owned());
                    }
                    return kept;
                };
                if field.is_null() && !known.nullable && !matches!(known.shape, Shape::Any) {
                    return false;
                }
                prune_at(known, field, &path.child(name), unknown);
                true
            });
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for (name, field) in map.iter_mut() {
                prune_at(values, field, &path.child(name), unknown);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for (i, item) in list.iter_mut().enumerate() {
                prune_at(items, item, &path.index(i), unknown);
            }
        }
        _ => {}
    }
}

/// Fills in defaults. Doing it twice is doing it once.
pub fn apply_defaults(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object { fields, .. }, Value::Object(map)) => {
            for (name, field) in fields {
                if let Some(default) = &field.default
                    && map.get(name).is_none_or(|v| v.is_null() && !field.nullable)
                {
                    map.insert(name.clone(), default.clone());
                }
                if let Some(v) = map.get_mut(name) {
                    apply_defaults(field, v);
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for v in map.values_mut() {
                apply_defaults(values, v);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for v in list {
                apply_defaults(items, v);
            }
        }
        _ => {}
    }
}

/// Checks types, required fields and allowed values.
pub fn validate(schema: &Schema, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    validate_at(schema, value, &Path::root(), &mut errors);
    errors
}

fn validate_at(schema: &Schema, value: &Value, path: &Path, errors: &mut ErrorList) {
    if value.is_null() {
        return;
    }
    if !schema.enumeration.is_empty() && !schema.enumeration.contains(value) {
        let supported: Vec<&str> = schema.enumeration.iter().filter_map(Value::as_str).collect();
        errors.not_supported(path, value.as_str().unwrap_or_default(), &supported);
    }
    match (&schema.shape, value) {
        (Shape::Object { fields, required, .. }, Value::Object(map)) => {
            for name in required {
                if map.get(name).is_none_or(Value::is_null) {
                    errors.required(&path.child(name), "");
                }
            }
            for (name, v) in map {
                if let Some(field) = fields.get(name) {
                    validate_at(field, v, &path.child(name), errors);
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for (name, v) in map {
                validate_at(values, v, &path.child(name), errors);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for (i, v) in list.iter().enumerate() {
                validate_at(items, v, &path.index(i), errors);
            }
        }
        _ => {}
    }
}

/// The first place where a value is of another type than the schema says, worded as Go's decoder
/// words it: such an object cannot be decoded at all, which is a 400 and no field error.
pub fn type_error(schema: &Schema, value: &Value) -> Option<String> {
    type_error_at(schema, value, "", "")
}

fn type_error_at(schema: &Schema, value: &Value, owner: &str, path: &str) -> Option<String> {
    let wrong = |wanted: &str| {
        let place = if owner.is_empty() {
            path.to_owned()
        } else {
            format!("{owner}.{path}")
        };
        Some(format!(
            "json: cannot unmarshal {} into Go struct field {place} of type {wanted}",
            go_name(value)
        ))
    };
    match (&schema.shape, value) {
        (_, Value::Null) | (Shape::Any, _) => None,
        (Shape::Object { fields, .. }, Value::Object(map)) => map.iter().find_map(|(name, v)| {
            let field = fields.get(name)?;
            let inner = schema.definition.rsplit('.').next().unwrap_or_default();
            type_error_at(
                field,
                v,
                if inner.is_empty() { owner } else { inner },
                &join(path, name),
            )
        }),
        (Shape::Map { values, .. }, Value::Object(map)) => map
            .iter()
            .find_map(|(name, v)| type_error_at(values, v, owner, &join(path, name))),
        (Shape::List { items, .. }, Value::Array(list)) => {
            list.iter().find_map(|v| type_error_at(items, v, owner, path))
        }
        (Shape::Object { .. } | Shape::Map { .. }, _) => wrong("map"),
        (Shape::List { .. }, _) => wrong("slice"),
        (Shape::String, Value::String(_)) | (Shape::Boolean, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => {
            None
        }
        (Shape::Integer, Value::Number(n)) if n.is_i64() || n.is_u64() => None,
        (Shape::IntOrString, Value::String(_) | Value::Number(_)) => None,
        (Shape::String, _) => wrong("string"),
        (Shape::Boolean, _) => wrong("bool"),
        (Shape::Integer, _) => wrong(if schema.format == "int64" { "int64" } else { "int32" }),
        (Shape::Number, _) => wrong("float64"),
        (Shape::IntOrString, _) => wrong("intstr.IntOrString"),
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

fn go_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "bool",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Checks a custom resource's types, worded as upstream words it for custom resources.
pub fn custom_type_errors(schema: &Schema, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(message) = type_error(schema, value) {
        errors.add(ErrorKind::TypeInvalid, &Path::root(), quoted(go_name(value)), message);
    }
    errors
}

/// An empty object.
pub fn empty() -> Value {
    Value::Object(Map::new())
}

#[cfg(test)]
pub(crate) mod samples {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use serde_json::json;

    use crate::schema::{ListType, PatchStrategy, Schema, Shape};

    fn leaf(shape: Shape) -> Arc<Schema> {
        Arc::new(Schema {
            shape,
            ..Schema::default()
        })
    }

    fn object(fields: &[(&str, Arc<Schema>)], required: &[&str]) -> Schema {
        Schema {
            shape: Shape::Object {
                fields: fields
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.clone()))
                    .collect::<BTreeMap<_, _>>(),
                required: required.iter().map(|r| (*r).to_owned()).collect(),
                atomic: false,
            },
            ..Schema::default()
        }
    }

    /// Something like a Deployment.
    pub(crate) fn schema() -> Schema {
        let strings = |list, merge| {
            leaf(Shape::List {
                items: leaf(Shape::String),
                list,
                patch: PatchStrategy {
                    merge,
                    ..PatchStrategy::default()
                },
            })
        };
        let item = object(
            &[
                ("name", leaf(Shape::String)),
                ("image", leaf(Shape::String)),
                ("args", strings(ListType::Atomic, false)),
            ],
            &["name"],
        );
        let items = leaf(Shape::List {
            items: Arc::new(item),
            list: ListType::Map(vec!["name".into()]),
            patch: PatchStrategy {
                merge_key: Some("name".into()),
                merge: true,
                retain_keys: false,
            },
        });
        let replicas = Arc::new(Schema {
            shape: Shape::Integer,
            default: Some(json!(1)),
            ..Schema::default()
        });
        let labels = leaf(Shape::Map {
            values: leaf(Shape::String),
            atomic: false,
        });
        let spec = object(
            &[
                ("replicas", replicas),
                ("items", items),
                ("finalizers", strings(ListType::Set, true)),
            ],
            &["items"],
        );
        let meta = object(&[("name", leaf(Shape::String)), ("labels", labels)], &[]);
        object(
            &[
                ("apiVersion", leaf(Shape::String)),
                ("kind", leaf(Shape::String)),
                ("metadata", Arc::new(meta)),
                ("spec", Arc::new(spec)),
            ],
            &[],
        )
    }
}

#[cfg(test)]
mod tests {
    use super::samples::schema;
    use super::*;
    use serde_json::json;

    #[test]
    fn unknown_fields_are_dropped_and_named() {
        let mut value = json!({"spec": {"replicaz": 1, "items": [{"name": "a", "x": 1}]}, "y": 2});
        let mut unknown = prune(&schema(), &mut value);
        unknown.sort();
        assert_eq!(unknown, ["spec.items[0].x", "spec.replicaz", "y"]);
        assert_eq!(value, json!({"spec": {"items": [{"name": "a"}]}}));
    }

    #[test]
    fn defaults_fill_in_once() {
        let mut value = json!({"spec": {}});
        apply_defaults(&schema(), &mut value);
        assert_eq!(value, json!({"spec": {"replicas": 1}}));
        let once = value.clone();
        apply_defaults(&schema(), &mut value);
        assert_eq!(value, once);
    }

    #[test]
    fn required_and_types() {
        let errors = validate(&schema(), &json!({"spec": {"items": [{}]}}));
        assert_eq!(errors.to_string(), "spec.items[0].name: Required value");
        let error = type_error(&schema(), &json!({"spec": {"replicas": "x"}})).unwrap();
        assert!(
            error.contains("cannot unmarshal string into Go struct field spec.replicas of type int32"),
            "{error}"
        );
        assert_eq!(type_error(&schema(), &json!({"spec": {"replicas": 3}})), None);
    }
}
