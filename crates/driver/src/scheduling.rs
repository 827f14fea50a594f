//! Runs the scheduler: keeps its picture of the cluster up to date, asks it
//! where each waiting pod goes, and binds.
//!
//! Must not choose: that is `scheduler::schedule`. One task decides, so no two
//! pods are ever given the same room; binding happens beside it.

mod binding;
mod waiting;

use std::sync::Arc;
use std::time::Duration;

use informer::{Change, Informer};
use k8s_openapi::api::core::v1::{Node, Pod};
use kinds::resources::{CLAIMS, DISRUPTION_BUDGETS, NAMESPACES, NODES, PODS, STORAGE_CLASSES, VOLUMES};
use meta::{Gvr, Object};
use reconcile::EventKind;
use scheduler::{Cluster, Decision, Preemption};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::run::Driver;
use binding::{Binder, Bound};
use waiting::Waiting;

/// Name by which pods ask for this scheduler.
const NAME: &str = "default-scheduler";
const SOURCES: [Gvr; 7] = [
    NAMESPACES,
    STORAGE_CLASSES,
    VOLUMES,
    CLAIMS,
    DISRUPTION_BUDGETS,
    NODES,
    PODS,
];
/// Changes that may wait to be taken in.
const BACKLOG: usize = 1024;

/// Schedules until `stop`.
pub async fn schedule(driver: Driver, stop: CancellationToken) {
    let (sender, mut changes) = mpsc::channel(BACKLOG);
    let mut caches = Vec::new();
    for source in SOURCES {
        let cache = driver.informers.of(&source);
        let mut subscription = cache.subscribe();
        caches.push((source.clone(), cache));
        let (sender, stop) = (sender.clone(), stop.clone());
        tokio::spawn(async move {
            loop {
                let change = tokio::select! {
                    change = subscription.next() => change,
                    () = stop.cancelled() => return,
                };
                let Some(change) = change else { return };
                if sender.send((source.clone(), change)).await.is_err() {
                    return;
                }
            }
        });
    }
    for (_, cache) in &caches {
        tokio::select! {
            () = cache.synced() => {}
            () = stop.cancelled() => return,
        }
    }
    let (bound, mut results) = mpsc::unbounded_channel();
    let mut work = Scheduling {
        binder: Binder::new(driver.clone(), bound),
        driver,
        cluster: Cluster::new(),
        waiting: Waiting::default(),
        seed: 0,
    };
    for (source, cache) in &caches {
        work.take_all(source, cache);
    }
    loop {
        work.schedule_all().await;
        let due = work.waiting.due();
        tokio::select! {
            change = changes.recv() => match change {
                Some((source, change)) => work.take(&source, change, &caches),
                None => return,
            },
            Some(result) = results.recv() => work.bound(result),
            () = at(due) => {}
            () = stop.cancelled() => return,
        }
        while let Ok((source, change)) = changes.try_recv() {
            work.take(&source, change, &caches);
        }
        while let Ok(result) = results.try_recv() {
            work.bound(result);
        }
    }
}

async fn at(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

struct Scheduling {
    driver: Driver,
    binder: Binder,
    cluster: Cluster,
    waiting: Waiting,
    seed: u64,
}

impl Scheduling {
    fn take_all(&mut self, source: &Gvr, cache: &Arc<Informer>) {
        for object in cache.list("") {
            self.put(source, None, &object);
        }
    }

    fn take(&mut self, source: &Gvr, change: Change, caches: &[(Gvr, Arc<Informer>)]) {
        match change {
            Change { old: None, new: None } => {
                // Changes were missed: begin from an empty picture.
                self.cluster = Cluster::new();
                for (source, cache) in caches {
                    self.take_all(source, cache);
                }
                self.waiting.retry_all();
            }
            Change { old, new: Some(new) } => self.put(source, old.as_deref(), &new),
            Change {
                old: Some(old),
                new: None,
            } => self.remove(source, &old),
        }
    }

    fn put(&mut self, source: &Gvr, old: Option<&Object>, object: &Arc<Object>) {
        if *source == PODS {
            return self.put_pod(old, object);
        }
        match source {
            s if *s == NODES => {
                // Heartbeats change nothing that a pod could wait for.
                if old.is_some_and(|old| same_for_pods(old, object)) {
                    return;
                }
                self.cluster.set_node(object);
            }
            s if *s == CLAIMS => self.cluster.set_claim(object),
            s if *s == VOLUMES => self.cluster.set_volume(object),
            s if *s == STORAGE_CLASSES => self.cluster.set_class(object),
            s if *s == NAMESPACES => return self.cluster.set_namespace(object),
            _ => return self.cluster.set_budget(object),
        }
        self.waiting.retry_all();
    }

    fn put_pod(&mut self, old: Option<&Object>, object: &Arc<Object>) {
        let Ok(pod) = object.view::<Pod>() else { return };
        let spec = pod.spec.as_ref();
        let bound = spec.and_then(|s| s.node_name.as_deref()).is_some_and(|n| !n.is_empty());
        if bound {
            let was_bound = old.and_then(|o| o.view::<Pod>().ok());
            let was_bound = was_bound.is_some_and(|p| p.spec.as_ref().is_some_and(|s| s.node_name.is_some()));
            self.waiting.remove(object.uid());
            self.cluster.set_pod(object);
            let ended = pod
                .status
                .as_ref()
                .is_some_and(|s| matches!(s.phase.as_deref(), Some("Succeeded" | "Failed")));
            if ended || !was_bound {
                // Room became free, or a pod that others want to be near has a place.
                self.waiting.retry_all();
            }
            return;
        }
        let gated = spec
            .and_then(|s| s.scheduling_gates.as_ref())
            .is_some_and(|g| !g.is_empty());
        let ours = spec.and_then(|s| s.scheduler_name.as_deref()).is_none_or(|n| n == NAME);
        if object.is_deleting() || gated || !ours {
            self.waiting.remove(object.uid());
            return;
        }
        let same_spec =
            old.is_some_and(|o| o.header().generation == object.header().generation && o.labels() == object.labels());
        self.waiting.put(object, &pod, !same_spec);
    }

    fn remove(&mut self, source: &Gvr, object: &Object) {
        match source {
            s if *s == PODS => {
                self.waiting.remove(object.uid());
                self.cluster.remove_pod(object.uid());
            }
            s if *s == NODES => self.cluster.remove_node(object.name()),
            s if *s == CLAIMS => self.cluster.remove_claim(object.namespace(), object.name()),
            s if *s == VOLUMES => self.cluster.remove_volume(object.name()),
            s if *s == STORAGE_CLASSES => self.cluster.remove_class(object.name()),
            s if *s == NAMESPACES => self.cluster.remove_namespace(object.name()),
            _ => self.cluster.remove_budget(object.namespace(), object.name()),
        }
        self.waiting.retry_all();
    }

    async fn schedule_all(&mut self) {
        self.waiting.promote();
        while let Some(pod) = self.waiting.next() {
            self.seed = self.seed.wrapping_add(1);
            match scheduler::schedule(&self.cluster, &pod, self.seed) {
                Decision::Bind { node, select_claims } => {
                    self.cluster.assume(&pod, &node);
                    self.waiting.binding(pod.uid());
                    self.binder.bind(pod, node, select_claims).await;
                }
                Decision::Wait { message, preempt } => {
                    self.waiting.failed(&pod);
                    self.explain(&pod, &message, preempt);
                }
            }
        }
    }

    fn explain(&self, pod: &Arc<Object>, message: &str, preempt: Option<Preemption>) {
        self.driver
            .recorder
            .say(NAME, pod, EventKind::Warning, "FailedScheduling", message);
        self.binder.explain(pod, message, preempt);
    }

    fn bound(&mut self, result: Bound) {
        match result {
            Bound::Done(uid) => self.waiting.remove(&uid),
            Bound::Failed { pod, message } => {
                debug!(namespace = pod.namespace(), name = pod.name(), message, "not bound");
                self.cluster.forget(pod.uid());
                self.waiting.failed(&pod);
                if !message.is_empty() {
                    let recorder = &self.driver.recorder;
                    recorder.say(NAME, &pod, EventKind::Warning, "FailedScheduling", &message);
                }
            }
        }
    }
}

/// Whether two states of a node are the same to every pod.
fn same_for_pods(a: &Object, b: &Object) -> bool {
    let (Ok(x), Ok(y)) = (a.view::<Node>(), b.view::<Node>()) else {
        return false;
    };
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    a.labels() == b.labels()
        && a.annotations() == b.annotations()
        && x.spec == y.spec
        && allocatable(&x) == allocatable(&y)
        && a.is_deleting() == b.is_deleting()
}

/// How long to wait for claims to be bound, as upstream's `bindTimeoutSeconds`.
const CLAIMS_BOUND: Duration = Duration::from_secs(600);

/// The condition of a pod that finds no place.
fn unschedulable(message: &str) -> serde_json::Value {
    json!({"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message})
}
