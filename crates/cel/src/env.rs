//! What an expression may name: variables with their declared types, types, extensions.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::types::{Decl, ObjectType, Type};

/// Extensions that upstream has in some places only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// `cel.bind`
    Bind,
    /// `base64.encode`, `base64.decode`
    Encoders,
    /// `math.greatest` and its like.
    Math,
}

/// What an expression may name.
#[derive(Clone, Debug, Default)]
pub struct Env {
    variables: BTreeMap<Arc<str>, Arc<Decl>>,
    types: BTreeMap<Arc<str>, Arc<ObjectType>>,
    extensions: Vec<Extension>,
}

impl Env {
    /// Kubernetes' base environment, without variables.
    pub fn new() -> Self {
        Env::default()
    }

    /// Declares a variable; its name may have dots (`authorizer.requestResource`).
    #[must_use]
    pub fn variable(mut self, name: &str, decl: Arc<Decl>) -> Self {
        self.variables.insert(name.into(), decl);
        self
    }

    /// Lets expressions make objects of a type (`Name{field: value}`).
    #[must_use]
    pub fn object_type(mut self, object: Arc<ObjectType>) -> Self {
        self.types.insert(object.name.clone(), object);
        self
    }

    /// Turns an extension on.
    #[must_use]
    pub fn extension(mut self, extension: Extension) -> Self {
        self.extensions.push(extension);
        self
    }

    pub(crate) fn has(&self, extension: Extension) -> bool {
        self.extensions.contains(&extension)
    }

    pub(crate) fn find(&self, name: &str) -> Option<(&Arc<str>, &Arc<Decl>)> {
        self.variables.get_key_value(name)
    }

    pub(crate) fn object(&self, name: &str) -> Option<&Arc<ObjectType>> {
        self.types.get(name)
    }

    /// The type a name stands for.
    pub(crate) fn type_named(&self, name: &str) -> Option<Type> {
        use crate::types::Opaque as O;
        let any = || Arc::new(Type::Dyn);
        Some(match name {
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "list" => Type::List(any()),
            "map" => Type::Map(any(), any()),
            "null_type" => Type::Null,
            "type" => Type::Type(any()),
            "google.protobuf.Timestamp" => Type::Timestamp,
            "google.protobuf.Duration" => Type::Duration,
            "optional_type" => Type::Optional(any()),
            _ => {
                if let Some(object) = self.types.get(name) {
                    return Some(Type::Object(object.clone()));
                }
                let opaque = [O::Quantity, O::Ip, O::Cidr, O::Url, O::Semver, O::Format];
                Type::Opaque(opaque.into_iter().find(|o| o.name() == name)?)
            }
        })
    }
}
