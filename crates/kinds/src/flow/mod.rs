//! The flowcontrol.apiserver.k8s.io group: FlowSchema and PriorityLevelConfiguration.

mod checks;

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use self::checks::{check_limited, check_rule, check_shares};
use crate::check::{has, must_be_one_of, named};
use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{default, int, items, object, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";

/// The kinds of this file.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![
        kind_names(GROUP, "v1", "FlowSchema", "flowschemas", "flowschema", &[])
            .with(
                typed::<v1::FlowSchema>,
                const {
                    &[
                        column("PriorityLevel", "string"),
                        column("MatchingPrecedence", "string"),
                        column("DistinguisherMethod", "string"),
                        AGE,
                        column("MissingPL", "string"),
                    ]
                },
                &FlowSchema,
            )
            .cluster()
            .status(),
        kind_names(
            GROUP,
            "v1",
            "PriorityLevelConfiguration",
            "prioritylevelconfigurations",
            "prioritylevelconfiguration",
            &[],
        )
        .with(
            typed::<v1::PriorityLevelConfiguration>,
            const {
                &[
                    column("Type", "string"),
                    column("NominalConcurrencyShares", "string"),
                    column("Queues", "string"),
                    column("HandSize", "string"),
                    column("QueueLengthLimit", "string"),
                    AGE,
                ]
            },
            &Level,
        )
        .cluster()
        .status(),
    ]
}

struct FlowSchema;
struct Level;

impl Strategy for FlowSchema {
    fn default(&self, schema: &mut Value) {
        if let Some(spec) = object(schema, "spec")
            && int(spec, "/matchingPrecedence") == 0
        {
            crate::edit::set(spec, "matchingPrecedence", 1000);
        }
    }

    fn validate_create(&self, schema: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&schema["spec"], Path::new("spec"));
        let precedence = int(spec, "/matchingPrecedence");
        let at = path.child("matchingPrecedence");
        match precedence {
            ..=0 => errors.invalid(&at, precedence, "must be a positive value"),
            10_001.. => errors.invalid(&at, precedence, "must not be greater than 10000"),
            1 if text(&schema["metadata"], "name") != "exempt" => {
                errors.invalid(&at, 1, "only the schema named 'exempt' may have matchingPrecedence 1")
            }
            _ => {}
        }
        if has(spec, "distinguisherMethod") {
            let at = path.child("distinguisherMethod");
            must_be_one_of(
                &spec["distinguisherMethod"],
                "type",
                &["ByNamespace", "ByUser"],
                &at,
                &mut errors,
            );
        }
        let at = path.child("priorityLevelConfiguration").child("name");
        match text(&spec["priorityLevelConfiguration"], "name") {
            "" => errors.required(&at, "must reference a priority level"),
            name => named(name, names::dns1123_subdomain, &at, &mut errors),
        }
        for (i, rule) in items(spec, "rules").enumerate() {
            check_rule(rule, &path.child("rules").index(i), &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        check_conditions(&new["status"])
    }

    fn row(&self, schema: &Value, now: Timestamp) -> Vec<Cell> {
        let missing = items(&schema["status"], "conditions").find(|c| text(c, "type") == "Dangling");
        vec![
            text(&schema["spec"]["priorityLevelConfiguration"], "name").into(),
            int(schema, "/spec/matchingPrecedence").into(),
            text_or_none(schema, "/spec/distinguisherMethod/type"),
            age(schema, now),
            missing.map_or("?", |c| text(c, "status")).into(),
        ]
    }
}

fn check_conditions(status: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, condition) in items(status, "conditions").enumerate() {
        let at = Path::new("status").child("conditions").index(i).child("type");
        let kind = text(condition, "type");
        if !seen.insert(kind) {
            errors.duplicate(&at, quoted(kind));
        }
        if kind.is_empty() {
            errors.required(&at, "must not be empty");
        }
    }
    errors
}

impl Strategy for Level {
    fn default(&self, level: &mut Value) {
        let Some(spec) = level.get_mut("spec") else { return };
        if let Some(exempt) = spec.get_mut("exempt").filter(|e| e.is_object()) {
            default(exempt, "nominalConcurrencyShares", 0);
            default(exempt, "lendablePercent", 0);
        }
        if let Some(limited) = spec.get_mut("limited").filter(|l| l.is_object()) {
            default(limited, "nominalConcurrencyShares", 30);
            default(limited, "lendablePercent", 0);
        }
        if let Some(queuing) = spec.pointer_mut("/limited/limitResponse/queuing") {
            for (field, value) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                if queuing.is_object() && int(queuing, &format!("/{field}")) == 0 {
                    crate::edit::set(queuing, field, value);
                }
            }
        }
    }

    fn validate_create(&self, level: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&level["spec"], Path::new("spec"));
        let kind = text(spec, "type");
        if (text(&level["metadata"], "name") == "exempt") != (kind == "Exempt") {
            errors.invalid(
                &path.child("type"),
                quoted(kind),
                "type must be 'Exempt' if and only if name is 'exempt'",
            );
        }
        match kind {
            "Exempt" => {
                if has(spec, "limited") {
                    errors.forbidden(&path.child("limited"), "must be nil if the type is not Limited");
                }
                check_shares(&spec["exempt"], &path.child("exempt"), &mut errors);
            }
            "Limited" => {
                if has(spec, "exempt") {
                    errors.forbidden(&path.child("exempt"), "must be nil if the type is Limited");
                }
                if has(spec, "limited") {
                    check_limited(&spec["limited"], &path.child("limited"), &mut errors);
                } else {
                    errors.required(&path.child("limited"), "must not be empty when type is Limited");
                }
            }
            other => errors.not_supported(&path.child("type"), other, &["Exempt", "Limited"]),
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        check_conditions(&new["status"])
    }

    fn row(&self, level: &Value, now: Timestamp) -> Vec<Cell> {
        let number = |pointer: &str| match level.pointer(pointer).and_then(Value::as_i64) {
            Some(n) => Cell::from(n),
            None => "<none>".into(),
        };
        let queuing = |field: &str| number(&format!("/spec/limited/limitResponse/queuing/{field}"));
        vec![
            text(&level["spec"], "type").into(),
            number("/spec/limited/nominalConcurrencyShares"),
            queuing("queues"),
            queuing("handSize"),
            queuing("queueLengthLimit"),
            age(level, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn schemas() {
        let mut good = json!({"metadata": {"name": "a"}, "spec": {
            "priorityLevelConfiguration": {"name": "workload-low"},
            "rules": [{
                "subjects": [{"kind": "User", "user": {"name": "u"}}],
                "resourceRules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"], "namespaces": ["*"]}],
            }],
        }});
        FlowSchema.default(&mut good);
        assert_eq!(good["spec"]["matchingPrecedence"], 1000);
        assert!(FlowSchema.validate_create(&good).is_empty());
        let rule = "/spec/rules/0/resourceRules/0";
        for (pointer, value, words) in [
            (
                "/spec/matchingPrecedence",
                json!(-1),
                "spec.matchingPrecedence: Invalid value: -1: must be a positive value",
            ),
            (
                "/spec/matchingPrecedence",
                json!(1),
                "only the schema named 'exempt' may have matchingPrecedence 1",
            ),
            (
                "/spec/priorityLevelConfiguration",
                json!({}),
                "spec.priorityLevelConfiguration.name: Required value: must reference a priority level",
            ),
            (
                "/spec/rules/0/subjects",
                json!([{"kind": "X"}]),
                "spec.rules[0].subjects[0].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
            ),
            (
                "/spec/rules/0/subjects",
                json!([{"kind": "Group", "user": {"name": "u"}}]),
                "group: Required value: group is required when subject kind is 'Group'",
            ),
            (
                rule,
                json!({"verbs": ["*", "get"]}),
                "if '*' is present, must not specify other verbs",
            ),
            (
                rule,
                json!({"verbs": ["get"]}),
                "resource rules that are not cluster scoped must supply at least one namespace",
            ),
        ] {
            let mut schema = good.clone();
            *schema.pointer_mut(pointer).unwrap() = value;
            expect(&FlowSchema.validate_create(&schema), words);
        }
    }

    #[test]
    fn levels() {
        let mut good = json!({"metadata": {"name": "a"}, "spec": {"type": "Limited", "limited": {
            "limitResponse": {"type": "Queue", "queuing": {}},
        }}});
        Level.default(&mut good);
        let limited = &good["spec"]["limited"];
        assert_eq!(limited["nominalConcurrencyShares"], 30);
        assert_eq!(
            limited["limitResponse"]["queuing"],
            json!({"handSize": 8, "queues": 64, "queueLengthLimit": 50})
        );
        assert!(Level.validate_create(&good).is_empty());
        assert_eq!(Level.row(&good, Timestamp::UNIX_EPOCH)[1], 30);
        for (pointer, value, words) in [
            (
                "/spec/type",
                json!("Exempt"),
                "type must be 'Exempt' if and only if name is 'exempt'",
            ),
            (
                "/spec/limited/lendablePercent",
                json!(101),
                "must be between 0 and 100, inclusive",
            ),
            (
                "/spec/limited/limitResponse/type",
                json!("Reject"),
                "must be nil if limited.limitResponse.type is not Limited",
            ),
            (
                "/spec/limited/limitResponse/queuing/handSize",
                json!(65),
                "should not be greater than queues (64)",
            ),
            (
                "/spec/limited/limitResponse/queuing/handSize",
                json!(20),
                "required entropy bits",
            ),
        ] {
            let mut level = good.clone();
            *level.pointer_mut(pointer).unwrap() = value;
            expect(&Level.validate_create(&level), words);
        }
    }
}
