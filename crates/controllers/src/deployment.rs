//! Deployments: rollouts from one ReplicaSet to the next.

mod conditions;
mod rollout;

use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use kinds::resources::{DEPLOYMENTS, PODS, REPLICA_SETS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{claim, hash, letters, owner_reference, scaled, selector, selectors_of_orphan, with_label};

pub(crate) const REVISION: &str = "deployment.kubernetes.io/revision";
const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
pub(crate) const DESIRED: &str = "deployment.kubernetes.io/desired-replicas";
const MAXIMUM: &str = "deployment.kubernetes.io/max-replicas";
const HASH: &str = "pod-template-hash";
/// Annotations of the Deployment that its ReplicaSets do not inherit.
const OWN_ANNOTATIONS: [&str; 6] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED,
    MAXIMUM,
    "deprecated.deployment.rollback.to",
];

/// See the module.
pub struct DeploymentController;

impl Controller for DeploymentController {
    fn name(&self) -> &'static str {
        "deployment-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let sets = Input {
            gvr: REPLICA_SETS,
            keys: |set, view| {
                let mut keys = controller_key(set, "Deployment");
                keys.extend(selectors_of_orphan(&DEPLOYMENTS, set, view));
                keys
            },
        };
        // With strategy Recreate the last old pod's end is what the new ones wait for.
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let sets = controller_key(pod, "ReplicaSet");
                let sets = sets
                    .iter()
                    .filter_map(|k| view.get(&REPLICA_SETS, &k.namespace, &k.name));
                let owners = sets.flat_map(|s| controller_key(&s, "Deployment"));
                let recreate = |k: &Key| {
                    let deployment = view.get(&DEPLOYMENTS, &k.namespace, &k.name);
                    let deployment = deployment.and_then(|d| d.view::<Deployment>().ok());
                    deployment.is_some_and(|d| is_recreate(&d))
                };
                owners.filter(recreate).collect()
            },
        };
        vec![Input::primary(DEPLOYMENTS), sets, pods]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&DEPLOYMENTS, &key.namespace, &key.name) else {
            return plan;
        };
        let Ok(deployment) = object.view::<Deployment>() else {
            return plan;
        };
        let Some(selector) = selector(&object) else { return plan };
        if selector.is_everything() {
            let message = "This deployment is selecting all pods. A non-empty selector is required.";
            plan.event(&object, EventKind::Warning, "SelectingAll", message);
            return plan;
        }
        let claimed = claim(&mut plan, &REPLICA_SETS, &object, &selector, view);
        let sets = claimed.into_iter().filter_map(|object| Set::of(object).ok());
        let mut work = Work {
            value: object.to_value(),
            object,
            deployment,
            sets: sets.collect(),
            now,
            new: None,
        };
        work.sets.sort_by_key(|s| (s.created(), s.object.name().to_owned()));
        work.new = work.find_new();
        work.plan(&mut plan, view);
        plan
    }
}

fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("Recreate")
}

/// A ReplicaSet of the Deployment, and what the plan makes of it.
pub(crate) struct Set {
    object: Arc<Object>,
    set: Arc<ReplicaSet>,
    /// Replicas that it shall have once this plan is carried out.
    replicas: i32,
}

impl Set {
    fn of(object: Arc<Object>) -> Result<Self, meta::DecodeError> {
        let set = object.view::<ReplicaSet>()?;
        let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1);
        Ok(Set { object, set, replicas })
    }

    fn created(&self) -> String {
        self.object.header().creation_timestamp.clone().unwrap_or_default()
    }

    fn number(&self, annotation: &str) -> Option<i64> {
        self.object.annotations().get(annotation)?.parse().ok()
    }

    fn revision(&self) -> i64 {
        self.number(REVISION).unwrap_or(0)
    }

    fn available(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
    }

    fn ready(&self) -> i32 {
        self.set.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0)
    }

    fn actual(&self) -> i32 {
        self.set.status.as_ref().map_or(0, |s| s.replicas)
    }
}

/// One plan of one Deployment.
pub(crate) struct Work {
    object: Arc<Object>,
    value: Value,
    deployment: Arc<Deployment>,
    /// The oldest first.
    sets: Vec<Set>,
    now: Timestamp,
    /// Which of `sets` has the present template.
    new: Option<usize>,
}

impl Work {
    fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
    }

    fn paused(&self) -> bool {
        self.deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false)
    }

    fn recreate(&self) -> bool {
        is_recreate(&self.deployment)
    }

    /// Pods above the wanted number during a rolling update.
    fn max_surge(&self) -> i32 {
        if self.recreate() {
            return 0;
        }
        scaled(
            Some(&self.value["spec"]["strategy"]["rollingUpdate"]["maxSurge"]),
            self.wanted(),
            true,
        )
    }

    /// Pods below the wanted number during a rolling update.
    fn max_unavailable(&self) -> i32 {
        if self.recreate() || self.wanted() == 0 {
            return 0;
        }
        let rolling = &self.value["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"];
        let unavailable = scaled(Some(rolling), self.wanted(), false);
        // Both rounded to 0 would never get anywhere.
        let floor = i32::from(self.max_surge() == 0);
        unavailable.max(floor).min(self.wanted())
    }

    fn find_new(&self) -> Option<usize> {
        let wanted = self.deployment.spec.as_ref().map(|s| &s.template)?;
        let same = |s: &Set| {
            let template = s.set.spec.as_ref().and_then(|s| s.template.as_ref());
            template.is_some_and(|t| same_template(t, wanted))
        };
        self.sets.iter().position(same)
    }

    fn plan(&mut self, plan: &mut Plan, view: &dyn View) {
        if self.object.is_deleting() {
            return self.write_status(plan);
        }
        if self.paused() || self.is_scaling() {
            self.revise_new(plan);
            self.scale_in_proportion(plan);
            if self.paused() {
                self.clean_up(plan);
            }
        } else if self.recreate() {
            self.roll_by_recreation(plan, view);
        } else {
            self.roll(plan, view);
        }
        self.write_status(plan);
    }

    /// Whether the Deployment was scaled since its ReplicaSets last heard of it.
    fn is_scaling(&self) -> bool {
        let wanted = i64::from(self.wanted());
        let active = self.sets.iter().filter(|s| s.replicas > 0);
        let mut heard = active.filter_map(|s| s.number(DESIRED));
        heard.any(|d| d != wanted)
    }

    /// Keeps the new ReplicaSet's revision, annotations and `minReadySeconds` up to date.
    fn revise_new(&self, plan: &mut Plan) {
        let Some(new) = self.new.map(|i| &self.sets[i]) else {
            return;
        };
        let others = self.sets.iter().enumerate().filter(|(i, _)| Some(*i) != self.new);
        let highest = others.map(|(_, s)| s.revision()).max().unwrap_or(0);
        let mut annotations = self.inherited();
        annotations.retain(|k, v| new.object.annotations().get(k).map(String::as_str) != v.as_str());
        let revision = new.revision().max(highest + 1);
        if revision != new.revision() {
            annotations.insert(REVISION.into(), revision.to_string().into());
            if new.revision() != 0 {
                let past = new.object.annotations().get(REVISION_HISTORY);
                let past = past.map(|p| format!("{p},")).unwrap_or_default();
                annotations.insert(REVISION_HISTORY.into(), format!("{past}{}", new.revision()).into());
            }
        }
        let min_ready = self
            .deployment
            .spec
            .as_ref()
            .and_then(|s| s.min_ready_seconds)
            .unwrap_or(0);
        let has = new.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        if !annotations.is_empty() || min_ready != has {
            let patch = json!({"metadata": {"annotations": annotations}, "spec": {"minReadySeconds": min_ready}});
            plan.patch(&REPLICA_SETS, &new.object, patch);
        }
        self.show_revision(plan, revision);
    }

    fn show_revision(&self, plan: &mut Plan, revision: i64) {
        let shown = self.object.annotations().get(REVISION);
        if shown != Some(&revision.to_string()) {
            let patch = json!({"metadata": {"annotations": {REVISION: revision.to_string()}}});
            plan.patch(&DEPLOYMENTS, &self.object, patch);
        }
    }

    /// The Deployment's annotations that its ReplicaSets carry too.
    fn inherited(&self) -> serde_json::Map<String, Value> {
        let own = self.object.annotations().iter();
        own.filter(|(k, _)| !OWN_ANNOTATIONS.contains(&k.as_str()))
            .map(|(k, v)| (k.clone(), v.as_str().into()))
            .collect()
    }

    fn collisions(&self) -> i64 {
        self.value["status"]["collisionCount"].as_i64().unwrap_or(0)
    }

    /// Makes the ReplicaSet of the present template, with so many replicas.
    fn create_new(&self, plan: &mut Plan, replicas: i32, view: &dyn View) {
        let template = &self.value["spec"]["template"];
        let seed = format!("{template}{}", self.collisions());
        let suffix = letters(hash(seed.as_bytes()), 10);
        let base = self.object.name();
        let base = base
            .get(..base.len().min(meta::names::SUBDOMAIN_MAX - 11))
            .unwrap_or(base);
        let name = format!("{base}-{suffix}");
        if view.get(&REPLICA_SETS, self.object.namespace(), &name).is_some() {
            // Another template has this hash: count on, and so get another one.
            let status = json!({"status": {"collisionCount": self.collisions() + 1}});
            plan.patch_status(&DEPLOYMENTS, &self.object, status);
            return;
        }
        let revision = self.sets.iter().map(Set::revision).max().unwrap_or(0) + 1;
        let mut annotations = self.inherited();
        annotations.insert(REVISION.into(), revision.to_string().into());
        annotations.insert(DESIRED.into(), self.wanted().to_string().into());
        annotations.insert(MAXIMUM.into(), (self.wanted() + self.max_surge()).to_string().into());
        let mut template = template.clone();
        template["metadata"]["labels"][HASH] = suffix.as_str().into();
        let mut selector = self.value["spec"]["selector"].clone();
        selector["matchLabels"][HASH] = suffix.as_str().into();
        let meta = self.deployment.spec.as_ref().and_then(|s| s.template.metadata.as_ref());
        let labels = meta.and_then(|m| m.labels.clone()).unwrap_or_default();
        let set = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet",
            "metadata": {"name": name, "annotations": annotations, "labels": with_label(&labels, HASH, &suffix),
                "ownerReferences": [owner_reference(&self.object)]},
            "spec": {"replicas": replicas, "selector": selector, "template": template,
                "minReadySeconds": self.value["spec"]["minReadySeconds"].as_i64().unwrap_or(0)},
        });
        plan.create(&REPLICA_SETS, self.object.namespace(), set);
        self.say_scaled(plan, &name, "up", 0, replicas);
        self.show_revision(plan, revision);
    }

    fn say_scaled(&self, plan: &mut Plan, name: &str, way: &str, from: i32, to: i32) {
        if from != to {
            let message = format!("Scaled {way} replica set {name} from {from} to {to}");
            plan.event(&self.object, EventKind::Normal, "ScalingReplicaSet", message);
        }
    }

    /// Gives a ReplicaSet a number of replicas, and tells it the Deployment's.
    fn scale(&mut self, plan: &mut Plan, index: usize, replicas: i32) {
        let wanted = self.wanted().to_string();
        let maximum = (self.wanted() + self.max_surge()).to_string();
        let set = &self.sets[index];
        let annotations = set.object.annotations();
        let told = annotations.get(DESIRED) == Some(&wanted) && annotations.get(MAXIMUM) == Some(&maximum);
        if set.replicas == replicas && told {
            return;
        }
        let mut patch = json!({"metadata": {"annotations": {DESIRED: wanted, MAXIMUM: maximum}}});
        if set.replicas != replicas {
            patch["spec"]["replicas"] = replicas.into();
        }
        plan.patch(&REPLICA_SETS, &set.object, patch);
        let (name, from) = (set.object.name().to_owned(), set.replicas);
        self.sets[index].replicas = replicas;
        self.say_scaled(plan, &name, if replicas > from { "up" } else { "down" }, from, replicas);
    }

    fn old(&self) -> impl Iterator<Item = usize> + use<> {
        let new = self.new;
        (0..self.sets.len()).filter(move |i| Some(*i) != new)
    }
}

fn same_template(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    if a.spec != b.spec {
        return false;
    }
    let stripped = |t: &PodTemplateSpec| {
        let mut meta = t.metadata.clone().unwrap_or_default();
        if let Some(labels) = &mut meta.labels {
            labels.remove(HASH);
        }
        meta.labels = meta.labels.filter(|l| !l.is_empty());
        meta.annotations = meta.annotations.filter(|a| !a.is_empty());
        meta
    };
    stripped(a) == stripped(b)
}

#[cfg(test)]
mod tests;
