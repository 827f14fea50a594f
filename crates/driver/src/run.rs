//! One control loop: informers feed the queue, workers plan and act.
//!
//! Must not know any controller.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use client::Client;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use informer::{Change, Informer, Informers, Subscription};
use jiff::Timestamp;
use meta::{Gvr, Object};
use reconcile::{Action, Controller, EventKind, Input, Key, View};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use crate::Recorder;
use crate::act::{Written, act};
use crate::queue::Queue;

/// Keys of one controller that are worked on at the same time.
const WORKERS: usize = 8;
/// How long a plan waits for the cache to show what the one before it wrote.
const CATCH_UP: Duration = Duration::from_secs(10);

/// What all control loops share.
#[derive(Clone)]
pub struct Driver {
    /// Caches.
    pub informers: Arc<Informers>,
    /// Writes.
    pub client: Arc<dyn Client>,
    /// Events.
    pub recorder: Recorder,
}

/// The caches of a controller's inputs.
struct Caches(HashMap<Gvr, Arc<Informer>>);

impl Caches {
    fn of(&self, gvr: &Gvr) -> Option<&Arc<Informer>> {
        let found = self.0.get(gvr);
        if found.is_none() {
            warn!(%gvr, "looked at without being declared as an input");
        }
        found
    }
}

impl View for Caches {
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.of(gvr)?.get(namespace, name)
    }

    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Arc<Object>> {
        self.of(gvr).map(|i| i.list(namespace)).unwrap_or_default()
    }

    fn owned(&self, gvr: &Gvr, owner_uid: &str) -> Vec<Arc<Object>> {
        self.of(gvr).map(|i| i.owned(owner_uid)).unwrap_or_default()
    }
}

/// Runs a controller until `stop`. What it has begun to write when asked to stop is written.
pub async fn run(driver: Driver, controller: Arc<dyn Controller>, stop: CancellationToken) {
    let inputs = controller.inputs();
    let caches: HashMap<Gvr, Arc<Informer>> = inputs
        .iter()
        .map(|i| (i.gvr.clone(), driver.informers.of(&i.gvr)))
        .collect();
    let changes: Vec<(Input, Subscription)> = inputs.iter().map(|i| (i.clone(), caches[&i.gvr].subscribe())).collect();
    for cache in caches.values() {
        tokio::select! {
            () = cache.synced() => {}
            () = stop.cancelled() => return,
        }
    }
    let work = Arc::new(Loop {
        driver,
        controller,
        caches: Caches(caches),
        queue: Queue::default(),
    });
    for input in &inputs {
        work.look_at_all(input);
    }
    let mut tasks: FuturesUnordered<_> = FuturesUnordered::new();
    for (input, changes) in changes {
        let (work, stop) = (work.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { work.follow(&input, changes, &stop).await }));
    }
    for _ in 0..WORKERS {
        let (work, stop) = (work.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { work.worker(&stop).await }));
    }
    while tasks.next().await.is_some() {}
}

struct Loop {
    driver: Driver,
    controller: Arc<dyn Controller>,
    caches: Caches,
    queue: Queue<Key>,
}

impl Loop {
    fn look_at_all(&self, input: &Input) {
        for object in self.caches.list(&input.gvr, "") {
            self.concern(input, &object);
        }
    }

    fn concern(&self, input: &Input, object: &Object) {
        for key in (input.keys)(object, &self.caches) {
            self.queue.add(key);
        }
    }

    async fn follow(&self, input: &Input, mut changes: Subscription, stop: &CancellationToken) {
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = stop.cancelled() => return,
            };
            match change {
                None => return,
                Some(Change { old: None, new: None }) => self.look_at_all(input),
                Some(Change { old, new }) => {
                    for object in [old, new].into_iter().flatten() {
                        self.concern(input, &object);
                    }
                }
            }
        }
    }

    async fn worker(&self, stop: &CancellationToken) {
        loop {
            let key = tokio::select! {
                key = self.queue.next() => key,
                () = stop.cancelled() => return,
            };
            self.work(&key).await;
            self.queue.done(&key);
        }
    }

    async fn work(&self, key: &Key) {
        let who = self.controller.name();
        let plan = self.controller.plan(Timestamp::now(), key, &self.caches);
        if let Some(pause) = plan.again {
            self.queue.add_after(key.clone(), pause);
        }
        let mut written = Written::default();
        let mut failure = None;
        for action in &plan.actions {
            if let Err(e) = act(
                self.driver.client.as_ref(),
                &self.driver.recorder,
                who,
                action,
                &mut written,
            )
            .await
            {
                failure = Some((action, e));
                break;
            }
        }
        self.catch_up(&written).await;
        match failure {
            None => self.queue.succeeded(key),
            Some((action, e)) => {
                let pause = self.queue.failed(key);
                self.queue.add_after(key.clone(), pause);
                if e.is_conflict() || e.is_not_found() || e.is_already_exists() {
                    debug!(who, namespace = key.namespace, name = key.name, error = %e.message, "plan again");
                } else {
                    info!(who, namespace = key.namespace, name = key.name, error = %e.message, ?pause, "plan failed");
                    self.tell(key, action, &e);
                }
            }
        }
    }

    /// A refused creation is told on the object it was for: users look there.
    fn tell(&self, key: &Key, action: &Action, e: &meta::Status) {
        let Action::Create { gvr, .. } = action else { return };
        let inputs = self.controller.inputs();
        let Some(primary) = inputs.first() else { return };
        if let Some(object) = self.caches.get(&primary.gvr, &key.namespace, &key.name) {
            let message = match gvr.resource.as_ref() {
                "pods" => format!("Error creating: {}", e.message),
                other => format!("Error creating {other}: {}", e.message),
            };
            let who = self.controller.name();
            self.driver
                .recorder
                .say(who, &object, EventKind::Warning, "FailedCreate", &message);
        }
    }

    /// Waits until the caches show what was written, so that the next plan does not do it again.
    async fn catch_up(&self, written: &Written) {
        let seen = async {
            for (gvr, revision) in &written.revisions {
                if let Some(cache) = self.caches.0.get(gvr) {
                    cache.reached(*revision).await;
                }
            }
            for (gvr, namespace, name, uid) in &written.deleted {
                if let Some(cache) = self.caches.0.get(gvr) {
                    gone_or_going(cache, namespace, name, uid).await;
                }
            }
        };
        if tokio::time::timeout(CATCH_UP, seen).await.is_err() {
            warn!(
                who = self.controller.name(),
                "caches are behind by more than {CATCH_UP:?}"
            );
        }
    }
}

async fn gone_or_going(cache: &Informer, namespace: &str, name: &str, uid: &str) {
    let mut changes = cache.subscribe();
    let there = || {
        let now = cache.get(namespace, name);
        now.is_some_and(|o| o.uid() == uid && !o.is_deleting())
    };
    while there() {
        if changes.next().await.is_none() {
            return;
        }
    }
}
