//! A store whose values are encrypted where it lies, and plain to whoever holds this.
//!
//! It stands before either backend. That is the one place that serves both: etcd names a revision
//! only in its answer, so nothing that contains the revision could be encrypted before the commit;
//! and the embedded engine's writer is one thread, which must not encrypt for everybody. So what
//! is encrypted does *not* carry its revision. The revision stays outside, where both backends
//! keep it anyway and reliably: with the record (`mod_revision`; under the record's checksum in
//! the embedded engine). Here each value that is read is decrypted and then stamped with it, which
//! gives the very bytes that the backend would have given. For that the backend itself has to
//! leave cipher text alone: see [`around`].
//!
//! Must not drop what it can't read: `get` and `range` fail and name it; a watch and the version
//! before in an event hand it on as it lies, since it must not hold up all others, and say so.

mod cipher;

pub use cipher::{Algorithm, Key, PREFIX, random_secret};

use crate::error::{Error, Result};
use crate::types::{Committed, EventKind, KeyValue, Op, Outcome, Page, Range, Stats, Txn, WatchBatch, WatchEvent};
use crate::{Stamp, Store, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use std::path::Path;
use std::sync::Arc;

/// One way to keep a value.
#[derive(Clone, Debug)]
pub enum Provider {
    /// As it is.
    Identity,
    /// Encrypted.
    Key(Key),
}

/// How the values below some prefixes are kept.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Prefixes of keys.
    pub prefixes: Vec<String>,
    /// The first one writes, all read. What is plain is refused unless one is
    /// [`Provider::Identity`].
    pub providers: Vec<Provider>,
}

/// All rules; the first whose prefix fits counts. What none fits is kept as it is.
#[derive(Clone, Debug, Default)]
pub struct Rules(pub Vec<Rule>);

impl Rules {
    fn of(&self, key: &[u8]) -> Option<&Rule> {
        let fits = |rule: &&Rule| rule.prefixes.iter().any(|p| key.starts_with(p.as_bytes()));
        self.0.iter().find(fits)
    }

    fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().flat_map(|r| &r.providers).filter_map(|p| match p {
            Provider::Key(key) => Some(key),
            Provider::Identity => None,
        })
    }

    /// The value as it is kept; `None` as it is.
    fn seal(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>> {
        match self.of(key).and_then(|rule| rule.providers.first()) {
            Some(Provider::Key(with)) => match with.seal(key, value) {
                Some(sealed) => Ok(Some(sealed)),
                None => Err(Error::Invalid(format!("{} can't be encrypted", text(key)))),
            },
            _ => Ok(None),
        }
    }

    /// The plain value of one that is kept encrypted; `None` for one that is not.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn open(&self, key: &[u8], value: &[u8]) -> Result<Option<Bytes>> {
        let unreadable = |why| Error::Unreadable { key: text(key), why };
        if value.starts_with(PREFIX) {
            // Also by the keys of other rules: what was encrypted stays readable when the rules change.
            return cipher::open(self.keys(), key, value).map(Some).map_err(unreadable);
        }
        match self.of(key) {
            Some(rule) if !rule.providers.iter().any(|p| matches!(p, Provider::Identity)) => {
                let why = "it is not encrypted, and the configuration has no provider \"identity\" for it";
                Err(unreadable(why.to_owned()))
            }
            _ => Ok(None),
        }
    }

    /// A value by which is known later whether these are the keys of a store: cipher text of the
    /// key that writes; `None` if there is none.
    pub fn probe(&self, place: &[u8]) -> Option<Bytes> {
        let mut writers = self.0.iter().filter_map(|rule| rule.providers.first());
        let key = writers.find_map(|p| match p {
            Provider::Key(key) => Some(key),
            Provider::Identity => None,
        })?;
        key.seal(place, b"allmend")
    }

    /// Whether a probe is one of the key that writes now.
    pub fn is_own_probe(&self, probe: &[u8]) -> bool {
        let mut writers = self.0.iter().filter_map(|rule| rule.providers.first());
        writers.any(|p| matches!(p, Provider::Key(key) if key.made(probe)))
    }

    /// Whether a value is kept as the rules want it now.
    pub fn is_current(&self, key: &[u8], value: &[u8]) -> bool {
        match self.of(key).and_then(|rule| rule.providers.first()) {
            Some(Provider::Key(with)) => with.made(value),
            _ => !value.starts_with(PREFIX),
        }
    }
}

fn text(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// The stamp to open a backend with: that of its values, but cipher text is left as it is.
pub fn around(stamp: Stamp) -> Stamp {
    Stamp::new(move |value, revision| {
        if value.starts_with(PREFIX) {
            value
        } else {
            stamp.apply(value, revision)
        }
    })
}

/// A store behind rules. The inner one must have been opened with [`around`]`(stamp)`.
pub struct Sealed {
    inner: Arc<dyn Store>,
    open: Opener,
}

#[derive(Clone)]
struct Opener {
    rules: Arc<Rules>,
    stamp: Stamp,
}

impl Opener {
    fn value(&self, key: &[u8], value: Bytes, revision: u64) -> Result<Bytes> {
        Ok(match self.rules.open(key, &value)? {
            Some(plain) => self.stamp.apply(plain, revision),
            None => value,
        })
    }

    fn strictly(&self, mut kv: KeyValue) -> Result<KeyValue> {
        kv.value = self.value(&kv.key, kv.value, kv.mod_revision)?;
        Ok(kv)
    }

    /// The value, or what lies there.
    fn leniently(&self, key: &[u8], value: Bytes, revision: u64) -> Bytes {
        self.value(key, value.clone(), revision).unwrap_or_else(|error| {
            tracing::error!(%error, revision, "a stored object can't be read");
            value
        })
    }

    fn version(&self, mut kv: KeyValue) -> KeyValue {
        kv.value = self.leniently(&kv.key, kv.value, kv.mod_revision);
        kv
    }

    fn event(&self, mut event: WatchEvent) -> WatchEvent {
        if event.kind == EventKind::Put {
            event.value = self.leniently(&event.key, event.value, event.revision);
        }
        event.prev = event.prev.map(|kv| self.version(kv));
        event
    }
}

impl Sealed {
    /// Puts rules before a store.
    pub fn new(inner: Arc<dyn Store>, rules: Rules, stamp: Stamp) -> Self {
        let rules = Arc::new(rules);
        Self {
            inner,
            open: Opener { rules, stamp },
        }
    }
}

#[async_trait]
impl Store for Sealed {
    async fn revision(&self) -> Result<u64> {
        self.inner.revision().await
    }

    async fn compacted(&self) -> Result<u64> {
        self.inner.compacted().await
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let found = self.inner.get(key).await?;
        found.map(|kv| self.open.strictly(kv)).transpose()
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let mut page = self.inner.range(range).await?;
        let items = page.items.into_iter().map(|kv| self.open.strictly(kv));
        page.items = items.collect::<Result<_>>()?;
        Ok(page)
    }

    async fn commit(&self, mut txn: Txn) -> Result<Outcome> {
        for op in &mut txn.ops {
            if let Op::Put { key, value } = op
                && let Some(sealed) = self.open.rules.seal(key, value)?
            {
                *value = sealed;
            }
        }
        Ok(match self.inner.commit(txn).await? {
            Outcome::Committed(Committed { revision, events }) => Outcome::Committed(Committed {
                revision,
                events: events.iter().cloned().map(|e| self.open.event(e)).collect(),
            }),
            Outcome::CompareFailed { current, revision } => Outcome::CompareFailed {
                current: current
                    .into_iter()
                    .map(|kv| kv.map(|kv| self.open.version(kv)))
                    .collect(),
                revision,
            },
        })
    }

    async fn watch(&self, prefix: Bytes, from_revision: u64) -> Result<WatchStream> {
        let open = self.open.clone();
        let watch = self.inner.watch(prefix, from_revision).await?;
        let batches = watch.map(move |item| {
            item.map(|WatchBatch { revision, events }| WatchBatch {
                revision,
                events: events.into_iter().map(|e| open.event(e)).collect(),
            })
        });
        Ok(batches.boxed())
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        self.inner.compact(revision).await
    }

    async fn snapshot(&self, path: &Path) -> Result<u64> {
        self.inner.snapshot(path).await
    }

    async fn stats(&self) -> Result<Stats> {
        self.inner.stats().await
    }

    async fn close(&self) {
        self.inner.close().await;
    }
}
