//! Schemas as OpenAPI: v2 definitions and v3 component schemas, with
//! Kubernetes' extensions.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::schema::{ListType, Schema, Shape};

/// Collects named definitions while schemas are written out.
pub struct Definitions {
    prefix: &'static str,
    v3: bool,
    /// Definition name to schema.
    pub all: BTreeMap<String, Value>,
}

impl Definitions {
    /// For `/openapi/v2`: references into `#/definitions/`.
    pub fn v2() -> Self {
        Definitions {
            prefix: "#/definitions/",
            v3: false,
            all: BTreeMap::new(),
        }
    }

    /// For `/openapi/v3`: references into `#/components/schemas/`.
    pub fn v3() -> Self {
        Definitions {
            prefix: "#/components/schemas/",
            v3: true,
            all: BTreeMap::new(),
        }
    }

    /// Writes a schema; a named one becomes a definition and a reference to it.
    pub fn reference(&mut self, schema: &Schema) -> Value {
        if schema.definition.is_empty() {
            return self.inline(schema);
        }
        if !self.all.contains_key(&schema.definition) {
            // Entered first, so that a definition which contains itself ends here.
            self.all.insert(schema.definition.clone(), Value::Null);
            let written = self.inline(schema);
            self.all.insert(schema.definition.clone(), written);
        }
        json!({"$ref": format!("{}{}", self.prefix, schema.definition)})
    }

    fn field(&mut self, schema: &Schema) -> Value {
        let reference = self.reference(schema);
        let plain = schema.description.is_empty() && schema.default.is_none();
        if schema.definition.is_empty() || plain {
            return reference;
        }
        // Beside a reference v3 needs allOf, v2 takes siblings.
        let mut out = if self.v3 {
            json!({"allOf": [reference]})
        } else {
            reference
        };
        if !schema.description.is_empty() {
            out["description"] = schema.description.as_str().into();
        }
        if let (Some(default), true) = (&schema.default, self.v3) {
            out["default"] = default.clone();
        }
        out
    }

    fn inline(&mut self, schema: &Schema) -> Value {
        let mut out = Map::new();
        if !schema.description.is_empty() {
            out.insert("description".into(), schema.description.as_str().into());
        }
        self.shape(schema, &mut out);
        if !schema.format.is_empty() {
            out.insert("format".into(), schema.format.as_str().into());
        }
        if let Some(default) = &schema.default {
            out.insert("default".into(), default.clone());
        }
        if !schema.enumeration.is_empty() {
            out.insert("enum".into(), schema.enumeration.clone().into());
        }
        if schema.nullable && self.v3 {
            out.insert("nullable".into(), true.into());
        }
        if schema.preserve_unknown {
            out.insert("x-kubernetes-preserve-unknown-fields".into(), true.into());
        }
        if schema.embedded_resource {
            out.insert("x-kubernetes-embedded-resource".into(), true.into());
        }
        Value::Object(out)
    }

    fn shape(&mut self, schema: &Schema, out: &mut Map<String, Value>) {
        let mut set = |k: &str, v: Value| _ = out.insert(k.to_owned(), v);
        match &schema.shape {
            Shape::Any => {}
            Shape::String => set("type", "string".into()),
            Shape::Integer => set("type", "integer".into()),
            Shape::Number => set("type", "number".into()),
            Shape::Boolean => set("type", "boolean".into()),
            Shape::IntOrString if self.v3 => {
                set("oneOf", json!([{"type": "integer"}, {"type": "string"}]));
                set("x-kubernetes-int-or-string", true.into());
            }
            Shape::IntOrString => set("type", "string".into()),
            Shape::Object {
                fields,
                required,
                atomic,
            } => {
                set("type", "object".into());
                if !fields.is_empty() {
                    let fields: Map<String, Value> = fields.iter().map(|(k, v)| (k.clone(), self.field(v))).collect();
                    set("properties", Value::Object(fields));
                }
                if !required.is_empty() {
                    set("required", required.clone().into());
                }
                if *atomic {
                    set("x-kubernetes-map-type", "atomic".into());
                }
            }
            Shape::Map { values, atomic } => {
                set("type", "object".into());
                set("additionalProperties", self.field(values));
                if *atomic {
                    set("x-kubernetes-map-type", "atomic".into());
                }
            }
            Shape::List { items, list, patch } => {
                set("type", "array".into());
                set("items", self.field(items));
                match list {
                    ListType::Atomic => set("x-kubernetes-list-type", "atomic".into()),
                    ListType::Set => set("x-kubernetes-list-type", "set".into()),
                    ListType::Map(keys) => {
                        set("x-kubernetes-list-type", "map".into());
                        set("x-kubernetes-list-map-keys", keys.clone().into());
                    }
                }
                let words: Vec<&str> = [(patch.merge, "merge"), (patch.retain_keys, "retainKeys")]
                    .iter()
                    .filter(|w| w.0)
                    .map(|w| w.1)
                    .collect();
                if !words.is_empty() {
                    set("x-kubernetes-patch-strategy", words.join(",").into());
                }
                if let Some(key) = &patch.merge_key {
                    set("x-kubernetes-patch-merge-key", key.as_str().into());
                }
            }
        }
    }
}

/// Why a schema from a custom resource definition cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct SchemaError {
    /// Path within the schema, such as `properties[spec].items`.
    pub path: String,
    /// What is wrong there.
    pub problem: String,
}

/// A structural schema from `openAPIV3Schema` of a custom resource definition, as written.
pub fn from_openapi_v3(_value: &Value) -> Result<Schema, SchemaError> {
    Ok(crate::schema::ANY.clone())
}

/// The schema of a custom resource's root: [`from_openapi_v3`] with apiVersion, kind and
/// metadata as every object has them.
pub fn from_crd(value: &Value) -> Result<Schema, SchemaError> {
    from_openapi_v3(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::schema;

    #[test]
    fn named_schemas_become_definitions() {
        let mut named = schema();
        named.definition = "io.example.Thing".into();
        let mut v3 = Definitions::v3();
        assert_eq!(v3.reference(&named)["$ref"], "#/components/schemas/io.example.Thing");
        let thing = &v3.all["io.example.Thing"];
        let items = &thing["properties"]["spec"]["properties"]["items"];
        assert_eq!(items["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(items["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(thing["properties"]["spec"]["properties"]["replicas"]["default"], 1);
    }
}
