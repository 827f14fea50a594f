//! Copies all keys of one store into another: migration, restore. It must not look into values.
//!
//! The revisions of the copy are its own. So that `resourceVersion`s never go back for a client,
//! the other store has to begin above the first one's revision (`embedded::Options::begin`,
//! `etcd::Etcd::fill`): each object then gets a new and greater one, and whoever asks for what was
//! before is told that it has been compacted, and lists anew.

use crate::Stamp;
use crate::error::{Error, Result};
use crate::types::{KeyValue, Range, Txn};
use crate::{Outcome, Store};

/// Keys in one transaction: etcd takes 128 by default.
const KEYS: usize = 100;
/// Bytes in one transaction: etcd takes 1.5 MiB by default.
const BYTES: usize = 900 << 10;
/// Keys read at once.
const PAGE: usize = 500;

/// Copies all keys with `prefix` as they are at one revision; returns how many there are.
///
/// # Errors
/// Those of both stores; [`Error::Invalid`] if a key is there already.
pub async fn copy(from: &dyn Store, to: &dyn Store, prefix: &str) -> Result<u64> {
    let revision = from.revision().await?;
    let mut count = 0;
    let mut range = Range::prefix(prefix.to_owned()).limit(PAGE).at(revision);
    let (mut txn, mut bytes) = (Txn::default(), 0);
    loop {
        let page = from.range(range.clone()).await?;
        let last = page.items.last().map(|kv| kv.key.clone());
        count += page.items.len() as u64;
        for KeyValue { key, value, .. } in page.items {
            let size = key.len() + value.len();
            if txn.ops.len() == KEYS || (bytes + size > BYTES && !txn.ops.is_empty()) {
                put(to, std::mem::take(&mut txn)).await?;
                bytes = 0;
            }
            bytes += size;
            txn = txn.when(key.clone(), crate::Condition::Absent).put(key, value);
        }
        match last {
            Some(last) if page.more => range = range.start_after(last),
            _ => break,
        }
    }
    if !txn.ops.is_empty() {
        put(to, txn).await?;
    }
    Ok(count)
}

async fn put(to: &dyn Store, txn: Txn) -> Result<()> {
    let first = txn.ops.first().map(|op| String::from_utf8_lossy(op.key()).into_owned());
    match to.commit(txn).await {
        Ok(Outcome::Committed(_)) => Ok(()),
        Ok(Outcome::CompareFailed { .. }) => Err(Error::Invalid(format!(
            "{} or a key after it is there already",
            first.unwrap_or_default()
        ))),
        Err(Error::TooLarge { bytes, limit }) => Err(Error::Invalid(format!(
            "{} has {bytes} bytes, and the store takes {limit}",
            first.unwrap_or_default()
        ))),
        Err(error) => Err(error),
    }
}

/// The first key with `prefix` that two stores do not have alike, revisions apart.
///
/// # Errors
/// Those of both stores.
pub async fn equal(one: &dyn Store, other: &dyn Store, prefix: &str, stamp: &Stamp) -> Result<Option<String>> {
    let mut range = Range::prefix(prefix.to_owned()).limit(PAGE);
    loop {
        let (a, b) = (one.range(range.clone()).await?, other.range(range.clone()).await?);
        let bare = |kv: &KeyValue| (kv.key.clone(), stamp.apply(kv.value.clone(), 0));
        let count = a.items.len().max(b.items.len());
        for at in 0..count {
            let (a, b) = (a.items.get(at), b.items.get(at));
            if a.map(bare) != b.map(bare) {
                let key = a.or(b).map(|kv| String::from_utf8_lossy(&kv.key).into_owned());
                return Ok(key);
            }
        }
        match a.items.last() {
            Some(last) if a.more => range = range.start_after(last.key.clone()),
            _ => return Ok(None),
        }
    }
}
