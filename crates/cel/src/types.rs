//! Types: what the checker reasons with ([`Type`]) and what a caller declares
//! ([`Decl`]): a type plus what a schema says of sizes, list semantics and names.
//! Declarations also tell the evaluator how to read JSON.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// A type of the language.
#[derive(Clone, Debug, PartialEq)]
pub enum Type {
    /// Of an expression that has an error already.
    Error,
    /// Anything; checked when evaluated.
    Dyn,
    /// `null_type`
    Null,
    /// `bool`
    Bool,
    /// `int`
    Int,
    /// `uint`
    Uint,
    /// `double`
    Double,
    /// `string`
    String,
    /// `bytes`
    Bytes,
    /// `google.protobuf.Duration`
    Duration,
    /// `google.protobuf.Timestamp`
    Timestamp,
    /// `type(T)`
    Type(Arc<Type>),
    /// `list(T)`
    List(Arc<Type>),
    /// `map(K, V)`
    Map(Arc<Type>, Arc<Type>),
    /// A type with fields.
    Object(Arc<ObjectType>),
    /// `optional_type(T)`
    Optional(Arc<Type>),
    /// A type of Kubernetes' libraries.
    Opaque(Opaque),
    /// A free variable of a function's signature.
    Param(u32),
}

/// Types of Kubernetes' libraries: they have functions, but no fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// A quantity such as `500m`.
    Quantity,
    /// An address.
    Ip,
    /// A network.
    Cidr,
    /// A URL.
    Url,
    /// A version.
    Semver,
    /// A named format.
    Format,
    /// The authorizer of a request.
    Authorizer,
    /// A check on a path.
    PathCheck,
    /// A check on a group.
    GroupCheck,
    /// A check on a resource.
    ResourceCheck,
    /// What a check said.
    Decision,
}

impl Opaque {
    /// Upstream's name of the type.
    pub fn name(self) -> &'static str {
        match self {
            Opaque::Quantity => "kubernetes.Quantity",
            Opaque::Ip => "net.IP",
            Opaque::Cidr => "net.CIDR",
            Opaque::Url => "kubernetes.URL",
            Opaque::Semver => "kubernetes.Semver",
            Opaque::Format => "kubernetes.NamedFormat",
            Opaque::Authorizer => "kubernetes.authorization.Authorizer",
            Opaque::PathCheck => "kubernetes.authorization.PathCheck",
            Opaque::GroupCheck => "kubernetes.authorization.GroupCheck",
            Opaque::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Opaque::Decision => "kubernetes.authorization.Decision",
        }
    }
}

/// A type with named fields.
#[derive(Debug)]
pub struct ObjectType {
    /// Unique within an environment: two object types of one name are one type.
    pub name: Arc<str>,
    /// By the name an expression uses, that is, escaped.
    pub fields: BTreeMap<Box<str>, Field>,
}

impl ObjectType {
    /// The field of a name; words that are reserved elsewhere may stand after a dot as they are.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.get(name).or_else(|| {
            let escaped = crate::escape::reserved(name)?;
            self.fields.get(escaped.as_str())
        })
    }
}

impl PartialEq for ObjectType {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

/// A field of an object type.
#[derive(Debug)]
pub struct Field {
    /// Its name in JSON.
    pub json: Box<str>,
    /// Its type.
    pub decl: Arc<Decl>,
}

/// A declared type: of a variable, a field, an element.
#[derive(Debug)]
pub struct Decl {
    /// The type.
    pub ty: Type,
    /// Most elements, characters or octets a value can have, if that is known.
    pub max: Option<u64>,
    /// Fewest octets of JSON a value takes.
    pub min_size: u64,
    /// What is inside.
    pub shape: Shape,
}

/// What is inside a declared type.
#[derive(Debug)]
pub enum Shape {
    /// Nothing.
    Plain,
    /// Elements, and how lists of them are compared and joined.
    List(Arc<Decl>, Semantics),
    /// Values under string keys.
    Map(Arc<Decl>),
    /// Fields.
    Object(Arc<ObjectType>),
}

/// `x-kubernetes-list-type`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Semantics {
    /// A list like any other.
    #[default]
    Atomic,
    /// Order is ignored by `==`, and `+` adds what is missing.
    Set,
    /// Elements are the same if these fields (JSON names) are.
    Map(Box<[Box<str>]>),
}

/// The largest request upstream accepts; sizes without a declared limit follow from it.
pub const MAX_REQUEST: u64 = 3 * 1024 * 1024;

impl Decl {
    /// A type without anything inside, of unknown size.
    pub fn plain(ty: Type) -> Arc<Self> {
        let (max, min_size) = match ty {
            Type::Bool => (Some(1), 4),
            Type::Int | Type::Uint | Type::Double | Type::Null => (Some(1), 1),
            Type::String | Type::Bytes => (Some(MAX_REQUEST - 2), 2),
            _ => (None, 1),
        };
        Arc::new(Decl {
            ty,
            max,
            min_size,
            shape: Shape::Plain,
        })
    }

    /// A value whose type is found out when it is looked at.
    pub fn any() -> Arc<Self> {
        Decl::plain(Type::Dyn)
    }

    /// A list; without `max`, as many elements as fit into a request.
    pub fn list(items: Arc<Decl>, max: Option<u64>, semantics: Semantics) -> Arc<Self> {
        let fit = (MAX_REQUEST - 2) / (items.min_size + 1);
        Arc::new(Decl {
            ty: Type::List(Arc::new(items.ty.clone())),
            max: Some(max.unwrap_or(fit)),
            min_size: 2,
            shape: Shape::List(items, semantics),
        })
    }

    /// A map with string keys; without `max`, as many entries as fit into a request.
    pub fn map(values: Arc<Decl>, max: Option<u64>) -> Arc<Self> {
        let fit = (MAX_REQUEST - 2) / (values.min_size + 6);
        Arc::new(Decl {
            ty: Type::Map(Arc::new(Type::String), Arc::new(values.ty.clone())),
            max: Some(max.unwrap_or(fit)),
            min_size: 2,
            shape: Shape::Map(values),
        })
    }

    /// An object with fields, by their JSON names; fields whose names cannot be escaped are left out.
    pub fn object<'f>(name: &str, fields: impl IntoIterator<Item = (&'f str, Arc<Decl>)>) -> Arc<Self> {
        let fields = fields
            .into_iter()
            .filter_map(|(json, decl)| {
                let field = Field {
                    json: json.into(),
                    decl,
                };
                Some((crate::escape(json)?.into(), field))
            })
            .collect();
        let object = Arc::new(ObjectType {
            name: name.into(),
            fields,
        });
        Decl::of_object(object, 2)
    }

    pub(crate) fn of_object(object: Arc<ObjectType>, min_size: u64) -> Arc<Self> {
        Arc::new(Decl {
            ty: Type::Object(object.clone()),
            max: None,
            min_size,
            shape: Shape::Object(object),
        })
    }
}

impl Type {
    /// `list(T)`
    pub fn list(of: Type) -> Type {
        Type::List(Arc::new(of))
    }

    /// `map(K, V)`
    pub fn map(key: Type, value: Type) -> Type {
        Type::Map(Arc::new(key), Arc::new(value))
    }

    /// `optional_type(T)`
    pub fn optional(of: Type) -> Type {
        Type::Optional(Arc::new(of))
    }

    /// The name `type(x)` has, without parameters.
    pub fn name(&self) -> &str {
        match self {
            Type::Error => "!error!",
            Type::Dyn => "dyn",
            Type::Null => "null_type",
            Type::Bool => "bool",
            Type::Int => "int",
            Type::Uint => "uint",
            Type::Double => "double",
            Type::String => "string",
            Type::Bytes => "bytes",
            Type::Duration => "google.protobuf.Duration",
            Type::Timestamp => "google.protobuf.Timestamp",
            Type::Type(_) => "type",
            Type::List(_) => "list",
            Type::Map(..) => "map",
            Type::Object(object) => &object.name,
            Type::Optional(_) => "optional_type",
            Type::Opaque(opaque) => opaque.name(),
            Type::Param(_) => "dyn",
        }
    }

    /// Whether values have the same size always.
    pub(crate) fn is_scalar(&self) -> bool {
        match self {
            Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Duration | Type::Timestamp => true,
            Type::Optional(of) => of.is_scalar(),
            _ => false,
        }
    }

    pub(crate) fn is_dyn(&self) -> bool {
        matches!(self, Type::Dyn | Type::Error)
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Type::Type(of) if **of == Type::Dyn => f.write_str("type"),
            Type::Type(of) => write!(f, "type({of})"),
            Type::List(of) => write!(f, "list({of})"),
            Type::Map(key, value) => write!(f, "map({key}, {value})"),
            Type::Optional(of) => write!(f, "optional_type({of})"),
            Type::Null => f.write_str("null"),
            other => f.write_str(other.name()),
        }
    }
}
