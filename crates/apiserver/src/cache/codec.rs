//! The stored form of an object, and the splice by which committed bytes come
//! to carry their revision. Must not look at more of an object than its first fields.
//!
//! ```text
//! {"apiVersion":..,"kind":..,"metadata":{"resourceVersion":"N",..},..} [managedFields] u32 length of the latter, LE
//! ```
//! `resourceVersion` stands first in `metadata`, so that it is found without a parse;
//! managed fields stand apart, so that readers who do not ask never touch them.

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memmem;
use meta::{DecodeError, Object};
use serde_json::Value;
use store::Stamp;

/// What stands before the digits of the revision. A string cannot contain it, since its quotes
/// would be escaped, and `apiVersion` and `kind` are the only fields before it.
const MARK: &[u8] = b"\"metadata\":{\"resourceVersion\":\"";
/// Where `metadata`'s own fields begin, counted from the start of [`MARK`].
const META_START: usize = b"\"metadata\":{".len();

/// The stamp to open a store with that this crate shall use.
pub fn stamp() -> Stamp {
    Stamp::new(|value, revision| with_revision(&value, revision).unwrap_or(value))
}

/// Encodes an object for the store. `managed` is the JSON array of managed fields.
pub fn encode(value: &Value, managed: Option<&[u8]>) -> Result<Bytes, serde_json::Error> {
    let managed = managed.unwrap_or_default();
    let mut out = encode_raw(value)?;
    out.extend_from_slice(managed);
    out.extend_from_slice(&u32::try_from(managed.len()).unwrap_or(0).to_le_bytes());
    Ok(out.into())
}

/// The JSON part alone, in our field order; `metadata.managedFields` is left out.
pub fn encode_raw(value: &Value) -> Result<Vec<u8>, serde_json::Error> {
    let mut out = Vec::with_capacity(1024);
    let null = Value::Null;
    out.extend_from_slice(b"{\"apiVersion\":");
    serde_json::to_writer(&mut out, value.get("apiVersion").unwrap_or(&null))?;
    out.extend_from_slice(b",\"kind\":");
    serde_json::to_writer(&mut out, value.get("kind").unwrap_or(&null))?;
    out.extend_from_slice(b",\"metadata\":{\"resourceVersion\":");
    let revision = value.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    serde_json::to_writer(&mut out, revision.unwrap_or(""))?;
    let metadata = value.get("metadata").and_then(Value::as_object);
    for (field, content) in metadata.into_iter().flatten() {
        if field != "resourceVersion" && field != "managedFields" {
            write_field(&mut out, field, content)?;
        }
    }
    out.push(b'}');
    for (field, content) in value.as_object().into_iter().flatten() {
        if !matches!(field.as_str(), "apiVersion" | "kind" | "metadata") {
            write_field(&mut out, field, content)?;
        }
    }
    out.push(b'}');
    Ok(out)
}

fn write_field(out: &mut Vec<u8>, field: &str, content: &Value) -> Result<(), serde_json::Error> {
    out.push(b',');
    serde_json::to_writer(&mut *out, field)?;
    out.push(b':');
    serde_json::to_writer(out, content)
}

/// An object from its stored form; nothing is copied.
pub fn decode(stored: &Bytes) -> Result<Object, DecodeError> {
    let (raw, managed) = split(stored);
    Object::from_parts(raw, managed)
}

fn split(stored: &Bytes) -> (Bytes, Option<Bytes>) {
    let Some((rest, trailer)) = stored.split_last_chunk::<4>() else {
        return (stored.clone(), None);
    };
    let managed = u32::from_le_bytes(*trailer) as usize;
    let end = rest.len();
    match end.checked_sub(managed) {
        Some(at) if managed > 0 => (stored.slice(..at), Some(stored.slice(at..end))),
        _ => (stored.slice(..end), None),
    }
}

/// The same bytes with another revision; `None` if they are not of our making.
pub fn with_revision(bytes: &[u8], revision: u64) -> Option<Bytes> {
    let start = memmem::find(bytes, MARK)? + MARK.len();
    let digits = memchr::memchr(b'"', bytes.get(start..)?)?;
    let text = revision.to_string();
    let mut out = BytesMut::with_capacity(bytes.len() - digits + text.len());
    out.put_slice(&bytes[..start]);
    out.put_slice(text.as_bytes());
    out.put_slice(&bytes[start + digits..]);
    Some(out.freeze())
}

/// The last state of an object, carrying the revision of its deletion.
pub fn at_revision(object: &Object, revision: u64) -> Option<Object> {
    let raw = with_revision(object.raw(), revision)?;
    Object::from_parts(raw, object.managed_fields().cloned()).ok()
}

/// Appends the whole object, managed fields included, as clients see it.
pub fn write_full(out: &mut Vec<u8>, object: &Object) {
    let raw = object.raw();
    match (object.managed_fields(), memmem::find(raw, MARK)) {
        (Some(managed), Some(at)) => {
            let at = at + META_START;
            out.reserve(raw.len() + managed.len() + 20);
            out.extend_from_slice(&raw[..at]);
            out.extend_from_slice(b"\"managedFields\":");
            out.extend_from_slice(managed);
            out.push(b',');
            out.extend_from_slice(&raw[at..]);
        }
        _ => out.extend_from_slice(raw),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn stored_objects_round_trip_and_carry_their_revision() {
        let value = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "\"metadata\":{\"resourceVersion\":\"9"},
            "metadata": {"name": "n", "labels": {"resourceVersion": "7"}, "managedFields": [{}]},
        });
        let stored = encode(&value, Some(br#"[{"manager":"m"}]"#)).unwrap();
        let stamp = stamp();
        let once = stamp.apply(stored.clone(), 41);
        let twice = stamp.apply(once, 12345);
        assert_eq!(twice, stamp.apply(stored, 12345));
        let object = decode(&twice).unwrap();
        assert_eq!((object.resource_version(), object.name()), (12345, "n"));
        assert_eq!(object.labels()["resourceVersion"], "7");
        let mut full = Vec::new();
        write_full(&mut full, &object);
        let full: Value = serde_json::from_slice(&full).unwrap();
        assert_eq!(full["metadata"]["managedFields"][0]["manager"], "m");
        assert_eq!(full["data"], value["data"]);
        assert_eq!(at_revision(&object, 3).unwrap().resource_version(), 3);
    }

    #[test]
    fn foreign_bytes_are_left_alone() {
        for junk in [&b""[..], b"x", b"{", b"\"metadata\":{\"resourceVersion\":\""] {
            assert_eq!(stamp().apply(Bytes::copy_from_slice(junk), 5), junk);
            assert!(decode(&Bytes::copy_from_slice(junk)).is_err());
        }
    }
}
