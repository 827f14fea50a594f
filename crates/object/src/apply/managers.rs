//! `metadata.managedFields`: who owns which fields. Must not decide ownership;
//! its siblings do.

use std::borrow::Cow;
use std::fmt::Write as _;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::Writer;
use crate::fieldset::{FieldSet, push_quoted};

/// Updating managers beyond this number are folded into one, as upstream.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Fields of a manager: as they came, until somebody needs to look into them.
#[derive(Clone, Debug)]
enum Fields {
    Wire(Box<RawValue>),
    Set(FieldSet),
}

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug)]
pub struct Manager {
    /// Name.
    pub name: String,
    /// Whether by apply; otherwise by update.
    pub apply: bool,
    /// API version that the fields are named in.
    pub api_version: String,
    /// RFC 3339 time of the last change; may be empty.
    pub time: String,
    /// Subresource; empty for the main resource.
    pub subresource: String,
    fields: Fields,
}

impl Manager {
    pub(super) fn new(writer: &Writer<'_>, apply: bool, fields: FieldSet) -> Self {
        Manager {
            name: writer.name.to_owned(),
            apply,
            api_version: writer.api_version.to_owned(),
            time: writer.time.to_owned(),
            subresource: writer.subresource.to_owned(),
            fields: Fields::Set(fields),
        }
    }

    /// What it owns; nothing when the wire form was broken.
    pub fn fields(&self) -> Cow<'_, FieldSet> {
        match &self.fields {
            Fields::Set(set) => Cow::Borrowed(set),
            Fields::Wire(raw) => Cow::Owned(FieldSet::decode(raw.get()).unwrap_or_default()),
        }
    }

    pub(super) fn set_fields(&mut self, fields: FieldSet) {
        self.fields = Fields::Set(fields);
    }

    /// Whether a writer's entry is this one. An applier is the same in whatever version it speaks.
    pub(super) fn is(&self, writer: &Writer<'_>, apply: bool) -> bool {
        self.apply == apply
            && self.name == writer.name
            && self.subresource == writer.subresource
            && (apply || self.api_version == writer.api_version)
    }

    /// As conflicts name it: `"kubectl" with subresource "status" using apps/v1`.
    pub(super) fn words(&self) -> String {
        let mut out = meta::field::quoted(&self.name);
        if !self.subresource.is_empty() {
            _ = write!(out, " with subresource {}", meta::field::quoted(&self.subresource));
        }
        if !self.apply {
            _ = write!(out, " using {}", self.api_version);
        }
        out
    }

    fn same_but_time(&self, other: &Manager) -> bool {
        let heads = |m: &Manager| (m.apply, m.name.clone(), m.api_version.clone(), m.subresource.clone());
        let same_bytes = match (&self.fields, &other.fields) {
            (Fields::Wire(a), Fields::Wire(b)) => a.get() == b.get(),
            (Fields::Set(a), Fields::Set(b)) => a == b,
            _ => false,
        };
        heads(self) == heads(other) && (same_bytes || self.fields() == other.fields())
    }

    fn write(&self, out: &mut String) {
        out.push_str(r#"{"manager":"#);
        push_quoted(out, &self.name);
        out.push_str(if self.apply {
            r#","operation":"Apply","#
        } else {
            r#","operation":"Update","#
        });
        out.push_str(r#""apiVersion":"#);
        push_quoted(out, &self.api_version);
        if !self.time.is_empty() {
            out.push_str(r#","time":"#);
            push_quoted(out, &self.time);
        }
        out.push_str(r#","fieldsType":"FieldsV1","fieldsV1":"#);
        match &self.fields {
            Fields::Wire(raw) => out.push_str(raw.get()),
            Fields::Set(set) => out.push_str(&set.encode()),
        }
        if !self.subresource.is_empty() {
            out.push_str(r#","subresource":"#);
            push_quoted(out, &self.subresource);
        }
        out.push('}');
    }
}

impl PartialEq for Manager {
    fn eq(&self, other: &Self) -> bool {
        self.time == other.time && self.same_but_time(other)
    }
}

/// An entry as it stands on the wire.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct Wire {
    manager: String,
    operation: String,
    api_version: String,
    time: Option<String>,
    fields_type: String,
    #[serde(rename = "fieldsV1")]
    fields_v1: Option<Box<RawValue>>,
    subresource: String,
}

impl Wire {
    fn into_manager(self) -> Option<Manager> {
        let known = self.fields_type == "FieldsV1" && matches!(self.operation.as_str(), "Apply" | "Update");
        Some(Manager {
            name: self.manager,
            apply: self.operation == "Apply",
            api_version: self.api_version,
            time: self.time.unwrap_or_default(),
            subresource: self.subresource,
            fields: Fields::Wire(self.fields_v1.filter(|_| known)?),
        })
    }
}

/// All managers of an object. Their field sets stay encoded until a write moves them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(Vec<Manager>);

impl Managers {
    /// From the JSON of `metadata.managedFields`; nobody when it is not that. Entries of another
    /// form are left out.
    pub fn decode(bytes: &[u8]) -> Self {
        let wire: Vec<Wire> = serde_json::from_slice(bytes).unwrap_or_default();
        Managers(wire.into_iter().filter_map(Wire::into_manager).collect())
    }

    /// From the value of `metadata.managedFields`; see [`Managers::decode`].
    pub fn from_value(value: &Value) -> Self {
        Managers::decode(value.to_string().as_bytes())
    }

    /// The JSON of `metadata.managedFields`; `None` when nobody owns anything.
    pub fn encode(&self) -> Option<Bytes> {
        if self.0.is_empty() {
            return None;
        }
        let mut sorted: Vec<&Manager> = self.0.iter().collect();
        // Appliers first, then by time, then by name: the order that upstream prints.
        sorted.sort_by(|a, b| (!a.apply, &a.time, &a.name).cmp(&(!b.apply, &b.time, &b.name)));
        let mut out = String::with_capacity(512);
        out.push('[');
        for (i, m) in sorted.into_iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            m.write(&mut out);
        }
        out.push(']');
        Some(out.into())
    }

    /// The value of `metadata.managedFields`; `None` when nobody owns anything.
    pub fn to_value(&self) -> Option<Value> {
        serde_json::from_slice(&self.encode()?).ok()
    }

    /// The entries.
    pub fn iter(&self) -> impl Iterator<Item = &Manager> {
        self.0.iter()
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both say the same but for times and order.
    pub fn same_but_times(&self, other: &Managers) -> bool {
        let in_other = |m: &Manager| other.0.iter().any(|o| m.same_but_time(o));
        self.0.len() == other.0.len() && self.0.iter().all(in_other)
    }

    /// The managers that a write starts from: those that the client sent, when they are good
    /// and not empty, else the live ones; an explicitly empty list (`[]` or `[{}]`) resets. A
    /// write to a subresource always starts from the live ones.
    pub fn choose(live: Managers, given: Option<&Value>, subresource: &str) -> Managers {
        let Some(given) = given.filter(|_| subresource.is_empty()) else {
            return live;
        };
        match given.as_array().map(Vec::as_slice) {
            Some([]) => Managers::default(),
            Some([one]) if one.as_object().is_some_and(Map::is_empty) => Managers::default(),
            _ => {
                let given = Managers::from_value(given);
                let broken = |m: &Manager| matches!(&m.fields, Fields::Wire(w) if FieldSet::decode(w.get()).is_none());
                if given.is_empty() || given.0.iter().any(broken) {
                    live
                } else {
                    given
                }
            }
        }
    }

    pub(super) fn find(&self, writer: &Writer<'_>, apply: bool) -> Option<&Manager> {
        self.0.iter().find(|m| m.is(writer, apply))
    }

    pub(super) fn find_mut(&mut self, writer: &Writer<'_>, apply: bool) -> Option<&mut Manager> {
        self.0.iter_mut().find(|m| m.is(writer, apply))
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Manager> {
        self.0.iter_mut()
    }

    pub(super) fn push(&mut self, manager: Manager) {
        self.0.push(manager);
    }

    /// Drops those who own nothing any more.
    pub(super) fn drop_empty(&mut self) {
        self.0
            .retain(|m| !matches!(&m.fields, Fields::Set(set) if set.is_empty()));
    }

    /// Folds the oldest updaters of each version into one until there are few enough.
    pub(super) fn fold_ancient(&mut self) {
        let updaters = self.0.iter().filter(|m| !m.apply).count();
        let mut surplus = updaters.saturating_sub(MAX_UPDATE_MANAGERS);
        if surplus == 0 {
            return;
        }
        self.0.sort_by(|a, b| (a.apply, &a.time).cmp(&(b.apply, &b.time)));
        let mut kept: Vec<Manager> = Vec::with_capacity(self.0.len());
        for m in self.0.drain(..) {
            let bucket = kept.iter_mut().find(|k| !k.apply && k.api_version == m.api_version);
            match bucket {
                Some(bucket) if surplus > 0 && !m.apply => {
                    let both = bucket.fields().into_owned().union(m.fields().into_owned());
                    bucket.set_fields(both);
                    bucket.name = ANCIENT.to_owned();
                    bucket.subresource = String::new();
                    bucket.time = m.time;
                    surplus -= 1;
                }
                _ => kept.push(m),
            }
        }
        self.0 = kept;
    }
}
