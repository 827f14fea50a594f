//! Reads, each in an SQLite snapshot of its own on a pooled connection, beside the writer. Nothing
//! here writes to the store.

use super::file::{engine_error, open_other, path_error, sync_dir};
use super::record::{self, Record, corrupt};
use super::writer::{event, wal_path};
use super::{Shared, lock};
use crate::error::{Error, Result};
use crate::types::{KeyValue, Page, Range, Stats, WatchEvent, prefix_end};
use rusqlite::{Connection, Row, Rows};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::sync::Semaphore;

/// Reads at one time: each takes a thread, three file descriptors and up to 1 MB of cache.
const MAX_READERS: usize = 8;

/// Connections that are not in use.
pub(super) struct Pool {
    path: PathBuf,
    permits: Semaphore,
    idle: Mutex<Vec<Connection>>,
}

impl Pool {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            permits: Semaphore::new(MAX_READERS),
            idle: Mutex::new(Vec::new()),
        }
    }

    pub(super) fn close(&self) {
        self.permits.close();
        lock(&self.idle).clear();
    }

    fn take(&self) -> Result<Reader> {
        let idle = lock(&self.idle).pop();
        let db = match idle {
            Some(db) => db,
            None => open_other(&self.path)?,
        };
        Ok(Reader {
            db,
            path: self.path.clone(),
        })
    }

    fn put(&self, reader: Reader) {
        if !self.permits.is_closed() {
            lock(&self.idle).push(reader.db);
        }
    }
}

/// Runs a query on a thread that may block.
pub(super) async fn run<T: Send + 'static>(
    shared: Arc<Shared>,
    query: impl FnOnce(&Reader) -> Result<T> + Send + 'static,
) -> Result<T> {
    let work = {
        let shared = Arc::clone(&shared);
        move || {
            let reader = shared.readers.take()?;
            let result = query(&reader);
            shared.readers.put(reader);
            result
        }
    };
    let _permit = shared.readers.permits.acquire().await.map_err(|_| Error::Closed)?;
    // The task ends early only when the runtime goes down, or by a panic, which was reported.
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Error::Closed))
}

/// A connection for reading.
pub(super) struct Reader {
    db: Connection,
    path: PathBuf,
}

/// A consistent state of the store.
pub(super) struct View<'a> {
    db: &'a Connection,
    path: &'a Path,
    pub revision: u64,
    pub compacted: u64,
}

impl Reader {
    pub(super) fn new(db: Connection, path: PathBuf) -> Self {
        Self { db, path }
    }

    /// Runs a query in one snapshot.
    pub(super) fn snapshot<T>(&self, query: impl FnOnce(&View<'_>) -> Result<T>) -> Result<T> {
        let fail = |e| engine_error("read", &self.path, e);
        // Rolled back when dropped, which for a read is the same as committed.
        let txn = self.db.unchecked_transaction().map_err(fail)?;
        let (revision, compacted, last): (i64, i64, Option<i64>) = txn
            .prepare_cached(
                "SELECT (SELECT value FROM meta WHERE name = 'revision'),
                        (SELECT value FROM meta WHERE name = 'compacted'),
                        (SELECT max(id) FROM log)",
            )
            .and_then(|mut q| q.query_row((), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))))
            .map_err(fail)?;
        query(&View {
            db: &txn,
            path: &self.path,
            revision: revision.cast_unsigned().max(record::revision(last.unwrap_or(0))),
            compacted: compacted.cast_unsigned(),
        })
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        self.snapshot(|view| Ok(Record::latest(view.db, key, view.path)?.and_then(Record::into_key_value)))
    }

    pub(super) fn range(&self, range: &Range) -> Result<Page> {
        self.snapshot(|view| view.range(range))
    }

    /// Copies the store as it is now into a new file, without the gaps.
    pub(super) fn copy_to(&self, path: &Path) -> Result<u64> {
        if path.exists() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(path_error("write a snapshot to", path, exists));
        }
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let fail = |e| path_error("write a snapshot to", path, e);
        match std::fs::remove_file(&partial) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(fail(e)),
            _ => {}
        }
        let revision = self.snapshot(|view| Ok(view.revision))?;
        let copied = self
            .db
            .execute("VACUUM INTO ?", [partial.to_string_lossy()])
            .map_err(|e| match engine_error("write a snapshot to", path, e) {
                Error::Io { operation, source, .. } => Error::Path {
                    operation,
                    path: path.to_path_buf(),
                    source,
                },
                other => other,
            })
            .and_then(|_| {
                let copy = std::fs::File::open(&partial).map_err(fail)?;
                let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
                copy.set_permissions(private).map_err(fail)?;
                copy.sync_all().map_err(fail)?;
                std::fs::rename(&partial, path).map_err(fail)
            });
        if let Err(error) = copied {
            // What counts is the first error; a half-made copy is only litter.
            let _ = std::fs::remove_file(&partial);
            return Err(error);
        }
        sync_dir(
            path.parent()
                .filter(|p| !p.as_os_str().is_empty())
                .unwrap_or(Path::new(".")),
        )?;
        Ok(revision)
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        let fail = |e| engine_error("read", &self.path, e);
        let keys: i64 = self
            .db
            .query_row("SELECT count(*) FROM idx WHERE id > 0", (), |row| row.get(0))
            .map_err(fail)?;
        let size = |path: &Path| path.metadata().map_or(0, |m| m.len());
        let disk_bytes = size(&self.path) + size(&wal_path(&self.path));
        self.snapshot(|view| {
            Ok(Stats {
                revision: view.revision,
                compacted: view.compacted,
                keys: keys.cast_unsigned(),
                disk_bytes,
                ..Stats::default()
            })
        })
    }

    /// Reports all damage.
    pub(super) fn verify(&self, report: &mut dyn FnMut(Error)) {
        if let Err(error) = self.snapshot(|view| view.verify(report)) {
            report(error);
        }
    }

    /// Events on `prefix` from revision `from` to `to`, of at most about `limit` records, and the
    /// revision from which to go on.
    pub(super) fn history(&self, prefix: &[u8], from: u64, to: u64, limit: usize) -> Result<(Vec<WatchEvent>, u64)> {
        self.snapshot(|view| view.history(prefix, from, to, limit))
    }
}

impl View<'_> {
    fn fail(&self, error: rusqlite::Error) -> Error {
        engine_error("read", self.path, error)
    }

    fn range(&self, range: &Range) -> Result<Page> {
        let revision = range.at_revision.unwrap_or(self.revision);
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        if revision < self.compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted: self.compacted,
            });
        }
        let (start, after) = match &range.start_after {
            Some(key) if *key >= range.prefix => (key, true),
            _ => (&range.prefix, false),
        };
        let end = prefix_end(&range.prefix);
        // Deletions are of interest only to a read in the past.
        let sql = format!(
            "SELECT k.key, k.id, l.id, l.key, l.prev, l.created, l.version, l.sum, l.value
             FROM idx k LEFT JOIN log l ON l.id = abs(k.id)
             WHERE k.key {} ?1 AND (?2 IS NULL OR k.key < ?2) {} ORDER BY k.key",
            if after { ">" } else { ">=" },
            if range.at_revision.is_none() {
                "AND k.id > 0"
            } else {
                ""
            },
        );
        let mut query = self.db.prepare_cached(&sql).map_err(|e| self.fail(e))?;
        let mut rows = query.query((&**start, end)).map_err(|e| self.fail(e))?;
        let mut page = Page {
            items: Vec::new(),
            revision,
            more: false,
        };
        while let Some(row) = self.next(&mut rows)? {
            let record = self.indexed(row)?;
            let record = match range.at_revision {
                Some(at) => record.at_revision(self.db, at, self.compacted, self.path)?,
                None => Some(record),
            };
            let Some(item) = record.and_then(Record::into_key_value) else {
                continue;
            };
            if range.limit > 0 && page.items.len() == range.limit {
                page.more = true;
                break;
            }
            page.items.push(item);
        }
        Ok(page)
    }

    fn next<'r>(&self, rows: &'r mut Rows<'_>) -> Result<Option<&'r Row<'r>>> {
        rows.next().map_err(|e| self.fail(e))
    }

    /// The record of a row that begins with an entry of the index, checked against that.
    fn indexed(&self, row: &Row<'_>) -> Result<Record> {
        let entry = || -> rusqlite::Result<(Vec<u8>, i64, bool)> {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, Option<i64>>(2)?.is_some()))
        };
        let (key, id, found) = entry().map_err(|e| match e.sqlite_error() {
            None => corrupt(self.path, None, 0, &format!("an index entry is damaged: {e}")),
            Some(_) => self.fail(e),
        })?;
        if !found {
            return Err(corrupt(self.path, Some(&key), id, "the record is missing"));
        }
        let record = Record::from_row(row, 2, self.path)?;
        if record.key != key || record.value.is_some() != (id > 0) {
            return Err(corrupt(self.path, Some(&key), id, "the index points to another record"));
        }
        Ok(record)
    }

    fn history(&self, prefix: &[u8], from: u64, to: u64, limit: usize) -> Result<(Vec<WatchEvent>, u64)> {
        if from <= self.compacted {
            return Err(Error::Compacted {
                requested: from,
                compacted: self.compacted,
            });
        }
        let mut query = self
            .db
            .prepare_cached(
                "SELECT id, key, prev, created, version, sum, value FROM log
                 WHERE id >= ? AND id <= ? ORDER BY id",
            )
            .map_err(|e| self.fail(e))?;
        let bounds = (record::id(from, 0), record::last_id(to));
        let mut rows = query.query(bounds).map_err(|e| self.fail(e))?;
        let mut events = Vec::new();
        let (mut seen, mut last) = (0, 0);
        while let Some(row) = self.next(&mut rows)? {
            let record = Record::from_row(row, 0, self.path)?;
            // Stop only between transactions.
            if seen >= limit && record.revision() != last {
                return Ok((events, record.revision()));
            }
            seen += 1;
            last = record.revision();
            if record.key.starts_with(prefix) {
                let prev = record.before(self.db, self.compacted, self.path)?;
                events.push(event(record, prev.and_then(Record::into_key_value)));
            }
        }
        Ok((events, to + 1))
    }

    /// An error of its own ends the search; damage to single records is reported.
    fn verify(&self, report: &mut dyn FnMut(Error)) -> Result<()> {
        let fail = |e| self.fail(e);
        let answer: String = self
            .db
            .query_row("PRAGMA quick_check(1)", (), |row| row.get(0))
            .map_err(fail)?;
        if answer != "ok" {
            report(Error::Corrupt {
                path: self.path.to_path_buf(),
                key: None,
                revision: None,
                detail: answer,
            });
        }
        let mut log = self
            .db
            .prepare(
                "SELECT l.id, l.key, l.prev, l.created, l.version, l.sum, l.value,
                        EXISTS (SELECT 1 FROM idx k WHERE k.key = l.key AND abs(k.id) >= l.id)
                 FROM log l",
            )
            .map_err(fail)?;
        let mut damaged = HashSet::new();
        let mut rows = log.query(()).map_err(fail)?;
        while let Some(row) = self.next(&mut rows)? {
            match Record::from_row(row, 0, self.path) {
                Ok(record) if row.get::<_, bool>(7).map_err(fail)? => drop(record),
                Ok(record) => {
                    let detail = "the record is not in the index";
                    report(corrupt(self.path, Some(&record.key), record.id, detail));
                }
                Err(error) => {
                    damaged.extend(row.get::<_, i64>(0).ok());
                    report(error);
                }
            }
        }
        let mut index = self
            .db
            .prepare(
                "SELECT k.key, k.id, l.id, l.key, l.prev, l.created, l.version, l.sum, l.value
                 FROM idx k LEFT JOIN log l ON l.id = abs(k.id)",
            )
            .map_err(fail)?;
        let mut rows = index.query(()).map_err(fail)?;
        while let Some(row) = self.next(&mut rows)? {
            // What the first pass has told is not told again.
            let told = row.get::<_, i64>(2).is_ok_and(|id| damaged.contains(&id));
            if let (Err(error), false) = (self.indexed(row), told) {
                report(error);
            }
        }
        Ok(())
    }
}
