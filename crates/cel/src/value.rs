//! Values. JSON is never copied: a value of it is a reference, read by its declared
//! type when it is looked at.

use std::net::IpAddr;
use std::sync::Arc;

use meta::quantity::Quantity;
use serde_json::{Map as JsonMap, Value as Json};

use crate::authorizer::{Authorizer, Decision, ResourceCheck, Subject};
use crate::error::EvalError;
use crate::formats::Format;
pub use crate::owned::OwnedMap;
use crate::semver::Version;
use crate::time::Timestamp;
use crate::types::{Decl, ObjectType, Opaque as OpaqueType, Semantics, Shape, Type};
use crate::url::Url;

/// The value of an expression.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// A bool.
    Bool(bool),
    /// An int.
    Int(i64),
    /// A uint.
    Uint(u64),
    /// A double.
    Double(f64),
    /// A string.
    String(Text<'a>),
    /// Octets.
    Bytes(Arc<[u8]>),
    /// Nanoseconds.
    Duration(i64),
    /// A moment.
    Timestamp(Timestamp),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type.
    Type(Arc<str>),
    /// An optional.
    Optional(Option<Arc<Value<'a>>>),
    /// A value of Kubernetes' libraries.
    Opaque(Arc<Opaque<'a>>),
}

/// A string, borrowed where possible.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// Of the input or the program.
    Borrowed(&'a str),
    /// Made while evaluating.
    Shared(Arc<str>),
}

impl Text<'_> {
    /// The characters.
    pub fn as_str(&self) -> &str {
        match self {
            Text::Borrowed(s) => s,
            Text::Shared(s) => s,
        }
    }
}

/// A list.
#[derive(Clone, Debug)]
pub enum List<'a> {
    /// Of the input; read by the declared list, or dynamically.
    Json(&'a [Json], Option<&'a Decl>),
    /// Made while evaluating.
    Owned(Arc<OwnedList<'a>>),
}

/// A list made while evaluating.
#[derive(Clone, Debug)]
pub struct OwnedList<'a> {
    /// The elements.
    pub items: Vec<Value<'a>>,
    /// What it has from the declared list it was made of.
    pub semantics: Option<&'a Semantics>,
}

/// A map or an object.
#[derive(Clone, Debug)]
pub enum Map<'a> {
    /// Of the input, with values of one declared type, or dynamic ones.
    Json(&'a JsonMap<String, Json>, Option<&'a Decl>),
    /// Of the input, with the fields of an object type.
    Object(&'a JsonMap<String, Json>, &'a ObjectType),
    /// Made while evaluating.
    Owned(Arc<OwnedMap<'a>>),
    /// Fields the caller makes when they are asked for, such as `variables`.
    Lazy(&'a dyn Fields),
}

/// Fields that are made when they are asked for.
pub trait Fields: Send + Sync {
    /// The field; `None` if there is no such field.
    fn get<'s>(&'s self, name: &str) -> Option<Result<Value<'s>, EvalError>>;
}

impl std::fmt::Debug for dyn Fields + '_ {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fields")
    }
}

/// Values of Kubernetes' libraries.
#[derive(Clone, Debug)]
pub enum Opaque<'a> {
    /// A quantity.
    Quantity(Quantity),
    /// An address.
    Ip(IpAddr),
    /// A network, with the address it was written with.
    Cidr(IpAddr, u8),
    /// A URL.
    Url(Url),
    /// A version.
    Semver(Version),
    /// A named format.
    Format(Format),
    /// An authorizer, and whom it is asked about.
    Authorizer(&'a dyn Authorizer, Subject),
    /// A check on a path.
    PathCheck(&'a dyn Authorizer, Subject, Arc<str>),
    /// A check on a group.
    GroupCheck(&'a dyn Authorizer, Subject, Arc<str>),
    /// A check on a resource.
    ResourceCheck(&'a dyn Authorizer, Subject, ResourceCheck),
    /// What a check said.
    Decision(Decision),
}

impl Opaque<'_> {
    /// Its type.
    pub fn kind(&self) -> OpaqueType {
        match self {
            Opaque::Quantity(_) => OpaqueType::Quantity,
            Opaque::Ip(_) => OpaqueType::Ip,
            Opaque::Cidr(..) => OpaqueType::Cidr,
            Opaque::Url(_) => OpaqueType::Url,
            Opaque::Semver(_) => OpaqueType::Semver,
            Opaque::Format(_) => OpaqueType::Format,
            Opaque::Authorizer(..) => OpaqueType::Authorizer,
            Opaque::PathCheck(..) => OpaqueType::PathCheck,
            Opaque::GroupCheck(..) => OpaqueType::GroupCheck,
            Opaque::ResourceCheck(..) => OpaqueType::ResourceCheck,
            Opaque::Decision(_) => OpaqueType::Decision,
        }
    }
}

impl<'a> Value<'a> {
    /// JSON, read as declared.
    pub fn read(json: &'a Json, decl: &'a Decl) -> Result<Self, EvalError> {
        match (json, &decl.shape) {
            (Json::Null, _) => return Ok(Value::Null),
            (Json::Array(items), Shape::List(..)) => return Ok(Value::List(List::Json(items, Some(decl)))),
            (Json::Object(map), Shape::Map(values)) => return Ok(Value::Map(Map::Json(map, Some(values)))),
            (Json::Object(map), Shape::Object(object)) => return Ok(Value::Map(Map::Object(map, object))),
            _ => {}
        }
        match (json, &decl.ty) {
            (_, Type::Dyn) => Ok(Value::dynamic(json)),
            (Json::Bool(b), Type::Bool) => Ok(Value::Bool(*b)),
            (Json::Number(n), Type::Int) => whole(n).map(Value::Int).ok_or_else(|| wrong(json, decl)),
            (Json::Number(n), Type::Uint) => n.as_u64().map(Value::Uint).ok_or_else(|| wrong(json, decl)),
            (Json::Number(n), Type::Double) => n.as_f64().map(Value::Double).ok_or_else(|| wrong(json, decl)),
            (Json::String(s), Type::String) => Ok(Value::String(Text::Borrowed(s))),
            (Json::String(s), Type::Bytes) => crate::formats::base64(s)
                .map(|b| Value::Bytes(b.into()))
                .ok_or_else(|| EvalError::new(format!("Invalid byte formatted string {s}"))),
            (Json::String(s), Type::Duration) => crate::time::parse_schema_duration(s)
                .map(Value::Duration)
                .ok_or_else(|| EvalError::new(format!("Invalid duration {s}"))),
            (Json::String(s), Type::Timestamp) => Timestamp::parse_date(s)
                .or_else(|| Timestamp::parse(s))
                .map(Value::Timestamp)
                .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {s}"))),
            (Json::String(s), Type::Opaque(OpaqueType::Quantity)) => s
                .parse()
                .map(|q| Value::opaque(Opaque::Quantity(q)))
                .map_err(|e: meta::quantity::QuantityError| EvalError::new(e.to_string())),
            (Json::String(s), Type::Opaque(OpaqueType::Semver)) => Version::parse(s)
                .map(|v| Value::opaque(Opaque::Semver(v)))
                .map_err(EvalError::new),
            _ => Err(wrong(json, decl)),
        }
    }

    /// JSON of which nothing is declared.
    pub fn dynamic(json: &'a Json) -> Self {
        match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match n.as_i64() {
                Some(n) => Value::Int(n),
                None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(s) => Value::String(Text::Borrowed(s)),
            Json::Array(items) => Value::List(List::Json(items, None)),
            Json::Object(map) => Value::Map(Map::Json(map, None)),
        }
    }

    fn of(json: &'a Json, decl: Option<&'a Decl>) -> Result<Self, EvalError> {
        match decl {
            Some(decl) => Value::read(json, decl),
            None => Ok(Value::dynamic(json)),
        }
    }

    /// A string made while evaluating.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Value::String(Text::Shared(text.into()))
    }

    /// A list made while evaluating.
    pub fn list(items: Vec<Value<'a>>) -> Self {
        let semantics = None;
        Value::List(List::Owned(Arc::new(OwnedList { items, semantics })))
    }

    /// A value of the libraries.
    pub fn opaque(opaque: Opaque<'a>) -> Self {
        Value::Opaque(Arc::new(opaque))
    }

    /// An optional with a value.
    pub fn some(value: Value<'a>) -> Self {
        Value::Optional(Some(Arc::new(value)))
    }

    /// The characters, if it is a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text.as_str()),
            _ => None,
        }
    }

    /// The bool, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// Name of its type.
    pub fn type_name(&self) -> &str {
        match self {
            Value::Null => "null_type",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_) => "uint",
            Value::Double(_) => "double",
            Value::String(_) => "string",
            Value::Bytes(_) => "bytes",
            Value::Duration(_) => "google.protobuf.Duration",
            Value::Timestamp(_) => "google.protobuf.Timestamp",
            Value::List(_) => "list",
            Value::Map(Map::Object(_, object)) => &object.name,
            Value::Map(Map::Owned(map)) => map.type_name.as_deref().unwrap_or("map"),
            Value::Map(_) => "map",
            Value::Type(_) => "type",
            Value::Optional(_) => "optional_type",
            Value::Opaque(opaque) => opaque.kind().name(),
        }
    }

    /// What upstream counts as the size of a value: characters, octets, elements, or 1.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Value::String(text) => text.as_str().chars().count() as u64,
            Value::Bytes(bytes) => bytes.len() as u64,
            Value::List(list) => list.len() as u64,
            Value::Map(map) => map.len() as u64,
            Value::Optional(Some(value)) => value.size(),
            Value::Opaque(opaque) => match &**opaque {
                Opaque::Ip(ip) => octets(*ip),
                // Upstream adds the octet of the prefix.
                Opaque::Cidr(ip, _) => octets(*ip) + 1,
                Opaque::Url(url) => url.source.chars().count() as u64,
                _ => 1,
            },
            _ => 1,
        }
    }
}

fn octets(ip: IpAddr) -> u64 {
    if ip.is_ipv4() { 4 } else { 16 }
}

/// Whole numbers may come as 1.0.
fn whole(n: &serde_json::Number) -> Option<i64> {
    n.as_i64().or_else(|| {
        let float = n.as_f64()?;
        (float.fract() == 0.0 && float.abs() < 9.0e15).then_some(float as i64)
    })
}

fn wrong(json: &Json, decl: &Decl) -> EvalError {
    let found = match json {
        Json::Null => "null",
        Json::Bool(_) => "bool",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    let what = match decl.shape {
        Shape::List(..) => "an array for the provided schema with type=array".to_owned(),
        Shape::Map(_) | Shape::Object(_) => "a map for the provided schema with type=object".to_owned(),
        Shape::Plain => format!("{}, got {found}", decl.ty),
    };
    EvalError::new(format!("invalid data, expected {what}"))
}

impl<'a> List<'a> {
    /// How many elements.
    pub fn len(&self) -> usize {
        match self {
            List::Json(items, _) => items.len(),
            List::Owned(list) => list.items.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element at a place.
    pub fn get(&self, index: usize) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            List::Json(items, decl) => {
                let element = decl.and_then(element_of);
                Some(Value::of(items.get(index)?, element))
            }
            List::Owned(list) => list.items.get(index).cloned().map(Ok),
        }
    }

    /// How it is compared and joined.
    pub fn semantics(&self) -> Option<&'a Semantics> {
        match self {
            List::Json(_, Some(decl)) => match &decl.shape {
                Shape::List(_, semantics) => Some(semantics),
                _ => None,
            },
            List::Json(_, None) => None,
            List::Owned(list) => list.semantics,
        }
    }

    /// All elements.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).filter_map(|i| self.get(i))
    }

    /// All elements, or the first error.
    pub fn to_vec(&self) -> Result<Vec<Value<'a>>, EvalError> {
        match self {
            List::Owned(list) => Ok(list.items.clone()),
            List::Json(..) => self.iter().collect(),
        }
    }
}

fn element_of(decl: &Decl) -> Option<&Decl> {
    match &decl.shape {
        Shape::List(items, _) => Some(items),
        _ => None,
    }
}

impl<'a> Map<'a> {
    /// How many entries; a lazy one has none to count.
    pub fn len(&self) -> usize {
        match self {
            Map::Json(map, _) => map.len(),
            Map::Object(map, _) => map.len(),
            Map::Owned(map) => map.entries().len(),
            Map::Lazy(_) => 0,
        }
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value under a name.
    pub fn field(&self, name: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Map::Json(map, values) => Some(Value::of(map.get(name)?, *values)),
            Map::Object(map, object) => {
                let field = object.field(name)?;
                // Rules see a field that is null as one that is not there.
                let json = map.get(&*field.json).filter(|v| !v.is_null())?;
                Some(Value::read(json, &field.decl))
            }
            Map::Owned(map) => map.get(&Value::String(Text::Borrowed(name))).map(|v| Ok(v.clone())),
            Map::Lazy(fields) => fields.get(name),
        }
    }

    /// The value under a key.
    pub fn get(&self, key: &Value<'a>) -> Option<Result<Value<'a>, EvalError>> {
        if let Value::String(name) = key {
            return self.field(name.as_str());
        }
        match self {
            Map::Owned(map) => map.get(key).map(|v| Ok(v.clone())),
            _ => None,
        }
    }

    /// Keys and values.
    pub fn entries(&self) -> Box<dyn Iterator<Item = Result<(Value<'a>, Value<'a>), EvalError>> + '_> {
        match self {
            Map::Json(map, values) => {
                let values = *values;
                let entry = move |(k, v): (&'a String, &'a Json)| {
                    Value::of(v, values).map(|v| (Value::String(Text::Borrowed(k)), v))
                };
                Box::new(map.iter().map(entry))
            }
            Map::Object(map, object) => Box::new(object.fields.iter().filter_map(|(name, field)| {
                let value = Value::read(map.get(&*field.json).filter(|v| !v.is_null())?, &field.decl);
                Some(value.map(|v| (Value::String(Text::Borrowed(name)), v)))
            })),
            Map::Owned(map) => Box::new(map.entries().iter().cloned().map(Ok)),
            Map::Lazy(_) => Box::new(std::iter::empty()),
        }
    }
}
