//! The forms in which objects are answered: as they are, their metadata only,
//! or as table rows; written in JSON. Must not decode an object that is
//! answered as it is.

use jiff::Timestamp;
use kinds::Kind;
use meta::Object;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::cache::codec;
use crate::registry::Listed;

/// A form of answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// `PartialObjectMetadata`.
    Metadata,
    /// `Table`; with how much of each object.
    Table(Include),
}

/// `includeObject` of a table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Include {
    /// `Metadata`.
    #[default]
    Metadata,
    /// `None`.
    Nothing,
    /// `Object`.
    Object,
}

impl Form {
    /// Appends a single object.
    pub fn write_object(self, out: &mut Vec<u8>, kind: &Kind, object: &Object) {
        match self {
            Form::Plain => codec::write_full(out, object),
            Form::Metadata => write_partial(out, object),
            Form::Table(_) => {
                let meta = json!({"resourceVersion": object.resource_version().to_string()});
                write_table_head(out, kind, &meta, true);
                self.write_row(out, kind, object);
                out.extend_from_slice(b"]}");
            }
        }
    }

    /// Everything of a list before its first item.
    pub fn list_head(self, kind: &Kind, listed: &Listed) -> Vec<u8> {
        let mut meta = json!({"resourceVersion": listed.revision.to_string()});
        if !listed.continue_token.is_empty() {
            meta["continue"] = listed.continue_token.as_str().into();
        }
        if let Some(n) = listed.remaining.filter(|n| *n > 0) {
            meta["remainingItemCount"] = n.into();
        }
        let mut out = Vec::with_capacity(1024);
        let (list_kind, version) = match self {
            Form::Plain => (kind.list_kind.to_string(), kind.gvr().api_version()),
            Form::Metadata => ("PartialObjectMetadataList".to_owned(), "meta.k8s.io/v1".to_owned()),
            Form::Table(_) => {
                write_table_head(&mut out, kind, &meta, true);
                return out;
            }
        };
        let head = format!("{{\"kind\":\"{list_kind}\",\"apiVersion\":\"{version}\",\"metadata\":{meta},\"items\":[");
        out.extend_from_slice(head.as_bytes());
        out
    }

    /// Appends an item of a list.
    pub fn write_item(self, out: &mut Vec<u8>, kind: &Kind, object: &Object) {
        match self {
            Form::Plain => codec::write_full(out, object),
            Form::Metadata => write_partial(out, object),
            Form::Table(_) => self.write_row(out, kind, object),
        }
    }

    /// Appends a watch event and its newline.
    pub fn write_event(self, out: &mut Vec<u8>, kind: &Kind, verb: &str, object: &Object) {
        out.extend_from_slice(b"{\"type\":\"");
        out.extend_from_slice(verb.as_bytes());
        out.extend_from_slice(b"\",\"object\":");
        self.write_object(out, kind, object);
        out.extend_from_slice(b"}\n");
    }

    /// The object of a bookmark.
    pub fn bookmark(self, kind: &Kind, revision: u64, initial_end: bool) -> Value {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        match self {
            Form::Plain => json!({"kind": kind.kind, "apiVersion": kind.gvr().api_version(), "metadata": metadata}),
            Form::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            Form::Table(_) => json!({
                "kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": revision.to_string()},
                "columnDefinitions": columns(kind),
                "rows": [{"cells": [], "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}],
            }),
        }
    }

    fn write_row(self, out: &mut Vec<u8>, kind: &Kind, object: &Object) {
        let value = object.to_value();
        let mut cells = Vec::with_capacity(kind.columns.len() + 1);
        cells.extend(kind.strategy().name_cell(&value));
        let columns = cells.len() + kind.columns.len();
        cells.extend(kind.strategy().row(&value, Timestamp::now()));
        cells.resize(columns, Value::from(""));
        out.extend_from_slice(b"{\"cells\":");
        out.extend_from_slice(Value::Array(cells).to_string().as_bytes());
        let Form::Table(include) = self else {
            return;
        };
        match include {
            Include::Nothing => {}
            Include::Metadata => {
                out.extend_from_slice(b",\"object\":");
                write_partial(out, object);
            }
            Include::Object => {
                out.extend_from_slice(b",\"object\":");
                codec::write_full(out, object);
            }
        }
        out.push(b'}');
    }
}

#[derive(Deserialize)]
struct MetadataOnly<'a> {
    #[serde(borrow)]
    metadata: &'a RawValue,
}

fn write_partial(out: &mut Vec<u8>, object: &Object) {
    out.extend_from_slice(b"{\"kind\":\"PartialObjectMetadata\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":");
    match serde_json::from_slice::<MetadataOnly<'_>>(object.raw()) {
        Ok(only) => {
            let metadata = only.metadata.get().as_bytes();
            match object.managed_fields() {
                Some(managed) if metadata.len() > 2 => {
                    out.extend_from_slice(b"{\"managedFields\":");
                    out.extend_from_slice(managed);
                    out.push(b',');
                    out.extend_from_slice(&metadata[1..]);
                }
                _ => out.extend_from_slice(metadata),
            }
        }
        // Unreachable for a parsed object; an empty object is still well-formed.
        Err(_) => out.extend_from_slice(b"{}"),
    }
    out.push(b'}');
}

fn write_table_head(out: &mut Vec<u8>, kind: &Kind, meta: &Value, with_columns: bool) {
    let columns = if with_columns { columns(kind) } else { json!([]) };
    let head = format!(
        "{{\"kind\":\"Table\",\"apiVersion\":\"meta.k8s.io/v1\",\"metadata\":{meta},\"columnDefinitions\":{columns},\"rows\":["
    );
    out.extend_from_slice(head.as_bytes());
}

fn columns(kind: &Kind) -> Value {
    let mut out = Vec::with_capacity(kind.columns.len() + 1);
    let name = kind.strategy().name_cell(&Value::Null).map(|_| {
        json!({
        "name": "Name", "type": "string", "format": "name", "priority": 0,
        "description": "Name must be unique within a namespace. Is required when creating resources, although some \
                        resources may allow a client to request the generation of an appropriate name automatically.",
        })
    });
    out.extend(name);
    out.extend(kind.columns.iter().map(|c| {
        json!({"name": c.name, "type": c.kind, "format": c.format, "priority": c.priority, "description": c.description})
    }));
    Value::Array(out)
}
