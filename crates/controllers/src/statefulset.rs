//! StatefulSets: pods with a number, a name and claims that stay the same, made,
//! replaced and taken away one after another.
//!
//! Must not know where pods run.

mod pods;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{CLAIMS, CONTROLLER_REVISIONS, PODS, STATEFUL_SETS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{claim, is_available, is_ready, phase, scaled, selector, selectors_of_orphan};
use crate::revisions::History;
use crate::status;

/// The label of a revision that carries its hash.
const HASH: &str = "controller.kubernetes.io/hash";
/// The label of a pod that names its revision.
const REVISION: &str = "controller-revision-hash";

/// See the module.
pub struct StatefulSetController;

impl Controller for StatefulSetController {
    fn name(&self) -> &'static str {
        "statefulset-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let mut keys = controller_key(pod, "StatefulSet");
                keys.extend(selectors_of_orphan(&STATEFUL_SETS, pod, view));
                keys
            },
        };
        let revisions = Input {
            gvr: CONTROLLER_REVISIONS,
            keys: |o, _| controller_key(o, "StatefulSet"),
        };
        vec![
            Input::primary(STATEFUL_SETS),
            pods,
            revisions,
            Input {
                gvr: CLAIMS,
                keys: sets_of_claim,
            },
        ]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&STATEFUL_SETS, &key.namespace, &key.name) else {
            return plan;
        };
        let Some(selector) = selector(&object).filter(|s| !s.is_everything()) else {
            return plan;
        };
        let value = object.to_value();
        let history = History::of(&mut plan, &object, &value, HASH, &selector, view);
        let claimed = claim(&mut plan, &PODS, &object, &selector, view);
        let Some(set) = Set::new(&object, value, &history, claimed, now, view) else {
            return plan;
        };
        set.plan(&mut plan);
        plan
    }
}

/// A claim that is gone has to be made again: it ends in `-<set>-<ordinal>`.
fn sets_of_claim(claim: &Object, view: &dyn View) -> Vec<Key> {
    let Some((stem, _)) = claim.name().rsplit_once('-') else {
        return Vec::new();
    };
    let sets = view.list(&STATEFUL_SETS, claim.namespace());
    sets.iter()
        .filter(|s| stem.strip_suffix(s.name()).is_some_and(|rest| rest.ends_with('-')))
        .map(|s| Key::of(s))
        .collect()
}

/// A pod of the set.
struct Member {
    object: Arc<Object>,
    pod: Arc<Pod>,
    /// Whether it has been ready for long enough.
    available: bool,
}

impl Member {
    fn revision(&self) -> &str {
        self.object.labels().get(REVISION).map_or("", String::as_str)
    }

    fn is_ready(&self) -> bool {
        phase(&self.pod) == "Running" && is_ready(&self.pod)
    }

    fn is_healthy(&self) -> bool {
        self.is_ready() && !self.object.is_deleting()
    }
}

/// All that a plan is made from.
struct Set<'a> {
    object: &'a Arc<Object>,
    value: Value,
    history: &'a History,
    view: &'a dyn View,
    start: i64,
    replicas: i64,
    /// By ordinal.
    members: BTreeMap<i64, Member>,
    /// Names of revisions.
    current: String,
    update: String,
    /// How long until something becomes available.
    wait: Option<std::time::Duration>,
}

impl<'a> Set<'a> {
    fn new(
        object: &'a Arc<Object>,
        value: Value,
        history: &'a History,
        claimed: Vec<Arc<Object>>,
        now: Timestamp,
        view: &'a dyn View,
    ) -> Option<Self> {
        let min_ready = value["spec"]["minReadySeconds"].as_i64().unwrap_or(0);
        let min_ready = i32::try_from(min_ready).unwrap_or(i32::MAX);
        let mut wait: Option<std::time::Duration> = None;
        let mut members = BTreeMap::new();
        for pod_object in claimed {
            let Some(ordinal) = pods::ordinal(object.name(), pod_object.name()) else {
                continue;
            };
            let Ok(pod) = pod_object.view::<Pod>() else { continue };
            let available = is_available(&pod, min_ready, now);
            if let Err(Some(left)) = available {
                wait = Some(wait.map_or(left, |w| w.min(left)));
            }
            let member = Member {
                available: available.is_ok() && phase(&pod) == "Running",
                object: pod_object,
                pod,
            };
            members.insert(ordinal, member);
        }
        let update = history.latest()?.name.clone();
        let current = value["status"]["currentRevision"].as_str().unwrap_or_default();
        let current = history.named(current).map_or(&update, |r| &r.name).clone();
        Some(Set {
            object,
            history,
            view,
            start: value["spec"]["ordinals"]["start"].as_i64().unwrap_or(0),
            replicas: value["spec"]["replicas"].as_i64().unwrap_or(1).max(0),
            value,
            members,
            current,
            update,
            wait,
        })
    }

    fn plan(&self, plan: &mut Plan) {
        self.write_status(plan);
        if let Some(wait) = self.wait {
            plan.again(wait);
        }
        let mut live: BTreeSet<&str> = self.members.values().map(Member::revision).collect();
        live.extend([self.current.as_str(), self.update.as_str()]);
        self.history.truncate(plan, &self.value, &live);
        if self.object.is_deleting() {
            return;
        }
        self.fix_claim_owners(plan);
        if self.make(plan) || self.take_away(plan) {
            return;
        }
        if self.rolls() {
            self.replace(plan);
        }
    }

    fn is_ordered(&self) -> bool {
        self.value["spec"]["podManagementPolicy"] != "Parallel"
    }

    fn rolls(&self) -> bool {
        self.value["spec"]["updateStrategy"]["type"] != "OnDelete"
    }

    fn end(&self) -> i64 {
        self.start.saturating_add(self.replicas)
    }

    fn is_wanted(&self, ordinal: i64) -> bool {
        (self.start..self.end()).contains(&ordinal)
    }

    /// The first ordinal that is brought to the newest revision.
    fn partition(&self) -> i64 {
        let partition = &self.value["spec"]["updateStrategy"]["rollingUpdate"]["partition"];
        self.start.saturating_add(partition.as_i64().unwrap_or(0))
    }

    /// The revision that a new pod gets.
    fn revision_for(&self, ordinal: i64) -> &str {
        if self.rolls() && self.current != self.update && ordinal < self.partition() {
            &self.current
        } else {
            &self.update
        }
    }

    /// Makes what is missing; whether the rest has to wait.
    fn make(&self, plan: &mut Plan) -> bool {
        for ordinal in self.start..self.end() {
            let Some(member) = self.members.get(&ordinal) else {
                if self.claims_are_going(ordinal) {
                    return true;
                }
                self.create(plan, ordinal);
                if self.is_ordered() {
                    return true;
                }
                continue;
            };
            let ended = matches!(phase(&member.pod), "Failed" | "Succeeded");
            if ended {
                self.recreate(plan, member);
                if self.is_ordered() {
                    return true;
                }
                continue;
            }
            if phase(&member.pod) == "Pending" && !member.object.is_deleting() {
                self.create_claims(plan, ordinal, member.object.name());
            }
            self.fix_labels(plan, ordinal, member);
            if self.is_ordered() && (!member.is_healthy() || !member.available) {
                return true;
            }
        }
        false
    }

    fn recreate(&self, plan: &mut Plan, member: &Member) {
        if member.object.is_deleting() {
            return;
        }
        let (set, name) = (self.object.key(), member.object.name());
        let (kind, reason, word) = match phase(&member.pod) {
            "Failed" => (EventKind::Warning, "RecreatingFailedPod", "failed"),
            _ => (EventKind::Normal, "RecreatingTerminatedPod", "terminated"),
        };
        let message = format!("StatefulSet {set} is recreating {word} Pod {name}");
        plan.event(self.object, kind, reason, message);
        self.delete(plan, member);
    }

    fn delete(&self, plan: &mut Plan, member: &Member) {
        plan.delete(&PODS, &member.object);
        let (pod, set) = (member.object.name(), self.object.name());
        let message = format!("delete Pod {pod} in StatefulSet {set} successful");
        plan.event(self.object, EventKind::Normal, "SuccessfulDelete", message);
    }

    /// Takes away what is too many, the highest first; whether the rest has to wait.
    fn take_away(&self, plan: &mut Plan) -> bool {
        let condemned = || self.members.iter().rev().filter(|(n, _)| !self.is_wanted(**n));
        let wanted = self.members.iter().filter(|(n, _)| self.is_wanted(**n));
        let mut in_order = wanted.chain(condemned());
        let first_unhealthy = in_order.find(|(_, m)| !m.is_healthy()).map(|(n, _)| *n);
        let mut busy = false;
        for (ordinal, member) in condemned() {
            busy = true;
            if !member.object.is_deleting() {
                let healthy = member.is_ready() && member.available;
                if self.is_ordered() && !healthy && first_unhealthy != Some(*ordinal) {
                    return true;
                }
                self.delete(plan, member);
            }
            if self.is_ordered() {
                return true;
            }
        }
        busy && self.is_ordered()
    }

    /// Brings pods to the newest revision, the highest first.
    fn replace(&self, plan: &mut Plan) {
        let replicas = i32::try_from(self.replicas).unwrap_or(i32::MAX);
        let limit = &self.value["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"];
        let limit = if limit.is_null() {
            1
        } else {
            scaled(Some(limit), replicas, true).max(1)
        };
        let limit = usize::try_from(limit).unwrap_or(1);
        let wanted = || self.members.iter().filter(|(n, _)| self.is_wanted(**n));
        let is_down = |m: &Member| !m.is_healthy() || !m.available;
        let mut down = wanted().filter(|(_, m)| is_down(m)).count();
        for (_, member) in wanted().rev().take_while(|(n, _)| **n >= self.partition()) {
            let old = member.revision() != self.update;
            if old && !member.object.is_deleting() {
                // One that is down already costs nothing more.
                if !is_down(member) {
                    if down >= limit {
                        return;
                    }
                    down += 1;
                }
                self.delete(plan, member);
            }
            if limit == 1 && (old || is_down(member)) {
                return;
            }
        }
    }

    fn write_status(&self, plan: &mut Plan) {
        let all = || self.members.values();
        let alive = |revision: &str| {
            all()
                .filter(|m| !m.object.is_deleting() && m.revision() == revision)
                .count()
        };
        let (replicas, ready) = (self.members.len(), all().filter(|m| m.is_ready()).count());
        let updated = alive(&self.update);
        let (mut current, mut on_current) = (&self.current, alive(&self.current));
        if self.rolls() && updated == replicas && ready == replicas {
            (current, on_current) = (&self.update, updated);
        }
        let collisions = self.history.collisions;
        let new = json!({
            "replicas": replicas,
            "readyReplicas": ready,
            "availableReplicas": all().filter(|m| m.available).count(),
            "currentReplicas": on_current,
            "updatedReplicas": updated,
            "currentRevision": current,
            "updateRevision": self.update,
            "observedGeneration": self.object.header().generation,
            "collisionCount": collisions,
        });
        status::write(plan, &STATEFUL_SETS, self.object, &self.value, &new);
    }
}
