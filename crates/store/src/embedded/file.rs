//! The store's directory and file: lock, creation, format version, connections, and what SQLite's
//! answers mean. It knows the schema but no record.

use crate::error::{Error, Result, Source};
use rusqlite::{Connection, ErrorCode, OpenFlags};
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Version of the file format that this build writes, and the newest that it reads.
pub const FORMAT: u64 = 1;

/// "Allm", so that `file` and we can tell our files from other SQLite files.
const APPLICATION_ID: i64 = 0x416c_6c6d;
const FILE: &str = "store.db";

/// `idx.id` is negative where the latest record is a deletion, so that scans skip those unread.
/// `log.value` stands last, so that the columns before it are read without a long value's pages.
const SCHEMA: &str = "
    CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE log (
        id INTEGER PRIMARY KEY,
        key BLOB NOT NULL,
        prev INTEGER NOT NULL,
        created INTEGER NOT NULL,
        version INTEGER NOT NULL,
        sum INTEGER NOT NULL,
        value BLOB);
    CREATE TABLE idx (key BLOB PRIMARY KEY, id INTEGER NOT NULL) WITHOUT ROWID;
    INSERT INTO meta VALUES ('revision', 1), ('compacted', 0), ('swept', 0);
";

/// Keeps other processes out of a directory until dropped, or until the process ends.
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// Locks `dir`, creating it if need be.
    pub(super) fn take(dir: &Path) -> Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|e| path_error("create", dir, e))?;
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|e| path_error("open", &path, e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                // The number only helps the reader of the message; without it the message stands.
                let _ = file.read_to_string(&mut pid);
                return Err(Error::Locked {
                    path,
                    pid: pid.trim().parse().ok(),
                });
            }
            Err(TryLockError::Error(e)) => return Err(path_error("lock", &path, e)),
        }
        // Not durable and allowed to fail (a full disk must not prevent reading): see above.
        let _ = file
            .set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { _file: file })
    }
}

/// Makes sure that the database file exists with the right mode, and returns its path.
pub(super) fn prepare(dir: &Path) -> Result<PathBuf> {
    let path = dir.join(FILE);
    if path.exists() {
        return Ok(path);
    }
    let wal = dir.join(format!("{FILE}-wal"));
    if wal.metadata().is_ok_and(|m| m.len() > 0) {
        // SQLite would build a store out of the last few changes alone.
        let detail = format!("it is missing, while its log {} is there", wal.display());
        return Err(Error::Corrupt {
            path,
            key: None,
            revision: None,
            detail,
        });
    }
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|e| path_error("create", &path, e))?;
    sync_dir(dir)?;
    Ok(path)
}

/// The one connection that writes. Creates the schema in an empty file.
pub(super) fn open_writer(path: &Path, sync: bool, begin: u64) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|e| engine_error("open", path, e))?;
    // A commit writes whole pages: small ones spare flash. The size holds from creation on, and
    // must be set before anything else.
    db.pragma_update(None, "page_size", 1024)
        .map_err(|e| engine_error("open", path, e))?;
    // Checkpoints are the checkpointer's: inside a commit they cost 10 ms every 4 MB.
    db.execute_batch(
        "PRAGMA journal_mode = WAL; PRAGMA wal_autocheckpoint = 0;
         PRAGMA journal_size_limit = 16777216; PRAGMA cache_size = -8192;",
    )
    .map_err(|e| engine_error("open", path, e))?;
    db.pragma_update(None, "synchronous", if sync { "FULL" } else { "OFF" })
        .map_err(|e| engine_error("open", path, e))?;
    if !has_format(&db, path)? {
        create(&db, begin).map_err(|e| engine_error("open", path, e))?;
    }
    Ok(db)
}

/// A connection to a store that another process may have open. Nothing is created.
pub(super) fn open_beside(dir: &Path) -> Result<(PathBuf, Connection)> {
    let path = dir.join(FILE);
    if !path.exists() {
        let absent = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(path_error("open", &path, absent));
    }
    let db = open_other(&path)?;
    if !has_format(&db, &path)? {
        let detail = "it is empty".to_owned();
        return Err(Error::Corrupt {
            path,
            key: None,
            revision: None,
            detail,
        });
    }
    Ok((path, db))
}

/// Whether there is a store in a directory.
pub fn exists(dir: &Path) -> bool {
    dir.join(FILE).exists() || dir.join(format!("{FILE}-wal")).exists()
}

/// A connection for reads or for checkpoints.
pub(super) fn open_other(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let db = Connection::open_with_flags(path, flags).map_err(|e| engine_error("open", path, e))?;
    db.execute_batch("PRAGMA wal_autocheckpoint = 0; PRAGMA cache_size = -1024;")
        .map_err(|e| engine_error("open", path, e))?;
    Ok(db)
}

/// Whether the file is a store that this release can use; false if it is empty.
fn has_format(db: &Connection, path: &Path) -> Result<bool> {
    let fail = |e| engine_error("open", path, e);
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let found = number("user_version").map_err(fail)?.cast_unsigned();
    match (number("application_id").map_err(fail)?, found) {
        (APPLICATION_ID, FORMAT) => Ok(true),
        (APPLICATION_ID, found) if found > FORMAT => Err(Error::NewerFormat {
            path: path.to_path_buf(),
            found,
            supported: FORMAT,
        }),
        (0, 0) if is_empty(db).map_err(fail)? => Ok(false),
        (id, found) => Err(Error::Corrupt {
            path: path.to_path_buf(),
            key: None,
            revision: None,
            detail: format!("its mark is {id:#x}/{found}, which no release has written"),
        }),
    }
}

fn is_empty(db: &Connection) -> rusqlite::Result<bool> {
    db.query_row("SELECT count(*) = 0 FROM sqlite_schema", (), |row| row.get(0))
}

fn create(db: &Connection, begin: u64) -> rusqlite::Result<()> {
    let txn = db.unchecked_transaction()?;
    txn.execute_batch(SCHEMA)?;
    if begin > 1 {
        // What was before is not here: to ask for it is answered as if it had been compacted.
        txn.execute(
            "UPDATE meta SET value = ? WHERE name IN ('revision', 'compacted')",
            [begin.cast_signed()],
        )?;
        txn.execute(
            "UPDATE meta SET value = ? WHERE name = 'swept'",
            [super::record::last_id(begin)],
        )?;
    }
    txn.pragma_update(None, "application_id", APPLICATION_ID)?;
    txn.pragma_update(None, "user_version", FORMAT.cast_signed())?;
    txn.commit()
}

/// Rewrites the file of a store that nobody has open, so that no byte of what was compacted is
/// left in it.
///
/// # Errors
/// [`Error::Locked`], [`Error::Path`], [`Error::NoSpace`].
pub fn tidy(dir: &Path) -> Result<()> {
    let _lock = Lock::take(dir)?;
    let (path, db) = open_beside(dir)?;
    db.execute_batch("VACUUM")
        .and_then(|()| db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(())))
        .map_err(|e| engine_error("rewrite", &path, e))
}

/// Makes a new store in `dir` from a snapshot. The directory must not hold a store: a log left
/// behind by another one would be mixed into the restored file.
///
/// # Errors
/// [`Error::Path`] if there is a store, or the snapshot can't be copied.
pub fn restore(snapshot: &Path, dir: &Path) -> Result<()> {
    let _lock = Lock::take(dir)?;
    let path = dir.join(FILE);
    for old in [path.clone(), dir.join(format!("{FILE}-wal"))] {
        if old.exists() {
            let exists = std::io::Error::from(std::io::ErrorKind::AlreadyExists);
            return Err(path_error("restore over", &old, exists));
        }
    }
    let partial = dir.join(format!("{FILE}.partial"));
    let copy = || {
        let mut from = File::open(snapshot)?;
        let mut to = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        std::io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        std::fs::rename(&partial, &path)
    };
    copy().map_err(|e| path_error("restore", snapshot, e))?;
    sync_dir(dir)
}

/// Makes created and renamed files in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|d| d.sync_all())
        .map_err(|e| path_error("sync", dir, e))
}

pub(super) fn path_error(operation: &'static str, path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Error::NoSpace {
            place: path.display().to_string(),
        };
    }
    Error::Path {
        operation,
        path: path.to_path_buf(),
        source: Arc::new(error),
    }
}

/// What an answer of SQLite means to the store's user.
pub(super) fn engine_error(operation: &'static str, path: &Path, error: rusqlite::Error) -> Error {
    let code = error.sqlite_error().map(|e| (e.code, e.extended_code));
    match code {
        // The WAL's shared index grows on the same disk.
        Some((ErrorCode::DiskFull, _) | (_, rusqlite::ffi::SQLITE_IOERR_SHMSIZE)) => Error::NoSpace {
            place: path.display().to_string(),
        },
        Some((ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase, _)) => Error::Corrupt {
            path: path.to_path_buf(),
            key: None,
            revision: None,
            detail: error.to_string(),
        },
        Some((ErrorCode::CannotOpen | ErrorCode::PermissionDenied | ErrorCode::ReadOnly, _)) => {
            let source: Source = Arc::new(error);
            Error::Path {
                operation,
                path: path.to_path_buf(),
                source,
            }
        }
        _ => Error::Io {
            operation,
            path: path.to_path_buf(),
            source: Arc::new(error),
        },
    }
}
