//! Our sandboxes and containers to CRI's messages, and CRI's statuses to ours.

use std::path::PathBuf;

use k8s_cri::v1 as cri;
use runtime::{
    ContainerConfig, ContainerState, ContainerStatus, ImageInfo, Namespaces, RegistryAuth, Resources, SandboxConfig,
    SandboxStatus,
};
use serde_json::Value;

/// Paths hidden from containers that are not privileged (the OCI default of container engines).
const MASKED: &[&str] = &[
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: &[&str] = &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

pub fn sandbox(s: &SandboxConfig) -> cri::PodSandboxConfig {
    let context = &s.security_context;
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: s.pod.name().to_owned(),
            uid: s.pod.uid().to_owned(),
            namespace: s.pod.namespace().to_owned(),
            attempt: s.attempt,
        }),
        // With the host's network goes the host's UTS namespace, whose name must stay.
        hostname: if s.namespaces.host_network { String::new() } else { s.hostname.clone() },
        log_directory: s.log_directory.to_string_lossy().into_owned(),
        dns_config: Some(cri::DnsConfig {
            servers: s.dns.servers.clone(),
            searches: s.dns.searches.clone(),
            options: s.dns.options.clone(),
        }),
        port_mappings: s.port_mappings.iter().map(port_mapping).collect(),
        labels: s.labels.clone().into_iter().collect(),
        annotations: s.annotations.clone().into_iter().collect(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: s.cgroup_parent.clone(),
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces(s.namespaces, "")),
                run_as_user: int(context, "runAsUser"),
                run_as_group: int(context, "runAsUser").and_then(|_| int(context, "runAsGroup")),
                supplemental_groups: groups(context),
                privileged: s.privileged,
                seccomp: Some(profile(Some("RuntimeDefault"), "")),
                ..Default::default()
            }),
            sysctls: s.sysctls.clone().into_iter().collect(),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn port_mapping(p: &runtime::PortMapping) -> cri::PortMapping {
    let protocol = match p.protocol.as_str() {
        "UDP" => cri::Protocol::Udp,
        "SCTP" => cri::Protocol::Sctp,
        _ => cri::Protocol::Tcp,
    };
    cri::PortMapping {
        protocol: protocol.into(),
        container_port: p.container_port.into(),
        host_port: p.host_port.into(),
        host_ip: p.host_ip.clone(),
    }
}

fn namespaces(n: Namespaces, target: &str) -> cri::NamespaceOption {
    use cri::NamespaceMode::{Container, Node, Pod, Target};
    let pid = match n {
        _ if !target.is_empty() => Target,
        Namespaces { host_pid: true, .. } => Node,
        Namespaces { share_process: true, .. } => Pod,
        _ => Container,
    };
    cri::NamespaceOption {
        network: if n.host_network { Node } else { Pod }.into(),
        pid: pid.into(),
        ipc: if n.host_ipc { Node } else { Pod }.into(),
        target_id: target.to_owned(),
        userns_options: None,
    }
}

pub fn container(c: &ContainerConfig, namespaces: Namespaces) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata {
            name: c.name.clone(),
            attempt: c.attempt,
        }),
        image: Some(image_spec(if c.image_ref.is_empty() { &c.image } else { &c.image_ref }, &c.image)),
        command: c.command.clone(),
        args: c.args.clone(),
        working_dir: c.working_dir.clone(),
        envs: c.env.iter().map(key_value).collect(),
        mounts: c.mounts.iter().map(mount).collect(),
        devices: c.devices.iter().map(device).collect(),
        labels: c.labels.clone().into_iter().collect(),
        annotations: c.annotations.clone().into_iter().collect(),
        log_path: c.log_path.clone(),
        stdin: c.stdin,
        stdin_once: c.stdin_once,
        tty: c.tty,
        linux: Some(cri::LinuxContainerConfig {
            resources: Some(resources(&c.resources)),
            security_context: Some(security(&c.security_context, namespaces, &c.target_id)),
        }),
        ..Default::default()
    }
}

pub fn image_spec(image: &str, as_written: &str) -> cri::ImageSpec {
    cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: as_written.to_owned(),
        ..Default::default()
    }
}

fn key_value((key, value): &(String, String)) -> cri::KeyValue {
    cri::KeyValue {
        key: key.clone(),
        value: value.clone(),
    }
}

fn mount(m: &runtime::Mount) -> cri::Mount {
    use cri::MountPropagation::{PropagationBidirectional, PropagationHostToContainer, PropagationPrivate};
    let propagation = match m.propagation.as_str() {
        "Bidirectional" => PropagationBidirectional,
        "HostToContainer" => PropagationHostToContainer,
        _ => PropagationPrivate,
    };
    cri::Mount {
        container_path: m.container_path.clone(),
        host_path: m.host_path.to_string_lossy().into_owned(),
        readonly: m.read_only,
        propagation: propagation.into(),
        ..Default::default()
    }
}

fn device(d: &runtime::Device) -> cri::Device {
    cri::Device {
        container_path: d.container_path.clone(),
        host_path: d.host_path.to_string_lossy().into_owned(),
        permissions: d.permissions.clone(),
    }
}

fn resources(r: &Resources) -> cri::LinuxContainerResources {
    cri::LinuxContainerResources {
        cpu_period: r.cpu_period,
        cpu_quota: r.cpu_quota,
        cpu_shares: r.cpu_shares,
        memory_limit_in_bytes: r.memory_limit,
        oom_score_adj: r.oom_score_adj,
        ..Default::default()
    }
}

fn security(context: &Value, ns: Namespaces, target: &str) -> cri::LinuxContainerSecurityContext {
    let flag = |name: &str| context.get(name).and_then(Value::as_bool);
    let text = |pointer: &str| context.pointer(pointer).and_then(Value::as_str);
    let privileged = flag("privileged").unwrap_or(false);
    let open = privileged || text("/procMount") == Some("Unmasked");
    let paths = |list: &[&str]| if open { Vec::new() } else { list.iter().map(|p| (*p).to_owned()).collect() };
    cri::LinuxContainerSecurityContext {
        capabilities: Some(cri::Capability {
            add_capabilities: strings(context.pointer("/capabilities/add")),
            drop_capabilities: strings(context.pointer("/capabilities/drop")),
            add_ambient_capabilities: Vec::new(),
        }),
        privileged,
        namespace_options: Some(namespaces(ns, target)),
        run_as_user: int(context, "runAsUser"),
        run_as_group: int(context, "runAsUser").and_then(|_| int(context, "runAsGroup")),
        readonly_rootfs: flag("readOnlyRootFilesystem").unwrap_or(false),
        supplemental_groups: groups(context),
        no_new_privs: flag("allowPrivilegeEscalation") == Some(false),
        masked_paths: paths(MASKED),
        readonly_paths: paths(READ_ONLY),
        seccomp: Some(profile(
            text("/seccompProfile/type"),
            text("/seccompProfile/localhostProfile").unwrap_or(""),
        )),
        ..Default::default()
    }
}

fn profile(kind: Option<&str>, local: &str) -> cri::SecurityProfile {
    use cri::security_profile::ProfileType::{Localhost, RuntimeDefault, Unconfined};
    let kind = match kind {
        Some("RuntimeDefault") => RuntimeDefault,
        Some("Localhost") => Localhost,
        _ => Unconfined,
    };
    cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: local.to_owned(),
    }
}

fn int(context: &Value, field: &str) -> Option<cri::Int64Value> {
    let value = context.get(field)?.as_i64()?;
    Some(cri::Int64Value { value })
}

fn groups(context: &Value) -> Vec<i64> {
    let extra = context.get("supplementalGroups").and_then(Value::as_array);
    let fs_group = context.get("fsGroup").and_then(Value::as_i64);
    let mut out: Vec<i64> = extra.into_iter().flatten().filter_map(Value::as_i64).collect();
    out.extend(fs_group.filter(|g| !out.contains(g)));
    out
}

fn strings(list: Option<&Value>) -> Vec<String> {
    let list = list.and_then(Value::as_array).into_iter().flatten();
    list.filter_map(Value::as_str).map(str::to_owned).collect()
}

pub fn auth(a: &RegistryAuth) -> cri::AuthConfig {
    cri::AuthConfig {
        username: a.username.clone(),
        password: a.password.clone(),
        auth: a.auth.clone(),
        server_address: a.server_address.clone(),
        identity_token: a.identity_token.clone(),
        registry_token: String::new(),
    }
}

pub fn image_info(i: cri::Image) -> ImageInfo {
    ImageInfo {
        id: i.id,
        repo_tags: i.repo_tags,
        repo_digests: i.repo_digests,
        size: i.size,
        uid: i.uid.map(|u| u.value),
        username: i.username,
    }
}

/// A sandbox as it is listed: without addresses.
pub fn listed_sandbox(s: cri::PodSandbox) -> SandboxStatus {
    let ready = s.state() == cri::PodSandboxState::SandboxReady;
    let m = s.metadata.unwrap_or_default();
    SandboxStatus {
        id: s.id,
        pod_uid: m.uid,
        pod_name: m.name,
        pod_namespace: m.namespace,
        attempt: m.attempt,
        ready,
        ips: Vec::new(),
        created_at: s.created_at,
        labels: s.labels.into_iter().collect(),
        annotations: s.annotations.into_iter().collect(),
        containers: Vec::new(),
    }
}

pub fn sandbox_status(s: cri::PodSandboxStatus) -> SandboxStatus {
    let ready = s.state() == cri::PodSandboxState::SandboxReady;
    let m = s.metadata.unwrap_or_default();
    let net = s.network.unwrap_or_default();
    let others = net.additional_ips.into_iter().map(|p| p.ip);
    SandboxStatus {
        id: s.id,
        pod_uid: m.uid,
        pod_name: m.name,
        pod_namespace: m.namespace,
        attempt: m.attempt,
        ready,
        ips: std::iter::once(net.ip).chain(others).filter(|ip| !ip.is_empty()).collect(),
        created_at: s.created_at,
        labels: s.labels.into_iter().collect(),
        annotations: s.annotations.into_iter().collect(),
        containers: Vec::new(),
    }
}

pub fn container_status(s: cri::ContainerStatus) -> ContainerStatus {
    let state = match s.state() {
        cri::ContainerState::ContainerCreated => ContainerState::Created,
        cri::ContainerState::ContainerRunning => ContainerState::Running,
        cri::ContainerState::ContainerExited => ContainerState::Exited,
        cri::ContainerState::ContainerUnknown => ContainerState::Unknown,
    };
    let m = s.metadata.unwrap_or_default();
    ContainerStatus {
        id: s.id,
        name: m.name,
        attempt: m.attempt,
        state,
        image: s.image.unwrap_or_default().image,
        image_ref: s.image_ref,
        created_at: s.created_at,
        started_at: s.started_at.max(0),
        finished_at: s.finished_at.max(0),
        exit_code: s.exit_code,
        reason: s.reason,
        message: s.message,
        log_path: PathBuf::from(s.log_path),
        labels: s.labels.into_iter().collect(),
        annotations: s.annotations.into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn security_contexts() {
        let plain = security(&Value::Null, Namespaces::default(), "");
        assert!(plain.masked_paths.contains(&"/proc/kcore".to_owned()) && !plain.no_new_privs);
        assert_eq!(plain.namespace_options.unwrap().pid(), cri::NamespaceMode::Container);

        let context = json!({"privileged": true, "runAsUser": 7, "fsGroup": 9, "supplementalGroups": [8],
            "capabilities": {"add": ["NET_ADMIN"]}, "allowPrivilegeEscalation": false,
            "seccompProfile": {"type": "RuntimeDefault"}});
        let ns = Namespaces { host_network: true, share_process: true, ..Namespaces::default() };
        let s = security(&context, ns, "");
        assert!(s.privileged && s.masked_paths.is_empty() && s.no_new_privs);
        assert_eq!(s.run_as_user.unwrap().value, 7);
        assert_eq!(s.supplemental_groups, [8, 9]);
        assert_eq!(s.capabilities.unwrap().add_capabilities, ["NET_ADMIN"]);
        let options = s.namespace_options.unwrap();
        assert_eq!(options.network(), cri::NamespaceMode::Node);
        assert_eq!(options.pid(), cri::NamespaceMode::Pod);
        assert_eq!(s.seccomp.unwrap().profile_type(), cri::security_profile::ProfileType::RuntimeDefault);
        // A group without a user is refused by the runtime.
        assert!(security(&json!({"runAsGroup": 3}), ns, "").run_as_group.is_none());
    }
}
