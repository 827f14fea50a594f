//! The pods of a Job: their state, and what new ones look like.
//!
//! Must not decide how many there are.

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kinds::resources::PODS;
use meta::Object;
use reconcile::{EventKind, Plan};
use serde_json::{Value, json};

use super::{CONTROLLER_UID, Job, TRACKING};
use crate::common::{is_ready, is_terminal, owner_reference, phase};

const INDEX: &str = "batch.kubernetes.io/job-completion-index";
const FAILURES: &str = "batch.kubernetes.io/job-index-failure-count";

/// A pod of a Job.
pub(super) struct Member {
    pub object: Arc<Object>,
    pub pod: Arc<Pod>,
}

impl Member {
    pub fn of(object: Arc<Object>) -> Option<Self> {
        let pod = object.view::<Pod>().ok()?;
        Some(Member { object, pod })
    }

    /// Whether it is not counted yet.
    pub fn is_tracked(&self) -> bool {
        self.object.header().finalizers.iter().any(|f| f == TRACKING)
    }

    /// Lets it go.
    pub fn release(&self, plan: &mut Plan) {
        let rest = self.object.header().finalizers.iter().filter(|f| *f != TRACKING);
        let rest: Vec<&String> = rest.collect();
        plan.patch(&PODS, &self.object, json!({"metadata": {"finalizers": rest}}));
    }

    pub fn is_active(&self) -> bool {
        !is_terminal(&self.pod) && !self.object.is_deleting()
    }

    pub fn is_terminating(&self) -> bool {
        !is_terminal(&self.pod) && self.object.is_deleting()
    }

    pub fn is_bound(&self) -> bool {
        let node = self.pod.spec.as_ref().and_then(|s| s.node_name.as_deref());
        node.is_some_and(|n| !n.is_empty())
    }

    pub fn is_ready(&self) -> bool {
        self.is_active() && is_ready(&self.pod)
    }

    pub fn has_succeeded(&self) -> bool {
        phase(&self.pod) == "Succeeded"
    }

    pub fn has_failed(&self) -> bool {
        phase(&self.pod) == "Failed"
    }

    /// Its completion index.
    pub fn index(&self) -> Option<i64> {
        let annotations = self.object.annotations().get(INDEX);
        let text = annotations.or_else(|| self.object.labels().get(INDEX))?;
        text.parse().ok().filter(|n| *n >= 0)
    }

    /// How many pods of its index had failed before it.
    pub fn failures_before(&self) -> i64 {
        let text = self.object.annotations().get(FAILURES);
        text.and_then(|t| t.parse().ok()).unwrap_or(0)
    }

    pub fn containers(&self) -> impl Iterator<Item = &ContainerStatus> {
        let status = self.pod.status.as_ref();
        let own = status.and_then(|s| s.container_statuses.as_ref()).into_iter().flatten();
        let init = status.and_then(|s| s.init_container_statuses.as_ref());
        own.chain(init.into_iter().flatten())
    }

    /// When it ended, as far as can be told.
    pub fn ended(&self) -> Option<Timestamp> {
        let ends = self.containers().filter_map(|c| {
            let terminated = c.state.as_ref()?.terminated.as_ref()?;
            Some(terminated.finished_at.as_ref()?.0)
        });
        let header = self.object.header();
        let text = header
            .deletion_timestamp
            .as_ref()
            .or(header.creation_timestamp.as_ref());
        ends.max().or_else(|| text.and_then(|t| meta::time::parse(t)))
    }
}

impl Job<'_> {
    /// Creates a pod; `failures` are those of its index before it.
    pub(super) fn create(&self, plan: &mut Plan, name: &str, index: Option<i64>, failures: i64) {
        let (job, template) = (self.object.name(), self.spec("template"));
        let prefix = match index {
            Some(index) => format!("{job}-{index}-"),
            None => format!("{job}-"),
        };
        let mut metadata = json!({"name": name, "generateName": prefix, "labels": {}, "finalizers": [TRACKING],
            "ownerReferences": [owner_reference(self.object)]});
        for field in ["labels", "annotations"] {
            let value = &template["metadata"][field];
            if !value.is_null() {
                metadata[field] = value.clone();
            }
        }
        for finalizer in template["metadata"]["finalizers"].as_array().into_iter().flatten() {
            if let Some(list) = metadata["finalizers"].as_array_mut()
                && !list.contains(finalizer)
            {
                list.push(finalizer.clone());
            }
        }
        for (label, value) in [
            (CONTROLLER_UID, self.object.uid()),
            ("controller-uid", self.object.uid()),
            ("batch.kubernetes.io/job-name", job),
            ("job-name", job),
        ] {
            // With a selector of their own, Jobs do not label their pods.
            if *self.spec("manualSelector") != true && metadata["labels"][label].is_null() {
                metadata["labels"][label] = value.into();
            }
        }
        let mut spec = template["spec"].clone();
        if let Some(index) = index {
            metadata["labels"][INDEX] = index.to_string().into();
            metadata["annotations"][INDEX] = index.to_string().into();
            if self.number("backoffLimitPerIndex").is_some() {
                metadata["annotations"][FAILURES] = failures.to_string().into();
            }
            number(&mut spec, job, index);
        }
        let pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec});
        plan.create(&PODS, self.object.namespace(), pod);
        let message = format!("Created pod: {name}");
        plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
    }

    /// Deletes a pod.
    pub(super) fn delete(&self, plan: &mut Plan, member: &Member) {
        plan.delete(&PODS, &member.object);
        let message = format!("Deleted pod: {}", member.object.name());
        plan.event(self.object, EventKind::Normal, "SuccessfulDelete", message);
    }
}

/// Tells the containers of a pod their index.
fn number(spec: &mut Value, job: &str, index: i64) {
    if spec["hostname"].as_str().is_none_or(str::is_empty) {
        let host = format!("{job}-{index}");
        let end = host.len().min(meta::names::LABEL_MAX);
        spec["hostname"] = host.get(..end).unwrap_or_default().trim_end_matches('-').into();
    }
    let path = format!("metadata.labels['{INDEX}']");
    let variable = json!({"name": "JOB_COMPLETION_INDEX", "valueFrom": {"fieldRef": {"fieldPath": path}}});
    for field in ["containers", "initContainers"] {
        for container in spec[field].as_array_mut().into_iter().flatten() {
            let mut env = container["env"].as_array().cloned().unwrap_or_default();
            if !env.iter().any(|e| e["name"] == "JOB_COMPLETION_INDEX") {
                env.push(variable.clone());
                container["env"] = env.into();
            }
        }
    }
}
