//! What Ingresses and IngressClasses must hold to.

use std::net::IpAddr;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{self, has, must_be_one_of, named, port_name, required};
use crate::edit::{int, items, text};

/// A host name that may begin with a star.
pub(super) fn host_problems(host: &str) -> Vec<String> {
    if !host.contains('*') {
        return names::dns1123_subdomain(host);
    }
    let rest = host.strip_prefix("*.").unwrap_or_default();
    if !rest.is_empty() && names::dns1123_subdomain(rest).is_empty() {
        return Vec::new();
    }
    vec![
        "a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of \
         lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. \
         '*.example.com', regex used for validation is \
         '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
            .to_owned(),
    ]
}

/// Checks the spec of an Ingress.
pub(super) fn check_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for (i, tls) in items(spec, "tls").enumerate() {
        let at = path.child("tls").index(i);
        for host in items(tls, "hosts").filter_map(Value::as_str) {
            named(host, host_problems, &at.child("hosts"), errors);
        }
        let secret = text(tls, "secretName");
        if !secret.is_empty() {
            named(secret, names::dns1123_subdomain, &at.child("secretName"), errors);
        }
    }
    let rules = items(spec, "rules").next().is_some();
    if has(spec, "defaultBackend") {
        check_backend(&spec["defaultBackend"], &path.child("defaultBackend"), errors);
    } else if !rules {
        let words = "either `defaultBackend` or `rules` must be specified";
        errors.invalid(path, "null", words);
    }
    for (i, rule) in items(spec, "rules").enumerate() {
        check_rule(rule, &path.child("rules").index(i), errors);
    }
    let class = text(spec, "ingressClassName");
    if has(spec, "ingressClassName") {
        named(class, names::dns1123_subdomain, &path.child("ingressClassName"), errors);
    }
}

fn check_rule(rule: &Value, at: &Path, errors: &mut ErrorList) {
    let host = text(rule, "host");
    if !host.is_empty() {
        if host.parse::<IpAddr>().is_ok() {
            let words = "must be a DNS name, not an IP address";
            errors.invalid(&at.child("host"), quoted(host), words);
        }
        named(host, host_problems, &at.child("host"), errors);
    }
    let http = at.child("http");
    if has(rule, "http") && !check::any(&rule["http"], "paths") {
        errors.required(&http.child("paths"), "");
    }
    for (i, path) in items(&rule["http"], "paths").enumerate() {
        check_path(path, &http.child("paths").index(i), errors);
    }
}

fn check_path(entry: &Value, at: &Path, errors: &mut ErrorList) {
    const TYPES: [&str; 3] = ["Exact", "ImplementationSpecific", "Prefix"];
    let (path, place) = (text(entry, "path"), at.child("path"));
    let absolute = path.starts_with('/');
    match text(entry, "pathType") {
        "" => errors.required(&at.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !absolute {
                errors.invalid(&place, quoted(path), "must be an absolute path");
            }
            for part in ["//", "/./", "/../", "%2f", "%2F"] {
                if path.contains(part) {
                    errors.invalid(&place, quoted(path), format!("must not contain '{part}'"));
                }
            }
            for end in ["/..", "/."] {
                if path.ends_with(end) {
                    errors.invalid(&place, quoted(path), format!("cannot end with '{end}'"));
                }
            }
        }
        "ImplementationSpecific" => {
            if !path.is_empty() && !absolute {
                errors.invalid(&place, quoted(path), "must be an absolute path");
            }
        }
        other => errors.not_supported(&at.child("pathType"), other, &TYPES),
    }
    check_backend(&entry["backend"], &at.child("backend"), errors);
}

fn check_backend(backend: &Value, at: &Path, errors: &mut ErrorList) {
    match (has(backend, "resource"), has(backend, "service")) {
        (true, true) => errors.invalid(at, "\"\"", "cannot set both resource and service backends"),
        (true, false) => check_reference(&backend["resource"], &at.child("resource"), errors),
        (false, true) => check_service(&backend["service"], at, errors),
        (false, false) => errors.invalid(at, "\"\"", "resource or service backend is required"),
    }
}

fn check_service(service: &Value, at: &Path, errors: &mut ErrorList) {
    let place = at.child("service");
    check::required_name(service, "name", names::dns1035_label, &place, errors);
    let (name, number) = (text(&service["port"], "name"), int(service, "/port/number"));
    let port = place.child("port");
    match (name, number) {
        ("", 0) => errors.required(at, "port name or number is required"),
        ("", n) => check::port(&n.into(), &port.child("number"), errors),
        (name, 0) => named(name, port_name, &port.child("name"), errors),
        _ => errors.invalid(at, "\"\"", "cannot set both port name & port number"),
    }
}

fn check_reference(reference: &Value, at: &Path, errors: &mut ErrorList) {
    let group = text(reference, "apiGroup");
    if !group.is_empty() {
        named(group, names::dns1123_subdomain, &at.child("apiGroup"), errors);
    }
    for field in ["kind", "name"] {
        match text(reference, field) {
            "" => errors.required(&at.child(field), &format!("{field} is required")),
            value => named(value, names::path_segment, &at.child(field), errors),
        }
    }
}

/// Checks the status of an Ingress.
pub(super) fn check_status(status: &Value, path: &Path, errors: &mut ErrorList) {
    let path = path.child("loadBalancer").child("ingress");
    for (i, entry) in items(&status["loadBalancer"], "ingress").enumerate() {
        let at = path.index(i);
        let (ip, host) = (text(entry, "ip"), text(entry, "hostname"));
        if !ip.is_empty() {
            check::ip(ip, &at.child("ip"), errors);
        }
        if !host.is_empty() {
            if host.parse::<IpAddr>().is_ok() {
                let words = "must be a DNS name, not an IP address";
                errors.invalid(&at.child("hostname"), quoted(host), words);
            }
            named(host, names::dns1123_subdomain, &at.child("hostname"), errors);
        }
    }
}

/// Checks the spec of an IngressClass.
pub(super) fn check_class(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const LONGEST: usize = 250;
    let (controller, at) = (text(spec, "controller"), path.child("controller"));
    if controller.len() > LONGEST {
        errors.too_long(&at, LONGEST);
    }
    if required(spec, "controller", path, errors) {
        match controller.split_once('/') {
            Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
                named(domain, names::dns1123_subdomain, &at, errors);
            }
            _ => {
                let words = "must be a domain-prefixed path (such as \"acme.io/foo\")";
                errors.invalid(&at, quoted(controller), words);
            }
        }
    }
    let (parameters, at) = (&spec["parameters"], path.child("parameters"));
    if !parameters.is_object() {
        return;
    }
    check_reference(parameters, &at, errors);
    must_be_one_of(parameters, "scope", &["Cluster", "Namespace"], &at, errors);
    let (namespace, place) = (text(parameters, "namespace"), at.child("namespace"));
    match (text(parameters, "scope"), namespace) {
        ("Namespace", "") => errors.required(&place, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", name) => named(name, names::dns1123_label, &place, errors),
        ("Cluster", name) if !name.is_empty() => {
            errors.forbidden(&place, "`parameters.scope` is set to 'Cluster'");
        }
        _ => {}
    }
}
