//! Schemas as OpenAPI: v2 definitions and v3 component schemas, with
//! Kubernetes' extensions.

mod object_meta;
mod structural;

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::rules::Rules;
use crate::schema::{ListType, Schema, Shape};

pub use object_meta::object_meta;
pub use structural::{SchemaError, from_crd, from_openapi_v3};

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
        let plain = schema.description.is_empty() && schema.default.is_none() && !schema.retain_keys;
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
        if schema.retain_keys {
            out["x-kubernetes-patch-strategy"] = "retainKeys".into();
        }
        out
    }

    fn inline(&mut self, schema: &Schema) -> Value {
        let mut out = Map::new();
        let said = if schema.definition_description.is_empty() {
            &schema.description
        } else {
            &schema.definition_description
        };
        if !said.is_empty() {
            out.insert("description".into(), said.as_str().into());
        }
        if !schema.gvks.is_empty() {
            let gvks = schema
                .gvks
                .iter()
                .map(|g| json!({"group": g.group, "version": g.version, "kind": g.kind}));
            out.insert("x-kubernetes-group-version-kind".into(), gvks.collect());
        }
        self.shape(schema, &mut out);
        if !schema.format.is_empty() {
            out.insert("format".into(), schema.format.as_str().into());
        }
        if let Some(default) = schema
            .default
            .as_ref()
            .filter(|_| self.v3 || schema.definition.is_empty())
        {
            out.insert("default".into(), default.clone());
        }
        if let Some(rules) = &schema.rules {
            self.rules(rules, &mut out);
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

    fn rules(&mut self, rules: &Rules, out: &mut Map<String, Value>) {
        let numbers = [
            ("minimum", rules.minimum),
            ("maximum", rules.maximum),
            ("multipleOf", rules.multiple_of),
        ];
        let counts = [
            ("minLength", rules.min_length),
            ("maxLength", rules.max_length),
            ("minItems", rules.min_items),
            ("maxItems", rules.max_items),
            ("minProperties", rules.min_properties),
            ("maxProperties", rules.max_properties),
        ];
        let flags = [
            ("exclusiveMinimum", rules.exclusive_minimum),
            ("exclusiveMaximum", rules.exclusive_maximum),
            ("uniqueItems", rules.unique_items),
        ];
        let mut set = |k: &str, v: Value| _ = out.insert(k.to_owned(), v);
        numbers
            .iter()
            .filter_map(|(k, v)| Some((k, (*v)?)))
            .for_each(|(k, v)| set(k, whole(v)));
        counts
            .iter()
            .filter_map(|(k, v)| Some((k, (*v)?)))
            .for_each(|(k, v)| set(k, v.into()));
        flags.iter().filter(|(_, v)| *v).for_each(|(k, _)| set(k, true.into()));
        if let Some(pattern) = &rules.pattern {
            set("pattern", pattern.source.as_str().into());
        }
        if !rules.validations.is_empty() {
            set("x-kubernetes-validations", rules.validations.clone().into());
        }
        // Upstream leaves these out of v2, where clients misread them.
        if self.v3 {
            let lists = [
                ("allOf", &rules.all_of),
                ("anyOf", &rules.any_of),
                ("oneOf", &rules.one_of),
            ];
            for (name, branches) in lists.iter().filter(|(_, b)| !b.is_empty()) {
                set(name, branches.iter().map(|b| self.inline(b)).collect());
            }
            if let Some(not) = &rules.not {
                set("not", self.inline(not));
            }
        }
    }

    fn shape(&mut self, schema: &Schema, out: &mut Map<String, Value>) {
        let mut set = |k: &str, v: Value| _ = out.insert(k.to_owned(), v);
        match &schema.shape {
            Shape::Any => {}
            Shape::String => set("type", "string".into()),
            Shape::Integer => set("type", "integer".into()),
            Shape::Number => set("type", "number".into()),
            Shape::Boolean => set("type", "boolean".into()),
            Shape::IntOrString => {
                let inline = schema.definition.is_empty();
                if self.v3 {
                    set("oneOf", json!([{"type": "integer"}, {"type": "string"}]));
                } else if !inline {
                    set("type", "string".into());
                }
                match (inline, schema.format.is_empty()) {
                    (true, _) => set("x-kubernetes-int-or-string", true.into()),
                    (false, true) => set("format", "int-or-string".into()),
                    (false, false) => {}
                }
            }
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

/// `10` rather than `10.0`.
fn whole(f: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if f.fract() == 0.0 && f.abs() <= EXACT {
        (f as i64).into()
    } else {
        f.into()
    }
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

    #[test]
    fn a_definition_says_what_it_is_and_a_field_what_it_is_for() {
        let strategy = Schema {
            definition: "io.example.Strategy".into(),
            description: "How to replace.".into(),
            definition_description: "A strategy.".into(),
            retain_keys: true,
            default: Some(json!({})),
            ..Schema::of(Shape::Object {
                fields: BTreeMap::new(),
                required: Vec::new(),
                atomic: false,
            })
        };
        let root = Schema {
            definition: "io.example.Thing".into(),
            gvks: vec![meta::Gvk::of("example.io", "v1", "Thing")],
            ..Schema::of(Shape::Object {
                fields: [("strategy".to_owned(), std::sync::Arc::new(strategy))].into(),
                required: Vec::new(),
                atomic: false,
            })
        };
        let mut v3 = Definitions::v3();
        v3.reference(&root);
        let thing = &v3.all["io.example.Thing"];
        assert_eq!(
            thing["properties"]["strategy"],
            json!({
                "allOf": [{"$ref": "#/components/schemas/io.example.Strategy"}],
                "description": "How to replace.",
                "default": {},
                "x-kubernetes-patch-strategy": "retainKeys",
            })
        );
        assert_eq!(v3.all["io.example.Strategy"]["description"], "A strategy.");
        assert_eq!(
            thing["x-kubernetes-group-version-kind"],
            json!([{"group": "example.io", "version": "v1", "kind": "Thing"}])
        );
        let mut v2 = Definitions::v2();
        v2.reference(&root);
        let field = &v2.all["io.example.Thing"]["properties"]["strategy"];
        assert_eq!(field["$ref"], "#/definitions/io.example.Strategy");
    }

    #[test]
    fn a_custom_schema_survives_writing_and_reading() {
        let written = json!({
            "type": "object", "required": ["a"], "x-kubernetes-preserve-unknown-fields": true, "maxProperties": 9,
            "properties": {
                "a": {"type": "string", "pattern": "^x$", "minLength": 1, "enum": ["x"], "nullable": true},
                "b": {"type": "integer", "minimum": 1, "maximum": 10, "exclusiveMaximum": true, "multipleOf": 0.5,
                    "default": 3, "format": "int32"},
                "c": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["n"],
                    "maxItems": 5, "items": {"type": "object", "properties": {"n": {"type": "string"}}}},
                "d": {"type": "object", "additionalProperties": {"type": "boolean"}, "x-kubernetes-map-type": "atomic"},
                "e": {"type": "number", "description": "E.", "anyOf": [{"maximum": 1}], "not": {"minimum": 7}},
            },
        });
        let schema = from_openapi_v3(&written).unwrap();
        let once = Definitions::v3().reference(&schema);
        let again = Definitions::v3().reference(&from_openapi_v3(&once).unwrap());
        assert_eq!(once, again);
        for path in [
            "/properties/a/pattern",
            "/properties/b/maximum",
            "/properties/c/x-kubernetes-list-map-keys",
        ] {
            assert_eq!(once.pointer(path), written.pointer(path), "{path}");
        }
        assert_eq!(once["properties"]["d"], written["properties"]["d"]);
        assert_eq!(once["maxProperties"], 9);
    }
}
