//! Waits until nobody sends new connections to a pod that is about to stop: its
//! endpoint must have left every EndpointSlice before its processes are told.
//!
//! Must not wait for ever: a pod that is to stop does.

use std::time::Duration;

use informer::Informer;
use k8s_openapi::api::discovery::v1::EndpointSlice;

/// How long the endpoint may take to leave.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the proxies may take to follow once it has left.
const SETTLE: Duration = Duration::from_millis(200);

/// Waits. Returns at once for a pod that is no endpoint of anything.
pub(super) async fn endpoint_left(slices: &Informer, namespace: &str, pod_uid: &str) {
    let mut changes = slices.subscribe();
    if !listed(slices, namespace, pod_uid, false) {
        return;
    }
    let left = async {
        while listed(slices, namespace, pod_uid, true) {
            if changes.next().await.is_none() {
                return;
            }
        }
    };
    // Stopping late is worse than a connection lost.
    let _ = tokio::time::timeout(PATIENCE, left).await;
    tokio::time::sleep(SETTLE).await;
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
