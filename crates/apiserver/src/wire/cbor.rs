//! CBOR in the dialect of the Kubernetes API: JSON bytes to CBOR in one walk.
//! Strings are byte strings, and every document begins with the tag that says
//! it is CBOR. Must not panic on any input; nesting is bounded by the JSON reader.

use std::fmt;

use meta::Status;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

/// "This is CBOR" (tag 55799).
pub(crate) const TAG: [u8; 3] = [0xd9, 0xd9, 0xf7];
/// Ends what was begun without a length.
pub(crate) const BREAK: u8 = 0xff;

const UNSIGNED: u8 = 0;
const NEGATIVE: u8 = 1;
const BYTES: u8 = 2;
const LIST: u8 = 4;
const MAP: u8 = 5;

/// Appends a document, with its tag.
pub(crate) fn document(out: &mut Vec<u8>, json: &[u8]) -> Result<(), Status> {
    out.extend_from_slice(&TAG);
    item(out, json)
}

/// Appends a value, without a tag.
pub(crate) fn item(out: &mut Vec<u8>, json: &[u8]) -> Result<(), Status> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Item(out).deserialize(&mut reader).map_err(Status::internal)
}

/// Appends a string.
pub(crate) fn text(out: &mut Vec<u8>, text: &str) {
    head(out, BYTES, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Appends the beginning of a map of so many entries.
pub(crate) fn map(out: &mut Vec<u8>, entries: usize) {
    head(out, MAP, entries as u64);
}

/// Appends the beginning of a list whose length is not known; [`BREAK`] ends it.
pub(crate) fn endless_list(out: &mut Vec<u8>) {
    out.push(LIST << 5 | 31);
}

/// Appends the document of an object that has a list for one of its fields, up to that list's items.
pub(crate) fn list_head(out: &mut Vec<u8>, fields: &serde_json::Map<String, Value>, list: &str) -> Result<(), Status> {
    out.extend_from_slice(&TAG);
    map(out, fields.len() + 1);
    for (name, value) in fields {
        text(out, name);
        item(out, value.to_string().as_bytes())?;
    }
    text(out, list);
    endless_list(out);
    Ok(())
}

fn head(out: &mut Vec<u8>, major: u8, value: u64) {
    let major = major << 5;
    match value {
        0..24 => out.push(major | value as u8),
        24..0x100 => out.extend_from_slice(&[major | 24, value as u8]),
        0x100..0x1_0000 => {
            out.push(major | 25);
            out.extend_from_slice(&(value as u16).to_be_bytes());
        }
        0x1_0000..0x1_0000_0000 => {
            out.push(major | 26);
            out.extend_from_slice(&(value as u32).to_be_bytes());
        }
        _ => {
            out.push(major | 27);
            out.extend_from_slice(&value.to_be_bytes());
        }
    }
}

/// Puts the number of entries before those that were appended since `at`.
fn close(out: &mut Vec<u8>, at: usize, major: u8, count: usize) {
    if count < 24 {
        out[at - 1] = major << 5 | count as u8;
        return;
    }
    let mut full = Vec::with_capacity(9);
    head(&mut full, major, count as u64);
    out.splice(at - 1..at, full);
}

/// One value.
struct Item<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Item<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.0.push(0xf6);
        Ok(())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        self.0.push(if value { 0xf5 } else { 0xf4 });
        Ok(())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        head(self.0, UNSIGNED, value);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        match u64::try_from(value) {
            Ok(value) => head(self.0, UNSIGNED, value),
            // -1 - n, which is the complement.
            Err(_) => head(self.0, NEGATIVE, (!value).cast_unsigned()),
        }
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        let short = value as f32;
        if f64::from(short) == value {
            self.0.push(0xfa);
            self.0.extend_from_slice(&short.to_be_bytes());
        } else {
            self.0.push(0xfb);
            self.0.extend_from_slice(&value.to_be_bytes());
        }
        Ok(())
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        text(self.0, value);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        self.0.push(0);
        let (at, mut count) = (self.0.len(), 0);
        while seq.next_element_seed(Item(self.0))?.is_some() {
            count += 1;
        }
        close(self.0, at, LIST, count);
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        self.0.push(0);
        let (at, mut count) = (self.0.len(), 0);
        while map.next_key_seed(Item(self.0))?.is_some() {
            map.next_value_seed(Item(self.0))?;
            count += 1;
        }
        close(self.0, at, MAP, count);
        Ok(())
    }
}
