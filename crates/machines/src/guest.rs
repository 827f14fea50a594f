//! What the guest's agent is asked: to run the commands of probes, and what it
//! is, which goes into the status of the VirtualMachineInstance.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use client::ClientExt;
use meta::Status;
use qmp::{GuestAgent, GuestInterface, GuestOs, QmpError};
use runtime::{ExecOutput, RuntimeError};
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::objects;
use crate::pod_runtime::Inner;
use crate::supervisor::MachineState;
use crate::watch::Live;

/// How often a status write is tried against others' writes.
const TRIES: u32 = 5;

/// Runs a command in the guest to its end.
pub(crate) async fn exec(
    inner: &Inner,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<ExecOutput, RuntimeError> {
    let live = inner
        .live(id)
        .ok_or_else(|| RuntimeError::NotFound(format!("running container {id}")))?;
    if !live.state.borrow().agent_connected {
        return Err(RuntimeError::Unavailable(
            "the guest agent is not connected: install and start qemu-guest-agent in the guest".into(),
        ));
    }
    let path = inner.container_dir(id)?.run().join("agent.sock");
    let run = async {
        let _one = live.agent.lock().await;
        let mut agent = GuestAgent::connect(&path).await?;
        let pid = agent.exec(command).await?;
        let mut pause = Duration::from_millis(5);
        loop {
            if let Some(end) = agent.exec_status(pid).await? {
                return Ok::<_, QmpError>(end);
            }
            // The agent's protocol has no event for the end of a command.
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(200));
        }
    };
    match tokio::time::timeout(timeout.max(Duration::from_millis(1)), run).await {
        Err(_) => Err(RuntimeError::Timeout(format!("command {command:?} in the guest"))),
        Ok(Err(e)) => Err(RuntimeError::Failed(format!("guest agent: {e}"))),
        Ok(Ok(end)) => Ok(ExecOutput {
            stdout: end.stdout,
            stderr: end.stderr,
            exit_code: end.exit_code,
        }),
    }
}

/// Keeps the instance's status at what machine and guest say, until the machine ends.
pub(crate) async fn report(inner: Weak<Inner>, id: String, live: Weak<Live>) {
    let Some(mut states) = live.upgrade().map(|l| l.state.subscribe()) else {
        return;
    };
    let mut guest: Option<Guest> = None;
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update().clone();
        let (Some(inner), Some(live)) = (inner.upgrade(), live.upgrade()) else {
            return;
        };
        // Asked once for each connection, and never while the guest cannot answer.
        if !state.agent_connected {
            guest = None;
            live.frozen.store(false, Ordering::Relaxed);
        } else if guest.is_none() && !state.paused {
            guest = ask(&inner, &id, &live).await;
        }
        if let Err(error) = write(&inner, &id, &state, guest.as_ref()).await {
            tracing::warn!(machine = id, error = %error.message, "cannot write the instance's status");
        }
    }
}

type Guest = (GuestOs, Vec<GuestInterface>);

pub(crate) async fn ask(inner: &Inner, id: &str, live: &Arc<Live>) -> Option<Guest> {
    let path = inner.container_dir(id).ok()?.run().join("agent.sock");
    let _one = live.agent.lock().await;
    let asked: Result<Guest, QmpError> = async {
        let mut agent = GuestAgent::connect(&path).await?;
        let os = agent.os().await;
        // A frozen guest answers nothing else.
        let frozen = os.is_err() && agent.is_frozen().await.unwrap_or_default();
        live.frozen.store(frozen, Ordering::Relaxed);
        Ok((os?, agent.interfaces().await?))
    }
    .await;
    asked
        .inspect_err(|error| tracing::debug!(machine = id, %error, "the guest agent does not answer"))
        .ok()
}

/// Writes the status, again when another wrote between read and write.
async fn write(inner: &Inner, id: &str, state: &MachineState, guest: Option<&Guest>) -> Result<(), Status> {
    let sandbox = id.split('.').next().unwrap_or_default();
    let Ok(Some(file)) = inner.sandbox_dir(sandbox).sandbox() else {
        return Ok(());
    };
    let gvr = objects::instances();
    let pods = meta::Gvr::named("", "v1", "pods");
    let pod = inner.client.get(&pods, &file.pod_namespace, &file.pod_name).await?;
    let Some(name) = objects::instance_name(&pod) else {
        return Ok(());
    };
    let owner = pod.controller().map(|o| o.uid.clone()).unwrap_or_default();
    let begun = Instant::now();
    for attempt in 1.. {
        let vmi = inner.client.get(&gvr, &file.pod_namespace, name).await?;
        if pod.uid() != file.pod_uid || vmi.uid() != owner {
            return Ok(());
        }
        let now = meta::time::rfc3339(jiff::Timestamp::now());
        let frozen = inner.live(id).is_some_and(|l| l.frozen.load(Ordering::Relaxed));
        let mut value = vmi.to_value();
        let freeze = freeze_status(&value, frozen);
        let changed = patch(&value, state, guest, &file.ip, &now);
        let Some(patch) = with_freeze(&mut value, changed, freeze) else {
            return Ok(());
        };
        let written = inner
            .client
            .merge_patch(&gvr, &file.pod_namespace, name, "status", &patch)
            .await;
        match written {
            Err(status) if status.is_conflict() && attempt < TRIES && begun.elapsed() < Duration::from_secs(5) => {}
            other => return other.map(drop),
        }
    }
    Ok(())
}

/// The merge patch that brings an instance's status up to date; `None` when it is.
fn patch(vmi: &Value, state: &MachineState, guest: Option<&Guest>, pod_ip: &str, now: &str) -> Option<Value> {
    let old = &vmi["status"];
    let mut status = Map::new();
    let conditions = conditions(vmi, state, now);
    if conditions != old["conditions"] && !(old["conditions"].is_null() && conditions == json!([])) {
        status.insert("conditions".into(), conditions);
    }
    if let Some((os, interfaces)) = guest {
        let info = os_info(os);
        if info != old["guestOSInfo"] {
            status.insert("guestOSInfo".into(), info);
        }
        let interfaces = interface_list(vmi, interfaces, pod_ip);
        if interfaces != old["interfaces"] {
            status.insert("interfaces".into(), interfaces);
        }
    } else if old["interfaces"].as_array().is_none_or(Vec::is_empty) {
        // Without an agent there is the pod's address at least.
        let interfaces = interface_list(vmi, &[], pod_ip);
        if interfaces != json!([]) {
            status.insert("interfaces".into(), interfaces);
        }
    }
    if status.is_empty() {
        return None;
    }
    // With the version that was read, so that another's conditions are not overwritten.
    let version = vmi["metadata"]["resourceVersion"].clone();
    Some(json!({"metadata": {"resourceVersion": version}, "status": status}))
}

/// What `fsFreezeStatus` is to become; `None` when it is right.
fn freeze_status(vmi: &Value, frozen: bool) -> Option<Value> {
    let wanted = if frozen { json!("frozen") } else { Value::Null };
    (vmi["status"]["fsFreezeStatus"] != wanted).then_some(wanted)
}

fn with_freeze(vmi: &mut Value, patch: Option<Value>, freeze: Option<Value>) -> Option<Value> {
    let Some(freeze) = freeze else { return patch };
    let version = vmi["metadata"]["resourceVersion"].take();
    let mut patch = patch.unwrap_or_else(|| json!({"metadata": {"resourceVersion": version}, "status": {}}));
    patch["status"]["fsFreezeStatus"] = freeze;
    Some(patch)
}

/// Our two conditions; those of others stay as they are.
fn conditions(vmi: &Value, state: &MachineState, now: &str) -> Value {
    let mut out: Vec<Value> = vmi["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let paused = if state.failed_disk.is_empty() {
        ("PausedByUser", "VMI was paused by user".to_owned())
    } else {
        let disk = disk_name(vmi, &state.failed_disk);
        let why = if state.no_space {
            "the host has no space left for it; free some and the machine goes on"
        } else {
            "mend the storage and unpause the machine"
        };
        (
            "PausedIOError",
            format!("VMI was paused, IO error on disk {disk}: {why}"),
        )
    };
    let ours = [
        ("AgentConnected", state.agent_connected, ("", String::new())),
        ("Paused", state.paused, paused),
    ];
    for (kind, holds, (reason, message)) in ours {
        let there = out.iter().find(|c| c["type"] == kind && c["status"] == "True");
        let same = there.is_some_and(|c| c["message"].as_str().unwrap_or_default() == message);
        if (holds && same) || (!holds && there.is_none()) {
            continue;
        }
        out.retain(|c| c["type"] != kind);
        if holds {
            let mut condition = json!({
                "type": kind, "status": "True", "lastProbeTime": now, "lastTransitionTime": now,
            });
            if !reason.is_empty() {
                condition["reason"] = reason.into();
                condition["message"] = message.into();
            }
            out.push(condition);
        }
    }
    Value::Array(out)
}

/// The user's name of a disk that QEMU knows as `disk<index>`, or by a name made of it.
fn disk_name(vmi: &Value, node: &str) -> String {
    let disks = || {
        vmi["spec"]["domain"]["devices"]["disks"]
            .as_array()
            .into_iter()
            .flatten()
    };
    let name = |d: &Value| d["name"].as_str().unwrap_or_default().to_owned();
    let index = node.strip_prefix("disk").and_then(|i| i.parse::<usize>().ok());
    let found = match index {
        Some(index) => disks().nth(index),
        None => disks().find(|d| machineplan::node_name(&name(d)) == node),
    };
    found
        .map(name)
        .filter(|n| !n.is_empty())
        .unwrap_or_else(|| node.to_owned())
}

pub(crate) fn os_info(os: &GuestOs) -> Value {
    const NAMES: [(&str, &str); 8] = [
        ("name", "name"),
        ("pretty-name", "prettyName"),
        ("version", "version"),
        ("version-id", "versionId"),
        ("id", "id"),
        ("kernel-release", "kernelRelease"),
        ("kernel-version", "kernelVersion"),
        ("machine", "machine"),
    ];
    let mut out = Map::new();
    for (theirs, ours) in NAMES {
        if let Some((_, value)) = os.fields.iter().find(|(k, _)| k == theirs) {
            out.insert(ours.into(), value.as_str().into());
        }
    }
    Value::Object(out)
}

/// The pod network's interface has the pod's address, as KubeVirt shows masquerade; the guest's
/// name for it is found by the MAC address.
fn interface_list(vmi: &Value, guest: &[GuestInterface], pod_ip: &str) -> Value {
    let Ok(spec) = machineplan::MachineSpec::from_vmi(vmi) else {
        return json!([]);
    };
    let mut out = Vec::new();
    let mut macs = Vec::new();
    for (i, interface) in spec.interfaces.iter().enumerate() {
        let mac = machineplan::guest_network(&spec, interface).mac;
        let seen = guest.iter().find(|g| g.mac == mac);
        let mut entry = json!({"name": interface.name, "mac": mac, "queueCount": 1, "infoSource": "domain"});
        if i == 0 {
            entry["ipAddress"] = pod_ip.into();
            entry["ipAddresses"] = json!([pod_ip]);
        }
        if let Some(seen) = seen {
            entry["interfaceName"] = seen.name.as_str().into();
            entry["infoSource"] = "domain, guest-agent".into();
        }
        macs.push(mac);
        out.push(entry);
    }
    for other in guest
        .iter()
        .filter(|g| !macs.contains(&g.mac) && !g.addresses.is_empty())
    {
        out.push(json!({
            "interfaceName": other.name, "mac": other.mac, "infoSource": "guest-agent",
            "ipAddress": other.addresses[0], "ipAddresses": other.addresses,
        }));
    }
    Value::Array(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_status_is_patched_only_where_it_differs() {
        let mut state = MachineState::default();
        let mut vmi = json!({"metadata": {"name": "a", "namespace": "n", "resourceVersion": "7"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        let first = patch(&vmi, &state, None, "10.0.0.9", "t").unwrap();
        assert_eq!(first["status"]["interfaces"][0]["ipAddress"], "10.0.0.9");
        assert!(first["status"]["conditions"].is_null());
        vmi["status"]["interfaces"] = first["status"]["interfaces"].clone();
        assert_eq!(patch(&vmi, &state, None, "10.0.0.9", "t"), None);
        state.paused = true;
        state.agent_connected = true;
        let os = GuestOs {
            fields: vec![("pretty-name".into(), "Debian".into())],
        };
        let guest = (os, Vec::new());
        let patch = patch(&vmi, &state, Some(&guest), "10.0.0.9", "t").unwrap();
        assert_eq!(patch["metadata"]["resourceVersion"], "7");
        let kinds: Vec<&str> = patch["status"]["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .filter_map(|c| c["type"].as_str())
            .collect();
        assert_eq!(kinds, ["Ready", "AgentConnected", "Paused"]);
        assert_eq!(patch["status"]["guestOSInfo"]["prettyName"], "Debian");
        let mut done = vmi.clone();
        for (field, value) in patch["status"].as_object().unwrap() {
            done["status"][field] = value.clone();
        }
        assert_eq!(super::patch(&done, &state, Some(&guest), "10.0.0.9", "later"), None);
        state.failed_disk = "disk0".into();
        state.no_space = true;
        done["spec"]["domain"]["devices"]["disks"] = json!([{"name": "data"}]);
        let full = conditions(&done, &state, "t");
        assert_eq!(full[2]["reason"], "PausedIOError");
        assert!(
            full[2]["message"]
                .as_str()
                .unwrap()
                .contains("disk data: the host has no space")
        );
        let resumed = conditions(&done, &MachineState::default(), "t");
        assert_eq!(resumed, json!([{"type": "Ready", "status": "True"}]));
    }
}
