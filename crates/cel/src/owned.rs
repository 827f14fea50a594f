//! Maps made while evaluating: entries in order, found by keys of which equal numbers are one.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::EvalError;
use crate::value::{Text, Value};

/// A map made while evaluating; entries keep their order.
#[derive(Clone, Debug, Default)]
pub struct OwnedMap<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key<'a>, usize>,
    /// The object type, if it was made as one.
    pub type_name: Option<Arc<str>>,
}

/// What a map finds its entries by: numbers that are equal are one key.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key<'a> {
    Bool(bool),
    Int(i64),
    Uint(u64),
    String(TextKey<'a>),
}

#[derive(Clone, Debug)]
struct TextKey<'a>(Text<'a>);

impl PartialEq for TextKey<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl Eq for TextKey<'_> {}

impl std::hash::Hash for TextKey<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.as_str().hash(state);
    }
}

impl<'a> OwnedMap<'a> {
    /// Keys and values, in the order they were added.
    pub fn entries(&self) -> &[(Value<'a>, Value<'a>)] {
        &self.entries
    }

    /// The value under a key, or under a number equal to it.
    pub fn get<'s>(&'s self, key: &Value<'s>) -> Option<&'s Value<'a>> {
        // Looking up needs a key that lives as long as the map's own; shortening those is free.
        let index: &'s HashMap<Key<'s>, usize> = &self.index;
        let place = index.get(&key_of(key)?)?;
        self.entries.get(*place).map(|(_, value)| value)
    }

    /// Adds an entry; a second one of the same key is an error.
    pub fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let found = key_of(&key).filter(|_| !matches!(key, Value::Double(_)));
        let Some(index) = found else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.type_name())));
        };
        if self.index.insert(index, self.entries.len()).is_some() {
            let shown = crate::convert::display(&key);
            return Err(EvalError::new(format!("insert failed: key {shown} already exists")));
        }
        self.entries.push((key, value));
        Ok(())
    }
}

/// The form of a key under which equal keys meet; `None` if it cannot be a key.
fn key_of<'a>(key: &Value<'a>) -> Option<Key<'a>> {
    Some(match key {
        Value::Bool(b) => Key::Bool(*b),
        Value::Int(n) => Key::Int(*n),
        Value::Uint(n) => match i64::try_from(*n) {
            Ok(n) => Key::Int(n),
            Err(_) => Key::Uint(*n),
        },
        Value::Double(d) if d.fract() == 0.0 && (-9.2e18..9.2e18).contains(d) => Key::Int(*d as i64),
        Value::String(text) => Key::String(TextKey(text.clone())),
        _ => return None,
    })
}
