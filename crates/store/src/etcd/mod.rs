//! The etcd backend. etcd keeps values as they were put, and this stamps whatever it reads; it
//! must not keep state of its own, so that any number of servers can share one etcd.
//!
//! Where etcd differs from the embedded engine: it buffers for slow watchers itself and applies
//! flow control, so [`Error::Lagged`] never comes; a snapshot is in etcd's own format, for
//! `etcdctl snapshot restore`; operations per transaction are limited by its `--max-txn-ops` (128).
//!
//! A member that is down is noticed by the request or watch that fails, and the next one is asked:
//! reads at once, writes only if they have certainly not been sent.

mod members;
mod stream;
mod terms;

use crate::embedded::check;
use crate::error::{Error, Result};
use crate::types::{KeyValue, Outcome, Page, Range, Stats, Txn};
use crate::{Stamp, Store, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{Client, CompactionOptions, GetOptions, KvClient, WatchOptions};
use futures::StreamExt;
use members::{Failure, Members, Repeat};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use terms::{Mark, Terms, prefix_end};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

/// How to reach etcd.
#[derive(Debug, Clone)]
pub struct Options {
    /// URLs of the members, such as `https://10.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// For `https` endpoints.
    pub tls: Option<Tls>,
    /// How values come to carry their revision.
    pub stamp: Stamp,
    /// How long a request may take, connecting included.
    pub timeout: Duration,
    /// Open also what is being filled (see [`Etcd::fill`]).
    pub filling: bool,
    /// Greatest size of a transaction; must not exceed etcd's `--max-request-bytes` (1.5 MiB).
    pub max_txn_bytes: usize,
}

/// Certificates as PEM.
#[derive(Debug, Clone, Default)]
pub struct Tls {
    /// Authorities that sign the members' certificates.
    pub ca: Vec<u8>,
    /// This client's certificate and key.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl Options {
    /// Defaults for an etcd at `endpoints`.
    pub fn new<E: Into<String>>(endpoints: impl IntoIterator<Item = E>) -> Self {
        Self {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            tls: None,
            stamp: Stamp::none(),
            timeout: Duration::from_secs(10),
            filling: false,
            max_txn_bytes: 1 << 20,
        }
    }
}

/// A store kept by etcd.
pub struct Etcd {
    members: Arc<Members>,
    terms: Terms,
    max_txn_bytes: usize,
    commits: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Etcd {
    /// Connects and makes one request, so that a wrong address shows at once.
    ///
    /// # Errors
    /// [`Error::Invalid`] for URLs and certificates that can't be right, [`Error::Unavailable`].
    pub async fn connect(options: Options) -> Result<Self> {
        let members = Arc::new(Members::new(&options).await?);
        let mut store = Self {
            members,
            terms: Terms {
                stamp: options.stamp,
                offset: 0,
            },
            max_txn_bytes: options.max_txn_bytes,
            commits: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        };
        if let Some(mark) = store.mark().await? {
            if mark.filling && !options.filling {
                return Err(Error::Unfinished {
                    place: store.members.names.to_string(),
                });
            }
            store.terms.offset = mark.offset;
        }
        Ok(store)
    }

    async fn mark(&self) -> Result<Option<Mark>> {
        let mut found = self
            .call(Repeat::Always, |mut kv| async move { kv.get(Mark::KEY, None).await })
            .await?;
        let Some(kv) = found.take_kvs().into_iter().next() else {
            return Ok(None);
        };
        match Mark::parse(kv.value()) {
            Some(mark) => Ok(Some(mark)),
            None => Err(Error::Corrupt {
                path: PathBuf::from(&*self.members.names),
                key: Some(Mark::KEY.into()),
                revision: None,
                detail: "no release has written this".into(),
            }),
        }
    }

    /// Begins to fill this etcd, so that revisions go on after `above`; it can't be opened until
    /// [`Etcd::filled`]. What an earlier attempt left is removed.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it has objects that no such attempt has put there.
    pub async fn fill(&mut self, prefix: &[u8], above: u64) -> Result<()> {
        let begun = self.mark().await?.is_some_and(|mark| mark.filling);
        let there = self.range(Range::prefix(prefix.to_vec()).limit(1)).await?;
        if !there.items.is_empty() && !begun {
            let names = &self.members.names;
            return Err(Error::Invalid(format!("the etcd at {names} already has objects in it")));
        }
        let now = self.revision().await? - self.terms.offset;
        self.terms.offset = self.terms.offset.max((above + 1).saturating_sub(now));
        self.put_mark(true).await?;
        let options = etcd_client::DeleteOptions::new().with_range(prefix_end(prefix));
        let remove = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.delete(prefix, Some(options)).await }
        };
        self.call(Repeat::Always, remove).await.map(drop)
    }

    /// All that [`Etcd::fill`] was called for is there.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn filled(&self) -> Result<()> {
        self.put_mark(false).await
    }

    async fn put_mark(&self, filling: bool) -> Result<()> {
        let offset = self.terms.offset;
        let text = Mark { offset, filling }.text();
        // To put the same twice does no harm.
        let put = |mut kv: KvClient| {
            let text = text.clone();
            async move { kv.put(Mark::KEY, text, None).await }
        };
        self.call(Repeat::Always, put).await.map(drop)
    }

    async fn call<T, F>(&self, repeat: Repeat, request: impl Fn(KvClient) -> F + Send + Sync) -> Result<T, Error>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        self.ask(repeat, request).await?.map_err(|f| self.members.error(f))
    }

    /// The outer error is that of a closed store.
    async fn ask<T, F>(
        &self,
        repeat: Repeat,
        request: impl Fn(KvClient) -> F + Send + Sync,
    ) -> Result<Result<T, Failure>>
    where
        F: Future<Output = Result<T, etcd_client::Error>> + Send,
        T: Send,
    {
        if *self.closed.borrow() {
            return Err(Error::Closed);
        }
        let request = |_, client: Client| request(client.kv_client().max_decoding_message_size(usize::MAX));
        Ok(self.members.call(repeat, request).await)
    }

    /// A read or compaction of `revision` failed: tells apart why.
    async fn refused(&self, revision: u64, failure: Failure) -> Error {
        let text = failure.text();
        if text.contains("has been compacted") {
            return match self.compacted().await {
                Ok(compacted) => Error::Compacted {
                    requested: revision,
                    compacted,
                },
                Err(error) => error,
            };
        }
        if text.contains("is a future revision") {
            return match self.revision().await {
                Ok(current) => Error::FutureRevision {
                    requested: revision,
                    current,
                },
                Err(error) => error,
            };
        }
        self.members.error(failure)
    }
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<u64> {
        let options = GetOptions::new().with_count_only();
        let ask = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.get("\0", Some(options)).await }
        };
        let response = self.call(Repeat::Always, ask).await?;
        Ok(self.terms.now(response.header()))
    }

    /// etcd tells this only when it refuses a watch, so that is what is done.
    async fn compacted(&self) -> Result<u64> {
        let first = if self.terms.offset > 0 { self.terms.ours(1) } else { 0 };
        let options = GetOptions::new().with_count_only().with_revision(1);
        let ask = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.get("\0", Some(options)).await }
        };
        match self.ask(Repeat::Always, ask).await? {
            Ok(_) => return Ok(first),
            Err(failure) if failure.text().contains("has been compacted") => {}
            Err(failure) => return Err(self.members.error(failure)),
        }
        let watch = |_, client: Client| async move {
            let options = WatchOptions::new().with_start_revision(1);
            let mut stream = client.watch_client().watch("\0", Some(options)).await?;
            while let Some(response) = stream.message().await? {
                if response.canceled() {
                    return Ok(response.compact_revision());
                }
            }
            Err(etcd_client::Error::WatchError("the watch ended".into()))
        };
        let compacted = self.members.call(Repeat::Always, watch).await;
        compacted.map(|c| self.terms.ours(c)).map_err(|f| self.members.error(f))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let ask = |mut kv: KvClient| async move { kv.get(key, None).await };
        let mut response = self.call(Repeat::Always, ask).await?;
        let found = response.take_kvs().into_iter().next();
        Ok(found.map(|kv| self.terms.key_value(kv)))
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let start = match range.start_after {
            Some(key) if key >= range.prefix => [&key[..], &[0]].concat(),
            _ if range.prefix.is_empty() => vec![0],
            _ => range.prefix.to_vec(),
        };
        let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
        let at = match range.at_revision {
            // To etcd 0 is the present.
            None => 0,
            Some(at) if self.terms.theirs(at) > 0 => self.terms.theirs(at),
            Some(requested) => {
                let compacted = self.compacted().await?;
                return Err(Error::Compacted { requested, compacted });
            }
        };
        let options = GetOptions::new()
            .with_range(prefix_end(&range.prefix))
            .with_limit(limit)
            .with_revision(at);
        let ask = |mut kv: KvClient| {
            let (start, options) = (start.clone(), options.clone());
            async move { kv.get(start, Some(options)).await }
        };
        let mut response = match self.ask(Repeat::Always, ask).await? {
            Ok(response) => response,
            Err(failure) => return Err(self.refused(range.at_revision.unwrap_or(0), failure).await),
        };
        let now = self.terms.now(response.header());
        let more = response.more();
        let items = response.take_kvs().into_iter();
        Ok(Page {
            items: items.map(|kv| self.terms.key_value(kv)).collect(),
            revision: range.at_revision.unwrap_or(now),
            more,
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome> {
        check(&txn, self.max_txn_bytes)?;
        let request = self.terms.request(&txn);
        let ask = |mut kv: KvClient| {
            let request = request.clone();
            async move { kv.txn(request).await }
        };
        let response = self.call(Repeat::IfUnsent, ask).await?;
        let outcome = self.terms.outcome(txn, &response);
        if matches!(&outcome, Outcome::Committed(committed) if !committed.events.is_empty()) {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: Bytes, from_revision: u64) -> Result<WatchStream> {
        let mut closed = self.closed.subscribe();
        if *closed.borrow() {
            return Err(Error::Closed);
        }
        let from = match from_revision {
            0 => self.revision().await? + 1,
            from => from,
        };
        if self.terms.offset > 0 && self.terms.theirs(from) < 2 {
            let compacted = self.compacted().await?;
            return Err(Error::Compacted {
                requested: from,
                compacted,
            });
        }
        // etcd serves a watch from the compaction point itself, whose deletions may be gone. One
        // revision less makes it refuse that; the events of that revision are left out again.
        let start = (self.terms.theirs(from) - 1).max(1);
        let options = WatchOptions::new()
            .with_all_keys()
            .with_start_revision(start)
            .with_prev_key();
        let begin = |member, client: Client| {
            let options = options.clone();
            async move {
                let mut client = client.watch_client().max_decoding_message_size(usize::MAX);
                Ok((member, client.watch("\0", Some(options)).await?))
            }
        };
        let begun = self.members.call(Repeat::Always, begin).await;
        let (member, stream) = begun.map_err(|f| self.members.error(f))?;
        let watch = stream::Watch {
            stream,
            members: Arc::clone(&self.members),
            member,
            prefix,
            from,
            terms: self.terms.clone(),
        };
        let items = futures::stream::unfold(Some(watch), |watch| async move {
            let mut watch = watch?;
            let item = watch.next().await;
            let more = item.is_ok();
            Some((item, more.then_some(watch)))
        });
        let closing = async move {
            // The sender lives as long as the store: its end is a close too.
            let _ = closed.wait_for(|closed| *closed).await;
        };
        Ok(items.take_until(closing).boxed())
    }

    async fn compact(&self, revision: u64) -> Result<()> {
        let theirs = self.terms.theirs(revision);
        if self.terms.offset > 0 && theirs < 1 {
            return Ok(());
        }
        let options = CompactionOptions::new().with_physical();
        let ask = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.compact(theirs, Some(options)).await }
        };
        match self.ask(Repeat::Always, ask).await? {
            Ok(_) => Ok(()),
            Err(failure) if failure.text().contains("has been compacted") => Ok(()),
            Err(failure) => Err(self.refused(revision, failure).await),
        }
    }

    async fn snapshot(&self, path: &Path) -> Result<u64> {
        let fail = |e| path_failed(path, e);
        if path.exists() {
            return Err(fail(std::io::ErrorKind::AlreadyExists.into()));
        }
        let revision = self.revision().await?;
        let mut partial = path.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        let mut options = tokio::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&partial).await.map_err(fail)?;
        let copied = async {
            let fail_etcd = |e| self.members.error(Failure::Unclear(e));
            let (_, client) = self.members.preferred();
            let mut stream = client.maintenance_client().snapshot().await.map_err(fail_etcd)?;
            while let Some(part) = stream.message().await.map_err(fail_etcd)? {
                file.write_all(part.blob()).await.map_err(fail)?;
            }
            file.sync_all().await.map_err(fail)?;
            tokio::fs::rename(&partial, path).await.map_err(fail)
        };
        if let Err(error) = copied.await {
            // What counts is the first error; a half-made copy is only litter.
            let _ = tokio::fs::remove_file(&partial).await;
            return Err(error);
        }
        Ok(revision)
    }

    async fn stats(&self) -> Result<Stats> {
        let options = GetOptions::new().with_all_keys().with_count_only();
        let ask = |mut kv: KvClient| {
            let options = options.clone();
            async move { kv.get("", Some(options)).await }
        };
        let response = self.call(Repeat::Always, ask).await?;
        let status = |_, client: Client| async move { client.maintenance_client().status().await };
        let status = self.members.call(Repeat::Always, status).await;
        let status = status.map_err(|f| self.members.error(f))?;
        let commits = self.commits.load(Ordering::Relaxed);
        Ok(Stats {
            revision: self.terms.now(response.header()),
            compacted: self.compacted().await?,
            keys: response.count().cast_unsigned(),
            disk_bytes: status.db_size().cast_unsigned(),
            watchers: self.closed.receiver_count() as u64,
            commits,
            groups: commits,
            lagged: 0,
        })
    }

    async fn close(&self) {
        self.closed.send_replace(true);
    }
}

fn path_failed(path: &Path, error: std::io::Error) -> Error {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return Error::NoSpace {
            place: path.display().to_string(),
        };
    }
    Error::Path {
        operation: "write a snapshot to",
        path: path.to_path_buf(),
        source: Arc::new(error),
    }
}
