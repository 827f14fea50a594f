//! A seeded simulation: every control loop, a node and users in one small
//! world, in an order that the seed decides, with plans that break off half-way.
//! The same seed gives the same run.
//!
//! Must not know the clock, the network or the disk.

use std::sync::Arc;

use controllers::garbage;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{MACHINE_INSTANCES, MACHINES, PODS};
use meta::Object;
use reconcile::{Action, Controller, Key, View, World};
use serde_json::{Value, json};

/// Numbers that look random, the same for the same seed (PCG, O'Neill 2014).
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Begins at a seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below a limit.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let mixed = (self.0 ^ (self.0 >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 33;
        usize::try_from(mixed).unwrap_or(0) % limit.max(1)
    }

    /// Whether one in so many happens now.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// The world and all who act in it.
pub struct Simulation {
    /// All objects.
    pub world: World,
    /// The seed's numbers.
    pub dice: Dice,
    now: Timestamp,
    controllers: Vec<Arc<dyn Controller>>,
    collected: Vec<garbage::Served>,
}

impl Simulation {
    /// An empty world.
    pub fn new(seed: u64) -> Self {
        let mut controllers = controllers::all("PEM");
        controllers.extend(controllers::machines());
        let collected = garbage::served(&[]);
        controllers.push(Arc::new(controllers::NamespaceController::new(&collected)));
        Simulation {
            world: World::default(),
            dice: Dice::new(seed),
            now: Timestamp::from_second(1_767_225_600).unwrap_or(Timestamp::UNIX_EPOCH),
            controllers,
            collected,
        }
    }

    /// Something happens: a control loop looks at something, garbage is collected, or the node
    /// gets on with a pod. With `faults`, plans break off and pods crash.
    pub fn step(&mut self, faults: bool) {
        self.now = self
            .now
            .checked_add(SignedDuration::from_millis(700))
            .unwrap_or(self.now);
        match self.dice.below(10) {
            0..=5 => {
                let which = self.dice.below(self.controllers.len());
                let controller = self.controllers[which].clone();
                if let Some(key) = self.some_key(controller.as_ref()) {
                    self.plan(controller.as_ref(), &key, faults);
                }
            }
            6 => self.collect_garbage(),
            _ => self.node(faults),
        }
    }

    /// Everything happens until nothing is left to do; false when that takes too long.
    pub fn settle(&mut self) -> bool {
        for _ in 0..200 {
            self.now = self.now.checked_add(SignedDuration::from_secs(1)).unwrap_or(self.now);
            let before = self.picture();
            for i in 0..self.controllers.len() {
                let controller = self.controllers[i].clone();
                for key in self.keys(controller.as_ref()) {
                    self.plan(controller.as_ref(), &key, false);
                }
            }
            self.collect_garbage();
            for pod in self.world.list(&PODS, "") {
                self.get_on(&pod, false);
            }
            if before == self.picture() {
                return true;
            }
        }
        false
    }

    /// What the control loops would still do, for the message of a test that failed.
    pub fn restless(&self) -> String {
        let mut out = String::new();
        for controller in &self.controllers {
            for key in self.keys(controller.as_ref()) {
                let plan = controller.plan(self.now, &key, &self.world);
                if !plan.is_empty() {
                    out += &format!(
                        "\n{} {}/{}: {:?}",
                        controller.name(),
                        key.namespace,
                        key.name,
                        plan.actions
                    );
                }
            }
        }
        out
    }

    /// Versions of all objects.
    fn picture(&self) -> Vec<(String, u64)> {
        let all = self.collected.iter().flat_map(|s| self.world.list(&s.gvr, ""));
        all.map(|o| (o.uid().to_owned(), o.resource_version())).collect()
    }

    fn keys(&self, controller: &dyn Controller) -> Vec<Key> {
        let inputs = controller.inputs();
        let primary = inputs.first().map(|i| self.world.list(&i.gvr, "")).unwrap_or_default();
        primary.iter().map(|o| Key::of(o)).collect()
    }

    fn some_key(&mut self, controller: &dyn Controller) -> Option<Key> {
        let keys = self.keys(controller);
        if keys.is_empty() {
            None
        } else {
            Some(keys[self.dice.below(keys.len())].clone())
        }
    }

    fn plan(&mut self, controller: &dyn Controller, key: &Key, faults: bool) {
        let plan = controller.plan(self.now, key, &self.world);
        for action in &plan.actions {
            if faults && self.dice.one_in(6) {
                // The process died here, or the API refused.
                return;
            }
            if self.world.act(self.now, action).is_err() {
                return;
            }
        }
    }

    fn collect_garbage(&mut self) {
        for gvr in self.collected.iter().map(|s| s.gvr.clone()).collect::<Vec<_>>() {
            for object in self.world.list(&gvr, "") {
                if !garbage::concerns(&object) {
                    continue;
                }
                let verdict = garbage::judge(&gvr, &object, &self.world, &self.collected);
                for action in &verdict.plan.actions {
                    if self.world.act(self.now, action).is_err() {
                        break;
                    }
                }
            }
        }
    }

    fn node(&mut self, faults: bool) {
        let pods = self.world.list(&PODS, "");
        if pods.is_empty() {
            return;
        }
        let pod = pods[self.dice.below(pods.len())].clone();
        self.get_on(&pod, faults);
    }

    /// What scheduler and node do for a pod, one step at a time.
    fn get_on(&mut self, object: &Arc<Object>, faults: bool) {
        let Ok(pod) = object.view::<Pod>() else { return };
        let (namespace, name) = (object.namespace(), object.name());
        let bound = pod.spec.as_ref().is_some_and(|s| s.node_name.is_some());
        if object.is_deleting() {
            if object.header().finalizers.is_empty() {
                self.world.remove(&PODS, namespace, name);
            }
        } else if !bound {
            let binding = Action::Post {
                gvr: PODS,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                subresource: "binding",
                body: json!({"target": {"name": "node"}}),
            };
            let _ = self.world.act(self.now, &binding);
        } else {
            let phase = pod
                .status
                .as_ref()
                .and_then(|s| s.phase.as_deref())
                .unwrap_or("Pending");
            let status = match phase {
                "Pending" => self.running(&pod),
                "Running" if faults && self.dice.one_in(12) => json!({"phase": "Failed"}),
                "Running" if object.controller().is_some_and(|o| o.kind == "Job") => json!({"phase": "Succeeded"}),
                _ => return,
            };
            self.world.change(&PODS, namespace, name, json!({"status": status}));
        }
    }

    fn running(&self, pod: &Pod) -> Value {
        let now = meta::time::rfc3339(self.now);
        let containers = pod.spec.iter().flat_map(|s| &s.containers);
        let statuses: Vec<Value> = containers
            .map(|c| {
                json!({"name": c.name, "image": "", "imageID": "", "ready": true, "restartCount": 0,
                "state": {"running": {"startedAt": now}}})
            })
            .collect();
        json!({"phase": "Running", "podIP": "10.42.0.9", "containerStatuses": statuses,
            "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": now}]})
    }

    /// Pods that live and are ready.
    pub fn ready_pods(&self, label: &str, value: &str) -> Vec<Arc<Object>> {
        let wanted = |o: &Arc<Object>| {
            let ready = o.to_value()["status"]["phase"] == "Running";
            o.labels().get(label).map(String::as_str) == Some(value) && ready && !o.is_deleting()
        };
        self.world.list(&PODS, "").into_iter().filter(wanted).collect()
    }

    /// How many instances a machine has, and how many pods those have that live.
    pub fn machine(&self, name: &str) -> (usize, usize) {
        let instances = self.world.list(&MACHINE_INSTANCES, "");
        let instances: Vec<_> = instances.iter().filter(|i| i.name() == name).collect();
        let live = |p: &&Arc<Object>| {
            let phase = p.to_value()["status"]["phase"].clone();
            phase != "Failed" && phase != "Succeeded"
        };
        let pods: Vec<_> = instances
            .iter()
            .flat_map(|i| self.world.owned(&PODS, i.uid()))
            .collect();
        (instances.len(), pods.iter().filter(live).count())
    }

    /// Whether a machine is there.
    pub fn has_machine(&self, name: &str) -> bool {
        self.world.get(&MACHINES, "shop", name).is_some()
    }
}

#[cfg(test)]
mod tests;
