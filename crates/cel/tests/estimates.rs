//! Estimates are upstream's to the unit: users write `maxItems` until a rule is accepted, and
//! what is accepted there has to be accepted here.

use cel::{Env, Program, describe, from_schema};
use serde_json::{Value as Json, json};

fn of(kind: &str) -> Json {
    match kind {
        "int-or-string" => json!({"x-kubernetes-int-or-string": true}),
        "duration" | "date" | "date-time" | "byte" => json!({"type": "string", "format": kind}),
        "object" => json!({"type": "object", "required": ["required"], "properties": {
            "required": {"type": "string"}, "optional": {"type": "string"}}}),
        "numbers" => json!({"type": "array", "items": {"type": "number"}}),
        "number map" => json!({"type": "object", "additionalProperties": {"type": "number"}}),
        kind => json!({"type": kind}),
    }
}

fn limited(mut schema: Json, key: &str, max: Option<i64>) -> Json {
    if let (Some(max), Some(schema)) = (max, schema.as_object_mut()) {
        schema.insert(key.to_owned(), max.into());
    }
    schema
}

fn array(kind: &str, max: Option<i64>) -> Json {
    limited(json!({"type": "array", "items": of(kind)}), "maxItems", max)
}

fn map(kind: &str, max: Option<i64>) -> Json {
    limited(
        json!({"type": "object", "additionalProperties": of(kind)}),
        "maxProperties",
        max,
    )
}

fn string(kind: &str, max: Option<i64>) -> Json {
    limited(of(kind), "maxLength", max)
}

fn strings(_: &str, max: Option<i64>) -> Json {
    limited(
        json!({"type": "array", "items": string("string", max)}),
        "maxItems",
        max,
    )
}

fn string_map(_: &str, max: Option<i64>) -> Json {
    limited(
        json!({"type": "object", "additionalProperties": string("string", max)}),
        "maxProperties",
        max,
    )
}

type Schema = fn(&str, Option<i64>) -> Json;

/// Schema, of what, rule, cost without a limit, a limit, cost with it.
type Case = (Schema, &'static str, &'static str, u64, i64, u64);

const CASES: &[Case] = &[
    (array, "number", "self.all(x, true)", 4_718_591, 10, 32),
    (array, "string", "self.all(x, true)", 3_145_727, 20, 62),
    (array, "boolean", "self.all(x, true)", 1_887_437, 5, 17),
    (array, "numbers", "self.all(x, true)", 3_145_727, 100, 302),
    (array, "object", "self.all(x, true)", 555_128, 50, 152),
    (map, "number", "self.all(x, true)", 1_348_169, 10, 32),
    (map, "string", "self.all(x, true)", 1_179_647, 3, 11),
    (map, "boolean", "self.all(x, true)", 943_718, 100, 302),
    (string, "string", "self.contains('test')", 314_574, 10, 5),
    (string, "string", "self.startsWith('test')", 2, 15, 2),
    (string, "string", "self.endsWith('test')", 2, 30, 2),
    (
        string,
        "string",
        "size(self + \"hello\") > size(\"hello\")",
        314_578,
        4,
        7,
    ),
    (array, "number", "self[1] == 0.0", 2, 5000, 2),
    (array, "string", "self[1] == self[1]", 314_577, 8, 314_577),
    (
        string,
        "string",
        "\"\".matches(\"(((((((((())))))))))[0-9]\")",
        7,
        10,
        7,
    ),
    (string, "string", "self.matches(\"\")", 1, 100, 1),
    (string_map, "", "self.all(x, x.contains(self[x]))", 2_752_507, 10, 72),
    (map, "number", "self[\"x\"] == 0.0", 2, 0, 2),
    (string, "string", "self == \"x\"", 2, 0, 1),
    (string, "byte", "self == b\"x\"", 2, 0, 1),
    (
        array,
        "number",
        "self.all(x, x == 0.0)",
        6_291_454,
        3 * 1024 * 2048,
        25_165_826,
    ),
    (array, "int-or-string", "self.all(x, true)", 4_718_591, 10, 32),
    (array, "int-or-string", "self[0] == 5", 3, 10, 3),
    (array, "boolean", "self[0] == false", 2, 25, 2),
    (array, "object", "self[0] == null", 2, 422, 2),
    (array, "numbers", "self[0][0] == -1.0", 3, 51, 3),
    (array, "number map", "self.all(x, x.y == 25.2)", 6_291_452, 12, 74),
    (array, "number map", "self[0].x > 2.0", 4, 3000, 4),
    (array, "duration", "self.all(x, true)", 2_359_295, 5, 17),
    (array, "duration", "self[0].getHours() == 2", 4, 525, 4),
    (array, "date", "self.all(x, true)", 725_936, 15, 47),
    (array, "date", "self[2].getDayOfMonth() == 13", 4, 42, 4),
    (array, "date-time", "self.all(x, true)", 428_963, 25, 77),
    (map, "int-or-string", "self.all(x, true)", 1_348_169, 15, 47),
    (map, "number map", "self.all(x, true)", 1_179_647, 10, 32),
    (map, "numbers", "self.all(x, true)", 1_179_647, 25, 77),
    (map, "duration", "self.all(x, true)", 1_048_577, 5, 17),
    (map, "date", "self.all(x, true)", 524_288, 10, 32),
    (map, "date-time", "self.all(x, true)", 349_526, 25, 77),
    (string, "string", "self.find('[0-9]+') == ''", 629_147, 10, 11),
    (strings, "", "self.join(' ') == 'aa bb'", 329_853_068_905, 10, 43),
    (strings, "", "self.isSorted() == true", 329_854_432_052, 10, 52),
    (string, "string", "self.lowerAscii() == 'lower!'", 314_575, 10, 6),
    (map, "integer", "oldSelf.size() == self.size()", 5, 10, 5),
    (map, "date-time", "self[\"a\"] == self[\"b\"]", 8, 7, 8),
    (map, "duration", "self[\"c\"] == self[\"d\"]", 8, 42, 8),
    (string, "int-or-string", "isQuantity(self)", 314_574, 20, 9),
];

fn estimate(schema: &Json, rule: &str) -> Result<u64, String> {
    let decl = from_schema(schema, "self", false).ok_or("no type")?;
    let env = Env::new().variable("self", decl.clone()).variable("oldSelf", decl);
    let program = Program::compile(&env, rule).map_err(|e| describe(&e))?;
    Ok(program.estimated_cost().max)
}

#[test]
fn estimates_are_upstreams() {
    let mut wrong = Vec::new();
    for (schema, kind, rule, free, max, bound) in CASES {
        for (max, expected) in [(None, free), (Some(*max), bound)] {
            let found = estimate(&schema(kind, max), rule);
            if found.as_ref() != Ok(expected) {
                wrong.push(format!("{kind} {rule} {max:?}: {expected}, not {found:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn explosive_rules_are_seen() {
    let schema = array("number", None);
    assert!(estimate(&schema, "self.all(x, self.all(y, true))").is_ok_and(|cost| cost > cel::ESTIMATE_LIMIT));
    assert_eq!(
        estimate(&array("number", Some(10)), "self.all(x, self.all(y, true))"),
        Ok(352)
    );
}
