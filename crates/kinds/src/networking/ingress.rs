//! Ingress and IngressClass.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::networking::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use super::ingress_checks::{check_class, check_spec, check_status};
use crate::check::immutable;
use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{default_text, items, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kinds of this file.
pub(super) fn kinds() -> Vec<Declared> {
    vec![
        names(super::GROUP, "v1", "Ingress", "ingresses", "ingress", &["ing"])
            .with(
                typed::<v1::Ingress>,
                const {
                    &[
                        column("Class", "string"),
                        column("Hosts", "string"),
                        column("Address", "string"),
                        column("Ports", "string"),
                        AGE,
                    ]
                },
                &Ingress,
            )
            .status(),
        names(
            super::GROUP,
            "v1",
            "IngressClass",
            "ingressclasses",
            "ingressclass",
            &[],
        )
        .with(
            typed::<v1::IngressClass>,
            const { &[column("Controller", "string"), column("Parameters", "string"), AGE] },
            &IngressClass,
        )
        .cluster(),
    ]
}

struct Ingress;
struct IngressClass;

/// What said the class before there was a field for it.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

impl Strategy for Ingress {
    fn validate_create(&self, ingress: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&ingress["spec"], &Path::new("spec"), &mut errors);
        let old = text(&ingress["metadata"]["annotations"], OLD_CLASS);
        if !old.is_empty() && !text(&ingress["spec"], "ingressClassName").is_empty() {
            errors.invalid(
                &Path::new("annotations").child(OLD_CLASS),
                quoted(old),
                "can not be set when the class field is also set",
            );
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&new["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_status(&new["status"], &Path::new("status"), &mut errors);
        errors
    }

    fn warnings(&self, ingress: &Value) -> Vec<String> {
        let old = text(&ingress["metadata"]["annotations"], OLD_CLASS);
        if old.is_empty() {
            return Vec::new();
        }
        vec![format!(
            "annotation {} is deprecated, please use 'spec.ingressClassName' instead",
            quoted(OLD_CLASS)
        )]
    }

    fn row(&self, ingress: &Value, now: Timestamp) -> Vec<Cell> {
        let ports = if items(&ingress["spec"], "tls").next().is_some() {
            "80, 443"
        } else {
            "80"
        };
        vec![
            text_or_none(ingress, "/spec/ingressClassName"),
            hosts(&ingress["spec"]).into(),
            addresses(&ingress["status"]).into(),
            ports.into(),
            age(ingress, now),
        ]
    }
}

fn hosts(spec: &Value) -> String {
    const SHOWN: usize = 3;
    let named = |r: &&Value| !text(r, "host").is_empty();
    let all = items(spec, "rules").filter(named).map(|r| text(r, "host"));
    let list: Vec<&str> = all.take(SHOWN).collect();
    if list.is_empty() {
        return "*".to_owned();
    }
    let rules = items(spec, "rules").count();
    // As upstream counts: it is the rules beyond the third host that are more.
    if list.len() == SHOWN && rules > SHOWN {
        return format!("{} + {} more...", list.join(","), rules - SHOWN);
    }
    list.join(",")
}

/// Addresses of the load balancer, once each and in order.
fn addresses(status: &Value) -> String {
    let given = items(&status["loadBalancer"], "ingress").map(|i| match text(i, "ip") {
        "" => text(i, "hostname"),
        ip => ip,
    });
    let all: BTreeSet<&str> = given.filter(|a| !a.is_empty()).collect();
    all.into_iter().collect::<Vec<_>>().join(",")
}

impl Strategy for IngressClass {
    fn default(&self, class: &mut Value) {
        if let Some(parameters) = class.pointer_mut("/spec/parameters").filter(|p| p.is_object()) {
            default_text(parameters, "scope", "Cluster");
        }
    }

    fn validate_create(&self, class: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_class(&class["spec"], &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let at = Path::new("spec").child("controller");
        immutable(&new["spec"]["controller"], &old["spec"]["controller"], &at, &mut errors);
        errors
    }

    fn row(&self, class: &Value, now: Timestamp) -> Vec<Cell> {
        let parameters = &class["spec"]["parameters"];
        let shown = match (parameters.is_object(), text(parameters, "apiGroup")) {
            (false, _) => "<none>".to_owned(),
            (true, "") => format!("{}/{}", text(parameters, "kind"), text(parameters, "name")),
            (true, group) => format!("{}.{group}/{}", text(parameters, "kind"), text(parameters, "name")),
        };
        vec![text(&class["spec"], "controller").into(), shown.into(), age(class, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    fn ingress() -> Value {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        json!({"spec": {"rules": [{"host": "a.example.com", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend},
        ]}}]}})
    }

    #[test]
    fn right_ones_and_wrong_ones() {
        assert!(Ingress.validate_create(&ingress()).is_empty());
        let path = "/spec/rules/0/http/paths/0";
        for (pointer, value, words) in [
            (
                "/spec",
                json!({}),
                "spec: Invalid value: null: either `defaultBackend` or `rules` must be specified",
            ),
            (
                "/spec/rules/0/host",
                json!("1.2.3.4"),
                "spec.rules[0].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
            ),
            (
                "/spec/rules/0/host",
                json!("*.*.com"),
                "a wildcard DNS-1123 subdomain must start with '*.'",
            ),
            (
                "/spec/rules/0/http/paths",
                json!([]),
                "spec.rules[0].http.paths: Required value",
            ),
            (
                path,
                json!({"path": "x", "pathType": "Exact", "backend": {}}),
                "paths[0].path: Invalid value: \"x\": must be an absolute path",
            ),
            (
                path,
                json!({"path": "/a//b", "pathType": "Exact", "backend": {}}),
                "must not contain '//'",
            ),
            (
                path,
                json!({"path": "/a", "pathType": "No", "backend": {}}),
                "pathType: Unsupported value: \"No\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
            ),
            (
                path,
                json!({"path": "/a", "pathType": "Exact", "backend": {}}),
                "backend: Invalid value: \"\": resource or service backend is required",
            ),
            (
                path,
                json!({"pathType": "Exact", "path": "/", "backend": {"service": {"name": "web", "port": {}}}}),
                "backend: Required value: port name or number is required",
            ),
        ] {
            let mut ingress = ingress();
            *ingress.pointer_mut(pointer).unwrap() = value;
            expect(&Ingress.validate_create(&ingress), words);
        }
        let mut classed = ingress();
        classed["spec"]["ingressClassName"] = "a".into();
        classed["metadata"]["annotations"][OLD_CLASS] = "b".into();
        expect(
            &Ingress.validate_create(&classed),
            "can not be set when the class field is also set",
        );
        assert_eq!(Ingress.warnings(&classed).len(), 1);
    }

    #[test]
    fn classes() {
        let mut class = json!({"spec": {"controller": "example.com/c", "parameters": {"kind": "K", "name": "n"}}});
        IngressClass.default(&mut class);
        assert_eq!(class["spec"]["parameters"]["scope"], "Cluster");
        assert!(IngressClass.validate_create(&class).is_empty());
        assert_eq!(IngressClass.row(&class, Timestamp::UNIX_EPOCH)[1], "K/n");
        let mut other = class.clone();
        other["spec"]["controller"] = "x".into();
        let errors = IngressClass.validate_update(&other, &class);
        expect(
            &errors,
            "spec.controller: Invalid value: \"x\": must be a domain-prefixed path (such as \"acme.io/foo\")",
        );
        expect(&errors, "spec.controller: Invalid value: \"x\": field is immutable");
    }

    #[test]
    fn cells() {
        let mut ingress = ingress();
        ingress["status"] = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
        let row = Ingress.row(&ingress, Timestamp::UNIX_EPOCH);
        assert_eq!(
            row[..4],
            [json!("<none>"), json!("a.example.com"), json!("10.0.0.1"), json!("80")]
        );
    }
}
