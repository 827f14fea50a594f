//! An API in memory, with watches: as much as the provisioner needs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use client::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WatchEvent, WriteOptions};
use futures::StreamExt;
use meta::{Gvr, Object, Status};
use serde_json::Value;
use tokio::sync::mpsc;

type Watchers = Vec<(String, mpsc::UnboundedSender<WatchEvent>)>;

#[derive(Default)]
pub struct Api(Mutex<(BTreeMap<String, Value>, Watchers)>);

fn key(resource: &str, object: &Value) -> String {
    let meta = &object["metadata"];
    let namespace = meta["namespace"].as_str().unwrap_or_default();
    format!("{resource}/{namespace}/{}", meta["name"].as_str().unwrap())
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value.clone()).unwrap())
}

impl Api {
    pub fn get_value(&self, key: &str) -> Value {
        self.0.lock().unwrap().0.get(key).cloned().unwrap_or_default()
    }

    pub fn all(&self, resource: &str) -> Vec<Value> {
        let state = self.0.lock().unwrap();
        let prefix = format!("{resource}/");
        state
            .0
            .iter()
            .filter(|(k, _)| k.starts_with(&prefix))
            .map(|(_, v)| v.clone())
            .collect()
    }

    pub fn put(&self, resource: &str, value: Value) {
        let mut state = self.0.lock().unwrap();
        let event = WatchEvent::Modified(object(&value));
        state.1.retain(|(r, s)| r != resource || s.send(event.clone()).is_ok());
        state.0.insert(key(resource, &value), value);
    }
}

fn merge(target: &mut Value, patch: &Value) {
    match patch.as_object() {
        Some(fields) => {
            for (k, v) in fields {
                merge(&mut target[k], v);
            }
        }
        None => *target = patch.clone(),
    }
}

#[async_trait]
impl Client for Api {
    async fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Result<Arc<Object>, Status> {
        let found = self.get_value(&format!("{}/{namespace}/{name}", gvr.resource));
        if found.is_null() {
            return Err(Status::not_found(&gvr.group, &gvr.resource, name));
        }
        Ok(object(&found))
    }
    async fn list(&self, _: &Gvr, _: &str, _: &ListOptions) -> Result<ObjectList, Status> {
        Err(Status::internal("not in this test"))
    }
    async fn watch(&self, gvr: &Gvr, _: &str, _: &ListOptions) -> Result<EventStream, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        for value in self.all(&gvr.resource) {
            sender.send(WatchEvent::Added(object(&value))).unwrap();
        }
        sender
            .send(WatchEvent::Bookmark {
                resource_version: 1,
                initial_events_end: true,
            })
            .unwrap();
        self.0.lock().unwrap().1.push((gvr.resource.to_string(), sender));
        let stream = futures::stream::unfold(receiver, async |mut r| r.recv().await.map(|e| (Ok(e), r)));
        Ok(stream.boxed())
    }
    async fn create(
        &self,
        gvr: &Gvr,
        _: &str,
        _: (&str, &str),
        body: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let mut value: Value = serde_json::from_slice(&body.0).unwrap();
        if !self.get_value(&key(&gvr.resource, &value)).is_null() {
            return Err(Status::already_exists(&gvr.group, &gvr.resource, "x"));
        }
        value["metadata"]["uid"] = "made".into();
        self.put(&gvr.resource, value.clone());
        Ok(object(&value))
    }
    async fn update(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        Err(Status::internal("not in this test"))
    }
    async fn patch(
        &self,
        gvr: &Gvr,
        namespace: &str,
        target: (&str, &str),
        _: PatchType,
        body: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        let mut value = self.get_value(&format!("{}/{namespace}/{}", gvr.resource, target.0));
        merge(&mut value, &serde_json::from_slice(&body.0).unwrap());
        self.put(&gvr.resource, value.clone());
        Ok(object(&value))
    }
    async fn delete(
        &self,
        gvr: &Gvr,
        namespace: &str,
        name: &str,
        _: &DeleteOptions,
    ) -> Result<Option<Arc<Object>>, Status> {
        let mut state = self.0.lock().unwrap();
        if let Some(value) = state.0.remove(&format!("{}/{namespace}/{name}", gvr.resource)) {
            let event = WatchEvent::Deleted(object(&value));
            state
                .1
                .retain(|(r, s)| *r != gvr.resource || s.send(event.clone()).is_ok());
        }
        Ok(None)
    }
}
