//! The environment of a container.
//!
//! Must not write anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use client::Client;
use informer::Informer;
use k8s_openapi::api::core::v1::{Container, EnvVarSource, Service};

use crate::facts::{self, Data, Facts, Source};

/// Variables in the order in which they are given to the container.
pub(crate) type Env = Vec<(String, String)>;

/// Reads and resolves all variables of a container. The error is for people.
pub(crate) async fn environment(
    client: &dyn Client,
    services: &Informer,
    facts: &Facts<'_>,
    container: &Container,
) -> Result<Env, String> {
    let namespace = facts.object.namespace();
    let mut cache = Cache::default();
    let links = facts
        .pod
        .spec
        .as_ref()
        .and_then(|s| s.enable_service_links)
        .unwrap_or(true);
    let linked = service_variables(services, namespace, links);
    let mut own: Env = Vec::new();
    for from in container.env_from.iter().flatten() {
        let (source, name, optional) = match (&from.config_map_ref, &from.secret_ref) {
            (Some(r), _) => (Source::ConfigMap, &r.name, r.optional),
            (_, Some(r)) => (Source::Secret, &r.name, r.optional),
            _ => continue,
        };
        let optional = optional.unwrap_or(false);
        let Some(data) = cache.read(client, source, namespace, name, optional).await? else {
            continue;
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        for (key, value) in data {
            set(&mut own, format!("{prefix}{key}"), text(value));
        }
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            Some(from) => match value_from(client, &mut cache, facts, container, from).await? {
                Some(value) => value,
                None => continue,
            },
            None => {
                let known = |name: &str| {
                    let find = |env: &Env| env.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
                    find(&own).or_else(|| linked.get(name).cloned())
                };
                facts::expand(var.value.as_deref().unwrap_or_default(), &known)
            }
        };
        set(&mut own, var.name.clone(), value);
    }
    // What the pod says itself wins over what services say.
    for (key, value) in linked {
        if !own.iter().any(|(k, _)| *k == key) {
            own.push((key, value));
        }
    }
    Ok(own)
}

fn set(env: &mut Env, key: String, value: String) {
    match env.iter_mut().find(|(k, _)| *k == key) {
        Some(entry) => entry.1 = value,
        None => env.push((key, value)),
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}

async fn value_from(
    client: &dyn Client,
    cache: &mut Cache,
    facts: &Facts<'_>,
    container: &Container,
    from: &EnvVarSource,
) -> Result<Option<String>, String> {
    if let Some(field) = &from.field_ref {
        return facts.field(field).map(Some);
    }
    if let Some(resource) = &from.resource_field_ref {
        return facts.resource(resource, Some(container)).map(Some);
    }
    let (source, name, key, optional) = match (&from.config_map_key_ref, &from.secret_key_ref) {
        (Some(r), _) => (Source::ConfigMap, &r.name, &r.key, r.optional),
        (_, Some(r)) => (Source::Secret, &r.name, &r.key, r.optional),
        _ => return Ok(None),
    };
    let optional = optional.unwrap_or(false);
    let namespace = facts.object.namespace();
    let Some(data) = cache.read(client, source, namespace, name, optional).await? else {
        return Ok(None);
    };
    match data.get(key) {
        Some(value) => Ok(Some(text(value))),
        None if optional => Ok(None),
        None => {
            let kind = match source {
                Source::ConfigMap => "ConfigMap",
                Source::Secret => "Secret",
            };
            Err(format!("couldn't find key {key} in {kind} {namespace}/{name}"))
        }
    }
}

/// Each object is read once per container.
#[derive(Default)]
struct Cache(BTreeMap<(Source, String), Option<Data>>);

impl Cache {
    async fn read(
        &mut self,
        client: &dyn Client,
        source: Source,
        namespace: &str,
        name: &str,
        optional: bool,
    ) -> Result<Option<&Data>, String> {
        let key = (source, name.to_owned());
        if !self.0.contains_key(&key) {
            let found = facts::read(client, source, namespace, name).await?;
            self.0.insert(key.clone(), found);
        }
        match self.0.get(&key).and_then(Option::as_ref) {
            None if !optional => Err(format!("{} {name:?} not found", source.word())),
            found => Ok(found),
        }
    }
}

/// What docker links used to be: address and ports of each service with a cluster IP.
fn service_variables(services: &Informer, namespace: &str, links: bool) -> BTreeMap<String, String> {
    let mut found = Vec::new();
    found.extend(services.get("default", "kubernetes"));
    if links {
        found.extend(services.list(namespace));
    }
    let mut out = BTreeMap::new();
    for object in found {
        if let Ok(service) = object.view::<Service>() {
            variables(object.name(), &service, &mut out);
        }
    }
    out
}

fn variables(name: &str, service: &Service, out: &mut BTreeMap<String, String>) {
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()) else {
        return;
    };
    let upper = |s: &str| s.to_uppercase().replace('-', "_");
    let prefix = upper(name);
    let ports = spec.ports.as_deref().unwrap_or_default();
    let Some(first) = ports.first() else { return };
    let host = match ip {
        IpAddr::V4(ip) => ip.to_string(),
        IpAddr::V6(ip) => format!("[{ip}]"),
    };
    let protocol = |p: &Option<String>| p.clone().unwrap_or_else(|| "TCP".into());
    out.insert(format!("{prefix}_SERVICE_HOST"), ip.to_string());
    out.insert(format!("{prefix}_SERVICE_PORT"), first.port.to_string());
    let url = |p: &Option<String>, port: i32| format!("{}://{host}:{port}", protocol(p).to_lowercase());
    out.insert(format!("{prefix}_PORT"), url(&first.protocol, first.port));
    for port in ports {
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            out.insert(format!("{prefix}_SERVICE_PORT_{}", upper(name)), port.port.to_string());
        }
        let word = protocol(&port.protocol);
        let one = format!("{prefix}_PORT_{}_{}", port.port, word.to_uppercase());
        out.insert(one.clone(), url(&port.protocol, port.port));
        out.insert(format!("{one}_PROTO"), word.to_lowercase());
        out.insert(format!("{one}_PORT"), port.port.to_string());
        out.insert(format!("{one}_ADDR"), ip.to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn services_as_variables() {
        let service = json!({"spec": {"clusterIP": "10.43.0.1", "ports": [{"name": "https", "port": 443}]}});
        let mut out = BTreeMap::new();
        variables("my-svc", &serde_json::from_value(service).unwrap(), &mut out);
        assert_eq!(out["MY_SVC_SERVICE_HOST"], "10.43.0.1");
        assert_eq!(out["MY_SVC_SERVICE_PORT_HTTPS"], "443");
        assert_eq!(out["MY_SVC_PORT_443_TCP"], "tcp://10.43.0.1:443");
        assert_eq!(out["MY_SVC_PORT_443_TCP_PROTO"], "tcp");
        let headless = json!({"spec": {"clusterIP": "None", "ports": [{"port": 443}]}});
        let mut none = BTreeMap::new();
        variables("x", &serde_json::from_value(headless).unwrap(), &mut none);
        assert!(none.is_empty());
    }
}
