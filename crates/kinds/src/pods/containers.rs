//! Checks of containers: regular, init and ephemeral ones.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use super::environment::check_environment;
use super::handlers::{check_hook, check_probe};
use super::mounts::check_mounts;
use super::resources::{check_resize, check_resources};
use super::security::check_security;
use super::volumes::Volumes;
use crate::check::{self, any, has, must_be_one_of, named, one_of, port_name, required_name};
use crate::edit::{int, items, text};

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Regular,
    Init,
    Sidecar,
    Ephemeral,
}

/// Checks all containers of a pod.
pub(super) fn check_containers(spec: &Value, path: &Path, is_pod: bool, volumes: &Volumes, errors: &mut ErrorList) {
    if !any(spec, "containers") {
        errors.required(&path.child("containers"), "");
    }
    let scope = Scope {
        spec,
        is_pod,
        volumes,
        grace: spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30),
    };
    let mut seen = BTreeSet::new();
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for (i, container) in items(spec, list).enumerate() {
            let at = path.child(list).index(i);
            let sort = match list {
                "containers" => Sort::Regular,
                "ephemeralContainers" => Sort::Ephemeral,
                _ if text(container, "restartPolicy") == "Always" => Sort::Sidecar,
                _ => Sort::Init,
            };
            scope.check(container, sort, &at, errors);
            let name = text(container, "name");
            if !name.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
    }
    for list in ["containers", "initContainers"] {
        check_host_ports(spec, list, path, is_pod, errors);
    }
}

struct Scope<'a> {
    spec: &'a Value,
    is_pod: bool,
    volumes: &'a Volumes,
    grace: i64,
}

impl Scope<'_> {
    fn check(&self, container: &Value, sort: Sort, at: &Path, errors: &mut ErrorList) {
        required_name(container, "name", names::dns1123_label, at, errors);
        let image = text(container, "image");
        if image.is_empty() {
            errors.required(&at.child("image"), "");
        } else if self.is_pod && image.trim() != image {
            let words = "must not have leading or trailing whitespace";
            errors.invalid(&at.child("image"), quoted(image), words);
        }
        must_be_one_of(
            container,
            "terminationMessagePolicy",
            &["FallbackToLogsOnError", "File"],
            at,
            errors,
        );
        must_be_one_of(
            container,
            "imagePullPolicy",
            &["Always", "IfNotPresent", "Never"],
            at,
            errors,
        );
        check_environment(container, at, errors);
        check_mounts(container, self.volumes, at, errors);
        let host_users = self.spec["hostUsers"] == false;
        check_security(
            &container["securityContext"],
            host_users,
            &at.child("securityContext"),
            errors,
        );
        if sort == Sort::Ephemeral {
            return self.check_ephemeral(container, at, errors);
        }
        check_ports(container, at, errors);
        check_resources(container, self.spec, at, errors);
        check_resize(container, at, errors);
        self.check_life(container, sort, at, errors);
        check_restarts(container, at, errors);
    }

    fn check_life(&self, container: &Value, sort: Sort, at: &Path, errors: &mut ErrorList) {
        const ONLY_SIDECARS: &str = "may not be set for init containers without restartPolicy=Always";
        if sort == Sort::Init {
            for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
                if has(container, field) {
                    errors.forbidden(&at.child(field), ONLY_SIDECARS);
                }
            }
            if any(container, "resizePolicy") {
                let words = "must not be set for init containers";
                errors.invalid(&at.child("resizePolicy"), &container["resizePolicy"], words);
            }
            return;
        }
        for hook in ["postStart", "preStop"] {
            let handler = &container["lifecycle"][hook];
            if handler.is_object() {
                check_hook(handler, self.grace, &at.child("lifecycle").child(hook), errors);
            }
        }
        for probe in PROBES {
            if has(container, probe) {
                check_probe(&container[probe], probe, self.grace, &at.child(probe), errors);
            }
        }
    }

    fn check_ephemeral(&self, container: &Value, at: &Path, errors: &mut ErrorList) {
        const FORBIDDEN: &str = "cannot be set for an Ephemeral Container";
        let target = text(container, "targetContainerName");
        let mut others = items(self.spec, "containers").chain(items(self.spec, "initContainers"));
        if !target.is_empty() && !others.any(|c| text(c, "name") == target) {
            errors.not_found(&at.child("targetContainerName"), quoted(target));
        }
        for field in ["ports", "lifecycle", "resources", "resizePolicy", "restartPolicy"]
            .iter()
            .chain(&PROBES)
        {
            let given = match container.get(field) {
                None | Some(Value::Null) => false,
                Some(Value::Object(map)) => !map.is_empty(),
                Some(Value::Array(list)) => !list.is_empty(),
                Some(_) => true,
            };
            if given {
                errors.forbidden(&at.child(field), FORBIDDEN);
            }
        }
        for (i, mount) in items(container, "volumeMounts").enumerate() {
            for field in ["subPath", "subPathExpr"] {
                if !text(mount, field).is_empty() {
                    errors.forbidden(&at.child("volumeMounts").index(i).child(field), FORBIDDEN);
                }
            }
        }
    }
}

fn check_restarts(container: &Value, at: &Path, errors: &mut ErrorList) {
    one_of(
        container,
        "restartPolicy",
        &["Always", "Never", "OnFailure"],
        at,
        errors,
    );
    if any(container, "restartPolicyRules") && text(container, "restartPolicy").is_empty() {
        let words = "must specify restartPolicy when restart rules are used";
        errors.required(&at.child("restartPolicy"), words);
    }
    for (i, rule) in items(container, "restartPolicyRules").enumerate() {
        let at = at.child("restartPolicyRules").index(i);
        must_be_one_of(rule, "action", &["Restart", "RestartAllContainers"], &at, errors);
        if !rule["exitCodes"].is_object() {
            errors.required(&at.child("exitCodes"), "must be specified");
        } else {
            let at = at.child("exitCodes");
            must_be_one_of(&rule["exitCodes"], "operator", &["In", "NotIn"], &at, errors);
        }
    }
}

fn check_ports(container: &Value, at: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, port) in items(container, "ports").enumerate() {
        let at = at.child("ports").index(i);
        let name = text(port, "name");
        if !name.is_empty() {
            let problems = port_name(name);
            if problems.is_empty() && !seen.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
            named(name, port_name, &at.child("name"), errors);
        }
        match int(port, "/containerPort") {
            0 => errors.required(&at.child("containerPort"), ""),
            n => check::port(&n.into(), &at.child("containerPort"), errors),
        }
        match int(port, "/hostPort") {
            0 => {}
            n => check::port(&n.into(), &at.child("hostPort"), errors),
        }
        if !text(port, "hostIP").is_empty() {
            check::ip(text(port, "hostIP"), &at.child("hostIP"), errors);
        }
        must_be_one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
    }
}

/// Ports of the node are taken once, and are the container's own on the node's network.
fn check_host_ports(spec: &Value, list: &str, path: &Path, is_pod: bool, errors: &mut ErrorList) {
    let mut taken = BTreeSet::new();
    let on_host = spec["hostNetwork"] == true;
    for (i, container) in items(spec, list).enumerate() {
        // Init containers run one after the other.
        if list == "initContainers" && text(container, "restartPolicy") != "Always" {
            taken.clear();
        }
        for (n, port) in items(container, "ports").enumerate() {
            let at = path.child(list).index(i).child("ports").index(n).child("hostPort");
            let (host, own) = (int(port, "/hostPort"), int(port, "/containerPort"));
            if on_host && (is_pod || host != 0) && host != own {
                errors.invalid(&at, host, "must match `containerPort` when `hostNetwork` is true");
            }
            let key = format!("{}/{}/{host}", text(port, "protocol"), text(port, "hostIP"));
            if host != 0 && !taken.insert(key.clone()) {
                errors.duplicate(&at, quoted(&key));
            }
        }
    }
}
