//! Binding: claims first, then the pod. Beside it, what is said to pods that wait.

use std::sync::Arc;

use client::{ClientExt, DeleteOptions, Preconditions};
use kinds::resources::{CLAIMS, PODS};
use meta::{Object, Status};
use reconcile::EventKind;
use scheduler::Preemption;
use serde_json::json;
use tokio::sync::{Semaphore, mpsc};

use super::{CLAIMS_BOUND, NAME, unschedulable};
use crate::run::Driver;

/// Bindings under way at the same time.
const AT_ONCE: usize = 128;
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// How a binding ended.
pub(super) enum Bound {
    /// The pod of this uid has its node.
    Done(String),
    /// The pod is to be scheduled again.
    Failed {
        pod: Arc<Object>,
        /// For the event; empty when there is nothing to say.
        message: String,
    },
}

pub(super) struct Binder {
    driver: Driver,
    results: mpsc::UnboundedSender<Bound>,
    slots: Arc<Semaphore>,
}

impl Binder {
    pub fn new(driver: Driver, results: mpsc::UnboundedSender<Bound>) -> Self {
        Binder {
            driver,
            results,
            slots: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    /// Begins to bind a pod.
    pub async fn bind(&self, pod: Arc<Object>, node: String, claims: Vec<String>) {
        let (driver, results) = (self.driver.clone(), self.results.clone());
        if claims.is_empty() {
            // Waiting for volumes must not keep others from being bound.
            let Ok(slot) = self.slots.clone().acquire_owned().await else {
                return;
            };
            tokio::spawn(async move {
                let result = assign(&driver, pod, &node).await;
                drop(slot);
                let _ = results.send(result);
            });
            return;
        }
        tokio::spawn(async move {
            let result = match bind_claims(&driver, &pod, &node, &claims).await {
                Ok(()) => assign(&driver, pod, &node).await,
                Err(message) => Bound::Failed { pod, message },
            };
            let _ = results.send(result);
        });
    }

    /// Says why a pod waits, and makes room for it if there is a way.
    pub fn explain(&self, pod: &Arc<Object>, message: &str, preempt: Option<Preemption>) {
        let (driver, pod) = (self.driver.clone(), pod.clone());
        let condition = unschedulable(message);
        tokio::spawn(async move {
            let _ = condition_written(&driver, &pod, condition, preempt.as_ref()).await;
            for (namespace, name, uid) in preempt.iter().flat_map(|p| &p.victims) {
                evict(&driver, &pod, namespace, name, uid).await;
            }
        });
    }
}

async fn assign(driver: &Driver, pod: Arc<Object>, node: &str) -> Bound {
    let binding = json!({"apiVersion": "v1", "kind": "Binding",
        "metadata": {"name": pod.name(), "namespace": pod.namespace(), "uid": pod.uid()},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
    let body = client::Body::from_value(&binding);
    let target = (pod.name(), "binding");
    let options = client::WriteOptions::default();
    match driver
        .client
        .create(&PODS, pod.namespace(), target, body, &options)
        .await
    {
        Ok(_) => {
            let message = format!("Successfully assigned {}/{} to {node}", pod.namespace(), pod.name());
            driver
                .recorder
                .say(NAME, &pod, EventKind::Normal, "Scheduled", &message);
            Bound::Done(pod.uid().to_owned())
        }
        Err(e) if e.is_not_found() || e.is_conflict() => Bound::Failed {
            pod,
            message: String::new(),
        },
        Err(e) => Bound::Failed {
            message: format!("binding rejected: {}", e.message),
            pod,
        },
    }
}

/// Tells the claims which node was chosen, and waits until they have their volumes.
async fn bind_claims(driver: &Driver, pod: &Object, node: &str, claims: &[String]) -> Result<(), String> {
    let cache = driver.informers.of(&CLAIMS);
    let mut changes = cache.subscribe();
    for claim in claims {
        let patch = json!({"metadata": {"annotations": {SELECTED_NODE: node}}});
        let patched = driver
            .client
            .merge_patch(&CLAIMS, pod.namespace(), claim, "", &patch)
            .await;
        let claim = patched.map_err(|e| format!("binding volumes: {}", e.message))?;
        cache.reached(claim.resource_version()).await;
    }
    let bound = async {
        loop {
            let mut waiting = false;
            for name in claims {
                let Some(claim) = cache.get(pod.namespace(), name) else {
                    return Err(format!("binding volumes: persistentvolumeclaim \"{name}\" not found"));
                };
                let value = claim.to_value();
                if value["status"]["phase"] == "Bound" {
                    continue;
                }
                // The provisioner could not do it on that node, and gives the choice back.
                if claim.annotations().get(SELECTED_NODE).map(String::as_str) != Some(node) {
                    return Err(format!("binding volumes: provisioning failed for PVC \"{name}\""));
                }
                waiting = true;
            }
            if !waiting {
                return Ok(());
            }
            if changes.next().await.is_none() {
                return Err("binding volumes: stopped".to_owned());
            }
        }
    };
    let timed = tokio::time::timeout(CLAIMS_BOUND, bound).await;
    timed.unwrap_or_else(|_| Err("binding volumes: timed out waiting for the condition".to_owned()))
}

async fn condition_written(
    driver: &Driver,
    pod: &Object,
    mut condition: serde_json::Value,
    preempt: Option<&Preemption>,
) -> Result<(), Status> {
    let value = pod.to_value();
    let mut conditions = value["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let old = conditions.iter().position(|c| c["type"] == "PodScheduled");
    let unchanged = old.is_some_and(|i| {
        ["status", "reason", "message"]
            .iter()
            .all(|f| conditions[i][f] == condition[f])
    });
    if unchanged && preempt.is_none() {
        return Ok(());
    }
    let since = old
        .filter(|i| conditions[*i]["status"] == "False")
        .map(|i| conditions[i]["lastTransitionTime"].clone());
    let now = meta::time::rfc3339(jiff::Timestamp::now());
    condition["lastTransitionTime"] = since.filter(|s| !s.is_null()).unwrap_or_else(|| now.into());
    match old {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
    let mut patch = json!({"metadata": {"uid": pod.uid()}, "status": {"conditions": conditions}});
    if let Some(p) = preempt {
        patch["status"]["nominatedNodeName"] = p.node.as_str().into();
    }
    driver
        .client
        .merge_patch(&PODS, pod.namespace(), pod.name(), "status", &patch)
        .await
        .map(|_| ())
}

async fn evict(driver: &Driver, preemptor: &Object, namespace: &str, name: &str, uid: &str) {
    if let Some(victim) = driver.informers.of(&PODS).get(namespace, name) {
        let message = format!("Preempted by pod {} on node", preemptor.uid());
        driver
            .recorder
            .say(NAME, &victim, EventKind::Normal, "Preempted", &message);
    }
    let options = DeleteOptions {
        preconditions: Preconditions {
            uid: uid.to_owned(),
            ..Preconditions::default()
        },
        ..DeleteOptions::default()
    };
    // Gone already is as good.
    let _ = driver.client.delete(&PODS, namespace, name, &options).await;
}
