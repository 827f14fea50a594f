//! All objects in memory: one cache per kind, fed in commit order by one task
//! that follows the store. Readers take O(1) snapshots.
//!
//! Must not write to the store, and must not let a reader hold up the feeder.

pub mod codec;
mod item;
mod kind;
mod watch;

pub use item::{Item, Selection};
pub use kind::{Begin, KindCache, Snapshot, Verb, select};
pub use watch::{Delivery, Watch};

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use meta::{DecodeError, Object};
use store::{EventKind, Range, Store};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::resource::{Catalog, Resource};

/// Where every object's key begins.
pub const PREFIX: &str = "/registry/";
/// How long to wait before a store that went away is followed again: at first, and at most. All
/// writes wait for this, so it is short.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);
/// Keys read at once at start.
const LOAD_PAGE: usize = 2000;

/// How far the caches are behind the store.
#[derive(Default)]
pub struct Progress {
    applied: AtomicU64,
    waiters: Mutex<Vec<(u64, oneshot::Sender<()>)>>,
}

impl Progress {
    /// Every change up to this revision is in the caches and on its way to watchers.
    pub fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    /// Returns once the caches have reached `revision`.
    pub async fn reached(&self, revision: u64) {
        if self.applied() >= revision {
            return;
        }
        let (tell, told) = oneshot::channel();
        {
            let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
            // The feeder raises `applied` before it takes this lock.
            if self.applied() >= revision {
                return;
            }
            waiters.push((revision, tell));
        }
        // An error means that the feeder has ended; the caller then sees what there is.
        let _ = told.await;
    }

    pub(crate) fn advance(&self, revision: u64) {
        self.applied.fetch_max(revision, Ordering::AcqRel);
        let mut waiters = self.waiters.lock().unwrap_or_else(PoisonError::into_inner);
        let mut i = 0;
        while i < waiters.len() {
            if waiters[i].0 <= revision {
                let _ = waiters.swap_remove(i).1.send(());
            } else {
                i += 1;
            }
        }
    }

    fn end(&self) {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// Reads everything from the store into the caches; returns the revision reached.
pub async fn load(catalog: &Catalog, store: &dyn Store, progress: &Progress) -> store::Result<u64> {
    let revision = store.revision().await?;
    for resource in catalog.stored() {
        load_one(&resource, store, revision).await?;
    }
    progress.advance(revision);
    Ok(revision)
}

/// Reads all objects of a resource as they were at a revision.
pub async fn load_one(resource: &Resource, store: &dyn Store, revision: u64) -> store::Result<()> {
    let prefix = resource.prefix.clone();
    let mut range = Range::prefix(prefix.into_bytes()).limit(LOAD_PAGE).at(revision);
    let mut items = Vec::new();
    loop {
        let page = store.range(range.clone()).await?;
        let last = page.items.last().map(|kv| kv.key.clone());
        for kv in page.items {
            match decode(resource, &kv.value) {
                Ok(object) => items.push((Arc::from(object.key()), Item::new(object))),
                Err(error) => tracing::error!(key = %String::from_utf8_lossy(&kv.key), %error,
                    "a stored object can't be read and is not served"),
            }
        }
        match last {
            Some(last) if page.more => range = range.start_after(last),
            _ => break,
        }
    }
    resource.cache.load(items, revision);
    Ok(())
}

/// A custom resource that was stored in another version is shown in the one that is stored now.
fn decode(resource: &Resource, value: &Bytes) -> Result<Object, DecodeError> {
    let object = codec::decode(value)?;
    if !resource.kind.custom || object.header().api_version == resource.api_version {
        return Ok(object);
    }
    let mut value = object.to_full_value();
    value["apiVersion"] = resource.api_version.as_str().into();
    Object::from_value(value)
}

/// A change of the custom resources. It is made by whoever follows the store, so that no event is
/// missed between the reading of a resource's objects and the first event that reaches it.
pub struct Registration {
    /// Group and plural.
    pub name: (String, String),
    /// All versions; empty to take the resource away.
    pub resources: Vec<Arc<Resource>>,
    /// Told when it is served, or why not.
    pub done: oneshot::Sender<store::Result<()>>,
}

/// Registrations that wait to be made.
pub type Registrations = mpsc::UnboundedReceiver<Registration>;

async fn register(catalog: &Catalog, store: &dyn Store, registration: Registration, revision: u64) {
    let (group, plural) = &registration.name;
    let known = catalog.find_custom(group, plural);
    let fresh = registration.resources.iter().find(|r| r.projection.is_none());
    let fresh = fresh.filter(|r| known.as_ref().is_none_or(|k| !Arc::ptr_eq(&k.cache, &r.cache)));
    let loaded = match fresh {
        Some(resource) => load_one(resource, store, revision).await,
        None => Ok(()),
    };
    if loaded.is_ok() {
        let kept = |r: &&Arc<Resource>| registration.resources.iter().any(|n| Arc::ptr_eq(&n.cache, &r.cache));
        for old in catalog.versions(group, plural).iter().filter(|r| !kept(r)) {
            old.cache.end_watches();
        }
        catalog.replace(group, plural, registration.resources);
    }
    // Whoever asked may have gone.
    let _ = registration.done.send(loaded);
}

/// Follows the store from after `revision` until `stop`. If history was lost under it, loads anew.
pub async fn feed(
    catalog: Arc<Catalog>,
    store: Arc<dyn Store>,
    progress: Arc<Progress>,
    mut revision: u64,
    mut registrations: Registrations,
    stop: CancellationToken,
) {
    let mut pause = FIRST_PAUSE;
    while !stop.is_cancelled() {
        let before = revision;
        let followed = tokio::select! {
            () = stop.cancelled() => break,
            r = follow(&catalog, &*store, &progress, &mut revision, &mut registrations) => r,
        };
        if revision > before {
            pause = FIRST_PAUSE;
        }
        match followed {
            Ok(()) | Err(store::Error::Closed) => break,
            Err(store::Error::Lagged { .. }) => {}
            Err(store::Error::Compacted { .. }) => {
                tracing::warn!("the cache fell behind the store's history and is read anew");
                match load(&catalog, &*store, &progress).await {
                    Ok(now) => revision = now,
                    Err(error) => {
                        tracing::error!(%error, "read the store anew");
                        tokio::time::sleep(LAST_PAUSE).await;
                    }
                }
                // Their watchers would miss what lies between.
                catalog.stored().iter().for_each(|r| r.cache.end_watches());
            }
            Err(error) => {
                tracing::warn!(%error, "follow the store; it is tried again");
                tokio::select! {
                    () = stop.cancelled() => break,
                    () = tokio::time::sleep(pause) => {}
                }
                pause = (pause * 2).min(LAST_PAUSE);
            }
        }
    }
    progress.end();
}

async fn follow(
    catalog: &Catalog,
    store: &dyn Store,
    progress: &Progress,
    revision: &mut u64,
    registrations: &mut Registrations,
) -> store::Result<()> {
    let mut events = store.watch(PREFIX.into(), *revision + 1).await?;
    loop {
        let batch = tokio::select! {
            batch = events.next() => batch,
            Some(registration) = registrations.recv() => {
                register(catalog, store, registration, *revision).await;
                continue;
            }
        };
        let Some(batch) = batch else {
            return Ok(());
        };
        let batch = batch?;
        for event in &batch.events {
            apply(catalog, event);
        }
        *revision = batch.revision;
        progress.advance(batch.revision);
    }
}

fn apply(catalog: &Catalog, event: &store::WatchEvent) {
    let Ok(key) = std::str::from_utf8(&event.key) else {
        return;
    };
    let Some((resource, name)) = catalog.of_key(key) else {
        return;
    };
    let object: Option<Object> = match event.kind {
        EventKind::Delete => None,
        EventKind::Put => match decode(&resource, &event.value) {
            Ok(object) => Some(object),
            Err(error) => {
                tracing::error!(key, %error, "a committed object can't be read");
                return;
            }
        },
    };
    resource.cache.apply(name, object, event.revision);
}
