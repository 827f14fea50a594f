//! Objects, lists and events, written in what was negotiated: a form of the
//! object in a media type. Must not choose either.

use std::sync::Arc;

use kinds::Kind;
use meta::{Object, Status};
use serde_json::{Map, Value};

use super::accept::{Accepted, Media};
use super::form::Form;
use super::recent::Recent;
use crate::cache::Item;
use crate::registry::Listed;
use crate::wire::table::table;
use crate::wire::write::{close, key, open, text, varint, varint_len};
use crate::wire::{cbor, encode};

/// Writes objects of one kind.
#[derive(Clone)]
pub struct Writer {
    kind: Arc<Kind>,
    form: Form,
    media: Media,
    /// `apiVersion` and `kind` of what is written, and its message.
    api_version: String,
    name: String,
    message: Option<usize>,
}

impl Writer {
    /// A writer of what was negotiated.
    pub fn new(kind: Arc<Kind>, accepted: Accepted) -> Self {
        let (api_version, name) = match accepted.form {
            Form::Metadata => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadata".to_owned()),
            _ => (kind.gvr().api_version(), kind.kind.to_string()),
        };
        Writer {
            message: table().of_kind(&api_version, &name),
            kind,
            form: accepted.form,
            media: accepted.media,
            api_version,
            name,
        }
    }

    /// The media type.
    pub fn media(&self) -> Media {
        self.media
    }

    /// The kind.
    pub fn kind(&self) -> &Arc<Kind> {
        &self.kind
    }

    /// Appends a single object.
    pub fn object(&self, out: &mut Vec<u8>, object: &Object) -> Result<(), Status> {
        match self.media {
            Media::Json => {
                self.form.write_object(out, &self.kind, object);
                out.push(b'\n');
                Ok(())
            }
            Media::Yaml => {
                let mut json = Vec::new();
                self.form.write_object(&mut json, &self.kind, object);
                yaml(out, &json)
            }
            Media::Cbor => self.cbor(out, object),
            Media::Protobuf => self.protobuf(out, object),
        }
    }

    fn cbor(&self, out: &mut Vec<u8>, object: &Object) -> Result<(), Status> {
        if self.form == Form::Plain && object.managed_fields().is_none() {
            return cbor::document(out, object.raw());
        }
        let mut json = Vec::with_capacity(object.raw().len() + 1024);
        self.form.write_object(&mut json, &self.kind, object);
        cbor::document(out, &json)
    }

    fn protobuf(&self, out: &mut Vec<u8>, object: &Object) -> Result<(), Status> {
        let message = self.message()?;
        encode::body(out, &self.api_version, &self.name, |out| {
            encode::object(out, message, object)
        })
    }

    fn message(&self) -> Result<usize, Status> {
        self.message
            .ok_or_else(|| Status::internal(format!("{} has no message", self.name)))
    }

    /// Everything of a list before its first item, where that does not depend on the items: for
    /// protobuf, the fields before them.
    pub fn list_head(&self, listed: &Listed) -> Result<Vec<u8>, Status> {
        let head = self.form.list_head(&self.kind, listed);
        let whole = || [&head, &b"]}"[..]].concat();
        let mut out = Vec::with_capacity(256);
        match self.media {
            Media::Json | Media::Yaml => return Ok(head),
            Media::Cbor => {
                let mut fields: Map<String, Value> = serde_json::from_slice(&whole()).map_err(Status::internal)?;
                let list = if matches!(self.form, Form::Table(_)) {
                    "rows"
                } else {
                    "items"
                };
                fields.remove(list);
                cbor::list_head(&mut out, &fields, list)?;
            }
            Media::Protobuf => {
                let name = format!("{}List", self.name);
                let list = table().of_kind(&self.api_version, &name);
                let list = list.ok_or_else(|| Status::internal(format!("{name} has no message")))?;
                encode::message(&mut out, list, &whole(), None)?;
            }
        }
        Ok(out)
    }

    /// What stands before a list's fields in protobuf, where all of them take `size` bytes.
    pub fn list_envelope(&self, size: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        encode::envelope(&mut out, &self.api_version, &format!("{}List", self.name), size);
        out
    }

    /// What ends a list.
    pub fn list_tail(&self) -> &'static [u8] {
        match self.media {
            Media::Json | Media::Yaml => b"]}\n",
            Media::Cbor => &[cbor::BREAK],
            Media::Protobuf => &encode::ENVELOPE_END,
        }
    }

    /// Bytes that an item takes in a protobuf list; kept for the next list.
    pub fn item_size(&self, item: &Item, scratch: &mut Vec<u8>) -> Result<usize, Status> {
        let known = item.message_size().filter(|_| self.form == Form::Plain);
        let size = match known {
            Some(size) => size,
            None => {
                scratch.clear();
                encode::object(scratch, self.message()?, &item.object)?;
                if self.form == Form::Plain {
                    item.set_message_size(scratch.len());
                }
                scratch.len()
            }
        };
        Ok(1 + varint_len(size as u64) + size)
    }

    /// Appends an item of a list.
    pub fn item(&self, out: &mut Vec<u8>, object: &Object, first: bool) -> Result<(), Status> {
        match self.media {
            Media::Json | Media::Yaml => {
                if !first {
                    out.push(b',');
                }
                self.form.write_item(out, &self.kind, object);
                Ok(())
            }
            Media::Cbor => {
                let mut json = Vec::with_capacity(object.raw().len() + 1024);
                self.form.write_item(&mut json, &self.kind, object);
                cbor::item(out, &json)
            }
            Media::Protobuf => {
                // All lists have their items in field 2.
                key(out, 2, 2);
                let at = open(out);
                encode::object(out, self.message()?, object)?;
                close(out, at);
                Ok(())
            }
        }
    }

    /// Appends a watch event.
    pub fn event(&self, out: &mut Vec<u8>, verb: &str, object: &Arc<Object>, recent: &Recent) -> Result<(), Status> {
        match self.media {
            Media::Json | Media::Yaml => {
                self.form.write_event(out, &self.kind, verb, object);
                Ok(())
            }
            Media::Cbor => frame_cbor(out, verb, |out| self.cbor(out, object)),
            Media::Protobuf if self.form == Form::Plain => {
                frame_protobuf(out, verb, &recent.bytes(object, |out| self.protobuf(out, object))?)
            }
            Media::Protobuf => {
                let mut body = Vec::with_capacity(1024);
                self.protobuf(&mut body, object)?;
                frame_protobuf(out, verb, &body)
            }
        }
    }

    /// Appends a bookmark.
    pub fn bookmark(&self, out: &mut Vec<u8>, revision: u64, initial_end: bool) -> Result<(), Status> {
        let object = self.form.bookmark(&self.kind, revision, initial_end);
        event_of(out, self.media, "BOOKMARK", &object)
    }
}

/// Appends an event of a value that says what it is.
pub fn event_of(out: &mut Vec<u8>, media: Media, verb: &str, object: &Value) -> Result<(), Status> {
    match media {
        Media::Json | Media::Yaml => {
            out.extend_from_slice(format!("{{\"type\":\"{verb}\",\"object\":{object}}}\n").as_bytes());
            Ok(())
        }
        Media::Cbor => frame_cbor(out, verb, |out| cbor::document(out, object.to_string().as_bytes())),
        Media::Protobuf => {
            let mut body = Vec::with_capacity(512);
            value_message(&mut body, object)?;
            frame_protobuf(out, verb, &body)
        }
    }
}

/// Appends a value that says what it is; in JSON where there is no message for it, which is then said.
pub fn value(out: &mut Vec<u8>, media: Media, value: &Value) -> Result<Media, Status> {
    let before = out.len();
    match media {
        Media::Json => {}
        Media::Yaml => return yaml(out, value.to_string().as_bytes()).map(|()| media),
        Media::Cbor => return cbor::document(out, value.to_string().as_bytes()).map(|()| media),
        Media::Protobuf if value_message(out, value).is_ok() => return Ok(media),
        Media::Protobuf => out.truncate(before),
    }
    out.extend_from_slice(value.to_string().as_bytes());
    Ok(Media::Json)
}

fn value_message(out: &mut Vec<u8>, value: &Value) -> Result<(), Status> {
    let part = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let (version, kind) = (part("apiVersion"), part("kind"));
    let message = table().of_kind(version, kind);
    let message = message.ok_or_else(|| Status::internal(format!("{kind} has no message")))?;
    encode::body(out, version, kind, |out| {
        encode::message(out, message, value.to_string().as_bytes(), None)
    })
}

/// A frame of a protobuf watch: its length in four bytes, then a `WatchEvent`.
fn frame_protobuf(out: &mut Vec<u8>, verb: &str, body: &[u8]) -> Result<(), Status> {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    text(out, 1, verb.as_bytes());
    key(out, 2, 2);
    varint(out, (1 + varint_len(body.len() as u64) + body.len()) as u64);
    text(out, 1, body);
    let length = u32::try_from(out.len() - start - 4).map_err(Status::internal)?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn frame_cbor(
    out: &mut Vec<u8>,
    verb: &str,
    write: impl FnOnce(&mut Vec<u8>) -> Result<(), Status>,
) -> Result<(), Status> {
    let start = out.len();
    out.extend_from_slice(&cbor::TAG);
    cbor::map(out, 2);
    cbor::text(out, "type");
    cbor::text(out, verb);
    cbor::text(out, "object");
    // Half a frame would be taken for the beginning of the next.
    write(out).inspect_err(|_| out.truncate(start))
}

/// JSON as YAML.
pub fn yaml(out: &mut Vec<u8>, json: &[u8]) -> Result<(), Status> {
    let value: Value = serde_json::from_slice(json).map_err(Status::internal)?;
    serde_yaml_ng::to_writer(out, &value).map_err(Status::internal)
}
