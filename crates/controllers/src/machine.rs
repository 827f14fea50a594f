//! VirtualMachines: when an instance is to be there, and what is said about it.

pub(crate) mod dump;
mod templates;

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kinds::resources::{CLAIMS, MACHINE_INSTANCES, MACHINES, PODS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{controlled_by, owner_reference};
use crate::instance;
use crate::status::{self, Conditions};

/// First pause after a machine failed before it ran; it grows with the square of failures in a row.
const FIRST_PAUSE: i64 = 10;
/// Longest pause.
const LONGEST_PAUSE: i64 = 300;
/// Conditions of the instance that the machine shows as its own.
const SHOWN: [&str; 6] = [
    "Ready",
    "Paused",
    "AgentConnected",
    "LiveMigratable",
    "StorageLiveMigratable",
    "PodScheduled",
];

/// See the module.
pub struct MachineController;

impl Controller for MachineController {
    fn name(&self) -> &'static str {
        "virtualmachine-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let instances = Input {
            gvr: MACHINE_INSTANCES,
            keys: |o, _| controller_key(o, "VirtualMachine"),
        };
        let claims = Input {
            gvr: CLAIMS,
            keys: |claim, view| {
                let machines = view.list(&MACHINES, claim.namespace());
                let uses = |m: &&Arc<Object>| {
                    let spec = &m.to_value()["spec"]["template"]["spec"];
                    instance::claims(spec).any(|c| c == claim.name())
                };
                machines.iter().filter(uses).map(|m| Key::of(m)).collect()
            },
        };
        let dumps = Input {
            gvr: PODS,
            keys: |pod, _| {
                let dumps = pod.labels().get("kubevirt.io").is_some_and(|l| l == dump::LABEL);
                let machine = pod.labels().get(dump::MACHINE).filter(|_| dumps);
                machine.map(|m| Key::new(pod.namespace(), m)).into_iter().collect()
            },
        };
        vec![Input::primary(MACHINES), instances, claims, dumps]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(machine) = view.get(&MACHINES, &key.namespace, &key.name) else {
            return plan;
        };
        let found = view.get(&MACHINE_INSTANCES, &key.namespace, &key.name);
        let foreign = found.as_ref().is_some_and(|i| !controlled_by(i, &machine));
        let work = Work {
            value: machine.to_value(),
            instance: found.filter(|_| !foreign).map(|i| (i.clone(), i.to_value())),
            machine,
            foreign,
            now,
        };
        work.plan(&mut plan, view);
        plan
    }
}

struct Work {
    machine: Arc<Object>,
    value: Value,
    instance: Option<(Arc<Object>, Value)>,
    /// An instance of this name belongs to somebody else.
    foreign: bool,
    now: Timestamp,
}

/// What the instance's state lets us do.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    None,
    Ending,
    Failed,
    Succeeded,
    Alive,
}

impl Work {
    fn strategy(&self) -> &str {
        match (&self.value["spec"]["runStrategy"], &self.value["spec"]["running"]) {
            (Value::String(s), _) => s,
            (_, Value::Bool(true)) => "Always",
            _ => "Halted",
        }
    }

    fn life(&self) -> Life {
        match &self.instance {
            None => Life::None,
            Some((o, _)) if o.is_deleting() => Life::Ending,
            Some((_, v)) if v["status"]["phase"] == "Failed" => Life::Failed,
            Some((_, v)) if v["status"]["phase"] == "Succeeded" => Life::Succeeded,
            Some(_) => Life::Alive,
        }
    }

    fn requests(&self) -> Vec<Value> {
        self.value["status"]["stateChangeRequests"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    }

    fn plan(&self, plan: &mut Plan, view: &dyn View) {
        if self.machine.is_deleting() {
            return self.write_status(
                plan,
                view,
                &self.requests(),
                &self.value["status"]["startFailure"],
                false,
            );
        }
        let life = self.life();
        let (requests, stop) = self.serve_requests(life);
        let start_asked = requests.iter().any(|r| r["action"] == "Start");
        let failure = self.failure(life);
        let pause = self.pause(&failure);
        let mut left = requests;
        let wants = match self.strategy() {
            "Always" => true,
            "RerunOnFailure" => life != Life::Succeeded || start_asked,
            "Once" => self.value["status"]["created"].is_null() && life == Life::None && !self.ran_once(),
            "Manual" => start_asked || (life == Life::Alive && !stop),
            _ => false,
        };
        let mut created = false;
        match life {
            Life::None if wants && !self.foreign => match pause {
                Some(pause) => plan.again(pause),
                None => {
                    self.create(plan);
                    left.retain(|r| r["action"] != "Start");
                    created = true;
                }
            },
            Life::Alive if stop || !keeps(self.strategy()) => self.stop(plan),
            Life::Failed if matches!(self.strategy(), "Always" | "RerunOnFailure") || start_asked => self.stop(plan),
            Life::Succeeded if self.strategy() == "Always" || start_asked => self.stop(plan),
            Life::Failed | Life::Succeeded if self.strategy() == "Halted" || stop => self.stop(plan),
            _ => {}
        }
        self.write_status(plan, view, &left, &failure, created);
    }

    fn ran_once(&self) -> bool {
        !self.value["status"]["ready"].is_null() || !self.value["status"]["printableStatus"].is_null()
    }

    /// Requests that are still open, and whether the instance is to stop.
    fn serve_requests(&self, life: Life) -> (Vec<Value>, bool) {
        let uid = self.instance.as_ref().map_or("", |(o, _)| o.uid());
        let mut open = self.requests();
        let meant = |r: &Value| r["action"] == "Stop" && r["uid"] == uid;
        let stop = !uid.is_empty() && open.iter().any(meant);
        // A stop is done once its instance is on its way out, or gone.
        open.retain(|r| r["action"] != "Stop" || (meant(r) && matches!(life, Life::Alive)));
        open.retain(|r| r["action"] != "Start" || life != Life::Alive || stop);
        (open, stop)
    }

    /// `status.startFailure`: counts instances that failed before they ran.
    fn failure(&self, life: Life) -> Value {
        let old = &self.value["status"]["startFailure"];
        let Some((object, value)) = &self.instance else {
            return old.clone();
        };
        let ran = instance::reached(value, "Running");
        match life {
            Life::Failed if !ran && old["lastFailedVMIUID"] != object.uid() => {
                let count = old["consecutiveFailCount"].as_i64().unwrap_or(0) + 1;
                let pause = (FIRST_PAUSE * count * count).min(LONGEST_PAUSE);
                let at = self
                    .now
                    .checked_add(SignedDuration::from_secs(pause))
                    .unwrap_or(self.now);
                json!({"consecutiveFailCount": count, "lastFailedVMIUID": object.uid(),
                    "retryAfterTimestamp": meta::time::rfc3339(at)})
            }
            Life::Alive if ran => Value::Null,
            _ => old.clone(),
        }
    }

    fn pause(&self, failure: &Value) -> Option<Duration> {
        let at = failure["retryAfterTimestamp"].as_str().and_then(meta::time::parse)?;
        let left = at.duration_since(self.now);
        left.is_positive().then(|| left.unsigned_abs())
    }

    fn create(&self, plan: &mut Plan) {
        let template = &self.value["spec"]["template"];
        let mut labels = template["metadata"]["labels"].clone();
        labels["kubevirt.io/vm"] = self.machine.name().into();
        let mut metadata = json!({"name": self.machine.name(), "labels": labels,
            "ownerReferences": [owner_reference(&self.machine)],
            "finalizers": [instance::FINALIZER]});
        if !template["metadata"]["annotations"].is_null() {
            metadata["annotations"] = template["metadata"]["annotations"].clone();
        }
        let mut spec = template["spec"].clone();
        if self.requests().iter().any(|r| r["data"]["paused"] == "true") {
            spec["startStrategy"] = "Paused".into();
        }
        let object = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance", "metadata": metadata,
            "spec": spec});
        plan.create(&MACHINE_INSTANCES, self.machine.namespace(), object);
        let message = format!(
            "Started the virtual machine by creating the new virtual machine instance {}",
            self.machine.name()
        );
        plan.event(&self.machine, EventKind::Normal, "SuccessfulCreate", message);
    }

    fn stop(&self, plan: &mut Plan) {
        let Some((object, _)) = &self.instance else { return };
        plan.delete(&MACHINE_INSTANCES, object);
        let message = format!(
            "Stopped the virtual machine by deleting the virtual machine instance {}",
            object.uid()
        );
        plan.event(&self.machine, EventKind::Normal, "SuccessfulDelete", message);
    }

    fn write_status(&self, plan: &mut Plan, view: &dyn View, requests: &[Value], failure: &Value, created: bool) {
        let mut conditions = Conditions::of(&self.value, self.now);
        match &self.instance {
            None => {
                // Ready stays, with its time: it only says something else.
                for kind in SHOWN.into_iter().filter(|k| *k != "Ready") {
                    conditions.remove(kind);
                }
                let reason = "VMINotExists";
                conditions.set("Ready", false, reason, "VMI does not exist");
            }
            Some((_, instance)) => {
                for kind in SHOWN {
                    let shown = instance["status"]["conditions"].as_array().into_iter().flatten();
                    match shown.into_iter().find(|c| c["type"] == kind) {
                        Some(c) => {
                            let text = |f: &str| c[f].as_str().unwrap_or_default();
                            conditions.set_text(kind, text("status"), text("reason"), text("message"));
                        }
                        None => conditions.remove(kind),
                    }
                }
            }
        }
        if self.foreign {
            let message = format!(
                "virtual machine instance {} is not controlled by this virtual machine; delete it or rename one of the two",
                self.machine.name()
            );
            conditions.set("Failure", true, "FailedCreate", &message);
        } else if let Some(message) = self.bring_claims(plan, view) {
            conditions.set("Failure", true, "FailedCreate", &message);
        } else {
            conditions.remove("Failure");
        }
        let printable = if created {
            "Starting"
        } else {
            self.printable(view, failure)
        };
        let ready = conditions.is("Ready", "True");
        let new = json!({
            "created": if self.instance.is_some() || created { json!(true) } else { Value::Null },
            "ready": if ready { json!(true) } else { Value::Null },
            "printableStatus": printable,
            "runStrategy": self.strategy(),
            "stateChangeRequests": if requests.is_empty() { Value::Null } else { json!(requests) },
            "startFailure": failure,
            "memoryDumpRequest": if self.machine.is_deleting() { Value::Null } else { self.dump(plan, view, self.life()) },
            "conditions": conditions.into_value(),
            "observedGeneration": self.machine.header().generation,
            "desiredGeneration": self.machine.header().generation,
        });
        status::write(plan, &MACHINES, &self.machine, &self.value, &new);
    }

    fn printable(&self, view: &dyn View, failure: &Value) -> &'static str {
        if self.machine.is_deleting() {
            return "Terminating";
        }
        let missing = instance::claims(&self.value["spec"]["template"]["spec"])
            .any(|c| view.get(&CLAIMS, self.machine.namespace(), &c).is_none());
        let Some((_, instance)) = &self.instance else {
            return match () {
                () if keeps(self.strategy()) && missing => "ErrorPvcNotFound",
                () if self.pause(failure).is_some() && self.strategy() != "Halted" => "CrashLoopBackOff",
                () if self.strategy() == "Always" => "Starting",
                () => "Stopped",
            };
        };
        let conditions = Conditions::of(instance, self.now);
        match (self.life(), instance["status"]["phase"].as_str().unwrap_or("Pending")) {
            (Life::Ending, _) => "Stopping",
            (Life::Failed, _) if self.pause(failure).is_some() => "CrashLoopBackOff",
            (Life::Failed | Life::Succeeded, _) => {
                if self.strategy() == "Always" {
                    "Stopping"
                } else {
                    "Stopped"
                }
            }
            (_, "Running") if conditions.is("Paused", "True") => "Paused",
            (_, "Running") => "Running",
            _ if missing => "ErrorPvcNotFound",
            _ if conditions.reason("PodScheduled") == "Unschedulable" => "ErrorUnschedulable",
            _ => match conditions.reason("Synchronized") {
                "ErrImagePull" | "ErrImageNeverPull" => "ErrImagePull",
                "ImagePullBackOff" => "ImagePullBackOff",
                _ if self.waits_for_volume(view) => "WaitingForVolumeBinding",
                _ => "Starting",
            },
        }
    }

    fn waits_for_volume(&self, view: &dyn View) -> bool {
        instance::claims(&self.value["spec"]["template"]["spec"]).any(|c| {
            let claim = view.get(&CLAIMS, self.machine.namespace(), &c);
            claim.is_some_and(|c| c.to_value()["status"]["phase"] != "Bound")
        })
    }
}

/// Whether a strategy lets an instance that lives go on.
fn keeps(strategy: &str) -> bool {
    matches!(
        strategy,
        "Always" | "RerunOnFailure" | "Manual" | "Once" | "WaitAsReceiver"
    )
}

#[cfg(test)]
mod tests;
