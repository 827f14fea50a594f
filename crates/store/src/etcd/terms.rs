//! etcd's terms and ours: revisions, values, transactions and events. It asks nothing of etcd.
//!
//! Our revision is etcd's plus an offset, which is 0 unless a store of another kind was moved into
//! this etcd: a new etcd counts from 1, while the clients have seen greater revisions.

use crate::Stamp;
use crate::types::{Committed, Condition, EventKind, KeyValue, Op, Outcome, Txn, WatchEvent};
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, DeleteOptions, EventType, PutOptions, ResponseHeader, TxnOp, TxnOpResponse};

/// How what etcd says is read.
#[derive(Clone)]
pub(super) struct Terms {
    pub stamp: Stamp,
    pub offset: u64,
}

impl Terms {
    /// Our revision of one of etcd's.
    pub(super) fn ours(&self, revision: i64) -> u64 {
        revision.cast_unsigned() + self.offset
    }

    /// etcd's revision of one of ours; 0 or less if it is from before this etcd.
    pub(super) fn theirs(&self, revision: u64) -> i64 {
        revision.cast_signed() - self.offset.cast_signed()
    }

    /// The revision at which an answer was made.
    pub(super) fn now(&self, header: Option<&ResponseHeader>) -> u64 {
        header.map_or(0, |h| self.ours(h.revision()))
    }

    pub(super) fn key_value(&self, kv: etcd_client::KeyValue) -> KeyValue {
        let (created, revision, version) = (kv.create_revision(), kv.mod_revision(), kv.version());
        let (key, value) = kv.into_key_value();
        let mod_revision = self.ours(revision);
        KeyValue {
            key: key.into(),
            value: self.stamp.apply(value.into(), mod_revision),
            create_revision: self.ours(created),
            mod_revision,
            version: version.cast_unsigned(),
        }
    }

    /// The request of a transaction.
    pub(super) fn request(&self, txn: &Txn) -> etcd_client::Txn {
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
                    compares.push(Compare::mod_revision(key, CompareOp::Equal, self.theirs(revision)));
                }
            }
        }
        let operations = txn.ops.iter().map(|op| match op {
            Op::Put { key, value } => TxnOp::put(&key[..], &value[..], Some(PutOptions::new().with_prev_key())),
            Op::Delete { key } => TxnOp::delete(&key[..], Some(DeleteOptions::new().with_prev_key())),
        });
        let otherwise = txn.compares.iter().map(|compare| TxnOp::get(&compare.key[..], None));
        etcd_client::Txn::new()
            .when(compares)
            .and_then(operations.collect::<Vec<_>>())
            .or_else(otherwise.collect::<Vec<_>>())
    }

    /// What became of a transaction.
    pub(super) fn outcome(&self, txn: Txn, response: &etcd_client::TxnResponse) -> Outcome {
        let revision = self.now(response.header());
        let answers = response.op_responses();
        if !response.succeeded() {
            let current = answers.into_iter().map(|answer| match answer {
                TxnOpResponse::Get(mut get) => get.take_kvs().into_iter().next().map(|kv| self.key_value(kv)),
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
            let prev = prev.map(|kv| self.key_value(kv));
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

    /// An event of a watch.
    pub(super) fn event(&self, event: &etcd_client::Event) -> Option<WatchEvent> {
        let kv = event.kv()?;
        let revision = self.ours(kv.mod_revision());
        let prev = event.prev_kv().map(|kv| self.key_value(kv.clone()));
        Some(match event.event_type() {
            EventType::Delete => deletion(Bytes::copy_from_slice(kv.key()), revision, prev),
            EventType::Put => {
                let now = self.key_value(kv.clone());
                WatchEvent {
                    kind: EventKind::Put,
                    key: now.key,
                    value: now.value,
                    revision,
                    create_revision: now.create_revision,
                    version: now.version,
                    prev,
                }
            }
        })
    }
}

fn deletion(key: Bytes, revision: u64, prev: Option<KeyValue>) -> WatchEvent {
    WatchEvent {
        kind: EventKind::Delete,
        key,
        value: Bytes::new(),
        revision,
        create_revision: 0,
        version: 0,
        prev,
    }
}

/// The end of a prefix in etcd's terms, where a zero byte means "no end".
pub(super) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    crate::types::prefix_end(prefix).unwrap_or_else(|| vec![0])
}

/// What is written about a store whose offset is not 0, or that is being filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Mark {
    pub offset: u64,
    pub filling: bool,
}

impl Mark {
    /// Where it is kept. Not below `/registry/`, where only objects are.
    pub(super) const KEY: &str = "/allmend/store";

    pub(super) fn text(self) -> String {
        format!("{} {}", self.offset, if self.filling { "filling" } else { "ready" })
    }

    /// `None` if no release has written this.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let (offset, state) = std::str::from_utf8(text).ok()?.split_once(' ')?;
        let filling = match state {
            "filling" => true,
            "ready" => false,
            _ => return None,
        };
        let offset = offset.parse().ok()?;
        Some(Self { offset, filling })
    }
}
