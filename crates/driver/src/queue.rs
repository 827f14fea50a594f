//! The queue of one control loop: a key waits in it once, is worked on by one
//! worker at a time, and comes back when it changed meanwhile.
//!
//! Must not know what a key means.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// First pause after a failure.
const FIRST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(1000);

/// Keys to work on.
pub(crate) struct Queue<K> {
    state: Mutex<State<K>>,
    changed: Notify,
}

struct State<K> {
    ready: VecDeque<K>,
    /// Keys in `ready`, and keys being worked on that must be worked on again.
    dirty: HashSet<K>,
    working: HashSet<K>,
    /// Keys that come up later; a key is there once, at its earliest time.
    later: BTreeMap<(Instant, u64), K>,
    due: HashMap<K, (Instant, u64)>,
    failures: HashMap<K, u32>,
    serial: u64,
}

impl<K> Default for Queue<K> {
    fn default() -> Self {
        Queue {
            state: Mutex::new(State {
                ready: VecDeque::new(),
                dirty: HashSet::new(),
                working: HashSet::new(),
                later: BTreeMap::new(),
                due: HashMap::new(),
                failures: HashMap::new(),
                serial: 0,
            }),
            changed: Notify::new(),
        }
    }
}

impl<K: Clone + Eq + Hash> Queue<K> {
    /// Asks for a key to be planned soon.
    pub fn add(&self, key: K) {
        let mut state = self.lock();
        if !state.dirty.insert(key.clone()) || state.working.contains(&key) {
            return;
        }
        state.ready.push_back(key);
        drop(state);
        self.changed.notify_one();
    }

    /// Asks for a key to be planned after a pause, or sooner if that was asked before.
    pub fn add_after(&self, key: K, pause: Duration) {
        let mut state = self.lock();
        let at = Instant::now() + pause;
        match state.due.get(&key).copied() {
            Some(due) if due.0 <= at => return,
            Some(due) => _ = state.later.remove(&due),
            None => {}
        }
        state.serial += 1;
        let due = (at, state.serial);
        state.due.insert(key.clone(), due);
        state.later.insert(due, key);
        drop(state);
        self.changed.notify_one();
    }

    /// Notes a failure of a key; how long to wait before the next try.
    pub fn failed(&self, key: &K) -> Duration {
        let mut state = self.lock();
        let failures = state.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(20));
        *failures += 1;
        pause.min(LONGEST_PAUSE)
    }

    /// Notes that a key succeeded.
    pub fn succeeded(&self, key: &K) {
        self.lock().failures.remove(key);
    }

    /// The next key; it is being worked on until [`Queue::done`].
    pub async fn next(&self) -> K {
        loop {
            let changed = self.changed.notified();
            let wake = {
                let mut state = self.lock();
                state.promote();
                if let Some(key) = state.ready.pop_front() {
                    state.dirty.remove(&key);
                    state.working.insert(key.clone());
                    if !state.ready.is_empty() {
                        self.changed.notify_one();
                    }
                    return key;
                }
                state.later.keys().next().map(|(at, _)| *at)
            };
            match wake {
                Some(at) => tokio::select! {
                    () = changed => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => changed.await,
            }
        }
    }

    /// A worker is through with a key.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.working.remove(key);
        if state.dirty.contains(key) {
            state.ready.push_back(key.clone());
            drop(state);
            self.changed.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<K>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Clone + Eq + Hash> State<K> {
    fn promote(&mut self) {
        let now = Instant::now();
        while let Some(entry) = self.later.first_entry() {
            if entry.key().0 > now {
                return;
            }
            let key = entry.remove();
            self.due.remove(&key);
            if self.dirty.insert(key.clone()) && !self.working.contains(&key) {
                self.ready.push_back(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use reconcile::Key;

    fn key(name: &str) -> Key {
        Key::new("ns", name)
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_waits_once_and_comes_back_when_it_changed_meanwhile() {
        let queue = Queue::default();
        queue.add(key("a"));
        queue.add(key("a"));
        queue.add(key("b"));
        assert_eq!(queue.next().await, key("a"));
        queue.add(key("a"));
        assert_eq!(queue.next().await, key("b"));
        queue.done(&key("b"));
        queue.done(&key("a"));
        assert_eq!(queue.next().await, key("a"));
        queue.done(&key("a"));
        let nothing = tokio::time::timeout(Duration::from_secs(9), queue.next()).await;
        assert!(nothing.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn later_means_the_earliest_time_asked_for() {
        let queue = Queue::default();
        queue.add_after(key("a"), Duration::from_secs(60));
        queue.add_after(key("a"), Duration::from_secs(5));
        queue.add_after(key("a"), Duration::from_secs(30));
        let begun = Instant::now();
        assert_eq!(queue.next().await, key("a"));
        assert_eq!(begun.elapsed().as_secs(), 5);
        queue.done(&key("a"));
        assert!(
            tokio::time::timeout(Duration::from_secs(99), queue.next())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn failures_pause_longer_and_longer_until_one_success() {
        let queue = Queue::default();
        let pauses: Vec<_> = (0..30).map(|_| queue.failed(&key("a"))).collect();
        assert_eq!(pauses[0], FIRST_PAUSE);
        assert_eq!(pauses[3], FIRST_PAUSE * 8);
        assert_eq!(pauses[29], LONGEST_PAUSE);
        queue.succeeded(&key("a"));
        assert_eq!(queue.failed(&key("a")), FIRST_PAUSE);
    }
}
