//! DaemonSets: one pod of a template on each node that it may run on.
//!
//! Must not bind pods: each says by affinity which node it is for.

mod nodes;
mod rollout;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod};
use kinds::resources::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{claim, fresh_name, is_available, is_ready, owner_reference, phase, selector, selectors_of_orphan};
use crate::revisions::{History, Revision};
use crate::status;
use nodes::Fit;

/// The label that carries the hash of a revision, on revisions and on pods.
const HASH: &str = "controller-revision-hash";
const GENERATION_LABEL: &str = "pod-template-generation";
const GENERATION: &str = "deprecated.daemonset.template.generation";
/// Pods that one plan makes or deletes at most, as upstream.
const BURST: usize = 250;
/// A pod that failed stays this long at least, lest one that cannot run be made without end.
const FAILED_FOR: SignedDuration = SignedDuration::from_secs(10);

/// See the module.
pub struct DaemonSetController;

impl Controller for DaemonSetController {
    fn name(&self) -> &'static str {
        "daemonset-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let mut keys = controller_key(pod, "DaemonSet");
                keys.extend(selectors_of_orphan(&DAEMON_SETS, pod, view));
                keys
            },
        };
        let nodes = Input {
            gvr: NODES,
            keys: |_, view| view.list(&DAEMON_SETS, "").iter().map(|o| Key::of(o)).collect(),
        };
        let revisions = Input {
            gvr: CONTROLLER_REVISIONS,
            keys: |o, _| controller_key(o, "DaemonSet"),
        };
        vec![Input::primary(DAEMON_SETS), pods, nodes, revisions]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&DAEMON_SETS, &key.namespace, &key.name) else {
            return plan;
        };
        let Some(selector) = selector(&object).filter(|s| !s.is_everything()) else {
            return plan;
        };
        let value = object.to_value();
        let history = History::of(&mut plan, &object, &value, HASH, &selector, view);
        let claimed = claim(&mut plan, &PODS, &object, &selector, view);
        let Some(latest) = history.latest() else { return plan };
        let mut set = Set::new(&object, &value, &history, latest, now);
        set.sort_pods(claimed);
        set.sort_nodes(view);
        set.plan(&mut plan, view);
        plan
    }
}

/// A pod of the set.
struct Member {
    object: Arc<Object>,
    pod: Arc<Pod>,
    /// Whether its template is the present one.
    current: bool,
    available: bool,
}

/// All that a plan is made from.
struct Set<'a> {
    object: &'a Arc<Object>,
    value: &'a Value,
    history: &'a History,
    latest: &'a Revision,
    now: Timestamp,
    /// By the node they are on or for; the oldest first, those that are bound before the others.
    members: BTreeMap<String, Vec<Member>>,
    nodes: BTreeMap<String, Fit>,
    wait: Option<Duration>,
}

impl<'a> Set<'a> {
    fn new(
        object: &'a Arc<Object>,
        value: &'a Value,
        history: &'a History,
        latest: &'a Revision,
        now: Timestamp,
    ) -> Self {
        Set {
            object,
            value,
            history,
            latest,
            now,
            members: BTreeMap::new(),
            nodes: BTreeMap::new(),
            wait: None,
        }
    }

    fn sort_pods(&mut self, claimed: Vec<Arc<Object>>) {
        let min_ready = self.value["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
        let min_ready = i32::try_from(min_ready).unwrap_or(i32::MAX);
        for object in claimed {
            let Ok(pod) = object.view::<Pod>() else { continue };
            let available = is_available(&pod, min_ready, self.now);
            if let Err(Some(left)) = available {
                self.look_again(left);
            }
            let node = nodes::target(&pod).unwrap_or_default().to_owned();
            let member = Member {
                available: available.is_ok(),
                current: object.labels().get(HASH) == Some(&self.latest.hash),
                object,
                pod,
            };
            self.members.entry(node).or_default().push(member);
        }
        for pods in self.members.values_mut() {
            pods.sort_by_cached_key(|m| {
                let created = m.object.header().creation_timestamp.clone().unwrap_or_default();
                (!nodes::is_bound(&m.pod), created, m.object.name().to_owned())
            });
        }
    }

    fn sort_nodes(&mut self, view: &dyn View) {
        let rules = nodes::Rules::of(&self.value["spec"]["template"]["spec"]);
        for object in view.list(&NODES, "") {
            if let Ok(node) = object.view::<Node>() {
                self.nodes.insert(object.name().to_owned(), rules.fit(&object, &node));
            }
        }
    }

    fn look_again(&mut self, after: Duration) {
        self.wait = Some(self.wait.map_or(after, |w| w.min(after)));
    }

    fn plan(&mut self, plan: &mut Plan, view: &dyn View) {
        self.write_status(plan);
        let pods = self.members.values().flatten();
        let live: BTreeSet<&str> = pods
            .filter_map(|m| m.object.labels().get(HASH).map(String::as_str))
            .collect();
        self.history.truncate(plan, self.value, &live);
        if !self.object.is_deleting() {
            let mut work = Work::default();
            self.manage(&mut work);
            if work.is_empty() && self.value["spec"]["updateStrategy"]["type"] != "OnDelete" {
                self.roll(&mut work);
            }
            self.carry_out(plan, work, view);
        }
        if let Some(wait) = self.wait {
            plan.again(wait);
        }
    }

    fn carry_out(&self, plan: &mut Plan, work: Work, view: &dyn View) {
        for (kind, reason, message) in work.events {
            plan.event(self.object, kind, reason, message);
        }
        for pod in work.delete.iter().take(BURST) {
            plan.delete(&PODS, pod);
            let message = format!("Deleted pod: {}", pod.name());
            plan.event(self.object, EventKind::Normal, "SuccessfulDelete", message);
        }
        let prefix = format!("{}-", self.object.name());
        let names = (0..).map(|index| fresh_name(&prefix, self.object.uid(), self.now, index));
        let free = names.filter(|n| view.get(&PODS, self.object.namespace(), n).is_none());
        for (node, name) in work.create.iter().take(BURST).zip(free) {
            plan.create(&PODS, self.object.namespace(), self.pod(node, &prefix, &name));
            let message = format!("Created pod: {name}");
            plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
        }
        if work.create.len() > BURST || work.delete.len() > BURST {
            plan.again(Duration::from_secs(1));
        }
    }

    fn pod(&self, node: &str, prefix: &str, name: &str) -> Value {
        let template = &self.value["spec"]["template"];
        let mut metadata = json!({"name": name, "generateName": prefix, "labels": {},
            "ownerReferences": [owner_reference(self.object)]});
        for field in ["labels", "annotations", "finalizers"] {
            let value = &template["metadata"][field];
            if !value.is_null() {
                metadata[field] = value.clone();
            }
        }
        metadata["labels"][HASH] = self.latest.hash.as_str().into();
        if let Some(generation) = self.object.annotations().get(GENERATION) {
            metadata["labels"][GENERATION_LABEL] = generation.as_str().into();
        }
        let mut spec = template["spec"].clone();
        nodes::aim(&mut spec, node);
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})
    }

    fn write_status(&self, plan: &mut Plan) {
        let (mut desired, mut scheduled, mut misplaced) = (0, 0, 0);
        let (mut ready, mut available, mut updated) = (0, 0, 0);
        for (name, fit) in &self.nodes {
            let pods = self.members.get(name);
            let first = pods.and_then(|p| p.first());
            if !fit.should_run {
                misplaced += i32::from(first.is_some());
                continue;
            }
            desired += 1;
            let Some(first) = first else { continue };
            scheduled += 1;
            ready += i32::from(is_ready(&first.pod));
            available += i32::from(first.available);
            updated += i32::from(first.current);
        }
        let new = json!({
            "currentNumberScheduled": scheduled,
            "numberMisscheduled": misplaced,
            "desiredNumberScheduled": desired,
            "numberReady": ready,
            "updatedNumberScheduled": updated,
            "numberAvailable": available,
            "numberUnavailable": desired - available,
            "observedGeneration": self.object.header().generation,
            "collisionCount": self.history.collisions,
        });
        // Upstream always writes the first four, even when they are 0.
        let mut value = self.value.clone();
        for field in [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
        ] {
            if value["status"][field].is_null() {
                value["status"][field] = (-1).into();
            }
        }
        status::write(plan, &DAEMON_SETS, self.object, &value, &new);
    }
}

/// What is to be done.
#[derive(Default)]
struct Work {
    /// Nodes that get a pod.
    create: Vec<String>,
    delete: Vec<Arc<Object>>,
    events: Vec<(EventKind, &'static str, String)>,
}

impl Work {
    fn is_empty(&self) -> bool {
        self.create.is_empty() && self.delete.is_empty()
    }
}

impl Set<'_> {
    /// One pod on each node where one should be, none where none should.
    fn manage(&mut self, work: &mut Work) {
        let surge = self.limits().0 > 0;
        let mut waits = Vec::new();
        for (name, fit) in &self.nodes {
            let pods = self.members.get(name).map_or(&[][..], Vec::as_slice);
            if !fit.should_continue {
                work.delete.extend(alive(pods));
                continue;
            }
            if pods.is_empty() {
                if fit.should_run {
                    work.create.push(name.clone());
                }
                continue;
            }
            let running = self.bury(name, pods, work, &mut waits);
            if running.len() < 2 {
                continue;
            }
            let mut kept = [false; 2];
            for member in running {
                // While pods may surge, an old and a new one may be there together.
                let slot = &mut kept[usize::from(surge && member.current)];
                if std::mem::replace(slot, true) && !member.object.is_deleting() {
                    work.delete.push(member.object.clone());
                }
            }
        }
        for (node, pods) in &self.members {
            let lost = !self.nodes.contains_key(node);
            let unbound = |m: &&Member| !nodes::is_bound(&m.pod) && !m.object.is_deleting();
            if lost {
                work.delete
                    .extend(pods.iter().filter(unbound).map(|m| m.object.clone()));
            }
        }
        for wait in waits {
            self.look_again(wait);
        }
    }

    /// Has pods that have ended deleted; gives the others.
    fn bury<'m>(&self, node: &str, pods: &'m [Member], work: &mut Work, waits: &mut Vec<Duration>) -> Vec<&'m Member> {
        let mut running = Vec::new();
        for member in pods {
            let (kind, reason, what, verb) = match phase(&member.pod) {
                "Failed" => (EventKind::Warning, "FailedDaemonPod", "failed", "kill"),
                "Succeeded" => (EventKind::Normal, "SucceededDaemonPod", "succeeded", "delete"),
                _ => {
                    running.push(member);
                    continue;
                }
            };
            let created = member.object.header().creation_timestamp.as_deref();
            let age = created
                .and_then(meta::time::parse)
                .map_or(FAILED_FOR, |t| self.now.duration_since(t));
            if member.object.is_deleting() {
                continue;
            }
            if age < FAILED_FOR {
                waits.push((FAILED_FOR - age).unsigned_abs());
                continue;
            }
            let key = member.object.key();
            let message = format!("Found {what} daemon pod {key} on node {node}, will try to {verb} it");
            work.events.push((kind, reason, message));
            work.delete.push(member.object.clone());
        }
        running
    }
}

fn alive(pods: &[Member]) -> impl Iterator<Item = Arc<Object>> {
    pods.iter()
        .filter(|m| !m.object.is_deleting())
        .map(|m| m.object.clone())
}
