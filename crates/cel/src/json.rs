//! Values as JSON, for callers that store what an expression made.

use serde_json::{Map as JsonMap, Value as Json};

use crate::convert::display;
use crate::formats::to_base64;
use crate::value::{Opaque, Value};

/// Values may share their parts; JSON with more than this many is refused.
const MOST_NODES: usize = 1_000_000;

impl Value<'_> {
    /// The value as JSON; `None` if it has no such form: types, most values of the libraries, numbers
    /// that are not finite, maps with keys that are not strings, and values that would be too large.
    pub fn to_json(&self) -> Option<Json> {
        let mut left = MOST_NODES;
        convert(self, &mut left)
    }
}

fn convert(value: &Value<'_>, left: &mut usize) -> Option<Json> {
    *left = left.checked_sub(1)?;
    Some(match value {
        Value::Null | Value::Optional(None) => Json::Null,
        Value::Bool(b) => Json::Bool(*b),
        Value::Int(n) => (*n).into(),
        Value::Uint(n) => (*n).into(),
        Value::Double(d) => Json::Number(serde_json::Number::from_f64(*d)?),
        Value::String(text) => text.as_str().into(),
        Value::Bytes(bytes) => to_base64(bytes).into(),
        Value::Duration(_) | Value::Timestamp(_) => display(value).into(),
        Value::Optional(Some(inner)) => convert(inner, left)?,
        Value::List(list) => {
            let items = list.iter().map(|item| convert(&item.ok()?, left));
            Json::Array(items.collect::<Option<_>>()?)
        }
        Value::Map(map) => {
            let mut out = JsonMap::new();
            for entry in map.entries() {
                let (key, value) = entry.ok()?;
                out.insert(key.as_str()?.to_owned(), convert(&value, left)?);
            }
            Json::Object(out)
        }
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Quantity(_) | Opaque::Ip(_) | Opaque::Cidr(..) | Opaque::Url(_) | Opaque::Semver(_) => {
                display(value).into()
            }
            _ => return None,
        },
        Value::Type(_) => return None,
    })
}
