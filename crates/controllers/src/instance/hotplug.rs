//! Disks that are added while a machine runs: each comes with a pod of its own,
//! which lives as long as the disk is plugged. The scheduler and the node treat
//! its claim as that of any pod.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{CLAIMS, PODS};
use meta::Object;
use reconcile::{EventKind, Plan, View};
use serde_json::{Value, json};

use super::launcher::{IMAGE, RUNTIME};
use super::{Launcher, Work};
use crate::common::{fresh_name, is_terminal, owner_reference, phase};

/// Value of the label `kubevirt.io` of such pods.
pub(super) const LABEL: &str = "hotplug-disk";
/// Names the volume.
const VOLUME: &str = "machines.allmend.io/volume";
/// How long after it a plug that failed is tried again.
const PAUSE: i64 = 15;

/// Whether a volume comes while the machine runs.
pub(crate) fn is_hotpluggable(volume: &Value) -> bool {
    let kinds = ["persistentVolumeClaim", "dataVolume"];
    kinds.iter().any(|k| volume[*k]["hotpluggable"] == true)
}

/// Whether a pod brings a disk.
pub(super) fn is_attachment(pod: &Object) -> bool {
    pod.labels().get("kubevirt.io").is_some_and(|l| l == LABEL)
}

/// Whether a pod is the machine itself.
pub(super) fn is_launcher(pod: &Object) -> bool {
    let helps = |l: &String| l == LABEL || l == crate::machine::dump::LABEL;
    !pod.labels().get("kubevirt.io").is_some_and(helps)
}

/// The claim of a volume.
fn claim_of(volume: &Value) -> Option<&str> {
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
    claim.or_else(|| volume["dataVolume"]["name"].as_str())
}

fn volume_of(pod: &Object) -> &str {
    pod.annotations().get(VOLUME).map_or("", String::as_str)
}

impl Work {
    fn hotplugged(&self) -> impl Iterator<Item = (&str, &Value)> {
        let volumes = self.value["spec"]["volumes"].as_array().into_iter().flatten();
        let volumes = volumes.filter(|v| is_hotpluggable(v));
        volumes.filter_map(|v| Some((v["name"].as_str()?, v)))
    }

    fn attachment(&self, volume: &str) -> Option<&Launcher> {
        let mut found = self.attachments.iter();
        found.rfind(|p| volume_of(&p.object) == volume)
    }

    /// Makes the pods of disks that are wanted, and ends those of disks that are not.
    pub(super) fn attach(&self, plan: &mut Plan, view: &dyn View) {
        for p in self.attachments.iter().filter(|p| !p.object.is_deleting()) {
            let wanted = self.hotplugged().any(|(name, _)| name == volume_of(&p.object));
            let failed = is_terminal(&p.pod);
            let since = p
                .object
                .header()
                .creation_timestamp
                .as_deref()
                .and_then(meta::time::parse);
            let again = since.and_then(|s| s.checked_add(SignedDuration::from_secs(PAUSE)).ok());
            match again.map(|a| a.duration_since(self.now)) {
                _ if !wanted => {}
                Some(left) if failed && left.is_positive() => {
                    plan.again(Duration::from_secs(left.unsigned_abs().as_secs() + 1));
                    continue;
                }
                _ if !failed => continue,
                _ => {}
            }
            plan.delete(&PODS, &p.object);
            let message = format!("Deleted attachment pod {}", p.object.name());
            plan.event(&self.instance, EventKind::Normal, "SuccessfulDelete", message);
        }
        let node = self.pods.last().and_then(|p| p.pod.spec.as_ref()?.node_name.clone());
        let Some(node) = node.filter(|_| self.phase() == "Running") else {
            return;
        };
        for (name, volume) in self.hotplugged().filter(|(name, _)| self.attachment(name).is_none()) {
            let claim = claim_of(volume).unwrap_or_default();
            let Some(found) = view.get(&CLAIMS, self.instance.namespace(), claim) else {
                continue;
            };
            let mut names =
                (0..).map(|i| fresh_name("hp-volume-", &format!("{}/{name}", self.instance.uid()), self.now, i));
            let Some(pod) = names.find(|n| view.get(&PODS, self.instance.namespace(), n).is_none()) else {
                continue;
            };
            plan.create(
                &PODS,
                self.instance.namespace(),
                self.attachment_pod(&pod, &node, name, volume, &found),
            );
            let message = format!("Created attachment pod {pod}");
            plan.event(&self.instance, EventKind::Normal, "SuccessfulCreate", message);
        }
    }

    fn attachment_pod(&self, pod: &str, node: &str, name: &str, volume: &Value, claim: &Arc<Object>) -> Value {
        let mut container = json!({"name": LABEL, "image": IMAGE, "imagePullPolicy": "IfNotPresent"});
        if claim.to_value()["spec"]["volumeMode"] == "Block" {
            container["volumeDevices"] = json!([{"name": name, "devicePath": format!("/dev/{name}")}]);
        } else {
            let path = format!("/var/run/kubevirt/hotplug-disks/{name}");
            container["volumeMounts"] = json!([{"name": name, "mountPath": path}]);
        }
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [node]}]});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}});
        let claim = claim_of(volume).unwrap_or_default();
        json!({"apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": pod, "labels": {"kubevirt.io": LABEL, "kubevirt.io/created-by": self.instance.uid()},
                "annotations": {RUNTIME: "qemu", VOLUME: name},
                "ownerReferences": [owner_reference(&self.instance)]},
            "spec": {"restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
                "terminationGracePeriodSeconds": 30, "affinity": affinity, "containers": [container],
                "tolerations": [{"operator": "Exists"}],
                "volumes": [{"name": name, "persistentVolumeClaim": {"claimName": claim}}]}})
    }

    /// What the status says of a hot-plugged disk, besides its name.
    pub(super) fn attachment_status(&self, name: &str) -> Value {
        let Some(p) = self.attachment(name) else {
            return json!({"phase": "Pending", "reason": "PVCNotReady", "message": "PVC is in phase Pending",
                "hotplugVolume": {}});
        };
        let pod = json!({"attachPodName": p.object.name(), "attachPodUID": p.object.uid()});
        let (phase, reason, message) = match (phase(&p.pod), scheduled(&p.pod)) {
            _ if p.object.is_deleting() => ("Detaching", "", String::new()),
            ("Running", _) => {
                let message = format!("Successfully attach hotplugged volume {name} to VM");
                ("Ready", "VolumeReady", message)
            }
            ("Failed", _) => ("AttachedToNode", "VolumeNotPlugged", trouble(&p.pod)),
            (_, true) => {
                let message = format!("Created hotplug attachment pod {}, for volume {name}", p.object.name());
                ("AttachedToNode", "SuccessfulCreate", message)
            }
            _ => ("Bound", "PVCNotReady", String::new()),
        };
        let mut out = json!({"phase": phase, "hotplugVolume": pod});
        if !reason.is_empty() {
            out["reason"] = reason.into();
        }
        if !message.is_empty() {
            out["message"] = message.into();
        }
        out
    }

    /// Disks that are not wanted any more and still there.
    pub(super) fn leaving(&self) -> impl Iterator<Item = Value> {
        let gone = |p: &&Launcher| self.hotplugged().all(|(name, _)| name != volume_of(&p.object));
        self.attachments.iter().filter(gone).map(|p| {
            json!({"name": volume_of(&p.object), "target": "", "phase": "Detaching",
                "hotplugVolume": {"attachPodName": p.object.name(), "attachPodUID": p.object.uid()}})
        })
    }
}

fn scheduled(pod: &Pod) -> bool {
    pod.spec.as_ref().is_some_and(|s| s.node_name.is_some())
}

/// Why the disk could not be plugged.
fn trouble(pod: &Pod) -> String {
    let statuses = pod.status.as_ref().and_then(|s| s.container_statuses.as_ref());
    let ends = statuses
        .into_iter()
        .flatten()
        .filter_map(|c| c.state.as_ref()?.terminated.as_ref()?.message.clone());
    ends.collect::<Vec<_>>().join("; ")
}
