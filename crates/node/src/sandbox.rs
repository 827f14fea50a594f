//! What a pod's sandbox is to be: names, DNS, cgroup, namespaces, ports.
//!
//! Must not do I/O: the host's resolv.conf comes as text.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use meta::Object;
use runtime::{DnsConfig, Namespaces, PortMapping, SandboxConfig};
use serde_json::Value;

use crate::Config;
use crate::pods;

/// Longest host name that the kernel takes.
const HOSTNAME: usize = 63;

/// Directory of a pod's container logs.
pub(crate) fn log_directory(data: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    data.join("agent/logs").join(format!("{namespace}_{name}_{uid}"))
}

/// Labels by which others recognise what belongs to a pod.
pub(crate) fn labels(pod: &Object) -> BTreeMap<String, String> {
    [
        ("io.kubernetes.pod.name", pod.name()),
        ("io.kubernetes.pod.namespace", pod.namespace()),
        ("io.kubernetes.pod.uid", pod.uid()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into()
}

/// The sandbox of a pod.
pub(crate) fn config(config: &Config, object: &Arc<Object>, pod: &Pod, attempt: u32, resolv: &str) -> SandboxConfig {
    let spec = pod.spec.clone().unwrap_or_default();
    let context = spec.security_context.as_ref();
    let sysctls = context.and_then(|c| c.sysctls.clone()).unwrap_or_default();
    let privileged = |c: &k8s_openapi::api::core::v1::Container| {
        let context = c.security_context.as_ref();
        context.and_then(|s| s.privileged).unwrap_or(false)
    };
    let mut all_labels = object.labels().clone();
    all_labels.extend(labels(object));
    SandboxConfig {
        pod: object.clone(),
        attempt,
        hostname: host_name(config, object, &spec),
        log_directory: log_directory(&config.data_dir, object.namespace(), object.name(), object.uid()),
        dns: dns(config, object.namespace(), &spec, resolv),
        cgroup_parent: pods::cgroup(&config.cgroup_root, pod),
        namespaces: namespaces(&spec),
        sysctls: sysctls.into_iter().map(|s| (s.name, s.value)).collect(),
        port_mappings: ports(&spec),
        privileged: pods::all(pod).any(|(c, _)| privileged(&c)),
        security_context: serde_json::to_value(context).unwrap_or(Value::Null),
        labels: all_labels,
        annotations: object.annotations().clone(),
    }
}

/// Which namespaces a pod shares.
pub(crate) fn namespaces(spec: &PodSpec) -> Namespaces {
    Namespaces {
        host_network: spec.host_network.unwrap_or(false),
        host_pid: spec.host_pid.unwrap_or(false),
        host_ipc: spec.host_ipc.unwrap_or(false),
        share_process: spec.share_process_namespace.unwrap_or(false),
    }
}

fn ports(spec: &PodSpec) -> Vec<PortMapping> {
    // With the host's network a port of the container is one of the host already.
    if spec.host_network.unwrap_or(false) {
        return Vec::new();
    }
    let sidecars = spec.init_containers.iter().flatten().filter(|c| pods::is_sidecar(c));
    let ports = sidecars.chain(&spec.containers).flat_map(|c| c.ports.iter().flatten());
    ports
        .filter_map(|p| {
            Some(PortMapping {
                protocol: p.protocol.clone().unwrap_or_else(|| "TCP".into()),
                container_port: u16::try_from(p.container_port).ok()?,
                host_port: u16::try_from(p.host_port?).ok().filter(|p| *p > 0)?,
                host_ip: p.host_ip.clone().unwrap_or_default(),
            })
        })
        .collect()
}

/// `spec.hostname` or the pod's name, shortened to what a host name may be.
pub(crate) fn short_name(pod: &Object, spec: &PodSpec) -> String {
    let own = spec.hostname.as_deref().filter(|h| !h.is_empty());
    let name: String = own.unwrap_or(pod.name()).chars().take(HOSTNAME).collect();
    name.trim_end_matches(['-', '.']).to_owned()
}

/// The pod's name in DNS, when it has a subdomain.
pub(crate) fn full_name(config: &Config, pod: &Object, spec: &PodSpec) -> Option<String> {
    let subdomain = spec.subdomain.as_deref().filter(|s| !s.is_empty())?;
    let short = short_name(pod, spec);
    Some(format!(
        "{short}.{subdomain}.{}.svc.{}",
        pod.namespace(),
        config.cluster_domain
    ))
}

fn host_name(config: &Config, pod: &Object, spec: &PodSpec) -> String {
    if spec.host_network.unwrap_or(false) {
        return config.node_name.clone();
    }
    let over = spec.hostname_override.as_deref().filter(|h| !h.is_empty());
    if let Some(name) = over {
        return name.to_owned();
    }
    let full = spec.set_hostname_as_fqdn.unwrap_or(false);
    full.then(|| full_name(config, pod, spec))
        .flatten()
        .unwrap_or_else(|| short_name(pod, spec))
}

/// Resolver settings by the pod's policy and its own wishes.
fn dns(config: &Config, namespace: &str, spec: &PodSpec, resolv: &str) -> DnsConfig {
    let host_network = spec.host_network.unwrap_or(false);
    let host = parse_resolv(resolv);
    let cluster = match spec.dns_policy.as_deref().unwrap_or("ClusterFirst") {
        "ClusterFirst" => !host_network,
        "ClusterFirstWithHostNet" => true,
        _ => false,
    } && !config.cluster_dns.is_empty();
    let mut dns = if cluster {
        let domain = &config.cluster_domain;
        let own = [
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ];
        DnsConfig {
            servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
            searches: own.into_iter().chain(host.searches).collect(),
            options: vec!["ndots:5".into()],
        }
    } else if spec.dns_policy.as_deref() == Some("None") {
        DnsConfig::default()
    } else {
        host
    };
    if let Some(more) = &spec.dns_config {
        dns.servers.extend(more.nameservers.iter().flatten().cloned());
        dns.searches.extend(more.searches.iter().flatten().cloned());
        for option in more.options.iter().flatten() {
            let Some(name) = option.name.as_deref() else { continue };
            dns.options.retain(|o| o.split(':').next() != Some(name));
            dns.options
                .push(match option.value.as_deref().filter(|v| !v.is_empty()) {
                    Some(value) => format!("{name}:{value}"),
                    None => name.to_owned(),
                });
        }
    }
    unique(&mut dns.servers);
    unique(&mut dns.searches);
    dns
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::BTreeSet::new();
    list.retain(|x| seen.insert(x.clone()));
}

fn parse_resolv(text: &str) -> DnsConfig {
    let mut out = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let rest: Vec<String>;
        match words.next() {
            Some("nameserver") => out.servers.extend(words.next().map(str::to_owned)),
            Some("search" | "domain") => {
                rest = words.filter(|w| *w != ".").map(str::to_owned).collect();
                out.searches = rest;
            }
            Some("options") => {
                rest = words.map(str::to_owned).collect();
                out.options = rest;
            }
            _ => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resolver(spec: Value) -> DnsConfig {
        let mut spec = spec;
        spec["containers"] = json!([]);
        let spec: PodSpec = serde_json::from_value(spec).unwrap();
        let config = Config {
            node_name: "w".into(),
            node_ip: [192, 0, 2, 1].into(),
            data_dir: "/nowhere".into(),
            kubelet_port: 10250,
            cluster_dns: vec![[10, 43, 0, 10].into()],
            cluster_domain: "cluster.local".into(),
            labels: BTreeMap::new(),
            taints: Vec::new(),
            cgroup_root: "allmend".into(),
            max_pods: 110,
            version: "v1.36.0".into(),
            pod_cidr: None,
        };
        dns(
            &config,
            "shop",
            &spec,
            "nameserver 9.9.9.9\nsearch lan\noptions edns0\n",
        )
    }

    #[test]
    fn resolvers_follow_the_policy() {
        let first = resolver(json!({}));
        assert_eq!(first.servers, ["10.43.0.10"]);
        assert_eq!(
            first.searches,
            ["shop.svc.cluster.local", "svc.cluster.local", "cluster.local", "lan"]
        );
        assert_eq!(first.options, ["ndots:5"]);
        assert_eq!(resolver(json!({"dnsPolicy": "Default"})).servers, ["9.9.9.9"]);
        assert_eq!(resolver(json!({"hostNetwork": true})).servers, ["9.9.9.9"]);
        let with_host = json!({"hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"});
        assert_eq!(resolver(with_host).servers, ["10.43.0.10"]);
        let own = resolver(
            json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"], "searches": ["x"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}),
        );
        assert_eq!((own.servers, own.searches), (vec!["1.1.1.1".into()], vec!["x".into()]));
        assert_eq!(own.options, ["ndots:2", "edns0"]);
        let more = resolver(json!({"dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(more.options, ["ndots:2"]);
    }
}
