//! Kubernetes protobuf to JSON values: request bodies, decoded to the same
//! value that the other forms give.
//!
//! Must not panic or recurse without bound on any input.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use meta::{Reason, Status, time};
use serde_json::{Map, Value};

use super::encode::MAGIC;
use super::table::{Count, Field, Special, Type, table};

/// Deepest nesting taken.
const DEPTH: usize = 128;

fn bad(why: &str) -> Status {
    Status::bad_request(format!("the body is not valid Kubernetes protobuf: {why}"))
}

/// Decodes a body.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Status> {
    let rest = body
        .strip_prefix(MAGIC)
        .ok_or_else(|| bad("it does not begin with the magic number"))?;
    let (mut api_version, mut kind, mut raw) = (String::new(), String::new(), &[][..]);
    for part in Reader(rest) {
        match part? {
            (1, Wire::Bytes(meta)) => {
                for part in Reader(meta) {
                    match part? {
                        (1, Wire::Bytes(text)) => api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(object)) => raw = object,
            _ => {}
        }
    }
    let Some(message) = table().of_kind(&api_version, &kind) else {
        // Custom resources have none.
        let message = format!("there is no protobuf message for {api_version}, Kind={kind}");
        return Err(Status::new(415, Reason::UnsupportedMediaType, message));
    };
    let mut object = Map::new();
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    fill(&mut object, message, raw, DEPTH)?;
    Ok(Value::Object(object))
}

/// Reads a message's fields into an object.
fn fill(out: &mut Map<String, Value>, message: usize, raw: &[u8], depth: usize) -> Result<(), Status> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("it is nested too deep"))?;
    let message = table().get(message);
    for part in Reader(raw) {
        let (number, wire) = part?;
        let Some(field) = message.by_number(number) else {
            continue;
        };
        match (field.count, field.kind, &wire) {
            (_, Type::Message(inner), Wire::Bytes(raw)) if field.name.is_empty() => fill(out, inner, raw, depth)?,
            (Count::One, Type::Message(inner), Wire::Bytes(raw)) => {
                // Parts of a message that stands more than once are merged.
                let value = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(object) = value.as_object_mut() {
                    fill(object, inner, raw, depth)?;
                    if object.is_empty() && !field.pointer && !field.shown {
                        out.remove(field.name);
                    }
                }
            }
            (Count::One, ..) => {
                if let Some(value) = value(field, &wire, depth)?
                    && (field.pointer || field.shown || !is_zero(&value))
                {
                    out.insert(field.name.to_owned(), value);
                }
            }
            (Count::Many, ..) => {
                let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    items(list, field, &wire, depth)?;
                }
            }
            (Count::Map, ..) => {
                let (key, value) = entry(field, &wire, depth)?;
                let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
                if let Some(map) = map.as_object_mut() {
                    map.insert(key, value);
                }
            }
        }
    }
    Ok(())
}

/// Go's encoder writes fields that are no pointers even when they hold their zero value, which in
/// JSON means "not given".
fn is_zero(value: &Value) -> bool {
    match value {
        Value::String(s) => s.is_empty(),
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::Bool(b) => !b,
        Value::Null => true,
        _ => false,
    }
}

fn items(list: &mut Vec<Value>, field: &Field, wire: &Wire<'_>, depth: usize) -> Result<(), Status> {
    match (field.kind, wire) {
        // Some encoders write numbers together.
        (Type::Int | Type::Bool, Wire::Bytes(raw)) => {
            let mut reader = Reader(raw);
            while !reader.0.is_empty() {
                let n = reader.varint().ok_or_else(|| bad("it is cut off"))?;
                list.extend(value(field, &Wire::Varint(n), depth)?);
            }
        }
        _ => list.extend(value(field, wire, depth)?),
    }
    Ok(())
}

fn entry(field: &Field, wire: &Wire<'_>, depth: usize) -> Result<(String, Value), Status> {
    let Wire::Bytes(raw) = wire else {
        return Err(bad("a map entry is no message"));
    };
    let (mut key, mut found) = (String::new(), None);
    for part in Reader(raw) {
        match part? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => found = value(field, &wire, depth)?,
            _ => {}
        }
    }
    // An empty value is left out by some encoders.
    let value = match (found, field.kind) {
        (Some(value), _) => value,
        (None, Type::Text | Type::Bytes) => Value::from(""),
        (None, Type::Int | Type::Double) => Value::from(0),
        (None, Type::Bool) => Value::from(false),
        (None, _) => value(field, &Wire::Bytes(&[]), depth)?.unwrap_or(Value::Null),
    };
    Ok((key, value))
}

fn value(field: &Field, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, Status> {
    Ok(Some(match (field.kind, wire) {
        (Type::Text, Wire::Bytes(raw)) => Value::from(utf8(raw)?),
        (Type::Bytes, Wire::Bytes(raw)) => Value::from(STANDARD.encode(raw)),
        (Type::Bool, Wire::Varint(n)) => Value::from(*n != 0),
        (Type::Int, Wire::Varint(n)) => Value::from(n.cast_signed()),
        (Type::Double, Wire::Fixed(bits)) => Value::from(f64::from_bits(*bits)),
        (Type::Message(inner), Wire::Bytes(raw)) => object(inner, raw, depth)?,
        (Type::Special(which), Wire::Bytes(raw)) => return special(which, raw, depth),
        _ => return Err(bad("a field has another type than it should")),
    }))
}

fn object(message: usize, raw: &[u8], depth: usize) -> Result<Value, Status> {
    let mut object = Map::new();
    fill(&mut object, message, raw, depth)?;
    Ok(Value::Object(object))
}

/// Messages that are something else in JSON.
fn special(which: Special, raw: &[u8], depth: usize) -> Result<Option<Value>, Status> {
    Ok(match which {
        Special::Time | Special::MicroTime => instant(which, raw)?.map(Value::from),
        Special::Quantity => Some(match last_bytes(raw)? {
            Some(text) if !text.is_empty() => utf8(text)?.into(),
            _ => "0".into(),
        }),
        Special::IntOrString => Some(int_or_string(raw)?),
        Special::Json => match last_bytes(raw)?.filter(|json| !json.is_empty()) {
            Some(json) => Some(serde_json::from_slice(json).map_err(|_| bad("embedded JSON is malformed"))?),
            None => None,
        },
        Special::Texts => {
            let mut list = Vec::new();
            for part in Reader(raw) {
                if let (1, Wire::Bytes(text)) = part? {
                    list.push(Value::from(utf8(text)?));
                }
            }
            Some(Value::Array(list))
        }
        Special::Duration => {
            let mut nanos = 0;
            for part in Reader(raw) {
                if let (1, Wire::Varint(n)) = part? {
                    nanos = n.cast_signed();
                }
            }
            Some(format!("{}s", nanos as f64 / 1e9).into())
        }
        Special::SchemaOrBool | Special::SchemaOrArray | Special::SchemaOrTexts => Some(schema_or(which, raw, depth)?),
    })
}

fn instant(which: Special, raw: &[u8]) -> Result<Option<String>, Status> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    for part in Reader(raw) {
        match part? {
            (1, Wire::Varint(n)) => seconds = n.cast_signed(),
            (2, Wire::Varint(n)) => nanos = i32::try_from(n.cast_signed()).unwrap_or(0),
            _ => {}
        }
    }
    // No time is written as none of its fields, or as zero.
    if seconds == 0 && nanos == 0 {
        return Ok(None);
    }
    let at = Timestamp::new(seconds, nanos).map_err(|_| bad("a time is out of range"))?;
    Ok(Some(match which {
        Special::Time => time::rfc3339(at),
        _ => time::rfc3339_micro(at),
    }))
}

fn int_or_string(raw: &[u8]) -> Result<Value, Status> {
    let (mut is_text, mut number, mut text) = (false, 0i64, String::new());
    for part in Reader(raw) {
        match part? {
            (1, Wire::Varint(n)) => is_text = n == 1,
            (2, Wire::Varint(n)) => number = n.cast_signed(),
            (3, Wire::Bytes(raw)) => text = utf8(raw)?,
            _ => {}
        }
    }
    Ok(if is_text { text.into() } else { number.into() })
}

/// A schema, or what stands for one.
fn schema_or(which: Special, raw: &[u8], depth: usize) -> Result<Value, Status> {
    let at = if which == Special::SchemaOrBool { 2 } else { 1 };
    let (mut allows, mut schema, mut list) = (false, None, Vec::new());
    for part in Reader(raw) {
        match part? {
            (number, Wire::Bytes(raw)) if number == at => schema = Some(object(table().schema, raw, depth)?),
            (1, Wire::Varint(n)) => allows = n != 0,
            (2, Wire::Bytes(raw)) if which == Special::SchemaOrTexts => list.push(utf8(raw)?.into()),
            (2, Wire::Bytes(raw)) => list.push(object(table().schema, raw, depth)?),
            _ => {}
        }
    }
    Ok(match (schema, which) {
        (Some(schema), _) if list.is_empty() => schema,
        (_, Special::SchemaOrBool) => allows.into(),
        _ => Value::Array(list),
    })
}

fn last_bytes(raw: &[u8]) -> Result<Option<&[u8]>, Status> {
    let mut found = None;
    for part in Reader(raw) {
        if let (1, Wire::Bytes(bytes)) = part? {
            found = Some(bytes);
        }
    }
    Ok(found)
}

fn utf8(raw: &[u8]) -> Result<String, Status> {
    std::str::from_utf8(raw)
        .map(str::to_owned)
        .map_err(|_| bad("a string is not UTF-8"))
}

/// A value as it lies on the wire.
#[derive(Debug)]
enum Wire<'a> {
    Varint(u64),
    Fixed(u64),
    Bytes(&'a [u8]),
}

/// Field numbers and values, one after another; ends after the first error.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut out = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            out |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(out);
            }
        }
        None
    }

    fn take(&mut self, n: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(n).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let wire = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed(u64::from_le_bytes(self.take(8)?.try_into().ok()?)),
            2 => {
                let length = self.varint()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed(u64::from(u32::from_le_bytes(self.take(4)?.try_into().ok()?))),
            _ => return None,
        };
        Some((tag >> 3, wire))
    }
}

impl<'a> Iterator for Reader<'a> {
    type Item = Result<(u64, Wire<'a>), Status>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| bad("it is cut off")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u64, content: &[u8]) -> Vec<u8> {
        let mut out = vec![
            u8::try_from(number << 3 | 2).unwrap(),
            u8::try_from(content.len()).unwrap(),
        ];
        out.extend_from_slice(content);
        out
    }

    fn body(api_version: &str, kind: &str, object: &[u8]) -> Vec<u8> {
        let meta = [field(1, api_version.as_bytes()), field(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), field(1, &meta), field(2, object)].concat()
    }

    #[test]
    fn a_config_map_is_decoded() {
        let meta = [field(1, b"a"), field(3, b"")].concat();
        let entry = [field(1, b"k"), field(2, b"v")].concat();
        let object = [field(1, &meta), field(2, &entry)].concat();
        let value = decode(&body("v1", "ConfigMap", &object)).unwrap();
        assert_eq!(value["metadata"], serde_json::json!({"name": "a"}));
        assert_eq!(value["data"]["k"], "v");
    }

    #[test]
    fn every_served_kind_has_a_message_and_known_names() {
        for kind in kinds::all().iter().filter(|k| !k.group.contains("kubevirt")) {
            let meta = field(1, b"a");
            let body = body(&kind.gvr().api_version(), &kind.kind, &field(1, &meta));
            let value = decode(&body).unwrap_or_else(|e| panic!("{}: {e}", kind.kind));
            assert_eq!(value["metadata"]["name"], "a", "{}", kind.kind);
        }
    }

    #[test]
    fn junk_is_an_error() {
        let deep = (0..200).fold(
            Vec::new(),
            |inner, _| if inner.len() < 100 { field(1, &inner) } else { inner },
        );
        for junk in [
            &b"k8s\0"[..],
            b"",
            b"k8s\0\xff",
            b"k8s\0\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            &deep,
        ] {
            assert!(decode(junk).is_err());
        }
    }
}
