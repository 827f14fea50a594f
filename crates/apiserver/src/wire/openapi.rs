//! OpenAPI v2 documents as protobuf: the messages of `openapi.v2` as far as
//! the API server's documents use them. Takes the document as JSON.
//!
//! Must not panic on any document; what there is no field for is left out.

use serde_json::{Map, Value};

use super::write::{close, key, number, open, text};

type Fields = &'static [(&'static str, u32, Kind)];

/// How a field is written.
#[derive(Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Int,
    Double,
    /// Anything, as YAML; JSON is YAML.
    Any,
    Message(&'static Message),
    /// A message that holds named messages.
    Named(&'static Message),
    /// A message that holds strings: `type`, or a security requirement's scopes.
    Texts,
    /// A message that holds named lists of strings.
    Scopes,
    /// A schema, or true or false.
    SchemaOrBool,
    /// A schema in one more message.
    Wrapped,
    Parameter,
    SecurityScheme,
}

/// A message: its fields, those that are not known by name, and its extensions (`x-…`).
struct Message {
    fields: Fields,
    /// Field and message of everything else, by name.
    others: Option<(u32, &'static Message)>,
    extensions: u32,
}

const fn message(fields: Fields, extensions: u32) -> Message {
    Message {
        fields,
        others: None,
        extensions,
    }
}

static DOCUMENT: Message = message(
    &[
        ("swagger", 1, Kind::Text),
        ("info", 2, Kind::Message(&INFO)),
        ("host", 3, Kind::Text),
        ("basePath", 4, Kind::Text),
        ("schemes", 5, Kind::Text),
        ("consumes", 6, Kind::Text),
        ("produces", 7, Kind::Text),
        ("paths", 8, Kind::Message(&PATHS)),
        ("definitions", 9, Kind::Named(&SCHEMA)),
        ("security", 12, Kind::Scopes),
        ("securityDefinitions", 13, Kind::SecurityScheme),
    ],
    16,
);
static INFO: Message = message(
    &[
        ("title", 1, Kind::Text),
        ("version", 2, Kind::Text),
        ("description", 3, Kind::Text),
    ],
    7,
);
static PATHS: Message = Message {
    fields: &[],
    others: Some((2, &PATH)),
    extensions: 1,
};
static PATH: Message = message(
    &[
        ("$ref", 1, Kind::Text),
        ("get", 2, Kind::Message(&OPERATION)),
        ("put", 3, Kind::Message(&OPERATION)),
        ("post", 4, Kind::Message(&OPERATION)),
        ("delete", 5, Kind::Message(&OPERATION)),
        ("options", 6, Kind::Message(&OPERATION)),
        ("head", 7, Kind::Message(&OPERATION)),
        ("patch", 8, Kind::Message(&OPERATION)),
        ("parameters", 9, Kind::Parameter),
    ],
    10,
);
static OPERATION: Message = message(
    &[
        ("tags", 1, Kind::Text),
        ("summary", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("operationId", 5, Kind::Text),
        ("produces", 6, Kind::Text),
        ("consumes", 7, Kind::Text),
        ("parameters", 8, Kind::Parameter),
        ("responses", 9, Kind::Message(&RESPONSES)),
        ("schemes", 10, Kind::Text),
        ("deprecated", 11, Kind::Bool),
        ("security", 12, Kind::Scopes),
    ],
    13,
);
static RESPONSES: Message = Message {
    fields: &[],
    others: Some((1, &RESPONSE_VALUE)),
    extensions: 2,
};
/// Written around a response by [`named`].
static RESPONSE_VALUE: Message = message(&[("", 1, Kind::Message(&RESPONSE))], 0);
static RESPONSE: Message = message(&[("description", 1, Kind::Text), ("schema", 2, Kind::Wrapped)], 5);
static BODY_PARAMETER: Message = message(
    &[
        ("description", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("required", 4, Kind::Bool),
        ("schema", 5, Kind::Message(&SCHEMA)),
    ],
    6,
);
static QUERY_PARAMETER: Message = message(
    &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("allowEmptyValue", 5, Kind::Bool),
        ("type", 6, Kind::Text),
        ("format", 7, Kind::Text),
        ("default", 10, Kind::Any),
        ("pattern", 17, Kind::Text),
        ("uniqueItems", 20, Kind::Bool),
        ("enum", 21, Kind::Any),
    ],
    23,
);
/// Those of headers have the same numbers.
static PATH_PARAMETER: Message = message(
    &[
        ("required", 1, Kind::Bool),
        ("in", 2, Kind::Text),
        ("description", 3, Kind::Text),
        ("name", 4, Kind::Text),
        ("type", 5, Kind::Text),
        ("format", 6, Kind::Text),
        ("default", 9, Kind::Any),
        ("pattern", 16, Kind::Text),
        ("uniqueItems", 19, Kind::Bool),
        ("enum", 20, Kind::Any),
    ],
    22,
);
static REFERENCE: Message = message(&[("$ref", 1, Kind::Text), ("description", 2, Kind::Text)], 0);
static API_KEY: Message = message(
    &[
        ("type", 1, Kind::Text),
        ("name", 2, Kind::Text),
        ("in", 3, Kind::Text),
        ("description", 4, Kind::Text),
    ],
    5,
);
static SCHEMA: Message = message(
    &[
        ("$ref", 1, Kind::Text),
        ("format", 2, Kind::Text),
        ("title", 3, Kind::Text),
        ("description", 4, Kind::Text),
        ("default", 5, Kind::Any),
        ("multipleOf", 6, Kind::Double),
        ("maximum", 7, Kind::Double),
        ("exclusiveMaximum", 8, Kind::Bool),
        ("minimum", 9, Kind::Double),
        ("exclusiveMinimum", 10, Kind::Bool),
        ("maxLength", 11, Kind::Int),
        ("minLength", 12, Kind::Int),
        ("pattern", 13, Kind::Text),
        ("maxItems", 14, Kind::Int),
        ("minItems", 15, Kind::Int),
        ("uniqueItems", 16, Kind::Bool),
        ("maxProperties", 17, Kind::Int),
        ("minProperties", 18, Kind::Int),
        ("required", 19, Kind::Text),
        ("enum", 20, Kind::Any),
        ("additionalProperties", 21, Kind::SchemaOrBool),
        ("type", 22, Kind::Texts),
        ("items", 23, Kind::Wrapped),
        ("allOf", 24, Kind::Message(&SCHEMA)),
        ("properties", 25, Kind::Named(&SCHEMA)),
        ("discriminator", 26, Kind::Text),
        ("readOnly", 27, Kind::Bool),
        ("externalDocs", 29, Kind::Message(&DOCS)),
        ("example", 30, Kind::Any),
    ],
    31,
);
static DOCS: Message = message(&[("description", 1, Kind::Text), ("url", 2, Kind::Text)], 3);

/// A document.
pub(crate) fn document(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 << 20);
    if let Some(object) = value.as_object() {
        fields(&mut out, &DOCUMENT, object);
    }
    out
}

fn fields(out: &mut Vec<u8>, message: &Message, object: &Map<String, Value>) {
    for (name, value) in object {
        if let Some((_, number, kind)) = message.fields.iter().find(|(n, ..)| n == name) {
            // A list is a field that stands more than once, but for one that has a message of its own.
            match (value, kind) {
                (_, Kind::Texts) => field(out, *number, *kind, value),
                (Value::Array(list), _) => list.iter().for_each(|v| field(out, *number, *kind, v)),
                _ => field(out, *number, *kind, value),
            }
        } else if name.starts_with("x-") {
            if message.extensions > 0 {
                named(out, message.extensions, name, |out| any(out, 2, value));
            }
        } else if let Some((number, inner)) = message.others {
            named(out, number, name, |out| whole(out, 2, inner, value));
        }
    }
}

fn within(out: &mut Vec<u8>, number: u32, write: impl FnOnce(&mut Vec<u8>)) {
    key(out, number, 2);
    let at = open(out);
    write(out);
    close(out, at);
}

/// A name, and what has it.
fn named(out: &mut Vec<u8>, number: u32, name: &str, value: impl FnOnce(&mut Vec<u8>)) {
    within(out, number, |out| {
        text(out, 1, name.as_bytes());
        value(out);
    });
}

fn any(out: &mut Vec<u8>, number: u32, value: &Value) {
    within(out, number, |out| text(out, 2, format!("{value}\n").as_bytes()));
}

/// An object as a message; one that has nothing but a nameless field is written into that.
fn whole(out: &mut Vec<u8>, number: u32, message: &Message, value: &Value) {
    let Some(object) = value.as_object() else {
        return;
    };
    within(out, number, |out| match message.fields {
        [("", inner, kind)] => field(out, *inner, *kind, value),
        _ => fields(out, message, object),
    });
}

fn field(out: &mut Vec<u8>, number_of: u32, kind: Kind, value: &Value) {
    match (kind, value) {
        (Kind::Text, Value::String(s)) => text(out, number_of, s.as_bytes()),
        (Kind::Bool, Value::Bool(b)) => number(out, number_of, i64::from(*b)),
        (Kind::Int, value) => number(out, number_of, value.as_i64().unwrap_or(0)),
        (Kind::Double, value) => {
            key(out, number_of, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
        }
        (Kind::Any, value) => any(out, number_of, value),
        (Kind::Message(message), value) => whole(out, number_of, message, value),
        (Kind::Named(message), Value::Object(object)) => within(out, number_of, |out| {
            for (name, value) in object {
                named(out, 1, name, |out| whole(out, 2, message, value));
            }
        }),
        (Kind::Texts, Value::String(s)) => within(out, number_of, |out| text(out, 1, s.as_bytes())),
        (Kind::Texts, Value::Array(list)) => within(out, number_of, |out| {
            let texts = list.iter().filter_map(Value::as_str);
            texts.for_each(|s| text(out, 1, s.as_bytes()));
        }),
        (Kind::Scopes, Value::Object(object)) => within(out, number_of, |out| {
            for (name, scopes) in object {
                named(out, 1, name, |out| field(out, 2, Kind::Texts, scopes));
            }
        }),
        (Kind::SchemaOrBool, Value::Bool(b)) => within(out, number_of, |out| number(out, 2, i64::from(*b))),
        (Kind::SchemaOrBool | Kind::Wrapped, value) => within(out, number_of, |out| whole(out, 1, &SCHEMA, value)),
        (Kind::Parameter, value) => parameter(out, number_of, value),
        (Kind::SecurityScheme, Value::Object(object)) => within(out, number_of, |out| {
            for (name, scheme) in object.iter().filter(|(_, s)| s["type"] == "apiKey") {
                named(out, 1, name, |out| {
                    within(out, 2, |out| whole(out, 2, &API_KEY, scheme))
                });
            }
        }),
        _ => {}
    }
}

/// A parameter, in the messages that say where it stands.
fn parameter(out: &mut Vec<u8>, number: u32, value: &Value) {
    let other = |out: &mut Vec<u8>, kind: u32, message: &Message| {
        within(out, number, |out| {
            within(out, 1, |out| within(out, 2, |out| whole(out, kind, message, value)));
        });
    };
    match value["in"].as_str() {
        Some("body") => within(out, number, |out| {
            within(out, 1, |out| whole(out, 1, &BODY_PARAMETER, value))
        }),
        Some("header") => other(out, 1, &PATH_PARAMETER),
        Some("query") => other(out, 3, &QUERY_PARAMETER),
        Some("path") => other(out, 4, &PATH_PARAMETER),
        _ if value.get("$ref").is_some() => within(out, number, |out| whole(out, 2, &REFERENCE, value)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_document_is_written_as_its_messages_say() {
        let written = document(&json!({
            "swagger": "2.0",
            "paths": {"/a": {"get": {"responses": {"200": {"description": "OK"}}}}},
            "definitions": {"D": {"type": "object", "x-y": [1]}},
        }));
        let expected = [
            &b"\x4a\x22\x0a\x20\x0a\x01D\x12\x1b"[..],
            b"\xb2\x01\x08\x0a\x06object",
            b"\xfa\x01\x0d\x0a\x03x-y\x12\x06\x12\x04[1]\n",
            b"\x42\x1b\x12\x19\x0a\x02/a\x12\x13",
            b"\x12\x11\x4a\x0f\x0a\x0d\x0a\x03200\x12\x06\x0a\x04\x0a\x02OK",
            b"\x0a\x032.0",
        ];
        assert_eq!(written, expected.concat());
    }
}
