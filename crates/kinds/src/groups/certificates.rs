//! CertificateSigningRequest.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::certificates::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{any, required};
use crate::columns::{AGE, age, column, text_or_none};
use crate::edit::{items, set, text};
use crate::plain::names as kind_names;
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        subresources: const {
            &[
                Subresource::Status,
                Subresource::Custom("approval", "CertificateSigningRequest", &["get", "patch", "update"]),
            ]
        },
        ..kind_names(
            "certificates.k8s.io",
            "v1",
            "CertificateSigningRequest",
            "certificatesigningrequests",
            "certificatesigningrequest",
            &["csr"],
        )
        .with(
            typed::<v1::CertificateSigningRequest>,
            const {
                &[
                    AGE,
                    column("SignerName", "string"),
                    column("Requestor", "string"),
                    column("RequestedDuration", "string"),
                    column("Condition", "string"),
                ]
            },
            &Request,
        )
        .cluster()
        .fields(&["spec.signerName"])
    }
}

struct Request;

const SHORTEST: i64 = 600;

impl Strategy for Request {
    fn prepare_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        // What was asked for is judged as it was asked.
        if let Some(spec) = old.get("spec") {
            set(new, "spec", spec.clone());
        }
    }

    fn validate_create(&self, request: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&request["spec"], Path::new("spec"));
        required(spec, "request", &path, &mut errors);
        if !any(spec, "usages") {
            errors.required(&path.child("usages"), "usages must contain at least one value");
        }
        let mut seen = BTreeSet::new();
        for (i, usage) in items(spec, "usages").enumerate() {
            let usage = usage.as_str().unwrap_or_default();
            if !seen.insert(usage) {
                errors.duplicate(&path.child("usages").index(i), quoted(usage));
            }
        }
        check_signer(text(spec, "signerName"), &path.child("signerName"), &mut errors);
        if let Some(n) = spec["expirationSeconds"].as_i64().filter(|n| *n < SHORTEST) {
            let words = format!("may not specify a duration less than {SHORTEST} seconds");
            errors.invalid(&path.child("expirationSeconds"), n, words);
        }
        errors
    }

    fn validate_status_update(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("status").child("conditions");
        let mut seen = BTreeSet::new();
        for (i, condition) in items(&new["status"], "conditions").enumerate() {
            let (kind, status, at) = (text(condition, "type"), text(condition, "status"), path.index(i));
            required(condition, "type", &at, &mut errors);
            let place = at.child("status");
            match (kind, status) {
                (_, "") => errors.required(&place, ""),
                ("Approved" | "Denied" | "Failed", "True") => {}
                ("Approved" | "Denied" | "Failed", other) => errors.not_supported(&place, other, &["True"]),
                _ => {}
            }
            if !seen.insert(kind) {
                errors.duplicate(&at.child("type"), quoted(kind));
            }
        }
        if seen.contains("Approved") && seen.contains("Denied") {
            let words = "Approved and Denied conditions are mutually exclusive";
            errors.invalid(&path, &new["status"]["conditions"], words);
        }
        errors
    }

    fn row(&self, request: &Value, now: Timestamp) -> Vec<Cell> {
        let status = &request["status"];
        let is = |kind: &str| items(status, "conditions").any(|c| text(c, "type") == kind);
        let mut state = match (is("Denied"), is("Approved")) {
            (true, _) => "Denied",
            (false, true) => "Approved",
            (false, false) => "Pending",
        }
        .to_owned();
        if is("Failed") {
            state.push_str(",Failed");
        }
        if !text(status, "certificate").is_empty() {
            state.push_str(",Issued");
        }
        let duration = match request["spec"]["expirationSeconds"].as_i64() {
            Some(n) => meta::time::human_duration(n),
            None => "<none>".to_owned(),
        };
        vec![
            age(request, now),
            text_or_none(request, "/spec/signerName"),
            text(&request["spec"], "username").into(),
            duration.into(),
            state.into(),
        ]
    }
}

fn check_signer(name: &str, at: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        return errors.required(at, "");
    }
    let Some((domain, path)) = name.split_once('/').filter(|(_, path)| !path.is_empty()) else {
        let words = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
        return errors.invalid(at, quoted(name), words);
    };
    for problem in names::dns1123_subdomain(domain) {
        let words = format!("validating label {}: {problem}", quoted(domain));
        errors.invalid(at, quoted(domain), words);
    }
    if domain.split('.').count() < 2 {
        errors.invalid(
            at,
            quoted(domain),
            "should be a domain with at least two segments separated by dots",
        );
    }
    for problem in names::dns1123_subdomain(path) {
        errors.invalid(at, quoted(path), problem);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn requests() {
        let good = json!({"spec": {"request": "eA==", "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"],
            "expirationSeconds": 3600, "username": "u"}});
        assert!(Request.validate_create(&good).is_empty());
        assert_eq!(
            Request.row(&good, Timestamp::UNIX_EPOCH)[2..],
            [json!("u"), json!("60m"), json!("Pending")]
        );
        let bad = json!({"spec": {"signerName": "x", "expirationSeconds": 1}});
        let errors = Request.validate_create(&bad);
        expect(&errors, "spec.request: Required value");
        expect(
            &errors,
            "spec.usages: Required value: usages must contain at least one value",
        );
        expect(
            &errors,
            "must be a fully qualified domain and path of the form 'example.com/signer-name'",
        );
        expect(&errors, "may not specify a duration less than 600 seconds");
        let both = json!({"status": {"conditions": [{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "False"}]}});
        let errors = Request.validate_status_update(&both, &good);
        expect(
            &errors,
            "status.conditions[1].status: Unsupported value: \"False\": supported values: \"True\"",
        );
        expect(&errors, "Approved and Denied conditions are mutually exclusive");
    }
}
