//! The flowcontrol.apiserver.k8s.io group: FlowSchema and PriorityLevelConfiguration.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{any, has, must_be_one_of, named};
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

fn check_rule(rule: &Value, at: &Path, errors: &mut ErrorList) {
    if !any(rule, "subjects") {
        errors.required(&at.child("subjects"), "subjects must contain at least one value");
    }
    for (i, subject) in items(rule, "subjects").enumerate() {
        check_subject(subject, &at.child("subjects").index(i), errors);
    }
    if !any(rule, "resourceRules") && !any(rule, "nonResourceRules") {
        errors.required(
            at,
            "at least one of resourceRules and nonResourceRules has to be non-empty",
        );
    }
    for (i, rule) in items(rule, "resourceRules").enumerate() {
        check_resource_rule(rule, &at.child("resourceRules").index(i), errors);
    }
    for (i, rule) in items(rule, "nonResourceRules").enumerate() {
        let at = at.child("nonResourceRules").index(i);
        check_verbs(rule, &at, errors);
        let urls = List {
            field: "nonResourceURLs",
            missing: "nonResourceURLs must contain at least one value",
            others: "non-resource URLs",
        };
        if !urls.check(rule, &at, errors) {
            for (n, url) in items(rule, "nonResourceURLs").enumerate() {
                let place = at.child("nonResourceURLs").index(n);
                check_url(url.as_str().unwrap_or_default(), &place, errors);
            }
        }
    }
}

fn check_subject(subject: &Value, at: &Path, errors: &mut ErrorList) {
    const KINDS: [(&str, &str); 3] = [
        ("Group", "group"),
        ("ServiceAccount", "serviceAccount"),
        ("User", "user"),
    ];
    let kind = text(subject, "kind");
    if !KINDS.iter().any(|(k, _)| *k == kind) {
        return errors.not_supported(&at.child("kind"), kind, &KINDS.map(|(k, _)| k));
    }
    for (name, field) in KINDS {
        let place = at.child(field);
        match (name == kind, has(subject, field)) {
            (true, false) => errors.required(&place, &format!("{field} is required when subject kind is '{name}'")),
            (false, true) => errors.forbidden(
                &place,
                format!("{field} is forbidden when subject kind is not '{name}'"),
            ),
            (true, true) => check_subject_names(&subject[field], name, &place, errors),
            (false, false) => {}
        }
    }
}

fn check_subject_names(subject: &Value, kind: &str, at: &Path, errors: &mut ErrorList) {
    let name = text(subject, "name");
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    }
    if kind != "ServiceAccount" {
        return;
    }
    if !name.is_empty() && name != "*" {
        named(name, names::dns1123_subdomain, &at.child("name"), errors);
    }
    match text(subject, "namespace") {
        "" => errors.required(&at.child("namespace"), "must specify namespace for service account"),
        namespace => named(namespace, names::dns1123_label, &at.child("namespace"), errors),
    }
}

/// A list that must have something in it, and nothing beside a star.
struct List {
    field: &'static str,
    missing: &'static str,
    others: &'static str,
}

impl List {
    /// Whether there is a star, or nothing: then the items need no look.
    fn check(&self, rule: &Value, at: &Path, errors: &mut ErrorList) -> bool {
        let at = at.child(self.field);
        if !any(rule, self.field) {
            errors.required(&at, self.missing);
            return true;
        }
        let star = items(rule, self.field).any(|v| v == "*");
        if star && items(rule, self.field).count() > 1 {
            let words = format!("if '*' is present, must not specify other {}", self.others);
            errors.invalid(&at, &rule[self.field], words);
        }
        star
    }
}

fn check_verbs(rule: &Value, at: &Path, errors: &mut ErrorList) {
    const VERBS: [&str; 9] = [
        "create",
        "delete",
        "deletecollection",
        "get",
        "list",
        "patch",
        "proxy",
        "update",
        "watch",
    ];
    let list = List {
        field: "verbs",
        missing: "verbs must contain at least one value",
        others: "verbs",
    };
    let known = |v: &Value| VERBS.iter().any(|known| v == known);
    if !list.check(rule, at, errors) && !items(rule, "verbs").all(known) {
        let supported: Vec<String> = VERBS.iter().map(|v| quoted(v)).collect();
        errors.add(
            meta::field::ErrorKind::NotSupported,
            &at.child("verbs"),
            &rule["verbs"],
            format!("supported values: {}", supported.join(", ")),
        );
    }
}

fn check_resource_rule(rule: &Value, at: &Path, errors: &mut ErrorList) {
    check_verbs(rule, at, errors);
    for (field, missing, others) in [
        (
            "apiGroups",
            "resource rules must supply at least one api group",
            "api groups",
        ),
        (
            "resources",
            "resource rules must supply at least one resource",
            "resources",
        ),
    ] {
        List { field, missing, others }.check(rule, at, errors);
    }
    if !any(rule, "namespaces") && rule["clusterScope"] == true {
        return;
    }
    let namespaces = List {
        field: "namespaces",
        missing: "resource rules that are not cluster scoped must supply at least one namespace",
        others: "namespaces",
    };
    if !namespaces.check(rule, at, errors) {
        for (i, namespace) in items(rule, "namespaces").enumerate() {
            let namespace = namespace.as_str().unwrap_or_default();
            for problem in names::dns1123_label(namespace) {
                let words = format!("each member of this list must be '*' or a DNS-1123 label; {problem}");
                errors.invalid(&at.child("namespaces").index(i), quoted(namespace), words);
            }
        }
    }
}

fn check_url(url: &str, at: &Path, errors: &mut ErrorList) {
    let stars = url.matches('*').count();
    let words = match url {
        "/" => return,
        "" => "must not be empty",
        _ if !url.starts_with('/') => "must start with slash",
        _ if url.contains(' ') => "must not contain white-space",
        _ if url.contains("//") => "must not contain double slash",
        _ if stars > 1 || (stars == 1 && !url.ends_with("/*")) => "wildcard can only do suffix matching",
        _ => return,
    };
    errors.invalid(at, quoted(url), words);
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

fn check_shares(shares: &Value, at: &Path, errors: &mut ErrorList) {
    let number = |field: &str| shares[field].as_i64();
    if let Some(n) = number("nominalConcurrencyShares").filter(|n| *n < 0) {
        errors.invalid(
            &at.child("nominalConcurrencyShares"),
            n,
            "must be a non-negative integer",
        );
    }
    if let Some(n) = number("lendablePercent").filter(|n| !(0..=100).contains(n)) {
        errors.invalid(&at.child("lendablePercent"), n, "must be between 0 and 100, inclusive");
    }
    if let Some(n) = number("borrowingLimitPercent").filter(|n| *n < 0) {
        errors.invalid(
            &at.child("borrowingLimitPercent"),
            n,
            "if specified, must be a non-negative integer",
        );
    }
}

fn check_limited(limited: &Value, at: &Path, errors: &mut ErrorList) {
    check_shares(limited, at, errors);
    let (response, at) = (&limited["limitResponse"], at.child("limitResponse"));
    let place = at.child("queuing");
    match (text(response, "type"), has(response, "queuing")) {
        ("Reject", true) => errors.forbidden(&place, "must be nil if limited.limitResponse.type is not Limited"),
        ("Queue", false) => errors.required(&place, "must not be empty if limited.limitResponse.type is Limited"),
        ("Queue", true) => check_queuing(&response["queuing"], &place, errors),
        ("Reject", false) => {}
        (other, _) => errors.not_supported(&at.child("type"), other, &["Queue", "Reject"]),
    }
}

fn check_queuing(queuing: &Value, at: &Path, errors: &mut ErrorList) {
    const MOST_QUEUES: i64 = 10_000_000;
    let number = |field: &str| queuing[field].as_i64().unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    for field in ["queueLengthLimit", "queues", "handSize"] {
        if number(field) <= 0 {
            errors.invalid(&at.child(field), number(field), "must be positive");
        }
    }
    if queues > MOST_QUEUES {
        errors.invalid(
            &at.child("queues"),
            queues,
            format!("must not be greater than {MOST_QUEUES}"),
        );
    }
    if hand > queues {
        let words = format!("should not be greater than queues ({queues})");
        errors.invalid(&at.child("handSize"), hand, words);
    } else if hand > 0 && queues > 0 {
        // Cards are dealt from one 64-bit hash of which 60 bits are used.
        let bits: f64 = (0..hand.min(64)).map(|i| ((queues - i) as f64).log2()).sum();
        if hand > 60 || bits.ceil() > 60.0 {
            let words =
                format!("required entropy bits of deckSize {queues} and handSize {hand} should not be greater than 60");
            errors.invalid(&at.child("handSize"), hand, words);
        }
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
