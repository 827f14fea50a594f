//! VirtualMachineInstances: the pod that each one runs in, and what its state
//! means for the machine.

pub(crate) mod hotplug;
pub(crate) mod launcher;
mod report;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{CLAIMS, MACHINE_INSTANCES, PODS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{controlled_by, fresh_name};

/// Keeps an instance until its pod has ended.
pub(crate) const FINALIZER: &str = "kubevirt.io/foregroundDeleteVirtualMachine";

/// See the module.
pub struct InstanceController;

impl Controller for InstanceController {
    fn name(&self) -> &'static str {
        "virtualmachineinstance-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, _| controller_key(pod, "VirtualMachineInstance"),
        };
        let wanted = Input {
            gvr: CLAIMS,
            keys: |claim, view| {
                let instances = view.list(&MACHINE_INSTANCES, claim.namespace());
                let uses = |i: &&Arc<Object>| claims(&i.to_value()["spec"]).any(|c| c == claim.name());
                instances.iter().filter(uses).map(|i| Key::of(i)).collect()
            },
        };
        vec![Input::primary(MACHINE_INSTANCES), pods, wanted]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(instance) = view.get(&MACHINE_INSTANCES, &key.namespace, &key.name) else {
            return plan;
        };
        let mut pods: Vec<Launcher> = view
            .owned(&PODS, instance.uid())
            .into_iter()
            .filter(|p| controlled_by(p, &instance))
            .filter_map(|object| {
                let pod = object.view::<Pod>().ok()?;
                Some(Launcher { object, pod })
            })
            .collect();
        pods.sort_by(|a, b| {
            a.object
                .header()
                .creation_timestamp
                .cmp(&b.object.header().creation_timestamp)
        });
        let (pods, mut attachments): (Vec<_>, Vec<_>) = pods.into_iter().partition(|p| hotplug::is_launcher(&p.object));
        // Pods that receive a dump are the machine's business, until the instance ends.
        attachments.retain(|p| instance.is_deleting() || hotplug::is_attachment(&p.object));
        let work = Work {
            value: instance.to_value(),
            instance,
            pods,
            attachments,
            now,
        };
        work.plan(&mut plan, view);
        plan
    }
}

/// The pod of an instance.
struct Launcher {
    object: Arc<Object>,
    pod: Arc<Pod>,
}

struct Work {
    instance: Arc<Object>,
    value: Value,
    pods: Vec<Launcher>,
    /// Pods that bring disks.
    attachments: Vec<Launcher>,
    now: Timestamp,
}

impl Work {
    fn phase(&self) -> &str {
        self.value["status"]["phase"].as_str().unwrap_or("Pending")
    }

    fn is_final(&self) -> bool {
        matches!(self.phase(), "Succeeded" | "Failed")
    }

    fn plan(&self, plan: &mut Plan, view: &dyn View) {
        if self.instance.is_deleting() {
            return self.end(plan);
        }
        let finalizers = &self.instance.header().finalizers;
        if !finalizers.iter().any(|f| f == FINALIZER) {
            let all: Vec<_> = finalizers.iter().map(String::as_str).chain([FINALIZER]).collect();
            plan.patch(
                &MACHINE_INSTANCES,
                &self.instance,
                json!({"metadata": {"finalizers": all}}),
            );
            // The next plan goes on from the new version.
            return;
        }
        if self.pods.is_empty() && matches!(self.phase(), "" | "Pending") {
            match self.missing_claim(view) {
                Some(claim) => {
                    self.write_status(
                        plan,
                        Some((
                            "FailedPvcNotFound",
                            &format!("PVC {}/{claim} does not exist", self.instance.namespace()),
                        )),
                    );
                    return;
                }
                None => return self.launch(plan, view),
            }
        }
        self.write_status(plan, None);
        if !self.is_final() {
            self.attach(plan, view);
        } else {
            // A machine that has ended needs no pod that is still on its way.
            for p in self.pods.iter().chain(&self.attachments) {
                if !p.object.is_deleting() && !crate::common::is_terminal(&p.pod) {
                    plan.delete(&PODS, &p.object);
                }
            }
        }
    }

    fn missing_claim(&self, view: &dyn View) -> Option<String> {
        let volumes = self.value["spec"]["volumes"].as_array().into_iter().flatten();
        let volumes: Vec<&Value> = volumes.filter(|v| !hotplug::is_hotpluggable(v)).collect();
        let present = json!({"volumes": volumes});
        claims(&present).find(|c| view.get(&CLAIMS, self.instance.namespace(), c).is_none())
    }

    fn launch(&self, plan: &mut Plan, view: &dyn View) {
        let prefix = format!("virt-launcher-{}-", self.instance.name());
        let mut names = (0..).map(|i| fresh_name(&prefix, self.instance.uid(), self.now, i));
        let Some(name) = names.find(|n| view.get(&PODS, self.instance.namespace(), n).is_none()) else {
            return;
        };
        let pod = launcher::pod(&self.instance, &self.value, &name, view);
        plan.create(&PODS, self.instance.namespace(), pod);
        let message = format!("Created virtual machine pod {name}");
        plan.event(&self.instance, EventKind::Normal, "SuccessfulCreate", message);
    }

    /// How long the pod has for its end, when the instance was given less time than the pod was
    /// made with. Not zero: that would take the pod away before its machine has ended.
    fn shorter_grace(&self, p: &Launcher) -> Option<i64> {
        let asked = self.value["spec"]["terminationGracePeriodSeconds"].as_i64()?.max(0);
        let made = p.pod.spec.as_ref()?.termination_grace_period_seconds?;
        (asked + launcher::EXTRA_GRACE < made).then_some(asked.max(1))
    }

    fn end(&self, plan: &mut Plan) {
        for p in self.attachments.iter().filter(|p| !p.object.is_deleting()) {
            plan.delete(&PODS, &p.object);
        }
        for p in &self.pods {
            let grace = self.shorter_grace(p);
            if p.object.is_deleting() {
                // It was told to end, and is given less time now.
                let given = p.object.to_value()["metadata"]["deletionGracePeriodSeconds"].as_i64();
                if grace.is_some_and(|g| given.is_some_and(|given| g < given)) {
                    plan.delete_within(&PODS, &p.object, grace);
                }
                continue;
            }
            plan.delete_within(&PODS, &p.object, grace);
            let message = format!("Deleted virtual machine pod {}", p.object.name());
            plan.event(&self.instance, EventKind::Normal, "SuccessfulDelete", message);
        }
        let finalizers = &self.instance.header().finalizers;
        if self.pods.is_empty() && self.attachments.is_empty() {
            let left: Vec<_> = finalizers.iter().filter(|f| *f != FINALIZER).collect();
            if left.len() != finalizers.len() {
                plan.patch(
                    &MACHINE_INSTANCES,
                    &self.instance,
                    json!({"metadata": {"finalizers": left}}),
                );
            }
        } else {
            self.write_status(plan, None);
        }
    }
}

/// The claims that an instance's spec names.
pub(crate) fn claims(spec: &Value) -> impl Iterator<Item = String> {
    let volumes = spec["volumes"].as_array().into_iter().flatten();
    volumes.filter_map(|v| {
        let claim = &v["persistentVolumeClaim"]["claimName"];
        let data_volume = &v["dataVolume"]["name"];
        claim.as_str().or_else(|| data_volume.as_str()).map(str::to_owned)
    })
}

/// Whether an instance has been in a phase.
pub(crate) fn reached(instance: &Value, phase: &str) -> bool {
    let times = instance["status"]["phaseTransitionTimestamps"].as_array();
    instance["status"]["phase"] == phase || times.into_iter().flatten().any(|t| t["phase"] == phase)
}

#[cfg(test)]
mod tests;
