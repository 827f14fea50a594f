//! What flow schemas and priority levels must hold to.

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{any, has, named};
use crate::edit::{items, text};

pub(super) fn check_rule(rule: &Value, at: &Path, errors: &mut ErrorList) {
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

pub(super) fn check_shares(shares: &Value, at: &Path, errors: &mut ErrorList) {
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

pub(super) fn check_limited(limited: &Value, at: &Path, errors: &mut ErrorList) {
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
