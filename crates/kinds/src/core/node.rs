//! Node.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::{self, must_be_one_of, named};
use crate::columns::{AGE, age, column, wide};
use crate::edit::{items, text};
use crate::schemas::typed;
use crate::{Cell, Declared, Scope, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        scope: Scope::Cluster,
        subresources: const {
            &[
                Subresource::Status,
                Subresource::Custom(
                    "proxy",
                    "NodeProxyOptions",
                    &["create", "delete", "get", "patch", "update"],
                ),
            ]
        },
        selectable_fields: &["spec.unschedulable"],
        ..super::core_kind("Node", "nodes", "node", &["no"]).with(
            typed::<v1::Node>,
            const {
                &[
                    column("Status", "string"),
                    column("Roles", "string"),
                    AGE,
                    column("Version", "string"),
                    wide("Internal-IP", "string"),
                    wide("External-IP", "string"),
                    wide("OS-Image", "string"),
                    wide("Kernel-Version", "string"),
                    wide("Container-Runtime", "string"),
                ]
            },
            &Node,
        )
    }
}

struct Node;

impl Strategy for Node {
    fn validate_create(&self, node: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&node["spec"], Path::new("spec"));
        let mut seen = BTreeSet::new();
        for (i, taint) in items(spec, "taints").enumerate() {
            let at = path.child("taints").index(i);
            let (key, effect) = (text(taint, "key"), text(taint, "effect"));
            named(key, names::qualified_name, &at.child("key"), &mut errors);
            for problem in names::label_value(text(taint, "value")) {
                errors.invalid(&at.child("value"), quoted(text(taint, "value")), problem);
            }
            must_be_one_of(
                taint,
                "effect",
                &["NoSchedule", "PreferNoSchedule", "NoExecute"],
                &at,
                &mut errors,
            );
            if !seen.insert((key, effect)) {
                errors.duplicate(&at, taint);
            }
        }
        for (i, cidr) in items(spec, "podCIDRs").enumerate() {
            let at = path.child("podCIDRs").index(i);
            check::cidr(cidr.as_str().unwrap_or_default(), &at, &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        for (field, path) in [("podCIDR", "podCIDRs"), ("providerID", "providerID")] {
            let (is, was) = (text(&new["spec"], field), text(&old["spec"], field));
            if !was.is_empty() && is != was {
                let words = format!("node updates may not change {field} except from \"\" to valid");
                errors.forbidden(&Path::new("spec").child(path), words);
            }
        }
        errors
    }

    fn row(&self, node: &Value, now: Timestamp) -> Vec<Cell> {
        let ready = items(&node["status"], "conditions").find(|c| text(c, "type") == "Ready");
        let mut status = match ready.map(|c| text(c, "status")) {
            Some("True") => "Ready".to_owned(),
            Some(_) => "NotReady".to_owned(),
            None => "Unknown".to_owned(),
        };
        if node["spec"]["unschedulable"] == true {
            status.push_str(",SchedulingDisabled");
        }
        let labels = node.pointer("/metadata/labels").and_then(Value::as_object);
        let roles: BTreeSet<&str> = labels
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| match k.strip_prefix("node-role.kubernetes.io/") {
                Some(role) => Some(role),
                None if k == "kubernetes.io/role" => v.as_str(),
                None => None,
            })
            .filter(|role| !role.is_empty())
            .collect();
        let roles: Vec<&str> = roles.into_iter().collect();
        let roles = if roles.is_empty() {
            "<none>".to_owned()
        } else {
            roles.join(",")
        };
        let address = |kind: &str| -> Cell {
            let found = items(&node["status"], "addresses").find(|a| text(a, "type") == kind);
            found.map_or("<none>", |a| text(a, "address")).into()
        };
        let info = |field: &str| -> Cell {
            match text(&node["status"]["nodeInfo"], field) {
                "" => "<unknown>".into(),
                given => given.into(),
            }
        };
        vec![
            status.into(),
            roles.into(),
            age(node, now),
            text(&node["status"]["nodeInfo"], "kubeletVersion").into(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    }

    fn field(&self, node: &Value, path: &str) -> String {
        match path {
            "spec.unschedulable" => (node["spec"]["unschedulable"] == true).to_string(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn nodes() {
        let good = json!({"metadata": {"labels": {"node-role.kubernetes.io/control-plane": "", "kubernetes.io/role": "a"}},
            "spec": {"podCIDR": "10.0.0.0/24", "taints": [{"key": "k", "effect": "NoSchedule"}]}});
        assert!(Node.validate_create(&good).is_empty());
        let row = Node.row(&good, Timestamp::UNIX_EPOCH);
        assert_eq!(
            (&row[0], &row[1], &row[6]),
            (&json!("Unknown"), &json!("a,control-plane"), &json!("<unknown>"))
        );
        let mut other = good.clone();
        other["spec"] = json!({"podCIDR": "10.0.1.0/24", "taints": [{"key": "k", "effect": "X"}]});
        let errors = Node.validate_update(&other, &good);
        expect(
            &errors,
            "spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid",
        );
        expect(
            &errors,
            "spec.taints[0].effect: Unsupported value: \"X\": supported values: \"NoSchedule\", \"PreferNoSchedule\", \"NoExecute\"",
        );
    }
}
