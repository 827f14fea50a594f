//! The measured engines behind one narrow interface: an append-only log of records by revision
//! and an index from key to the latest revision, which is the embedded store's layout.

use std::error::Error;
use std::path::Path;

pub type Fallible<T> = Result<T, Box<dyn Error>>;

/// One record to write: revision, key, value.
pub type Record = (u64, Vec<u8>, Vec<u8>);

pub trait Engine {
    /// Writes the records durably, in one transaction.
    fn write(&self, batch: &[Record]) -> Fallible<()>;
    /// The latest value of a key.
    fn get(&self, key: &[u8]) -> Fallible<Option<usize>>;
    /// Reads all keys with a prefix and their values; returns how many.
    fn scan(&self, prefix: &[u8]) -> Fallible<usize>;
}

pub fn open(name: &str, dir: &Path) -> Fallible<Box<dyn Engine>> {
    std::fs::create_dir_all(dir)?;
    Ok(match name {
        "redb" => Box::new(Redb::open(dir)?),
        "lmdb" => Box::new(Lmdb::open(dir)?),
        "fjall" => Box::new(Fjall::open(dir)?),
        "sqlite1k" => Box::new(Sqlite::open(dir, 1024)?),
        "sqlite2k" => Box::new(Sqlite::open(dir, 2048)?),
        "sqlite4k" => Box::new(Sqlite::open(dir, 4096)?),
        other => return Err(format!("no engine {other}").into()),
    })
}

struct Redb(redb::Database);

const LOG: redb::TableDefinition<u64, &[u8]> = redb::TableDefinition::new("log");
const INDEX: redb::TableDefinition<&[u8], u64> = redb::TableDefinition::new("index");

impl Redb {
    fn open(dir: &Path) -> Fallible<Self> {
        let db = redb::Database::builder()
            .set_cache_size(8 << 20)
            .create(dir.join("redb"))?;
        Ok(Self(db))
    }
}

impl Engine for Redb {
    fn write(&self, batch: &[Record]) -> Fallible<()> {
        let txn = self.0.begin_write()?;
        {
            let mut log = txn.open_table(LOG)?;
            let mut index = txn.open_table(INDEX)?;
            for (revision, key, value) in batch {
                log.insert(revision, value.as_slice())?;
                index.insert(key.as_slice(), revision)?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Fallible<Option<usize>> {
        use redb::ReadableDatabase;
        let txn = self.0.begin_read()?;
        let Some(revision) = txn.open_table(INDEX)?.get(key)?.map(|v| v.value()) else {
            return Ok(None);
        };
        Ok(txn.open_table(LOG)?.get(revision)?.map(|v| v.value().to_vec().len()))
    }

    fn scan(&self, prefix: &[u8]) -> Fallible<usize> {
        use redb::ReadableDatabase;
        let txn = self.0.begin_read()?;
        let (index, log) = (txn.open_table(INDEX)?, txn.open_table(LOG)?);
        let mut count = 0;
        for entry in index.range(prefix..)? {
            let (key, revision) = entry?;
            if !key.value().starts_with(prefix) {
                break;
            }
            let value = log
                .get(revision.value())?
                .map(|v| v.value().to_vec())
                .unwrap_or_default();
            count += usize::from(!value.is_empty());
        }
        Ok(count)
    }
}

type LmdbLog = heed::Database<heed::types::U64<heed::byteorder::BE>, heed::types::Bytes>;
type LmdbIndex = heed::Database<heed::types::Bytes, heed::types::U64<heed::byteorder::BE>>;

struct Lmdb {
    env: heed::Env,
    log: LmdbLog,
    index: LmdbIndex,
}

impl Lmdb {
    #[expect(unsafe_code, reason = "LMDB can't be opened otherwise; this is a benchmark")]
    fn open(dir: &Path) -> Fallible<Self> {
        // SAFETY: the directory is the benchmark's own; nothing else maps or changes the file.
        let env = unsafe { heed::EnvOpenOptions::new().map_size(4 << 30).max_dbs(2).open(dir)? };
        let mut txn = env.write_txn()?;
        let log = env.create_database(&mut txn, Some("log"))?;
        let index = env.create_database(&mut txn, Some("index"))?;
        txn.commit()?;
        Ok(Self { env, log, index })
    }
}

impl Engine for Lmdb {
    fn write(&self, batch: &[Record]) -> Fallible<()> {
        let mut txn = self.env.write_txn()?;
        for (revision, key, value) in batch {
            self.log
                .put_with_flags(&mut txn, heed::PutFlags::APPEND, revision, value)?;
            self.index.put(&mut txn, key, revision)?;
        }
        txn.commit()?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Fallible<Option<usize>> {
        let txn = self.env.read_txn()?;
        let Some(revision) = self.index.get(&txn, key)? else {
            return Ok(None);
        };
        Ok(self.log.get(&txn, &revision)?.map(|v| v.to_vec().len()))
    }

    fn scan(&self, prefix: &[u8]) -> Fallible<usize> {
        let txn = self.env.read_txn()?;
        let mut count = 0;
        for entry in self.index.prefix_iter(&txn, prefix)? {
            let (_, revision) = entry?;
            let value = self.log.get(&txn, &revision)?.map(<[u8]>::to_vec).unwrap_or_default();
            count += usize::from(!value.is_empty());
        }
        Ok(count)
    }
}

struct Fjall {
    db: fjall::Database,
    log: fjall::Keyspace,
    index: fjall::Keyspace,
}

impl Fjall {
    fn open(dir: &Path) -> Fallible<Self> {
        let db = fjall::Database::builder(dir).cache_size(8 << 20).open()?;
        let options = fjall::KeyspaceCreateOptions::default;
        let log = db.keyspace("log", options)?;
        let index = db.keyspace("index", options)?;
        Ok(Self { db, log, index })
    }
}

impl Engine for Fjall {
    fn write(&self, batch: &[Record]) -> Fallible<()> {
        let mut txn = self.db.batch().durability(Some(fjall::PersistMode::SyncData));
        for (revision, key, value) in batch {
            txn.insert(&self.log, revision.to_be_bytes(), value.as_slice());
            txn.insert(&self.index, key.as_slice(), revision.to_be_bytes());
        }
        txn.commit()?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Fallible<Option<usize>> {
        let Some(revision) = self.index.get(key)? else {
            return Ok(None);
        };
        Ok(self.log.get(revision)?.map(|v| v.to_vec().len()))
    }

    fn scan(&self, prefix: &[u8]) -> Fallible<usize> {
        let mut count = 0;
        for entry in self.index.prefix(prefix) {
            let revision = entry.value()?;
            let value = self.log.get(revision)?.map(|v| v.to_vec()).unwrap_or_default();
            count += usize::from(!value.is_empty());
        }
        Ok(count)
    }
}

struct Sqlite(rusqlite::Connection);

impl Sqlite {
    fn open(dir: &Path, page_size: u32) -> Fallible<Self> {
        let db = rusqlite::Connection::open(dir.join("sqlite"))?;
        db.pragma_update(None, "page_size", page_size)?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -8192;
             CREATE TABLE IF NOT EXISTS log (revision INTEGER PRIMARY KEY, value BLOB NOT NULL);
             CREATE TABLE IF NOT EXISTS idx (key BLOB PRIMARY KEY, revision INTEGER NOT NULL)
                 WITHOUT ROWID;",
        )?;
        Ok(Self(db))
    }
}

impl Engine for Sqlite {
    fn write(&self, batch: &[Record]) -> Fallible<()> {
        let txn = self.0.unchecked_transaction()?;
        {
            let mut log = txn.prepare_cached("INSERT INTO log VALUES (?, ?)")?;
            let mut index = txn.prepare_cached("REPLACE INTO idx VALUES (?, ?)")?;
            for (revision, key, value) in batch {
                log.execute((revision.cast_signed(), value))?;
                index.execute((key, revision.cast_signed()))?;
            }
        }
        txn.commit()?;
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Fallible<Option<usize>> {
        let mut query = self
            .0
            .prepare_cached("SELECT log.value FROM idx JOIN log ON log.revision = idx.revision WHERE key = ?")?;
        let mut rows = query.query([key])?;
        Ok(match rows.next()? {
            Some(row) => Some(row.get::<_, Vec<u8>>(0)?.len()),
            None => None,
        })
    }

    fn scan(&self, prefix: &[u8]) -> Fallible<usize> {
        let mut end = prefix.to_vec();
        end.push(0xff);
        let mut query = self.0.prepare_cached(
            "SELECT log.value FROM idx JOIN log ON log.revision = idx.revision
             WHERE key >= ? AND key < ?",
        )?;
        let mut rows = query.query((prefix, end))?;
        let mut count = 0;
        while let Some(row) = rows.next()? {
            count += usize::from(!row.get::<_, Vec<u8>>(0)?.is_empty());
        }
        Ok(count)
    }
}
