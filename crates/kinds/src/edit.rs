//! Small edits of JSON objects that strategies make again and again.

use serde_json::{Map, Value};

/// Sets a field of an object if it is absent or null.
pub(crate) fn default(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object
        && map.get(field).is_none_or(Value::is_null)
    {
        map.insert(field.to_owned(), value.into());
    }
}

/// Sets a string field if it is absent, null or empty.
pub(crate) fn default_text(object: &mut Value, field: &str, value: &str) {
    if text(object, field).is_empty() {
        set(object, field, value);
    }
}

/// Sets a field of an object.
pub(crate) fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Value::Object(map) = object {
        map.insert(field.to_owned(), value.into());
    }
}

/// Takes a field away.
pub(crate) fn drop(object: &mut Value, field: &str) {
    if let Value::Object(map) = object {
        map.remove(field);
    }
}

/// A field as text; empty when it is none.
pub(crate) fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A field that is an object, made if it is absent or null; `None` when it is something else.
pub(crate) fn object<'a>(parent: &'a mut Value, field: &str) -> Option<&'a mut Value> {
    let map = parent.as_object_mut()?;
    let slot = map.entry(field.to_owned()).or_insert(Value::Null);
    if slot.is_null() {
        *slot = Value::Object(Map::new());
    }
    slot.is_object().then_some(slot)
}

/// The items of a list field.
pub(crate) fn items<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    object.get(field).and_then(Value::as_array).into_iter().flatten()
}

/// The items of a list field, to be changed.
pub(crate) fn items_mut<'a>(object: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    object
        .get_mut(field)
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
}

/// A whole number; 0 when it is none.
pub(crate) fn int(object: &Value, path: &str) -> i64 {
    object.pointer(path).and_then(Value::as_i64).unwrap_or(0)
}
