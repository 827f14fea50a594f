//! Checks of a PodSpec, with upstream's paths and words.

use std::collections::BTreeSet;

use meta::field::{ErrorKind, ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::edit::{items, text};

/// Checks `spec.template` against `spec.selector`.
pub(crate) fn validate_template(spec: &Value, path: &Path, restart: &[&str], errors: &mut ErrorList) {
    let (selector, template) = (path.child("selector"), path.child("template"));
    match spec.get("selector") {
        None | Some(Value::Null) => errors.required(&selector, ""),
        Some(value) => match meta::LabelSelector::from_object(value) {
            Err(e) => errors.invalid(&selector, "\"\"", e.to_string()),
            Ok(s) if s.is_everything() => errors.invalid(&selector, value, "empty selector is invalid for deployment"),
            Ok(s) => {
                let labels = spec
                    .pointer("/template/metadata/labels")
                    .cloned()
                    .unwrap_or(Value::Null);
                let map = labels.as_object().into_iter().flatten();
                let map = map
                    .map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned()))
                    .collect();
                if !s.matches(&map) {
                    let at = template.child("metadata").child("labels");
                    errors.invalid(&at, labels, "`selector` does not match template `labels`");
                }
            }
        },
    }
    let empty = Value::Null;
    let pod = spec.pointer("/template/spec").unwrap_or(&empty);
    let at = template.child("spec");
    validate_spec(pod, &at, errors);
    let policy = text(pod, "restartPolicy");
    if !policy.is_empty() && !restart.contains(&policy) {
        errors.not_supported(&at.child("restartPolicy"), policy, restart);
    }
}

/// Checks a PodSpec.
pub(crate) fn validate_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let volumes = validate_volumes(spec, path, errors);
    let containers = path.child("containers");
    if items(spec, "containers").next().is_none() {
        errors.required(&containers, "");
    }
    let mut seen = BTreeSet::new();
    for (list, is_init) in [
        ("initContainers", true),
        ("containers", false),
        ("ephemeralContainers", false),
    ] {
        for (i, c) in items(spec, list).enumerate() {
            let at = path.child(list).index(i);
            validate_container(c, &at, is_init, &volumes, errors);
            let name = text(c, "name");
            if !name.is_empty() && !seen.insert(name.to_owned()) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
    }
    one_of(spec, "restartPolicy", &["Always", "OnFailure", "Never"], path, errors);
    one_of(
        spec,
        "dnsPolicy",
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        path,
        errors,
    );
    if spec
        .get("terminationGracePeriodSeconds")
        .and_then(Value::as_i64)
        .is_some_and(|n| n < 0)
    {
        let n = spec["terminationGracePeriodSeconds"].clone();
        errors.invalid(
            &path.child("terminationGracePeriodSeconds"),
            n,
            "must be greater than or equal to 0",
        );
    }
    if let Some(n) = spec
        .get("activeDeadlineSeconds")
        .and_then(Value::as_i64)
        .filter(|n| *n < 1)
    {
        errors.invalid(
            &path.child("activeDeadlineSeconds"),
            n,
            "must be between 1 and 2147483647, inclusive",
        );
    }
    for field in ["hostname", "subdomain"] {
        let value = text(spec, field);
        for message in Some(value)
            .filter(|v| !v.is_empty())
            .map(names::dns1123_label)
            .into_iter()
            .flatten()
        {
            errors.invalid(&path.child(field), quoted(value), message);
        }
    }
    for (i, toleration) in items(spec, "tolerations").enumerate() {
        let at = path.child("tolerations").index(i);
        one_of(toleration, "operator", &["Equal", "Exists", "Lt", "Gt"], &at, errors);
        one_of(
            toleration,
            "effect",
            &["NoSchedule", "PreferNoSchedule", "NoExecute"],
            &at,
            errors,
        );
        if text(toleration, "operator") == "Exists" && !text(toleration, "value").is_empty() {
            errors.invalid(
                &at.child("operator"),
                quoted("Exists"),
                "value must be empty when `operator` is 'Exists'",
            );
        }
    }
}

fn one_of(object: &Value, field: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    let value = text(object, field);
    if !value.is_empty() && !allowed.contains(&value) {
        errors.not_supported(&path.child(field), value, allowed);
    }
}

fn validate_volumes(spec: &Value, path: &Path, errors: &mut ErrorList) -> BTreeSet<String> {
    let mut names_seen = BTreeSet::new();
    for (i, volume) in items(spec, "volumes").enumerate() {
        let at = path.child("volumes").index(i);
        let name = text(volume, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else {
            for message in names::dns1123_label(name) {
                errors.invalid(&at.child("name"), quoted(name), message);
            }
            if !names_seen.insert(name.to_owned()) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        let sources: Vec<&String> = volume
            .as_object()
            .into_iter()
            .flatten()
            .map(|(k, _)| k)
            .filter(|k| *k != "name")
            .collect();
        match sources.as_slice() {
            [] => errors.required(&at, "must specify a volume type"),
            [_] => {}
            [_, second, ..] => errors.forbidden(&at.child(second), "may not specify more than 1 volume type"),
        }
        if volume
            .get("persistentVolumeClaim")
            .is_some_and(|c| text(c, "claimName").is_empty())
        {
            errors.required(&at.child("persistentVolumeClaim").child("claimName"), "");
        }
        if volume.get("hostPath").is_some_and(|h| text(h, "path").is_empty()) {
            errors.required(&at.child("hostPath").child("path"), "");
        }
    }
    names_seen
}

fn validate_container(c: &Value, at: &Path, is_init: bool, volumes: &BTreeSet<String>, errors: &mut ErrorList) {
    let name = text(c, "name");
    if name.is_empty() {
        errors.required(&at.child("name"), "");
    } else {
        for message in names::dns1123_label(name) {
            errors.invalid(&at.child("name"), quoted(name), message);
        }
    }
    let image = text(c, "image");
    if image.is_empty() {
        errors.required(&at.child("image"), "");
    } else if image.trim() != image {
        errors.invalid(
            &at.child("image"),
            quoted(image),
            "must not have leading or trailing whitespace",
        );
    }
    one_of(c, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], at, errors);
    one_of(
        c,
        "terminationMessagePolicy",
        &["File", "FallbackToLogsOnError"],
        at,
        errors,
    );
    validate_ports(c, at, errors);
    for (i, variable) in items(c, "env").enumerate() {
        let at = at.child("env").index(i);
        let name = text(variable, "name");
        if name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if name.contains('=') {
            errors.invalid(
                &at.child("name"),
                quoted(name),
                "a valid environment variable name must consist only of printable ASCII characters other than '='",
            );
        }
        if !text(variable, "value").is_empty() && variable.get("valueFrom").is_some_and(|v| !v.is_null()) {
            errors.invalid(
                &at.child("valueFrom"),
                "\"\"",
                "may not be specified when `value` is not empty",
            );
        }
    }
    let mut mounted = BTreeSet::new();
    for (field, target) in [("volumeMounts", "mountPath"), ("volumeDevices", "devicePath")] {
        for (i, mount) in items(c, field).enumerate() {
            let at = at.child(field).index(i);
            let volume = text(mount, "name");
            if volume.is_empty() {
                errors.required(&at.child("name"), "");
            } else if !volumes.contains(volume) {
                errors.not_found(&at.child("name"), quoted(volume));
            }
            let place = text(mount, target);
            if place.is_empty() {
                errors.required(&at.child(target), "");
            } else if !mounted.insert(place.to_owned()) {
                errors.invalid(&at.child(target), quoted(place), "must be unique");
            }
        }
    }
    validate_resources(c, at, errors);
    let sidecar = is_init && text(c, "restartPolicy") == "Always";
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        let Some(value) = c.get(probe).filter(|p| !p.is_null()) else {
            continue;
        };
        if is_init && !sidecar {
            errors.forbidden(
                &at.child(probe),
                "may not be set for init containers without restartPolicy=Always",
            );
        } else {
            validate_handler(value, &at.child(probe), errors);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(handler) = c.pointer(&format!("/lifecycle/{hook}")).filter(|h| !h.is_null()) {
            validate_handler(handler, &at.child("lifecycle").child(hook), errors);
        }
    }
}

fn validate_ports(c: &Value, at: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, port) in items(c, "ports").enumerate() {
        let at = at.child("ports").index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            if name.len() > 15 {
                errors.invalid(&at.child("name"), quoted(name), "must be no more than 15 characters");
            } else if !names::is_label(name) || !name.bytes().any(|b| b.is_ascii_lowercase()) {
                errors.invalid(
                    &at.child("name"),
                    quoted(name),
                    "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                );
            } else if !seen.insert(name.to_owned()) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        match port.get("containerPort").and_then(Value::as_i64) {
            None => errors.required(&at.child("containerPort"), ""),
            Some(n) if !(1..=65_535).contains(&n) => {
                errors.invalid(&at.child("containerPort"), n, "must be between 1 and 65535, inclusive");
            }
            Some(_) => {}
        }
        one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
}

fn validate_resources(c: &Value, at: &Path, errors: &mut ErrorList) {
    let at = at.child("resources");
    let parse = |v: &Value| -> Option<meta::Quantity> {
        match v {
            Value::String(s) => s.parse().ok(),
            other => other.to_string().parse().ok(),
        }
    };
    for kind in ["limits", "requests"] {
        let map = c.pointer(&format!("/resources/{kind}")).and_then(Value::as_object);
        for (name, value) in map.into_iter().flatten() {
            let at = at.child(kind).key(name);
            match parse(value) {
                None => errors.add(
                    ErrorKind::Invalid,
                    &at,
                    value,
                    "must be a quantity such as 500m or 128Mi",
                ),
                Some(q) if q.is_negative() => {
                    errors.invalid(&at, quoted(&q.to_string()), "must be greater than or equal to 0");
                }
                Some(request) if kind == "requests" => {
                    let limit = c.pointer("/resources/limits").and_then(|l| l.get(name)).and_then(parse);
                    if let Some(limit) = limit.filter(|l| request > *l) {
                        let words = format!("must be less than or equal to {name} limit of {limit}");
                        errors.invalid(&at, quoted(&request.to_string()), words);
                    }
                }
                Some(_) => {}
            }
        }
    }
}

fn validate_handler(handler: &Value, at: &Path, errors: &mut ErrorList) {
    let kinds = ["exec", "httpGet", "tcpSocket", "grpc", "sleep"];
    let given: Vec<&str> = kinds
        .into_iter()
        .filter(|k| handler.get(k).is_some_and(|v| !v.is_null()))
        .collect();
    match given.as_slice() {
        [] => errors.required(at, "must specify a handler type"),
        [_] => {}
        [_, second, ..] => errors.forbidden(&at.child(second), "may not specify more than 1 handler type"),
    }
    if handler
        .get("exec")
        .is_some_and(|e| items(e, "command").next().is_none())
    {
        errors.required(&at.child("exec").child("command"), "");
    }
    for field in [
        "timeoutSeconds",
        "periodSeconds",
        "successThreshold",
        "failureThreshold",
        "initialDelaySeconds",
    ] {
        if let Some(n) = handler.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
            errors.invalid(&at.child(field), n, "must be greater than or equal to 0");
        }
    }
    if !at.as_str().ends_with("readinessProbe")
        && at.as_str().ends_with("Probe")
        && handler
            .get("successThreshold")
            .and_then(Value::as_i64)
            .is_some_and(|n| n > 1)
    {
        errors.invalid(
            &at.child("successThreshold"),
            handler["successThreshold"].clone(),
            "must be 1",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(spec: Value) -> String {
        let mut errors = ErrorList::new();
        validate_spec(&spec, &Path::new("spec"), &mut errors);
        errors.to_string()
    }

    #[test]
    fn errors_name_field_and_reason() {
        let container = |c: Value| json!({"containers": [c]});
        for (spec, words) in [
            (json!({}), "spec.containers: Required value"),
            (
                container(json!({"name": "a"})),
                "spec.containers[0].image: Required value",
            ),
            (
                container(json!({"name": "A", "image": "i"})),
                "spec.containers[0].name: Invalid value: \"A\"",
            ),
            (
                container(json!({"name": "a", "image": "i", "ports": [{"containerPort": 0}]})),
                "spec.containers[0].ports[0].containerPort: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                container(json!({"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]})),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                container(
                    json!({"name": "a", "image": "i", "resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}),
                ),
                "spec.containers[0].resources.requests[cpu]: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                container(json!({"name": "a", "image": "i", "livenessProbe": {}})),
                "spec.containers[0].livenessProbe: Required value: must specify a handler type",
            ),
        ] {
            let errors = check(spec);
            assert!(errors.contains(words), "{words} not in {errors}");
        }
        assert_eq!(check(container(json!({"name": "a", "image": "i"}))), "[]");
    }
}
