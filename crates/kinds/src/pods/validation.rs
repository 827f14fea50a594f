//! Checks of a PodSpec, with upstream's paths and words.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::containers::check_containers;
use super::placement::{check_affinity, check_spread, check_tolerations};
use super::security::check_pod_security;
use super::volumes::check_volumes;
use crate::check::{self, has, label_selector, labels, must_be_one_of, named, one_of, show};
use crate::edit::{items, text};

/// Whose template it is: words and rules differ a little.
pub(crate) struct Owner {
    /// As `activeDeadlineSeconds in ... is not Supported` calls it.
    pub kind: &'static str,
    /// As `empty selector is invalid for ...` calls it.
    pub selector: &'static str,
}

/// Checks `spec.template` against `spec.selector`; pods of it always run.
pub(crate) fn validate_template(spec: &Value, path: &Path, owner: &Owner, errors: &mut ErrorList) {
    let (selector, template) = (path.child("selector"), path.child("template"));
    match spec.get("selector") {
        None | Some(Value::Null) => errors.required(&selector, ""),
        Some(value) => {
            label_selector(value, &selector, errors);
            match meta::LabelSelector::from_object(value) {
                Err(_) => errors.invalid(&selector, value, "invalid label selector"),
                Ok(s) if s.is_everything() => {
                    let words = format!("empty selector is invalid for {}", owner.selector);
                    errors.invalid(&selector, value, words);
                }
                Ok(s) if !selects(&s, spec) => {
                    let at = template.child("metadata").child("labels");
                    let given = spec.pointer("/template/metadata/labels").unwrap_or(&Value::Null);
                    errors.invalid(&at, given, "`selector` does not match template `labels`");
                }
                Ok(_) => {}
            }
        }
    }
    check_template(&spec["template"], &template, errors);
    let (pod, at) = (&spec["template"]["spec"], template.child("spec"));
    one_of(pod, "restartPolicy", &["Always"], &at, errors);
    if has(pod, "activeDeadlineSeconds") {
        let words = format!("activeDeadlineSeconds in {} is not Supported", owner.kind);
        errors.forbidden(&at.child("activeDeadlineSeconds"), words);
    }
}

/// Whether the labels of the template are what a selector wants.
pub(crate) fn selects(selector: &meta::LabelSelector, spec: &Value) -> bool {
    let labels = spec.pointer("/template/metadata/labels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten();
    let labels = labels.map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()));
    selector.matches(&labels.collect())
}

/// Checks a pod template: its metadata and its pods.
pub(crate) fn check_template(template: &Value, path: &Path, errors: &mut ErrorList) {
    let (metadata, at) = (&template["metadata"], path.child("metadata"));
    labels(&metadata["labels"], &at.child("labels"), errors);
    check::annotations(&metadata["annotations"], &at.child("annotations"), errors);
    let at = path.child("spec");
    if items(&template["spec"], "ephemeralContainers").next().is_some() {
        let words = "ephemeral containers not allowed in pod template";
        errors.forbidden(&at.child("ephemeralContainers"), words);
    }
    validate_spec(&template["spec"], &at, false, errors);
}

/// Checks a PodSpec; `is_pod` when it is a pod's own and no template's.
pub(crate) fn validate_spec(spec: &Value, path: &Path, is_pod: bool, errors: &mut ErrorList) {
    let volumes = check_volumes(spec, path, errors);
    check_containers(spec, path, is_pod, &volumes, errors);
    must_be_one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    must_be_one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        path,
        errors,
    );
    check_names(spec, path, errors);
    labels(&spec["nodeSelector"], &path.child("nodeSelector"), errors);
    check_pod_security(spec, path, errors);
    check_deadline(spec, path, errors);
    check_dns(spec, path, errors);
    check_aliases(spec, path, errors);
    check_affinity(&spec["affinity"], &path.child("affinity"), errors);
    check_tolerations(spec, path, errors);
    check_spread(spec, path, errors);
    one_of(
        spec,
        "preemptionPolicy",
        &["Never", "PreemptLowerPriority"],
        path,
        errors,
    );
    if spec["os"].is_object() {
        must_be_one_of(&spec["os"], "name", &["linux", "windows"], &path.child("os"), errors);
    }
    let at = path.child("readinessGates");
    for (i, gate) in items(spec, "readinessGates").enumerate() {
        let at = at.index(i).child("conditionType");
        named(text(gate, "conditionType"), names::qualified_name, &at, errors);
    }
    check_gates(spec, &path.child("schedulingGates"), errors);
    check_claims(spec, &path.child("resourceClaims"), errors);
}

fn check_names(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for field in [
        "serviceAccountName",
        "nodeName",
        "priorityClassName",
        "runtimeClassName",
    ] {
        let value = text(spec, field);
        if !value.is_empty() {
            named(value, names::dns1123_subdomain, &path.child(field), errors);
        }
    }
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        if !value.is_empty() {
            named(value, names::dns1123_label, &path.child(field), errors);
        }
    }
    for (i, secret) in items(spec, "imagePullSecrets").enumerate() {
        if text(secret, "name").is_empty() {
            errors.required(&path.child("imagePullSecrets").index(i).child("name"), "");
        }
    }
}

fn check_deadline(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let most = i64::from(i32::MAX);
    if let Some(n) = spec["activeDeadlineSeconds"].as_i64()
        && !(1..=most).contains(&n)
    {
        errors.invalid(
            &path.child("activeDeadlineSeconds"),
            n,
            format!("must be between 1 and {most}, inclusive"),
        );
    }
}

fn check_dns(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const MOST_SERVERS: usize = 3;
    const MOST_SEARCHES: usize = 32;
    const LONGEST_SEARCH: usize = 2048;
    let (dns, at) = (&spec["dnsConfig"], path.child("dnsConfig"));
    let servers = items(dns, "nameservers").count();
    if text(spec, "dnsPolicy") == "None" {
        if !dns.is_object() {
            errors.required(&at, "must provide `dnsConfig` when `dnsPolicy` is None");
            return;
        }
        if servers == 0 {
            let words = "must provide at least one DNS nameserver when `dnsPolicy` is None";
            errors.required(&at.child("nameservers"), words);
        }
    }
    if servers > MOST_SERVERS {
        let words = format!("must not have more than {MOST_SERVERS} nameservers");
        errors.invalid(&at.child("nameservers"), &dns["nameservers"], words);
    }
    for (i, server) in items(dns, "nameservers").enumerate() {
        let at = at.child("nameservers").index(i);
        check::ip(server.as_str().unwrap_or_default(), &at, errors);
    }
    let searches: Vec<&str> = items(dns, "searches").filter_map(Value::as_str).collect();
    let place = at.child("searches");
    if searches.len() > MOST_SEARCHES {
        let words = format!("must not have more than {MOST_SEARCHES} search paths");
        errors.invalid(&place, &dns["searches"], words);
    }
    if searches.join(" ").len() > LONGEST_SEARCH {
        let words =
            format!("must not have more than {LONGEST_SEARCH} characters (including spaces) in the search list");
        errors.invalid(&place, &dns["searches"], words);
    }
    for (i, search) in searches.iter().enumerate() {
        // A name may be written as absolute, and may have underscores.
        let plain = search.strip_suffix('.').unwrap_or(search).replace('_', "a");
        if *search != "." {
            for problem in names::dns1123_subdomain(&plain) {
                errors.invalid(&place.index(i), quoted(search), problem);
            }
        }
    }
    for (i, option) in items(dns, "options").enumerate() {
        if text(option, "name").is_empty() {
            errors.required(&at.child("options").index(i), "must not be empty");
        }
    }
}

fn check_aliases(spec: &Value, path: &Path, errors: &mut ErrorList) {
    for alias in items(spec, "hostAliases") {
        let at = path.child("hostAliases");
        check::ip(text(alias, "ip"), &at.child("ip"), errors);
        for host in items(alias, "hostnames").filter_map(Value::as_str) {
            named(host, names::dns1123_subdomain, &at.child("hostnames"), errors);
        }
    }
}

fn check_gates(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, gate) in items(spec, "schedulingGates").enumerate() {
        let (name, at) = (text(gate, "name"), path.index(i));
        named(name, names::qualified_name, &at, errors);
        if !seen.insert(name) {
            errors.duplicate(&at, quoted(name));
        }
    }
    if !seen.is_empty() && !text(spec, "nodeName").is_empty() {
        errors.forbidden(
            &Path::new("spec").child("nodeName"),
            "cannot be set until all schedulingGates have been cleared",
        );
    }
}

fn check_claims(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, claim) in items(spec, "resourceClaims").enumerate() {
        let at = path.index(i);
        let name = text(claim, "name");
        check::required_name(claim, "name", names::dns1123_label, &at, errors);
        if !name.is_empty() && !seen.insert(name) {
            errors.duplicate(&at.child("name"), quoted(name));
        }
        match (has(claim, "resourceClaimName"), has(claim, "resourceClaimTemplateName")) {
            (true, true) => errors.invalid(
                &at,
                show(claim),
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            ),
            (false, false) => errors.invalid(
                &at,
                show(claim),
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            ),
            _ => {}
        }
    }
}
