//! The single writer: takes what is queued, makes one durable transaction of it, publishes, then
//! answers. Compaction is done here too, in slices between groups, so that a commit waits for one
//! slice at most. It must not answer or publish anything before the commit of SQLite returned.

use super::Shared;
use super::file::{engine_error, open_other, path_error};
use super::record::{self, Record};
use crate::Stamp;
use crate::error::{Error, Result};
use crate::types::{Committed, Condition, EventKind, KeyValue, Op, Outcome, Txn, WatchEvent};
use rusqlite::{Connection, OptionalExtension, Transaction, TransactionBehavior};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{self, Receiver, Sender, SyncSender, TryRecvError};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Transactions in one group: bounds how long the first of them waits for the others' work.
const MAX_GROUP: usize = 256;
/// Records looked at in one slice of a compaction: about 2 ms.
const SLICE: u32 = 64;
/// Bytes written between two checkpoints.
const CHECKPOINT_EVERY: u64 = 4 << 20;
/// Size of the WAL beyond which the writer itself finishes a checkpoint, so that the log starts
/// over even under a load that never pauses.
const WAL_LIMIT: u64 = 16 << 20;

/// What the writer is asked to do.
pub(super) enum Request {
    Commit {
        txn: Txn,
        reply: oneshot::Sender<Result<Outcome>>,
    },
    Compact {
        revision: u64,
        reply: oneshot::Sender<Result<()>>,
    },
    /// The checkpointer has done a round.
    Checkpointed,
    Close,
}

type Pending = (Txn, oneshot::Sender<Result<Outcome>>);

/// Where the store stands. Only the writer changes it.
#[derive(Debug, Clone, Copy)]
pub(super) struct State {
    pub revision: u64,
    pub compacted: u64,
    /// Records up to this id have been through compaction.
    swept: i64,
}

impl State {
    pub(super) fn load(db: Connection, path: &Path) -> Result<(Self, Connection)> {
        let read = || -> rusqlite::Result<Self> {
            let meta =
                |name: &str| db.query_row("SELECT value FROM meta WHERE name = ?", [name], |r| r.get::<_, i64>(0));
            let last: Option<i64> = db
                .query_row("SELECT max(id) FROM log", (), |row| row.get(0))
                .optional()?
                .flatten();
            Ok(Self {
                revision: meta("revision")?
                    .cast_unsigned()
                    .max(record::revision(last.unwrap_or(0))),
                compacted: meta("compacted")?.cast_unsigned(),
                swept: meta("swept")?,
            })
        };
        let state = read().map_err(|e| engine_error("read", path, e))?;
        Ok((state, db))
    }

    fn sweeping(&self) -> bool {
        self.swept < record::last_id(self.compacted)
    }
}

/// The writer's side of [`super::Embedded`].
pub(super) struct Handle {
    requests: Sender<Request>,
    thread: JoinHandle<()>,
}

impl Handle {
    pub(super) fn spawn(writer: Writer) -> Result<Self> {
        let path = writer.path.clone();
        let failed = |e| path_error("start a thread for", &path, e);
        let (requests, queue) = mpsc::channel();
        let checkpointer = Checkpointer::spawn(&writer.path, requests.clone())?;
        let thread = std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || writer.run(&queue, checkpointer))
            .map_err(failed)?;
        Ok(Self { requests, thread })
    }

    pub(super) fn send(&self, request: Request) -> Result<()> {
        self.requests.send(request).map_err(|_| Error::Closed)
    }

    /// Lets the writer finish what is queued and waits for it.
    pub(super) fn join(self) {
        // Fails only if the writer has ended already.
        let _ = self.requests.send(Request::Close);
        if self.thread.join().is_err() {
            tracing::error!("the store's writer thread panicked");
        }
    }
}

pub(super) struct Writer {
    pub connection: Connection,
    pub path: PathBuf,
    pub state: State,
    pub stamp: Stamp,
    pub shared: Arc<Shared>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<Request>, checkpointer: Checkpointer) {
        let mut waiting: Vec<oneshot::Sender<Result<()>>> = Vec::new();
        // A sweep that failed is taken up again by the next compaction, not in a loop.
        let mut stalled = false;
        let mut written = 0;
        'serve: loop {
            let sweep = self.state.sweeping() && !stalled;
            let mut next = if sweep {
                match queue.try_recv() {
                    Ok(request) => Some(request),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => break,
                }
            } else {
                match queue.recv() {
                    Ok(request) => Some(request),
                    Err(mpsc::RecvError) => break,
                }
            };
            let mut group: Vec<Pending> = Vec::new();
            while let Some(request) = next.take() {
                match request {
                    Request::Commit { txn, reply } => {
                        group.push((txn, reply));
                        if group.len() < MAX_GROUP {
                            next = queue.try_recv().ok();
                        }
                        continue;
                    }
                    other => {
                        written += self.commit(std::mem::take(&mut group));
                        match other {
                            Request::Compact { revision, reply } => match self.compact(revision) {
                                Ok(true) => {
                                    stalled = false;
                                    waiting.push(reply);
                                }
                                done => drop(reply.send(done.map(drop))),
                            },
                            Request::Checkpointed => self.finish_checkpoint(),
                            Request::Close => break 'serve,
                            Request::Commit { .. } => {}
                        }
                    }
                }
            }
            written += self.commit(group);
            if sweep {
                match self.sweep() {
                    Ok(bytes) => written += bytes,
                    Err(error) => {
                        stalled = true;
                        tracing::warn!(%error, "compaction stopped; the next one takes it up");
                        waiting.drain(..).for_each(|reply| drop(reply.send(Err(error.clone()))));
                    }
                }
            }
            if !self.state.sweeping() {
                waiting.drain(..).for_each(|reply| drop(reply.send(Ok(()))));
            }
            if written > CHECKPOINT_EVERY {
                written = 0;
                checkpointer.wake();
            }
        }
        checkpointer.join();
    }

    /// Commits a group and answers it; returns about how many bytes that wrote.
    fn commit(&mut self, group: Vec<Pending>) -> u64 {
        if group.is_empty() {
            return 0;
        }
        let (txns, replies): (Vec<Txn>, Vec<_>) = group.into_iter().unzip();
        // Room for the pages of the index and for partly filled ones.
        let mut bytes = 4096;
        match self.apply(txns) {
            Ok((outcomes, revision)) => {
                if revision > self.state.revision {
                    self.state.revision = revision;
                    self.shared.groups.fetch_add(1, Ordering::Relaxed);
                }
                let committed = outcomes.iter().filter_map(|outcome| match outcome {
                    Ok(Outcome::Committed(committed)) => Some(committed),
                    _ => None,
                });
                let committed: Vec<&Committed> = committed.filter(|c| !c.events.is_empty()).collect();
                self.shared.commits.fetch_add(committed.len() as u64, Ordering::Relaxed);
                for event in committed.iter().flat_map(|c| c.events.iter()) {
                    bytes += 6144 + event.value.len() as u64;
                }
                self.shared.hub.publish(revision, &committed);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    // Nobody waits any more if the caller's future was dropped.
                    let _ = reply.send(outcome);
                }
            }
            Err(error) => {
                tracing::warn!(%error, transactions = replies.len(), "commit refused");
                for reply in replies {
                    let _ = reply.send(Err(error.clone()));
                }
            }
        }
        bytes
    }

    /// One SQLite transaction for all; on error nothing of it stays.
    fn apply(&self, txns: Vec<Txn>) -> Result<(Vec<Result<Outcome>>, u64)> {
        let fail = |e| engine_error("commit", &self.path, e);
        let db = self.begin().map_err(fail)?;
        let mut revision = self.state.revision;
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            outcomes.push(match self.evaluate(&db, &txn, revision) {
                Ok(Verdict::Refused(current)) => Ok(Outcome::CompareFailed { current, revision }),
                Ok(Verdict::Holds(before)) => {
                    let events = self.write(&db, txn, before, revision + 1).map_err(fail)?;
                    revision += u64::from(!events.is_empty());
                    Ok(Outcome::Committed(Committed {
                        revision,
                        events: events.into(),
                    }))
                }
                // Only this transaction touches the damaged record.
                Err(error @ Error::Corrupt { .. }) => Err(error),
                Err(error) => return Err(error),
            });
        }
        if revision == self.state.revision {
            return Ok((outcomes, revision));
        }
        db.commit().map_err(fail)?;
        Ok((outcomes, revision))
    }

    fn begin(&self) -> rusqlite::Result<Transaction<'_>> {
        Transaction::new_unchecked(&self.connection, TransactionBehavior::Immediate)
    }

    /// Reads all that the transaction depends on, and compares.
    fn evaluate(&self, db: &Connection, txn: &Txn, revision: u64) -> Result<Verdict> {
        debug_assert!(revision >= self.state.revision);
        let mut before = Vec::with_capacity(txn.ops.len());
        for op in &txn.ops {
            before.push(Record::latest(db, op.key(), &self.path)?);
        }
        let mut current = Vec::with_capacity(txn.compares.len());
        let mut holds = true;
        for compare in &txn.compares {
            // Nearly always the compared key is the changed one.
            let record = match txn.ops.iter().position(|op| *op.key() == compare.key) {
                Some(at) => before[at].clone(),
                None => Record::latest(db, &compare.key, &self.path)?,
            };
            let now = record.and_then(Record::into_key_value);
            holds &= match (compare.condition, &now) {
                (Condition::Absent, now) => now.is_none(),
                (Condition::Present, now) => now.is_some(),
                (Condition::ModRevision(wanted), Some(now)) => now.mod_revision == wanted,
                (Condition::ModRevision(_), None) => false,
            };
            current.push(now);
        }
        Ok(if holds {
            Verdict::Holds(before)
        } else {
            Verdict::Refused(current)
        })
    }

    fn write(
        &self,
        db: &Connection,
        txn: Txn,
        before: Vec<Option<Record>>,
        revision: u64,
    ) -> rusqlite::Result<Vec<WatchEvent>> {
        let mut events = Vec::with_capacity(txn.ops.len());
        for (place, (op, before)) in txn.ops.into_iter().zip(before).enumerate() {
            let prev_id = before.as_ref().map_or(0, |record| record.id);
            let prev = before.and_then(Record::into_key_value);
            let (kind, key, value) = match op {
                Op::Put { key, value } => (EventKind::Put, key, Some(self.stamp.apply(value, revision))),
                Op::Delete { key } if prev.is_some() => (EventKind::Delete, key, None),
                Op::Delete { .. } => continue,
            };
            let (created, version) = match (kind, &prev) {
                (EventKind::Delete, _) => (0, 0),
                (EventKind::Put, Some(prev)) => (prev.create_revision, prev.version + 1),
                (EventKind::Put, None) => (revision, 1),
            };
            let id = record::id(revision, place);
            let record = Record {
                id,
                key,
                prev: prev_id,
                created,
                version,
                value,
            };
            record.append(db)?;
            events.push(event(record, prev));
        }
        Ok(events)
    }

    /// Marks history up to `revision` as gone; true if there is something to sweep.
    fn compact(&mut self, revision: u64) -> Result<bool> {
        let current = self.state.revision;
        if revision > current {
            return Err(Error::FutureRevision {
                requested: revision,
                current,
            });
        }
        if revision <= self.state.compacted {
            return Ok(self.state.sweeping());
        }
        let mark = || -> rusqlite::Result<()> {
            let db = self.begin()?;
            let mut set = db.prepare("UPDATE meta SET value = ? WHERE name = ?")?;
            set.execute((revision.cast_signed(), "compacted"))?;
            // The last record may be a deletion, which the sweep takes away.
            set.execute((current.cast_signed(), "revision"))?;
            drop(set);
            db.commit()
        };
        mark().map_err(|e| engine_error("compact", &self.path, e))?;
        self.state.compacted = revision;
        Ok(true)
    }

    /// Removes what one slice of the log superseded; returns about how many bytes that wrote.
    fn sweep(&mut self) -> Result<u64> {
        let end = record::last_id(self.state.compacted);
        let slice = || -> rusqlite::Result<(i64, u64)> {
            let db = self.begin()?;
            let rows: Vec<(i64, i64, Option<Vec<u8>>)> = db
                .prepare_cached(
                    "SELECT id, prev, iif(version = 0, key, NULL) FROM log
                     WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
                )?
                .query_map((self.state.swept, end, SLICE), |row| {
                    Ok((row.get(0)?, row.get(1)?, row.get(2)?))
                })?
                .collect::<Result<_, _>>()?;
            let swept = if rows.len() < SLICE as usize {
                end
            } else {
                rows.last().map_or(end, |row| row.0)
            };
            let mut remove = db.prepare_cached("DELETE FROM log WHERE id = ?")?;
            let mut forget = db.prepare_cached("DELETE FROM idx WHERE key = ? AND id = ?")?;
            for (id, prev, deleted_key) in &rows {
                if *prev != 0 {
                    remove.execute([prev])?;
                }
                if let Some(key) = deleted_key {
                    remove.execute([id])?;
                    forget.execute((key, -id))?;
                }
            }
            db.execute("UPDATE meta SET value = ? WHERE name = 'swept'", [swept])?;
            drop((remove, forget));
            db.commit()?;
            Ok((swept, rows.len() as u64 * 8192))
        };
        let (swept, bytes) = slice().map_err(|e| engine_error("compact", &self.path, e))?;
        self.state.swept = swept;
        Ok(bytes)
    }

    fn finish_checkpoint(&self) {
        let wal = wal_path(&self.path);
        if wal.metadata().is_ok_and(|m| m.len() > WAL_LIMIT) {
            checkpoint(&self.connection, &self.path);
        }
    }
}

enum Verdict {
    /// The records that the operations replace.
    Holds(Vec<Option<Record>>),
    /// The present versions of the compared keys.
    Refused(Vec<Option<KeyValue>>),
}

/// The event that a record tells of.
pub(super) fn event(record: Record, prev: Option<KeyValue>) -> WatchEvent {
    let revision = record.revision();
    let kind = if record.value.is_some() {
        EventKind::Put
    } else {
        EventKind::Delete
    };
    WatchEvent {
        kind,
        key: record.key,
        value: record.value.unwrap_or_default(),
        revision,
        create_revision: record.created,
        version: record.version,
        prev,
    }
}

/// Moves the WAL into the main file, beside the writer.
struct Checkpointer {
    wake: SyncSender<()>,
    thread: JoinHandle<()>,
}

impl Checkpointer {
    fn spawn(path: &Path, requests: Sender<Request>) -> Result<Self> {
        let connection = open_other(path)?;
        let (wake, woken) = mpsc::sync_channel(1);
        let file = path.to_path_buf();
        let thread = std::thread::Builder::new()
            .name("store-checkpoint".into())
            .spawn(move || {
                while let Ok(()) = woken.recv() {
                    checkpoint(&connection, &file);
                    // The writer is gone only when the store is being closed.
                    let _ = requests.send(Request::Checkpointed);
                }
            })
            .map_err(|e| path_error("start a thread for", path, e))?;
        Ok(Self { wake, thread })
    }

    fn wake(&self) {
        // Full means that it is awake already.
        let _ = self.wake.try_send(());
    }

    fn join(self) {
        drop(self.wake);
        if self.thread.join().is_err() {
            tracing::error!("the store's checkpoint thread panicked");
        }
    }
}

/// A failed checkpoint loses nothing: the log stays and the next one tries again.
fn checkpoint(db: &Connection, path: &Path) {
    if let Err(error) = db.query_row("PRAGMA wal_checkpoint(PASSIVE)", (), |_| Ok(())) {
        let error = engine_error("checkpoint", path, error);
        tracing::warn!(%error, "the write-ahead log grows until a checkpoint succeeds");
    }
}

/// SQLite's log beside the main file.
pub(super) fn wal_path(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}
