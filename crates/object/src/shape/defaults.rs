//! Defaulting from a schema. Must not create a parent for the sake of a child:
//! a default stands where its parent is there.

use serde_json::Value;

use crate::schema::{Schema, Shape};

/// Sets every absent field that has a default, and every null one that may not be null.
/// Twice is the same as once.
pub fn apply_defaults(schema: &Schema, value: &mut Value) {
    match (&schema.shape, value) {
        (Shape::Object { fields, .. }, Value::Object(map)) => {
            for (name, field) in fields {
                match (map.get_mut(name), &field.default) {
                    (Some(v), Some(default)) if v.is_null() && !field.nullable => {
                        *v = default.clone();
                        apply_defaults(field, v);
                    }
                    (Some(v), _) => apply_defaults(field, v),
                    (None, Some(default)) => {
                        let mut v = default.clone();
                        apply_defaults(field, &mut v);
                        map.insert(name.clone(), v);
                    }
                    (None, None) => {}
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            for v in map.values_mut() {
                default_null(values, v);
                apply_defaults(values, v);
            }
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            for v in list {
                default_null(items, v);
                apply_defaults(items, v);
            }
        }
        _ => {}
    }
}

fn default_null(schema: &Schema, value: &mut Value) {
    if let (Value::Null, Some(default), false) = (&value, &schema.default, schema.nullable) {
        *value = default.clone();
    }
}
