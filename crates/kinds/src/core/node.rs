//! Node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use serde_json::Value;

use crate::columns::{AGE, age, column, text_or_none, wide};
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
        let roles: Vec<&str> = labels
            .into_iter()
            .flatten()
            .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/"))
            .collect();
        let roles = if roles.is_empty() {
            "<none>".to_owned()
        } else {
            roles.join(",")
        };
        let address = |kind: &str| -> Cell {
            let found = items(&node["status"], "addresses").find(|a| text(a, "type") == kind);
            found.map_or("<none>", |a| text(a, "address")).into()
        };
        let info = |field: &str| text_or_none(node, &format!("/status/nodeInfo/{field}"));
        vec![
            status.into(),
            roles.into(),
            age(node, now),
            info("kubeletVersion"),
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
