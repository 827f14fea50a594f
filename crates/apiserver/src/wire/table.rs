//! The messages of Kubernetes protobuf: field numbers, JSON names and types,
//! read off `protobuf.fields`. Must not read or write bytes.
//!
//! The file has one message a line: its name, then fields as
//! `number:jsonName=type`. These are facts of upstream's types as their struct
//! tags state them (v1.36), checked against what `k8s-pb` generates off the
//! `.proto` files. A type is `s`, `b`, `i`, `d`, `y` (bytes) or a message's
//! name; before it `*` says repeated, `m` a map of it, `?` a pointer (its zero
//! value means something), `!` that JSON shows its zero value, and `^` that in
//! JSON the message's fields are its owner's.

use std::collections::HashMap;
use std::sync::OnceLock;

/// Type of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// A string.
    Text,
    /// Base64 in JSON.
    Bytes,
    /// A boolean.
    Bool,
    /// A whole number.
    Int,
    /// A floating-point number.
    Double,
    /// A message that is an object in JSON: an index.
    Message(usize),
    /// A message that is something else in JSON.
    Special(Special),
}

/// Messages that are no objects in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Special {
    /// A time, to the second.
    Time,
    /// A time, to the microsecond.
    MicroTime,
    /// A string or number in a string.
    Quantity,
    /// A number or a string.
    IntOrString,
    /// Any JSON, as bytes in field 1.
    Json,
    /// A list of strings, in field 1.
    Texts,
    /// Nanoseconds, in JSON as Go prints them.
    Duration,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrTexts,
}

/// How often a field may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Once.
    One,
    /// A list.
    Many,
    /// A map from strings.
    Map,
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Field {
    /// Field number.
    pub number: u32,
    /// Name in JSON; empty when the message's fields are its owner's.
    pub name: &'static str,
    /// Type of the value, the item or the map's value.
    pub kind: Type,
    /// How often.
    pub count: Count,
    /// Whether a zero value is told from none.
    pub pointer: bool,
    /// Whether JSON shows the zero value.
    pub shown: bool,
}

/// A field as JSON names it.
#[derive(Debug)]
pub(crate) struct Named {
    /// Numbers of the messages that it lies in, outermost first.
    pub within: Box<[u32]>,
    /// The field.
    pub field: Field,
}

/// A message.
#[derive(Debug)]
pub(crate) struct Message {
    /// Fields as they lie on the wire, by number.
    numbered: Vec<Field>,
    /// Fields as JSON has them, by name.
    named: Vec<Named>,
    /// Where a name's hash points: one more than its place in `named`, 0 for none. Looking names up
    /// is half the work of writing an object, and this is twice as quick as a search.
    slots: Box<[u16]>,
}

/// A number of a name, as evenly spread as the fields need. Any collision is found out by comparing.
fn hash(name: &str) -> usize {
    let bytes = name.as_bytes();
    let word = |from: &[u8]| from.iter().fold(0u64, |w, b| w << 8 | u64::from(*b));
    let head = match bytes.first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => word(bytes),
    };
    let tail = bytes.last_chunk::<8>().map_or(0, |chunk| u64::from_le_bytes(*chunk));
    let mixed = (head ^ tail.rotate_left(29) ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize
}

impl Message {
    /// By number.
    pub fn by_number(&self, number: u64) -> Option<&Field> {
        let found = self.numbered.binary_search_by(|f| u64::from(f.number).cmp(&number));
        found.ok().map(|i| &self.numbered[i])
    }

    /// Fields as JSON has them.
    #[cfg(test)]
    pub fn fields(&self) -> &[Named] {
        &self.named
    }

    /// By name in JSON.
    pub fn by_name(&self, name: &str) -> Option<&'_ Named> {
        let mask = self.slots.len() - 1;
        let mut at = hash(name) & mask;
        loop {
            // Slots are more than twice the names, so that there is always one that is empty.
            let found = &self.named[usize::from(self.slots[at].checked_sub(1)?)];
            if found.field.name == name {
                return Some(found);
            }
            at = (at + 1) & mask;
        }
    }

    fn new(numbered: Vec<Field>, named: Vec<Named>) -> Self {
        let mut slots = vec![0u16; (named.len() * 3 + 1).next_power_of_two()].into_boxed_slice();
        let mask = slots.len() - 1;
        for (place, named) in (1u16..).zip(&named) {
            let mut at = hash(named.field.name) & mask;
            while slots[at] != 0 {
                at = (at + 1) & mask;
            }
            slots[at] = place;
        }
        Message { numbered, named, slots }
    }
}

/// Kinds of all group versions.
const META: [&str; 12] = [
    "Status",
    "DeleteOptions",
    "CreateOptions",
    "UpdateOptions",
    "PatchOptions",
    "WatchEvent",
    "PartialObjectMetadata",
    "PartialObjectMetadataList",
    "APIVersions",
    "APIGroup",
    "APIGroupList",
    "APIResourceList",
];

/// All messages.
pub(crate) struct Table {
    index: HashMap<&'static str, usize>,
    all: Vec<Message>,
    /// `JSONSchemaProps`, which some specials hold.
    pub schema: usize,
}

/// The table.
pub(crate) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| Table::parse(include_str!("protobuf.fields")))
}

impl Table {
    fn parse(text: &'static str) -> Self {
        let lines: Vec<(&str, &str)> = text.lines().map(|l| l.split_once(' ').unwrap_or((l, ""))).collect();
        let index: HashMap<&str, usize> = lines.iter().enumerate().map(|(i, (name, _))| (*name, i)).collect();
        let numbered: Vec<Vec<Field>> = lines
            .iter()
            .map(|(_, fields)| {
                let mut out: Vec<Field> = fields.split(' ').filter_map(|f| field(f, &index)).collect();
                out.sort_by_key(|f| f.number);
                out
            })
            .collect();
        let all = (0..numbered.len())
            .map(|i| {
                let mut named = Vec::new();
                flatten(&numbered, i, &mut Vec::new(), &mut named);
                named.sort_by_key(|n| n.field.name);
                Message::new(numbered[i].clone(), named)
            })
            .collect();
        let schema = index.get("apiextensions.v1.jsonschemaprops").copied().unwrap_or(0);
        Table { index, all, schema }
    }

    /// A message by its index.
    pub fn get(&self, index: usize) -> &Message {
        &self.all[index]
    }

    /// A message by package and name, lower case.
    pub fn find(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }

    /// The message of a kind, if it has one.
    pub fn of_kind(&self, api_version: &str, kind: &str) -> Option<usize> {
        // Every group version has these under its own name.
        if META.contains(&kind) {
            return self.find(&format!("meta.v1.{}", kind.to_lowercase()));
        }
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let package = match group {
            "" => "core",
            group if group.ends_with(".k8s.io") || !group.contains('.') => group.split('.').next().unwrap_or_default(),
            // Groups of others may begin alike.
            _ => return None,
        };
        self.find(&format!("{package}.{version}.{}", kind.to_lowercase()))
    }
}

/// The fields of a message as JSON has them.
fn flatten(all: &[Vec<Field>], message: usize, within: &mut Vec<u32>, out: &mut Vec<Named>) {
    for field in &all[message] {
        match field.kind {
            // The file nests no message in itself this way.
            Type::Message(inner) if field.name.is_empty() => {
                within.push(field.number);
                flatten(all, inner, within, out);
                within.pop();
            }
            _ => out.push(Named {
                within: within.as_slice().into(),
                field: *field,
            }),
        }
    }
}

fn field(text: &'static str, index: &HashMap<&'static str, usize>) -> Option<Field> {
    let (number, rest) = text.split_once(':')?;
    let (name, kind) = rest.split_once('=')?;
    let marks = kind.trim_start_matches(['?', '!', '^']);
    let (pointer, shown) = (kind.starts_with('?'), kind.starts_with('!'));
    let (count, kind) = match (marks.strip_prefix('*'), marks.strip_prefix('m')) {
        (Some(rest), _) => (Count::Many, rest),
        // `meta.…` is a message and no map of `eta.…`.
        (None, Some(rest)) if kind_of(rest, index).is_some() => (Count::Map, rest),
        _ => (Count::One, marks),
    };
    Some(Field {
        number: number.parse().ok()?,
        name,
        kind: kind_of(kind, index)?,
        count,
        pointer,
        shown,
    })
}

fn kind_of(text: &str, index: &HashMap<&'static str, usize>) -> Option<Type> {
    Some(match text {
        "s" => Type::Text,
        "y" => Type::Bytes,
        "b" => Type::Bool,
        "i" => Type::Int,
        "d" => Type::Double,
        "meta.v1.time" => Type::Special(Special::Time),
        "meta.v1.microtime" => Type::Special(Special::MicroTime),
        "meta.v1.duration" => Type::Special(Special::Duration),
        "resource.quantity" => Type::Special(Special::Quantity),
        "intstr.intorstring" => Type::Special(Special::IntOrString),
        "runtime.rawextension" | "meta.v1.fieldsv1" | "apiextensions.v1.json" => Type::Special(Special::Json),
        "apiextensions.v1.jsonschemapropsorbool" => Type::Special(Special::SchemaOrBool),
        "apiextensions.v1.jsonschemapropsorarray" => Type::Special(Special::SchemaOrArray),
        "apiextensions.v1.jsonschemapropsorstringarray" => Type::Special(Special::SchemaOrTexts),
        text if text.ends_with(".extravalue") || text == "meta.v1.verbs" => Type::Special(Special::Texts),
        text => Type::Message(*index.get(text)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_has_a_type_and_every_served_kind_a_message() {
        let text = include_str!("protobuf.fields");
        let written: usize = text.lines().map(|l| l.split(' ').count() - 1).sum();
        let read: usize = table().all.iter().map(|m| m.numbered.len()).sum();
        assert_eq!(read, written);
        for kind in kinds::all().iter().filter(|k| !k.group.contains("kubevirt")) {
            let version = kind.gvr().api_version();
            assert!(table().of_kind(&version, &kind.kind).is_some(), "{}", kind.kind);
            let list = table().of_kind(&version, &kind.list_kind);
            assert!(list.is_some() || !kind.verbs.contains(&"list"), "{}", kind.list_kind);
        }
        assert!(table().of_kind("apps.example.com/v1", "Deployment").is_none());
    }

    #[test]
    fn embedded_fields_are_found_by_their_owner() {
        let volume = table().get(table().find("core.v1.volume").unwrap());
        let named = volume.by_name("configMap").unwrap();
        assert_eq!((&*named.within, named.field.number), (&[2][..], 19));
        assert!(volume.by_name("nothing").is_none());
    }
}
