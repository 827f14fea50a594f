//! NetworkPolicy.

use jiff::Timestamp;
use k8s_openapi::api::networking::v1;
use meta::field::{ErrorList, Path, quoted};
use serde_json::{Value, json};

use crate::check::{self, any, has, label_selector};
use crate::columns::{AGE, age, column, selector};
use crate::edit::{default_text, items, items_mut, object, set, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    names(
        super::GROUP,
        "v1",
        "NetworkPolicy",
        "networkpolicies",
        "networkpolicy",
        &["netpol"],
    )
    .with(
        typed::<v1::NetworkPolicy>,
        const { &[column("Pod-Selector", "string"), AGE] },
        &Policy,
    )
}

struct Policy;

impl Strategy for Policy {
    fn default(&self, policy: &mut Value) {
        let Some(spec) = object(policy, "spec") else { return };
        for direction in ["ingress", "egress"] {
            for rule in items_mut(spec, direction) {
                for port in items_mut(rule, "ports") {
                    default_text(port, "protocol", "TCP");
                }
            }
        }
        if !any(spec, "policyTypes") {
            let types = if any(spec, "egress") {
                json!(["Ingress", "Egress"])
            } else {
                json!(["Ingress"])
            };
            set(spec, "policyTypes", types);
        }
    }

    fn validate_create(&self, policy: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&policy["spec"], Path::new("spec"));
        label_selector(&spec["podSelector"], &path.child("podSelector"), &mut errors);
        for (direction, peers) in [("ingress", "from"), ("egress", "to")] {
            for (i, rule) in items(spec, direction).enumerate() {
                let at = path.child(direction).index(i);
                for (n, port) in items(rule, "ports").enumerate() {
                    check_port(port, &at.child("ports").index(n), &mut errors);
                }
                for (n, peer) in items(rule, peers).enumerate() {
                    check_peer(peer, &at.child(peers).index(n), &mut errors);
                }
            }
        }
        const TYPES: [&str; 2] = ["Egress", "Ingress"];
        let at = path.child("policyTypes");
        if items(spec, "policyTypes").count() > TYPES.len() {
            errors.invalid(&at, &spec["policyTypes"], "may not specify more than two policyTypes");
            return errors;
        }
        for (i, kind) in items(spec, "policyTypes").enumerate() {
            let kind = kind.as_str().unwrap_or_default();
            if !TYPES.contains(&kind) {
                errors.not_supported(&at.index(i), kind, &TYPES);
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, policy: &Value, now: Timestamp) -> Vec<Cell> {
        vec![selector(policy.pointer("/spec/podSelector")), age(policy, now)]
    }
}

fn check_port(port: &Value, at: &Path, errors: &mut ErrorList) {
    check::one_of(port, "protocol", &["SCTP", "TCP", "UDP"], at, errors);
    let end = port["endPort"].as_i64();
    let place = at.child("endPort");
    match (&port["port"], end) {
        (Value::Null, Some(end)) => {
            errors.invalid(&place, end, "may not be specified when `port` is not specified");
        }
        (Value::Null, None) => {}
        (Value::String(_), Some(end)) => {
            errors.invalid(&place, end, "may not be specified when `port` is non-numeric");
        }
        (first, end) => {
            check::port(first, &at.child("port"), errors);
            if let Some(end) = end {
                if end < first.as_i64().unwrap_or(0) {
                    errors.invalid(&place, first, "must be greater than or equal to `port`");
                }
                check::port(&end.into(), &place, errors);
            }
        }
    }
}

fn check_peer(peer: &Value, at: &Path, errors: &mut ErrorList) {
    let given = ["podSelector", "namespaceSelector", "ipBlock"].map(|field| has(peer, field));
    for field in ["podSelector", "namespaceSelector"] {
        label_selector(&peer[field], &at.child(field), errors);
    }
    if given[2] {
        check_block(&peer["ipBlock"], &at.child("ipBlock"), errors);
    }
    match given {
        [false, false, false] => errors.required(at, "must specify a peer"),
        [pods, namespaces, true] if pods || namespaces => {
            errors.forbidden(at, "may not specify both ipBlock and another peer");
        }
        _ => {}
    }
}

fn check_block(block: &Value, at: &Path, errors: &mut ErrorList) {
    let given = text(block, "cidr");
    if given.is_empty() {
        return errors.required(&at.child("cidr"), "");
    }
    let Some(net) = check::cidr(given, &at.child("cidr"), errors) else {
        return;
    };
    for (i, except) in items(block, "except").enumerate() {
        let except = except.as_str().unwrap_or_default();
        let at = at.child("except").index(i);
        let Some(inner) = check::cidr(except, &at, errors) else {
            continue;
        };
        if inner.1 <= net.1 || !check::contains(net, inner.0) {
            errors.invalid(&at, quoted(except), "must be a strict subset of `cidr`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;

    #[test]
    fn defaults() {
        let mut policy = json!({"spec": {"podSelector": {}, "egress": [{"ports": [{"port": 53}]}]}});
        Policy.default(&mut policy);
        assert_eq!(policy["spec"]["policyTypes"], json!(["Ingress", "Egress"]));
        assert_eq!(policy["spec"]["egress"][0]["ports"][0]["protocol"], "TCP");
        assert!(Policy.validate_create(&policy).is_empty());
        assert_eq!(Policy.row(&policy, Timestamp::UNIX_EPOCH)[0], "<none>");
    }

    #[test]
    fn errors() {
        for (rule, words) in [
            (
                json!({"from": [{}]}),
                "spec.ingress[0].from[0]: Required value: must specify a peer",
            ),
            (
                json!({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}),
                "may not specify both ipBlock and another peer",
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0"}}]}),
                "ipBlock.cidr: Invalid value: \"10.0.0.0\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
            ),
            (
                json!({"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/16"]}}]}),
                "except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`",
            ),
            (
                json!({"ports": [{"port": 0}]}),
                "spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"ports": [{"port": 80, "endPort": 79}]}),
                "must be greater than or equal to `port`",
            ),
            (
                json!({"ports": [{"port": "http", "endPort": 80}]}),
                "may not be specified when `port` is non-numeric",
            ),
            (
                json!({"ports": [{"protocol": "ICMP"}]}),
                "protocol: Unsupported value: \"ICMP\"",
            ),
        ] {
            let policy = json!({"spec": {"podSelector": {}, "ingress": [rule]}});
            expect(&Policy.validate_create(&policy), words);
        }
        let types = json!({"spec": {"podSelector": {}, "policyTypes": ["Both"]}});
        expect(
            &Policy.validate_create(&types),
            "spec.policyTypes[0]: Unsupported value: \"Both\"",
        );
    }
}
