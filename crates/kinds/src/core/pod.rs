//! Pod.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use crate::columns::{AGE, column, wide};
use crate::edit::{object, set, text};
use crate::pods::{check_update, default_pod, qos_class, status_cells, validate_spec};
use crate::schemas::typed;
use crate::{Cell, Context, Declared, Strategy, Subresource};

/// The kind.
pub(super) fn kind() -> Declared {
    Declared {
        categories: &["all"],
        subresources: const {
            &[
                Subresource::Status,
                Subresource::Custom("binding", "Binding", &["create"]),
                Subresource::Custom("eviction", "Eviction", &["create"]),
                Subresource::Custom("log", "Pod", &["get"]),
                Subresource::Custom("exec", "PodExecOptions", &["create", "get"]),
                Subresource::Custom("attach", "PodAttachOptions", &["create", "get"]),
                Subresource::Custom("portforward", "PodPortForwardOptions", &["create", "get"]),
                Subresource::Custom(
                    "proxy",
                    "PodProxyOptions",
                    &["create", "delete", "get", "patch", "update"],
                ),
                Subresource::Custom("ephemeralcontainers", "Pod", &["get", "patch", "update"]),
            ]
        },
        selectable_fields: &[
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "spec.hostNetwork",
            "status.phase",
            "status.podIP",
            "status.podIPs",
            "status.nominatedNodeName",
        ],
        ..super::core_kind("Pod", "pods", "pod", &["po"]).with(
            typed::<v1::Pod>,
            const {
                &[
                    column("Ready", "string"),
                    column("Status", "string"),
                    column("Restarts", "string"),
                    AGE,
                    wide("IP", "string"),
                    wide("Node", "string"),
                    wide("Nominated Node", "string"),
                    wide("Readiness Gates", "string"),
                ]
            },
            &Pod,
        )
    }
}

struct Pod;

impl Strategy for Pod {
    fn prepare_create(&self, _: &Context<'_>, pod: &mut Value) {
        let class = qos_class(&pod["spec"]);
        if pod.is_object() {
            set(pod, "status", json!({"phase": "Pending", "qosClass": class}));
        }
    }

    fn default(&self, pod: &mut Value) {
        if let Some(spec) = object(pod, "spec") {
            default_pod(spec);
        }
    }

    fn validate_create(&self, pod: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        validate_spec(&pod["spec"], &Path::new("spec"), true, &mut errors);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = self.validate_create(new);
        check_update(new, old, &mut errors);
        errors
    }

    fn row(&self, pod: &Value, now: Timestamp) -> Vec<Cell> {
        status_cells(pod, now)
    }

    fn field(&self, pod: &Value, path: &str) -> String {
        match path {
            "spec.hostNetwork" => (pod["spec"]["hostNetwork"] == true).to_string(),
            // Of several addresses, any that is asked for would do; a field has one value.
            "status.podIP" | "status.podIPs" => text(&pod["status"], "podIP").to_owned(),
            _ => {
                let found = path.split('.').try_fold(pod, |v, part| v.get(part));
                found.and_then(Value::as_str).unwrap_or_default().to_owned()
            }
        }
    }

    fn delete_grace(&self, pod: &Value, asked: Option<i64>) -> Option<i64> {
        let own = pod["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
        let finished = matches!(text(&pod["status"], "phase"), "Succeeded" | "Failed");
        // Nobody runs it: there is nothing to wait for.
        if text(&pod["spec"], "nodeName").is_empty() || finished {
            return Some(0);
        }
        Some(asked.unwrap_or(own).max(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_some_fields_may_change() {
        let mut old = json!({"spec": {"containers": [{"name": "a", "image": "x:1"}], "nodeName": "n"}});
        Pod.default(&mut old);
        let mut new = old.clone();
        new["spec"]["containers"][0]["image"] = "x:2".into();
        assert!(Pod.validate_update(&new, &old).is_empty());
        new["spec"]["containers"][0]["command"] = json!(["sh"]);
        assert!(
            Pod.validate_update(&new, &old)
                .to_string()
                .contains("pod updates may not change fields")
        );
    }

    #[test]
    fn grace() {
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 7}, "status": {"phase": phase}});
        assert_eq!(Pod.delete_grace(&pod("", "Pending"), None), Some(0));
        assert_eq!(Pod.delete_grace(&pod("n", "Running"), None), Some(7));
        assert_eq!(Pod.delete_grace(&pod("n", "Running"), Some(1)), Some(1));
        assert_eq!(Pod.delete_grace(&pod("n", "Succeeded"), None), Some(0));
    }
}
