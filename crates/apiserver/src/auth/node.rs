//! What a node may do: see and report its own pods, and read what they name.
//! Must not grant a node anything about another node's pods.

use kinds::Kind;
use meta::Object;
use serde_json::Value;

use super::access::Access;
use crate::core::Core;
use crate::resource::object_key;

impl Core {
    /// Whether the node authoriser grants the access; where it has no opinion RBAC
    /// (`system:node`) still may.
    pub(crate) fn node_may(&self, node: &str, access: &Access<'_>) -> bool {
        let read = matches!(access.verb, "get" | "list" | "watch");
        match (access.group, access.resource) {
            // What all nodes must agree on; no secrets are in it.
            ("", "configmaps") if access.namespace == "kube-system" && access.name == "allmend-cluster" => read,
            ("", "secrets" | "configmaps" | "persistentvolumeclaims") => {
                read && !access.name.is_empty() && self.node_uses(node, access)
            }
            ("", "pods") if access.subresource.is_empty() => match access.verb {
                "get" => self.pod_is_on(node, access.namespace, access.name),
                "list" | "watch" => access.on_node == node,
                _ => false,
            },
            // What is in a machine's spec is its own business, such as passwords for the guest.
            ("kubevirt.io", "virtualmachineinstances") => {
                access.verb == "get" && self.machine_is_on(node, access.namespace, access.name)
            }
            ("", "serviceaccounts") => {
                let token = access.verb == "create" && access.subresource == "token";
                (token || (access.verb == "get" && access.subresource.is_empty())) && self.node_uses(node, access)
            }
            ("coordination.k8s.io", "leases") => {
                access.namespace == "kube-node-lease"
                    && matches!(access.verb, "get" | "create" | "update" | "patch" | "delete")
                    && (access.name == node || access.verb == "create")
            }
            _ => false,
        }
    }

    /// Whether a pod on the node names the object.
    fn node_uses(&self, node: &str, access: &Access<'_>) -> bool {
        self.any_pod_on(node, access.namespace, |pod| {
            names(&pod.to_value(), access) || self.machine_names(pod, access)
        })
    }

    /// Whether any pod of a namespace that is on a node has a property.
    pub(crate) fn any_pod_on(&self, node: &str, namespace: &str, has: impl Fn(&Object) -> bool) -> bool {
        let Some(pods) = self.catalog.find("", "pods") else {
            return false;
        };
        let (snapshot, _) = pods.cache.snapshot();
        let (low, high) = (format!("{namespace}/"), format!("{namespace}0"));
        let range = snapshot.range::<str, _>((std::ops::Bound::Included(&*low), std::ops::Bound::Excluded(&*high)));
        let kind: &Kind = &pods.kind;
        let mut on_node = range.filter(|(_, item)| item.field(kind, "spec.nodeName") == node);
        on_node.any(|(_, item)| has(&item.object))
    }

    /// Whether the pod of a machine is on a node.
    pub(crate) fn machine_is_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        let machines = self.catalog.find("kubevirt.io", "virtualmachineinstances");
        let machine = machines.and_then(|m| m.cache.get(&object_key(namespace, name)));
        machine.is_some_and(|m| {
            let uid = m.object.uid();
            self.any_pod_on(node, namespace, |pod| pod.controller().is_some_and(|o| o.uid == uid))
        })
    }

    /// Whether the machine that a pod runs names the object: its disks are made by the node.
    fn machine_names(&self, pod: &Object, access: &Access<'_>) -> bool {
        let Some(owner) = pod.controller().filter(|o| o.kind == "VirtualMachineInstance") else {
            return false;
        };
        let machines = self.catalog.find("kubevirt.io", "virtualmachineinstances");
        let key = object_key(access.namespace, &owner.name);
        let Some(machine) = machines.and_then(|m| m.cache.get(&key)) else {
            return false;
        };
        if machine.object.uid() != owner.uid {
            return false;
        }
        let volumes = &machine.object.to_value()["spec"]["volumes"];
        match access.resource {
            "secrets" => refers(volumes, access.name, &["secret", "secretRef", "networkDataSecretRef"]),
            "configmaps" => refers(volumes, access.name, &["configMap"]),
            "persistentvolumeclaims" => {
                let mut all = volumes.as_array().into_iter().flatten();
                all.any(|v| {
                    let named = |field: &str, key: &str| v[field][key].as_str() == Some(access.name);
                    named("persistentVolumeClaim", "claimName") || named("dataVolume", "name")
                })
            }
            _ => false,
        }
    }

    /// Whether a pod runs on a node.
    pub(crate) fn pod_is_on(&self, node: &str, namespace: &str, name: &str) -> bool {
        let pods = self.catalog.find("", "pods");
        let item = pods.and_then(|p| Some((p, p.cache.get(&object_key(namespace, name))?)));
        item.is_some_and(|(p, item)| item.field(&p.kind, "spec.nodeName") == node)
    }
}

/// Whether a pod refers to an object of the accessed resource by name, anywhere in its spec.
fn names(pod: &Value, access: &Access<'_>) -> bool {
    let spec = &pod["spec"];
    let volumes = || spec["volumes"].as_array().into_iter().flatten();
    let is = |v: &Value| v.as_str() == Some(access.name);
    match access.resource {
        "serviceaccounts" => is(&spec["serviceAccountName"]),
        "persistentvolumeclaims" => volumes().any(|v| {
            is(&v["persistentVolumeClaim"]["claimName"])
                // A generic ephemeral volume's claim is named after pod and volume.
                || (v.get("ephemeral").is_some()
                    && access.name == format!("{}-{}", pod["metadata"]["name"].as_str().unwrap_or_default(),
                        v["name"].as_str().unwrap_or_default()))
        }),
        "configmaps" => refers(spec, access.name, &["configMap", "configMapRef", "configMapKeyRef"]),
        "secrets" => {
            refers(
                spec,
                access.name,
                &["secret", "secretRef", "secretKeyRef", "nodePublishSecretRef"],
            ) || spec["imagePullSecrets"]
                .as_array()
                .into_iter()
                .flatten()
                .any(|s| is(&s["name"]))
        }
        _ => false,
    }
}

fn refers(value: &Value, name: &str, fields: &[&str]) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|v| refers(v, name, fields)),
        Value::Object(map) => map.iter().any(|(field, v)| {
            let named = fields.contains(&field.as_str())
                && ["name", "secretName"]
                    .iter()
                    .any(|n| v.get(n).and_then(Value::as_str) == Some(name));
            named || refers(v, name, fields)
        }),
        _ => false,
    }
}
