//! The values that go in and out of a store. No behaviour beyond construction.

use bytes::Bytes;
use std::sync::Arc;

/// One version of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key, such as `/registry/<group>/<resource>/<namespace>/<name>`.
    pub key: Bytes,
    /// The stamped value (see [`crate::Stamp`]).
    pub value: Bytes,
    /// Revision of the put that created the key (anew, if it had been deleted).
    pub create_revision: u64,
    /// Revision of the put that made this version.
    pub mod_revision: u64,
    /// Number of puts since creation, 1 for the first.
    pub version: u64,
}

/// What to read with [`crate::Store::range`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// Only keys that begin with this; empty for all keys.
    pub prefix: Bytes,
    /// Only keys greater than this: the last key of the page before.
    pub start_after: Option<Bytes>,
    /// At most so many keys; 0 for no limit.
    pub limit: usize,
    /// The state as it was after this revision; `None` for the present.
    pub at_revision: Option<u64>,
}

impl Range {
    /// All keys with `prefix`, at present.
    pub fn prefix(prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            ..Self::default()
        }
    }

    /// At most `limit` keys.
    #[must_use]
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Only keys greater than `key`.
    #[must_use]
    pub fn start_after(mut self, key: impl Into<Bytes>) -> Self {
        self.start_after = Some(key.into());
        self
    }

    /// The state after `revision`.
    #[must_use]
    pub fn at(mut self, revision: u64) -> Self {
        self.at_revision = Some(revision);
        self
    }
}

/// One page of a range read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Keys in byte order.
    pub items: Vec<KeyValue>,
    /// The revision that was read: `at_revision`, or the present one.
    pub revision: u64,
    /// Whether keys follow after the last one.
    pub more: bool,
}

/// A transaction: if all `compares` hold, all `ops` happen at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// Conditions, all of which must hold.
    pub compares: Vec<Compare>,
    /// Changes; no key may occur twice.
    pub ops: Vec<Op>,
}

impl Txn {
    /// Puts a key that must not exist.
    pub fn create(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Self::default().when(key.clone(), Condition::Absent).put(key, value)
    }

    /// Puts a key that must be at `mod_revision`.
    pub fn update(key: impl Into<Bytes>, mod_revision: u64, value: impl Into<Bytes>) -> Self {
        let key = key.into();
        Self::default()
            .when(key.clone(), Condition::ModRevision(mod_revision))
            .put(key, value)
    }

    /// Deletes a key that must be at `mod_revision`.
    pub fn remove(key: impl Into<Bytes>, mod_revision: u64) -> Self {
        let key = key.into();
        Self::default()
            .when(key.clone(), Condition::ModRevision(mod_revision))
            .delete(key)
    }

    /// Adds a condition.
    #[must_use]
    pub fn when(mut self, key: impl Into<Bytes>, condition: Condition) -> Self {
        self.compares.push(Compare {
            key: key.into(),
            condition,
        });
        self
    }

    /// Adds a put.
    #[must_use]
    pub fn put(mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Put {
            key: key.into(),
            value: value.into(),
        });
        self
    }

    /// Adds a delete.
    #[must_use]
    pub fn delete(mut self, key: impl Into<Bytes>) -> Self {
        self.ops.push(Op::Delete { key: key.into() });
        self
    }
}

/// A condition on one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compare {
    /// The key looked at.
    pub key: Bytes,
    /// What must hold for it.
    pub condition: Condition,
}

/// What a [`Compare`] asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// The key does not exist.
    Absent,
    /// The key exists, at whatever version.
    Present,
    /// The key exists and was last changed at this revision.
    ModRevision(u64),
}

/// A change to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Op {
    /// Sets the key to `value`, which is stamped with the transaction's revision.
    Put {
        /// The key.
        key: Bytes,
        /// The value, before stamping.
        value: Bytes,
    },
    /// Removes the key. Removing an absent key changes nothing and is no error.
    Delete {
        /// The key.
        key: Bytes,
    },
}

impl Op {
    /// The key that is changed.
    pub fn key(&self) -> &Bytes {
        match self {
            Op::Put { key, .. } | Op::Delete { key } => key,
        }
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// All compares held; all operations are durable.
    Committed(Committed),
    /// Some compare did not hold; nothing was changed.
    CompareFailed {
        /// The present version of each compared key, in the order of [`Txn::compares`].
        current: Vec<Option<KeyValue>>,
        /// The revision at which the compares were made.
        revision: u64,
    },
}

impl Outcome {
    /// The commit, if there was one.
    pub fn committed(self) -> Option<Committed> {
        match self {
            Outcome::Committed(committed) => Some(committed),
            Outcome::CompareFailed { .. } => None,
        }
    }
}

/// A committed transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// The transaction's revision; the present one if it changed nothing.
    pub revision: u64,
    /// What it changed, in the order of [`Txn::ops`] without deletes of absent keys: the same
    /// bytes that watchers receive, so that an answer or a cache need not copy or stamp again.
    pub events: Arc<[WatchEvent]>,
}

/// What happened to a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventKind {
    /// Created (`kv.version == 1`) or changed.
    Put,
    /// Deleted.
    Delete,
}

/// One change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchEvent {
    /// What happened.
    pub kind: EventKind,
    /// The key.
    pub key: Bytes,
    /// The stamped value; empty for a delete.
    pub value: Bytes,
    /// Revision of the transaction.
    pub revision: u64,
    /// Revision at which the key was created; 0 for a delete.
    pub create_revision: u64,
    /// Puts since creation; 0 for a delete.
    pub version: u64,
    /// The version before: always there for a delete, absent for a creation.
    pub prev: Option<KeyValue>,
}

impl WatchEvent {
    /// The version that a put made; `None` for a delete.
    pub fn to_key_value(&self) -> Option<KeyValue> {
        (self.kind == EventKind::Put).then(|| KeyValue {
            key: self.key.clone(),
            value: self.value.clone(),
            create_revision: self.create_revision,
            mod_revision: self.revision,
            version: self.version,
        })
    }
}

/// Events of one or more whole transactions, in commit order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WatchBatch {
    /// Everything on the watched prefix up to this revision has been delivered with this batch.
    pub revision: u64,
    /// The events. Empty if the batch only tells how far the watch has come.
    pub events: Vec<WatchEvent>,
}

/// Sizes and counters of a store, for metrics and `allmend` diagnostics.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Present revision.
    pub revision: u64,
    /// Compaction point.
    pub compacted: u64,
    /// Keys that exist.
    pub keys: u64,
    /// Bytes on disk, all files.
    pub disk_bytes: u64,
    /// Watches that are open (of this process).
    pub watchers: u64,
    /// Transactions committed since opening (by this process).
    pub commits: u64,
    /// fsyncs that these took: `commits / groups` is the mean group size.
    pub groups: u64,
    /// Watches cut off since opening.
    pub lagged: u64,
}

/// The least key that is greater than all with this prefix; `None` if there is none.
pub(crate) fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let kept = prefix.iter().rposition(|byte| *byte != 0xff)?;
    let mut end = prefix[..=kept].to_vec();
    end[kept] += 1;
    Some(end)
}
