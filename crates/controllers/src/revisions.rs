//! The history of a pod template as ControllerRevisions, for StatefulSets and DaemonSets.
//!
//! Must not touch pods.

use std::collections::BTreeSet;
use std::sync::Arc;

use kinds::resources::CONTROLLER_REVISIONS;
use meta::selector::LabelSelector;
use meta::{Gvr, Object};
use reconcile::{Plan, View};
use serde_json::{Value, json};

use crate::common::{claim, hash, letters, owner_reference};

/// Revisions that are kept if nobody says otherwise.
const HISTORY_LIMIT: i64 = 10;

/// One revision, as it is or as the plan makes it.
#[derive(Clone, Debug)]
pub(crate) struct Revision {
    /// Its name.
    pub name: String,
    /// What names it among the revisions of its owner.
    pub hash: String,
    /// Its place in the order.
    pub number: i64,
    /// `spec.template` as it was.
    pub template: Value,
    object: Option<Arc<Object>>,
}

/// The revisions of an owner.
pub(crate) struct History {
    /// Oldest first; the last is the template as it is now.
    pub revisions: Vec<Revision>,
    /// `status.collisionCount`.
    pub collisions: i64,
}

impl History {
    /// Reads the history of `owner` (`value` is its content) and writes into `plan` what makes
    /// the present template its last entry. `label` is the one that carries the hash.
    pub fn of(
        plan: &mut Plan,
        owner: &Arc<Object>,
        value: &Value,
        label: &str,
        selector: &LabelSelector,
        view: &dyn View,
    ) -> Self {
        let gvr = &CONTROLLER_REVISIONS;
        let claimed = claim(plan, gvr, owner, selector, view);
        let mut revisions: Vec<Revision> = claimed.into_iter().map(|o| Revision::of(o, label)).collect();
        revisions.sort_by(|a, b| (a.number, &a.name).cmp(&(b.number, &b.name)));
        let mut history = History {
            revisions,
            collisions: value["status"]["collisionCount"].as_i64().unwrap_or(0),
        };
        if !owner.is_deleting() {
            history.bring_up_to_date(plan, gvr, owner, value, label, view);
        }
        history
    }

    fn bring_up_to_date(
        &mut self,
        plan: &mut Plan,
        gvr: &Gvr,
        owner: &Arc<Object>,
        value: &Value,
        label: &str,
        view: &dyn View,
    ) {
        let template = &without_nulls(&value["spec"]["template"]);
        let last = self.revisions.last();
        let next = last.map_or(0, |r| r.number) + 1;
        if last.is_some_and(|r| r.template == *template) {
            return;
        }
        if let Some(at) = self.revisions.iter().rposition(|r| r.template == *template) {
            // A way back: the old revision becomes the newest.
            let mut revision = self.revisions.remove(at);
            revision.number = next;
            if let Some(object) = &revision.object {
                plan.patch(gvr, object, json!({"revision": next}));
            }
            self.revisions.push(revision);
            return;
        }
        let (name, hash) = loop {
            let text = format!("{template}{}", self.collisions);
            let hash = letters(hash(text.as_bytes()), 10);
            let name = format!("{}-{hash}", owner.name());
            if view.get(gvr, owner.namespace(), &name).is_none() {
                break (name, hash);
            }
            self.collisions += 1;
        };
        let mut labels = template["metadata"]["labels"].clone();
        if !labels.is_object() {
            labels = json!({});
        }
        labels[label] = hash.as_str().into();
        let mut kept = template.clone();
        kept["$patch"] = "replace".into();
        let object = json!({
            "apiVersion": "apps/v1", "kind": "ControllerRevision",
            "metadata": {"name": name, "labels": labels, "annotations": owner.annotations(),
                "ownerReferences": [owner_reference(owner)]},
            "data": {"spec": {"template": kept}},
            "revision": next,
        });
        plan.create(gvr, owner.namespace(), object);
        self.revisions.push(Revision {
            name,
            hash,
            number: next,
            template: template.clone(),
            object: None,
        });
    }

    /// The template as it is now; `None` only for an owner that is going before it had any.
    pub fn latest(&self) -> Option<&Revision> {
        self.revisions.last()
    }

    /// A revision by name.
    pub fn named(&self, name: &str) -> Option<&Revision> {
        self.revisions.iter().find(|r| r.name == name)
    }

    /// Deletes the oldest of those that nobody uses; `live` are names or hashes.
    pub fn truncate(&self, plan: &mut Plan, value: &Value, live: &BTreeSet<&str>) {
        let limit = value["spec"]["revisionHistoryLimit"].as_i64().unwrap_or(HISTORY_LIMIT);
        let unused = |r: &&Revision| !live.contains(r.name.as_str()) && !live.contains(r.hash.as_str());
        let newest = self.latest().map(|r| r.name.as_str());
        let old: Vec<&Revision> = self.revisions.iter().filter(unused).collect();
        let old: Vec<&Revision> = old.into_iter().filter(|r| Some(r.name.as_str()) != newest).collect();
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for revision in old.into_iter().take(surplus) {
            if let Some(object) = &revision.object {
                plan.delete(&CONTROLLER_REVISIONS, object);
            }
        }
    }
}

impl Revision {
    fn of(object: Arc<Object>, label: &str) -> Self {
        let mut value = object.to_value();
        let mut template = value["data"]["spec"]["template"].take();
        if let Some(map) = template.as_object_mut() {
            map.remove("$patch");
        }
        Revision {
            name: object.name().to_owned(),
            hash: object.labels().get(label).cloned().unwrap_or_default(),
            number: value["revision"].as_i64().unwrap_or(0),
            template: without_nulls(&template),
            object: Some(object),
        }
    }
}

/// A null is the same as nothing: writers and stores differ in which of them they keep.
fn without_nulls(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let kept = map.iter().filter(|(_, v)| !v.is_null());
            Value::Object(kept.map(|(k, v)| (k.clone(), without_nulls(v))).collect())
        }
        Value::Array(list) => list.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}
