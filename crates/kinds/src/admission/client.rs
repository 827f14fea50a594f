//! Where a webhook is called: a URL, or a Service. Must not call it.

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::PORT_RANGE;
use crate::edit::text;

/// Checks a webhook's URL: https, a host, and a path.
pub(crate) fn check_url(url: &str, path: &Path, errors: &mut ErrorList) {
    const FORM: &str = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(
            path,
            quoted(scheme),
            format!("'https' is the only allowed URL scheme{FORM}"),
        );
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = if scheme.is_empty() {
        ""
    } else {
        rest.split('/').next().unwrap_or_default()
    };
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    if host.is_empty() {
        errors.invalid(path, quoted(host), format!("host must be specified{FORM}"));
    }
    for (part, words) in [
        (user, "user information is not permitted in the URL"),
        (fragment, "fragments are not permitted in the URL"),
        (query, "query parameters are not permitted in the URL"),
    ] {
        if !part.is_empty() {
            errors.invalid(path, quoted(part), words);
        }
    }
}

/// Checks a webhook's Service.
pub(crate) fn check_service(service: &Value, path: &Path, errors: &mut ErrorList) {
    if text(service, "name").is_empty() {
        errors.required(&path.child("name"), "service name is required");
    }
    if text(service, "namespace").is_empty() {
        errors.required(&path.child("namespace"), "service namespace is required");
    }
    let port = service["port"].as_i64().unwrap_or(443);
    if !(1..=65_535).contains(&port) {
        errors.invalid(&path.child("port"), port, format!("port is not valid: {PORT_RANGE}"));
    }
    check_path(text(service, "path"), &path.child("path"), errors);
}

fn check_path(given: &str, path: &Path, errors: &mut ErrorList) {
    if matches!(given, "" | "/") {
        return;
    }
    if given == "//" {
        return errors.invalid(path, quoted(given), "segment[0] may not be empty");
    }
    if !given.starts_with('/') {
        errors.invalid(path, quoted(given), "must start with a '/'");
    }
    let rest = given.strip_prefix('/').unwrap_or(given);
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    for (i, step) in rest.split('/').enumerate() {
        if step.is_empty() {
            errors.invalid(path, quoted(given), format!("segment[{i}] may not be empty"));
            continue;
        }
        for problem in names::dns1123_subdomain(step) {
            errors.invalid(path, quoted(given), format!("segment[{i}]: {problem}"));
        }
    }
}
