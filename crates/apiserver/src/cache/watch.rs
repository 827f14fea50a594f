//! A watch as its consumer sees it: initial state, then replayed history, then
//! live events. Must not know about time: bookmarks and deadlines are the caller's.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Poll};

use kinds::Kind;
use meta::Object;
use tokio::sync::mpsc;

use super::item::{Item, Selection};
use super::kind::{Event, Snapshot, Subscription, Verb, select};

/// Initial objects taken from the snapshot at once.
const STEP: usize = 256;

/// What a watch yields.
#[derive(Debug)]
pub enum Delivery {
    /// A change.
    Object(Verb, Arc<Object>),
    /// The initial state is complete; it was that of this revision.
    InitialEnd(u64),
}

/// A watch in progress.
pub struct Watch {
    kind: Arc<Kind>,
    selection: Selection,
    initial: Option<(Snapshot, Arc<str>)>,
    /// Initial objects taken, not yet delivered.
    taken: VecDeque<Arc<Item>>,
    revision: u64,
    replay: VecDeque<(Arc<Event>, Verb)>,
    live: mpsc::Receiver<(Arc<Event>, Verb)>,
}

impl Watch {
    /// Wraps a subscription.
    pub fn new(kind: Arc<Kind>, selection: Selection, from: Subscription) -> Self {
        Watch {
            kind,
            selection,
            initial: from.initial.map(|s| (s, Arc::from(""))),
            taken: VecDeque::new(),
            revision: from.revision,
            replay: from.replay,
            live: from.live,
        }
    }

    /// The next delivery; `None` when the watch was ended or cut off.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        if let Some(item) = self.taken.pop_front() {
            return Poll::Ready(Some(Delivery::Object(Verb::Added, item.object.clone())));
        }
        if let Some((snapshot, after)) = &mut self.initial {
            let (items, more) = select(snapshot, &self.kind, &self.selection, after, STEP);
            if let Some((key, _)) = items.last() {
                *after = key.clone();
            }
            self.taken.extend(items.into_iter().map(|(_, item)| item));
            if !more {
                self.initial = None;
                // Delivered after what was taken.
                if self.taken.is_empty() {
                    return Poll::Ready(Some(Delivery::InitialEnd(self.revision)));
                }
                self.initial = Some((Snapshot::new(), Arc::from("")));
            }
            return self.poll_next(cx);
        }
        if let Some((event, verb)) = self.replay.pop_front() {
            return Poll::Ready(Some(Delivery::Object(verb, event.object(verb).clone())));
        }
        self.live
            .poll_recv(cx)
            .map(|e| e.map(|(event, verb)| Delivery::Object(verb, event.object(verb).clone())))
    }

    /// Whether everything that was sent to this watch so far has been delivered.
    pub fn is_drained(&self) -> bool {
        self.taken.is_empty() && self.initial.is_none() && self.replay.is_empty() && self.live.is_empty()
    }
}
