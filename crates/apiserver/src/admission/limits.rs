//! LimitRanger and ResourceQuota: what a namespace gives its pods and claims
//! by default, and how much it may hold. Counts are taken from the caches at
//! each write; writes that race are serialised per namespace.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use meta::{Object, Quantity, Status};
use serde_json::{Value, json};

use super::{Admission, Attributes, Operation};
use crate::cache::{Selection, select};
use crate::core::Core;

/// LimitRanger: defaults of containers, and their bounds.
pub(super) struct LimitRanger;

fn in_namespace(core: &Core, plural: &str, namespace: &str) -> Vec<Arc<Object>> {
    let Some(resource) = core.catalog.find("", plural) else {
        return Vec::new();
    };
    let (snapshot, _) = resource.cache.snapshot();
    let selection = Selection {
        namespace: namespace.to_owned(),
        ..Selection::default()
    };
    let (items, _) = select(&snapshot, &resource.kind, &selection, "", usize::MAX);
    items.into_iter().map(|(_, item)| item.object.clone()).collect()
}

fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

#[async_trait]
impl Admission for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.creates("", "Pod") || a.creates("", "PersistentVolumeClaim")
    }

    async fn admit(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        if a.kind().kind != "Pod" {
            return Ok(());
        }
        for range in in_namespace(core, "limitranges", a.target.namespace) {
            let range = range.to_value();
            let limits = range.pointer("/spec/limits").and_then(Value::as_array);
            for limit in limits.into_iter().flatten().filter(|l| l["type"] == "Container") {
                for list in ["containers", "initContainers"] {
                    let containers = a
                        .object
                        .pointer_mut(&format!("/spec/{list}"))
                        .and_then(Value::as_array_mut);
                    containers
                        .into_iter()
                        .flatten()
                        .filter(|c| c.is_object())
                        .for_each(|c| fill(c, limit));
                }
            }
        }
        Ok(())
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        for range in in_namespace(core, "limitranges", a.target.namespace) {
            let range = range.to_value();
            for limit in range
                .pointer("/spec/limits")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
            {
                let problems = match (limit["type"].as_str(), &*a.kind().kind) {
                    (Some("Container"), "Pod") => {
                        let containers = a.object.pointer("/spec/containers").and_then(Value::as_array);
                        containers
                            .into_iter()
                            .flatten()
                            .flat_map(|c| bounds(&c["resources"], limit, "Container"))
                            .collect()
                    }
                    (Some("PersistentVolumeClaim"), "PersistentVolumeClaim") => {
                        bounds(&a.object["spec"]["resources"], limit, "PersistentVolumeClaim")
                    }
                    _ => Vec::new(),
                };
                match problems.as_slice() {
                    [] => {}
                    [one] => return Err(a.target.forbidden(one)),
                    many => return Err(a.target.forbidden(format!("[{}]", many.join(", ")))),
                }
            }
        }
        Ok(())
    }
}

/// Defaults: limits first, then requests from the defaults or from the limits.
fn fill(container: &mut Value, limit: &Value) {
    for (field, from) in [("limits", "default"), ("requests", "defaultRequest")] {
        for (name, amount) in limit[from].as_object().into_iter().flatten() {
            let given = container["resources"][field].get(name).is_some();
            if !given {
                if container["resources"][field].is_null() {
                    container["resources"][field] = json!({});
                }
                container["resources"][field][name] = amount.clone();
            }
        }
    }
}

fn bounds(resources: &Value, limit: &Value, kind: &str) -> Vec<String> {
    let mut out = Vec::new();
    for (name, least) in limit["min"].as_object().into_iter().flatten() {
        let given = resources["requests"]
            .get(name)
            .or_else(|| resources["limits"].get(name));
        match (given.and_then(quantity), quantity(least)) {
            (Some(given), Some(min)) if given < min => {
                let (l, g) = (
                    shown(least),
                    shown(resources["requests"].get(name).unwrap_or(&Value::Null)),
                );
                out.push(format!("minimum {name} usage per {kind} is {l}, but request is {g}"));
            }
            (None, _) => out.push(format!(
                "minimum {name} usage per {kind} is {}.  No request is specified",
                shown(least)
            )),
            _ => {}
        }
    }
    for (name, most) in limit["max"].as_object().into_iter().flatten() {
        let field = if kind == "Container" { "limits" } else { "requests" };
        let given = resources[field].get(name);
        match (given.and_then(quantity), quantity(most)) {
            (Some(g), Some(max)) if g > max => {
                let word = field.trim_end_matches('s');
                out.push(format!(
                    "maximum {name} usage per {kind} is {}, but {word} is {}",
                    shown(most),
                    shown(given.unwrap_or(&Value::Null))
                ));
            }
            (None, _) => out.push(format!(
                "maximum {name} usage per {kind} is {}.  No limit is specified",
                shown(most)
            )),
            _ => {}
        }
    }
    out
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// ResourceQuota: refuses what would exceed `spec.hard`.
pub(super) struct ResourceQuota;

#[async_trait]
impl Admission for ResourceQuota {
    fn name(&self) -> &'static str {
        "ResourceQuota"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create
            && a.target.subresource.is_empty()
            && a.kind().namespaced()
            && a.kind().plural != "events"
    }

    async fn validate(&self, core: &Core, a: &mut Attributes<'_>) -> Result<(), Status> {
        let quotas = in_namespace(core, "resourcequotas", a.target.namespace);
        if quotas.is_empty() {
            return Ok(());
        }
        // Two writers must not both take the last place.
        a.held.push(Box::new(core.quota.clone().lock_owned().await));
        let wanted = usage(&a.kind().group, &a.kind().plural, &a.object);
        let mut used: Option<BTreeMap<String, Quantity>> = None;
        for quota in quotas {
            let value = quota.to_value();
            let scoped = value["spec"]["scopes"].as_array().is_some_and(|s| !s.is_empty())
                || value["spec"]["scopeSelector"].is_object();
            let Some(hard) = value["spec"]["hard"].as_object().filter(|_| !scoped) else {
                continue;
            };
            let mut over = Vec::new();
            for (name, most) in hard {
                let (Some(want), Some(max)) = (wanted.get(name), quantity(most)) else {
                    continue;
                };
                let used = used.get_or_insert_with(|| usage_of_namespace(core, a.target.namespace));
                let now = used.get(name).copied().unwrap_or_default();
                if now + *want > max {
                    over.push((name.clone(), want.to_string(), now.to_string(), shown(most)));
                }
            }
            if !over.is_empty() {
                let part = |f: fn(&(String, String, String, String)) -> &String| {
                    over.iter()
                        .map(|o| format!("{}={}", o.0, f(o)))
                        .collect::<Vec<_>>()
                        .join(",")
                };
                return Err(a.target.forbidden(format!(
                    "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                    quota.name(),
                    part(|o| &o.1),
                    part(|o| &o.2),
                    part(|o| &o.3)
                )));
            }
        }
        Ok(())
    }
}

fn usage_of_namespace(core: &Core, namespace: &str) -> BTreeMap<String, Quantity> {
    let mut out: BTreeMap<String, Quantity> = BTreeMap::new();
    for resource in core
        .catalog
        .stored()
        .iter()
        .filter(|r| r.kind.namespaced() && r.kind.plural != "events")
    {
        let (snapshot, _) = resource.cache.snapshot();
        let selection = Selection {
            namespace: namespace.to_owned(),
            ..Selection::default()
        };
        let (items, _) = select(&snapshot, &resource.kind, &selection, "", usize::MAX);
        for (_, item) in items {
            for (name, amount) in usage(&resource.kind.group, &resource.kind.plural, &item.object.to_value()) {
                let sum = out.entry(name).or_default();
                *sum = *sum + amount;
            }
        }
    }
    out
}

/// What one object counts for.
fn usage(group: &str, plural: &str, object: &Value) -> BTreeMap<String, Quantity> {
    let mut out: BTreeMap<String, Quantity> = BTreeMap::new();
    let one = || "1".parse::<Quantity>().unwrap_or_default();
    let count = if group.is_empty() {
        format!("count/{plural}")
    } else {
        format!("count/{plural}.{group}")
    };
    out.insert(count, one());
    if !group.is_empty() {
        return out;
    }
    match plural {
        "pods" => {
            let phase = object
                .pointer("/status/phase")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if matches!(phase, "Succeeded" | "Failed") {
                return out;
            }
            out.insert("pods".into(), one());
            let containers = object.pointer("/spec/containers").and_then(Value::as_array);
            for c in containers.into_iter().flatten() {
                for field in ["requests", "limits"] {
                    for (name, amount) in c["resources"][field].as_object().into_iter().flatten() {
                        let Some(amount) = quantity(amount) else {
                            continue;
                        };
                        let mut add = |key: String| {
                            let sum = out.entry(key).or_default();
                            *sum = *sum + amount;
                        };
                        add(format!("{field}.{name}"));
                        if field == "requests" && matches!(name.as_str(), "cpu" | "memory") {
                            add(name.clone());
                        }
                    }
                }
            }
        }
        "services" => {
            out.insert("services".into(), one());
            match object.pointer("/spec/type").and_then(Value::as_str) {
                Some("NodePort") => drop(out.insert("services.nodeports".into(), one())),
                Some("LoadBalancer") => drop(out.insert("services.loadbalancers".into(), one())),
                _ => {}
            }
        }
        "persistentvolumeclaims" => {
            out.insert(plural.into(), one());
            if let Some(size) = object.pointer("/spec/resources/requests/storage").and_then(quantity) {
                out.insert("requests.storage".into(), size);
            }
        }
        "configmaps" | "secrets" | "replicationcontrollers" | "resourcequotas" => {
            out.insert(plural.into(), one());
        }
        _ => {}
    }
    out
}
