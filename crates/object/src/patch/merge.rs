//! JSON merge patch (RFC 7386). Must not look at a schema.

use serde_json::{Map, Value};

/// RFC 7386: nulls delete, objects merge, all else replaces.
pub fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    for (k, v) in patch {
        if v.is_null() {
            map.remove(k);
        } else if v.is_object() {
            merge(map.entry(k.as_str()).or_insert(Value::Null), v);
        } else {
            map.insert(k.clone(), v.clone());
        }
    }
}

/// The patch that turns `from` into `to`, provided that `to` has no nulls inside objects
/// (a merge patch cannot say those).
pub fn diff(from: &Value, to: &Value) -> Value {
    let (Value::Object(a), Value::Object(b)) = (from, to) else {
        return to.clone();
    };
    let mut patch = Map::new();
    for key in a.keys().filter(|k| !b.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, new) in b {
        match a.get(key) {
            Some(old) if old == new => {}
            Some(old) => drop(patch.insert(key.clone(), diff(old, new))),
            None => drop(patch.insert(key.clone(), new.clone())),
        }
    }
    Value::Object(patch)
}
