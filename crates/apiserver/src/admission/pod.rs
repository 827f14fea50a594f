//! What is added to every pod: service account and its token, priority,
//! tolerations of failing nodes. Each as upstream's plug-in of that name.

use async_trait::async_trait;
use meta::Status;
use serde_json::{Value, json};

use super::{Admission, Attributes};
use crate::core::Core;
use crate::registry::suffix;
use crate::resource::object_key;

/// Where containers find the token.
const TOKEN_MOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// Annotation of pods that a node made by itself.
const MIRROR: &str = "kubernetes.io/config.mirror";

pub(super) struct ServiceAccount;

#[async_trait]
impl Admission for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.creates("", "Pod")
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        if a.object
            .pointer("/metadata/annotations")
            .is_some_and(|x| x.get(MIRROR).is_some())
            || !a.object["spec"].is_object()
        {
            return Ok(());
        }
        let spec = &mut a.object["spec"];
        let text = |f: &str| {
            spec.get(f)
                .and_then(Value::as_str)
                .filter(|s| !s.is_empty())
                .map(str::to_owned)
        };
        let name = text("serviceAccountName")
            .or_else(|| text("serviceAccount"))
            .unwrap_or_else(|| "default".into());
        spec["serviceAccountName"] = name.as_str().into();
        spec["serviceAccount"] = name.as_str().into();
        let namespace = a.target.namespace;
        let Some(accounts) = core.catalog.find("", "serviceaccounts") else {
            return Ok(());
        };
        let Some(item) = accounts.cache.get(&object_key(namespace, &name)) else {
            return Err(a.target.forbidden(format!(
                "error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found"
            )));
        };
        let account = item.object.to_value();
        let wish = spec.get("automountServiceAccountToken").and_then(Value::as_bool);
        let mounts = wish
            .or_else(|| account["automountServiceAccountToken"].as_bool())
            .unwrap_or(true);
        if mounts {
            mount_token(spec);
        }
        let has_secrets = spec["imagePullSecrets"].as_array().is_some_and(|s| !s.is_empty());
        if !has_secrets && let Some(secrets) = account.get("imagePullSecrets").filter(|s| s.is_array()) {
            spec["imagePullSecrets"] = secrets.clone();
        }
        Ok(())
    }
}

fn mount_token(spec: &mut Value) {
    let unmounted = |c: &Value| {
        let mounts = c["volumeMounts"].as_array().into_iter().flatten();
        !mounts.clone().any(|m| m["mountPath"] == TOKEN_MOUNT)
    };
    let lists = ["initContainers", "containers"];
    if !lists
        .iter()
        .any(|l| spec[*l].as_array().is_some_and(|l| l.iter().any(unmounted)))
    {
        return;
    }
    let volume = format!("kube-api-access-{}", suffix(5));
    for list in lists {
        for container in spec.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            if container.is_object() && unmounted(container) {
                let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_MOUNT});
                push(&mut container["volumeMounts"], mount);
            }
        }
    }
    let namespace = json!({"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}});
    let sources = json!([
        {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [namespace]}},
    ]);
    push(
        &mut spec["volumes"],
        json!({"name": volume, "projected": {"defaultMode": 420, "sources": sources}}),
    );
}

fn push(list: &mut Value, item: Value) {
    match list {
        Value::Array(list) => list.push(item),
        other => *other = json!([item]),
    }
}

pub(super) struct Priority;

#[async_trait]
impl Admission for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.creates("", "Pod")
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        if !a.object["spec"].is_object() {
            return Ok(());
        }
        let wanted = a
            .object
            .pointer("/spec/priorityClassName")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let classes = core.catalog.find("scheduling.k8s.io", "priorityclasses");
        let class = match (classes, wanted.as_str()) {
            (None, _) => None,
            (Some(classes), "") => {
                let (snapshot, _) = classes.cache.snapshot();
                let all = (&snapshot).into_iter().map(|(_, item)| item.object.to_value());
                all.filter(|c| c["globalDefault"] == true)
                    .min_by_key(|c| c["value"].as_i64().unwrap_or(0))
            }
            (Some(classes), name) => match classes.cache.get(name) {
                Some(item) => Some(item.object.to_value()),
                None => {
                    return Err(a
                        .target
                        .forbidden(format!("no PriorityClass with name {name} was found")));
                }
            },
        };
        let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
        let policy = class
            .as_ref()
            .and_then(|c| c["preemptionPolicy"].as_str())
            .unwrap_or("PreemptLowerPriority");
        let spec = &mut a.object["spec"];
        if let Some(given) = spec.get("priority").and_then(Value::as_i64)
            && given != value
        {
            return Err(a.target.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {value} from the given PriorityClass name"
            )));
        }
        if wanted.is_empty()
            && let Some(name) = class.as_ref().and_then(|c| c.pointer("/metadata/name"))
        {
            spec["priorityClassName"] = name.clone();
        }
        spec["priority"] = value.into();
        spec["preemptionPolicy"] = policy.into();
        Ok(())
    }
}

pub(super) struct DefaultTolerationSeconds;

#[async_trait]
impl Admission for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.creates("", "Pod")
    }

    async fn admit(&self, _core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let Some(spec) = a.object.get_mut("spec").filter(|s| s.is_object()) else {
            return Ok(());
        };
        for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
            let tolerated = spec["tolerations"].as_array().into_iter().flatten().any(|t| {
                let text = |f: &str| t.get(f).and_then(Value::as_str).unwrap_or_default();
                matches!(
                    text("key"),
                    "" | "node.kubernetes.io/not-ready" | "node.kubernetes.io/unreachable"
                ) && (text("key").is_empty() || text("key") == key)
                    && matches!(text("effect"), "" | "NoExecute")
            });
            if !tolerated {
                let toleration =
                    json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
                push(&mut spec["tolerations"], toleration);
            }
        }
        Ok(())
    }
}
