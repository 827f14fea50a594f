//! From a draft to a committed, cached object. The only place that writes objects to the store.

use std::sync::Arc;

use bytes::Bytes;
use meta::{Object, Status};
use store::{Outcome, Txn};

use super::{Draft, Target};
use crate::cache::codec;
use crate::core::Core;
use crate::projection::catch_up;
use crate::resource::object_key;

/// What a write found.
pub(crate) enum Written {
    /// Committed; the object as it is now cached.
    Done(Arc<Object>),
    /// The compared version was not there.
    Lost,
}

impl Core {
    /// Creates the object.
    pub(crate) async fn commit_create(&self, target: Target<'_>, name: &str, draft: &Draft) -> Result<Written, Status> {
        let key = target.resource.key(target.namespace, name);
        let value = stored_form(target, draft).await?;
        self.commit_put(target, name, Txn::create(key, value)).await
    }

    /// Replaces the version `revision` of the object.
    pub(crate) async fn commit_update(
        &self,
        target: Target<'_>,
        revision: u64,
        draft: &Draft,
    ) -> Result<Written, Status> {
        let key = target.resource.key(target.namespace, target.name);
        let value = stored_form(target, draft).await?;
        self.commit_put(target, target.name, Txn::update(key, revision, value))
            .await
    }

    /// Removes the version `revision` of the object; the answer is its last state.
    pub(crate) async fn commit_delete(&self, target: Target<'_>, revision: u64) -> Result<Written, Status> {
        let key = target.resource.key(target.namespace, target.name);
        self.commit_put(target, target.name, Txn::remove(key, revision)).await
    }

    async fn commit_put(&self, target: Target<'_>, name: &str, txn: Txn) -> Result<Written, Status> {
        let committed = match self.store.commit(txn).await.map_err(|e| store_status(&e))? {
            Outcome::Committed(committed) => committed,
            Outcome::CompareFailed { revision, .. } => {
                // What won the race is then visible to a retry.
                self.progress.reached(revision).await;
                return Ok(Written::Lost);
            }
        };
        self.progress.reached(committed.revision).await;
        catch_up(target.resource).await?;
        let key = object_key(target.namespace, name);
        if let Some(object) = target.resource.cache.committed(committed.revision, &key) {
            return Ok(Written::Done(object));
        }
        // So much was written meanwhile that the event has left the ring.
        let event = committed.events.first();
        let bytes = event.map(|e| {
            if e.value.is_empty() {
                e.prev.as_ref().map(|p| &p.value)
            } else {
                Some(&e.value)
            }
        });
        let bytes = bytes
            .flatten()
            .ok_or_else(|| Status::internal("the commit changed nothing"))?;
        Ok(Written::Done(Arc::new(codec::decode(bytes).map_err(Status::internal)?)))
    }
}

/// The bytes of a draft in the version in which objects are stored.
async fn stored_form(target: Target<'_>, draft: &Draft) -> Result<Bytes, Status> {
    let managed = draft.managed.as_deref();
    match &target.resource.projection {
        None => codec::encode(&draft.value, managed),
        Some(projection) => codec::encode(&projection.to_stored(draft.value.clone()).await?, managed),
    }
    .map_err(Status::internal)
}

/// What the client is told about a failed store.
pub(crate) fn store_status(error: &store::Error) -> Status {
    match error {
        store::Error::Compacted { .. } => Status::expired(
            "The provided resource version is too old to display a consistent list result; start a new list",
        ),
        store::Error::FutureRevision { requested, current } => too_large(*requested, *current),
        store::Error::TooLarge { .. } => Status::new(413, meta::Reason::RequestEntityTooLarge, error.to_string()),
        store::Error::NoSpace { .. } => Status::new(
            507,
            meta::Reason::Other("InsufficientStorage".into()),
            error.to_string(),
        ),
        store::Error::Closed => Status::unavailable("the server is shutting down"),
        store::Error::Unavailable { .. } => Status::unavailable(error.to_string()),
        other => {
            tracing::error!(error = %other, "store");
            Status::internal(other)
        }
    }
}

/// 504 for a revision that has not been reached.
pub(crate) fn too_large(requested: u64, current: u64) -> Status {
    let mut status = Status::timeout(format!("Too large resource version: {requested}, current: {current}"));
    status.causes.push(meta::Cause {
        reason: "ResourceVersionTooLarge".into(),
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status.retry_after_seconds = 1;
    status
}
