//! From `openAPIV3Schema` of a custom resource definition to a schema. Must refuse
//! what is not structural rather than guess.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::rules::{Pattern, Rules};
use crate::schema::{ListType, PatchStrategy, Schema, Shape};

/// A regular expression may not compile to more than this, for a definition is a user's.
const MAX_PATTERN_BYTES: usize = 1 << 20;

/// Why a schema from a custom resource definition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SchemaError {
    /// Path within the schema, such as `properties[spec].items`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

/// A structural schema from `openAPIV3Schema`, as written.
pub fn from_openapi_v3(value: &Value) -> Result<Schema, SchemaError> {
    Reader {
        path: String::new(),
        asserting: false,
    }
    .schema(value)
}

/// The schema of a custom resource's root: [`from_openapi_v3`] with apiVersion, kind and
/// metadata as every object has them.
pub fn from_crd(value: &Value) -> Result<Schema, SchemaError> {
    let mut schema = from_openapi_v3(value)?;
    super::object_meta::add_to(&mut schema);
    Ok(schema)
}

struct Reader {
    path: String,
    /// Within `allOf` and the like, where a schema only asserts.
    asserting: bool,
}

type Result<T, E = SchemaError> = std::result::Result<T, E>;

impl Reader {
    fn error<T>(&self, field: &str, problem: impl Into<String>) -> Result<T> {
        let dot = if self.path.is_empty() || field.is_empty() {
            ""
        } else {
            "."
        };
        Err(SchemaError {
            path: format!("{}{dot}{field}", self.path),
            problem: problem.into(),
        })
    }

    fn below(&mut self, step: &str, value: &Value) -> Result<Schema> {
        let at = self.path.len();
        if at > 0 {
            self.path.push('.');
        }
        self.path.push_str(step);
        let schema = self.schema(value);
        if schema.is_ok() {
            self.path.truncate(at);
        }
        schema
    }

    fn schema(&mut self, value: &Value) -> Result<Schema> {
        let Value::Object(map) = value else {
            return self.error("", "must be an object");
        };
        if map.contains_key("$ref") {
            return self.error("$ref", "$ref is not supported");
        }
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        let text = |name: &str| map.get(name).and_then(Value::as_str).unwrap_or_default();
        let rules = self.rules(map)?;
        let mut schema = Schema {
            shape: self.shape(map, text("type"))?,
            description: text("description").to_owned(),
            default: map.get("default").cloned(),
            nullable: flag("nullable"),
            enumeration: map.get("enum").and_then(Value::as_array).cloned().unwrap_or_default(),
            format: text("format").to_owned(),
            preserve_unknown: flag("x-kubernetes-preserve-unknown-fields"),
            embedded_resource: flag("x-kubernetes-embedded-resource"),
            rules,
            ..Schema::default()
        };
        // Without a type in an assertion, and without a type but preserving, null is as good as anything.
        schema.nullable |= matches!(schema.shape, Shape::Any);
        if schema.embedded_resource {
            super::object_meta::add_to(&mut schema);
        }
        Ok(schema)
    }

    fn shape(&mut self, map: &Map<String, Value>, kind: &str) -> Result<Shape> {
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        if flag("x-kubernetes-int-or-string") {
            return Ok(Shape::IntOrString);
        }
        match kind {
            "string" => Ok(Shape::String),
            "integer" => Ok(Shape::Integer),
            "number" => Ok(Shape::Number),
            "boolean" => Ok(Shape::Boolean),
            "object" => self.object(map),
            "array" => self.list(map),
            "" if self.asserting && (map.contains_key("properties") || map.contains_key("required")) => {
                self.object(map)
            }
            "" if self.asserting && map.contains_key("items") => self.list(map),
            "" if self.asserting || flag("x-kubernetes-preserve-unknown-fields") => Ok(Shape::Any),
            "" => self.error("type", "Required value: must not be empty for specified object fields"),
            other => self.error("type", format!("Unsupported value: {}", meta::field::quoted(other))),
        }
    }

    fn object(&mut self, map: &Map<String, Value>) -> Result<Shape> {
        let atomic = map.get("x-kubernetes-map-type").and_then(Value::as_str) == Some("atomic");
        let fields = map
            .get("properties")
            .and_then(Value::as_object)
            .filter(|p| !p.is_empty());
        match map.get("additionalProperties") {
            Some(Value::Bool(false)) | None => {}
            Some(_) if fields.is_some() => {
                return self.error(
                    "additionalProperties",
                    "Forbidden: must not be used together with properties",
                );
            }
            Some(Value::Bool(true)) => {
                return Ok(Shape::Map {
                    values: Arc::new(crate::schema::ANY.clone()),
                    atomic,
                });
            }
            Some(values) => {
                let values = Arc::new(self.below("additionalProperties", values)?);
                return Ok(Shape::Map { values, atomic });
            }
        }
        let mut out = BTreeMap::new();
        for (name, value) in fields.into_iter().flatten() {
            out.insert(
                name.clone(),
                Arc::new(self.below(&format!("properties[{name}]"), value)?),
            );
        }
        Ok(Shape::Object {
            fields: out,
            required: strings(map.get("required")),
            atomic,
        })
    }

    fn list(&mut self, map: &Map<String, Value>) -> Result<Shape> {
        let items = match map.get("items") {
            Some(items) => self.below("items", items)?,
            None if self.asserting => crate::schema::ANY.clone(),
            None => return self.error("items", "Required value: must be specified"),
        };
        let list = match map.get("x-kubernetes-list-type").and_then(Value::as_str) {
            None | Some("atomic") => ListType::Atomic,
            Some("set") => ListType::Set,
            Some("map") => {
                let keys = strings(map.get("x-kubernetes-list-map-keys"));
                if keys.is_empty() {
                    return self.error(
                        "x-kubernetes-list-map-keys",
                        "Required value: must not be empty if x-kubernetes-list-type is map",
                    );
                }
                ListType::Map(keys)
            }
            Some(other) => {
                return self.error(
                    "x-kubernetes-list-type",
                    format!("Unsupported value: {}", meta::field::quoted(other)),
                );
            }
        };
        Ok(Shape::List {
            items: Arc::new(items),
            list,
            patch: PatchStrategy::default(),
        })
    }

    fn rules(&mut self, map: &Map<String, Value>) -> Result<Option<Box<Rules>>> {
        let number = |name: &str| map.get(name).and_then(Value::as_f64);
        let count = |name: &str| map.get(name).and_then(Value::as_u64);
        let flag = |name: &str| map.get(name).and_then(Value::as_bool).unwrap_or_default();
        let rules = Rules {
            pattern: self.pattern(map)?,
            minimum: number("minimum"),
            exclusive_minimum: flag("exclusiveMinimum"),
            maximum: number("maximum"),
            exclusive_maximum: flag("exclusiveMaximum"),
            multiple_of: number("multipleOf"),
            min_length: count("minLength"),
            max_length: count("maxLength"),
            min_items: count("minItems"),
            max_items: count("maxItems"),
            unique_items: flag("uniqueItems"),
            min_properties: count("minProperties"),
            max_properties: count("maxProperties"),
            all_of: self.branches(map, "allOf")?,
            any_of: self.branches(map, "anyOf")?,
            one_of: self.branches(map, "oneOf")?,
            not: map.get("not").map(|v| self.assertion("not", v)).transpose()?,
            validations: map
                .get("x-kubernetes-validations")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default(),
        };
        Ok((!rules.is_empty()).then(|| Box::new(rules)))
    }

    fn pattern(&self, map: &Map<String, Value>) -> Result<Option<Pattern>> {
        let Some(source) = map.get("pattern").and_then(Value::as_str).filter(|p| !p.is_empty()) else {
            return Ok(None);
        };
        match regex::RegexBuilder::new(source).size_limit(MAX_PATTERN_BYTES).build() {
            Ok(regex) => Ok(Some(Pattern {
                source: source.to_owned(),
                regex,
            })),
            Err(e) => self.error(
                "pattern",
                format!(
                    "Invalid value: {}: must be a valid regular expression, but isn't: {e}",
                    meta::field::quoted(source)
                ),
            ),
        }
    }

    fn branches(&mut self, map: &Map<String, Value>, name: &str) -> Result<Vec<Schema>> {
        let list = map.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        list.iter()
            .enumerate()
            .map(|(i, v)| self.assertion(&format!("{name}[{i}]"), v))
            .collect()
    }

    fn assertion(&mut self, step: &str, value: &Value) -> Result<Schema> {
        let outer = std::mem::replace(&mut self.asserting, true);
        let schema = self.below(step, value);
        self.asserting = outer;
        schema
    }
}

fn strings(value: Option<&Value>) -> Vec<String> {
    let list = value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    list.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn what_is_not_structural_is_refused_by_path() {
        for (schema, message) in [
            (
                json!({"properties": {}}),
                "type: Required value: must not be empty for specified object fields",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array"}}}),
                "properties[a].items: Required value: must be specified",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "wrong"}}}}),
                "properties[a].items.type: Unsupported value: \"wrong\"",
            ),
            (
                json!({"type": "object", "properties": {"a": {"type": "string"}}, "additionalProperties": {"type": "string"}}),
                "additionalProperties: Forbidden: must not be used together with properties",
            ),
            (json!({"$ref": "#/x"}), "$ref: $ref is not supported"),
        ] {
            assert_eq!(from_openapi_v3(&schema).unwrap_err().to_string(), message);
        }
        for pattern in ["(?i)^ab$", r"\p{L}+", r"^\d{1,3}[\w.-]*$"] {
            assert!(
                from_openapi_v3(&json!({"type": "string", "pattern": pattern})).is_ok(),
                "{pattern}"
            );
        }
        let bad = from_openapi_v3(&json!({"type": "string", "pattern": "("})).unwrap_err();
        assert_eq!(bad.path, "pattern");
    }

    #[test]
    fn a_custom_resource_keeps_its_metadata() {
        let schema = from_crd(&json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {"size": {"type": "integer", "default": 3}}},
            "raw": {"type": "object", "x-kubernetes-embedded-resource": true},
        }}))
        .unwrap();
        let mut value = json!({
            "apiVersion": "example.org/v1", "kind": "Thing", "extra": 1,
            "metadata": {"name": "x", "labels": {"a": "b"}, "finalizers": ["f"], "junk": 1},
            "spec": {"junk": 1},
            "raw": {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {}},
        });
        let unknown = crate::shape::prune(&schema, &mut value);
        assert_eq!(unknown, ["extra", "metadata.junk", "raw.spec", "spec.junk"]);
        crate::shape::apply_defaults(&schema, &mut value);
        assert_eq!(value["spec"], json!({"size": 3}));
        assert_eq!(value["metadata"]["finalizers"], json!(["f"]));
    }

    proptest! {
        #[test]
        fn any_value_is_read_or_refused(v in crate::shape::samples::any_value()) {
            let _ = from_crd(&v);
            let _ = from_crd(&json!({"type": "object", "properties": v, "allOf": [v]}));
        }
    }
}
