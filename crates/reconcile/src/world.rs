//! A small world of objects in memory: the view of unit tests and of the
//! simulation. It carries plans out with the semantics that plans rely on
//! (uids, resource versions, generations, finalizers, graceful pods), and no more.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use meta::{Gvr, Object};
use serde_json::{Value, json};

use crate::{Action, Controller, Key, Plan, View};

/// Objects by resource, namespace and name.
#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<(Gvr, String, String), Arc<Object>>,
    revision: u64,
    /// Events that plans recorded: reason and message.
    pub events: Vec<(String, String)>,
}

impl View for World {
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.objects
            .get(&(gvr.clone(), namespace.to_owned(), name.to_owned()))
            .cloned()
    }

    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Arc<Object>> {
        let of_gvr = self
            .objects
            .iter()
            .filter(|((g, n, _), _)| g == gvr && (namespace.is_empty() || n == namespace));
        of_gvr.map(|(_, o)| o.clone()).collect()
    }

    fn owned(&self, gvr: &Gvr, owner_uid: &str) -> Vec<Arc<Object>> {
        let owned = |o: &&Arc<Object>| {
            (owner_uid.is_empty() && o.controller().is_none())
                || o.header().owner_references.iter().any(|r| r.uid == owner_uid)
        };
        self.objects
            .iter()
            .filter(|((g, ..), _)| g == gvr)
            .map(|(_, o)| o)
            .filter(owned)
            .cloned()
            .collect()
    }
}

impl World {
    /// Puts an object in, as a user would create or replace it; gives it a uid if it has none.
    pub fn put(&mut self, gvr: &Gvr, mut object: Value) -> Arc<Object> {
        self.revision += 1;
        let (namespace, name) = names(&object);
        let old = self.get(gvr, &namespace, &name);
        let meta = &mut object["metadata"];
        if meta["uid"].is_null() {
            meta["uid"] = match &old {
                Some(old) => old.uid().to_owned(),
                None => format!("uid-{}", self.revision),
            }
            .into();
        }
        if meta["creationTimestamp"].is_null() {
            meta["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        meta["resourceVersion"] = self.revision.to_string().into();
        let generation = old.as_ref().map_or(0, |o| o.header().generation);
        let same_spec = old
            .as_ref()
            .is_some_and(|o| o.to_value().get("spec") == object.get("spec"));
        object["metadata"]["generation"] = (if same_spec { generation } else { generation + 1 }).into();
        let object = Arc::new(Object::from_value(object).unwrap_or_else(|e| unreachable!("{e}")));
        let key = (gvr.clone(), namespace, name);
        if object.is_deleting() && object.header().finalizers.is_empty() && !is_pod(gvr) {
            self.objects.remove(&key);
        } else {
            self.objects.insert(key, object.clone());
        }
        object
    }

    /// Changes an object by a merge patch, as another party would.
    pub fn change(&mut self, gvr: &Gvr, namespace: &str, name: &str, patch: Value) -> Arc<Object> {
        let mut value = self.get(gvr, namespace, name).map_or(json!({}), |o| o.to_value());
        merge(&mut value, &patch);
        self.put(gvr, value)
    }

    /// Takes an object out for good.
    pub fn remove(&mut self, gvr: &Gvr, namespace: &str, name: &str) {
        self.revision += 1;
        self.objects
            .remove(&(gvr.clone(), namespace.to_owned(), name.to_owned()));
    }

    /// Carries one action out. The error is what the API would answer, in a word.
    pub fn act(&mut self, now: Timestamp, action: &Action) -> Result<(), String> {
        match action {
            Action::Create {
                gvr,
                namespace,
                object,
                exists_ok,
            } => {
                let mut object = object.clone();
                if !namespace.is_empty() {
                    object["metadata"]["namespace"] = namespace.as_str().into();
                }
                object["metadata"]["creationTimestamp"] = meta::time::rfc3339(now).into();
                let (_, mut name) = names(&object);
                if name.is_empty() {
                    let prefix = object["metadata"]["generateName"].as_str().unwrap_or_default();
                    name = format!("{prefix}{}", self.revision);
                    object["metadata"]["name"] = name.as_str().into();
                }
                if self.get(gvr, namespace, &name).is_some() {
                    return if *exists_ok {
                        Ok(())
                    } else {
                        Err("AlreadyExists".into())
                    };
                }
                self.put(gvr, object);
            }
            Action::Patch {
                gvr,
                namespace,
                name,
                patch,
                ..
            } => {
                let Some(old) = self.get(gvr, namespace, name) else {
                    return Err("NotFound".into());
                };
                let uid = &patch["metadata"]["uid"];
                let version = &patch["metadata"]["resourceVersion"];
                let stale = |v: &Value, is: &str| v.as_str().is_some_and(|v| v != is);
                if stale(uid, old.uid()) || stale(version, &old.resource_version().to_string()) {
                    return Err("Conflict".into());
                }
                self.change(gvr, namespace, name, patch.clone());
            }
            Action::Replace {
                gvr,
                namespace,
                name,
                object,
                ..
            } => {
                if self.get(gvr, namespace, name).is_none() {
                    return Err("NotFound".into());
                }
                self.put(gvr, object.clone());
            }
            Action::Post {
                gvr,
                namespace,
                name,
                subresource,
                body,
            } => {
                if *subresource == "binding" {
                    let patch = json!({"spec": {"nodeName": body["target"]["name"]}});
                    self.change(gvr, namespace, name, patch);
                }
            }
            Action::Delete {
                gvr,
                namespace,
                name,
                uid,
                grace,
            } => {
                let Some(old) = self.get(gvr, namespace, name) else {
                    return Ok(());
                };
                if old.uid() != uid {
                    return Err("Conflict".into());
                }
                let bound = !old.to_value()["spec"]["nodeName"].is_null();
                if is_pod(gvr) && !bound || *grace == Some(0) && old.header().finalizers.is_empty() {
                    self.remove(gvr, namespace, name);
                } else if !old.is_deleting() {
                    let patch = json!({"metadata": {"deletionTimestamp": meta::time::rfc3339(now)}});
                    self.change(gvr, namespace, name, patch);
                }
            }
            Action::Event { reason, message, .. } => self.events.push(((*reason).to_owned(), message.clone())),
        }
        Ok(())
    }

    /// Plans a key and carries the plan out; gives the plan.
    pub fn step(&mut self, now: Timestamp, controller: &dyn Controller, key: &Key) -> Plan {
        let plan = controller.plan(now, key, self);
        for action in &plan.actions {
            if self.act(now, action).is_err() {
                break;
            }
        }
        plan
    }

    /// Plans every object of the controller's first input again and again until nothing is left
    /// to write, at most `rounds` times; whether that was reached.
    pub fn settle(&mut self, now: Timestamp, controller: &dyn Controller, rounds: usize) -> bool {
        let inputs = controller.inputs();
        let Some(primary) = inputs.first() else { return true };
        for _ in 0..rounds {
            let keys: Vec<Key> = self.list(&primary.gvr, "").iter().map(|o| Key::of(o)).collect();
            let quiet = keys
                .iter()
                .filter(|k| !self.step(now, controller, k).is_empty())
                .count()
                == 0;
            if quiet {
                return true;
            }
        }
        false
    }
}

fn is_pod(gvr: &Gvr) -> bool {
    gvr.group.is_empty() && gvr.resource == "pods"
}

fn names(object: &Value) -> (String, String) {
    let text = |f: &str| object["metadata"][f].as_str().unwrap_or_default().to_owned();
    (text("namespace"), text("name"))
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, v) in patch {
        if v.is_null() {
            if let Some(map) = value.as_object_mut() {
                map.remove(name);
            }
        } else {
            merge(&mut value[name], v);
        }
    }
}
