//! An API in memory: enough of it for a node. Must not check anything.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use client::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WatchEvent, WriteOptions};
use futures::StreamExt;
use meta::{Gvr, Object, Status};
use serde_json::{Value, json};
use tokio::sync::mpsc;

type Listener = (Gvr, String, mpsc::UnboundedSender<WatchEvent>);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(Gvr, String), Arc<Object>>,
    listeners: Vec<Listener>,
}

/// The API.
#[derive(Default)]
pub struct Api(Mutex<State>);

fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (k, v) in patch {
        if v.is_null() {
            target.as_object_mut().unwrap().remove(k);
        } else {
            merge(&mut target[k], v);
        }
    }
}

fn key(gvr: &Gvr, namespace: &str, name: &str) -> (Gvr, String) {
    (gvr.clone(), format!("{namespace}/{name}"))
}

impl Api {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an object there, new or anew.
    pub fn put(&self, gvr: &Gvr, mut value: Value) -> Arc<Object> {
        let mut state = self.lock();
        state.revision += 1;
        value["metadata"]["resourceVersion"] = state.revision.to_string().into();
        if value["metadata"]["uid"].is_null() {
            value["metadata"]["uid"] = format!("uid-{}", state.revision).into();
        }
        let object = Arc::new(Object::from_value(value).unwrap());
        let key = key(gvr, object.namespace(), object.name());
        let old = state.objects.insert(key, object.clone());
        let event = match old {
            Some(_) => WatchEvent::Modified(object.clone()),
            None => WatchEvent::Added(object.clone()),
        };
        state.tell(gvr, &event);
        object
    }

    /// An object as JSON; null when it is not there.
    pub fn see(&self, gvr: &Gvr, namespace: &str, name: &str) -> Value {
        let state = self.lock();
        let found = state.objects.get(&key(gvr, namespace, name));
        found.map(|o| o.to_value()).unwrap_or_default()
    }

    /// Everything of a resource.
    pub fn all(&self, gvr: &Gvr) -> Vec<Value> {
        let state = self.lock();
        let of = state.objects.iter().filter(|((g, _), _)| g == gvr);
        of.map(|(_, o)| o.to_value()).collect()
    }

    /// Removes an object for good.
    pub fn remove(&self, gvr: &Gvr, namespace: &str, name: &str) {
        let mut state = self.lock();
        if let Some(old) = state.objects.remove(&key(gvr, namespace, name)) {
            state.revision += 1;
            let mut value = old.to_value();
            value["metadata"]["resourceVersion"] = state.revision.to_string().into();
            let last = Arc::new(Object::from_value(value).unwrap());
            state.tell(gvr, &WatchEvent::Deleted(last));
        }
    }

    /// Changes an object.
    pub fn change(&self, gvr: &Gvr, namespace: &str, name: &str, patch: &Value) -> Option<Arc<Object>> {
        let mut value = self.see(gvr, namespace, name);
        if value.is_null() {
            return None;
        }
        merge(&mut value, patch);
        Some(self.put(gvr, value))
    }
}

impl State {
    fn tell(&mut self, gvr: &Gvr, event: &WatchEvent) {
        let object = match event {
            WatchEvent::Added(o) | WatchEvent::Modified(o) | WatchEvent::Deleted(o) => o,
            WatchEvent::Bookmark { .. } => return,
        };
        self.listeners.retain(|(g, selector, sender)| {
            g != gvr || !selects(selector, object) || sender.send(event.clone()).is_ok()
        });
    }
}

fn selects(selector: &str, object: &Object) -> bool {
    let Some((path, wanted)) = selector.split_once('=') else {
        return true;
    };
    object.to_value().pointer(&format!("/{}", path.replace('.', "/"))) == Some(&json!(wanted))
}

#[async_trait]
impl Client for Api {
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let state = self.lock();
        let found = state.objects.get(&key(gvr, namespace, name));
        found
            .cloned()
            .ok_or_else(|| Status::not_found(&gvr.group, &gvr.resource, name))
    }

    async fn list(&self, gvr: &Gvr, _namespace: &str, options: &ListOptions) -> Result<ObjectList, Status> {
        let state = self.lock();
        let items = state
            .objects
            .iter()
            .filter(|((g, _), _)| g == gvr)
            .map(|(_, o)| o.clone());
        Ok(ObjectList {
            items: items.filter(|o| selects(&options.field_selector, o)).collect(),
            resource_version: state.revision,
            continue_token: String::new(),
        })
    }

    async fn watch(&self, gvr: &Gvr, _namespace: &str, options: &ListOptions) -> Result<EventStream, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.lock();
        for ((g, _), object) in &state.objects {
            if g == gvr && selects(&options.field_selector, object) {
                sender.send(WatchEvent::Added(object.clone())).unwrap();
            }
        }
        let end = WatchEvent::Bookmark {
            resource_version: state.revision.max(1),
            initial_events_end: true,
        };
        sender.send(end).unwrap();
        state
            .listeners
            .push((gvr.clone(), options.field_selector.clone(), sender));
        let stream = tokio_stream::wrappers::UnboundedReceiverStream::new(receiver);
        Ok(stream.map(Ok).boxed())
    }

    async fn create(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        body: Body,
        _options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let mut value: Value = serde_json::from_slice(&body.0).unwrap();
        if target.1 == "token" {
            value["status"] = json!({"token": "secret-token", "expirationTimestamp": "2099-01-01T00:00:00Z"});
            return Ok(Arc::new(Object::from_value(value).unwrap()));
        }
        if !namespace.is_empty() {
            value["metadata"]["namespace"] = namespace.into();
        }
        Ok(self.put(gvr, value))
    }

    async fn update(
        &self,
        _gvr: &Gvr,
        _namespace: &str,
        _target: (&str, &str),
        _body: Body,
        _options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        Err(Status::bad_request("a node does not update"))
    }

    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        _patch: PatchType,
        body: Body,
        _options: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let mut patch: Value = serde_json::from_slice(&body.0).unwrap();
        let uid = patch["metadata"]["uid"].take();
        if let Some(meta) = patch["metadata"].as_object_mut() {
            meta.remove("uid");
        }
        let missing = || Status::not_found(&gvr.group, &gvr.resource, target.0);
        let now = self.see(gvr, namespace, target.0);
        if !uid.is_null() && !now.is_null() && now["metadata"]["uid"] != uid {
            return Err(Status::modified(&gvr.group, &gvr.resource, target.0));
        }
        self.change(gvr, namespace, target.0, &patch).ok_or_else(missing)
    }

    async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        let now = self.see(gvr, namespace, name);
        if now.is_null() {
            return Err(Status::not_found(&gvr.group, &gvr.resource, name));
        }
        let uid = &options.preconditions.uid;
        if !uid.is_empty() && now["metadata"]["uid"] != **uid {
            return Err(Status::modified(&gvr.group, &gvr.resource, name));
        }
        if options.grace_period_seconds == Some(0) {
            self.remove(gvr, namespace, name);
            return Ok(None);
        }
        let grace = options.grace_period_seconds.unwrap_or(30);
        let patch = json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z",
            "deletionGracePeriodSeconds": grace}});
        Ok(self.change(gvr, namespace, name, &patch))
    }
}
