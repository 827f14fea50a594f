//! What the runtime reads of the API: the pod's machine, and what its disks
//! refer to. Must not write.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use client::Client;
use machineplan::MachineSpec;
use meta::{Gvr, Object, Quantity, Status};
use runtime::RuntimeError;
use serde_json::Value;

/// VirtualMachineInstances.
pub(crate) fn instances() -> Gvr {
    Gvr::named("kubevirt.io", "v1", "virtualmachineinstances")
}

fn builtin(resource: &str) -> Gvr {
    Gvr::named("", "v1", resource)
}

/// Name of the VirtualMachineInstance that a pod runs.
pub(crate) fn instance_name(pod: &Object) -> Option<&str> {
    let owner = pod.controller()?;
    (owner.kind == "VirtualMachineInstance").then_some(owner.name.as_str())
}

/// The machine that a pod runs.
pub(crate) async fn machine_of(client: &dyn Client, pod: &Object) -> Result<MachineSpec, RuntimeError> {
    let invalid = |message: String| RuntimeError::Invalid {
        reason: "InvalidMachine".into(),
        message,
    };
    let name = instance_name(pod).ok_or_else(|| {
        invalid(format!(
            "pod {} has no VirtualMachineInstance as its controller; create a VirtualMachine instead of the pod",
            pod.key()
        ))
    })?;
    let vmi = client
        .get(&instances(), pod.namespace(), name)
        .await
        .map_err(|s| unread("VirtualMachineInstance", name, &s))?;
    let owner = pod.controller().map(|o| o.uid.as_str()).unwrap_or_default();
    if !owner.is_empty() && vmi.uid() != owner {
        // Deleted and made anew under the same name: this pod belongs to the old one.
        return Err(RuntimeError::NotFound(format!(
            "VirtualMachineInstance {name} with uid {owner}"
        )));
    }
    MachineSpec::from_vmi(&vmi.to_value()).map_err(|e| invalid(format!("VirtualMachineInstance {}: {e}", vmi.key())))
}

/// The files of a ConfigMap (`configMap`) or Secret (`secret`).
pub(crate) async fn files(
    client: &dyn Client,
    namespace: &str,
    kind: &str,
    name: &str,
) -> Result<BTreeMap<String, Vec<u8>>, RuntimeError> {
    let resource = if kind == "secret" { "secrets" } else { "configmaps" };
    let object = client
        .get(&builtin(resource), namespace, name)
        .await
        .map_err(|s| unread(kind, name, &s))?
        .to_value();
    let mut out = BTreeMap::new();
    let encoded = if kind == "secret" { "data" } else { "binaryData" };
    for (field, decode) in [("data", kind != "secret"), (encoded, false)] {
        for (key, value) in object[field].as_object().into_iter().flatten() {
            let text = value.as_str().unwrap_or_default();
            let bytes = if decode {
                Some(text.as_bytes().to_vec())
            } else {
                B64.decode(text).ok()
            };
            if let Some(bytes) = bytes {
                out.insert(key.clone(), bytes);
            }
        }
    }
    Ok(out)
}

/// Capacity of a claim in bytes: what it has, else what it asks for.
pub(crate) async fn claim_capacity(client: &dyn Client, namespace: &str, name: &str) -> Result<u64, RuntimeError> {
    let claim = client
        .get(&builtin("persistentvolumeclaims"), namespace, name)
        .await
        .map_err(|s| unread("PersistentVolumeClaim", name, &s))?
        .to_value();
    let places = [
        &claim["status"]["capacity"]["storage"],
        &claim["spec"]["resources"]["requests"]["storage"],
    ];
    let quantity = |v: &Value| v.as_str()?.parse::<Quantity>().ok();
    let bytes = places.into_iter().find_map(quantity).map_or(0, |q| q.value());
    u64::try_from(bytes)
        .ok()
        .filter(|b| *b > 0)
        .ok_or_else(|| RuntimeError::Failed(format!("PersistentVolumeClaim {name} names no capacity")))
}

/// A read that failed: gone objects will not come back by themselves, the rest may.
fn unread(kind: &str, name: &str, status: &Status) -> RuntimeError {
    if status.is_not_found() {
        RuntimeError::NotFound(format!("{kind} {name}"))
    } else {
        RuntimeError::Unavailable(format!("read {kind} {name}: {}", status.message))
    }
}
