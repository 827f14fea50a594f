//! A watch: history from the log first, then the live queue, with no gap and nothing twice. The
//! queue is registered before history is read, so that what is published meanwhile waits in it.

use super::hub::Live;
use super::{Shared, reader};
use crate::WatchStream;
use crate::error::{Error, Result};
use crate::types::WatchBatch;
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;

/// Records read from history at a time.
const CHUNK: usize = 512;

struct Watch {
    shared: Arc<Shared>,
    prefix: Bytes,
    /// The next revision to take from history.
    next: u64,
    /// The last revision to take from history.
    until: u64,
    live: Live,
}

pub(super) async fn watch(shared: Arc<Shared>, prefix: Bytes, from_revision: u64) -> Result<WatchStream> {
    let (live, published) = shared.hub.subscribe(prefix.clone(), from_revision)?;
    let next = if from_revision == 0 {
        published + 1
    } else {
        from_revision
    };
    let compacted = reader::run(Arc::clone(&shared), |r| r.snapshot(|view| Ok(view.compacted))).await?;
    if from_revision > 0 && next <= compacted {
        return Err(Error::Compacted {
            requested: next,
            compacted,
        });
    }
    let watch = Watch {
        shared,
        prefix,
        next,
        until: published,
        live,
    };
    let stream = futures::stream::unfold(Some(watch), |watch| async move {
        let mut watch = watch?;
        let item = watch.next().await?;
        let more = item.is_ok();
        Some((item, more.then_some(watch)))
    });
    Ok(stream.boxed())
}

impl Watch {
    async fn next(&mut self) -> Option<Result<WatchBatch>> {
        while self.next <= self.until {
            let (prefix, from, until) = (self.prefix.clone(), self.next, self.until);
            let read = reader::run(Arc::clone(&self.shared), move |reader| {
                reader.history(&prefix, from, until, CHUNK)
            });
            match read.await {
                Ok((events, next)) => {
                    self.next = next;
                    if !events.is_empty() {
                        return Some(Ok(WatchBatch {
                            revision: next - 1,
                            events,
                        }));
                    }
                }
                Err(Error::Closed) => return None,
                Err(error) => return Some(Err(error)),
            }
        }
        self.live.next().await
    }
}
