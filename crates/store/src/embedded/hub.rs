//! Hands committed transactions to live watches. It never waits for a watcher: one that leaves
//! too much unread is cut off.

use super::lock;
use crate::error::{Error, Result};
use crate::types::{Committed, WatchBatch, WatchEvent};
use bytes::Bytes;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

pub(super) struct Hub {
    inner: Mutex<Inner>,
    queue_limit: usize,
}

struct Inner {
    published: u64,
    closed: bool,
    lagged: u64,
    watchers: Vec<Watcher>,
}

struct Watcher {
    prefix: Bytes,
    from: u64,
    queue: mpsc::UnboundedSender<Result<WatchBatch>>,
    /// Events in the queue. The queue's own bound could only count batches, whose sizes differ by
    /// a factor of a thousand.
    unread: Arc<AtomicUsize>,
    /// Everything up to this revision is in the queue or was read.
    delivered: u64,
}

/// The reading end of a live watch.
pub(super) struct Live {
    queue: mpsc::UnboundedReceiver<Result<WatchBatch>>,
    unread: Arc<AtomicUsize>,
}

impl Live {
    /// The next batch or the reason of the end; `None` after that, and when the store is closed.
    pub(super) async fn next(&mut self) -> Option<Result<WatchBatch>> {
        let item = self.queue.recv().await?;
        if let Ok(batch) = &item {
            self.unread.fetch_sub(batch.events.len(), Ordering::AcqRel);
        }
        Some(item)
    }
}

impl Hub {
    pub(super) fn new(published: u64, queue_limit: usize) -> Self {
        let inner = Inner {
            published,
            closed: false,
            lagged: 0,
            watchers: Vec::new(),
        };
        Self {
            inner: Mutex::new(inner),
            queue_limit,
        }
    }

    /// The last acknowledged revision.
    pub(super) fn published(&self) -> u64 {
        lock(&self.inner).published
    }

    /// Open watches and watches cut off so far.
    pub(super) fn counts(&self) -> (u64, u64) {
        let mut inner = lock(&self.inner);
        inner.watchers.retain(|watcher| !watcher.queue.is_closed());
        (inner.watchers.len() as u64, inner.lagged)
    }

    /// Registers a watch on everything published from now on; returns also the revision up to
    /// which the caller has to take events from history. `from` 0 means after that revision.
    pub(super) fn subscribe(&self, prefix: Bytes, from: u64) -> Result<(Live, u64)> {
        let mut inner = lock(&self.inner);
        if inner.closed {
            return Err(Error::Closed);
        }
        let (sender, queue) = mpsc::unbounded_channel();
        let unread = Arc::new(AtomicUsize::new(0));
        let published = inner.published;
        inner.watchers.push(Watcher {
            prefix,
            from,
            queue: sender,
            unread: Arc::clone(&unread),
            delivered: published,
        });
        Ok((Live { queue, unread }, published))
    }

    /// Makes a group of transactions known, in commit order.
    pub(super) fn publish(&self, revision: u64, group: &[&Committed]) {
        let mut inner = lock(&self.inner);
        inner.published = revision;
        let mut lagged = 0;
        inner.watchers.retain_mut(|watcher| {
            let events = group.iter().flat_map(|committed| committed.events.iter());
            let events: Vec<WatchEvent> = events.filter(|event| watcher.wants(event)).cloned().collect();
            let outcome = watcher.offer(revision, events, self.queue_limit);
            lagged += u64::from(outcome == Offered::Lagged);
            outcome == Offered::Open
        });
        inner.lagged += lagged;
    }

    /// Ends all watches and refuses new ones.
    pub(super) fn close(&self) {
        let mut inner = lock(&self.inner);
        inner.closed = true;
        inner.watchers.clear();
    }
}

#[derive(PartialEq)]
enum Offered {
    Open,
    Gone,
    Lagged,
}

impl Watcher {
    fn wants(&self, event: &WatchEvent) -> bool {
        event.revision >= self.from && event.key.starts_with(&self.prefix)
    }

    fn offer(&mut self, revision: u64, events: Vec<WatchEvent>, limit: usize) -> Offered {
        if self.queue.is_closed() {
            return Offered::Gone;
        }
        if events.is_empty() {
            return Offered::Open;
        }
        let unread = self.unread.load(Ordering::Acquire);
        // A single great transaction is no lag.
        if unread > 0 && unread + events.len() > limit {
            let _ = self.queue.send(Err(Error::Lagged {
                delivered: self.delivered,
            }));
            return Offered::Lagged;
        }
        self.unread.fetch_add(events.len(), Ordering::AcqRel);
        self.delivered = revision;
        match self.queue.send(Ok(WatchBatch { revision, events })) {
            Ok(()) => Offered::Open,
            Err(_) => Offered::Gone,
        }
    }
}
