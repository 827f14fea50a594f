//! The etcd backend. etcd keeps values as they were put, and this stamps whatever it reads; it
//! must not keep state of its own, so that any number of servers can share one etcd.
//!
//! Where etcd differs from the embedded engine: it buffers for slow watchers itself and applies
//! flow control, so [`Error::Lagged`] never comes; a snapshot is in etcd's own format, for
//! `etcdctl snapshot restore`; operations per transaction are limited by its `--max-txn-ops` (128).

mod stream;

use crate::embedded::check;
use crate::error::{Error, Result};
use crate::types::{Committed, Condition, EventKind, KeyValue, Op, Outcome, Page, Range, Stats, Txn, WatchEvent};
use crate::{Stamp, Store, WatchStream};
use async_trait::async_trait;
use bytes::Bytes;
use etcd_client::{
    Certificate, Client, CompactionOptions, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Identity,
    KvClient, PutOptions, TlsOptions, TxnOp, TxnOpResponse, WatchOptions,
};
use futures::StreamExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
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
            max_txn_bytes: 1 << 20,
        }
    }
}

/// A store kept by etcd.
pub struct Etcd {
    client: Client,
    endpoint: Arc<str>,
    stamp: Stamp,
    max_txn_bytes: usize,
    commits: AtomicU64,
    closed: watch::Sender<bool>,
}

impl Etcd {
    /// Connects and makes one request, so that a wrong address shows at once.
    ///
    /// # Errors
    /// [`Error::Unavailable`].
    pub async fn connect(options: Options) -> Result<Self> {
        let endpoint: Arc<str> = options.endpoints.join(",").into();
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_require_leader(true);
        if let Some(tls) = options.tls {
            let mut config = TlsOptions::new().ca_certificate(Certificate::from_pem(tls.ca));
            if let Some((certificate, key)) = tls.identity {
                config = config.identity(Identity::from_pem(certificate, key));
            }
            connect = connect.with_tls(config);
        }
        let request = async {
            let mut client = Client::connect(&options.endpoints, Some(connect)).await?;
            client.status().await?;
            Ok(client)
        };
        let client = match tokio::time::timeout(options.timeout, request).await {
            Ok(connected) => connected.map_err(|e| failed(&endpoint, e))?,
            Err(elapsed) => {
                let source = Arc::new(elapsed);
                return Err(Error::Unavailable {
                    endpoint: endpoint.to_string(),
                    source,
                });
            }
        };
        Ok(Self {
            client,
            endpoint,
            stamp: options.stamp,
            max_txn_bytes: options.max_txn_bytes,
            commits: AtomicU64::new(0),
            closed: watch::Sender::new(false),
        })
    }

    fn kv(&self) -> Result<KvClient> {
        if *self.closed.borrow() {
            return Err(Error::Closed);
        }
        Ok(self.client.kv_client().max_decoding_message_size(usize::MAX))
    }

    fn fail(&self, error: etcd_client::Error) -> Error {
        failed(&self.endpoint, error)
    }

    /// A read or compaction of `revision` failed: tells apart why.
    async fn refused(&self, revision: u64, error: etcd_client::Error) -> Error {
        let text = error.to_string();
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
        self.fail(error)
    }

    fn outcome(&self, txn: Txn, response: &etcd_client::TxnResponse) -> Outcome {
        let revision = response.header().map_or(0, |h| h.revision().cast_unsigned());
        let answers = response.op_responses();
        if !response.succeeded() {
            let current = answers.into_iter().map(|answer| match answer {
                TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next().map(|kv| key_value(&self.stamp, kv)),
                _ => None,
            });
            return Outcome::CompareFailed {
                current: current.collect(),
                revision,
            };
        }
        let mut events = Vec::new();
        for (op, answer) in txn.ops.into_iter().zip(answers) {
            let prev = match answer {
                TxnOpResponse::Put(mut put) => put.take_prev_key(),
                TxnOpResponse::Delete(mut delete) => delete.take_prev_kvs().into_iter().next(),
                _ => None,
            };
            let prev = prev.map(|kv| key_value(&self.stamp, kv));
            match op {
                Op::Put { key, value } => events.push(WatchEvent {
                    kind: EventKind::Put,
                    key,
                    value: self.stamp.apply(value, revision),
                    revision,
                    create_revision: prev.as_ref().map_or(revision, |kv| kv.create_revision),
                    version: prev.as_ref().map_or(1, |kv| kv.version + 1),
                    prev,
                }),
                Op::Delete { key } if prev.is_some() => events.push(deletion(key, revision, prev)),
                Op::Delete { .. } => {}
            }
        }
        Outcome::Committed(Committed {
            revision,
            events: events.into(),
        })
    }
}

#[async_trait]
impl Store for Etcd {
    async fn revision(&self) -> Result<u64> {
        let options = GetOptions::new().with_count_only();
        let response = self.kv()?.get("\0", Some(options)).await.map_err(|e| self.fail(e))?;
        Ok(response.header().map_or(0, |h| h.revision().cast_unsigned()))
    }

    /// etcd tells this only when it refuses a watch, so that is what is done.
    async fn compacted(&self) -> Result<u64> {
        let options = GetOptions::new().with_count_only().with_revision(1);
        match self.kv()?.get("\0", Some(options)).await {
            Ok(_) => return Ok(0),
            Err(error) if error.to_string().contains("has been compacted") => {}
            Err(error) => return Err(self.fail(error)),
        }
        let options = WatchOptions::new().with_start_revision(1);
        let mut stream = self
            .client
            .watch_client()
            .watch("\0", Some(options))
            .await
            .map_err(|e| self.fail(e))?;
        while let Some(response) = stream.message().await.map_err(|e| self.fail(e))? {
            if response.canceled() {
                return Ok(response.compact_revision().cast_unsigned());
            }
        }
        Err(self.fail(etcd_client::Error::WatchError("the stream ended".into())))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<KeyValue>> {
        let mut response = self.kv()?.get(key, None).await.map_err(|e| self.fail(e))?;
        Ok(response
            .take_kvs()
            .into_iter()
            .next()
            .map(|kv| key_value(&self.stamp, kv)))
    }

    async fn range(&self, range: Range) -> Result<Page> {
        let start = match range.start_after {
            Some(key) if key >= range.prefix => [&key[..], &[0]].concat(),
            _ if range.prefix.is_empty() => vec![0],
            _ => range.prefix.to_vec(),
        };
        let limit = i64::try_from(range.limit).unwrap_or(i64::MAX);
        let at = range.at_revision.unwrap_or(0);
        let options = GetOptions::new()
            .with_range(prefix_end(&range.prefix))
            .with_limit(limit)
            .with_revision(at.cast_signed());
        let mut response = match self.kv()?.get(start, Some(options)).await {
            Ok(response) => response,
            Err(error) => return Err(self.refused(at, error).await),
        };
        let now = response.header().map_or(0, |h| h.revision().cast_unsigned());
        let more = response.more();
        let items = response
            .take_kvs()
            .into_iter()
            .map(|kv| key_value(&self.stamp, kv))
            .collect();
        Ok(Page {
            items,
            revision: range.at_revision.unwrap_or(now),
            more,
        })
    }

    async fn commit(&self, txn: Txn) -> Result<Outcome> {
        check(&txn, self.max_txn_bytes)?;
        let mut compares = Vec::new();
        for compare in &txn.compares {
            let key = &compare.key[..];
            // An absent key has revision 0 to etcd, so existence is asked for by itself.
            let exists = Compare::create_revision(key, CompareOp::Greater, 0);
            match compare.condition {
                Condition::Absent => compares.push(Compare::create_revision(key, CompareOp::Equal, 0)),
                Condition::Present => compares.push(exists),
                Condition::ModRevision(revision) => {
                    compares.push(exists);
                    compares.push(Compare::mod_revision(key, CompareOp::Equal, revision.cast_signed()));
                }
            }
        }
        let operations = txn.ops.iter().map(|op| match op {
            Op::Put { key, value } => TxnOp::put(&key[..], &value[..], Some(PutOptions::new().with_prev_key())),
            Op::Delete { key } => TxnOp::delete(&key[..], Some(DeleteOptions::new().with_prev_key())),
        });
        let otherwise = txn.compares.iter().map(|compare| TxnOp::get(&compare.key[..], None));
        let request = etcd_client::Txn::new()
            .when(compares)
            .and_then(operations.collect::<Vec<_>>())
            .or_else(otherwise.collect::<Vec<_>>());
        let response = self.kv()?.txn(request).await.map_err(|e| self.fail(e))?;
        let outcome = self.outcome(txn, &response);
        if matches!(&outcome, Outcome::Committed(committed) if !committed.events.is_empty()) {
            self.commits.fetch_add(1, Ordering::Relaxed);
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: Bytes, from_revision: u64) -> Result<WatchStream> {
        let from = match from_revision {
            0 => self.revision().await? + 1,
            from => from,
        };
        // etcd serves a watch from the compaction point itself, whose deletions may be gone. One
        // revision less makes it refuse that; the events of that revision are left out again.
        let start = from.saturating_sub(1).max(1);
        let options = WatchOptions::new()
            .with_range(prefix_end(&prefix))
            .with_start_revision(start.cast_signed())
            .with_prev_key();
        let key = if prefix.is_empty() { vec![0] } else { prefix.to_vec() };
        let mut client = self.client.watch_client().max_decoding_message_size(usize::MAX);
        let mut closed = self.closed.subscribe();
        if *closed.borrow() {
            return Err(Error::Closed);
        }
        let stream = client.watch(key, Some(options)).await.map_err(|e| self.fail(e))?;
        let watch = stream::Watch {
            stream,
            from,
            stamp: self.stamp.clone(),
            endpoint: Arc::clone(&self.endpoint),
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
        let options = CompactionOptions::new().with_physical();
        match self.kv()?.compact(revision.cast_signed(), Some(options)).await {
            Ok(_) => Ok(()),
            Err(error) if error.to_string().contains("has been compacted") => Ok(()),
            Err(error) => Err(self.refused(revision, error).await),
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
            let mut stream = self
                .client
                .maintenance_client()
                .snapshot()
                .await
                .map_err(|e| self.fail(e))?;
            while let Some(part) = stream.message().await.map_err(|e| self.fail(e))? {
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
        let response = self.kv()?.get("", Some(options)).await.map_err(|e| self.fail(e))?;
        let status = self
            .client
            .maintenance_client()
            .status()
            .await
            .map_err(|e| self.fail(e))?;
        let commits = self.commits.load(Ordering::Relaxed);
        Ok(Stats {
            revision: response.header().map_or(0, |h| h.revision().cast_unsigned()),
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

fn deletion(key: Bytes, revision: u64, prev: Option<KeyValue>) -> WatchEvent {
    let value = Bytes::new();
    WatchEvent {
        kind: EventKind::Delete,
        key,
        value,
        revision,
        create_revision: 0,
        version: 0,
        prev,
    }
}

fn key_value(stamp: &Stamp, kv: etcd_client::KeyValue) -> KeyValue {
    let (created, revision, version) = (kv.create_revision(), kv.mod_revision(), kv.version());
    let (key, value) = kv.into_key_value();
    let mod_revision = revision.cast_unsigned();
    KeyValue {
        key: key.into(),
        value: stamp.apply(value.into(), mod_revision),
        create_revision: created.cast_unsigned(),
        mod_revision,
        version: version.cast_unsigned(),
    }
}

/// The end of a prefix in etcd's terms, where a zero byte means "no end".
fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    crate::types::prefix_end(prefix).unwrap_or_else(|| vec![0])
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

/// etcd tells its errors apart by their text only.
fn failed(endpoint: &str, error: etcd_client::Error) -> Error {
    let text = error.to_string();
    if text.contains("database space exceeded") {
        return Error::NoSpace {
            place: endpoint.to_owned(),
        };
    }
    if text.contains("too many operations in txn") || text.contains("request is too large") {
        return Error::Invalid(text);
    }
    Error::Unavailable {
        endpoint: endpoint.to_owned(),
        source: Arc::new(error),
    }
}
