//! Machines with what their instancetype and preference say written out, and
//! what else is answered without a node. Kinds of instancetypes are not served,
//! so a machine that names one names nothing.

use meta::Status;
use serde_json::Value;

use super::conflict;
use crate::core::Core;
use crate::registry::{Call, Target};

/// A feature of KubeVirt's that is off, in its words.
pub(crate) fn no_feature(name: &str) -> Status {
    Status::bad_request(format!("'{name}' feature gate is not enabled"))
}

/// A machine with everything written out; else what is not there.
pub(crate) fn expand(mut machine: Value) -> Result<Value, String> {
    let references = [
        (
            "instancetype",
            "virtualmachineinstancetype",
            "virtualmachineclusterinstancetype",
        ),
        (
            "preference",
            "virtualmachinepreference",
            "virtualmachineclusterpreference",
        ),
    ];
    for (field, namespaced, cluster) in references {
        let reference = &machine["spec"][field];
        if !reference.is_object() {
            continue;
        }
        let name = reference["name"].as_str().unwrap_or_default();
        let kind = reference["kind"].as_str().unwrap_or_default().to_lowercase();
        let kind = if kind.trim_end_matches('s') == namespaced {
            namespaced
        } else {
            cluster
        };
        return Err(format!("{kind}s.instancetype.kubevirt.io {name:?} not found"));
    }
    if let Some(metadata) = machine["metadata"].as_object_mut() {
        metadata.remove("managedFields");
    }
    Ok(machine)
}

/// The same for a machine in a request's body.
pub(crate) fn expand_given(mut machine: Value, namespace: &str) -> Result<Value, Status> {
    if machine["kind"] != "VirtualMachine" || !machine["spec"]["template"].is_object() {
        return Err(Status::bad_request("Object is not a valid VirtualMachine"));
    }
    let given = machine["metadata"]["namespace"].as_str().unwrap_or_default();
    if !given.is_empty() && given != namespace {
        return Err(Status::bad_request(format!(
            "VM namespace must be empty or {namespace}"
        )));
    }
    machine["metadata"]["namespace"] = namespace.into();
    expand(machine).map_err(Status::bad_request)
}

/// Whether a machine has begun to run.
pub(crate) fn has_instance(name: &str, machine: &Value) -> Result<(), Status> {
    if machine["status"]["created"] == true {
        return Ok(());
    }
    Err(conflict("virtualmachine", name, "VMI is not started"))
}

impl Core {
    /// Forgets that an instance was to leave its node.
    pub(crate) async fn cancel_evacuation(
        &self,
        call: &Call,
        target: Target<'_>,
        options: &Value,
    ) -> Result<(), Status> {
        let instance = self.current(target);
        let instance = instance.map_err(|e| super::named(e, "virtualmachineinstance", target.name))?;
        let node = instance.to_value()["status"]["evacuationNodeName"].clone();
        if node.as_str().unwrap_or_default().is_empty() {
            return Ok(());
        }
        if options["evacuationNodeName"] != node {
            return Err(Status::internal("the machine is not to leave the node that was named"));
        }
        let forget = |_: &std::sync::Arc<meta::Object>, mut value: Value| {
            if let Some(status) = value["status"].as_object_mut() {
                status.remove("evacuationNodeName");
            }
            Ok(value)
        };
        self.rewrite(call, target, &forget).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_a_machine_names_must_be_there() {
        let plain = json!({"kind": "VirtualMachine", "metadata": {"managedFields": []}, "spec": {"template": {}}});
        assert_eq!(expand(plain.clone()).unwrap()["metadata"], json!({}));
        assert_eq!(expand_given(plain.clone(), "n").unwrap()["metadata"]["namespace"], "n");
        let mut named = plain.clone();
        named["spec"]["instancetype"] = json!({"name": "u1.small"});
        let said = expand(named).unwrap_err();
        assert_eq!(
            said,
            "virtualmachineclusterinstancetypes.instancetype.kubevirt.io \"u1.small\" not found"
        );
        let mut elsewhere = plain;
        elsewhere["metadata"]["namespace"] = "m".into();
        assert!(expand_given(elsewhere, "n").is_err());
        assert!(expand_given(json!({"kind": "Pod"}), "n").is_err());
    }
}
