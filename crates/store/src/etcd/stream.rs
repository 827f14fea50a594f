//! The watch of the etcd backend: turns responses into batches. It keeps no history.

use super::{deletion, failed, key_value};
use crate::Stamp;
use crate::error::{Error, Result};
use crate::types::{EventKind, WatchBatch, WatchEvent};
use bytes::Bytes;
use etcd_client::{EventType, WatchResponse};
use std::sync::Arc;

pub(super) struct Watch {
    pub stream: etcd_client::WatchStream,
    pub from: u64,
    pub stamp: Stamp,
    pub endpoint: Arc<str>,
}

impl Watch {
    /// The next batch that is not empty.
    pub(super) async fn next(&mut self) -> Result<WatchBatch> {
        loop {
            let message = self.stream.message().await.map_err(|e| failed(&self.endpoint, e))?;
            let Some(response) = message else {
                let error = etcd_client::Error::WatchError("the stream ended".into());
                return Err(failed(&self.endpoint, error));
            };
            if response.canceled() {
                let compacted = response.compact_revision().cast_unsigned();
                if compacted > 0 {
                    return Err(Error::Compacted {
                        requested: self.from,
                        compacted,
                    });
                }
                let error = etcd_client::Error::WatchError(response.cancel_reason().to_owned());
                return Err(failed(&self.endpoint, error));
            }
            let events = self.events(&response);
            if let Some(last) = events.last() {
                // History that was read is not asked for again, should it be compacted meanwhile.
                self.from = last.revision + 1;
                return Ok(WatchBatch {
                    revision: last.revision,
                    events,
                });
            }
        }
    }

    fn events(&self, response: &WatchResponse) -> Vec<WatchEvent> {
        let mut events = Vec::with_capacity(response.events().len());
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let revision = kv.mod_revision().cast_unsigned();
            if revision < self.from {
                continue;
            }
            let prev = event.prev_kv().map(|kv| key_value(&self.stamp, kv.clone()));
            events.push(match event.event_type() {
                EventType::Delete => deletion(Bytes::copy_from_slice(kv.key()), revision, prev),
                EventType::Put => {
                    let now = key_value(&self.stamp, kv.clone());
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
            });
        }
        events
    }
}
