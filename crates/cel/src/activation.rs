//! What an evaluation's variables are.

use serde_json::Value as Json;

use crate::error::EvalError;
use crate::types::Decl;
use crate::value::{Fields, Map, Value};

/// Variables and their values, all borrowed from the caller.
#[derive(Debug, Default)]
pub struct Activation<'a> {
    bindings: Vec<(&'a str, Binding<'a>)>,
}

#[derive(Debug)]
enum Binding<'a> {
    Json(&'a Json),
    Value(Value<'a>),
}

impl<'a> Activation<'a> {
    /// No variables.
    pub fn new() -> Self {
        Activation::default()
    }

    /// Binds JSON, which is read as the variable was declared.
    #[must_use]
    pub fn json(mut self, name: &'a str, json: &'a Json) -> Self {
        self.bindings.push((name, Binding::Json(json)));
        self
    }

    /// Binds a value.
    #[must_use]
    pub fn value(mut self, name: &'a str, value: Value<'a>) -> Self {
        self.bindings.push((name, Binding::Value(value)));
        self
    }

    /// Binds fields that are made when they are asked for, such as `variables`.
    #[must_use]
    pub fn fields(self, name: &'a str, fields: &'a dyn Fields) -> Self {
        self.value(name, Value::Map(Map::Lazy(fields)))
    }

    pub(crate) fn find(&self, name: &str, decl: &'a Decl) -> Result<Value<'a>, EvalError> {
        match self.bindings.iter().find(|(n, _)| *n == name) {
            Some((_, Binding::Json(json))) => Value::read(json, decl),
            Some((_, Binding::Value(value))) => Ok(value.clone()),
            None => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }
}
