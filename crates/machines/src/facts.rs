//! What people ask of a guest's agent, in KubeVirt's shapes, and what they have
//! it do. Must not keep anything: the guest is asked each time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use qmp::{GuestAgent, GuestFilesystem, GuestUser, QmpError};
use runtime::RuntimeError;
use serde_json::{Value, json};

use crate::guest;
use crate::pod_runtime::Inner;
use crate::watch::Live;

/// How many users and filesystems are part of the overview.
const SOME: usize = 10;
/// Group and version of the documents.
const API: &str = "subresources.kubevirt.io/v1";

/// A connection to the agent, and what must be held while it is used.
macro_rules! agent {
    ($inner:expr, $id:expr, $live:ident, $agent:ident) => {
        let $live = connected($inner, $id)?;
        let path = $inner.container_dir($id)?.run().join("agent.sock");
        let _one = $live.agent.lock().await;
        let mut $agent = GuestAgent::connect(&path).await.map_err(said)?;
    };
}

/// What the guest says of itself.
pub(crate) async fn info(inner: &Inner, id: &str, what: &str) -> Result<Value, RuntimeError> {
    agent!(inner, id, live, agent);
    if what == "userlist" {
        let users = agent.users().await.map_err(said)?;
        let items: Vec<Value> = users.iter().map(user).collect();
        return Ok(
            json!({"kind": "VirtualMachineInstanceGuestOSUserList", "apiVersion": API,
            "metadata": {}, "items": items}),
        );
    }
    if what == "filesystemlist" {
        let filesystems = agent.filesystems().await.map_err(said)?;
        let items: Vec<Value> = filesystems.iter().map(filesystem).collect();
        return Ok(
            json!({"kind": "VirtualMachineInstanceFileSystemList", "apiVersion": API,
            "metadata": {}, "items": items}),
        );
    }
    let os = agent.os().await.map_err(said)?;
    let mut out = json!({"kind": "VirtualMachineInstanceGuestAgentInfo", "apiVersion": API, "os": guest::os_info(&os)});
    // An agent that is old or restricted lacks some of these: what it does not say is left out.
    if let Ok(info) = agent.info().await {
        out["guestAgentVersion"] = info.version.into();
        let commands = info.commands.iter().map(|(name, enabled)| {
            let mut command = json!({"name": name});
            if *enabled {
                command["enabled"] = true.into();
            }
            command
        });
        out["supportedCommands"] = commands.collect::<Vec<_>>().into();
    }
    if let Ok(name) = agent.host_name().await {
        out["hostname"] = name.into();
    }
    if let Ok((zone, offset)) = agent.time_zone().await {
        out["timezone"] = format!("{zone}, {offset}").into();
    }
    if let Ok(users) = agent.users().await
        && !users.is_empty()
    {
        out["userList"] = users.iter().take(SOME).map(user).collect::<Vec<_>>().into();
    }
    let filesystems = agent.filesystems().await.unwrap_or_default();
    out["fsInfo"] = json!({"disks": filesystems.iter().take(SOME).map(filesystem).collect::<Vec<_>>()});
    if live.frozen.load(Ordering::Relaxed) {
        out["fsFreezeStatus"] = "frozen".into();
    }
    Ok(out)
}

fn user(user: &GuestUser) -> Value {
    let mut out = json!({"userName": user.name, "loginTime": user.login_time});
    if !user.domain.is_empty() {
        out["domain"] = user.domain.as_str().into();
    }
    out
}

fn filesystem(f: &GuestFilesystem) -> Value {
    let disks = f.disks.iter().map(|(serial, bus)| {
        let mut out = json!({"busType": bus});
        if !serial.is_empty() {
            out["serial"] = serial.as_str().into();
        }
        out
    });
    let disks: Vec<Value> = disks.collect();
    let mut out = json!({"diskName": f.name, "mountPoint": f.mount_point, "fileSystemType": f.kind,
        "usedBytes": f.used, "totalBytes": f.total});
    if !disks.is_empty() {
        out["disk"] = disks.into();
    }
    out
}

/// Asks the agent to reboot the guest; whether it was there and agreed.
pub(crate) async fn reboot(inner: &Inner, id: &str) -> bool {
    let asked = async {
        agent!(inner, id, live, agent);
        agent.reboot().await.map_err(said)?;
        drop(live.clone());
        Ok::<_, RuntimeError>(())
    };
    asked
        .await
        .inspect_err(|error| tracing::debug!(machine = id, %error, "the agent does not reboot the guest"))
        .is_ok()
}

/// Holds the guest's filesystems still.
pub(crate) async fn freeze(inner: &Arc<Inner>, id: &str, at_most: Duration) -> Result<(), RuntimeError> {
    let live = {
        agent!(inner, id, live, agent);
        if !agent.is_frozen().await.unwrap_or_default() {
            agent.freeze().await.map_err(said)?;
        }
        live.clone()
    };
    mark(&live, true);
    if !at_most.is_zero() {
        let (weak, id) = (Arc::downgrade(inner), id.to_owned());
        let mut states = live.state.subscribe();
        drop(live);
        tokio::spawn(async move {
            let ended = async { while states.changed().await.is_ok() {} };
            // The machine may end first.
            let _ = tokio::time::timeout(at_most, ended).await;
            let Some(inner) = weak.upgrade() else { return };
            if inner.live(&id).is_some_and(|l| l.frozen.load(Ordering::Relaxed)) {
                match unfreeze(&inner, &id).await {
                    Ok(()) => tracing::warn!(machine = id, "the guest was frozen for too long, and goes on"),
                    Err(error) => tracing::error!(machine = id, %error, "cannot let a frozen guest go on"),
                }
            }
        });
    }
    Ok(())
}

/// Lets the guest's filesystems go on.
pub(crate) async fn unfreeze(inner: &Inner, id: &str) -> Result<(), RuntimeError> {
    let live = {
        agent!(inner, id, live, agent);
        agent.thaw().await.map_err(said)?;
        live.clone()
    };
    mark(&live, false);
    Ok(())
}

/// Whoever writes the status looks again.
fn mark(live: &Live, frozen: bool) {
    live.frozen.store(frozen, Ordering::Relaxed);
    live.state.send_modify(|_| {});
}

fn connected(inner: &Inner, id: &str) -> Result<Arc<Live>, RuntimeError> {
    let live = inner
        .live(id)
        .ok_or_else(|| RuntimeError::NotFound(format!("running container {id}")))?;
    if !live.state.borrow().agent_connected {
        return Err(RuntimeError::Invalid {
            reason: "AgentNotConnected".into(),
            message: "VMI does not have guest agent connected".into(),
        });
    }
    Ok(live)
}

fn said(e: QmpError) -> RuntimeError {
    RuntimeError::Failed(format!("guest agent: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filesystems_have_kubevirts_shape() {
        let f = GuestFilesystem {
            name: "vda1".into(),
            mount_point: "/".into(),
            kind: "ext4".into(),
            used: 1,
            total: 2,
            disks: vec![(String::new(), "virtio".into())],
        };
        let wanted = json!({"diskName": "vda1", "mountPoint": "/", "fileSystemType": "ext4", "usedBytes": 1,
            "totalBytes": 2, "disk": [{"busType": "virtio"}]});
        assert_eq!(filesystem(&f), wanted);
        let u = user(&GuestUser {
            name: "farmer".into(),
            domain: String::new(),
            login_time: 1.5,
        });
        assert_eq!(u, json!({"userName": "farmer", "loginTime": 1.5}));
    }
}
