//! The border to `object`: what the engine needs of schemas, patches and field
//! ownership, in the engine's words. Must hold no logic of its own.

use bytes::Bytes;
use jiff::Timestamp;
use kinds::Kind;
use meta::field::ErrorList;
use meta::{Status, time};
use object::apply::{Managers, Writer};
use object::openapi::Definitions;
use serde_json::{Map, Value, json};

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
        let name = if call.field_manager.is_empty() {
            "unknown"
        } else {
            &call.field_manager
        };
        Manager {
            name: name.to_owned(),
            subresource: subresource.to_owned(),
            now: call.now,
        }
    }
}

/// Decodes a request body.
pub fn decode(body: &[u8], yaml: bool) -> Result<Input, Status> {
    let decoded = if yaml {
        object::decode::yaml(body).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?
    } else {
        object::decode::json(body)
            .map_err(|e| Status::bad_request(format!("couldn't get version/kind; json parse error: {e}")))?
    };
    let problems = object::decode::findings(&[], &decoded.duplicates);
    Ok(Input {
        value: decoded.value,
        problems,
    })
}

/// Refuses a value that is of another type than the schema says, as a decoder would; then drops
/// unknown fields and says which.
pub fn prune(kind: &Kind, value: &mut Value) -> Result<Vec<String>, Status> {
    let schema = kind.schema();
    if let Some(why) = object::shape::type_error(schema, value) {
        return Err(Status::bad_request(format!(
            "{} in version {:?} cannot be handled as a {}: {why}",
            kind.kind, kind.version, kind.kind
        )));
    }
    let unknown = object::shape::prune(schema, value);
    Ok(object::decode::findings(&unknown, &[]))
}

/// Sets the schema's defaults.
pub fn default(kind: &Kind, value: &mut Value) {
    object::shape::apply_defaults(kind.schema(), value);
}

/// Checks a value against its schema.
pub fn validate(kind: &Kind, value: &Value) -> ErrorList {
    object::shape::validate(kind.schema(), value)
}

/// RFC 6902.
pub fn json_patch(value: &mut Value, patch: &Value) -> Result<(), Status> {
    object::patch::json(value, patch).map_err(Status::from)
}

/// RFC 7386.
pub fn merge_patch(value: &mut Value, patch: &Value) -> Result<(), Status> {
    object::patch::merge(value, patch);
    Ok(())
}

/// Kubernetes' strategic merge patch. Custom resources have none.
pub fn strategic_patch(kind: &Kind, value: &mut Value, patch: &Value) -> Result<(), Status> {
    object::patch::strategic(kind.schema(), value, patch).map_err(Status::from)
}

fn managers(raw: Option<&Bytes>) -> Managers {
    raw.map(|m| Managers::decode(m)).unwrap_or_default()
}

/// Managed fields after a write that is no apply. `live` is the state before, with its managers;
/// `given` are the managed fields that the client sent.
pub fn track(
    kind: &Kind,
    live: Option<(&Value, Option<&Bytes>)>,
    new: &Value,
    given: Option<&Value>,
    manager: &Manager,
) -> Option<Bytes> {
    let mut all = Managers::choose(managers(live.and_then(|(_, m)| m)), given, &manager.subresource);
    let time = time::rfc3339(manager.now);
    let api_version = kind.gvr().api_version();
    let writer = Writer {
        name: &manager.name,
        api_version: &api_version,
        subresource: &manager.subresource,
        time: &time,
        has_status: kind.has_status(),
    };
    object::apply::track(kind.schema(), live.map(|(v, _)| v), new, &mut all, &writer);
    all.encode()
}

/// Server-side apply: the new object and its managed fields.
pub fn apply(
    kind: &Kind,
    live: Option<(&Value, Option<&Bytes>)>,
    document: &Value,
    manager: &Manager,
    force: bool,
) -> Result<(Value, Option<Bytes>), Status> {
    let mut all = managers(live.and_then(|(_, m)| m));
    let time = time::rfc3339(manager.now);
    let api_version = kind.gvr().api_version();
    let writer = Writer {
        name: &manager.name,
        api_version: &api_version,
        subresource: &manager.subresource,
        time: &time,
        has_status: kind.has_status(),
    };
    let merged = object::apply::apply(kind.schema(), live.map(|(v, _)| v), document, &mut all, &writer, force);
    let value = merged.map_err(Status::from)?;
    Ok((value, all.encode()))
}

/// Whether a patch says anything about managed fields.
pub fn touches_managers(patch: &Value) -> bool {
    match patch {
        Value::Array(ops) => ops.iter().any(|op| {
            op.get("path")
                .and_then(Value::as_str)
                .is_some_and(|p| p.starts_with("/metadata/managedFields"))
        }),
        patch => patch.pointer("/metadata/managedFields").is_some(),
    }
}

/// Whether two sets of managed fields differ in nothing but times.
pub fn same_managers(a: Option<&Bytes>, b: Option<&Bytes>) -> bool {
    if a == b {
        return true;
    }
    managers(a).same_but_times(&managers(b))
}

/// Name of a kind's definition in OpenAPI.
pub fn definition(kind: &Kind) -> String {
    kind.schema().definition.clone()
}

/// The definitions of kinds, and of all that they refer to.
pub fn definitions<'k>(kinds: impl Iterator<Item = &'k Kind>, v3: bool) -> Map<String, Value> {
    let mut all = if v3 { Definitions::v3() } else { Definitions::v2() };
    let mut named = Vec::new();
    for kind in kinds {
        let schema = kind.schema();
        all.reference(schema);
        named.push((schema.definition.clone(), kind));
    }
    let mut out: Map<String, Value> = all.all.into_iter().collect();
    for (name, kind) in named {
        if let Some(definition) = out.get_mut(&name) {
            definition["x-kubernetes-group-version-kind"] =
                json!([{"group": kind.group, "version": kind.version, "kind": kind.kind}]);
        }
    }
    out
}
