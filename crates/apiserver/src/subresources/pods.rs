//! `pods/binding`, `pods/eviction`, `pods/ephemeralcontainers`, `pods/resize`.
//! Must not choose a node or a victim: others do.

use std::sync::Arc;

use meta::{Cause, LabelSelector, Object, Status, time};
use serde_json::{Value, json};

use super::success;
use crate::cache::{Selection, select};
use crate::core::Core;
use crate::registry::{Answer, Call, DeleteRequest, Target};
use crate::resource::Resource;

impl Core {
    /// Binds a pod to a node.
    pub(super) async fn bind_pod(&self, call: &Call, target: Target<'_>, binding: &Value) -> Result<Value, Status> {
        let node = binding
            .pointer("/target/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let kind = binding
            .pointer("/target/kind")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let mut errors = meta::field::ErrorList::new();
        let path = meta::field::Path::new("target");
        if !matches!(kind, "" | "Node") {
            errors.not_supported(&path.child("kind"), kind, &["Node", "<empty>"]);
        }
        if node.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !errors.is_empty() {
            return Err(Status::invalid("", "Binding", target.name, &errors));
        }
        let annotations = binding.pointer("/metadata/annotations").and_then(Value::as_object);
        let uid = binding
            .pointer("/metadata/uid")
            .and_then(Value::as_str)
            .unwrap_or_default();
        self.rewrite(call, target, &|old, mut pod| {
            let refuse = |why: String| Err(Status::conflict("", "pods/binding", target.name, why));
            if !uid.is_empty() && uid != old.uid() {
                return refuse(format!(
                    "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
                    old.uid()
                ));
            }
            if old.is_deleting() {
                return refuse(format!(
                    "pod {} is being deleted, cannot be assigned to a host",
                    target.name
                ));
            }
            let bound = pod
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !bound.is_empty() {
                return refuse(format!("pod {} is already assigned to node {bound:?}", target.name));
            }
            if pod
                .pointer("/spec/schedulingGates")
                .and_then(Value::as_array)
                .is_some_and(|g| !g.is_empty())
            {
                return refuse(format!("pod {} has non-empty .spec.schedulingGates", target.name));
            }
            pod["spec"]["nodeName"] = node.into();
            for (key, text) in annotations.into_iter().flatten() {
                pod["metadata"]["annotations"][key] = text.clone();
            }
            let scheduled = json!({
                "type": "PodScheduled", "status": "True",
                "lastProbeTime": null, "lastTransitionTime": time::rfc3339(call.now),
                "observedGeneration": old.header().generation,
            });
            set_condition(&mut pod, scheduled);
            Ok(pod)
        })
        .await?;
        Ok(success(201))
    }

    /// Deletes a pod if its disruption budget lets it go.
    pub(super) async fn evict_pod(&self, call: &Call, target: Target<'_>, eviction: &Value) -> Result<Value, Status> {
        let name = eviction
            .pointer("/metadata/name")
            .and_then(Value::as_str)
            .unwrap_or_default();
        if !name.is_empty() && name != target.name {
            return Err(Status::bad_request(
                "name in URL does not match name in Eviction object",
            ));
        }
        let request = DeleteRequest::from_value(eviction.get("deleteOptions").unwrap_or(&Value::Null))?;
        let pod = self.current(target)?;
        let value = pod.to_value();
        let phase = value
            .pointer("/status/phase")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let exempt = pod.is_deleting() || matches!(phase, "Succeeded" | "Failed" | "Pending");
        if !exempt && let Some(budgets) = self.catalog.find("policy", "poddisruptionbudgets").cloned() {
            match self.budgets_of(&budgets, &pod).as_slice() {
                [] => {}
                [one] => self.spend(call, &budgets, one, &pod).await?,
                _ => {
                    return Err(Status::internal(
                        "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                    ));
                }
            }
        }
        let main = Target {
            subresource: "",
            ..target
        };
        self.delete(call, main, &request).await?;
        Ok(success(201))
    }

    fn budgets_of(&self, budgets: &Arc<Resource>, pod: &Object) -> Vec<Arc<Object>> {
        let (snapshot, _) = budgets.cache.snapshot();
        let selection = Selection {
            namespace: pod.namespace().to_owned(),
            ..Selection::default()
        };
        let (items, _) = select(&snapshot, &budgets.kind, &selection, "", usize::MAX);
        let all = items.into_iter().map(|(_, item)| item.object.clone());
        all.filter(|budget| {
            let value = budget.to_value();
            let selector = value.pointer("/spec/selector").unwrap_or(&Value::Null);
            LabelSelector::from_object(selector).is_ok_and(|s| s.matches(pod.labels()))
        })
        .collect()
    }

    async fn spend(&self, call: &Call, budgets: &Arc<Resource>, budget: &Object, pod: &Object) -> Result<(), Status> {
        let name = budget.name();
        let target = Target::of(budgets, budget.namespace(), name).sub("status");
        let refuse = |why: String| {
            let message = "Cannot evict pod as it would violate the pod's disruption budget.";
            let mut status = Status::too_many_requests(message, 10);
            status.causes.push(Cause {
                reason: "DisruptionBudget".into(),
                message: why,
                field: String::new(),
            });
            status
        };
        self.rewrite(call, target, &|old, mut value| {
            let number = |field: &str| {
                value
                    .pointer(&format!("/status/{field}"))
                    .and_then(Value::as_i64)
                    .unwrap_or(0)
            };
            if number("observedGeneration") < old.header().generation {
                return Err(refuse(format!(
                    "The disruption budget {name} is still being processed by the server."
                )));
            }
            let allowed = number("disruptionsAllowed");
            if allowed <= 0 {
                return Err(refuse(format!(
                    "The disruption budget {name} needs {} healthy pods and has {} currently",
                    number("desiredHealthy"),
                    number("currentHealthy")
                )));
            }
            value["status"]["disruptionsAllowed"] = (allowed - 1).into();
            value["status"]["disruptedPods"][pod.name()] = time::rfc3339(call.now).into();
            Ok(value)
        })
        .await?;
        Ok(())
    }

    /// `ephemeralcontainers` and `resize`: the one part of the spec that each may change.
    pub(super) async fn change_pod_part(
        &self,
        call: &Call,
        target: Target<'_>,
        wanted: &(dyn Fn(&Arc<Object>) -> Result<Value, Status> + Sync),
    ) -> Result<Answer, Status> {
        let kind = &target.resource.kind;
        self.rewrite(call, target, &|old, mut pod| {
            let mut wanted = wanted(old)?;
            crate::machinery::prune(kind, &mut wanted)?;
            crate::machinery::default(kind, &mut wanted);
            kind.strategy().default(&mut wanted);
            let before = pod.clone();
            if target.subresource == "ephemeralcontainers" {
                let list = wanted
                    .pointer("/spec/ephemeralContainers")
                    .cloned()
                    .unwrap_or_else(|| json!([]));
                let kept = pod
                    .pointer("/spec/ephemeralContainers")
                    .and_then(Value::as_array)
                    .cloned()
                    .unwrap_or_default();
                if !kept.iter().all(|c| list.as_array().is_some_and(|l| l.contains(c))) {
                    let mut errors = meta::field::ErrorList::new();
                    let path = meta::field::Path::new("spec").child("ephemeralContainers");
                    errors.forbidden(&path, "existing ephemeral containers may not be removed or changed");
                    return Err(Status::invalid("", "Pod", target.name, &errors));
                }
                pod["spec"]["ephemeralContainers"] = list;
            } else {
                copy_resources(&mut pod, &wanted);
            }
            if pod != before {
                pod["metadata"]["generation"] = (old.header().generation + 1).into();
                let errors = kind.strategy().validate_create(&pod);
                if !errors.is_empty() {
                    return Err(Status::invalid("", "Pod", target.name, &errors));
                }
            }
            Ok(pod)
        })
        .await
    }
}

fn copy_resources(pod: &mut Value, wanted: &Value) {
    for list in ["containers", "initContainers"] {
        let wanted = wanted.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        let containers = pod.pointer_mut(&format!("/spec/{list}")).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let same = wanted.into_iter().flatten().find(|w| w["name"] == container["name"]);
            for field in ["resources", "resizePolicy"] {
                if let Some(new) = same.and_then(|s| s.get(field)) {
                    container[field] = new.clone();
                }
            }
        }
    }
}

fn set_condition(pod: &mut Value, condition: Value) {
    if !pod["status"]["conditions"].is_array() {
        pod["status"]["conditions"] = json!([]);
    }
    if let Some(list) = pod["status"]["conditions"].as_array_mut() {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}
