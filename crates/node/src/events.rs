//! Events about pods and the node, as `kubectl describe` shows them.
//!
//! Must not hold up work: events that cannot be written are lost.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use client::{Client, ClientExt};
use jiff::Timestamp;
use kinds::resources::EVENTS;
use meta::{Object, Status};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events that may wait to be written.
const BACKLOG: usize = 2048;
/// Events that are remembered to be counted.
const REMEMBERED: usize = 2048;
/// As whom the agent speaks.
const COMPONENT: &str = "kubelet";

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Normal,
    Warning,
}

/// Where events are said. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Said>,
}

struct Said {
    regarding: Value,
    tone: Tone,
    reason: &'static str,
    message: String,
    at: Timestamp,
}

/// What is remembered of an event.
struct Known {
    namespace: String,
    name: String,
    count: u32,
}

impl Events {
    /// Begins to write events.
    pub(crate) fn new(client: Arc<dyn Client>, host: String, stop: CancellationToken) -> Self {
        let (sender, receiver) = mpsc::channel(BACKLOG);
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = write(client, host, receiver) => {}
            }
        });
        Events { sender }
    }

    /// Says something about a pod.
    pub(crate) fn pod(&self, pod: &Object, tone: Tone, reason: &'static str, message: impl Into<String>) {
        self.say(reference(pod), tone, reason, message.into());
    }

    /// Says something about a container; `path` is such as `spec.containers{name}`.
    pub(crate) fn container(
        &self,
        pod: &Object,
        path: &str,
        tone: Tone,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let mut regarding = reference(pod);
        regarding["fieldPath"] = path.into();
        self.say(regarding, tone, reason, message.into());
    }

    /// Says something about the node.
    pub(crate) fn node(&self, name: &str, tone: Tone, reason: &'static str, message: impl Into<String>) {
        let regarding = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name});
        self.say(regarding, tone, reason, message.into());
    }

    fn say(&self, regarding: Value, tone: Tone, reason: &'static str, message: String) {
        let at = Timestamp::now();
        let said = Said {
            regarding,
            tone,
            reason,
            message,
            at,
        };
        // A full queue drops events rather than hold up work.
        let _ = self.sender.try_send(said);
    }
}

fn reference(pod: &Object) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace(), "name": pod.name(), "uid": pod.uid(),
        "resourceVersion": pod.resource_version().to_string()})
}

async fn write(client: Arc<dyn Client>, host: String, mut said: mpsc::Receiver<Said>) {
    let mut known: HashMap<String, Known> = HashMap::new();
    let mut order: VecDeque<String> = VecDeque::new();
    while let Some(said) = said.recv().await {
        let r = &said.regarding;
        let identity = format!("{} {} {} {}", r["uid"], r["fieldPath"], said.reason, said.message);
        if let Some(event) = known.get_mut(&identity) {
            event.count += 1;
            match again(client.as_ref(), event, &said).await {
                Err(e) if e.is_not_found() => _ = known.remove(&identity),
                Ok(()) => continue,
                Err(e) => {
                    tracing::debug!(error = %e.message, "event not counted");
                    continue;
                }
            }
        }
        match first(client.as_ref(), &host, &said).await {
            Ok(event) => {
                known.insert(identity.clone(), event);
                order.push_back(identity);
            }
            Err(e) => tracing::debug!(reason = said.reason, error = %e.message, "event not recorded"),
        }
        while order.len() > REMEMBERED {
            if let Some(oldest) = order.pop_front() {
                known.remove(&oldest);
            }
        }
    }
}

async fn first(client: &dyn Client, host: &str, said: &Said) -> Result<Known, Status> {
    let r = &said.regarding;
    // Events about cluster-scoped objects live in the namespace default, as everywhere.
    let namespace = r["namespace"].as_str().unwrap_or("default").to_owned();
    let nanos = said.at.as_nanosecond();
    let name = format!("{}.{nanos:x}", r["name"].as_str().unwrap_or("unnamed"));
    let time = meta::time::rfc3339(said.at);
    let kind = match said.tone {
        Tone::Normal => "Normal",
        Tone::Warning => "Warning",
    };
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": r, "reason": said.reason, "message": said.message, "type": kind,
        "source": {"component": COMPONENT, "host": host}, "firstTimestamp": time, "lastTimestamp": time, "count": 1,
        "reportingComponent": COMPONENT, "reportingInstance": host,
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
        .await?;
    Ok(())
}
