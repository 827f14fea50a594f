//! Service.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use meta::names;
use serde_json::{Value, json};

use super::service_checks::{check_spec, is_external};
use crate::columns::{AGE, age, column, labels, text_or_none, wide};
use crate::edit::{default, default_text, drop, items, items_mut, object, set, text};
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy, Subresource};

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

impl Strategy for Service {
    fn prepare_update(&self, _: &Context<'_>, new: &mut Value, old: &Value) {
        drop_of_old_type(new, old);
    }

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
        if is_external(spec) {
            default_text(spec, "externalTrafficPolicy", "Cluster");
        }
        if kind == "LoadBalancer" {
            default(spec, "allocateLoadBalancerNodePorts", true);
        }
        default(service, "status", json!({"loadBalancer": {}}));
    }

    fn validate_create(&self, service: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check_spec(&service["spec"], &Path::new("spec"), &mut errors);
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
        let class = |s: &Value| s["spec"]["loadBalancerClass"].clone();
        let balanced = |s: &Value| text(&s["spec"], "type") == "LoadBalancer";
        if balanced(new) && balanced(old) && class(new) != class(old) {
            let at = Path::new("spec").child("loadBalancerClass");
            errors.invalid(&at, class(new), "may not change once set");
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

/// Who changes the type does not have to take away what only the old type could have.
fn drop_of_old_type(new: &mut Value, old: &Value) {
    let was = &old["spec"];
    let Some(spec) = new.get_mut("spec").filter(|s| s.is_object()) else {
        return;
    };
    let kind = |s: &Value| text(s, "type").to_owned();
    let inside = |s: &Value| kind(s) != "ExternalName";
    let balanced = |s: &Value| kind(s) == "LoadBalancer";
    let on_nodes = |s: &Value| matches!(text(s, "type"), "NodePort" | "LoadBalancer");
    let mut gone: Vec<&str> = Vec::new();
    if inside(was) && !inside(spec) {
        gone.extend([
            "clusterIP",
            "clusterIPs",
            "ipFamilies",
            "ipFamilyPolicy",
            "internalTrafficPolicy",
        ]);
    }
    if is_external(was) && !is_external(spec) {
        gone.push("externalTrafficPolicy");
    }
    if balanced(was) && !balanced(spec) {
        gone.extend([
            "allocateLoadBalancerNodePorts",
            "loadBalancerClass",
            "healthCheckNodePort",
        ]);
    }
    for field in gone {
        if spec.get(field) == was.get(field) {
            drop(spec, field);
        }
    }
    if on_nodes(was) && !on_nodes(spec) {
        let known = |port: &Value| items(was, "ports").any(|p| p["nodePort"] == port["nodePort"]);
        items_mut(spec, "ports")
            .filter(|p| known(p))
            .for_each(|p| drop(p, "nodePort"));
    }
}

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let own: Vec<&str> = items(spec, "externalIPs").filter_map(Value::as_str).collect();
    match text(spec, "type") {
        "ExternalName" => text(spec, "externalName").to_owned(),
        "LoadBalancer" => {
            // Clients that ask for tables do not say how wide: what is cut would be lost.
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
        let two = json!({"spec": {"ports": [{"port": 80}, {"port": 80, "name": "b"}]}});
        for (edit, words) in [
            (two["spec"].clone(), "spec.ports[0].name: Required value"),
            (two["spec"].clone(), "spec.ports[1]: Duplicate value"),
            (json!({"ports": []}), "spec.ports: Required value"),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"type": "X", "ports": [{"port": 1}]}),
                "spec.type: Unsupported value: \"X\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
            ),
            (json!({"type": "ExternalName"}), "spec.externalName: Required value"),
            (
                json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]}),
                "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
            ),
            (
                json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
            ),
            (
                json!({"ports": [{"port": 1}], "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}}),
                "must be greater than 0 and less than 86400",
            ),
            (
                json!({"ports": [{"port": 1}], "loadBalancerClass": "a/b"}),
                "spec.loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'",
            ),
            (
                json!({"ports": [{"port": 1}], "externalIPs": ["127.0.0.1"]}),
                "may not be in the loopback range (127.0.0.0/8, ::1/128)",
            ),
            (
                json!({"ports": [{"port": 1}], "externalTrafficPolicy": "Local"}),
                "may only be set for externally-accessible services",
            ),
            (
                json!({"ports": [{"port": 1}], "internalTrafficPolicy": "X"}),
                "spec.internalTrafficPolicy: Unsupported value: \"X\": supported values: \"Cluster\", \"Local\"",
            ),
        ] {
            let mut service = json!({"spec": edit});
            Service.default(&mut service);
            crate::check::expect(&Service.validate_create(&service), words);
        }
    }

    #[test]
    fn a_change_of_type_leaves_nothing_behind() {
        let mut old = json!({"spec": {"type": "LoadBalancer", "clusterIP": "10.0.0.1", "ports": [{"port": 80, "nodePort": 30000}]}});
        Service.default(&mut old);
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        let context = Context {
            now: Timestamp::UNIX_EPOCH,
            namespace: "n",
            user: "u",
        };
        Service.prepare_update(&context, &mut new, &old);
        Service.default(&mut new);
        let errors = Service.validate_update(&new, &old);
        assert!(errors.is_empty(), "{errors}");
        assert!(new["spec"]["ports"][0].get("nodePort").is_none());
    }
}
