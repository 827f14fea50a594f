//! JSON to Kubernetes protobuf, in one walk over the bytes without a tree in
//! between. What a message has no field for is left out, as a typed program
//! would leave it out.
//!
//! Must not panic on any input; nesting is bounded by the JSON reader.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use meta::{Object, Status};
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::special;
use super::table::{Count, Field, Message, Special, Type, table};
use super::write::{close, key, open, text, varint};

/// What every body begins with.
pub(crate) const MAGIC: &[u8] = b"k8s\0";

/// A message's bytes from its JSON. `managed` are managed fields to be put into its metadata.
pub(crate) fn message(out: &mut Vec<u8>, index: usize, json: &[u8], managed: Option<&[u8]>) -> Result<(), Status> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    let fields = Fields {
        message: table().get(index),
        out,
        managed,
    };
    fields.deserialize(&mut reader).map_err(Status::internal)
}

/// The bytes of an object's message, managed fields included.
pub(crate) fn object(out: &mut Vec<u8>, index: usize, object: &Object) -> Result<(), Status> {
    message(out, index, object.raw(), object.managed_fields().map(|m| &**m))
}

/// Puts a message into the envelope of a body: what comes before its bytes.
pub(crate) fn envelope(out: &mut Vec<u8>, api_version: &str, kind: &str, length: usize) {
    out.extend_from_slice(MAGIC);
    key(out, 1, 2);
    let at = open(out);
    text(out, 1, api_version.as_bytes());
    text(out, 2, kind.as_bytes());
    close(out, at);
    key(out, 2, 2);
    varint(out, length as u64);
}

/// What follows the bytes in the envelope: no encoding, no type.
pub(crate) const ENVELOPE_END: [u8; 4] = [0x1a, 0, 0x22, 0];

/// A whole body; `write` appends the message.
pub(crate) fn body(
    out: &mut Vec<u8>,
    api_version: &str,
    kind: &str,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Status>,
) -> Result<(), Status> {
    let mut message = Vec::with_capacity(2048);
    write(&mut message)?;
    envelope(out, api_version, kind, message.len());
    out.extend_from_slice(&message);
    out.extend_from_slice(&ENVELOPE_END);
    Ok(())
}

/// Fields of a message from a JSON object.
pub(super) struct Fields<'t, 'o, 'm> {
    pub message: &'t Message,
    pub out: &'o mut Vec<u8>,
    /// Managed fields, for the field `metadata` of this message.
    pub managed: Option<&'m [u8]>,
}

impl<'de> DeserializeSeed<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Fields<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(found) = map.next_key_seed(Key(self.message))? {
            let Some(named) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            let start = self.out.len();
            // Parts of an embedded message are each written as one: readers merge them.
            let mut opened = [0; 4];
            let within = named.within.iter().take(opened.len());
            for (number, at) in within.clone().zip(&mut opened) {
                key(self.out, *number, 2);
                *at = open(self.out);
            }
            let before = self.out.len();
            map.next_value_seed(Value {
                field: named.field,
                one: named.field.count == Count::One,
                out: self.out,
                managed: self.managed.filter(|_| named.field.name == "metadata"),
            })?;
            if self.out.len() == before {
                self.out.truncate(start);
                continue;
            }
            for at in opened[..within.len()].iter().rev() {
                close(self.out, *at);
            }
        }
        Ok(())
    }
}

/// Finds a field by its name, without a copy of it.
struct Key<'t>(&'t Message);

impl<'de, 't> DeserializeSeed<'de> for Key<'t> {
    type Value = Option<&'t super::table::Named>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'t> Visitor<'_> for Key<'t> {
    type Value = Option<&'t super::table::Named>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.by_name(name))
    }
}

/// A field's value: written with its key, or not at all when null.
pub(super) struct Value<'o, 'm> {
    pub field: Field,
    /// Whether a single value is next, and not a list or map of them.
    pub one: bool,
    pub out: &'o mut Vec<u8>,
    pub managed: Option<&'m [u8]>,
}

impl Value<'_, '_> {
    fn item(&mut self) -> Value<'_, '_> {
        Value {
            field: self.field,
            one: true,
            out: self.out,
            managed: None,
        }
    }

    fn number(&self) -> u32 {
        self.field.number
    }
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        match (self.one, self.field.kind) {
            (true, Type::Special(Special::Json)) => {
                let raw = <&RawValue>::deserialize_raw(d)?;
                if raw != "null" {
                    key(self.out, self.field.number, 2);
                    let at = open(self.out);
                    text(self.out, 1, raw.as_bytes());
                    close(self.out, at);
                }
                Ok(())
            }
            _ => d.deserialize_any(self),
        }
    }
}

trait DeserializeRaw<'de> {
    fn deserialize_raw<D: Deserializer<'de>>(d: D) -> Result<&'de str, D::Error>;
}

impl<'de> DeserializeRaw<'de> for &'de RawValue {
    fn deserialize_raw<D: Deserializer<'de>>(d: D) -> Result<&'de str, D::Error> {
        Ok(<&'de RawValue as serde::Deserialize>::deserialize(d)?.get())
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a value for {:?} of type {:?}", self.field.name, self.field.kind)
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match (self.one, self.field.kind) {
            (true, Type::Bool) => {
                key(self.out, self.field.number, 0);
                self.out.push(u8::from(value));
            }
            (true, Type::Special(Special::SchemaOrBool)) => special::allows(self.out, self.field.number, value),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Bool(value), &self)),
        }
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        match i64::try_from(value) {
            Ok(value) => self.visit_i64(value),
            Err(_) => self.visit_f64(value as f64),
        }
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match (self.one, self.field.kind) {
            (true, Type::Int) => {
                key(self.out, self.number(), 0);
                varint(self.out, value.cast_unsigned());
            }
            (true, Type::Special(Special::IntOrString)) => special::int(self.out, self.number(), value),
            (true, Type::Special(Special::Quantity)) => special::quantity(self.out, self.number(), &value.to_string()),
            (true, Type::Double) => return self.visit_f64(value as f64),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Signed(value), &self)),
        }
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        match (self.one, self.field.kind) {
            (true, Type::Double) => {
                key(self.out, self.number(), 1);
                self.out.extend_from_slice(&value.to_bits().to_le_bytes());
            }
            // A whole number may be written as 1e3.
            (true, Type::Int) if value.fract() == 0.0 && value.abs() < 9e18 => return self.visit_i64(value as i64),
            (true, Type::Special(Special::Quantity)) => special::quantity(self.out, self.number(), &value.to_string()),
            _ => return Err(E::invalid_type(serde::de::Unexpected::Float(value), &self)),
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        let (out, number) = (self.out, self.field.number);
        match self.field.kind {
            Type::Text => text(out, number, value.as_bytes()),
            Type::Bytes => {
                key(out, number, 2);
                let at = open(out);
                STANDARD
                    .decode_vec(value, out)
                    .map_err(|e| E::custom(format_args!("{}: {e}", self.field.name)))?;
                close(out, at);
            }
            Type::Special(Special::Time | Special::MicroTime) => {
                special::time(out, number, value).map_err(|e| E::custom(format_args!("{}: {e}", self.field.name)))?;
            }
            Type::Special(Special::Duration) => special::duration(out, number, value),
            Type::Special(Special::Quantity) => special::quantity(out, number, value),
            Type::Special(Special::IntOrString) => special::string(out, number, value),
            _ => return Err(E::custom(format_args!("{}: unexpected string", self.field.name))),
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        if !self.one && self.field.count == Count::Map {
            while let Some(name) = map.next_key_seed(Text)? {
                key(self.out, self.field.number, 2);
                let at = open(self.out);
                text(self.out, 1, name.as_bytes());
                let mut value = self.item();
                value.field.number = 2;
                map.next_value_seed(value)?;
                close(self.out, at);
            }
            return Ok(());
        }
        let inner = match (self.one, self.field.kind) {
            (true, Type::Message(index)) => {
                key(self.out, self.field.number, 2);
                let at = open(self.out);
                let fields = Fields {
                    message: table().get(index),
                    out: self.out,
                    managed: None,
                };
                fields.visit_map(map)?;
                if let Some(managed) = self.managed {
                    managed_fields(self.out, managed).map_err(A::Error::custom)?;
                }
                close(self.out, at);
                return Ok(());
            }
            (true, Type::Special(special)) => special,
            _ => return Err(A::Error::custom(format_args!("{}: unexpected object", self.field.name))),
        };
        special::schema(self.out, self.field, inner, map)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<(), A::Error> {
        if !self.one && self.field.count == Count::Many {
            loop {
                let before = self.out.len();
                if seq.next_element_seed(self.item())?.is_none() {
                    return Ok(());
                }
                if self.out.len() == before {
                    special::empty(self.out, &self.field);
                }
            }
        }
        match (self.one, self.field.kind) {
            (true, Type::Special(special)) => special::list(self.out, self.field, special, seq),
            _ => Err(A::Error::custom(format_args!("{}: unexpected list", self.field.name))),
        }
    }
}

/// Managed fields, as fields of `ObjectMeta`.
fn managed_fields(out: &mut Vec<u8>, json: &[u8]) -> Result<(), serde_json::Error> {
    let meta = table().find("meta.v1.objectmeta").map(|i| table().get(i));
    let Some(named) = meta.and_then(|m| m.by_name("managedFields")) else {
        return Ok(());
    };
    let value = Value {
        field: named.field,
        one: false,
        out,
        managed: None,
    };
    value.deserialize(&mut serde_json::Deserializer::from_slice(json))
}

/// A string, borrowed where it has no escapes.
pub(super) struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Self::Value, D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = std::borrow::Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, v: &'de str) -> Result<Self::Value, E> {
        Ok(v.into())
    }

    fn visit_str<E: Error>(self, v: &str) -> Result<Self::Value, E> {
        Ok(v.to_owned().into())
    }
}
