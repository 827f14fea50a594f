//! Pruning: fields that the schema does not name are found and dropped, and so
//! are nulls where a null means nothing. What a decoder makes the same is written the
//! same. Must not judge values.

use meta::Quantity;
use serde_json::Value;

use crate::schema::{Schema, Shape};
use crate::trail::Trail;

/// Paths of the fields in `value` that the schema does not know, such as `spec.foo`.
pub fn unknown_fields(schema: &Schema, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    find(schema, value, &Trail::Root, &mut found);
    found
}

/// Drops unknown fields, and nulls in fields that are not nullable; returns the paths of the
/// unknown fields, as [`unknown_fields`] does. A null value in a map of strings becomes an
/// empty string, as upstream's decoder has it; in other maps it goes. Quantities, numbers
/// among them, are written in their canonical form, so that `0.5` and `500m` are equal.
pub fn prune(schema: &Schema, value: &mut Value) -> Vec<String> {
    let mut found = Vec::new();
    drop_from(schema, value, &Trail::Root, &mut found);
    found
}

fn find(schema: &Schema, value: &Value, trail: &Trail<'_>, found: &mut Vec<String>) {
    match (&schema.shape, value) {
        (Shape::Object { fields, .. }, Value::Object(map)) => {
            for (name, v) in map {
                match fields.get(name) {
                    Some(s) => find(s, v, &trail.field(name), found),
                    None if schema.preserve_unknown => {}
                    None => found.push(trail.field(name).to_string()),
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) if has_fields(values) => {
            map.iter().for_each(|(k, v)| find(values, v, &trail.field(k), found));
        }
        (Shape::List { items, .. }, Value::Array(list)) if has_fields(items) => {
            list.iter()
                .enumerate()
                .for_each(|(i, v)| find(items, v, &trail.index(i), found));
        }
        _ => {}
    }
}

fn drop_from(schema: &Schema, value: &mut Value, trail: &Trail<'_>, found: &mut Vec<String>) {
    match (&schema.shape, value) {
        (Shape::Object { fields, .. }, Value::Object(map)) => map.retain(|name, v| match fields.get(name) {
            Some(s) if v.is_null() => s.nullable,
            Some(s) => {
                drop_from(s, v, &trail.field(name), found);
                true
            }
            None if schema.preserve_unknown => true,
            None => {
                found.push(trail.field(name).to_string());
                false
            }
        }),
        (Shape::Map { values, .. }, Value::Object(map)) => map.retain(|k, v| {
            if v.is_null() && !values.nullable {
                *v = Value::String(String::new());
                return matches!(values.shape, Shape::String);
            }
            drop_from(values, v, &trail.field(k), found);
            true
        }),
        (Shape::List { items, .. }, Value::Array(list)) => {
            for (i, v) in list.iter_mut().enumerate() {
                drop_from(items, v, &trail.index(i), found);
            }
        }
        (Shape::IntOrString, value) if schema.format == QUANTITY => canonical(value),
        _ => {}
    }
}

/// The format of a node that holds a quantity.
pub(super) const QUANTITY: &str = "quantity";

fn canonical(value: &mut Value) {
    let parsed: Option<Quantity> = match value {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    };
    if let Some(q) = parsed {
        let text = q.to_string();
        if value.as_str() != Some(&text) {
            *value = Value::String(text);
        }
    }
}

fn has_fields(schema: &Schema) -> bool {
    matches!(
        schema.shape,
        Shape::Object { .. } | Shape::Map { .. } | Shape::List { .. }
    )
}
