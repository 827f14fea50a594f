//! One record of the log: a put or a deletion, with a checksum. It reads and writes rows; it does
//! not decide anything.
//!
//! A record's id is its revision and its place in the transaction. `prev` is the id of the
//! record of the same key before it (0 for none), so that the versions of a key form a chain that
//! a read at an old revision walks, and that compaction cuts.

use super::file::engine_error;
use crate::error::{Error, Result};
use crate::types::KeyValue;
use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row};
use std::path::Path;

/// Bits of an id that number the operations of one transaction; 47 are left for the revision.
const PLACE_BITS: u32 = 16;
/// Most operations of one transaction.
pub(super) const MAX_OPS: usize = 4096;

/// Id of the operation `place` of a revision.
pub(super) fn id(revision: u64, place: usize) -> i64 {
    ((revision << PLACE_BITS) | place as u64).cast_signed()
}

/// The greatest id of a revision.
pub(super) fn last_id(revision: u64) -> i64 {
    id(revision + 1, 0) - 1
}

/// The revision that an id belongs to. Ids in `idx` are negative for deletions.
pub(super) fn revision(id: i64) -> u64 {
    id.unsigned_abs() >> PLACE_BITS
}

/// A put (`value` is there) or a deletion.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub id: i64,
    pub key: Bytes,
    pub prev: i64,
    pub created: u64,
    pub version: u64,
    pub value: Option<Bytes>,
}

/// One record by id. Every query that yields records names these columns in this order, which
/// [`Record::from_row`] relies on.
const LOAD: &str = "SELECT id, key, prev, created, version, sum, value FROM log WHERE id = ?";

impl Record {
    pub(super) fn revision(&self) -> u64 {
        revision(self.id)
    }

    pub(super) fn into_key_value(self) -> Option<KeyValue> {
        let mod_revision = self.revision();
        Some(KeyValue {
            key: self.key,
            value: self.value?,
            create_revision: self.created,
            mod_revision,
            version: self.version,
        })
    }

    /// Takes the columns of [`LOAD`] from a row, beginning at column `at`, and checks the sum.
    pub(super) fn from_row(row: &Row<'_>, at: usize, path: &Path) -> Result<Self> {
        let mut id = 0;
        let mut read = || -> rusqlite::Result<(Self, i64)> {
            id = row.get(at)?;
            let value = row.get_ref(at + 6)?.as_blob_or_null()?;
            let record = Self {
                id,
                key: Bytes::copy_from_slice(row.get_ref(at + 1)?.as_blob()?),
                prev: row.get(at + 2)?,
                created: row.get::<_, i64>(at + 3)?.cast_unsigned(),
                version: row.get::<_, i64>(at + 4)?.cast_unsigned(),
                value: value.map(Bytes::copy_from_slice),
            };
            Ok((record, row.get(at + 5)?))
        };
        match read() {
            Ok((record, sum)) if sum == record.sum() => Ok(record),
            Ok((record, _)) => Err(corrupt(
                path,
                Some(&record.key),
                id,
                "the record does not match its checksum",
            )),
            // A column of the wrong type is damage too: SQLite keeps types per value.
            Err(error) if error.sqlite_error().is_none() => Err(corrupt(path, None, id, &error.to_string())),
            Err(error) => Err(engine_error("read", path, error)),
        }
    }

    /// Reads one record by id.
    pub(super) fn load(db: &Connection, id: i64, path: &Path) -> Result<Option<Self>> {
        let fail = |e| engine_error("read", path, e);
        let mut statement = db.prepare_cached(LOAD).map_err(fail)?;
        statement
            .query_row([id], |row| Ok(Self::from_row(row, 0, path)))
            .optional()
            .map_err(fail)?
            .transpose()
    }

    /// The latest record of a key, which may be a deletion.
    pub(super) fn latest(db: &Connection, key: &[u8], path: &Path) -> Result<Option<Self>> {
        let fail = |e| engine_error("read", path, e);
        let mut statement = db.prepare_cached("SELECT id FROM idx WHERE key = ?").map_err(fail)?;
        let id: Option<i64> = statement.query_row([key], |row| row.get(0)).optional().map_err(fail)?;
        let Some(id) = id else { return Ok(None) };
        match Self::load(db, id.abs(), path)? {
            Some(record) if record.key == key && record.value.is_some() == (id > 0) => Ok(Some(record)),
            Some(_) => Err(corrupt(path, Some(key), id, "the index points to another record")),
            None => Err(corrupt(path, Some(key), id, "the record is missing")),
        }
    }

    /// The version of this record's key as it was after `at`, walking back from this one.
    pub(super) fn at_revision(self, db: &Connection, at: u64, compacted: u64, path: &Path) -> Result<Option<Self>> {
        let mut record = self;
        while record.revision() > at {
            match record.before(db, compacted, path)? {
                Some(before) => record = before,
                None => return Ok(None),
            }
        }
        Ok(Some(record))
    }

    /// The record of the same key before this one, unless there is none or it was compacted.
    pub(super) fn before(&self, db: &Connection, compacted: u64, path: &Path) -> Result<Option<Self>> {
        if self.prev == 0 {
            return Ok(None);
        }
        match Self::load(db, self.prev, path)? {
            Some(before) if before.key == self.key => Ok(Some(before)),
            Some(_) => Err(corrupt(path, Some(&self.key), self.prev, "the record has another key")),
            None if revision(self.prev) <= compacted => Ok(None),
            None => Err(corrupt(path, Some(&self.key), self.prev, "the record is missing")),
        }
    }

    /// Appends the record and points the index to it.
    pub(super) fn append(&self, db: &Connection) -> rusqlite::Result<()> {
        db.prepare_cached(
            "INSERT INTO log (id, key, prev, created, version, sum, value)
             VALUES (?, ?, ?, ?, ?, ?, ?)",
        )?
        .execute((
            self.id,
            &*self.key,
            self.prev,
            self.created.cast_signed(),
            self.version.cast_signed(),
            self.sum(),
            self.value.as_deref(),
        ))?;
        let pointer = if self.value.is_some() { self.id } else { -self.id };
        db.prepare_cached("INSERT OR REPLACE INTO idx (key, id) VALUES (?, ?)")?
            .execute((&*self.key, pointer))?;
        Ok(())
    }

    /// CRC-32 over all columns, with lengths, so that no byte can move from one to the next.
    fn sum(&self) -> i64 {
        let mut hasher = crc32fast::Hasher::new();
        for number in [
            self.id.cast_unsigned(),
            self.prev.cast_unsigned(),
            self.created,
            self.version,
            self.key.len() as u64,
            u64::from(self.value.is_some()),
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&self.key);
        hasher.update(self.value.as_deref().unwrap_or_default());
        i64::from(hasher.finalize())
    }
}

/// Damage at a record.
pub(super) fn corrupt(path: &Path, key: Option<&[u8]>, id: i64, detail: &str) -> Error {
    Error::Corrupt {
        path: path.to_path_buf(),
        key: key.map(|k| String::from_utf8_lossy(k).into_owned()),
        revision: Some(revision(id)),
        detail: detail.to_owned(),
    }
}
