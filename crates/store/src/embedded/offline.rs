//! A look into a store's files from outside, also while a server has them open. It must not change
//! them.

use super::file::open_beside;
use super::reader::Reader;
use crate::error::{Error, Result};
use crate::types::{Page, Range};
use std::path::Path;

/// The files of a store, for reading only. All calls block.
pub struct Files {
    reader: Reader,
}

impl Files {
    /// Of the store in `dir`, which must exist. Neither takes nor minds its lock: SQLite gives each
    /// reader a snapshot of its own.
    ///
    /// # Errors
    /// [`Error::Path`], [`Error::NewerFormat`], [`Error::Corrupt`].
    pub fn open(dir: &Path) -> Result<Self> {
        let (path, db) = open_beside(dir)?;
        let reader = Reader::new(db, path);
        Ok(Self { reader })
    }

    /// Writes a consistent copy to the new file `path`, as [`crate::Store::snapshot`] does.
    ///
    /// # Errors
    /// [`Error::Path`] (also if the file exists), [`Error::NoSpace`], [`Error::Corrupt`].
    pub fn snapshot(&self, path: &Path) -> Result<u64> {
        self.reader.copy_to(path)
    }

    /// Reads every record, compares checksums and index, and reports what is damaged.
    pub fn verify(&self, report: &mut dyn FnMut(Error)) {
        self.reader.verify(report);
    }

    /// As [`crate::Store::range`].
    ///
    /// # Errors
    /// As there.
    pub fn range(&self, range: &Range) -> Result<Page> {
        self.reader.range(range)
    }
}
