//! The revisioned key-value store: the [`Store`] port, the embedded engine behind it, and the
//! conformance suite that every backend passes. It knows keys, bytes and revisions; it must not
//! know what an API object is.
//!
//! The rules that hold for every backend:
//!
//! - There is one revision for the whole store. A transaction that changes something raises it by
//!   exactly one; one that changes nothing (a compare that failed, a delete of absent keys) leaves
//!   it alone. The first write of a new store has revision 2, as in etcd, where 1 is "empty".
//! - What [`Store::commit`] acknowledged is durable. Watchers see a transaction only after that.
//! - The committed bytes carry their own revision: see [`Stamp`].
//! - After `compact(c)`: reads work at revisions `>= c`, watches from revisions `> c`. Anything
//!   older answers [`Error::Compacted`], never a silent gap. This holds over restarts.

mod error;
mod stamp;
mod transfer;
mod types;

pub mod embedded;
#[cfg(feature = "etcd")]
pub mod etcd;
pub mod sealed;

#[cfg(any(test, feature = "conformance"))]
pub mod conformance;
#[cfg(test)]
mod tests;

pub use embedded::Embedded;
pub use error::{Error, Result, Source};
pub use sealed::Sealed;
pub use stamp::Stamp;
pub use transfer::{copy, equal};
pub use types::{
    Committed, Compare, Condition, EventKind, KeyValue, Op, Outcome, Page, Range, Stats, Txn, WatchBatch, WatchEvent,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use std::path::Path;

/// What [`Store::watch`] yields. It ends after the first error, and after [`Store::close`].
pub type WatchStream = BoxStream<'static, Result<WatchBatch>>;

/// A revisioned key-value store. Held as `Arc<dyn Store>`.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The revision of the last acknowledged transaction; 1 when nothing was ever written.
    async fn revision(&self) -> Result<u64>;

    /// The revision up to which history has been dropped; 0 when never compacted.
    async fn compacted(&self) -> Result<u64>;

    /// The present version of one key. Sees every transaction acknowledged before the call.
    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>>;

    /// Keys with a prefix, in byte order, at one revision. To page, repeat with `start_after` set
    /// to the last key and `at_revision` to [`Page::revision`].
    ///
    /// # Errors
    /// [`Error::Compacted`] or [`Error::FutureRevision`] when `at_revision` can't be served.
    async fn range(&self, range: Range) -> Result<Page>;

    /// Applies all operations if all compares hold, else none, and returns once that is durable.
    /// Transactions that are in flight together share one fsync.
    ///
    /// # Errors
    /// After [`Error::NoSpace`], [`Error::Invalid`] and [`Error::TooLarge`] nothing was written.
    /// After [`Error::Io`] and [`Error::Unavailable`] the outcome is unknown: read before retrying.
    async fn commit(&self, txn: Txn) -> Result<Outcome>;

    /// All events on keys with `prefix` whose revision is at least `from_revision` (0: whatever
    /// comes after this call), in commit order, first from history, then live, with no gap.
    /// A transaction is never split over two batches.
    ///
    /// To follow a listing: `watch(prefix, page.revision + 1)`.
    ///
    /// # Errors
    /// [`Error::Compacted`] comes from this call or as the only item of the stream.
    /// [`Error::Lagged`] ends the stream of a consumer that does not keep up.
    async fn watch(&self, prefix: Bytes, from_revision: u64) -> Result<WatchStream>;

    /// Drops all versions that were superseded, and all deletions made, at or before `revision`.
    /// Commits go on meanwhile. Compacting an already compacted revision does nothing.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] when `revision` has not been reached.
    async fn compact(&self, revision: u64) -> Result<()>;

    /// Writes a consistent copy of the whole store to the new file `path`, durably, while commits
    /// go on; returns a revision that the copy contains.
    async fn snapshot(&self, path: &Path) -> Result<u64>;

    /// Sizes and counters.
    async fn stats(&self) -> Result<Stats>;

    /// Refuses further commits with [`Error::Closed`], finishes those in flight, ends all watches
    /// and releases the lock. Calling it is good manners, not a need: dropping or being killed is
    /// as safe.
    async fn close(&self);
}
