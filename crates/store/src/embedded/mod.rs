//! The embedded engine: one SQLite file in WAL mode, one writer thread with group commit, readers
//! beside it. It decides what is durable when; it must not look into values.
//!
//! ```text
//!  commit ─▶ queue ─▶ writer thread ──▶ WAL + fdatasync ──▶ hub (watches) ──▶ answers
//!                        │ between groups: one slice of a compaction
//!                        └▶ checkpointer thread: WAL ──▶ store.db, off the write path
//!  get, range, watch history ──▶ reader connections (snapshots of their own)
//! ```
//!
//! Why SQLite, the layout and the figures: `docs/store.md`.

mod file;
mod hub;
mod offline;
mod reader;
mod record;
mod replay;
mod writer;

use crate::error::{Error, Result};
use crate::types::{KeyValue, Outcome, Page, Range, Stats, Txn};
use crate::{Stamp, Store, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

pub use file::{FORMAT, exists, restore, tidy};
pub use offline::Files;

/// How to open the embedded engine.
#[derive(Debug, Clone)]
pub struct Options {
    /// Directory of the store; created (mode 0700) if absent.
    pub dir: PathBuf,
    /// How values come to carry their revision.
    pub stamp: Stamp,
    /// The revision that a store begins with if it is created: 1, or one that clients have seen
    /// elsewhere.
    pub begin: u64,
    /// Whether a commit waits for the disk. `false` is for tests and benchmarks only: a power
    /// failure may then lose acknowledged commits.
    pub sync: bool,
    /// Events that a watcher may leave unread before it is cut off.
    pub watch_queue: usize,
    /// Greatest size of a transaction, keys and values together.
    pub max_txn_bytes: usize,
}

impl Options {
    /// Safe defaults for a store in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            stamp: Stamp::none(),
            begin: 1,
            sync: true,
            watch_queue: 8192,
            max_txn_bytes: 4 << 20,
        }
    }

    /// Sets the stamp.
    #[must_use]
    pub fn stamp(mut self, stamp: Stamp) -> Self {
        self.stamp = stamp;
        self
    }
}

/// The embedded engine. One process at a time can have a directory open.
pub struct Embedded {
    shared: Arc<Shared>,
    writer: Mutex<Option<writer::Handle>>,
    max_txn_bytes: usize,
}

/// What the writer, the readers and the watches have in common.
struct Shared {
    readers: reader::Pool,
    hub: hub::Hub,
    commits: AtomicU64,
    groups: AtomicU64,
    /// Held while the store is open; taken out on close.
    lock: Mutex<Option<file::Lock>>,
}

impl Embedded {
    /// Opens the store in `options.dir`, creating it if there is none, and recovers what a crash
    /// left behind.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::Locked`], [`Error::NewerFormat`], [`Error::Corrupt`],
    /// [`Error::NoSpace`].
    pub fn open(options: Options) -> Result<Self> {
        let lock = file::Lock::take(&options.dir)?;
        let path = file::prepare(&options.dir)?;
        let connection = file::open_writer(&path, options.sync, options.begin)?;
        let (state, connection) = writer::State::load(connection, &path)?;
        let shared = Arc::new(Shared {
            readers: reader::Pool::new(path.clone()),
            hub: hub::Hub::new(state.revision, options.watch_queue),
            commits: AtomicU64::new(0),
            groups: AtomicU64::new(0),
            lock: Mutex::new(Some(lock)),
        });
        let writer = writer::Handle::spawn(writer::Writer {
            connection,
            path,
            state,
            stamp: options.stamp,
            shared: Arc::clone(&shared),
        })?;
        Ok(Self {
            shared,
            writer: Mutex::new(Some(writer)),
            max_txn_bytes: options.max_txn_bytes,
        })
    }

    /// Reads every record and compares checksums and index; for diagnosis, since it takes as long
    /// as reading the whole file.
    ///
    /// # Errors
    /// [`Error::Corrupt`] naming the first damage found.
    pub async fn verify(&self) -> Result<()> {
        self.read(|reader| {
            let mut first = None;
            reader.verify(&mut |error| {
                first.get_or_insert(error);
            });
            first.map_or(Ok(()), Err)
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        query: impl FnOnce(&reader::Reader) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        reader::run(Arc::clone(&self.shared), query).await
    }

    async fn request<T>(&self, make: impl FnOnce(oneshot::Sender<Result<T>>) -> writer::Request) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        match &*lock(&self.writer) {
            Some(writer) => writer.send(make(reply))?,
            None => return Err(Error::Closed),
        }
        answer.await.unwrap_or(Err(Error::Closed))
    }

    fn check(&self, txn: &Txn) -> Result<()> {
        check(txn, self.max_txn_bytes)
    }

    /// Ends the writer, then everything that reads. Blocks for at most one group commit and the
    /// last checkpoint.
    fn shut(writer: Option<writer::Handle>, shared: &Shared) {
        if let Some(writer) = writer {
            writer.join();
        }
        shared.hub.close();
        shared.readers.close();
        lock(&shared.lock).take();
    }
}

/// Refuses what no backend could accept.
pub(crate) fn check(txn: &Txn, limit: usize) -> Result<()> {
    let mut seen = HashSet::with_capacity(txn.ops.len());
    let mut bytes = 0;
    for op in &txn.ops {
        bytes += op.key().len();
        if let crate::Op::Put { value, .. } = op {
            bytes += value.len();
        }
        if !seen.insert(op.key()) {
            let key = String::from_utf8_lossy(op.key());
            return Err(Error::Invalid(format!("key {key} occurs twice")));
        }
    }
    let keys = txn.ops.iter().map(crate::Op::key);
    if keys.chain(txn.compares.iter().map(|c| &c.key)).any(Bytes::is_empty) {
        return Err(Error::Invalid("a key is empty".into()));
    }
    if txn.ops.len() > record::MAX_OPS {
        return Err(Error::Invalid(format!(
            "{} operations, the limit is {}",
            txn.ops.len(),
            record::MAX_OPS
        )));
    }
    if bytes > limit {
        return Err(Error::TooLarge { bytes, limit });
    }
    Ok(())
}

#[async_trait]
impl Store for Embedded {
    async fn revision(&self) -> Result<u64> {
        Ok(self.shared.hub.published())
    }

    async fn compacted(&self) -> Result<u64> {
        self.read(|reader| reader.snapshot(|view| Ok(view.compacted))).await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let key = Bytes::copy_from_slice(key);
        self.read(move |reader| reader.get(&key)).await
    }

    async fn range(&self, range: Range) -> Result<Page> {
        self.read(move |reader| reader.range(&range)).await
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome> {
        self.check(&txn)?;
        self.request(|reply| writer::Request::Commit { txn, reply }).await
    }

    async fn watch(&self, prefix: Bytes, from_revision: u64) -> Result<WatchStream> {
        replay::watch(Arc::clone(&self.shared), prefix, from_revision).await
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.request(|reply| writer::Request::Compact { revision, reply }).await
    }

    async fn snapshot(&self, path: &Path) -> Result<u64> {
        let path = path.to_path_buf();
        self.read(move |reader| reader.copy_to(&path)).await
    }

    async fn stats(&self) -> Result<Stats> {
        let mut stats = self.read(|reader| reader.stats()).await?;
        stats.commits = self.shared.commits.load(Ordering::Relaxed);
        stats.groups = self.shared.groups.load(Ordering::Relaxed);
        (stats.watchers, stats.lagged) = self.shared.hub.counts();
        Ok(stats)
    }

    async fn close(&self) {
        let writer = lock(&self.writer).take();
        let shared = Arc::clone(&self.shared);
        // A panic of the writer has been reported by its hook; there is nothing left to close.
        let _ = tokio::task::spawn_blocking(move || Self::shut(writer, &shared)).await;
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        Self::shut(lock(&self.writer).take(), &self.shared);
    }
}

/// The writer's connection as it is set up, for a test of the settings.
#[cfg(test)]
pub(crate) fn writer_connection(path: &Path) -> Result<rusqlite::Connection> {
    file::open_writer(path, true, 1)
}

/// Locks, also after a panic of another holder: what these mutexes guard is never left half-changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
