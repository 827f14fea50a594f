//! An API in memory that can only be watched.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use client::{Body, Client, DeleteOptions, EventStream, ListOptions, ObjectList, PatchType, WatchEvent, WriteOptions};
use futures::StreamExt;
use meta::{Gvr, Object, Status};
use serde_json::{Value, json};
use tokio::sync::mpsc;

#[derive(Default)]
pub struct Api(Mutex<State>);

#[derive(Default)]
struct State {
    revision: u64,
    objects: BTreeMap<(String, String), Value>,
    watchers: Vec<(String, mpsc::UnboundedSender<WatchEvent>)>,
}

fn object(value: &Value) -> Arc<Object> {
    Arc::new(Object::from_value(value.clone()).unwrap())
}

impl Api {
    pub fn put(&self, resource: &str, mut value: Value) {
        let mut state = self.0.lock().unwrap();
        state.revision += 1;
        value["metadata"]["namespace"] = "default".into();
        value["metadata"]["resourceVersion"] = state.revision.to_string().into();
        let name = value["metadata"]["name"].as_str().unwrap().to_owned();
        state.tell(resource, &WatchEvent::Modified(object(&value)));
        state.objects.insert((resource.to_owned(), name), value);
    }

    pub fn delete(&self, resource: &str, name: &str) {
        let mut state = self.0.lock().unwrap();
        state.revision += 1;
        let mut value = state.objects.remove(&(resource.to_owned(), name.to_owned())).unwrap();
        value["metadata"]["resourceVersion"] = state.revision.to_string().into();
        state.tell(resource, &WatchEvent::Deleted(object(&value)));
    }

    pub fn service(&self, name: &str, spec: Value) {
        self.put("services", json!({"metadata": {"name": name}, "spec": spec}));
    }

    /// A slice with endpoints at port 80: addresses and whether they are ready.
    pub fn endpoints(&self, service: &str, protocol: &str, endpoints: &[(std::net::IpAddr, bool)]) {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(address, ready)| json!({"addresses": [address], "conditions": {"ready": ready, "serving": ready}}))
            .collect();
        let metadata = json!({"name": service, "labels": {"kubernetes.io/service-name": service}});
        let port = json!({"name": "", "port": 80, "protocol": protocol});
        let slice = json!({"metadata": metadata, "addressType": "IPv4", "ports": [port], "endpoints": endpoints});
        self.put("endpointslices", slice);
    }
}

impl State {
    fn tell(&mut self, resource: &str, event: &WatchEvent) {
        self.watchers
            .retain(|(r, sender)| r != resource || sender.send(event.clone()).is_ok());
    }
}

fn other<T>() -> Result<T, Status> {
    Err(Status::internal("not in this test"))
}

#[async_trait]
impl Client for Api {
    async fn get(&self, _: &Gvr, _: &str, _: &str) -> Result<Arc<Object>, Status> {
        other()
    }
    async fn list(&self, _: &Gvr, _: &str, _: &ListOptions) -> Result<ObjectList, Status> {
        other()
    }
    async fn watch(&self, gvr: &Gvr, _: &str, _: &ListOptions) -> Result<EventStream, Status> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut state = self.0.lock().unwrap();
        for (_, value) in state
            .objects
            .iter()
            .filter(|((resource, _), _)| *resource == gvr.resource)
        {
            sender.send(WatchEvent::Added(object(value))).unwrap();
        }
        let end = WatchEvent::Bookmark {
            resource_version: state.revision,
            initial_events_end: true,
        };
        sender.send(end).unwrap();
        state.watchers.push((gvr.resource.to_string(), sender));
        let stream = futures::stream::unfold(receiver, async |mut r| r.recv().await.map(|e| (Ok(e), r)));
        Ok(stream.boxed())
    }
    async fn create(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        other()
    }
    async fn update(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        other()
    }
    async fn patch(
        &self,
        _: &Gvr,
        _: &str,
        _: (&str, &str),
        _: PatchType,
        _: Body,
        _: &WriteOptions,
    ) -> Result<Arc<Object>, Status> {
        other()
    }
    async fn delete(&self, _: &Gvr, _: &str, _: &str, _: &DeleteOptions) -> Result<Option<Arc<Object>>, Status> {
        other()
    }
}
