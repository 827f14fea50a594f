//! The provisioner's loop: watches claims, volumes and classes, asks
//! `volumeplan` and does what it says. One task, event by event.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

use client::{Client, ClientExt, DeleteOptions, ListOptions, Preconditions, WatchEvent};
use futures::StreamExt;
use meta::{Gvr, Object, Status};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use volumeplan::{Mode, Provision, Volume, default_class, grow, is_ours, persistent_volume, provision, reclaim};

use crate::store::{Inner, Volumes};
use crate::{VolumeError, tools};

static CLAIMS: Gvr = Gvr::of("", "v1", "persistentvolumeclaims");
static VOLUMES: Gvr = Gvr::of("", "v1", "persistentvolumes");
static CLASSES: Gvr = Gvr::of("storage.k8s.io", "v1", "storageclasses");
static EVENTS: Gvr = Gvr::of("", "v1", "events");

/// Pause after a watch that failed, and before what could not be done is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LAST_PAUSE: Duration = Duration::from_secs(30);

/// Condition of a claim whose file system has not grown yet.
const RESIZE_PENDING: &str = "FileSystemResizePending";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Kind {
    Class,
    Claim,
    Volume,
}

impl Kind {
    fn gvr(self) -> &'static Gvr {
        match self {
            Kind::Class => &CLASSES,
            Kind::Claim => &CLAIMS,
            Kind::Volume => &VOLUMES,
        }
    }
}

enum Change {
    /// A watch begins anew: forget what it said before.
    Begin(Kind),
    Put(Kind, String, Value),
    Gone(Kind, String),
    /// The present state is complete.
    Complete(Kind),
}

/// What the watches said.
#[derive(Default)]
struct View {
    classes: BTreeMap<String, Value>,
    claims: BTreeMap<String, Value>,
    volumes: BTreeMap<String, Value>,
    complete: BTreeSet<Kind>,
}

impl View {
    fn of(&mut self, kind: Kind) -> &mut BTreeMap<String, Value> {
        match kind {
            Kind::Class => &mut self.classes,
            Kind::Claim => &mut self.claims,
            Kind::Volume => &mut self.volumes,
        }
    }

    fn take(&mut self, change: Change) {
        match change {
            Change::Begin(kind) => {
                self.of(kind).clear();
                self.complete.remove(&kind);
            }
            Change::Put(kind, key, object) => _ = self.of(kind).insert(key, object),
            Change::Gone(kind, key) => _ = self.of(kind).remove(&key),
            Change::Complete(kind) => _ = self.complete.insert(kind),
        }
    }
}

impl Volumes {
    /// Provisions until dropped.
    pub async fn run(&self) {
        let inner = self.inner.as_ref();
        let (sender, mut changes) = mpsc::channel(256);
        let watches = futures::future::join_all(
            [Kind::Class, Kind::Claim, Kind::Volume].map(|kind| follow(inner.client.as_ref(), kind, sender.clone())),
        );
        let work = async {
            ensure_class(inner.client.as_ref()).await;
            let mut view = View::default();
            // What was last said about a claim, so that it is said once.
            let mut said = HashMap::new();
            let mut pause = FIRST_PAUSE;
            let mut again = false;
            loop {
                tokio::select! {
                    change = changes.recv() => match change {
                        Some(change) => view.take(change),
                        None => return,
                    },
                    () = inner.freed.notified() => {}
                    () = tokio::time::sleep(pause), if again => pause = (pause * 2).min(LAST_PAUSE),
                }
                while let Ok(change) = changes.try_recv() {
                    view.take(change);
                }
                if view.complete.len() == 3 {
                    again = inner.work(&view, &mut said).await;
                    if !again {
                        pause = FIRST_PAUSE;
                    }
                }
            }
        };
        tokio::join!(watches, work);
    }
}

/// Hands on what a watch says, and begins again when it ends.
async fn follow(client: &dyn Client, kind: Kind, sender: mpsc::Sender<Change>) {
    let options = ListOptions {
        send_initial_events: true,
        allow_bookmarks: true,
        ..ListOptions::default()
    };
    let mut pause = FIRST_PAUSE;
    loop {
        match client.watch(kind.gvr(), "", &options).await {
            Ok(mut events) => {
                if sender.send(Change::Begin(kind)).await.is_err() {
                    return;
                }
                while let Some(Ok(event)) = events.next().await {
                    pause = FIRST_PAUSE;
                    let put = |o: &Object| Change::Put(kind, o.key(), o.to_value());
                    let change = match event {
                        WatchEvent::Added(o) | WatchEvent::Modified(o) => put(&o),
                        WatchEvent::Deleted(o) => Change::Gone(kind, o.key()),
                        WatchEvent::Bookmark {
                            initial_events_end: true,
                            ..
                        } => Change::Complete(kind),
                        WatchEvent::Bookmark { .. } => continue,
                    };
                    if sender.send(change).await.is_err() {
                        return;
                    }
                }
            }
            Err(status) => tracing::debug!(?kind, error = %status.message, "watch"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

/// Makes the default class. An administrator's changes to one that exists stay.
async fn ensure_class(client: &dyn Client) {
    let mut pause = FIRST_PAUSE;
    loop {
        match client.create_object(&CLASSES, "", &default_class()).await {
            Err(status) if !status.is_already_exists() => {
                tracing::warn!(error = %status.message, "cannot make the storage class local");
            }
            _ => return,
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LAST_PAUSE);
    }
}

impl Inner {
    /// Does all there is to do; whether something is left for later.
    async fn work(&self, view: &View, said: &mut HashMap<String, String>) -> bool {
        let node = &self.config.node_name;
        let mut again = false;
        said.retain(|key, _| view.claims.contains_key(key));
        for (key, claim) in &view.claims {
            let uid = claim["metadata"]["uid"].as_str().unwrap_or_default();
            if let Some(pv) = view.volumes.get(&format!("pvc-{uid}")) {
                again |= self.maybe_grow(claim, pv, view).await;
                continue;
            }
            let free = self.free().unwrap_or(0);
            match provision(claim, &view.classes, node, free) {
                Provision::Nothing => {}
                Provision::Make(volume) => again |= self.make_and_tell(&volume, claim, key, said).await,
                Provision::Refuse { message, again: later } => {
                    again |= later;
                    self.tell(claim, key, "Warning", "ProvisioningFailed", &message, said)
                        .await;
                }
            }
        }
        for pv in view.volumes.values().filter(|pv| reclaim(pv, node)) {
            again |= self.reclaim(pv).await;
        }
        again
    }

    async fn make_and_tell(
        &self,
        volume: &Volume,
        claim: &Value,
        key: &str,
        said: &mut HashMap<String, String>,
    ) -> bool {
        let made = match self.make(&volume.uid, volume.capacity) {
            Ok(made) => made,
            Err(error) => {
                let message = chain(&error);
                self.tell(claim, key, "Warning", "ProvisioningFailed", &message, said)
                    .await;
                return true;
            }
        };
        let pv = persistent_volume(volume, &made.0.to_string_lossy(), &self.config.node_name);
        match self.client.create_object(&VOLUMES, "", &pv).await {
            Err(status) if !status.is_already_exists() => {
                tracing::warn!(claim = key, error = %status.message, "cannot create the volume's object");
                return true;
            }
            Err(_) => {}
            Ok(_) => {
                let message = format!("Successfully provisioned volume pvc-{}", volume.uid);
                self.tell(claim, key, "Normal", "ProvisioningSucceeded", &message, said)
                    .await;
            }
        }
        false
    }

    async fn maybe_grow(&self, claim: &Value, pv: &Value, view: &View) -> bool {
        let Some(path) = is_ours(pv, &self.config.node_name) else {
            return false;
        };
        let Some(size) = grow(claim, pv, &view.classes) else {
            return false;
        };
        match self.grow(Path::new(path), size, pv, claim).await {
            Ok(()) => false,
            Err(error) => {
                tracing::warn!(volume = path, error, "cannot grow the volume");
                true
            }
        }
    }

    /// File, file system, volume's object, claim's status: in this order, each repeatable.
    /// Where a mounted file system cannot grow, the claim says so until nobody mounts it.
    async fn grow(&self, path: &Path, size: u64, pv: &Value, claim: &Value) -> Result<(), String> {
        let _one = self.lock(path).await;
        let done = self.grow_file(path, size, pv).await.map_err(|e| chain(&e))?;
        let text = claim["spec"]["resources"]["requests"]["storage"].clone();
        let name = pv["metadata"]["name"].as_str().unwrap_or_default();
        let patch = json!({"spec": {"capacity": {"storage": text}}});
        let told = self.client.merge_patch(&VOLUMES, "", name, "", &patch).await;
        told.map_err(|s| s.message)?;
        let meta = &claim["metadata"];
        let (namespace, name) = (meta["namespace"].as_str(), meta["name"].as_str());
        let old = claim["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let (pending, mut conditions): (Vec<Value>, Vec<Value>) =
            old.into_iter().partition(|c| c["type"] == RESIZE_PENDING);
        if !done && !pending.is_empty() {
            return Ok(());
        }
        let patch = if done {
            json!({"status": {"capacity": {"storage": text}, "conditions": conditions}})
        } else {
            conditions.push(json!({"type": RESIZE_PENDING, "status": "True",
                "message": "The file system cannot grow while it is mounted here; it will when its pods have stopped",
                "lastTransitionTime": meta::time::rfc3339(jiff::Timestamp::now())}));
            json!({"status": {"conditions": conditions}})
        };
        let told = self
            .client
            .merge_patch(
                &CLAIMS,
                namespace.unwrap_or_default(),
                name.unwrap_or_default(),
                "status",
                &patch,
            )
            .await;
        told.map(drop).map_err(|s| s.message)
    }

    /// Whether all of it has its new size, or will have before anybody sees it again.
    async fn grow_file(&self, path: &Path, size: u64, pv: &Value) -> Result<bool, VolumeError> {
        let volume = self.volume(path)?;
        let image = volume.image();
        let file = std::fs::File::options().write(true).open(&image);
        let file = file.map_err(crate::io(image.display()))?;
        if file.metadata().map_err(crate::io(image.display()))?.len() < size {
            let grown = file.set_len(size).and_then(|()| file.sync_all());
            grown.map_err(crate::io(image.display()))?;
        }
        let loops = tools::loops_of(&image).await?;
        for device in &loops {
            tools::refresh_loop(device).await?;
        }
        // A file system that nobody mounts grows when it is mounted next.
        if pv["spec"]["volumeMode"] != Mode::Block.as_str()
            && let [device] = loops.as_slice()
        {
            return tools::grow_mounted(device).await;
        }
        Ok(true)
    }

    /// Removes a volume that nobody wants, once nobody uses it.
    async fn reclaim(&self, pv: &Value) -> bool {
        let path = Path::new(is_ours(pv, &self.config.node_name).unwrap_or_default());
        let name = pv["metadata"]["name"].as_str().unwrap_or_default();
        let _one = self.lock(path).await;
        let removed = match self.volume(path) {
            Ok(volume) => match self.is_free(&volume).await {
                // Tried again when a use ends.
                Ok(false) => return true,
                Ok(true) => self.remove(path),
                Err(error) => Err(error),
            },
            // Cut short between the file and the object.
            Err(VolumeError::NotOurs { .. }) => self.remove(path),
            Err(error) => Err(error),
        };
        if let Err(error) = removed {
            tracing::warn!(volume = name, error = chain(&error), "cannot remove the volume");
            return true;
        }
        let options = DeleteOptions {
            preconditions: Preconditions {
                uid: pv["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
                ..Preconditions::default()
            },
            ..DeleteOptions::default()
        };
        match self.client.delete(&VOLUMES, "", name, &options).await {
            Err(status) if !status.is_not_found() => {
                tracing::warn!(volume = name, error = %status.message, "cannot delete the volume's object");
                true
            }
            _ => false,
        }
    }

    /// An event on the claim, unless it was the last one.
    async fn tell(
        &self,
        claim: &Value,
        key: &str,
        kind: &str,
        reason: &str,
        message: &str,
        said: &mut HashMap<String, String>,
    ) {
        if said.get(key).is_some_and(|last| last == message) {
            return;
        }
        let meta = &claim["metadata"];
        let now = jiff::Timestamp::now();
        let time = meta::time::rfc3339(now);
        let name = meta["name"].as_str().unwrap_or_default();
        let event = json!({
            "apiVersion": "v1", "kind": "Event",
            "metadata": {"name": format!("{name}.{:x}", now.as_nanosecond()), "namespace": meta["namespace"]},
            "involvedObject": {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": meta["namespace"],
                "name": name, "uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
            "type": kind, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": time, "lastTimestamp": time,
            "source": {"component": volumeplan::PROVISIONER, "host": self.config.node_name},
            "reportingComponent": volumeplan::PROVISIONER, "reportingInstance": self.config.node_name,
        });
        let namespace = meta["namespace"].as_str().unwrap_or_default();
        let told: Result<_, Status> = self.client.create_object(&EVENTS, namespace, &event).await;
        match told {
            Ok(_) => _ = said.insert(key.to_owned(), message.to_owned()),
            Err(status) => tracing::debug!(claim = key, error = %status.message, "cannot write an event"),
        }
    }
}

fn chain(error: &VolumeError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
