//! Types, as upstream's decoder for built-in kinds checks them: the first wrong one
//! ends it. Must not report more than that; `validate` does.

use serde_json::Value;

use super::prune::QUANTITY;
use crate::schema::{Schema, Shape};

/// The first value of a wrong type, in the words of upstream's decoder for built-in kinds:
/// `json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32`.
/// The caller prefixes `<Kind> in version "<v>" cannot be handled as a <Kind>: ` and answers 400.
pub fn type_error(schema: &Schema, value: &Value) -> Option<String> {
    let mut path = Vec::new();
    Decoder {
        path: &mut path,
        owner: go_struct(schema),
    }
    .check(schema, value)
}

struct Decoder<'p, 'v> {
    path: &'p mut Vec<&'v str>,
    owner: &'v str,
}

impl<'v> Decoder<'_, 'v> {
    fn check(&mut self, schema: &'v Schema, value: &'v Value) -> Option<String> {
        match (&schema.shape, value) {
            (_, Value::Null) | (Shape::Any, _) => None,
            (Shape::Object { fields, .. }, Value::Object(map)) => {
                let outer = std::mem::replace(&mut self.owner, go_struct(schema));
                let found = map.iter().find_map(|(name, v)| self.below(name, fields.get(name)?, v));
                self.owner = outer;
                found
            }
            (Shape::Map { values, .. }, Value::Object(map)) => {
                map.iter().find_map(|(name, v)| self.below(name, values, v))
            }
            // Go's path names no list.
            (Shape::List { items, .. }, Value::Array(list)) => list.iter().find_map(|v| self.check(items, v)),
            (Shape::String, Value::String(s)) => text(&schema.format, s),
            (Shape::Boolean, Value::Bool(_)) | (Shape::Number, Value::Number(_)) => None,
            (Shape::Integer, Value::Number(n)) if fits(&schema.format, n) => None,
            (Shape::IntOrString, Value::String(_) | Value::Number(_)) if schema.format == QUANTITY => quantity(value),
            (Shape::IntOrString, Value::String(_)) => None,
            (Shape::IntOrString, Value::Number(n)) if fits("int32", n) => None,
            _ => Some(self.wrong(schema, value)),
        }
    }

    fn below(&mut self, name: &'v str, schema: &'v Schema, value: &'v Value) -> Option<String> {
        self.path.push(name);
        let found = self.check(schema, value);
        self.path.pop();
        found
    }

    fn wrong(&self, schema: &Schema, value: &Value) -> String {
        let given = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n) if matches!(schema.shape, Shape::Integer) => format!("number {n}"),
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let wanted = go_type(schema);
        if self.path.is_empty() {
            return format!("json: cannot unmarshal {given} into Go value of type {wanted}");
        }
        let dot = if self.owner.is_empty() { "" } else { "." };
        let (owner, path) = (self.owner, self.path.join("."));
        format!("json: cannot unmarshal {given} into Go struct field {owner}{dot}{path} of type {wanted}")
    }
}

fn quantity(value: &Value) -> Option<String> {
    let parsed = match value {
        Value::String(s) => s.parse::<meta::Quantity>().is_ok(),
        other => other.to_string().parse::<meta::Quantity>().is_ok(),
    };
    let message = "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";
    (!parsed).then(|| message.to_owned())
}

/// Times and base64 have decoders of their own.
fn text(format: &str, s: &str) -> Option<String> {
    match format {
        "date-time" if meta::time::parse(s).is_none() => Some(format!(
            "parsing time {} as \"2006-01-02T15:04:05Z07:00\": cannot parse {} as \"2006\"",
            meta::field::quoted(s),
            meta::field::quoted(s),
        )),
        "byte" => super::formats::bad_base64(s).map(|at| format!("illegal base64 data at input byte {at}")),
        _ => None,
    }
}

fn fits(format: &str, n: &serde_json::Number) -> bool {
    match format {
        "int32" => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
        _ => n.is_i64(),
    }
}

/// `PodSpec` of `io.k8s.api.core.v1.PodSpec`.
fn go_struct(schema: &Schema) -> &str {
    schema.definition.rsplit('.').next().unwrap_or_default()
}

fn go_type(schema: &Schema) -> String {
    match &schema.shape {
        Shape::Any => "interface {}".into(),
        Shape::String if schema.format == "byte" => "[]uint8".into(),
        Shape::String => "string".into(),
        Shape::Integer if schema.format == "int32" => "int32".into(),
        Shape::Integer => "int64".into(),
        Shape::Number => "float64".into(),
        Shape::Boolean => "bool".into(),
        Shape::IntOrString => "intstr.IntOrString".into(),
        Shape::Object { .. } => {
            let mut parts = schema.definition.rsplit('.');
            match (parts.next(), parts.next()) {
                (Some(name), Some(version)) => format!("{version}.{name}"),
                _ => "map[string]interface {}".into(),
            }
        }
        Shape::Map { values, .. } => format!("map[string]{}", go_type(values)),
        Shape::List { items, .. } => format!("[]{}", go_type(items)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::{named, schema};
    use serde_json::json;

    #[test]
    fn wrong_types_read_as_gos_decoder_words_them() {
        let s = named();
        for (value, message) in [
            (
                json!({"spec": {"replicas": "x"}}),
                "json: cannot unmarshal string into Go struct field ThingSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"replicas": 1.5}}),
                "json: cannot unmarshal number 1.5 into Go struct field ThingSpec.spec.replicas of type int32",
            ),
            (
                json!({"spec": {"items": [{"name": {}}]}}),
                "json: cannot unmarshal object into Go struct field Item.spec.items.name of type string",
            ),
            (
                json!({"spec": {"items": {}}}),
                "json: cannot unmarshal object into Go struct field ThingSpec.spec.items of type []v1.Item",
            ),
            (
                json!({"metadata": {"labels": []}}),
                "json: cannot unmarshal array into Go struct field ObjectMeta.metadata.labels of type map[string]string",
            ),
            (json!([]), "json: cannot unmarshal array into Go value of type v1.Thing"),
        ] {
            assert_eq!(type_error(&s, &value).as_deref(), Some(message));
        }
    }

    #[test]
    fn quantities_are_numbers_with_suffixes() {
        let quantity = Schema {
            format: "quantity".into(),
            ..Schema::of(Shape::IntOrString)
        };
        for good in [json!("100m"), json!(1), json!(0.5), json!("1Gi")] {
            assert_eq!(type_error(&quantity, &good), None, "{good}");
        }
        for bad in [json!("much"), json!(""), json!({})] {
            assert!(type_error(&quantity, &bad).is_some(), "{bad}");
        }
        let either = Schema::of(Shape::IntOrString);
        assert_eq!(
            type_error(&either, &json!("25%")).or(type_error(&either, &json!(3))),
            None
        );
        assert!(type_error(&either, &json!(1.5)).is_some());
    }

    #[test]
    fn right_types_and_nulls_pass() {
        let value = json!({"spec": {"replicas": 3, "items": null}, "metadata": {"labels": {"a": "b"}}});
        assert_eq!(type_error(&schema(), &value), None);
    }
}
