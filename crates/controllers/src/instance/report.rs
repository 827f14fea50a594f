//! What an instance's status says, read off its pod.

use k8s_openapi::api::core::v1::{ContainerStatus, Pod};
use kinds::resources::MACHINE_INSTANCES;
use reconcile::{EventKind, Plan};
use serde_json::{Value, json};

use super::{Launcher, Work};
use crate::common::{phase, pod_condition};
use crate::status::{self, Conditions};

impl Work {
    /// Writes the status; `trouble` is why there is no pod yet.
    pub(super) fn write_status(&self, plan: &mut Plan, trouble: Option<(&str, &str)>) {
        let launcher = self.pods.last();
        let next = self.next_phase(launcher);
        let mut conditions = Conditions::of(&self.value, self.now);
        self.conditions(&mut conditions, launcher, next, trouble);
        let old = &self.value["status"];
        let mut times = old["phaseTransitionTimestamps"].as_array().cloned().unwrap_or_default();
        if !times.iter().any(|t| t["phase"] == next) {
            let now = meta::time::rfc3339(self.now);
            times.push(json!({"phase": next, "phaseTransitionTimestamp": now}));
        }
        if self.phase() != next {
            self.say(plan, next);
        }
        if let Some((reason, message)) = trouble
            && Conditions::of(&self.value, self.now).reason("Synchronized") != reason
        {
            plan.event(&self.instance, EventKind::Warning, "FailedPvcNotFound", message);
        }
        let mut new = json!({
            "phase": next,
            "phaseTransitionTimestamps": times,
            "conditions": conditions.into_value(),
            "runtimeUser": 107,
            "machine": {"type": "q35"},
        });
        if let Some(p) = launcher {
            let spec = p.pod.spec.as_ref();
            let status = p.pod.status.as_ref();
            let node = spec.and_then(|s| s.node_name.clone());
            if let Some(node) = &node {
                new["nodeName"] = node.as_str().into();
                new["activePods"] = json!({p.object.uid(): node});
            }
            if let Some(qos) = status.and_then(|s| s.qos_class.clone()) {
                new["qosClass"] = qos.into();
            }
            if let Some(interfaces) = self.interfaces(&p.pod) {
                new["interfaces"] = interfaces;
            }
            new["volumeStatus"] = self.volumes();
        }
        // The node writes conditions too: neither may undo the other's.
        status::write_version(plan, &MACHINE_INSTANCES, &self.instance, &self.value, &new);
    }

    fn next_phase(&self, launcher: Option<&Launcher>) -> &'static str {
        if self.is_final() {
            return if self.phase() == "Succeeded" {
                "Succeeded"
            } else {
                "Failed"
            };
        }
        let Some(p) = launcher else {
            // A pod that was there and is gone took the machine with it.
            return match self.phase() {
                "" | "Pending" => "Pending",
                _ => "Failed",
            };
        };
        match phase(&p.pod) {
            "Succeeded" => "Succeeded",
            "Failed" => "Failed",
            _ => match compute(&p.pod) {
                Some(c) if c.state.as_ref().is_some_and(|s| s.running.is_some()) => "Running",
                Some(c) if c.state.as_ref().is_some_and(|s| s.terminated.is_some()) => self.known_phase(),
                _ if pod_condition(&p.pod, "PodReadyToStartContainers").is_some_and(|c| c.status == "True") => {
                    "Scheduled"
                }
                _ => "Scheduling",
            },
        }
    }

    /// The phase as it is, as one of ours.
    fn known_phase(&self) -> &'static str {
        match self.phase() {
            "Running" => "Running",
            "Scheduled" => "Scheduled",
            _ => "Scheduling",
        }
    }

    fn say(&self, plan: &mut Plan, next: &str) {
        let message = match next {
            "Running" => ("Started", "VirtualMachineInstance started."),
            "Succeeded" => ("Stopped", "The VirtualMachineInstance was shut down."),
            "Failed" => ("Stopped", "The VirtualMachineInstance crashed."),
            _ => return,
        };
        let kind = if next == "Failed" {
            EventKind::Warning
        } else {
            EventKind::Normal
        };
        plan.event(&self.instance, kind, message.0, message.1);
    }

    fn conditions(&self, c: &mut Conditions, launcher: Option<&Launcher>, next: &str, trouble: Option<(&str, &str)>) {
        let ready = launcher.and_then(|p| pod_condition(&p.pod, "Ready"));
        match (next, ready) {
            ("Running", Some(r)) if r.status == "True" => _ = c.set("Ready", true, "", ""),
            ("Running", Some(r)) => {
                let reason = r.reason.clone().unwrap_or_default();
                c.set("Ready", false, &reason, &r.message.clone().unwrap_or_default());
            }
            ("Succeeded" | "Failed", _) => {
                _ = c.set("Ready", false, "PodTerminating", "virt-launcher pod is terminating")
            }
            (_, Some(_)) => _ = c.set("Ready", false, "GuestNotRunning", "Guest VM is not reported as running"),
            _ => {
                _ = c.set(
                    "Ready",
                    false,
                    "PodNotExists",
                    "virt-launcher pod has not yet been scheduled",
                )
            }
        }
        match launcher.and_then(|p| pod_condition(&p.pod, "PodScheduled")) {
            Some(p) if p.status == "False" => {
                let reason = p.reason.clone().unwrap_or_default();
                c.set("PodScheduled", false, &reason, &p.message.clone().unwrap_or_default());
            }
            _ => c.remove("PodScheduled"),
        }
        let waiting = launcher.and_then(|p| trouble_of(&p.pod));
        match (trouble, waiting) {
            (Some((reason, message)), _) => _ = c.set("Synchronized", false, reason, message),
            (None, Some((reason, message))) => _ = c.set("Synchronized", false, &reason, &message),
            (None, None) => c.remove("Synchronized"),
        }
        if launcher.is_some() {
            let volumes = self.value["spec"]["volumes"].as_array();
            let local = volumes
                .into_iter()
                .flatten()
                .any(|v| v["persistentVolumeClaim"].is_object());
            if local {
                let message = "cannot migrate VMI: PVCs on local volumes cannot be shared between nodes";
                c.set("LiveMigratable", false, "DisksNotLiveMigratable", message);
            } else {
                let message = "cannot migrate VMI: live migration is not available in this version";
                c.set("LiveMigratable", false, "MigrationNotSupported", message);
            }
        }
    }

    /// The interfaces, unless they are there with the pod's address: the node knows more of them.
    fn interfaces(&self, pod: &Pod) -> Option<Value> {
        let ip = pod.status.as_ref().and_then(|s| s.pod_ip.clone()).unwrap_or_default();
        let present = &self.value["status"]["interfaces"][0];
        if present.is_object() && (ip.is_empty() || present["ipAddress"] == ip.as_str()) {
            return None;
        }
        let asked = self.value["spec"]["domain"]["devices"]["interfaces"].as_array();
        let interfaces = asked.into_iter().flatten().map(|i| {
            let mut out = json!({"name": i["name"], "infoSource": "domain", "podInterfaceName": "eth0"});
            if !ip.is_empty() {
                out["ipAddress"] = ip.as_str().into();
                out["ipAddresses"] = json!([ip]);
            }
            if i["macAddress"].is_string() {
                out["mac"] = i["macAddress"].clone();
            }
            out
        });
        let interfaces: Vec<Value> = interfaces.collect();
        (!interfaces.is_empty()).then(|| interfaces.into())
    }

    fn volumes(&self) -> Value {
        let spec = &self.value["spec"];
        let disks = spec["domain"]["devices"]["disks"].as_array();
        let (mut virtio, mut scsi) = ('a'..='z', 'a'..='z');
        let volumes = disks.into_iter().flatten().map(|d| {
            let name = d["name"].as_str().unwrap_or_default();
            let body = if d["cdrom"].is_object() {
                &d["cdrom"]
            } else {
                &d["disk"]
            };
            let default = if d["cdrom"].is_object() { "sata" } else { "virtio" };
            let bus = body["bus"].as_str().unwrap_or(default);
            let letter = if bus == "virtio" { virtio.next() } else { scsi.next() };
            let prefix = if bus == "virtio" { "vd" } else { "sd" };
            let mut out = json!({"name": name, "target": letter.map_or(String::new(), |l| format!("{prefix}{l}"))});
            let mut all = spec["volumes"].as_array().into_iter().flatten();
            if all.any(|v| v["name"] == name && super::hotplug::is_hotpluggable(v))
                && let (Some(out), Value::Object(more)) = (out.as_object_mut(), self.attachment_status(name))
            {
                out.extend(more);
            }
            out
        });
        let volumes: Vec<Value> = volumes.chain(self.leaving()).collect();
        if volumes.is_empty() {
            Value::Null
        } else {
            volumes.into()
        }
    }
}

fn compute(pod: &Pod) -> Option<&ContainerStatus> {
    let statuses = pod.status.as_ref()?.container_statuses.as_ref()?;
    statuses.iter().find(|c| c.name == "compute")
}

/// Why the machine's container does not start, if that is more than a matter of time.
fn trouble_of(pod: &Pod) -> Option<(String, String)> {
    let waiting = compute(pod)?.state.as_ref()?.waiting.as_ref()?;
    let reason = waiting.reason.clone()?;
    let usual = ["ContainerCreating", "PodInitializing"];
    (!usual.contains(&reason.as_str())).then(|| (reason, waiting.message.clone().unwrap_or_default()))
}
