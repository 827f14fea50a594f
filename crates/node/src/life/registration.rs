//! The Node object and its Lease: that this node is here, what it has, and that
//! it is alive (KEP-589).
//!
//! Must not judge other nodes.

use std::fs;
use std::time::Duration;

use client::{ClientExt, WriteOptions};
use jiff::Timestamp;
use kinds::resources::{LEASES, NODES};
use meta::{Object, Quantity, Status};
use rustix::fs::statvfs;
use serde_json::{Value, json};
use tracing::{info, warn};

use super::Shared;

const LEASE_NAMESPACE: &str = "kube-node-lease";
/// How often the lease is renewed, and how long it lasts, seconds.
const RENEW: Duration = Duration::from_secs(10);
const LEASE_SECONDS: i64 = 40;
/// How often the conditions are written even if nothing changed: every so many renewals.
const REPORT_EVERY: u32 = 30;
/// Memory below which the node is under pressure.
const MEMORY_LOW: i64 = 100 << 20;
/// Share of free disk below which the node is under pressure, percent.
const DISK_LOW: u64 = 10;

/// Millicores and bytes of memory.
pub(super) fn capacity() -> (i64, i64) {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    (i64::try_from(cpus).unwrap_or(1) * 1000, meminfo("MemTotal:"))
}

fn meminfo(field: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(field));
    let kib: i64 = line
        .and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kib << 10
}

/// Registers, and keeps saying that the node is alive, until stopped.
pub(super) async fn keep(shared: &Shared) {
    let mut last = Value::Null;
    let mut turn = 0u32;
    loop {
        let due = turn.is_multiple_of(REPORT_EVERY);
        match report(shared, &mut last, due).await {
            Ok(()) => turn = turn.wrapping_add(1),
            Err(e) => warn!(error = %e.message, "the node's state was not written; trying again"),
        }
        if let Err(e) = renew(shared).await {
            warn!(error = %e.message, "the node's lease was not renewed; trying again");
        }
        let pause = if last.is_null() {
            Duration::from_millis(500)
        } else if ready(&last) {
            RENEW
        } else {
            Duration::from_secs(1)
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.stop.cancelled() => return,
        }
    }
}

fn ready(conditions: &Value) -> bool {
    conditions
        .as_array()
        .is_some_and(|c| c.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

/// Whether the API has other conditions than were reported: the control loops judge a node that was
/// silent, and it must say soon that it is back.
fn judged(shared: &Shared, last: &Value) -> bool {
    let Some(node) = shared.nodes.get("", &shared.config.node_name) else {
        return false;
    };
    let node = node.to_value();
    let there = node["status"]["conditions"].as_array();
    let differs = |c: &Value| {
        let mut there = there.into_iter().flatten();
        !there.any(|t| t["type"] == c["type"] && t["status"] == c["status"])
    };
    last.as_array().is_some_and(|l| l.iter().any(differs))
}

async fn report(shared: &Shared, last: &mut Value, due: bool) -> Result<(), Status> {
    let problem = match shared.ports.containers.ready().await {
        Ok(()) => None,
        Err(error) => Some(error.to_string()),
    };
    let verdicts = verdicts(shared, problem.as_deref());
    let same = last.as_array().is_some_and(|l| {
        l.len() == verdicts.len()
            && l.iter()
                .zip(&verdicts)
                .all(|(a, b)| ["status", "reason", "message"].iter().all(|f| a[f] == b[f]))
    });
    if same && !due && !judged(shared, last) {
        return Ok(());
    }
    let name = &shared.config.node_name;
    let node = match shared.client.get(&NODES, "", name).await {
        Ok(node) => node,
        Err(e) if e.is_not_found() => {
            let made = shared.client.create_object(&NODES, "", &object(shared)).await?;
            info!(node = name, "registered");
            made
        }
        Err(e) => return Err(e),
    };
    let value = node.to_value();
    relabel(shared, &node).await?;
    let conditions = with_times(verdicts, &value);
    let version = shared.ports.containers.version().await.unwrap_or_default();
    let status = status(shared, &conditions, &version);
    shared
        .client
        .merge_patch(&NODES, "", name, "status", &json!({"status": status}))
        .await?;
    *last = Value::Array(conditions);
    Ok(())
}

fn object(shared: &Shared) -> Value {
    let taints: Vec<Value> = shared.config.taints.iter().map(|t| json!(t)).collect();
    let mut spec = json!({});
    if !taints.is_empty() {
        spec["taints"] = taints.into();
    }
    if let Some(cidr) = &shared.config.pod_cidr {
        spec["podCIDR"] = cidr.as_str().into();
        spec["podCIDRs"] = json!([cidr]);
    }
    json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": shared.config.node_name, "labels": labels(shared)}, "spec": spec})
}

fn labels(shared: &Shared) -> Value {
    let mut labels = json!({
        "kubernetes.io/hostname": shared.config.node_name, "kubernetes.io/os": "linux", "kubernetes.io/arch": arch(),
        "beta.kubernetes.io/os": "linux", "beta.kubernetes.io/arch": arch(),
    });
    for (k, v) in &shared.config.labels {
        labels[k] = v.as_str().into();
    }
    labels
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Labels that were given on the command line hold for nodes that were registered before, too.
async fn relabel(shared: &Shared, node: &Object) -> Result<(), Status> {
    let wanted = labels(shared);
    let differs = |(k, v): (&String, &Value)| node.labels().get(k).map(String::as_str) != v.as_str();
    if wanted.as_object().is_some_and(|w| w.iter().any(differs)) {
        let patch = json!({"metadata": {"labels": wanted}});
        shared.client.merge_patch(&NODES, "", node.name(), "", &patch).await?;
    }
    Ok(())
}

/// The conditions without their times.
fn verdicts(shared: &Shared, problem: Option<&str>) -> Vec<Value> {
    let condition = |kind: &str, status: bool, reason: &str, message: &str| json!({"type": kind, "status": if status { "True" } else { "False" }, "reason": reason, "message": message});
    let short_of_memory = meminfo("MemAvailable:") < MEMORY_LOW;
    let disk = statvfs(&shared.config.data_dir);
    let short_of_disk = disk.is_ok_and(|d| d.f_blocks > 0 && d.f_bavail * 100 / d.f_blocks < DISK_LOW);
    let memory = match short_of_memory {
        true => condition(
            "MemoryPressure",
            true,
            "KubeletHasInsufficientMemory",
            "kubelet has insufficient memory available",
        ),
        false => condition(
            "MemoryPressure",
            false,
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available",
        ),
    };
    let disk = match short_of_disk {
        true => condition(
            "DiskPressure",
            true,
            "KubeletHasDiskPressure",
            "kubelet has disk pressure",
        ),
        false => condition(
            "DiskPressure",
            false,
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure",
        ),
    };
    let pids = condition(
        "PIDPressure",
        false,
        "KubeletHasSufficientPID",
        "kubelet has sufficient PID available",
    );
    let ready = match problem {
        None => condition("Ready", true, "KubeletReady", "kubelet is posting ready status"),
        Some(problem) => condition(
            "Ready",
            false,
            "KubeletNotReady",
            &format!("container runtime is down: {problem}"),
        ),
    };
    vec![memory, disk, pids, ready]
}

fn with_times(verdicts: Vec<Value>, node: &Value) -> Vec<Value> {
    let now = meta::time::rfc3339(Timestamp::now());
    let old = node["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let timed = verdicts.into_iter().map(|mut c| {
        let before = old
            .iter()
            .find(|o| o["type"] == c["type"] && o["status"] == c["status"]);
        c["lastHeartbeatTime"] = now.as_str().into();
        c["lastTransitionTime"] = before.map_or_else(|| now.as_str().into(), |b| b["lastTransitionTime"].clone());
        c
    });
    timed.collect()
}

fn status(shared: &Shared, conditions: &[Value], runtime: &str) -> Value {
    let (cpu, memory) = shared.capacity;
    let disk = statvfs(&shared.config.data_dir).map_or(0, |d| d.f_blocks.saturating_mul(d.f_frsize));
    let resources = json!({
        "cpu": Quantity::from_millis(cpu).to_string(),
        "memory": format!("{}Ki", memory >> 10),
        "pods": shared.config.max_pods.to_string(),
        "ephemeral-storage": format!("{}Ki", disk >> 10),
    });
    let line = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = line("/etc/os-release");
    let image = release
        .lines()
        .find_map(|l| l.strip_prefix("PRETTY_NAME="))
        .unwrap_or("Linux");
    json!({
        "capacity": resources,
        "allocatable": resources,
        "conditions": conditions,
        "addresses": [
            {"type": "InternalIP", "address": shared.config.node_ip.to_string()},
            {"type": "Hostname", "address": shared.config.node_name},
        ],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": shared.config.kubelet_port}},
        "nodeInfo": {
            "architecture": arch(),
            "bootID": line("/proc/sys/kernel/random/boot_id"),
            "containerRuntimeVersion": runtime,
            "kernelVersion": line("/proc/sys/kernel/osrelease"),
            "kubeProxyVersion": "",
            "kubeletVersion": shared.config.version,
            "machineID": line("/etc/machine-id"),
            "operatingSystem": "linux",
            "osImage": image.trim_matches('"'),
            "systemUUID": line("/sys/class/dmi/id/product_uuid"),
        },
    })
}

async fn renew(shared: &Shared) -> Result<(), Status> {
    let name = &shared.config.node_name;
    let now = meta::time::rfc3339_micro(Timestamp::now());
    let spec = json!({"holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": now});
    let patched = shared
        .client
        .merge_patch(&LEASES, LEASE_NAMESPACE, name, "", &json!({"spec": spec}))
        .await;
    match patched {
        Err(e) if e.is_not_found() => {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": name}, "spec": spec});
            let (body, options) = (client::Body::from_value(&lease), WriteOptions::default());
            shared
                .client
                .create(&LEASES, LEASE_NAMESPACE, ("", ""), body, &options)
                .await
                .map(|_| ())
        }
        other => other.map(|_| ()),
    }
}
