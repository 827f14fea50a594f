//! What containers may ask about themselves and their surroundings: the
//! downward API, `$(VAR)` references, and the data of ConfigMaps and Secrets.
//!
//! Must not write anything.

use std::collections::BTreeMap;

use base64::Engine;
use client::Client;
use k8s_openapi::api::core::v1::{Container, ObjectFieldSelector, Pod, ResourceFieldSelector};
use kinds::resources::{CONFIG_MAPS, SECRETS};
use meta::{Gvr, Object, Quantity};

use crate::pods;

/// What the downward API draws from.
#[derive(Clone)]
pub(crate) struct Facts<'a> {
    pub object: &'a Object,
    pub pod: &'a Pod,
    pub pod_ips: Vec<String>,
    pub host_ips: Vec<String>,
    /// Thousandths of CPUs of the node.
    pub cpu: i64,
    /// Bytes of memory of the node.
    pub memory: i64,
}

impl Facts<'_> {
    /// The value of a `fieldRef`.
    pub(crate) fn field(&self, selector: &ObjectFieldSelector) -> Result<String, String> {
        let o = self.object;
        let spec = self.pod.spec.as_ref();
        let path = selector.field_path.as_str();
        let first = |ips: &[String]| ips.first().cloned().unwrap_or_default();
        Ok(match path {
            "metadata.name" => o.name().into(),
            "metadata.namespace" => o.namespace().into(),
            "metadata.uid" => o.uid().into(),
            "metadata.labels" => lines(o.labels()),
            "metadata.annotations" => lines(o.annotations()),
            "spec.nodeName" => spec.and_then(|s| s.node_name.clone()).unwrap_or_default(),
            "spec.serviceAccountName" => spec.and_then(|s| s.service_account_name.clone()).unwrap_or_default(),
            "status.hostIP" => first(&self.host_ips),
            "status.hostIPs" => self.host_ips.join(","),
            "status.podIP" => first(&self.pod_ips),
            "status.podIPs" => self.pod_ips.join(","),
            _ => {
                let one = |map: &str| {
                    let rest = path.strip_prefix(map)?.strip_prefix("['")?;
                    rest.strip_suffix("']")
                };
                if let Some(key) = one("metadata.labels") {
                    o.labels().get(key).cloned().unwrap_or_default()
                } else if let Some(key) = one("metadata.annotations") {
                    o.annotations().get(key).cloned().unwrap_or_default()
                } else {
                    return Err(format!("unsupported fieldPath: {path}"));
                }
            }
        })
    }

    /// The value of a `resourceFieldRef`, about `own` unless it names another container.
    pub(crate) fn resource(&self, selector: &ResourceFieldSelector, own: Option<&Container>) -> Result<String, String> {
        let named = selector.container_name.as_deref().filter(|n| !n.is_empty());
        let found = match named {
            Some(name) => pods::all(self.pod).map(|(c, _)| c).find(|c| c.name == name),
            None => own.cloned(),
        };
        let container = found.ok_or_else(|| format!("container {} not found", named.unwrap_or_default()))?;
        let (side, name) = selector.resource.split_once('.').unwrap_or(("", ""));
        let r = container.resources.unwrap_or_default();
        let get = |map: &Option<BTreeMap<String, _>>| map.as_ref().and_then(|m| m.get(name)).and_then(pods::amount);
        let (limit, request) = (get(&r.limits), get(&r.requests));
        let node = match name {
            "cpu" => Quantity::from_millis(self.cpu),
            "memory" => Quantity::from_bytes(self.memory),
            _ => Quantity::from_int(0),
        };
        let value = match side {
            "limits" => limit.filter(|q| !q.is_zero()).unwrap_or(node),
            "requests" => request.or(limit).unwrap_or_else(|| Quantity::from_int(0)),
            _ => return Err(format!("unsupported container resource : {}", selector.resource)),
        };
        let divisor = selector
            .divisor
            .as_ref()
            .and_then(pods::amount)
            .filter(|q| !q.is_zero());
        let (value, divisor) = if name == "cpu" {
            (value.millis(), divisor.map_or(1000, |d| d.millis()))
        } else {
            (value.value(), divisor.map_or(1, |d| d.value()))
        };
        // Rounded up, as upstream does.
        let divisor = divisor.max(1);
        Ok((value.saturating_add(divisor - 1) / divisor).to_string())
    }
}

fn lines(map: &BTreeMap<String, String>) -> String {
    let lines: Vec<_> = map.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    lines.join("\n")
}

/// Replaces `$(NAME)` by its value; `$$` is a dollar sign, and unknown names stay as they are.
pub(crate) fn expand(text: &str, get: &dyn Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        if let Some(tail) = rest.strip_prefix("$$") {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = rest.strip_prefix("$(").and_then(|r| r.split_once(')')) {
            match get(name) {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("$({name})")),
            }
            rest = tail;
        } else {
            out.push('$');
            rest = &rest[1..];
        }
    }
    out.push_str(rest);
    out
}

/// Data of a ConfigMap or Secret by key.
pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Source {
    ConfigMap,
    Secret,
}

impl Source {
    pub(crate) fn gvr(self) -> &'static Gvr {
        const MAPS: &Gvr = &CONFIG_MAPS;
        const SECRET: &Gvr = &SECRETS;
        match self {
            Source::ConfigMap => MAPS,
            Source::Secret => SECRET,
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Source::ConfigMap => "configmap",
            Source::Secret => "secret",
        }
    }
}

/// Reads one; `None` when it is not there. The error is for people.
pub(crate) async fn read(
    client: &dyn Client,
    source: Source,
    namespace: &str,
    name: &str,
) -> Result<Option<Data>, String> {
    match client.get(source.gvr(), namespace, name).await {
        Ok(object) => Ok(Some(data(source, &object))),
        Err(e) if e.is_not_found() => Ok(None),
        Err(e) => Err(e.message),
    }
}

fn data(source: Source, object: &Object) -> Data {
    let value = object.to_value();
    let entries = |field: &str| value[field].as_object().cloned().unwrap_or_default().into_iter();
    let plain = |v: &serde_json::Value| v.as_str().unwrap_or_default().as_bytes().to_vec();
    let coded = |v: &serde_json::Value| {
        let text = v.as_str().unwrap_or_default();
        base64::engine::general_purpose::STANDARD
            .decode(text)
            .unwrap_or_default()
    };
    match source {
        Source::Secret => entries("data").map(|(k, v)| (k, coded(&v))).collect(),
        Source::ConfigMap => {
            let binary = entries("binaryData").map(|(k, v)| (k, coded(&v)));
            binary.chain(entries("data").map(|(k, v)| (k, plain(&v)))).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn references_are_expanded() {
        let get = |name: &str| (name == "A").then(|| "1".to_owned());
        let rows = [
            ("$(A)", "1"),
            ("$$(A)", "$(A)"),
            ("x$(A)y$(B)", "x1y$(B)"),
            ("$", "$"),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("a$$b", "a$b"),
        ];
        for (text, expected) in rows {
            assert_eq!(expand(text, &get), expected, "{text}");
        }
    }

    #[test]
    fn fields_and_resources() {
        let value = json!({"metadata": {"name": "p", "namespace": "n", "uid": "u", "labels": {"a": "b"}},
            "spec": {"nodeName": "w", "containers": [{"name": "c", "resources": {"limits": {"memory": "64Mi"},
                "requests": {"cpu": "250m"}}}]}});
        let object = Object::from_value(value).unwrap();
        let pod = object.view::<Pod>().unwrap();
        let facts = Facts {
            object: &object,
            pod: &pod,
            pod_ips: vec!["10.0.0.2".into()],
            host_ips: vec![],
            cpu: 2000,
            memory: 1 << 30,
        };
        let field = |path: &str| {
            facts.field(&ObjectFieldSelector {
                field_path: path.into(),
                ..Default::default()
            })
        };
        assert_eq!(field("metadata.labels").unwrap(), "a=\"b\"");
        assert_eq!(field("metadata.labels['a']").unwrap(), "b");
        assert_eq!(field("status.podIP").unwrap(), "10.0.0.2");
        assert!(field("status.phase").is_err());
        let own = pods::mains(&pod).next();
        let resource = |resource: &str, divisor: &str| {
            let divisor = (!divisor.is_empty()).then(|| serde_json::from_value(json!(divisor)).unwrap());
            let selector = ResourceFieldSelector {
                container_name: None,
                divisor,
                resource: resource.into(),
            };
            facts.resource(&selector, own).unwrap()
        };
        assert_eq!(resource("limits.memory", "1Mi"), "64");
        assert_eq!(resource("limits.cpu", ""), "2");
        assert_eq!(resource("requests.cpu", "1m"), "250");
        assert_eq!(resource("requests.cpu", ""), "1");
    }
}
