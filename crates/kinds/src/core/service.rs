//! Service.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Value, json};

use crate::columns::{AGE, age, column, labels, text_or_none, wide};
use crate::edit::{default, default_text, drop, items, items_mut, object, set, text};
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const {
            &[
                Subresource::Status,
                Subresource::Custom(
                    "proxy",
                    "ServiceProxyOptions",
                    &["create", "delete", "get", "patch", "update"],
                ),
            ]
        },
        selectable_fields: &["spec.clusterIP", "spec.type"],
        ..super::core_kind("Service", "services", "service", &["svc"]).with(
            typed::<v1::Service>,
            const {
                &[
                    column("Type", "string"),
                    column("Cluster-IP", "string"),
                    column("External-IP", "string"),
                    column("Port(s)", "string"),
                    AGE,
                    wide("Selector", "string"),
                ]
            },
            &Service,
        )
    }
}

struct Service;

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];

impl Strategy for Service {
    fn default(&self, service: &mut Value) {
        let Some(spec) = object(service, "spec") else { return };
        default_text(spec, "type", "ClusterIP");
        default_text(spec, "sessionAffinity", "None");
        let kind = text(spec, "type").to_owned();
        if text(spec, "sessionAffinity") == "ClientIP" {
            default(
                spec,
                "sessionAffinityConfig",
                json!({"clientIP": {"timeoutSeconds": 10_800}}),
            );
        } else {
            drop(spec, "sessionAffinityConfig");
        }
        for port in items_mut(spec, "ports") {
            default_text(port, "protocol", "TCP");
            if let Some(number) = port.get("port").cloned() {
                let unset = port
                    .get("targetPort")
                    .is_none_or(|t| t.is_null() || *t == 0 || *t == "");
                if unset {
                    set(port, "targetPort", number);
                }
            }
        }
        if kind != "ExternalName" {
            default_text(spec, "internalTrafficPolicy", "Cluster");
            default_text(spec, "ipFamilyPolicy", "SingleStack");
            default(spec, "ipFamilies", json!(["IPv4"]));
        }
        if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        default(service, "status", json!({"loadBalancer": {}}));
    }

    fn validate_create(&self, service: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate(&service["spec"], &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        let (is, was) = (text(&new["spec"], "clusterIP"), text(&old["spec"], "clusterIP"));
        let external = |s: &Value| text(&s["spec"], "type") == "ExternalName";
        if !was.is_empty() && is != was && !external(new) && !external(old) {
            let at = Path::new("spec").child("clusterIPs").index(0);
            errors.invalid(&at, json!([is]), "may not change once set");
        }
        errors
    }

    fn validate_name(&self, name: &str) -> Vec<String> {
        names::dns1035_label(name)
    }

    fn row(&self, service: &Value, now: Timestamp) -> Vec<Cell> {
        let spec = &service["spec"];
        let ports: Vec<String> = items(spec, "ports")
            .map(|p| {
                let (port, protocol) = (&p["port"], text(p, "protocol"));
                match p["nodePort"].as_i64().unwrap_or(0) {
                    0 => format!("{port}/{protocol}"),
                    node => format!("{port}:{node}/{protocol}"),
                }
            })
            .collect();
        let ports = if ports.is_empty() {
            "<none>".to_owned()
        } else {
            ports.join(",")
        };
        vec![
            text_or_none(service, "/spec/type"),
            text_or_none(service, "/spec/clusterIP"),
            external_ip(service).into(),
            ports.into(),
            age(service, now),
            labels(spec.get("selector")).into(),
        ]
    }
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let own: Vec<&str> = items(spec, "externalIPs").filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            let given = items(&service["status"]["loadBalancer"], "ingress");
            let mut all: Vec<&str> = given
                .map(|i| {
                    if text(i, "ip").is_empty() {
                        text(i, "hostname")
                    } else {
                        text(i, "ip")
                    }
                })
                .collect();
            all.extend(own);
            if all.is_empty() {
                "<pending>".to_owned()
            } else {
                all.join(",")
            }
        }
        _ if own.is_empty() => "<none>".to_owned(),
        _ => own.join(","),
    }
}

fn validate(spec: &Value, errors: &mut ErrorList) {
    let path = Path::new("spec");
    let kind = text(spec, "type");
    if !TYPES.contains(&kind) {
        errors.not_supported(&path.child("type"), kind, &TYPES);
    }
    let headless = text(spec, "clusterIP") == "None";
    if kind == "ExternalName" {
        if text(spec, "externalName").is_empty() {
            errors.required(&path.child("externalName"), "");
        }
    } else if items(spec, "ports").next().is_none() && !headless {
        errors.required(&path.child("ports"), "");
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.invalid(
            &path.child("clusterIPs").index(0),
            quoted("None"),
            format!("may not be set to 'None' for {kind} services"),
        );
    }
    let affinity = text(spec, "sessionAffinity");
    if !["ClientIP", "None"].contains(&affinity) {
        errors.not_supported(&path.child("sessionAffinity"), affinity, &["ClientIP", "None"]);
    }
    let (mut seen_names, mut seen_ports) = (BTreeSet::new(), BTreeSet::new());
    let several = items(spec, "ports").count() > 1;
    for (i, port) in items(spec, "ports").enumerate() {
        let at = path.child("ports").index(i);
        let name = text(port, "name");
        if name.is_empty() {
            if several {
                errors.required(&at.child("name"), "");
            }
        } else {
            for message in names::dns1123_label(name) {
                errors.invalid(&at.child("name"), quoted(name), message);
            }
            if !seen_names.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        match port.get("port").and_then(Value::as_i64) {
            Some(n) if (1..=65_535).contains(&n) => {}
            n => errors.invalid(
                &at.child("port"),
                n.unwrap_or(0),
                "must be between 1 and 65535, inclusive",
            ),
        }
        if !["SCTP", "TCP", "UDP"].contains(&text(port, "protocol")) {
            errors.not_supported(&at.child("protocol"), text(port, "protocol"), &["SCTP", "TCP", "UDP"]);
        }
        if let Some(n) = port.get("targetPort").and_then(Value::as_i64)
            && !(1..=65_535).contains(&n)
        {
            errors.invalid(&at.child("targetPort"), n, "must be between 1 and 65535, inclusive");
        }
        let key = (text(port, "protocol"), port["port"].as_i64());
        if !seen_ports.insert(key) {
            errors.duplicate(&at, json!({"port": port["port"], "protocol": port["protocol"]}));
        }
        if kind == "ClusterIP" && port["nodePort"].as_i64().unwrap_or(0) != 0 {
            errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_and_checks() {
        let mut service = json!({"spec": {"ports": [{"port": 80}]}});
        Service.default(&mut service);
        assert_eq!(service["spec"]["ports"][0]["targetPort"], 80);
        assert_eq!(service["spec"]["type"], "ClusterIP");
        assert!(Service.validate_create(&service).is_empty());
        let two = json!({"spec": {"type": "ClusterIP", "sessionAffinity": "None",
            "ports": [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "TCP", "name": "b"}]}});
        let errors = Service.validate_create(&two).to_string();
        assert!(
            errors.contains("spec.ports[0].name: Required value") && errors.contains("spec.ports[1]: Duplicate value")
        );
    }
}
