//! Runs the garbage collector: every object whose owners may be gone is judged
//! (`controllers::garbage`), and no owner is taken for gone before the API says so.
//!
//! Must not judge.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use controllers::garbage::{self, Served, Verdict};
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use informer::{Change, Informer, Subscription};
use meta::{Gvr, Object};
use reconcile::{Key, View};
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::act::{Written, act};
use crate::queue::Queue;
use crate::run::Driver;

const WORKERS: usize = 8;
const WHO: &str = "generic-garbage-collector";
/// How long to wait for a cache that does not show an owner yet.
const UNSEEN: Duration = Duration::from_millis(500);

type Item = (Gvr, Key);

struct Collector {
    driver: Driver,
    caches: HashMap<Gvr, Arc<Informer>>,
    all: Vec<Served>,
    queue: Queue<Item>,
}

impl View for Collector {
    fn get(&self, gvr: &Gvr, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.caches.get(gvr)?.get(namespace, name)
    }

    fn list(&self, gvr: &Gvr, namespace: &str) -> Vec<Arc<Object>> {
        self.caches.get(gvr).map(|i| i.list(namespace)).unwrap_or_default()
    }

    fn owned(&self, gvr: &Gvr, owner_uid: &str) -> Vec<Arc<Object>> {
        self.caches.get(gvr).map(|i| i.owned(owner_uid)).unwrap_or_default()
    }
}

/// Collects garbage among these resources until `stop`.
pub async fn collect(driver: Driver, all: Vec<Served>, stop: CancellationToken) {
    let caches: HashMap<Gvr, Arc<Informer>> = all
        .iter()
        .map(|s| (s.gvr.clone(), driver.informers.of(&s.gvr)))
        .collect();
    let subscriptions: Vec<(Gvr, Subscription)> = caches.iter().map(|(g, i)| (g.clone(), i.subscribe())).collect();
    for cache in caches.values() {
        tokio::select! {
            () = cache.synced() => {}
            () = stop.cancelled() => return,
        }
    }
    let collector = Arc::new(Collector {
        driver,
        caches,
        all,
        queue: Queue::default(),
    });
    let mut tasks = FuturesUnordered::new();
    for (gvr, changes) in subscriptions {
        collector.look_at_all(&gvr);
        let (collector, stop) = (collector.clone(), stop.clone());
        tasks.push(tokio::spawn(
            async move { collector.follow(&gvr, changes, &stop).await },
        ));
    }
    for _ in 0..WORKERS {
        let (collector, stop) = (collector.clone(), stop.clone());
        tasks.push(tokio::spawn(async move { collector.work(&stop).await }));
    }
    while tasks.next().await.is_some() {}
}

impl Collector {
    fn look_at_all(&self, gvr: &Gvr) {
        for object in self.list(gvr, "") {
            if garbage::concerns(&object) {
                self.queue.add((gvr.clone(), Key::of(&object)));
            }
        }
    }

    async fn follow(&self, gvr: &Gvr, mut changes: Subscription, stop: &CancellationToken) {
        loop {
            let change = tokio::select! {
                change = changes.next() => change,
                () = stop.cancelled() => return,
            };
            match change {
                None => return,
                Some(Change { old: None, new: None }) => self.look_at_all(gvr),
                Some(Change { new: Some(o), .. }) => {
                    if garbage::concerns(&o) {
                        self.queue.add((gvr.clone(), Key::of(&o)));
                    }
                }
                Some(Change {
                    old: Some(o),
                    new: None,
                }) => self.gone(&o),
            }
        }
    }

    /// An object is gone: its dependents may be garbage, and an owner may have waited for it.
    fn gone(&self, object: &Object) {
        for gvr in self.all.iter().map(|s| &s.gvr) {
            for dependent in self.owned(gvr, object.uid()) {
                self.queue.add((gvr.clone(), Key::of(&dependent)));
            }
        }
        for owner in garbage::owners(object, &self.all) {
            if self
                .get(&owner.0, &owner.1.namespace, &owner.1.name)
                .is_some_and(|o| o.is_deleting())
            {
                self.queue.add(owner);
            }
        }
    }

    async fn work(&self, stop: &CancellationToken) {
        loop {
            let item = tokio::select! {
                item = self.queue.next() => item,
                () = stop.cancelled() => return,
            };
            self.judge(&item).await;
            self.queue.done(&item);
        }
    }

    async fn judge(&self, item: &Item) {
        let (gvr, key) = item;
        let Some(object) = self.get(gvr, &key.namespace, &key.name) else {
            return self.queue.succeeded(item);
        };
        let verdict = garbage::judge(gvr, &object, self, &self.all);
        if verdict.plan.is_empty() {
            return self.queue.succeeded(item);
        }
        if self.some_owner_lives(&verdict).await {
            return self.queue.add_after(item.clone(), UNSEEN);
        }
        let mut written = Written::default();
        for action in &verdict.plan.actions {
            let client = self.driver.client.as_ref();
            if let Err(e) = act(client, &self.driver.recorder, WHO, action, &mut written).await {
                let pause = self.queue.failed(item);
                self.queue.add_after(item.clone(), pause);
                debug!(who = WHO, namespace = key.namespace, name = key.name, error = %e.message, "judge again");
                return;
            }
        }
        debug!(who = WHO, resource = %gvr.group_resource(), namespace = key.namespace, name = key.name, "collected");
        self.queue.succeeded(item);
    }

    /// Asks the API for the owners that the caches do not show. In doubt, they live.
    async fn some_owner_lives(&self, verdict: &Verdict) -> bool {
        for (gvr, namespace, name, uid) in &verdict.owners {
            match self.driver.client.get(gvr, namespace, name).await {
                Ok(owner) if owner.uid() == uid => return true,
                Ok(_) => {}
                Err(e) if e.is_not_found() => {}
                Err(_) => return true,
            }
        }
        false
    }
}
