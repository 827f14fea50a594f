//! Waits until nobody sends new connections to a pod that is about to stop: its
//! endpoint must have left every EndpointSlice before its processes are told.
//!
//! Must not wait for ever: a pod that is to stop does.

use std::time::Duration;

use informer::Informer;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use meta::Object;

use super::Shared;

/// How long the endpoint may take to leave.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long other nodes may take to follow once it has left: they do not say when they have.
const SETTLE: Duration = Duration::from_millis(200);

/// Waits. Returns at once for a pod that is no endpoint of anything.
pub(super) async fn endpoint_left(shared: &Shared, pod: &Object, ip: Option<&String>) {
    let slices = &shared.slices;
    let mut changes = slices.subscribe();
    if !listed(slices, pod.namespace(), pod.uid(), false) {
        return;
    }
    let left = async {
        while listed(slices, pod.namespace(), pod.uid(), true) {
            if changes.next().await.is_none() {
                return;
            }
        }
        tokio::join!(here(shared, ip), elsewhere(shared));
    };
    // Stopping late is worse than a connection lost.
    let _ = tokio::time::timeout(PATIENCE, left).await;
}

/// This node's rules say when they have followed.
async fn here(shared: &Shared, ip: Option<&String>) {
    if let Some(services) = &shared.ports.services {
        services.withdrawn(ip.and_then(|ip| ip.parse().ok())).await;
    }
}

async fn elsewhere(shared: &Shared) {
    let alone = shared
        .nodes
        .list("")
        .iter()
        .all(|n| n.name() == shared.config.node_name);
    if !alone {
        tokio::time::sleep(SETTLE).await;
    }
}

/// Whether a slice names the pod; with `ready`, only as one that takes connections.
fn listed(slices: &Informer, namespace: &str, pod_uid: &str, ready: bool) -> bool {
    slices.list(namespace).iter().any(|object| {
        let Ok(slice) = object.view::<EndpointSlice>() else {
            return false;
        };
        slice.endpoints.iter().flatten().any(|e| {
            let ours = e.target_ref.as_ref().and_then(|t| t.uid.as_deref()) == Some(pod_uid);
            ours && (!ready || e.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true))
        })
    })
}
