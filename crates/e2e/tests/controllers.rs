//! What the control loops do to objects, on a server without a node.

use std::time::Duration;

use anyhow::{Result, ensure};
use testkit::{Kubectl, until};

use crate::api_only;

/// How long a loop may take on a busy machine.
const SOON: Duration = Duration::from_secs(20);

#[test]
fn deleting_a_namespace_empties_it() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    kubectl.ok(&["create", "namespace", "temp"])?;
    kubectl.ok(&["create", "-n", "temp", "configmap", "a"])?;
    kubectl.ok(&["create", "-n", "temp", "secret", "generic", "b"])?;
    kubectl.ok(&["delete", "namespace", "temp", "--timeout=30s"])?;
    ensure!(kubectl.refused(&["get", "namespace", "temp"], "")?.contains("NotFound"));
    kubectl.ok(&["create", "namespace", "temp"])?;
    let left = kubectl.ok(&["get", "-n", "temp", "secrets,configmaps", "-o", "name"])?;
    ensure!(!left.contains("configmap/a") && !left.contains("secret/b"), "{left}");
    Ok(())
}

fn lines(kubectl: &Kubectl, arguments: &[&str]) -> Result<usize, String> {
    let out = kubectl.ok(arguments).map_err(|e| e.to_string())?;
    Ok(out.lines().count())
}

#[test]
fn a_deployment_makes_pods_that_wait_for_a_node_and_go_with_it() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    until("the default service account", SOON, || {
        kubectl
            .ok(&["get", "serviceaccount", "default"])
            .map_err(|e| e.to_string())
    })?;
    kubectl.ok(&["create", "deployment", "web", "--image=none:1", "--replicas=3"])?;
    until("three pods", SOON, || {
        match lines(&kubectl, &["get", "pods", "-o", "name"])? {
            3 => Ok(()),
            n => Err(n.to_string()),
        }
    })?;
    until("a reason for waiting", SOON, || {
        let events = kubectl.ok(&["get", "events"]).map_err(|e| e.to_string())?;
        let reason = "no nodes available to schedule pods";
        if events.contains("FailedScheduling") && events.contains(reason) {
            Ok(())
        } else {
            Err(events)
        }
    })?;
    let events = kubectl.ok(&["get", "events"])?;
    ensure!(
        events.contains("Scaled up replica set web-") && events.contains("SuccessfulCreate"),
        "{events}"
    );
    let described = kubectl.ok(&["describe", "deployment", "web"])?;
    ensure!(
        described.contains("3 desired | 3 updated | 3 total | 0 available | 3 unavailable"),
        "{described}"
    );
    kubectl.ok(&["scale", "deployment", "web", "--replicas=1"])?;
    until("one pod", SOON, || {
        match lines(&kubectl, &["get", "pods", "-o", "name"])? {
            1 => Ok(()),
            n => Err(n.to_string()),
        }
    })?;
    kubectl.ok(&["delete", "deployment", "web"])?;
    until("nothing left", SOON, || {
        match lines(&kubectl, &["get", "pods,replicasets", "-o", "name"])? {
            0 => Ok(()),
            n => Err(n.to_string()),
        }
    })
}

#[test]
fn foreground_deletion_waits_and_orphans_stay() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    until("the default service account", SOON, || {
        kubectl
            .ok(&["get", "serviceaccount", "default"])
            .map_err(|e| e.to_string())
    })?;
    kubectl.ok(&["create", "deployment", "web", "--image=none:1"])?;
    kubectl.ok(&["create", "deployment", "kept", "--image=none:1"])?;
    until("two pods", SOON, || {
        match lines(&kubectl, &["get", "pods", "-o", "name"])? {
            2 => Ok(()),
            n => Err(n.to_string()),
        }
    })?;
    kubectl.ok(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=20s"])?;
    let left = kubectl.ok(&["get", "pods,replicasets", "-l", "app=web", "-o", "name"])?;
    ensure!(left.is_empty(), "{left}");
    kubectl.ok(&["delete", "deployment", "kept", "--cascade=orphan", "--timeout=20s"])?;
    let set = kubectl.json(&["get", "replicasets", "-l", "app=kept"])?;
    let metadata = &set["items"][0]["metadata"];
    ensure!(metadata["ownerReferences"].is_null(), "{metadata}");
    ensure!(lines(&kubectl, &["get", "pods", "-o", "name"]).is_ok_and(|n| n == 1));
    Ok(())
}

#[test]
fn a_claim_is_bound_to_a_volume_that_fits() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: manual
  hostPath: {path: /nowhere}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], storageClassName: manual, resources: {requests: {storage: 500Mi}}}
"#,
    )?;
    kubectl.wait(&["--for=jsonpath={.status.phase}=Bound", "pvc/data"], SOON)?;
    kubectl.wait(&["--for=jsonpath={.status.phase}=Bound", "pv/disk"], SOON)?;
    let row = kubectl.ok(&["get", "pvc", "data", "--no-headers"])?;
    ensure!(
        row.split_whitespace().collect::<Vec<_>>()[1..4] == ["Bound", "disk", "1Gi"],
        "{row}"
    );
    kubectl.ok(&["delete", "pvc", "data", "--timeout=20s"])?;
    kubectl
        .wait(&["--for=jsonpath={.status.phase}=Released", "pv/disk"], SOON)
        .map(drop)
}
