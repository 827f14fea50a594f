//! `status.memoryDumpRequest`: a pod with the claim receives the guest's memory.
//! Must not run a request twice: the file's name says which one a pod serves.

use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kinds::resources::PODS;
use meta::Object;
use reconcile::{EventKind, Plan, View};
use serde_json::{Value, json};

use super::{Life, Work};
use crate::common::{fresh_name, owner_reference, phase};
use crate::instance::launcher::{IMAGE, RUNTIME};

/// Value of the label `kubevirt.io` of such pods.
pub(crate) const LABEL: &str = "memory-dump";
/// How long a pod that was made may stay unseen, in seconds.
const UNSEEN: i64 = 20;
/// Annotation with the name of the file.
const FILE: &str = "machines.allmend.io/file";
/// Label with the name of the machine.
pub(crate) const MACHINE: &str = "vm.kubevirt.io/name";

impl Work {
    /// Brings a request on its way, and gives it as it stands then.
    pub(super) fn dump(&self, plan: &mut Plan, view: &dyn View, life: Life) -> Value {
        let mut request = self.value["status"]["memoryDumpRequest"].clone();
        if !request.is_object() {
            return Value::Null;
        }
        let file = request["fileName"].as_str().unwrap_or_default().to_owned();
        let pods: Vec<_> = view
            .list(&PODS, self.machine.namespace())
            .into_iter()
            .filter(|p| p.labels().get("kubevirt.io").is_some_and(|l| l == LABEL))
            .filter(|p| p.labels().get(MACHINE).is_some_and(|l| l == self.machine.name()))
            .collect();
        let serves = |p: &Object| p.annotations().get(FILE).is_some_and(|f| *f == file);
        let runs = self
            .instance
            .as_ref()
            .filter(|(_, v)| life == Life::Alive && v["status"]["phase"] == "Running");
        let now = meta::time::rfc3339(self.now);
        match request["phase"].as_str().unwrap_or_default() {
            "Associating" => {
                let Some((instance, value)) = runs else {
                    return self.dump_failed(request, "the machine does not run");
                };
                let claim = request["claimName"].as_str().unwrap_or_default();
                let stamp = self.now.strftime("%Y%m%d-%H%M%S").to_string();
                let file = format!("{}-{claim}-{stamp}.memory.dump", self.machine.name());
                let name = fresh_name("hp-volume-", &format!("{}/{file}", instance.uid()), self.now, 0);
                let node = value["status"]["nodeName"].as_str().unwrap_or_default();
                plan.create(
                    &PODS,
                    self.machine.namespace(),
                    self.dump_pod(instance, &name, node, claim, &file),
                );
                let message = format!("Created attachment pod {name}");
                plan.event(&self.machine, EventKind::Normal, "SuccessfulCreate", message);
                request["phase"] = "InProgress".into();
                request["startTimestamp"] = now.into();
                request["fileName"] = file.into();
            }
            "InProgress" => {
                let Some(pod) = pods.iter().find(|p| serves(p)) else {
                    // It may not have been seen yet.
                    let since = request["startTimestamp"].as_str().and_then(meta::time::parse);
                    if since.is_some_and(|s| self.now.duration_since(s).as_secs() < UNSEEN) {
                        plan.again(Duration::from_secs(UNSEEN.unsigned_abs()));
                        return request;
                    }
                    return self.dump_failed(request, "the pod that was to receive the memory is gone");
                };
                let Ok(view) = pod.view::<Pod>() else { return request };
                match phase(&view) {
                    "Succeeded" => {
                        request["phase"] = "Completed".into();
                        request["endTimestamp"] = now.into();
                    }
                    "Failed" => request = self.dump_failed(request, &words(&view)),
                    _ if runs.is_none() => request = self.dump_failed(request, "the machine has ended"),
                    _ => return request,
                }
                plan.delete(&PODS, pod);
            }
            phase => {
                for pod in pods.iter().filter(|p| !p.is_deleting()) {
                    plan.delete(&PODS, pod);
                }
                if phase == "Dissociating" && pods.is_empty() {
                    return Value::Null;
                }
            }
        }
        request
    }

    fn dump_failed(&self, mut request: Value, why: &str) -> Value {
        request["phase"] = "Failed".into();
        request["message"] = why.into();
        request["endTimestamp"] = meta::time::rfc3339(self.now).into();
        request
    }

    fn dump_pod(&self, instance: &Object, name: &str, node: &str, claim: &str, file: &str) -> Value {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}});
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"kubevirt.io": LABEL, MACHINE: self.machine.name()},
                "annotations": {RUNTIME: "qemu", FILE: file}, "ownerReferences": [owner_reference(instance)]},
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 5, "affinity": affinity, "tolerations": [{"operator": "Exists"}],
                "containers": [{"name": LABEL, "image": IMAGE, "imagePullPolicy": "IfNotPresent",
                    "volumeMounts": [{"name": "dump", "mountPath": "/var/run/kubevirt/memory-dump"}]}],
                "volumes": [{"name": "dump", "persistentVolumeClaim": {"claimName": claim}}]}})
    }
}

/// Why a pod failed.
fn words(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let ends = statuses
        .into_iter()
        .flatten()
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.message.clone());
    let said: Vec<String> = ends.collect();
    if said.is_empty() {
        return "the pod that was to receive the memory failed".into();
    }
    said.join("; ")
}
