//! Requests for certificates: who gets what, in tables.

use super::*;
use reconcile::{Action, World};
use serde_json::Value;

const NOW: Timestamp = Timestamp::UNIX_EPOCH;
const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SERVING: &str = "kubernetes.io/kubelet-serving";
const CLIENT: &str = "kubernetes.io/kube-apiserver-client";
const BOOTSTRAP: &str = "system:bootstrap:allmend";

/// Requests are written as `CN|O,O|name,name`; addresses are names that can be read as such.
struct Fake;

impl Certifier for Fake {
    fn read(&self, request: &str) -> Result<Asked, String> {
        let parts: Vec<&str> = request.split('|').collect();
        let [common_name, organisations, names] = parts[..] else {
            return Err("the request cannot be read".to_owned());
        };
        let list =
            |text: &str| -> Vec<String> { text.split(',').filter(|t| !t.is_empty()).map(str::to_owned).collect() };
        let (others, names): (Vec<String>, _) = list(names).into_iter().partition(|n: &String| n.contains('@'));
        let (addresses, dns_names): (Vec<String>, _) =
            names.into_iter().partition(|n| n.parse::<std::net::IpAddr>().is_ok());
        Ok(Asked {
            common_name: common_name.to_owned(),
            organisations: list(organisations),
            dns_names,
            addresses: addresses.iter().filter_map(|a| a.parse().ok()).collect(),
            others,
        })
    }

    fn may(&self, user: &str, groups: &[String], kind: &str) -> bool {
        match kind {
            "nodeclient" => user == BOOTSTRAP,
            "selfnodeclient" => groups.iter().any(|g| g == "system:nodes"),
            _ => false,
        }
    }

    fn is_reserved(&self, name: &str) -> bool {
        ["kubernetes", "10.0.0.1"].contains(&name)
    }

    fn sign(&self, issuer: Issuer, request: &str, usages: &[String], life: Duration) -> Result<String, String> {
        if request.contains("broken") {
            return Err("no such key".to_owned());
        }
        Ok(format!("{issuer:?} {request} {} {}", usages.len(), life.as_secs()))
    }
}

fn world() -> World {
    let mut world = World::default();
    for (name, address) in [("old", "10.0.0.7"), ("other", "10.0.0.8"), ("thief", "10.0.0.8")] {
        world.put(
            &NODES,
            json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
            "status": {"addresses": [{"type": "InternalIP", "address": address}, {"type": "Hostname", "address": name}]}}),
        );
    }
    world
}

fn request(signer: &str, user: &str, asked: &str, usages: &[&str], status: &Value) -> Value {
    let groups: &[&str] = if user.starts_with("system:node:") {
        &["system:nodes"]
    } else {
        &["system:bootstrappers"]
    };
    let text = k8s_openapi::ByteString(asked.as_bytes().to_vec());
    json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"name": "csr", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"signerName": signer, "username": user, "groups": groups, "request": text, "usages": usages},
        "status": status})
}

fn outcome(plan: &Plan) -> String {
    let Some(action) = plan.actions.first() else {
        return "wait".to_owned();
    };
    let Action::Patch { subresource, patch, .. } = action else {
        return format!("{action:?}");
    };
    if let Some(text) = patch["status"]["certificate"].as_str() {
        let bytes: k8s_openapi::ByteString = serde_json::from_value(text.into()).unwrap();
        return String::from_utf8(bytes.0).unwrap();
    }
    let all = patch["status"]["conditions"].as_array().unwrap();
    let last = all.last().unwrap();
    format!(
        "{subresource}: {} {}",
        last["type"].as_str().unwrap(),
        last["reason"].as_str().unwrap()
    )
}

const CALLS: &[&str] = &["digital signature", "client auth"];
const SERVES: &[&str] = &["key encipherment", "digital signature", "server auth"];

#[test]
fn who_is_approved_without_a_person() {
    let ok = "approval: Approved AutoApproved";
    let table: &[(&str, &str, &str, &[&str], &str)] = &[
        (NODE_CLIENT, BOOTSTRAP, "system:node:new|system:nodes|", CALLS, ok),
        (
            NODE_CLIENT,
            BOOTSTRAP,
            "system:node:old|system:nodes|",
            CALLS,
            "approval: Denied NodeExists",
        ),
        (
            NODE_CLIENT,
            BOOTSTRAP,
            "system:node:kubernetes|system:nodes|",
            CALLS,
            "approval: Denied NameReserved",
        ),
        (
            NODE_CLIENT,
            "system:node:old",
            "system:node:old|system:nodes|",
            CALLS,
            ok,
        ),
        (
            NODE_CLIENT,
            "system:node:old",
            "system:node:other|system:nodes|",
            CALLS,
            "wait",
        ),
        (NODE_CLIENT, "ann", "system:node:new|system:nodes|", CALLS, "wait"),
        // Forms that no node asks for.
        (
            NODE_CLIENT,
            BOOTSTRAP,
            "system:node:new|system:nodes,system:masters|",
            CALLS,
            "wait",
        ),
        (NODE_CLIENT, BOOTSTRAP, "system:node:new|system:masters|", CALLS, "wait"),
        (NODE_CLIENT, BOOTSTRAP, "admin|system:nodes|", CALLS, "wait"),
        (NODE_CLIENT, BOOTSTRAP, "system:node:|system:nodes|", CALLS, "wait"),
        (NODE_CLIENT, BOOTSTRAP, "system:node:New_|system:nodes|", CALLS, "wait"),
        (
            NODE_CLIENT,
            BOOTSTRAP,
            "system:node:new|system:nodes|new",
            CALLS,
            "wait",
        ),
        (NODE_CLIENT, BOOTSTRAP, "system:node:new|system:nodes|", SERVES, "wait"),
        (NODE_CLIENT, BOOTSTRAP, "junk", CALLS, "wait"),
        // What nodes show to those who call them.
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old,10.0.0.7",
            SERVES,
            ok,
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old",
            SERVES,
            ok,
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|other",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|10.0.0.9",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:other|system:nodes|other",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old,a@b",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old",
            CALLS,
            "wait",
        ),
        (
            SERVING,
            "system:node:new",
            "system:node:new|system:nodes|new,10.0.0.9",
            SERVES,
            "wait",
        ),
        (
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old,10.0.0.1",
            SERVES,
            "approval: Denied NameReserved",
        ),
        (
            SERVING,
            "system:node:thief",
            "system:node:thief|system:nodes|10.0.0.8",
            SERVES,
            "approval: Denied AddressTaken",
        ),
        (SERVING, BOOTSTRAP, "system:node:old|system:nodes|old", SERVES, "wait"),
        // People are for people, other signers for others.
        (CLIENT, "ann", "ann|farmers|", CALLS, "wait"),
        (
            "example.org/mine",
            BOOTSTRAP,
            "system:node:new|system:nodes|",
            CALLS,
            "wait",
        ),
    ];
    let controller = CertificateController {
        certifier: Arc::new(Fake),
    };
    for (signer, user, asked, usages, wanted) in table {
        let mut world = world();
        world.put(
            &CERTIFICATE_REQUESTS,
            request(signer, user, asked, usages, &Value::Null),
        );
        let plan = controller.plan(NOW, &Key::new("", "csr"), &world);
        assert_eq!(outcome(&plan), *wanted, "{signer} {user} {asked} {usages:?}");
    }
}

#[test]
fn what_is_approved_is_signed_or_fails() {
    let approved = json!({"conditions": [{"type": "Approved", "status": "True", "reason": "x", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
    let failed = "status: Failed SignerValidationFailure";
    let year = LONGEST;
    let table: &[(&str, &str, &[&str], String)] = &[
        (
            CLIENT,
            "ann|farmers,cooks|",
            CALLS,
            format!("Clients ann|farmers,cooks| 2 {year}"),
        ),
        (
            CLIENT,
            "ann|farmers|",
            &["client auth"],
            format!("Clients ann|farmers| 1 {year}"),
        ),
        (CLIENT, "ann|farmers|", SERVES, failed.into()),
        (CLIENT, "ann|farmers|", &["digital signature"], failed.into()),
        (CLIENT, "junk", CALLS, failed.into()),
        (CLIENT, "broken|farmers|", CALLS, failed.into()),
        (
            NODE_CLIENT,
            "system:node:new|system:nodes|",
            CALLS,
            format!("Clients system:node:new|system:nodes| 2 {year}"),
        ),
        (NODE_CLIENT, "ann|system:masters|", CALLS, failed.into()),
        (
            SERVING,
            "system:node:old|system:nodes|old",
            SERVES,
            format!("Servers system:node:old|system:nodes|old 3 {year}"),
        ),
        (SERVING, "system:node:old|system:nodes|old", CALLS, failed.into()),
    ];
    let controller = CertificateController {
        certifier: Arc::new(Fake),
    };
    for (signer, asked, usages, wanted) in table {
        let mut world = world();
        world.put(&CERTIFICATE_REQUESTS, request(signer, "ann", asked, usages, &approved));
        let plan = controller.plan(NOW, &Key::new("", "csr"), &world);
        assert_eq!(outcome(&plan), *wanted, "{signer} {asked} {usages:?}");
        world.step(NOW, &controller, &Key::new("", "csr"));
        let again = controller.plan(NOW, &Key::new("", "csr"), &world);
        assert!(again.is_empty(), "{again:?}");
    }
    for settled in ["Denied", "Failed"] {
        let mut status = approved.clone();
        let more = json!({"type": settled, "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"});
        status["conditions"].as_array_mut().unwrap().push(more);
        let mut world = world();
        world.put(
            &CERTIFICATE_REQUESTS,
            request(CLIENT, "ann", "ann|farmers|", CALLS, &status),
        );
        assert!(
            controller.plan(NOW, &Key::new("", "csr"), &world).is_empty(),
            "{settled}"
        );
    }
}

#[test]
fn less_time_is_given_when_less_is_asked_for() {
    let approved =
        json!({"conditions": [{"type": "Approved", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
    let controller = CertificateController {
        certifier: Arc::new(Fake),
    };
    for (asked, given) in [(700, 700), (i32::MAX, 365 * 86_400)] {
        let mut world = world();
        let mut value = request(CLIENT, "ann", "ann||", CALLS, &approved);
        value["spec"]["expirationSeconds"] = asked.into();
        world.put(&CERTIFICATE_REQUESTS, value);
        let plan = controller.plan(NOW, &Key::new("", "csr"), &world);
        assert_eq!(outcome(&plan), format!("Clients ann|| 2 {given}"));
    }
}

#[test]
fn old_requests_are_forgotten() {
    let decided =
        json!({"conditions": [{"type": "Denied", "status": "True", "lastUpdateTime": "1970-01-01T00:00:00Z"}]});
    let controller = CertificateController {
        certifier: Arc::new(Fake),
    };
    for (status, age, gone) in [
        (decided.clone(), 3599, false),
        (decided, 3600, true),
        (Value::Null, 3600, false),
        (Value::Null, 86_400, true),
    ] {
        let mut world = world();
        world.put(&CERTIFICATE_REQUESTS, request(CLIENT, "ann", "ann||", CALLS, &status));
        let now = NOW + SignedDuration::from_secs(age);
        let plan = controller.plan(now, &Key::new("", "csr"), &world);
        let deletes = matches!(plan.actions.first(), Some(Action::Delete { .. }));
        assert_eq!(deletes, gone, "{status} {age}");
        assert!(gone || plan.again.is_some());
    }
}

#[test]
fn a_node_that_reports_its_addresses_is_looked_at_again() {
    let mut world = world();
    world.put(
        &CERTIFICATE_REQUESTS,
        request(
            SERVING,
            "system:node:old",
            "system:node:old|system:nodes|old",
            SERVES,
            &Value::Null,
        ),
    );
    let controller = CertificateController {
        certifier: Arc::new(Fake),
    };
    let keys = controller.inputs()[1].keys;
    let node = |name: &str| world.get(&NODES, "", name).unwrap();
    assert_eq!(keys(&node("old"), &world), [Key::new("", "csr")]);
    assert!(keys(&node("other"), &world).is_empty());
}
