//! Checks of probes and lifecycle hooks.

use meta::field::{ErrorList, Path, quoted};
use serde_json::Value;

use crate::check::{self, any, has, not_negative, one_of};
use crate::edit::{int, items, text};

/// Checks a probe of a container.
pub(super) fn check_probe(probe: &Value, name: &str, grace: i64, at: &Path, errors: &mut ErrorList) {
    check_handler(probe, &["exec", "httpGet", "tcpSocket", "grpc"], grace, at, errors);
    not_negative(
        probe,
        &[
            "initialDelaySeconds",
            "timeoutSeconds",
            "periodSeconds",
            "successThreshold",
            "failureThreshold",
        ],
        at,
        errors,
    );
    let place = at.child("terminationGracePeriodSeconds");
    if let Some(n) = probe["terminationGracePeriodSeconds"].as_i64() {
        if name == "readinessProbe" {
            errors.invalid(&place, n, "must not be set for readinessProbes");
        } else if n <= 0 {
            errors.invalid(&place, n, "must be greater than 0");
        }
    }
    let successes = int(probe, "/successThreshold");
    if name != "readinessProbe" && successes != 1 && has(probe, "successThreshold") {
        errors.invalid(&at.child("successThreshold"), successes, "must be 1");
    }
}

/// Checks a lifecycle hook.
pub(super) fn check_hook(hook: &Value, grace: i64, at: &Path, errors: &mut ErrorList) {
    check_handler(hook, &["exec", "httpGet", "tcpSocket", "sleep"], grace, at, errors);
}

fn check_handler(handler: &Value, kinds: &[&str], grace: i64, at: &Path, errors: &mut ErrorList) {
    let mut first = true;
    for kind in kinds.iter().filter(|k| has(handler, k)) {
        let (action, at) = (&handler[*kind], at.child(kind));
        if !std::mem::take(&mut first) {
            errors.forbidden(&at, "may not specify more than 1 handler type");
            continue;
        }
        match *kind {
            "exec" => {
                if !any(action, "command") {
                    errors.required(&at.child("command"), "");
                }
            }
            "httpGet" => check_get(action, &at, errors),
            "sleep" => {
                let seconds = int(action, "/seconds");
                if seconds < 0 || seconds > grace {
                    let words = format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                    errors.invalid(&at, seconds, words);
                }
            }
            _ => check::port(&action["port"], &at.child("port"), errors),
        }
    }
    if first {
        errors.required(at, "must specify a handler type");
    }
}

fn check_get(get: &Value, at: &Path, errors: &mut ErrorList) {
    if text(get, "path").is_empty() {
        errors.required(&at.child("path"), "");
    }
    check::port(&get["port"], &at.child("port"), errors);
    one_of(get, "scheme", &["HTTP", "HTTPS"], at, errors);
    for header in items(get, "httpHeaders") {
        let name = text(header, "name");
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
            errors.invalid(
                &at.child("httpHeaders"),
                quoted(name),
                "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used \
                 for validation is '[-A-Za-z0-9]+')",
            );
        }
    }
}
