//! What can go wrong with a store, each variant saying whose fault it is and on which path or key.

use std::path::PathBuf;
use std::sync::Arc;

/// A cause from an engine or a client library. Shared, since one failed fsync refuses every
/// transaction of its group.
pub type Source = Arc<dyn std::error::Error + Send + Sync>;

/// Result with the store's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failed store operation.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The revision asked for is older than the history that is kept. List again.
    #[error("revision {requested} has been compacted (history begins after {compacted})")]
    Compacted {
        /// Revision of the read or watch.
        requested: u64,
        /// Present compaction point.
        compacted: u64,
    },
    /// The revision asked for has not been reached.
    #[error("revision {requested} is in the future (the store is at {current})")]
    FutureRevision {
        /// Revision of the read or compaction.
        requested: u64,
        /// Present revision.
        current: u64,
    },
    /// The watcher did not keep up and was cut off. Watch again from `delivered + 1`.
    #[error("the watch fell behind and was cut off after revision {delivered}")]
    Lagged {
        /// Everything up to this revision was delivered.
        delivered: u64,
    },
    /// A transaction that no state of the store could accept: the caller's mistake.
    #[error("invalid transaction: {0}")]
    Invalid(String),
    /// The settings to open a store with can't be right.
    #[error("{0}")]
    Settings(String),
    /// The transaction exceeds the size limit.
    #[error("the transaction has {bytes} bytes, the limit is {limit}")]
    TooLarge {
        /// Size of keys and values together.
        bytes: usize,
        /// Limit in force.
        limit: usize,
    },
    /// The file system (or etcd's quota) is full. Nothing was written; reads go on, and commits
    /// work again once there is space.
    #[error("no space left to write to {place}; free some space there")]
    NoSpace {
        /// The store's file or endpoint.
        place: String,
    },
    /// A stored record is not what was written.
    #[error("{} is corrupt{}: {detail}; restore it from a snapshot", path.display(), Spot(key.as_deref(), *revision))]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Key of the damaged record, where that is known.
        key: Option<String>,
        /// Revision of the damaged record, where that is known.
        revision: Option<u64>,
        /// What was found.
        detail: String,
    },
    /// A stored value can't be decrypted, or should be encrypted and is not.
    #[error("can't decrypt {key}: {why}")]
    Unreadable {
        /// The value's key.
        key: String,
        /// What is wrong, and what mends it.
        why: String,
    },
    /// Another process has the store open.
    #[error("{} is in use by another process{}", path.display(), pid.map(|p| format!(" (pid {p})")).unwrap_or_default())]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Who holds it, where that is known.
        pid: Option<u32>,
    },
    /// The store was written by a newer release.
    #[error(
        "{} has format {found}, this release reads up to format {supported}; use a newer release",
        path.display()
    )]
    NewerFormat {
        /// The store's file.
        path: PathBuf,
        /// Format version in the file.
        found: u64,
        /// Newest version that this build reads.
        supported: u64,
    },
    /// The data directory or a file in it can't be used.
    #[error("can't {operation} {}", path.display())]
    Path {
        /// A verb: "create", "open", "lock", "write".
        operation: &'static str,
        /// What it was done to.
        path: PathBuf,
        /// The system's answer.
        #[source]
        source: Source,
    },
    /// The engine failed on its file. For a commit: the outcome is unknown.
    #[error("can't {operation} in {}", path.display())]
    Io {
        /// A verb: "commit", "read", "compact".
        operation: &'static str,
        /// The engine's file.
        path: PathBuf,
        /// The engine's answer.
        #[source]
        source: Source,
    },
    /// A remote backend did not answer. For a commit: the outcome is unknown.
    #[error("the datastore at {endpoint} can't be reached: {why}")]
    Unavailable {
        /// Endpoints tried.
        endpoint: String,
        /// The cause in words: those of the client library are many, and nested.
        why: String,
    },
    /// A store was being moved to this place, and that was not finished.
    #[error("{place} is half filled: a migration to it was cut short; run the migration again")]
    Unfinished {
        /// The store's file or endpoint.
        place: String,
    },
    /// The store has been closed.
    #[error("the store is closed")]
    Closed,
}

/// Renders " at key K, revision R" from what is known.
struct Spot<'a>(Option<&'a str>, Option<u64>);

impl std::fmt::Display for Spot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (Some(key), Some(revision)) => write!(f, " at key {key}, revision {revision}"),
            (Some(key), None) => write!(f, " at key {key}"),
            (None, Some(revision)) => write!(f, " at revision {revision}"),
            (None, None) => Ok(()),
        }
    }
}
