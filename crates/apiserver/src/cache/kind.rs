//! The cache of one kind: a persistent ordered map, the recent events, and
//! the watchers. Fed in commit order by one feeder; read by everybody.
//!
//! Must not wait for a reader: a watcher that leaves too much unread is cut off.

use std::collections::{HashMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use immutable_chunkmap::map::MapM;
use kinds::Kind;
use meta::{Object, Status};
use tokio::sync::mpsc;

use super::codec;
use super::item::{Item, Selection};

/// An O(1) copy of all objects of a kind at one revision, in key order.
pub type Snapshot = MapM<Arc<str>, Arc<Item>>;

/// An object and its key.
pub type Keyed = (Arc<str>, Arc<Item>);

/// Events kept for watches that resume.
const RING: usize = 2048;
/// Events that a watcher may leave unread.
const QUEUE: usize = 1024;
/// Snapshots kept for the following pages of lists, and for how long.
const PAGES: usize = 16;
const PAGES_AGE: Duration = Duration::from_secs(300);

/// What happened to an object, from a watcher's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Came into the selection.
    Added,
    /// Changed.
    Modified,
    /// Left the selection.
    Deleted,
}

/// One committed change.
#[derive(Debug)]
pub struct Event {
    /// Revision of the commit.
    pub revision: u64,
    /// State after; for a deletion the last state, at the deletion's revision.
    pub item: Arc<Item>,
    /// State before.
    pub prev: Option<Arc<Item>>,
    /// Whether the object is gone.
    pub deleted: bool,
    /// The state before, carrying this event's revision: what those see whose selection it left.
    left: OnceLock<Arc<Object>>,
}

impl Event {
    /// What a watcher with this selection sees, if anything.
    pub fn seen_by(&self, kind: &Kind, selection: &Selection) -> Option<Verb> {
        let before = self.prev.as_ref().is_some_and(|p| selection.matches(kind, p));
        if self.deleted {
            return before.then_some(Verb::Deleted);
        }
        match (before, selection.matches(kind, &self.item)) {
            (false, true) => Some(Verb::Added),
            (true, true) => Some(Verb::Modified),
            (true, false) => Some(Verb::Deleted),
            (false, false) => None,
        }
    }

    /// The object to show with a verb.
    pub fn object(&self, verb: Verb) -> &Arc<Object> {
        match (&self.prev, verb) {
            (Some(prev), Verb::Deleted) if !self.deleted => self.left.get_or_init(|| {
                codec::at_revision(&prev.object, self.revision).map_or_else(|| prev.object.clone(), Arc::new)
            }),
            _ => &self.item.object,
        }
    }
}

/// The cache of one kind.
pub struct KindCache {
    kind: Arc<Kind>,
    state: Mutex<State>,
}

struct State {
    map: Snapshot,
    /// Revision of the last event on this kind.
    revision: u64,
    /// Every event after this revision is in `ring`.
    ring_after: u64,
    ring: VecDeque<Arc<Event>>,
    watchers: Vec<Watcher>,
    pages: VecDeque<(u64, Instant, Snapshot)>,
    cut_off: u64,
    /// Objects in each namespace.
    counts: HashMap<Box<str>, usize>,
}

struct Watcher {
    selection: Selection,
    queue: mpsc::Sender<(Arc<Event>, Verb)>,
}

/// A registered watch: the state it begins with, then events.
pub struct Subscription {
    /// State to begin with, when asked for.
    pub initial: Option<Snapshot>,
    /// Revision of `initial`, or the one resumed from.
    pub revision: u64,
    /// Events from history, to be sent first.
    pub replay: VecDeque<(Arc<Event>, Verb)>,
    /// Live events; ends when this watcher was cut off.
    pub live: mpsc::Receiver<(Arc<Event>, Verb)>,
}

/// Where a watch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// With the present state as `Added` events.
    State,
    /// With whatever comes next.
    Now,
    /// After a revision.
    After(u64),
}

impl KindCache {
    /// An empty cache.
    pub fn new(kind: Arc<Kind>) -> Self {
        KindCache {
            kind,
            state: Mutex::new(State {
                map: Snapshot::new(),
                revision: 0,
                ring_after: 0,
                ring: VecDeque::new(),
                watchers: Vec::new(),
                pages: VecDeque::new(),
                cut_off: 0,
                counts: HashMap::new(),
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the state read at start.
    pub fn load(&self, items: Vec<Keyed>, revision: u64) {
        let mut counts: HashMap<Box<str>, usize> = HashMap::new();
        for (_, item) in &items {
            *counts.entry(item.object.namespace().into()).or_default() += 1;
        }
        let map = Snapshot::new().insert_many(items);
        let mut state = self.lock();
        state.counts = counts;
        state.map = map;
        state.revision = revision;
        state.ring_after = revision;
    }

    /// Takes a committed change: the object put, or `None` for a deletion.
    pub fn apply(&self, key: &str, object: Option<Object>, revision: u64) {
        let mut state = self.lock();
        if revision < state.revision {
            return;
        }
        let (item, prev, deleted) = match object {
            Some(object) => {
                let item = Item::new(object);
                let prev = state.map.insert_cow(key.into(), item.clone());
                (item, prev, false)
            }
            None => {
                let key: Arc<str> = key.into();
                let Some(prev) = state.map.remove_cow(&key) else {
                    return;
                };
                let last = codec::at_revision(&prev.object, revision);
                (last.map_or_else(|| prev.clone(), Item::new), Some(prev), true)
            }
        };
        state.recount(item.object.namespace(), prev.is_none(), deleted);
        let event = Arc::new(Event {
            revision,
            item,
            prev,
            deleted,
            left: OnceLock::new(),
        });
        state.revision = revision;
        if state.ring.len() == RING
            && let Some(oldest) = state.ring.pop_front()
        {
            state.ring_after = oldest.revision;
        }
        state.ring.push_back(event.clone());
        state.tell(&self.kind, &event);
    }

    /// One object.
    pub fn get(&self, key: &str) -> Option<Arc<Item>> {
        self.lock().map.get(key).cloned()
    }

    /// The object as it was committed at `revision`, if that is recent.
    pub fn committed(&self, revision: u64, key: &str) -> Option<Arc<Object>> {
        let state = self.lock();
        if let Some(item) = state.map.get(key)
            && item.object.resource_version() == revision
        {
            return Some(item.object.clone());
        }
        let at = state.ring.partition_point(|e| e.revision < revision);
        let same = state.ring.iter().skip(at).take_while(|e| e.revision == revision);
        same.map(|e| &e.item.object).find(|o| o.key() == key).cloned()
    }

    /// All objects, and the revision of the last change among them.
    pub fn snapshot(&self) -> (Snapshot, u64) {
        let state = self.lock();
        (state.map.clone(), state.revision)
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.lock().map.len()
    }

    /// Number of objects in a namespace; in all when it is empty.
    pub fn count(&self, namespace: &str) -> usize {
        let state = self.lock();
        if namespace.is_empty() {
            return state.map.len();
        }
        state.counts.get(namespace).copied().unwrap_or(0)
    }

    /// Revision of the last change.
    pub fn revision(&self) -> u64 {
        self.lock().revision
    }

    /// Open watches, and watches cut off so far.
    pub fn watchers(&self) -> (usize, u64) {
        let mut state = self.lock();
        state.watchers.retain(|w| !w.queue.is_closed());
        (state.watchers.len(), state.cut_off)
    }

    /// Keeps a snapshot for the following pages of a list.
    pub fn keep_page(&self, revision: u64, snapshot: Snapshot) {
        let mut state = self.lock();
        let now = Instant::now();
        state
            .pages
            .retain(|(r, since, _)| *r != revision && now.duration_since(*since) < PAGES_AGE);
        if state.pages.len() == PAGES {
            state.pages.pop_front();
        }
        state.pages.push_back((revision, now, snapshot));
    }

    /// A snapshot kept for paging.
    pub fn page(&self, revision: u64) -> Option<Snapshot> {
        let state = self.lock();
        let kept = state.pages.iter().find(|(r, _, _)| *r == revision);
        kept.map(|(_, _, s)| s.clone())
    }

    /// Drops snapshots that nobody came back for.
    pub fn forget_pages(&self) {
        let now = Instant::now();
        self.lock()
            .pages
            .retain(|(_, since, _)| now.duration_since(*since) < PAGES_AGE);
    }

    /// Registers a watch; from this call on it misses nothing. `applied` is the revision that
    /// all caches had reached before the call.
    pub fn subscribe(&self, selection: &Selection, from: Begin, applied: u64) -> Result<Subscription, Status> {
        let mut state = self.lock();
        let mut out = Subscription {
            initial: None,
            revision: applied.max(state.revision),
            replay: VecDeque::new(),
            live: mpsc::channel(1).1,
        };
        match from {
            Begin::State => out.initial = Some(state.map.clone()),
            Begin::Now => {}
            Begin::After(revision) => {
                if revision < state.ring_after {
                    let message = format!("too old resource version: {revision} ({})", state.ring_after);
                    return Err(Status::expired(message));
                }
                out.revision = revision;
                let at = state.ring.partition_point(|e| e.revision <= revision);
                let seen = state.ring.iter().skip(at);
                out.replay = seen
                    .filter_map(|e| Some((e.clone(), e.seen_by(&self.kind, selection)?)))
                    .collect();
            }
        }
        let (queue, live) = mpsc::channel(QUEUE);
        state.watchers.push(Watcher {
            selection: selection.clone(),
            queue,
        });
        out.live = live;
        Ok(out)
    }

    /// Ends all watches.
    pub fn end_watches(&self) {
        self.lock().watchers.clear();
    }
}

impl State {
    fn recount(&mut self, namespace: &str, created: bool, deleted: bool) {
        if created {
            *self.counts.entry(namespace.into()).or_default() += 1;
        } else if deleted && let Some(count) = self.counts.get_mut(namespace) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(namespace);
            }
        }
    }

    fn tell(&mut self, kind: &Kind, event: &Arc<Event>) {
        let mut cut_off = 0;
        self.watchers.retain(|w| {
            let Some(verb) = event.seen_by(kind, &w.selection) else {
                return !w.queue.is_closed();
            };
            match w.queue.try_send((event.clone(), verb)) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    cut_off += 1;
                    false
                }
                Err(mpsc::error::TrySendError::Closed(_)) => false,
            }
        });
        self.cut_off += cut_off;
    }
}

/// Up to `limit` selected objects of a snapshot whose keys follow `after` (exclusive; empty for
/// the beginning); `true` when more follow.
pub fn select(
    snapshot: &Snapshot,
    kind: &Kind,
    selection: &Selection,
    after: &str,
    limit: usize,
) -> (Vec<Keyed>, bool) {
    let (start, end) = selection.range();
    let low = if after > start.as_str() || (start.is_empty() && !after.is_empty()) {
        Bound::Excluded(after)
    } else {
        Bound::Included(start.as_str())
    };
    let high = if end.is_empty() {
        Bound::Unbounded
    } else {
        Bound::Excluded(end.as_str())
    };
    let mut out = Vec::new();
    // A continue token is input: it may point beyond the range.
    if !end.is_empty() && after >= end.as_str() {
        return (out, false);
    }
    for (key, item) in snapshot.range::<str, _>((low, high)) {
        if !selection.matches_in_range(kind, item) {
            continue;
        }
        if out.len() == limit {
            return (out, true);
        }
        out.push((key.clone(), item.clone()));
    }
    (out, false)
}
