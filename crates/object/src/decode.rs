//! Decoding of what clients send: JSON or YAML into a value, with repeated fields
//! reported by path. Must bound depth, so that nothing later overflows the stack.

use std::cell::RefCell;
use std::fmt;
use std::fmt::Write as _;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// The deepest nesting that is decoded. No API type comes near it.
pub const MAX_DEPTH: usize = 100;

/// Upstream stops collecting strict errors here, and so do we.
const MAX_REPORTS: usize = 100;

/// Why bytes are not a value.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, or too deep. The message names line and column.
    #[error("{0}")]
    Json(#[source] serde_json::Error),
    /// Not YAML, or not representable in JSON.
    #[error("error converting YAML to JSON: {0}")]
    Yaml(#[source] serde_yaml_ng::Error),
}

impl From<DecodeError> for String {
    fn from(error: DecodeError) -> String {
        error.to_string()
    }
}

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value; of duplicate fields the last wins.
    pub value: Value,
    /// Paths of duplicate fields, such as `spec.x`.
    pub duplicates: Vec<String>,
}

/// Decodes JSON.
pub fn json(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let walk = Walk::default();
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Node(&walk).deserialize(&mut deserializer).map_err(DecodeError::Json)?;
    deserializer.end().map_err(DecodeError::Json)?;
    Ok(walk.decoded(value))
}

/// Decodes the first YAML document. Keys that are numbers or booleans become strings; tags are
/// dropped; an empty document is null.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, DecodeError> {
    let walk = Walk::default();
    let Some(document) = serde_yaml_ng::Deserializer::from_slice(bytes).next() else {
        return Ok(walk.decoded(Value::Null));
    };
    let value = Node(&walk).deserialize(document).map_err(DecodeError::Yaml)?;
    Ok(walk.decoded(value))
}

/// What field validation found, in upstream's words, one finding each:
/// `unknown field "spec.foo"`, `duplicate field "spec.x"`. They serve as warnings.
pub fn findings(unknown: &[String], duplicates: &[String]) -> Vec<String> {
    let say = |what: &str, path: &String| format!("{what} field {}", meta::field::quoted(path));
    let unknown = unknown.iter().map(|p| say("unknown", p));
    unknown.chain(duplicates.iter().map(|p| say("duplicate", p))).collect()
}

/// The findings as the one error of strict validation (400):
/// `strict decoding error: unknown field "spec.foo", duplicate field "spec.x"`.
pub fn strict_error(findings: &[String]) -> String {
    format!("strict decoding error: {}", findings.join(", "))
}

/// Where the decoder is, and what it found.
#[derive(Default)]
struct Walk {
    path: RefCell<Vec<Step>>,
    reports: RefCell<Vec<String>>,
}

enum Step {
    Field(String),
    Index(usize),
}

impl Walk {
    fn decoded(self, value: Value) -> Decoded {
        Decoded {
            value,
            duplicates: self.reports.into_inner(),
        }
    }

    fn report_duplicate(&self, key: &str) {
        let mut reports = self.reports.borrow_mut();
        if reports.len() >= MAX_REPORTS {
            return;
        }
        let mut path = String::new();
        for step in self.path.borrow().iter() {
            match step {
                Step::Field(name) if path.is_empty() => path.push_str(name),
                Step::Field(name) => {
                    path.push('.');
                    path.push_str(name);
                }
                // Writing to a String cannot fail.
                Step::Index(i) => drop(write!(path, "[{i}]")),
            }
        }
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(key);
        if !reports.contains(&path) {
            reports.push(path);
        }
    }

    fn enter<E: de::Error>(&self, step: Step) -> Result<(), E> {
        let mut path = self.path.borrow_mut();
        if path.len() >= MAX_DEPTH {
            return Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}")));
        }
        path.push(step);
        Ok(())
    }

    fn leave(&self) {
        self.path.borrow_mut().pop();
    }
}

#[derive(Clone, Copy)]
struct Node<'w>(&'w Walk);

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom(format!("unsupported value: {v}")))
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(Value::String(v))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            self.0.enter(Step::Index(list.len()))?;
            let item = seq.next_element_seed(self)?;
            self.0.leave();
            match item {
                Some(item) => list.push(item),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(Key)? {
            if map.contains_key(&key) {
                self.0.report_duplicate(&key);
            }
            self.0.enter(Step::Field(key))?;
            let value = access.next_value_seed(self)?;
            if let Some(Step::Field(key)) = self.0.path.borrow_mut().pop() {
                map.insert(key, value);
            }
        }
        Ok(Value::Object(map))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, access: A) -> Result<Value, A::Error> {
        // A tagged YAML value: JSON has no tags.
        let (_, content) = access.variant_seed(Key)?;
        de::VariantAccess::newtype_variant_seed(content, self)
    }
}

/// A key of a map, as a string whatever it was in YAML.
struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_bool<E>(self, v: bool) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_i64<E>(self, v: i64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_u64<E>(self, v: u64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_f64<E>(self, v: f64) -> Result<String, E> {
        Ok(v.to_string())
    }

    fn visit_unit<E>(self) -> Result<String, E> {
        Ok("null".to_owned())
    }

    fn visit_str<E>(self, v: &str) -> Result<String, E> {
        Ok(v.to_owned())
    }

    fn visit_string<E>(self, v: String) -> Result<String, E> {
        Ok(v)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn duplicates_are_named() {
        let decoded = json(br#"{"spec":{"a":1,"a":2,"l":[{"b":1,"b":1}]}}"#).unwrap();
        assert_eq!(decoded.duplicates, ["spec.a", "spec.l[0].b"]);
        assert_eq!(decoded.value["spec"]["a"], 2);
    }

    #[test]
    fn yaml_and_depth() {
        assert_eq!(
            yaml(b"a: [1, x, true, null]").unwrap().value,
            json!({"a": [1, "x", true, null]})
        );
        let deep = "[".repeat(50_000);
        assert!(json(deep.as_bytes()).is_err());
        let deep = "{\"a\":".repeat(200) + "1" + &"}".repeat(200);
        assert!(json(deep.as_bytes()).is_err());
        assert!(json(b"{} junk").is_err());
    }

    #[test]
    fn yaml_becomes_json() {
        for (text, want) in [
            ("a: 1\n---\nb: 2\n", json!({"a": 1})),
            ("", json!(null)),
            ("1: a\ntrue: b\n1.5: c\n", json!({"1": "a", "true": "b", "1.5": "c"})),
            ("a: !tag {b: c}\n", json!({"a": {"b": "c"}})),
            ("a: &x {b: 1}\nc: *x\n", json!({"a": {"b": 1}, "c": {"b": 1}})),
            (
                "t: 2026-01-02T03:04:05Z\nn: ~\n",
                json!({"t": "2026-01-02T03:04:05Z", "n": null}),
            ),
        ] {
            assert_eq!(
                yaml(text.as_bytes()).map(|d| d.value).map_err(String::from),
                Ok(want),
                "{text:?}"
            );
        }
        assert_eq!(yaml(b"s:\n  a: 1\n  a: 2\n").unwrap().duplicates, ["s.a"]);
        assert!(yaml(b"a: .nan").is_err() && yaml(b"a: [").is_err() && yaml(b"a: *nothing").is_err());
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut bomb = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let last = format!("*a{},", i - 1).repeat(10);
            bomb.push_str(&format!("a{i}: &a{i} [{last}]\n"));
        }
        assert!(yaml(bomb.as_bytes()).is_err());
    }

    #[test]
    fn findings_read_as_upstream_words_them() {
        let all = findings(&["spec.foo".into()], &["spec.x".into()]);
        assert_eq!(
            strict_error(&all),
            "strict decoding error: unknown field \"spec.foo\", duplicate field \"spec.x\""
        );
    }

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = json(&bytes);
            let _ = yaml(&bytes);
        }
    }
}
