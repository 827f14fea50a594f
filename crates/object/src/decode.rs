//! Request bodies to values: JSON and YAML, with a bound on depth and with
//! duplicate fields noticed (`fieldValidation`).

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// Deepest nesting taken; every walk over a decoded value relies on it.
pub const MAX_DEPTH: usize = 100;

/// A decoded body.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    /// The value; of duplicate fields the last wins.
    pub value: Value,
    /// Paths of duplicate fields.
    pub duplicates: Vec<String>,
}

/// Decodes JSON.
pub fn json(bytes: &[u8]) -> Result<Decoded, String> {
    let mut duplicates = Vec::new();
    let mut decoder = serde_json::Deserializer::from_slice(bytes);
    let seed = Node {
        path: String::new(),
        depth: 0,
        duplicates: &mut duplicates,
    };
    let value = seed.deserialize(&mut decoder).map_err(|e| e.to_string())?;
    decoder.end().map_err(|e| e.to_string())?;
    Ok(Decoded { value, duplicates })
}

/// Decodes one YAML document.
pub fn yaml(bytes: &[u8]) -> Result<Decoded, String> {
    let mut duplicates = Vec::new();
    let seed = Node {
        path: String::new(),
        depth: 0,
        duplicates: &mut duplicates,
    };
    let value = seed
        .deserialize(serde_yaml_ng::Deserializer::from_slice(bytes))
        .map_err(|e| e.to_string())?;
    Ok(Decoded { value, duplicates })
}

struct Node<'a> {
    path: String,
    depth: usize,
    duplicates: &'a mut Vec<String>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<Value, D::Error> {
        d.deserialize_any(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let depth = deeper(self.depth)?;
        let mut list = Vec::new();
        loop {
            let seed = Node {
                path: format!("{}[{}]", self.path, list.len()),
                depth,
                duplicates: &mut *self.duplicates,
            };
            match seq.next_element_seed(seed)? {
                Some(v) => list.push(v),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let depth = deeper(self.depth)?;
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = if self.path.is_empty() {
                key.clone()
            } else {
                format!("{}.{key}", self.path)
            };
            let value = map.next_value_seed(Node {
                path: path.clone(),
                depth,
                duplicates: &mut *self.duplicates,
            })?;
            if out.insert(key, value).is_some() {
                self.duplicates.push(path);
            }
        }
        Ok(Value::Object(out))
    }
}

fn deeper<E: serde::de::Error>(depth: usize) -> Result<usize, E> {
    if depth >= MAX_DEPTH {
        return Err(E::custom(format!("exceeded max depth of {MAX_DEPTH}")));
    }
    Ok(depth + 1)
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

    proptest! {
        #[test]
        fn junk_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = json(&bytes);
            let _ = yaml(&bytes);
        }
    }
}
