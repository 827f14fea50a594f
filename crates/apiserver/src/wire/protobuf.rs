//! Kubernetes protobuf in request bodies: decoded to the same JSON value that
//! the other forms give, by a table of field numbers (`protobuf.fields`, taken
//! from the types that `k8s-pb` generates off upstream's `.proto` files) and
//! the kind's own schema, which knows the JSON names.
//!
//! Must not panic or recurse without bound on any input.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use kinds::Kind;
use meta::{Status, time};
use object::schema::{Schema, Shape};
use serde_json::{Map, Value};

/// What every body begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Deepest nesting taken.
const DEPTH: usize = 64;

/// One field of a message.
struct Field {
    /// Lower case, without separators: names differ between the forms only in these.
    name: &'static str,
    /// `s`, `b`, `i`, `y`, `d`, or a message; after `*` repeated, after `m` the values of a map.
    kind: &'static str,
}

type Messages = HashMap<&'static str, HashMap<u64, Field>>;

fn messages() -> &'static Messages {
    static MESSAGES: OnceLock<Messages> = OnceLock::new();
    MESSAGES.get_or_init(|| include_str!("protobuf.fields").lines().filter_map(message).collect())
}

fn message(line: &'static str) -> Option<(&'static str, HashMap<u64, Field>)> {
    let (name, fields) = line.split_once(' ')?;
    let field = |text: &'static str| {
        let (number, rest) = text.split_once(':')?;
        let (name, kind) = rest.split_once('=')?;
        Some((number.parse().ok()?, Field { name, kind }))
    };
    Some((name, fields.split(' ').filter_map(field).collect()))
}

fn bad(why: &str) -> Status {
    Status::bad_request(format!("the body is not valid Kubernetes protobuf: {why}"))
}

/// Decodes a body. `kinds` finds the schema of the kind that the body names.
pub(crate) fn decode<'k>(body: &[u8], find: impl Fn(&str, &str) -> Option<&'k Arc<Kind>>) -> Result<Value, Status> {
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
    let (group, version) = api_version.split_once('/').unwrap_or(("", &api_version));
    let package = match group {
        "" if kind == "DeleteOptions" => "meta",
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    let name = format!("{package}.{version}.{}", kind.to_lowercase());
    let any = Schema::default();
    let schema = find(group, &kind).map_or(&any, |k| k.schema());
    let Some((name, _)) = messages().get_key_value(name.as_str()) else {
        return Err(bad(&format!("no message for {api_version}, Kind={kind}")));
    };
    let mut object = Map::new();
    fill(&mut object, name, schema, raw, DEPTH)?;
    object.insert("apiVersion".into(), api_version.into());
    object.insert("kind".into(), kind.into());
    Ok(Value::Object(object))
}

/// Reads a message's fields into an object.
fn fill(out: &mut Map<String, Value>, message: &str, schema: &Schema, raw: &[u8], depth: usize) -> Result<(), Status> {
    let depth = depth.checked_sub(1).ok_or_else(|| bad("it is nested too deep"))?;
    let Some(fields) = messages().get(message) else {
        return Err(bad("a message of an unknown type"));
    };
    for part in Reader(raw) {
        let (number, wire) = part?;
        let Some(field) = fields.get(&number) else {
            continue;
        };
        let Some((name, child)) = json_name(schema, field) else {
            // A Go struct embedded without a name: its fields are the owner's in JSON.
            if let (Wire::Bytes(inner), true) = (&wire, messages().contains_key(field.kind)) {
                fill(out, field.kind, schema, inner, depth)?;
            }
            continue;
        };
        if let Some(kind) = field.kind.strip_prefix('m').filter(|k| is_kind(k)) {
            let (key, value) = entry(kind, child, wire, depth)?;
            let map = out.entry(name).or_insert_with(|| Value::Object(Map::new()));
            if let (Some(map), Some(value)) = (map.as_object_mut(), value) {
                map.insert(key, value);
            }
        } else if let Some(kind) = field.kind.strip_prefix('*') {
            let items = items_of(child);
            let list = out.entry(name).or_insert_with(|| Value::Array(Vec::new()));
            if let (Some(list), Some(value)) = (list.as_array_mut(), value(kind, items, &wire, depth)?) {
                list.push(value);
            }
        } else if let Some(value) = value(field.kind, child, &wire, depth)?
            && !is_unset(field.name, &value)
        {
            out.insert(name, value);
        }
    }
    Ok(())
}

fn is_kind(kind: &str) -> bool {
    matches!(kind, "s" | "b" | "i" | "y" | "d") || messages().contains_key(kind)
}

/// Go's encoder writes fields that are no pointers even when they hold their zero value, which in
/// JSON means "not given". Zeros that say something are pointers in Go; these are their names.
fn is_unset(name: &str, value: &Value) -> bool {
    const ZERO_COUNTS: [&str; 20] = [
        "replicas",
        "terminationgraceperiodseconds",
        "graceperiodseconds",
        "revisionhistorylimit",
        "backofflimit",
        "completions",
        "parallelism",
        "ttlsecondsafterfinished",
        "activedeadlineseconds",
        "runasuser",
        "runasgroup",
        "fsgroup",
        "tolerationseconds",
        "startingdeadlineseconds",
        "partition",
        "priority",
        "defaultmode",
        "mode",
        "successfuljobshistorylimit",
        "failedjobshistorylimit",
    ];
    const FALSE_IS_UNSET: [&str; 9] = [
        "hostnetwork",
        "hostpid",
        "hostipc",
        "stdin",
        "stdinonce",
        "tty",
        "readonly",
        "publishnotreadyaddresses",
        "unschedulable",
    ];
    match value {
        Value::String(s) => s.is_empty() && name != "storageclassname",
        Value::Number(n) => n.as_i64() == Some(0) && !ZERO_COUNTS.contains(&name),
        Value::Bool(false) => FALSE_IS_UNSET.contains(&name),
        Value::Null => true,
        _ => false,
    }
}

/// The field's JSON name and schema. `None` when the schema has no such field.
fn json_name<'s>(schema: &'s Schema, field: &Field) -> Option<(String, &'s Schema)> {
    static ANY: OnceLock<Schema> = OnceLock::new();
    match &schema.shape {
        Shape::Object { fields, .. } => {
            let found = fields.iter().find(|(name, _)| name.eq_ignore_ascii_case(field.name))?;
            Some((found.0.clone(), found.1))
        }
        // Options and the like, whose schema is not at hand.
        _ => Some((known(field.name).to_owned(), ANY.get_or_init(Schema::default))),
    }
}

/// JSON names of fields in messages that have no schema here.
fn known(squashed: &'static str) -> &'static str {
    match squashed {
        "graceperiodseconds" => "gracePeriodSeconds",
        "orphandependents" => "orphanDependents",
        "propagationpolicy" => "propagationPolicy",
        "dryrun" => "dryRun",
        "resourceversion" => "resourceVersion",
        "deleteoptions" => "deleteOptions",
        "generatename" => "generateName",
        "apiversion" => "apiVersion",
        "ignorestorereaderrorwithclusterbreakingpotential" => "ignoreStoreReadErrorWithClusterBreakingPotential",
        other => other,
    }
}

fn items_of(schema: &Schema) -> &Schema {
    match &schema.shape {
        Shape::List { items, .. } => items,
        _ => schema,
    }
}

fn entry(kind: &str, schema: &Schema, wire: Wire<'_>, depth: usize) -> Result<(String, Option<Value>), Status> {
    let values = match &schema.shape {
        Shape::Map { values, .. } => values,
        _ => schema,
    };
    let Wire::Bytes(raw) = wire else {
        return Err(bad("a map entry is no message"));
    };
    let (mut key, mut found) = (String::new(), None);
    for part in Reader(raw) {
        match part? {
            (1, Wire::Bytes(text)) => key = utf8(text)?,
            (2, wire) => found = value(kind, values, &wire, depth)?,
            _ => {}
        }
    }
    // An empty value is left out by some encoders.
    let empty = || {
        if matches!(kind, "s" | "y") {
            Some(Value::from(""))
        } else {
            None
        }
    };
    Ok((key, found.or_else(empty)))
}

fn value(kind: &str, schema: &Schema, wire: &Wire<'_>, depth: usize) -> Result<Option<Value>, Status> {
    let value = match (kind, wire) {
        ("s", Wire::Bytes(raw)) => Value::from(utf8(raw)?),
        ("y", Wire::Bytes(raw)) => Value::from(STANDARD.encode(raw)),
        ("b", Wire::Varint(n)) => Value::from(*n != 0),
        ("i", Wire::Varint(n)) => Value::from(n.cast_signed()),
        ("d", Wire::Fixed(bits)) => Value::from(f64::from_bits(*bits)),
        (message, Wire::Bytes(raw)) => return special(message, schema, raw, depth),
        _ => return Err(bad("a field has another type than it should")),
    };
    Ok(Some(value))
}

/// Messages that are something else in JSON, then all others.
fn special(message: &str, schema: &Schema, raw: &[u8], depth: usize) -> Result<Option<Value>, Status> {
    Ok(match message {
        "meta.v1.time" | "meta.v1.microtime" => {
            let (mut seconds, mut nanos) = (0i64, 0i32);
            for part in Reader(raw) {
                match part? {
                    (1, Wire::Varint(n)) => seconds = n.cast_signed(),
                    (2, Wire::Varint(n)) => nanos = i32::try_from(n).unwrap_or(0),
                    _ => {}
                }
            }
            if raw.is_empty() || seconds == 0 {
                return Ok(None);
            }
            let at = Timestamp::new(seconds, nanos).map_err(|_| bad("a time is out of range"))?;
            let text = if message == "meta.v1.time" {
                time::rfc3339(at)
            } else {
                time::rfc3339_micro(at)
            };
            Some(text.into())
        }
        "resource.quantity" => first_text(raw)?.map(Value::from),
        "intstr.intorstring" => {
            let (mut is_text, mut number, mut text) = (false, 0i64, String::new());
            for part in Reader(raw) {
                match part? {
                    (1, Wire::Varint(n)) => is_text = n == 1,
                    (2, Wire::Varint(n)) => number = n.cast_signed(),
                    (3, Wire::Bytes(raw)) => text = utf8(raw)?,
                    _ => {}
                }
            }
            Some(if is_text {
                Value::from(text)
            } else {
                Value::from(number)
            })
        }
        "runtime.rawextension" | "meta.v1.fieldsv1" | "apiextensions.v1.json" => match first_bytes(raw)? {
            Some(json) => Some(serde_json::from_slice(json).map_err(|_| bad("embedded JSON is malformed"))?),
            None => None,
        },
        "authentication.v1.extravalue" | "authorization.v1.extravalue" | "certificates.v1.extravalue" => {
            let mut list = Vec::new();
            for part in Reader(raw) {
                if let (1, Wire::Bytes(text)) = part? {
                    list.push(Value::from(utf8(text)?));
                }
            }
            Some(Value::Array(list))
        }
        message => {
            let mut object = Map::new();
            fill(&mut object, message, schema, raw, depth)?;
            Some(Value::Object(object))
        }
    })
}

fn first_bytes(raw: &[u8]) -> Result<Option<&[u8]>, Status> {
    for part in Reader(raw) {
        if let (1, Wire::Bytes(bytes)) = part? {
            return Ok(Some(bytes));
        }
    }
    Ok(None)
}

fn first_text(raw: &[u8]) -> Result<Option<String>, Status> {
    first_bytes(raw)?.map(utf8).transpose()
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
        let value = decode(&body("v1", "ConfigMap", &object), kinds::by_kind).unwrap();
        assert_eq!(value["metadata"], serde_json::json!({"name": "a"}));
        assert_eq!(value["data"]["k"], "v");
    }

    #[test]
    fn every_served_kind_has_a_message_and_known_names() {
        for kind in kinds::all().iter().filter(|k| !k.group.contains("kubevirt")) {
            let meta = field(1, b"a");
            let body = body(&kind.gvr().api_version(), &kind.kind, &field(1, &meta));
            let value = decode(&body, kinds::by_kind).unwrap_or_else(|e| panic!("{}: {e}", kind.kind));
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
            assert!(decode(junk, kinds::by_kind).is_err());
        }
    }
}
