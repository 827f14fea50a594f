//! `x-kubernetes-validations`: the CEL rules of a custom resource's schema,
//! compiled once and evaluated for every write.
//!
//! Must not read a clock, nor take longer than its budget.

use std::sync::Arc;

use cel::types::{Decl, Type};
use cel::{Activation, Budget, ESTIMATE_LIMIT, Env, Program, SCHEMA_ESTIMATE_LIMIT};
use meta::field::{ErrorKind, ErrorList, Path, quoted};
use serde_json::Value;

use crate::edit::{items, text};

/// Messages longer than this are cut short of being used.
const LONGEST_MESSAGE: usize = 2048;

/// The rules at and below a node of a schema. Nodes without any are left out.
#[derive(Debug)]
pub struct Rules {
    /// The schema's type, which messages show in the place of the value.
    kind: Box<str>,
    rules: Vec<Rule>,
    fields: Vec<(Box<str>, Rules)>,
    values: Option<Box<Rules>>,
    items: Option<Box<Rules>>,
    /// By which fields the items of a list are the same in an older list.
    keys: Option<Vec<Box<str>>>,
}

#[derive(Debug)]
struct Rule {
    source: Box<str>,
    program: Program,
    message: Box<str>,
    message_expression: Option<Program>,
    reason: ErrorKind,
    field_path: Box<str>,
    /// Whether it compares with an older value, and whether it can do without.
    transition: bool,
    /// Set where the older value may be missing: what it is declared as.
    optional_old: Option<Arc<Decl>>,
}

impl Rules {
    /// Compiles the rules of `openAPIV3Schema`; `None` if there are none. What is wrong is added
    /// to `errors`, and left out.
    pub fn compile(schema: &Value, path: &Path, errors: &mut ErrorList) -> Option<Self> {
        let mut compiler = Compiler {
            errors,
            total: 0,
            told: false,
        };
        compiler.node(
            schema,
            path,
            true,
            &Place {
                multiplier: 1,
                correlatable: None,
            },
        )
    }

    /// Checks an object; `old` is its former state. Whatever has not changed is not checked again.
    pub fn validate(&self, object: &Value, old: Option<&Value>) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut budget = Budget::new(cel::PER_REQUEST_LIMIT);
        // An error means that the budget is spent, which has been said.
        let _ = self.check(object, old, &Path::root(), &mut budget, &mut errors);
        errors
    }

    fn check(
        &self,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        budget: &mut Budget,
        errors: &mut ErrorList,
    ) -> Result<(), Spent> {
        if value.is_null() || old == Some(value) {
            return Ok(());
        }
        for rule in &self.rules {
            rule.check(&self.kind, value, old, path, budget, errors)?;
        }
        for (name, below) in &self.fields {
            if let Some(inner) = value.get(&**name) {
                below.check(
                    inner,
                    old.and_then(|o| o.get(&**name)),
                    &path.child(name),
                    budget,
                    errors,
                )?;
            }
        }
        if let (Some(below), Some(map)) = (&self.values, value.as_object()) {
            for (key, inner) in map {
                below.check(inner, old.and_then(|o| o.get(key)), &path.key(key), budget, errors)?;
            }
        }
        if let (Some(below), Some(list)) = (&self.items, value.as_array()) {
            let former = old.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            for (i, inner) in list.iter().enumerate() {
                let same = |o: &&Value| match &self.keys {
                    Some(keys) => keys.iter().all(|k| o.get(&**k) == inner.get(&**k)),
                    // Without keys an item is known only by being the same.
                    None => *o == inner,
                };
                below.check(inner, former.iter().find(same), &path.index(i), budget, errors)?;
            }
        }
        Ok(())
    }
}

/// The budget is spent.
struct Spent;

impl Rule {
    fn check(
        &self,
        kind: &str,
        value: &Value,
        old: Option<&Value>,
        path: &Path,
        budget: &mut Budget,
        errors: &mut ErrorList,
    ) -> Result<(), Spent> {
        let mut activation = Activation::new().json("self", value);
        if self.transition {
            activation = match (old, &self.optional_old) {
                (Some(old), None) => activation.json("oldSelf", old),
                (None, None) => return Ok(()),
                (old, Some(decl)) => {
                    let old = old.and_then(|o| cel::Value::read(o, decl).ok());
                    activation.value("oldSelf", cel::Value::Optional(old.map(Arc::new)))
                }
            };
        }
        let outcome = self.program.evaluate(&activation, budget);
        let detail = match outcome {
            Ok(holds) if holds.as_bool() == Some(true) => return Ok(()),
            Ok(_) => self.words(&activation, budget),
            Err(error) if error.kind() == cel::ErrorKind::Budget => {
                let why =
                    "validation failed due to running out of cost budget, no further validation rules will be run";
                errors.invalid(path, quoted(kind), why);
                return Err(Spent);
            }
            Err(error) => {
                errors.invalid(
                    path,
                    quoted(kind),
                    format!("rule evaluation error: {error} evaluating rule: {}", self.shown()),
                );
                return Ok(());
            }
        };
        let at = self
            .field_path
            .split('.')
            .filter(|p| !p.is_empty())
            .fold(path.clone(), |at, part| at.child(part));
        let value = match self.reason {
            ErrorKind::Required | ErrorKind::Forbidden => String::new(),
            _ => quoted(kind),
        };
        errors.add(self.reason, &at, value, detail);
        Ok(())
    }

    /// What a broken rule says.
    fn words(&self, activation: &Activation<'_>, budget: &mut Budget) -> String {
        if let Some(expression) = &self.message_expression
            && let Ok(made) = expression.evaluate(activation, budget)
            && let Some(words) = made.as_str()
            && !words.trim().is_empty()
            && words.len() <= LONGEST_MESSAGE
            && !words.contains('\n')
        {
            return words.to_owned();
        }
        self.shown()
    }

    fn shown(&self) -> String {
        if self.message.is_empty() {
            format!("failed rule: {}", self.source)
        } else {
            self.message.to_string()
        }
    }
}

/// Where in a schema the compiler is.
struct Place {
    /// How often a node can occur in one object.
    multiplier: u64,
    /// The path below which old values cannot be found, if this is below one.
    correlatable: Option<String>,
}

struct Compiler<'e> {
    errors: &'e mut ErrorList,
    total: u64,
    told: bool,
}

impl Compiler<'_> {
    fn node(&mut self, schema: &Value, path: &Path, root: bool, place: &Place) -> Option<Rules> {
        let decl = cel::from_schema(
            schema,
            "object",
            root || schema["x-kubernetes-embedded-resource"] == true,
        );
        let mut out = Rules {
            kind: text(schema, "type").into(),
            rules: Vec::new(),
            fields: Vec::new(),
            values: None,
            items: None,
            keys: None,
        };
        for (i, rule) in items(schema, "x-kubernetes-validations").enumerate() {
            let at = path.child("x-kubernetes-validations").index(i);
            match &decl {
                Some(decl) => out.rules.extend(self.rule(rule, decl, &at, place)),
                None => self
                    .errors
                    .invalid(&at, quoted(text(rule, "rule")), "rules are not supported on this type"),
            }
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let below = self.node(property, &path.child("properties").key(name), false, place);
            out.fields.extend(below.map(|b| (name.as_str().into(), b)));
        }
        // How many items or values there can be.
        let most = decl.as_ref().and_then(|d| d.max).unwrap_or(1).max(1);
        let values = &schema["additionalProperties"];
        if values.is_object() {
            let inner = Place {
                multiplier: place.multiplier.saturating_mul(most),
                correlatable: place.correlatable.clone(),
            };
            out.values = self
                .node(values, &path.child("additionalProperties"), false, &inner)
                .map(Box::new);
        }
        let each = &schema["items"];
        if each.is_object() {
            let is_map = text(schema, "x-kubernetes-list-type") == "map";
            let inner = Place {
                multiplier: place.multiplier.saturating_mul(most),
                correlatable: match &place.correlatable {
                    None if !is_map => Some(path.child("items").to_string()),
                    known => known.clone(),
                },
            };
            if is_map {
                let keys = items(schema, "x-kubernetes-list-map-keys").filter_map(Value::as_str);
                out.keys = Some(keys.map(Into::into).collect());
            }
            out.items = self.node(each, &path.child("items"), false, &inner).map(Box::new);
        }
        let empty = out.rules.is_empty() && out.fields.is_empty() && out.values.is_none() && out.items.is_none();
        (!empty).then_some(out)
    }

    fn rule(&mut self, rule: &Value, decl: &Arc<Decl>, path: &Path, place: &Place) -> Option<Rule> {
        let (source, at) = (text(rule, "rule"), path.child("rule"));
        if source.trim().is_empty() {
            self.errors.required(&at, "");
            return None;
        }
        let optional_old = rule["optionalOldSelf"] == true;
        let old = if optional_old {
            Decl::plain(Type::optional(decl.ty.clone()))
        } else {
            decl.clone()
        };
        let env = Env::new().variable("self", decl.clone()).variable("oldSelf", old);
        let program = self.program(&env, source, &at, "rule")?;
        if !matches!(program.result_type(), Type::Bool) {
            self.errors
                .invalid(&at, quoted(source), "cel expression must evaluate to a bool");
            return None;
        }
        let transition = program.uses("oldSelf");
        if optional_old && !transition {
            let why = "may not be set if oldSelf is not used in rule";
            self.errors.invalid(&path.child("optionalOldSelf"), true, why);
        }
        if let Some(place) = place.correlatable.as_ref().filter(|_| transition) {
            let why = format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {place}");
            self.errors.invalid(&at, quoted(source), why);
            return None;
        }
        self.afford(&program, source, &at, place);
        let expression = text(rule, "messageExpression");
        let message_expression = match expression {
            "" => None,
            expression => {
                let at = path.child("messageExpression");
                let program = self.program(&env, expression, &at, "messageExpression")?;
                if !matches!(program.result_type(), Type::String) {
                    self.errors
                        .invalid(&at, quoted(expression), "messageExpression must evaluate to a string");
                }
                Some(program)
            }
        };
        let message = text(rule, "message");
        if message.contains('\n') {
            self.errors.invalid(
                &path.child("message"),
                quoted(message),
                "message must not contain line breaks",
            );
        }
        let reason = match text(rule, "reason") {
            "" | "FieldValueInvalid" => ErrorKind::Invalid,
            "FieldValueForbidden" => ErrorKind::Forbidden,
            "FieldValueRequired" => ErrorKind::Required,
            "FieldValueDuplicate" => ErrorKind::Duplicate,
            other => {
                let known = [
                    "FieldValueDuplicate",
                    "FieldValueForbidden",
                    "FieldValueInvalid",
                    "FieldValueRequired",
                ];
                self.errors.not_supported(&path.child("reason"), other, &known);
                return None;
            }
        };
        Some(Rule {
            source: source.into(),
            program,
            message: message.into(),
            message_expression,
            reason,
            field_path: text(rule, "fieldPath").into(),
            transition,
            optional_old: optional_old.then(|| decl.clone()),
        })
    }

    fn program(&mut self, env: &Env, source: &str, at: &Path, what: &str) -> Option<Program> {
        match Program::compile(env, source) {
            Ok(program) => Some(program),
            Err(errors) => {
                let what = if what == "rule" {
                    String::new()
                } else {
                    format!("{what} ")
                };
                self.errors.invalid(
                    at,
                    quoted(source),
                    format!("{what}compilation failed: {}", cel::describe(&errors)),
                );
                None
            }
        }
    }

    /// A rule that could cost too much is refused before it is ever evaluated.
    fn afford(&mut self, program: &Program, source: &str, at: &Path, place: &Place) {
        let most = program.estimated_cost().max.saturating_mul(place.multiplier);
        self.total = self.total.saturating_add(most);
        const HINT: &str = "(try simplifying the rule, or adding maxItems, maxProperties, and maxLength where arrays, maps, and strings are declared)";
        if most > ESTIMATE_LIMIT {
            let why = format!(
                "estimated rule cost exceeds budget by factor of {} {HINT}",
                factor(most, ESTIMATE_LIMIT)
            );
            self.errors.add(ErrorKind::Forbidden, at, "", why);
        } else if self.total > SCHEMA_ESTIMATE_LIMIT && !self.told {
            self.told = true;
            let why = format!(
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema: {source} {HINT}"
            );
            self.errors.add(ErrorKind::Forbidden, at, "", why);
        }
    }
}

/// By how much a limit is exceeded, as upstream rounds it.
fn factor(cost: u64, limit: u64) -> String {
    let tenths = cost / (limit / 10);
    match tenths {
        t if t > 1000 => "more than 100x".to_owned(),
        t => format!("{}.{}x", t / 10, t % 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn schema(rules: &Value) -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object", "x-kubernetes-validations": rules,
            "properties": {"replicas": {"type": "integer"}, "max": {"type": "integer"},
                "name": {"type": "string", "maxLength": 64, "x-kubernetes-validations": [{"rule": "self == oldSelf", "message": "is immutable"}]},
                "ports": {"type": "array", "maxItems": 10, "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["port"],
                    "items": {"type": "object", "required": ["port"], "properties": {"port": {"type": "integer"},
                        "to": {"type": "integer", "x-kubernetes-validations": [{"rule": "self >= oldSelf"}]}}}}}}}})
    }

    fn rules(list: Value) -> Rules {
        let mut errors = ErrorList::new();
        let made = Rules::compile(&schema(&list), &Path::new("schema"), &mut errors).unwrap();
        assert!(errors.is_empty(), "{errors}");
        made
    }

    #[test]
    fn broken_rules_say_so_with_place_and_reason() {
        let rules = rules(json!([
            {"rule": "self.replicas <= self.max", "messageExpression": "'at most ' + string(self.max)", "fieldPath": ".replicas"},
            {"rule": "self.replicas != 3", "message": "never three", "reason": "FieldValueForbidden"},
            {"rule": "!has(self.name) || self.name.startsWith('a')"},
        ]));
        let found = |spec: Value| rules.validate(&json!({"spec": spec}), None).to_string();
        assert_eq!(found(json!({"replicas": 2, "max": 5})), "[]");
        assert_eq!(
            found(json!({"replicas": 7, "max": 5})),
            "spec.replicas: Invalid value: \"object\": at most 5"
        );
        assert_eq!(found(json!({"replicas": 3, "max": 5})), "spec: Forbidden: never three");
        assert_eq!(
            found(json!({"replicas": 1, "max": 5, "name": "b"})),
            "spec: Invalid value: \"object\": failed rule: !has(self.name) || self.name.startsWith('a')"
        );
        let error = found(json!({"replicas": 1}));
        assert!(
            error.contains("rule evaluation error: no such key: max evaluating rule"),
            "{error}"
        );
    }

    #[test]
    fn changes_are_compared_with_what_was() {
        let rules = rules(json!([]));
        let object = |name: &str, to: i64| json!({"spec": {"name": name, "ports": [{"port": 9, "to": 1}, {"port": 80, "to": to}]}});
        assert!(rules.validate(&object("a", 5), None).is_empty());
        assert!(rules.validate(&object("a", 6), Some(&object("a", 5))).is_empty());
        let errors = rules.validate(&object("b", 4), Some(&object("a", 5))).to_string();
        assert!(
            errors.contains("spec.name: Invalid value: \"string\": is immutable"),
            "{errors}"
        );
        assert!(
            errors.contains("spec.ports[1].to: Invalid value: \"integer\": failed rule: self >= oldSelf"),
            "{errors}"
        );
    }

    #[test]
    fn bad_rules_are_refused_when_they_are_defined() {
        for (rule, words) in [
            (
                json!({"rule": "self.nothing > 1"}),
                "compilation failed: ERROR: <input>:1:5: undefined field 'nothing'",
            ),
            (
                json!({"rule": "self.replicas"}),
                "cel expression must evaluate to a bool",
            ),
            (json!({"rule": ""}), "Required value"),
            (json!({"rule": "true", "reason": "Whim"}), "Unsupported value: \"Whim\""),
            (
                json!({"rule": "true", "messageExpression": "1"}),
                "messageExpression must evaluate to a string",
            ),
        ] {
            let mut errors = ErrorList::new();
            Rules::compile(&schema(&json!([rule])), &Path::new("schema"), &mut errors);
            assert!(errors.to_string().contains(words), "{rule}: {errors}");
        }
        let dear = json!({"type": "object", "properties": {"list": {"type": "array", "items": {"type": "string"},
            "x-kubernetes-validations": [{"rule": "self.all(a, self.all(b, a == b))"}]}}});
        let mut errors = ErrorList::new();
        Rules::compile(&dear, &Path::new("schema"), &mut errors);
        assert!(
            errors
                .to_string()
                .contains("estimated rule cost exceeds budget by factor of more than 100x"),
            "{errors}"
        );
        let lost = json!({"type": "object", "properties": {"list": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5,
            "x-kubernetes-validations": [{"rule": "self == oldSelf"}]}}}});
        let mut errors = ErrorList::new();
        Rules::compile(&lost, &Path::new("schema"), &mut errors);
        assert!(
            errors
                .to_string()
                .contains("oldSelf cannot be used on the uncorrelatable portion"),
            "{errors}"
        );
    }
}
