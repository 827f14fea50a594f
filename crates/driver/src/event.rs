//! Events: told once as an object, then counted.
//!
//! Must not hold up the one who has something to say: when too much is said, it is dropped.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use client::{Client, ClientExt};
use jiff::Timestamp;
use kinds::resources::EVENTS;
use meta::{Object, Status};
use reconcile::EventKind;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tracing::debug;

/// Events that may wait to be written.
const BACKLOG: usize = 4096;
/// Events that are remembered to be counted.
const REMEMBERED: usize = 4096;

/// Where events are said. Cheap to clone.
#[derive(Clone)]
pub struct Recorder {
    sender: mpsc::Sender<Said>,
}

struct Said {
    component: String,
    host: String,
    regarding: Value,
    kind: EventKind,
    reason: String,
    message: String,
    at: Timestamp,
}

impl Said {
    fn identity(&self) -> String {
        let uid = &self.regarding["uid"];
        let path = &self.regarding["fieldPath"];
        format!("{uid} {path} {} {} {}", self.reason, self.component, self.message)
    }
}

impl Recorder {
    /// Begins to write events by a client. Must be called inside a tokio runtime.
    pub fn new(client: Arc<dyn Client>) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(write(client, receiver));
        Recorder { sender }
    }

    /// Says something about an object, in the name of a component.
    pub fn say(&self, component: &str, about: &Object, kind: EventKind, reason: &str, message: &str) {
        self.say_from((component, ""), about, "", kind, reason, message);
    }

    /// Says something about a part of an object (`field_path`, if not empty), in the name of a
    /// component on a host.
    pub fn say_from(
        &self,
        (component, host): (&str, &str),
        about: &Object,
        field_path: &str,
        kind: EventKind,
        reason: &str,
        message: &str,
    ) {
        let mut regarding = reference(about);
        if !field_path.is_empty() {
            regarding["fieldPath"] = field_path.into();
        }
        let said = Said {
            component: component.to_owned(),
            host: host.to_owned(),
            regarding,
            kind,
            reason: reason.to_owned(),
            message: message.to_owned(),
            at: Timestamp::now(),
        };
        // A full queue drops events rather than hold up work.
        let _ = self.sender.try_send(said);
    }
}

fn reference(o: &Object) -> Value {
    let h = o.header();
    let mut out = json!({"apiVersion": h.api_version, "kind": h.kind, "name": h.name, "uid": h.uid,
        "resourceVersion": h.resource_version.to_string()});
    if !h.namespace.is_empty() {
        out["namespace"] = h.namespace.as_str().into();
    }
    out
}

/// What is remembered of an event.
struct Known {
    namespace: String,
    name: String,
    count: u32,
}

async fn write(client: Arc<dyn Client>, mut said: mpsc::Receiver<Said>) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut order: VecDeque<String> = VecDeque::new();
    while let Some(said) = said.recv().await {
        let identity = said.identity();
        if let Some(event) = known.get_mut(&identity) {
            event.count += 1;
            match again(client.as_ref(), event, &said).await {
                Ok(()) => continue,
                Err(e) if e.is_not_found() => _ = known.remove(&identity),
                Err(e) => {
                    debug!(error = %e.message, "event not counted");
                    continue;
                }
            }
        }
        match first(client.as_ref(), &said).await {
            Ok(event) => {
                known.insert(identity.clone(), event);
                order.push_back(identity);
            }
            Err(e) => debug!(reason = %said.reason, error = %e.message, "event not recorded"),
        }
        while order.len() > REMEMBERED {
            if let Some(oldest) = order.pop_front() {
                known.remove(&oldest);
            }
        }
    }
}

async fn first(client: &dyn Client, said: &Said) -> Result<Known, Status> {
    let r = &said.regarding;
    // Events about cluster-scoped objects live in the namespace default, as everywhere.
    let namespace = r["namespace"].as_str().unwrap_or("default").to_owned();
    let nanos = said.at.as_nanosecond();
    let name = format!("{}.{nanos:x}", r["name"].as_str().unwrap_or("unnamed"));
    let time = meta::time::rfc3339(said.at);
    let mut source = json!({"component": said.component});
    if !said.host.is_empty() {
        source["host"] = said.host.as_str().into();
    }
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": r, "reason": said.reason, "message": said.message, "type": word(said.kind),
        "source": source, "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        "reportingComponent": said.component, "reportingInstance": said.host,
    });
    client.create_object(&EVENTS, &namespace, &event).await?;
    Ok(Known {
        namespace,
        name,
        count: 1,
    })
}

async fn again(client: &dyn Client, event: &Known, said: &Said) -> Result<(), Status> {
    let patch = json!({"count": event.count, "lastTimestamp": meta::time::rfc3339(said.at)});
    client
        .merge_patch(&EVENTS, &event.namespace, &event.name, "", &patch)
        .await
        .map(|_| ())
}

fn word(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Normal => "Normal",
        EventKind::Warning => "Warning",
    }
}
