//! What the control loops do to objects, on a server without a node.

use anyhow::{Result, ensure};

use crate::api_only;

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
