//! Validation against a schema, as upstream validates custom resources and in its
//! words. Must not change values.

use std::collections::HashSet;

use meta::field::{ErrorKind, ErrorList, quoted};
use serde_json::{Map, Value};

use super::formats;
use crate::rules::Rules;
use crate::schema::{ListType, Schema, Shape};
use crate::trail::Trail;

/// Upstream's word for no value where a type is wanted.
const NULL: &str = "null";

/// Checks types, required fields, enums, formats, list types and rules.
pub fn validate(schema: &Schema, value: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    check(schema, value, &Trail::Root, &mut errors);
    errors
}

/// Whether a branch of `anyOf` and the like holds.
fn holds(schema: &Schema, value: &Value, trail: &Trail<'_>) -> bool {
    let mut errors = ErrorList::new();
    check(schema, value, trail, &mut errors);
    errors.is_empty()
}

fn check(schema: &Schema, value: &Value, trail: &Trail<'_>, errors: &mut ErrorList) {
    if value.is_null() && schema.nullable {
        return;
    }
    if !has_type(&schema.shape, value) {
        let (given, wanted) = (type_name(value), shape_name(&schema.shape));
        return wrong_type(trail, given, wanted, errors);
    }
    if !schema.enumeration.is_empty() && !schema.enumeration.contains(value) {
        unsupported(schema, value, trail, errors);
    }
    if let (Value::String(s), false) = (value, schema.format.is_empty())
        && !formats::matches(&schema.format, s)
    {
        let said = body(trail, &format!("must be of type {}: {}", schema.format, quoted(s)));
        errors.invalid(&trail.path(), quoted(s), said);
    }
    if let Value::Number(n) = value {
        check_range(&schema.format, n, trail, errors);
    }
    if let Some(rules) = &schema.rules {
        check_rules(rules, value, trail, errors);
    }
    match (&schema.shape, value) {
        (Shape::Object { fields, required, .. }, Value::Object(map)) => {
            for name in required.iter().filter(|r| !map.contains_key(*r)) {
                errors.required(&trail.field(name).path(), "");
            }
            for (k, v) in map {
                if let Some(s) = fields.get(k) {
                    check(s, v, &trail.field(k), errors);
                }
            }
        }
        (Shape::Map { values, .. }, Value::Object(map)) => {
            map.iter().for_each(|(k, v)| check(values, v, &trail.field(k), errors));
        }
        (Shape::List { items, list, .. }, Value::Array(values)) => {
            values
                .iter()
                .enumerate()
                .for_each(|(i, v)| check(items, v, &trail.index(i), errors));
            check_unique(items, list, values, trail, errors);
        }
        _ => {}
    }
}

fn has_type(shape: &Shape, value: &Value) -> bool {
    match (shape, value) {
        (Shape::Any, _) => true,
        (Shape::String, v) => v.is_string(),
        (Shape::Integer, Value::Number(n)) => n.is_i64() || n.is_u64() || n.as_f64().is_some_and(|f| f.fract() == 0.0),
        (Shape::Number, v) => v.is_number(),
        (Shape::Boolean, v) => v.is_boolean(),
        (Shape::IntOrString, v) => v.is_string() || v.is_number(),
        (Shape::Object { .. } | Shape::Map { .. }, v) => v.is_object(),
        (Shape::List { .. }, v) => v.is_array(),
        (Shape::Integer, _) => false,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => NULL,
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn shape_name(shape: &Shape) -> &'static str {
    match shape {
        Shape::Any => "any",
        Shape::String => "string",
        Shape::Integer => "integer",
        Shape::Number => "number",
        Shape::Boolean => "boolean",
        Shape::IntOrString => "integer,string",
        Shape::Object { .. } | Shape::Map { .. } => "object",
        Shape::List { .. } => "array",
    }
}

/// `spec.x in body ...`; the root is named so far as it has a name: not at all.
fn body(trail: &Trail<'_>, rest: &str) -> String {
    match trail {
        Trail::Root => format!("in body {rest}"),
        _ => format!("{trail} in body {rest}"),
    }
}

fn wrong_type(trail: &Trail<'_>, given: &str, wanted: &str, errors: &mut ErrorList) {
    let said = body(trail, &format!("must be of type {wanted}: {}", quoted(given)));
    errors.add(ErrorKind::TypeInvalid, &trail.path(), quoted(given), said);
}

fn unsupported(schema: &Schema, value: &Value, trail: &Trail<'_>, errors: &mut ErrorList) {
    let supported: Vec<String> = schema.enumeration.iter().map(|v| quoted(&plain(v))).collect();
    let said = format!("supported values: {}", supported.join(", "));
    errors.add(ErrorKind::NotSupported, &trail.path(), printed(value), said);
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn printed(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), quoted)
}

/// Whole numbers fit their format.
fn check_range(format: &str, n: &serde_json::Number, trail: &Trail<'_>, errors: &mut ErrorList) {
    let fits = match format {
        "int32" => {
            n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()) || (n.is_f64() && n.as_f64().is_some_and(in_i32))
        }
        "int64" => !n.is_u64() || n.is_i64(),
        _ => true,
    };
    if !fits {
        let said = format!("must be of type {format}: {}", quoted("number"));
        errors.invalid(&trail.path(), n, body(trail, &said));
    }
}

fn in_i32(f: f64) -> bool {
    (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&f)
}

/// Items of sets and keyed lists differ.
fn check_unique(items: &Schema, list: &ListType, values: &[Value], trail: &Trail<'_>, errors: &mut ErrorList) {
    let mut seen = HashSet::with_capacity(if *list == ListType::Atomic { 0 } else { values.len() });
    for (i, v) in values.iter().enumerate() {
        let identity = match list {
            ListType::Atomic => return,
            ListType::Set => v.clone(),
            ListType::Map(keys) => {
                let of = |k: &str| v.get(k).or_else(|| items.field(k)?.default.as_ref()).cloned();
                Value::Object(
                    keys.iter()
                        .filter_map(|k| Some((k.clone(), of(k)?)))
                        .collect::<Map<_, _>>(),
                )
            }
        };
        let text = identity.to_string();
        if seen.contains(&text) {
            errors.duplicate(&trail.index(i).path(), &text);
        }
        seen.insert(text);
    }
}

fn check_rules(rules: &Rules, value: &Value, trail: &Trail<'_>, errors: &mut ErrorList) {
    match value {
        Value::String(s) => check_string(rules, s, trail, errors),
        Value::Number(n) => check_number(rules, n, trail, errors),
        Value::Array(list) => check_list(rules, list, trail, errors),
        Value::Object(map) => check_object(rules, map, trail, errors),
        _ => {}
    }
    check_branches(rules, value, trail, errors);
}

fn check_string(rules: &Rules, s: &str, trail: &Trail<'_>, errors: &mut ErrorList) {
    let length = || s.chars().count() as u64;
    if let Some(max) = rules.max_length.filter(|max| length() > *max) {
        errors.add(
            ErrorKind::TooLong,
            &trail.path(),
            "",
            // Upstream says bytes and counts characters.
            format!("may not be more than {max} bytes"),
        );
    }
    if let Some(min) = rules.min_length.filter(|min| length() < *min) {
        let said = body(trail, &format!("should be at least {min} chars long"));
        errors.invalid(&trail.path(), quoted(s), said);
    }
    if let Some(pattern) = rules.pattern.as_ref().filter(|p| !p.regex.is_match(s)) {
        let said = body(trail, &format!("should match '{}'", pattern.source));
        errors.invalid(&trail.path(), quoted(s), said);
    }
}

fn check_number(rules: &Rules, n: &serde_json::Number, trail: &Trail<'_>, errors: &mut ErrorList) {
    let Some(f) = n.as_f64() else { return };
    let mut fail = |words: &str, bound: f64| {
        let said = body(trail, &format!("should be {words} {bound}"));
        errors.invalid(&trail.path(), n, said);
    };
    match rules.maximum {
        Some(max) if rules.exclusive_maximum && f >= max => fail("less than", max),
        Some(max) if f > max => fail("less than or equal to", max),
        _ => {}
    }
    match rules.minimum {
        Some(min) if rules.exclusive_minimum && f <= min => fail("greater than", min),
        Some(min) if f < min => fail("greater than or equal to", min),
        _ => {}
    }
    if let Some(of) = rules.multiple_of.filter(|of| *of > 0.0) {
        let times = f / of;
        if (times - times.round()).abs() > f64::EPSILON * times.abs().max(1.0) {
            fail("a multiple of", of);
        }
    }
}

fn check_list(rules: &Rules, list: &[Value], trail: &Trail<'_>, errors: &mut ErrorList) {
    let n = list.len() as u64;
    if let Some(max) = rules.max_items.filter(|max| n > *max) {
        errors.add(
            ErrorKind::TooMany,
            &trail.path(),
            n,
            format!("must have at most {max} items"),
        );
    }
    if let Some(min) = rules.min_items.filter(|min| n < *min) {
        let said = body(trail, &format!("should have at least {min} items"));
        errors.invalid(&trail.path(), n, said);
    }
    if rules.unique_items {
        let distinct: HashSet<String> = list.iter().map(Value::to_string).collect();
        if distinct.len() < list.len() {
            errors.invalid(&trail.path(), "", body(trail, "shouldn't contain duplicates"));
        }
    }
}

fn check_object(rules: &Rules, map: &Map<String, Value>, trail: &Trail<'_>, errors: &mut ErrorList) {
    let n = map.len() as u64;
    if let Some(max) = rules.max_properties.filter(|max| n > *max) {
        errors.add(
            ErrorKind::TooMany,
            &trail.path(),
            n,
            format!("must have at most {max} items"),
        );
    }
    if let Some(min) = rules.min_properties.filter(|min| n < *min) {
        let said = body(trail, &format!("should have at least {min} properties"));
        errors.invalid(&trail.path(), n, said);
    }
}

fn check_branches(rules: &Rules, value: &Value, trail: &Trail<'_>, errors: &mut ErrorList) {
    let mut fail = |words: &str| errors.invalid(&trail.path(), printed(value), body(trail, words));
    if rules.not.as_ref().is_some_and(|s| holds(s, value, trail)) {
        fail("must not validate the schema (not)");
    }
    if !rules.any_of.is_empty() && !rules.any_of.iter().any(|s| holds(s, value, trail)) {
        fail("must validate at least one schema (anyOf)");
    }
    if !rules.one_of.is_empty() {
        match rules.one_of.iter().filter(|s| holds(s, value, trail)).count() {
            1 => {}
            0 => fail("must validate one and only one schema (oneOf). Found none valid"),
            n => fail(&format!(
                "must validate one and only one schema (oneOf). Found {n} valid alternatives"
            )),
        }
    }
    for branch in &rules.all_of {
        check(branch, value, trail, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn errors(schema: &Value, value: Value) -> String {
        let schema = crate::openapi::from_openapi_v3(schema).unwrap();
        let list = validate(&schema, &value);
        if list.is_empty() {
            String::new()
        } else {
            list.to_string()
        }
    }

    fn of(x: Value, value: Value) -> String {
        let schema = json!({"type": "object", "properties": {"x": x}});
        errors(&schema, json!({"x": value}))
    }

    #[test]
    fn types_read_as_upstream_words_them() {
        for (schema, value, message) in [
            (
                json!({"type": "integer"}),
                json!("a"),
                r#"x: Invalid value: "string": x in body must be of type integer: "string""#,
            ),
            (
                json!({"type": "string"}),
                json!(null),
                r#"x: Invalid value: "null": x in body must be of type string: "null""#,
            ),
            (json!({"type": "string", "nullable": true}), json!(null), ""),
            (json!({"type": "integer"}), json!(2.0), ""),
            (
                json!({"x-kubernetes-int-or-string": true}),
                json!([]),
                r#"x: Invalid value: "array": x in body must be of type integer,string: "array""#,
            ),
            (
                json!({"type": "integer", "format": "int32"}),
                json!(3_000_000_000_i64),
                r#"x: Invalid value: 3000000000: x in body must be of type int32: "number""#,
            ),
            (
                json!({"type": "string", "format": "date-time"}),
                json!("now"),
                r#"x: Invalid value: "now": x in body must be of type date-time: "now""#,
            ),
        ] {
            assert_eq!(of(schema, value), message);
        }
    }

    #[test]
    fn rules_read_as_upstream_words_them() {
        for (schema, value, message) in [
            (
                json!({"type": "integer", "maximum": 10}),
                json!(11),
                "x: Invalid value: 11: x in body should be less than or equal to 10",
            ),
            (
                json!({"type": "integer", "maximum": 10, "exclusiveMaximum": true}),
                json!(10),
                "x: Invalid value: 10: x in body should be less than 10",
            ),
            (
                json!({"type": "number", "minimum": 0.5}),
                json!(0.25),
                "x: Invalid value: 0.25: x in body should be greater than or equal to 0.5",
            ),
            (
                json!({"type": "integer", "multipleOf": 5}),
                json!(7),
                "x: Invalid value: 7: x in body should be a multiple of 5",
            ),
            (
                json!({"type": "string", "maxLength": 2}),
                json!("äöü"),
                "x: Too long: may not be more than 2 bytes",
            ),
            (json!({"type": "string", "maxLength": 3}), json!("äöü"), ""),
            (
                json!({"type": "string", "minLength": 1}),
                json!(""),
                r#"x: Invalid value: "": x in body should be at least 1 chars long"#,
            ),
            (
                json!({"type": "string", "pattern": "^a+$"}),
                json!("b"),
                r#"x: Invalid value: "b": x in body should match '^a+$'"#,
            ),
            (
                json!({"type": "string", "enum": ["a", "b"]}),
                json!("c"),
                r#"x: Unsupported value: "c": supported values: "a", "b""#,
            ),
            (
                json!({"type": "array", "maxItems": 1, "items": {"type": "integer"}}),
                json!([1, 2]),
                "x: Too many: 2: must have at most 1 items",
            ),
            (
                json!({"type": "array", "minItems": 1, "items": {"type": "integer"}}),
                json!([]),
                "x: Invalid value: 0: x in body should have at least 1 items",
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}}),
                json!(["a", "b", "a"]),
                r#"x[2]: Duplicate value: "a""#,
            ),
            (
                json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"],
                    "items": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}}}}),
                json!([{"name": "a"}, {"name": "a"}]),
                r#"x[1]: Duplicate value: {"name":"a"}"#,
            ),
            (
                json!({"type": "object", "minProperties": 1, "additionalProperties": {"type": "string"}}),
                json!({}),
                "x: Invalid value: 0: x in body should have at least 1 properties",
            ),
        ] {
            assert_eq!(of(schema, value), message);
        }
    }

    #[test]
    fn branches_assert_without_typing() {
        let one = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "oneOf": [{"required": ["a"]}, {"required": ["b"]}]});
        assert_eq!(of(one.clone(), json!({"a": "1"})), "");
        assert!(of(one.clone(), json!({})).ends_with("(oneOf). Found none valid"));
        assert!(of(one, json!({"a": "1", "b": "2"})).ends_with("(oneOf). Found 2 valid alternatives"));
        let not = json!({"type": "object", "properties": {"a": {"type": "string"}}, "not": {"required": ["a"]}});
        assert!(of(not, json!({"a": "1"})).ends_with("must not validate the schema (not)"));
        let any = json!({"type": "integer", "anyOf": [{"maximum": 1}, {"minimum": 5}]});
        assert_eq!(of(any.clone(), json!(7)), "");
        assert!(of(any, json!(3)).ends_with("must validate at least one schema (anyOf)"));
        let all = json!({"type": "object", "properties": {"a": {"type": "integer"}}, "allOf": [{"properties": {"a": {"maximum": 1}}}]});
        assert_eq!(
            of(all, json!({"a": 2})),
            "x.a: Invalid value: 2: x.a in body should be less than or equal to 1"
        );
    }

    #[test]
    fn required_fields_are_named() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}});
        assert_eq!(of(schema, json!({})), "x.a: Required value");
    }
}
