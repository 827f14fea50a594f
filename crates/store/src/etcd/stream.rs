//! The watch of the etcd backend: turns responses into batches. It keeps no history.
//!
//! It asks for the events of all keys and leaves out those of others. So every revision of etcd
//! brings a message, and a reader that knows the present revision can wait for it. To ask etcd for
//! its progress instead would be wrong before 3.4.25 and 3.5.8: there the answer may overtake
//! events (etcd-io/etcd#15220), and Debian's releases are older.

use super::members::{Failure, Members};
use super::terms::Terms;
use crate::error::{Error, Result};
use crate::types::WatchBatch;
use bytes::Bytes;
use std::sync::Arc;

pub(super) struct Watch {
    pub stream: etcd_client::WatchStream,
    pub members: Arc<Members>,
    /// The member that sends it.
    pub member: usize,
    pub prefix: Bytes,
    pub from: u64,
    pub terms: Terms,
}

impl Watch {
    /// The next batch; one without events tells only how far the watch has come.
    pub(super) async fn next(&mut self) -> Result<WatchBatch> {
        loop {
            let message = self.stream.message().await.map_err(|e| self.broken(e))?;
            let Some(response) = message else {
                return Err(self.broken(etcd_client::Error::WatchError("the watch ended".into())));
            };
            if response.canceled() {
                let compacted = response.compact_revision();
                if compacted > 0 {
                    return Err(Error::Compacted {
                        requested: self.from,
                        compacted: self.terms.ours(compacted),
                    });
                }
                let why = response.cancel_reason().to_owned();
                return Err(self.broken(etcd_client::Error::WatchError(why)));
            }
            let mut events = Vec::with_capacity(response.events().len());
            let mut last = 0;
            for event in response.events() {
                let Some(kv) = event.kv() else { continue };
                let revision = self.terms.ours(kv.mod_revision());
                last = revision;
                if revision >= self.from && kv.key().starts_with(&self.prefix) {
                    events.extend(self.terms.event(event));
                }
            }
            if last >= self.from {
                // History that was read is not asked for again, should it be compacted meanwhile.
                self.from = last + 1;
                return Ok(WatchBatch { revision: last, events });
            }
        }
    }

    fn broken(&self, error: etcd_client::Error) -> Error {
        self.members.failed(self.member);
        self.members.error(Failure::Unclear(error))
    }
}
