//! The pod of a machine: to everybody else a pod like any other.
//!
//! Its one container is QEMU. Disks come as volumes of the pod; the node agent
//! finds them by the last component of their paths, which is the volume's name.

use std::collections::BTreeMap;

use kinds::resources::CLAIMS;
use meta::{Object, Quantity};
use reconcile::View;
use serde_json::{Map, Value, json};

use crate::common::owner_reference;

/// Annotation that tells the node agent what runs this pod.
pub(crate) const RUNTIME: &str = "machines.allmend.io/runtime";
/// The image of a machine's container: QEMU itself, which every node has.
pub(crate) const IMAGE: &str = "allmend.local/machine:1";
/// What QEMU needs besides the guest's memory, and per virtual processor; measured, rounded up.
const OVERHEAD: i64 = 96 << 20;
const OVERHEAD_PER_CPU: i64 = 8 << 20;
/// Memory of a guest that asks for none.
const DEFAULT_MEMORY: i64 = 512 << 20;
/// Share of a processor that a virtual one asks for: a tenth, as KubeVirt.
const CPU_REQUEST: i64 = 100;
/// Time that a pod has beyond its guest's, to end what the guest did not.
pub(super) const EXTRA_GRACE: i64 = 15;
/// What the pod has in common with the instance.
const COPIED: [&str; 10] = [
    "nodeSelector",
    "affinity",
    "tolerations",
    "topologySpreadConstraints",
    "priorityClassName",
    "schedulerName",
    "hostname",
    "subdomain",
    "dnsPolicy",
    "dnsConfig",
];

/// The pod of an instance.
pub(crate) fn pod(instance: &Object, value: &Value, name: &str, view: &dyn View) -> Value {
    let spec = &value["spec"];
    let mut labels: BTreeMap<&str, &str> = instance
        .labels()
        .iter()
        .map(|(k, v)| (k.as_str(), v.as_str()))
        .collect();
    labels.insert("kubevirt.io", "virt-launcher");
    labels.insert("kubevirt.io/created-by", instance.uid());
    labels.insert("vm.kubevirt.io/name", instance.name());
    let own = |k: &str| k.starts_with("kubectl.kubernetes.io/") || k.starts_with("kubevirt.io/latest-observed");
    let copied = instance.annotations().iter().filter(|(k, _)| !own(k));
    let mut annotations: BTreeMap<&str, &str> = copied.map(|(k, v)| (k.as_str(), v.as_str())).collect();
    annotations.insert("kubevirt.io/domain", instance.name());
    annotations.insert("kubectl.kubernetes.io/default-container", "compute");
    annotations.insert(RUNTIME, "qemu");

    let volumes = volumes(instance, spec, view);
    let mut container = json!({"name": "compute", "image": IMAGE, "imagePullPolicy": "IfNotPresent",
        "resources": resources(spec), "volumeMounts": volumes.mounts, "ports": ports(spec)});
    if !volumes.devices.is_empty() {
        container["volumeDevices"] = volumes.devices.into();
    }
    for (from, to) in [("readinessProbe", "readinessProbe"), ("livenessProbe", "livenessProbe")] {
        if spec[from].is_object() {
            container[to] = spec[from].clone();
        }
    }
    let grace = spec["terminationGracePeriodSeconds"].as_i64().unwrap_or(30);
    let mut pod = json!({"restartPolicy": "Never", "automountServiceAccountToken": false, "enableServiceLinks": false,
        "terminationGracePeriodSeconds": grace + EXTRA_GRACE, "containers": [container], "volumes": volumes.volumes});
    for field in COPIED {
        if !spec[field].is_null() {
            pod[field] = spec[field].clone();
        }
    }
    json!({"apiVersion": "v1", "kind": "Pod", "spec": pod, "metadata": {"name": name, "labels": labels,
        "annotations": annotations, "ownerReferences": [owner_reference(instance)]}})
}

fn ports(spec: &Value) -> Value {
    let interfaces = spec["domain"]["devices"]["interfaces"].as_array().into_iter().flatten();
    let ports = interfaces.flat_map(|i| i["ports"].as_array().into_iter().flatten());
    let ports = ports.map(|p| {
        let mut port = json!({"containerPort": p["port"], "protocol": p["protocol"].as_str().unwrap_or("TCP")});
        if p["name"].is_string() {
            port["name"] = p["name"].clone();
        }
        port
    });
    ports.collect::<Vec<_>>().into()
}

fn quantity(value: &Value) -> Option<Quantity> {
    value.as_str()?.parse().ok()
}

fn resources(spec: &Value) -> Value {
    let domain = &spec["domain"];
    let asked = &domain["resources"];
    let count = |f: &str| domain["cpu"][f].as_i64().unwrap_or(1).max(1);
    let cpus = count("sockets") * count("cores") * count("threads");
    let overhead = OVERHEAD + OVERHEAD_PER_CPU * cpus;
    let guest = quantity(&domain["memory"]["guest"]).map(|q| q.value());
    let requested = quantity(&asked["requests"]["memory"]).map(|q| q.value());
    let memory = requested.or(guest).unwrap_or(DEFAULT_MEMORY) + overhead;
    let mut requests: Map<String, Value> = asked["requests"].as_object().cloned().unwrap_or_default();
    requests.insert("memory".into(), Quantity::from_bytes(memory).to_string().into());
    if !requests.contains_key("cpu") {
        let cpu = Quantity::from_millis(CPU_REQUEST * cpus).to_string();
        requests.insert("cpu".into(), cpu.into());
    }
    let mut limits: Map<String, Value> = asked["limits"].as_object().cloned().unwrap_or_default();
    if let Some(limit) = limits.get("memory").and_then(quantity) {
        limits.insert(
            "memory".into(),
            Quantity::from_bytes(limit.value() + overhead).to_string().into(),
        );
    }
    json!({"requests": requests, "limits": limits})
}

#[derive(Default)]
struct Volumes {
    volumes: Vec<Value>,
    mounts: Vec<Value>,
    devices: Vec<Value>,
}

impl Volumes {
    fn mount(&mut self, name: &str, directory: &str, mut volume: Value) {
        volume["name"] = name.into();
        self.volumes.push(volume);
        self.mounts
            .push(json!({"name": name, "mountPath": format!("{directory}/{name}")}));
    }
}

fn volumes(instance: &Object, spec: &Value, view: &dyn View) -> Volumes {
    let mut out = Volumes::default();
    let all = spec["volumes"].as_array().into_iter().flatten();
    for volume in all.filter(|v| !super::hotplug::is_hotpluggable(v)) {
        let name = volume["name"].as_str().unwrap_or_default();
        let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
        if let Some(claim) = claim.or_else(|| volume["dataVolume"]["name"].as_str()) {
            let found = view.get(&CLAIMS, instance.namespace(), claim);
            let block = found.is_some_and(|c| c.to_value()["spec"]["volumeMode"] == "Block");
            let source = json!({"name": name, "persistentVolumeClaim": {"claimName": claim}});
            if block {
                out.volumes.push(source);
                out.devices
                    .push(json!({"name": name, "devicePath": format!("/dev/{name}")}));
            } else {
                out.mount(name, "/var/run/kubevirt-private/vmi-disks", source);
            }
        } else if let Some(disk) = volume["containerDisk"].as_object() {
            let image = image(
                &disk.get("image").cloned().unwrap_or_default(),
                disk.get("imagePullPolicy"),
            );
            out.mount(name, "/var/run/kubevirt/container-disks", image);
        }
    }
    let kernel = &spec["domain"]["firmware"]["kernelBoot"]["container"];
    if kernel.is_object() {
        let image = image(&kernel["image"], kernel.get("imagePullPolicy"));
        out.mount("kernel-boot", "/var/run/kubevirt", image);
    }
    out
}

/// An image as a volume (KEP-4639).
fn image(reference: &Value, policy: Option<&Value>) -> Value {
    let mut image = json!({"reference": reference});
    if let Some(policy) = policy.filter(|p| p.is_string()) {
        image["pullPolicy"] = policy.clone();
    }
    json!({"image": image})
}
