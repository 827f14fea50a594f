//! What Services must hold to.

use std::collections::BTreeSet;

use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::{Value, json};

use crate::check::{self, any, has, labels, must_be_one_of, named, one_of, required_name};
use crate::edit::{int, items, text};

const TYPES: [&str; 4] = ["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const ONLY_BALANCED: &str = "may only be used when `type` is 'LoadBalancer'";

/// Whether clients outside of the cluster can reach it.
pub(super) fn is_external(spec: &Value) -> bool {
    match text(spec, "type") {
        "NodePort" | "LoadBalancer" => true,
        "ClusterIP" => any(spec, "externalIPs"),
        _ => false,
    }
}

/// Checks a spec.
pub(super) fn check_spec(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let kind = text(spec, "type");
    let headless = text(spec, "clusterIP") == "None";
    if !any(spec, "ports") && !headless && kind != "ExternalName" {
        errors.required(&path.child("ports"), "");
    }
    if kind == "ExternalName" {
        check_external_name(spec, path, errors);
    }
    if headless && matches!(kind, "NodePort" | "LoadBalancer") {
        errors.invalid(
            &path.child("clusterIPs").index(0),
            quoted("None"),
            format!("may not be set to 'None' for {kind} services"),
        );
    }
    check_ports(spec, path, errors);
    labels(&spec["selector"], &path.child("selector"), errors);
    check_affinity(spec, path, errors);
    for (i, ip) in items(spec, "externalIPs").enumerate() {
        let at = path.child("externalIPs").index(i);
        if let Some(ip) = check::ip(ip.as_str().unwrap_or_default(), &at, errors) {
            crate::networking::check_special(ip, &at, errors);
        }
    }
    must_be_one_of(spec, "type", &TYPES, path, errors);
    check_families(spec, path, errors);
    check_balancer(spec, path, errors);
    check_traffic(spec, path, errors);
}

fn check_external_name(spec: &Value, path: &Path, errors: &mut ErrorList) {
    if any(spec, "clusterIPs") || !text(spec, "clusterIP").is_empty() {
        let words = "may not be set for ExternalName services";
        errors.forbidden(&path.child("clusterIPs"), words);
    }
    let (name, at) = (text(spec, "externalName"), path.child("externalName"));
    match name.strip_suffix('.').unwrap_or(name) {
        "" => errors.required(&at, ""),
        bare => named(bare, names::dns1123_subdomain, &at, errors),
    }
}

fn check_ports(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let (mut seen_names, mut seen_ports, mut seen_nodes) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let several = items(spec, "ports").count() > 1;
    for (i, port) in items(spec, "ports").enumerate() {
        let at = path.child("ports").index(i);
        let (name, protocol) = (text(port, "name"), text(port, "protocol"));
        if several && name.is_empty() {
            errors.required(&at.child("name"), "");
        } else if !name.is_empty() {
            named(name, names::dns1123_label, &at.child("name"), errors);
            if !seen_names.insert(name) {
                errors.duplicate(&at.child("name"), quoted(name));
            }
        }
        check::port(&port["port"], &at.child("port"), errors);
        must_be_one_of(port, "protocol", &["SCTP", "TCP", "UDP"], &at, errors);
        if has(port, "targetPort") {
            check::port(&port["targetPort"], &at.child("targetPort"), errors);
        }
        if has(port, "appProtocol") {
            required_name(port, "appProtocol", names::qualified_name, &at, errors);
        }
        let node = int(port, "/nodePort");
        if node != 0 && text(spec, "type") == "ClusterIP" {
            errors.forbidden(&at.child("nodePort"), "may not be used when `type` is 'ClusterIP'");
        }
        if node != 0 && !seen_nodes.insert((protocol, node)) {
            errors.duplicate(&at.child("nodePort"), node);
        }
        if !seen_ports.insert((protocol, int(port, "/port"))) {
            errors.duplicate(&at, json!({"port": port["port"], "protocol": port["protocol"]}));
        }
    }
}

fn check_affinity(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const LONGEST: i64 = 86_400;
    must_be_one_of(spec, "sessionAffinity", &["ClientIP", "None"], path, errors);
    let at = path.child("sessionAffinityConfig");
    let config = &spec["sessionAffinityConfig"];
    match text(spec, "sessionAffinity") {
        "ClientIP" => match config.pointer("/clientIP/timeoutSeconds").and_then(Value::as_i64) {
            None => errors.required(&at, "when session affinity type is ClientIP"),
            Some(n) if !(1..=LONGEST).contains(&n) => {
                let words = format!("must be greater than 0 and less than {LONGEST}");
                errors.invalid(&at.child("clientIP").child("timeoutSeconds"), n, words);
            }
            Some(_) => {}
        },
        "None" if has(spec, "sessionAffinityConfig") => {
            errors.forbidden(&at, "must not be set when session affinity is None");
        }
        _ => {}
    }
}

fn check_families(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let at = path.child("ipFamilies");
    if text(spec, "type") == "ExternalName" {
        for field in ["ipFamilies", "ipFamilyPolicy"] {
            let given = any(spec, field) || !text(spec, field).is_empty();
            if given {
                errors.forbidden(&path.child(field), "may not be set for ExternalName services");
            }
        }
        return;
    }
    one_of(
        spec,
        "ipFamilyPolicy",
        &["SingleStack", "PreferDualStack", "RequireDualStack"],
        path,
        errors,
    );
    let mut seen = BTreeSet::new();
    for (i, family) in items(spec, "ipFamilies").filter_map(Value::as_str).enumerate() {
        if !["IPv4", "IPv6"].contains(&family) {
            errors.not_supported(&at.index(i), family, &["IPv4", "IPv6"]);
        }
        if !seen.insert(family) {
            errors.duplicate(&at.index(i), quoted(family));
        }
    }
}

fn check_balancer(spec: &Value, path: &Path, errors: &mut ErrorList) {
    let balanced = text(spec, "type") == "LoadBalancer";
    let ranges = path.child("LoadBalancerSourceRanges");
    if any(spec, "loadBalancerSourceRanges") && !balanced {
        errors.forbidden(&ranges, ONLY_BALANCED);
    }
    for (i, range) in items(spec, "loadBalancerSourceRanges").enumerate() {
        check::cidr(range.as_str().unwrap_or_default().trim(), &ranges.index(i), errors);
    }
    if has(spec, "allocateLoadBalancerNodePorts") && !balanced {
        errors.forbidden(&path.child("allocateLoadBalancerNodePorts"), ONLY_BALANCED);
    }
    if has(spec, "loadBalancerClass") {
        if !balanced {
            errors.forbidden(&path.child("loadBalancerClass"), ONLY_BALANCED);
        }
        required_name(spec, "loadBalancerClass", names::qualified_name, path, errors);
    }
}

fn check_traffic(spec: &Value, path: &Path, errors: &mut ErrorList) {
    const POLICIES: [&str; 2] = ["Cluster", "Local"];
    let outside = text(spec, "externalTrafficPolicy");
    if is_external(spec) {
        must_be_one_of(spec, "externalTrafficPolicy", &POLICIES, path, errors);
    } else if !outside.is_empty() {
        let words = "may only be set for externally-accessible services";
        errors.invalid(&path.child("externalTrafficPolicy"), quoted(outside), words);
    }
    let health = int(spec, "/healthCheckNodePort");
    if health != 0 && !(text(spec, "type") == "LoadBalancer" && outside == "Local") {
        let words = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
        errors.invalid(&path.child("healthCheckNodePort"), health, words);
    }
    if text(spec, "type") != "ExternalName" {
        must_be_one_of(spec, "internalTrafficPolicy", &POLICIES, path, errors);
    }
    one_of(
        spec,
        "trafficDistribution",
        &["PreferClose", "PreferSameNode", "PreferSameZone"],
        path,
        errors,
    );
}
