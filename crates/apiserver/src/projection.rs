//! A version of a resource whose objects are stored in another: a second cache
//! that follows the first, converting as it goes. Readers and watchers then need
//! not know that there are versions.
//!
//! Costs nothing before the version is first asked for. Must not write to the store.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use meta::{Object, Status};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::cache::{Begin, Item, Progress, Selection, Verb};
use crate::resource::Resource;

/// How long a reader waits for a conversion.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);
/// Pause after a conversion that failed.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Objects converted in one go.
const BATCH: usize = 100;

/// Turns objects of one version into objects of another.
#[async_trait]
pub trait Convert: Send + Sync {
    /// The objects in another version (`group/version`), in the same order. Names, uids and the
    /// like stay as they are.
    async fn convert(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Status>;
}

/// Versions that differ in nothing but their name.
pub struct Rename;

#[async_trait]
impl Convert for Rename {
    async fn convert(&self, mut objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Status> {
        for object in &mut objects {
            object["apiVersion"] = to.into();
        }
        Ok(objects)
    }
}

/// A second version of a built-in kind.
pub struct Second(pub &'static kinds::versions::Second);

#[async_trait]
impl Convert for Second {
    async fn convert(&self, objects: Vec<Value>, to: &str) -> Result<Vec<Value>, Status> {
        let convert = if to == self.0.stored.api_version() {
            self.0.to_stored
        } else {
            self.0.from_stored
        };
        Ok(objects.into_iter().map(convert).collect())
    }
}

/// How a version follows the one in which objects are stored.
pub struct Projection {
    /// The version in which objects are stored.
    pub base: Arc<Resource>,
    convert: Arc<dyn Convert>,
    progress: Arc<Progress>,
    started: AtomicBool,
    /// Why the last conversion failed.
    failure: Mutex<Option<Status>>,
    /// Ended when the definition changes.
    stop: CancellationToken,
}

impl Drop for Projection {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Projection {
    /// A projection of a stored version.
    pub fn new(base: Arc<Resource>, convert: Arc<dyn Convert>) -> Self {
        Projection {
            base,
            convert,
            progress: Arc::default(),
            started: AtomicBool::new(false),
            failure: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// An object of the projected version as it is stored.
    pub async fn to_stored(&self, object: Value) -> Result<Value, Status> {
        let mut converted = self.convert.convert(vec![object], &self.base.api_version).await?;
        converted
            .pop()
            .ok_or_else(|| Status::internal("the conversion lost the object"))
    }

    /// Stored objects in a version.
    pub async fn project(&self, stored: &[Object], to: &str) -> Result<Vec<Object>, Status> {
        let mut out = Vec::with_capacity(stored.len());
        for batch in stored.chunks(BATCH) {
            let values = batch.iter().map(Object::to_full_value).collect();
            let converted = self.convert.convert(values, to).await?;
            if converted.len() != batch.len() {
                return Err(Status::internal("the conversion lost objects"));
            }
            for (value, stored) in converted.into_iter().zip(batch) {
                out.push(object(value, stored)?);
            }
        }
        Ok(out)
    }

    fn fail(&self, status: Option<Status>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// Waits until the cache of a version shows everything that the stored one has now.
pub async fn catch_up(resource: &Arc<Resource>) -> Result<(), Status> {
    let Some(projection) = &resource.projection else {
        return Ok(());
    };
    if !projection.started.swap(true, Ordering::AcqRel) {
        let (resource, stop) = (Arc::downgrade(resource), projection.stop.clone());
        tokio::spawn(async move {
            let follow = async {
                while let Some(resource) = resource.upgrade() {
                    if let Err(status) = follow(&resource).await {
                        tracing::warn!(resource = %resource.kind.gvr().group_resource(), error = status.message, "convert");
                        if let Some(projection) = &resource.projection {
                            projection.fail(Some(status));
                        }
                        drop(resource);
                        tokio::time::sleep(AGAIN).await;
                    }
                }
            };
            tokio::select! {
                () = follow => {}
                () = stop.cancelled() => {}
            }
        });
    }
    let (_, wanted) = projection.base.cache.snapshot();
    let reached = tokio::time::timeout(PATIENCE, projection.progress.reached(wanted));
    if reached.await.is_ok() {
        return Ok(());
    }
    let failure = projection
        .failure
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    Err(failure.unwrap_or_else(|| Status::timeout("the conversion of the objects takes too long")))
}

/// Converts the present state, then every change, until the base ends the watch.
async fn follow(resource: &Arc<Resource>) -> Result<(), Status> {
    let Some(projection) = &resource.projection else {
        return Ok(());
    };
    let base = &projection.base;
    let (snapshot, revision) = base.cache.snapshot();
    let mut subscription = base
        .cache
        .subscribe(&Selection::default(), Begin::After(revision), revision)?;
    let stored: Vec<Object> = (&snapshot)
        .into_iter()
        .map(|(_, item)| (*item.object).clone())
        .collect();
    let converted = projection.project(&stored, &resource.api_version).await?;
    let items = converted
        .into_iter()
        .map(|o| (Arc::from(o.key()), Item::new(o)))
        .collect();
    resource.cache.load(items, revision);
    projection.progress.advance(revision);
    projection.fail(None);
    loop {
        let next = match subscription.replay.pop_front() {
            Some(next) => Some(next),
            None => subscription.live.recv().await,
        };
        let Some((event, verb)) = next else {
            resource.cache.end_watches();
            return Ok(());
        };
        let stored = event.object(verb);
        let fresh = match verb {
            Verb::Deleted => None,
            _ => {
                let stored = std::slice::from_ref(&**stored);
                projection.project(stored, &resource.api_version).await?.pop()
            }
        };
        resource.cache.apply(&stored.key(), fresh, event.revision);
        projection.progress.advance(event.revision);
    }
}

/// A converted object; what a conversion must not change is taken from the stored one.
fn object(mut value: Value, stored: &Object) -> Result<Object, Status> {
    value["metadata"]["resourceVersion"] = stored.resource_version().to_string().into();
    Object::from_value(value).map_err(Status::internal)
}
