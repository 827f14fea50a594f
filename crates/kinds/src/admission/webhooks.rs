//! ValidatingWebhookConfiguration and MutatingWebhookConfiguration.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Value, json};

use super::client::{check_service, check_url};
use super::rules::{check_conditions, check_rule, default_rules};
use crate::check::{self, has, named, one_of};
use crate::columns::{AGE, age, column};
use crate::edit::{default, default_text, items, items_mut, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    let columns = const { &[column("Webhooks", "integer"), AGE] };
    vec![
        names(
            super::GROUP,
            "v1",
            "ValidatingWebhookConfiguration",
            "validatingwebhookconfigurations",
            "validatingwebhookconfiguration",
            &[],
        )
        .with(
            typed::<v1::ValidatingWebhookConfiguration>,
            columns,
            &Webhooks { mutating: false },
        )
        .cluster(),
        names(
            super::GROUP,
            "v1",
            "MutatingWebhookConfiguration",
            "mutatingwebhookconfigurations",
            "mutatingwebhookconfiguration",
            &[],
        )
        .with(
            typed::<v1::MutatingWebhookConfiguration>,
            columns,
            &Webhooks { mutating: true },
        )
        .cluster(),
    ]
}

struct Webhooks {
    mutating: bool,
}

const QUIET: [&str; 2] = ["None", "NoneOnDryRun"];
const ANY_EFFECTS: [&str; 4] = ["None", "NoneOnDryRun", "Some", "Unknown"];
const REVIEWS: [&str; 2] = ["v1", "v1beta1"];

/// What is asked of every webhook; less where the stored object has it worse already.
struct Rigor {
    side_effects: &'static [&'static str],
    known_review: bool,
    unique: bool,
}

impl Rigor {
    const FULL: Rigor = Rigor {
        side_effects: &QUIET,
        known_review: true,
        unique: true,
    };

    fn beside(old: &Value) -> Self {
        let hooks = || items(old, "webhooks");
        let quiet = hooks().all(|h| QUIET.contains(&text(h, "sideEffects")));
        let known = |h: &Value| items(h, "admissionReviewVersions").any(|v| REVIEWS.iter().any(|r| v == r));
        let mut seen = BTreeSet::new();
        Rigor {
            side_effects: if quiet { &QUIET } else { &ANY_EFFECTS },
            known_review: hooks().all(known),
            unique: hooks().all(|h| seen.insert(text(h, "name"))),
        }
    }
}

impl Strategy for Webhooks {
    fn default(&self, object: &mut Value) {
        for hook in items_mut(object, "webhooks") {
            default_text(hook, "failurePolicy", "Fail");
            default_text(hook, "matchPolicy", "Equivalent");
            default(hook, "namespaceSelector", json!({}));
            default(hook, "objectSelector", json!({}));
            default(hook, "timeoutSeconds", 10);
            if self.mutating {
                default_text(hook, "reinvocationPolicy", "Never");
            }
            default_rules(hook, "rules");
            if let Some(service) = hook.pointer_mut("/clientConfig/service").filter(|s| s.is_object()) {
                default(service, "port", 443);
            }
        }
    }

    fn validate_create(&self, object: &Value) -> ErrorList {
        self.validate(object, &Rigor::FULL)
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        self.validate(new, &Rigor::beside(old))
    }

    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        vec![items(object, "webhooks").count().into(), age(object, now)]
    }
}

impl Webhooks {
    fn validate(&self, object: &Value, rigor: &Rigor) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = BTreeSet::new();
        for (i, hook) in items(object, "webhooks").enumerate() {
            let at = Path::new("webhooks").index(i);
            self.check(hook, rigor, &at, &mut errors);
            check_reviews(hook, rigor, &at.child("admissionReviewVersions"), &mut errors);
            let name = text(hook, "name");
            if rigor.unique && !name.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        errors
    }

    fn check(&self, hook: &Value, rigor: &Rigor, at: &Path, errors: &mut ErrorList) {
        check_qualified(text(hook, "name"), &at.child("name"), errors);
        for (i, rule) in items(hook, "rules").enumerate() {
            check_rule(rule, &at.child("rules").index(i), errors);
        }
        one_of(hook, "failurePolicy", &["Fail", "Ignore"], at, errors);
        one_of(hook, "matchPolicy", &["Equivalent", "Exact"], at, errors);
        if text(hook, "sideEffects").is_empty() {
            let words = format!("must specify one of {}", rigor.side_effects.join(", "));
            errors.required(&at.child("sideEffects"), &words);
        }
        one_of(hook, "sideEffects", rigor.side_effects, at, errors);
        if let Some(n) = hook["timeoutSeconds"].as_i64().filter(|n| !(1..=30).contains(n)) {
            errors.invalid(
                &at.child("timeoutSeconds"),
                n,
                "the timeout value must be between 1 and 30 seconds",
            );
        }
        for field in ["namespaceSelector", "objectSelector"] {
            check::label_selector(&hook[field], &at.child(field), errors);
        }
        if self.mutating {
            one_of(hook, "reinvocationPolicy", &["IfNeeded", "Never"], at, errors);
        }
        let (client, place) = (&hook["clientConfig"], at.child("clientConfig"));
        match (has(client, "url"), has(client, "service")) {
            (true, false) => check_url(text(client, "url"), &place.child("url"), errors),
            (false, true) => check_service(&client["service"], &place.child("service"), errors),
            _ => errors.required(&place, "exactly one of url or service is required"),
        }
        check_conditions(hook, at, errors);
    }
}

/// A domain with at least three parts.
fn check_qualified(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let problems = names::dns1123_subdomain(name);
    if !problems.is_empty() {
        return errors.invalid(at, quoted(name), problems.join(","));
    }
    if name.split('.').count() < 3 {
        errors.invalid(
            at,
            quoted(name),
            "should be a domain with at least three segments separated by dots",
        );
    }
}

fn check_reviews(hook: &Value, rigor: &Rigor, at: &Path, errors: &mut ErrorList) {
    let list: Vec<&str> = items(hook, "admissionReviewVersions")
        .filter_map(Value::as_str)
        .collect();
    if list.is_empty() {
        return errors.required(at, "must specify one of v1, v1beta1");
    }
    let mut seen = BTreeSet::new();
    for (i, version) in list.iter().enumerate() {
        if !seen.insert(*version) {
            errors.invalid(&at.index(i), quoted(version), "duplicate version");
            continue;
        }
        named(version, names::dns1035_label, &at.index(i), errors);
    }
    if rigor.known_review && !list.iter().any(|v| REVIEWS.contains(v)) {
        errors.invalid(
            at,
            &hook["admissionReviewVersions"],
            "must include at least one of v1, v1beta1",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    const MUTATING: Webhooks = Webhooks { mutating: true };

    fn hook() -> Value {
        let mut object = json!({"webhooks": [{
            "name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
            "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
        }]});
        MUTATING.default(&mut object);
        object
    }

    #[test]
    fn defaults() {
        let object = hook();
        let hook = &object["webhooks"][0];
        for (field, value) in [
            ("failurePolicy", json!("Fail")),
            ("matchPolicy", json!("Equivalent")),
            ("timeoutSeconds", json!(10)),
            ("reinvocationPolicy", json!("Never")),
            ("namespaceSelector", json!({})),
            ("objectSelector", json!({})),
        ] {
            assert_eq!(hook[field], value, "{field}");
        }
        assert_eq!(hook["rules"][0]["scope"], "*");
        assert_eq!(hook["clientConfig"]["service"]["port"], 443);
        assert!(MUTATING.validate_create(&object).is_empty());
    }

    #[test]
    fn errors() {
        for (pointer, value, words) in [
            (
                "name",
                json!("a.b"),
                "webhooks[0].name: Invalid value: \"a.b\": should be a domain with at least three",
            ),
            (
                "sideEffects",
                json!("Some"),
                "sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                "sideEffects",
                json!(null),
                "sideEffects: Required value: must specify one of None, NoneOnDryRun",
            ),
            (
                "timeoutSeconds",
                json!(31),
                "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ),
            (
                "clientConfig",
                json!({}),
                "clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                "clientConfig",
                json!({"url": "http://x"}),
                "'https' is the only allowed URL scheme; desired format: https://host[/path]",
            ),
            (
                "clientConfig",
                json!({"url": "https://u@x/a?b#c"}),
                "user information is not permitted in the URL",
            ),
            (
                "clientConfig",
                json!({"service": {"name": "s", "namespace": "n", "path": "a//b"}}),
                "segment[1] may not be empty",
            ),
            (
                "admissionReviewVersions",
                json!(["v9"]),
                "must include at least one of v1, v1beta1",
            ),
            (
                "rules",
                json!([{"operations": ["*", "CREATE"]}]),
                "if '*' is present, must not specify other operations",
            ),
            (
                "rules",
                json!([{"resources": ["*", "pods"]}]),
                "if '*' is present, must not specify other resources without subresources",
            ),
            (
                "matchConditions",
                json!([{"name": "a"}]),
                "matchConditions[0].expression: Required value",
            ),
        ] {
            let mut object = hook();
            object["webhooks"][0][pointer] = value;
            expect(&MUTATING.validate_create(&object), words);
        }
    }

    #[test]
    fn what_is_stored_may_stay_as_it_is() {
        let mut old = hook();
        old["webhooks"][0]["sideEffects"] = "Some".into();
        assert!(!MUTATING.validate_create(&old).is_empty());
        assert!(MUTATING.validate_update(&old, &old).is_empty());
    }
}
