//! Pods that wait for a place: the ones to be tried now, the ones that pause,
//! and the ones that nothing but a change in the cluster can help.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use meta::Object;
use tokio::time::Instant;

/// First pause after a pod found no place.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// A pod that found no place is tried again after so long even if nothing changed.
const AT_LEAST: Duration = Duration::from_secs(300);

/// Higher priority first, then the older.
type Order = (Reverse<i32>, Option<String>, String);

#[derive(Default)]
pub(super) struct Waiting {
    pods: HashMap<String, Entry>,
    ready: BTreeMap<Order, String>,
}

struct Entry {
    pod: Arc<Object>,
    order: Order,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Ready,
    /// Not before this time.
    Pausing(Instant),
    /// Nothing has changed since it found no place at that time.
    Stuck(Instant),
    Binding,
}

impl Waiting {
    /// Takes in a pod; `anew` when what it asks for has changed.
    pub fn put(&mut self, object: &Arc<Object>, pod: &Pod, anew: bool) {
        let priority = pod.spec.as_ref().and_then(|s| s.priority).unwrap_or(0);
        let order = (
            Reverse(priority),
            object.header().creation_timestamp.clone(),
            object.key(),
        );
        match self.pods.get_mut(object.uid()) {
            Some(entry) => {
                entry.pod = object.clone();
                if anew && matches!(entry.state, State::Stuck(_) | State::Pausing(_)) {
                    entry.state = State::Ready;
                    self.ready.insert(entry.order.clone(), object.uid().to_owned());
                }
            }
            None => {
                self.ready.insert(order.clone(), object.uid().to_owned());
                let entry = Entry {
                    pod: object.clone(),
                    order,
                    attempts: 0,
                    state: State::Ready,
                };
                self.pods.insert(object.uid().to_owned(), entry);
            }
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.pods.remove(uid) {
            self.ready.remove(&entry.order);
        }
    }

    /// The next pod to try.
    pub fn next(&mut self) -> Option<Arc<Object>> {
        let (_, uid) = self.ready.pop_first()?;
        self.pods.get(&uid).map(|e| e.pod.clone())
    }

    /// A pod is being bound.
    pub fn binding(&mut self, uid: &str) {
        if let Some(entry) = self.pods.get_mut(uid) {
            entry.state = State::Binding;
        }
    }

    /// A pod found no place, or could not be bound to it.
    pub fn failed(&mut self, pod: &Object) {
        if let Some(entry) = self.pods.get_mut(pod.uid()) {
            entry.attempts += 1;
            entry.state = State::Stuck(Instant::now());
        }
    }

    /// Something changed that may help: every pod is tried again when its pause is over.
    pub fn retry_all(&mut self) {
        for entry in self.pods.values_mut() {
            if let State::Stuck(since) = entry.state {
                let pause = FIRST_PAUSE
                    .saturating_mul(1 << (entry.attempts.max(1) - 1).min(8))
                    .min(LONGEST_PAUSE);
                entry.state = State::Pausing(since + pause);
            }
        }
    }

    /// When the next pod is to be tried.
    pub fn due(&self) -> Option<Instant> {
        let due = |e: &Entry| match e.state {
            State::Pausing(at) => Some(at),
            State::Stuck(since) => Some(since + AT_LEAST),
            State::Ready | State::Binding => None,
        };
        self.pods.values().filter_map(due).min()
    }

    /// Pods whose pause is over are to be tried.
    pub fn promote(&mut self) {
        let now = Instant::now();
        for (uid, entry) in &mut self.pods {
            let ready = match entry.state {
                State::Pausing(at) => at <= now,
                State::Stuck(since) => since + AT_LEAST <= now,
                State::Ready | State::Binding => false,
            };
            if ready {
                entry.state = State::Ready;
                self.ready.insert(entry.order.clone(), uid.clone());
            }
        }
    }
}
