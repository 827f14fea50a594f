//! Reading a pod's spec: its containers by kind, its policies with their defaults.
//!
//! Must not do I/O.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, EphemeralContainer, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meta::Quantity as Amount;
use runtime::Resources;

/// What part a container has in its pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Runs to its end before the others.
    Init,
    /// An init container with `restartPolicy: Always` (KEP-753).
    Sidecar,
    /// One of `spec.containers`.
    Main,
    /// Added later to look around.
    Ephemeral,
}

/// `spec.initContainers`.
pub fn inits(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten())
}

/// Init containers that run to their end.
pub fn plain_inits(pod: &Pod) -> impl Iterator<Item = &Container> {
    inits(pod).filter(|c| !is_sidecar(c))
}

/// Restartable init containers.
pub fn sidecars(pod: &Pod) -> impl Iterator<Item = &Container> {
    inits(pod).filter(|c| is_sidecar(c))
}

/// `spec.containers`.
pub fn mains(pod: &Pod) -> impl Iterator<Item = &Container> {
    pod.spec.iter().flat_map(|s| &s.containers)
}

/// `spec.ephemeralContainers` in the form of the others.
pub fn ephemerals(pod: &Pod) -> impl Iterator<Item = Container> {
    pod.spec
        .iter()
        .flat_map(|s| s.ephemeral_containers.iter().flatten())
        .map(as_container)
}

/// Every container with its kind.
pub fn all(pod: &Pod) -> impl Iterator<Item = (Container, Kind)> {
    let init = |c: &Container| (c.clone(), if is_sidecar(c) { Kind::Sidecar } else { Kind::Init });
    inits(pod)
        .map(init)
        .chain(mains(pod).map(|c| (c.clone(), Kind::Main)))
        .chain(ephemerals(pod).map(|c| (c, Kind::Ephemeral)))
}

/// Where a container stands in its pod, for events.
pub fn field(pod: &Pod, name: &str) -> String {
    let list = match all(pod).find(|(c, _)| c.name == name) {
        Some((_, Kind::Init | Kind::Sidecar)) => "initContainers",
        Some((_, Kind::Ephemeral)) => "ephemeralContainers",
        _ => "containers",
    };
    format!("spec.{list}{{{name}}}")
}

fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        name: e.name.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        command: e.command.clone(),
        args: e.args.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        security_context: e.security_context.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        tty: e.tty,
        volume_mounts: e.volume_mounts.clone(),
        volume_devices: e.volume_devices.clone(),
        working_dir: e.working_dir.clone(),
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        ..Container::default()
    }
}

/// Whether an init container keeps running beside the others.
pub fn is_sidecar(c: &Container) -> bool {
    c.restart_policy.as_deref() == Some("Always")
}

/// `spec.restartPolicy`.
pub fn restart_policy(pod: &Pod) -> String {
    let policy = pod.spec.as_ref().and_then(|s| s.restart_policy.clone());
    policy.unwrap_or_else(|| "Always".into())
}

/// Seconds a pod has to stop: what its deletion says, else what its spec says.
pub fn grace(pod: &Pod) -> i64 {
    let own = pod.spec.as_ref().and_then(|s| s.termination_grace_period_seconds);
    pod.metadata.deletion_grace_period_seconds.or(own).unwrap_or(30).max(0)
}

/// Seconds for a container that a probe condemned.
pub fn probe_grace(pod: &Pod, c: &Container) -> i64 {
    let own = c
        .liveness_probe
        .as_ref()
        .and_then(|p| p.termination_grace_period_seconds);
    own.unwrap_or_else(|| grace(pod))
}

/// Restarts that the API already counts for a container, itself included when it once ran.
pub fn api_restarts(pod: &Pod, name: &str) -> u32 {
    let Some(status) = &pod.status else { return 0 };
    let lists = [&status.init_container_statuses, &status.container_statuses];
    let found = lists.into_iter().flatten().flatten().find(|s| s.name == name);
    found.map_or(0, |s| {
        let ran = s.container_id.as_deref().is_some_and(|id| !id.is_empty());
        u32::try_from(s.restart_count).unwrap_or(0) + u32::from(ran)
    })
}

/// Readiness gates (KEP-580) whose conditions are not true.
pub fn unmet_gates(pod: &Pod) -> Vec<String> {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let met: Vec<&str> = conditions
        .filter(|c| c.status == "True")
        .map(|c| c.type_.as_str())
        .collect();
    let gates = pod.spec.iter().flat_map(|s| s.readiness_gates.iter().flatten());
    gates
        .map(|g| g.condition_type.clone())
        .filter(|g| !met.contains(&g.as_str()))
        .collect()
}

/// `Guaranteed`, `Burstable` or `BestEffort`.
pub fn qos(pod: &Pod) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    for c in inits(pod).chain(mains(pod)) {
        let r = c.resources.clone().unwrap_or_default();
        let (requests, limits) = (r.requests.unwrap_or_default(), r.limits.unwrap_or_default());
        for name in ["cpu", "memory"] {
            let limit = limits.get(name).and_then(amount).filter(|q| !q.is_zero());
            let request = requests.get(name).and_then(amount).filter(|q| !q.is_zero());
            any |= limit.is_some() || request.is_some();
            guaranteed &= limit.is_some()
                && request
                    .as_ref()
                    .is_none_or(|r| Some(r.millis()) == limit.as_ref().map(Amount::millis));
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// A quantity of the typed API.
pub fn amount(q: &Quantity) -> Option<Amount> {
    q.0.parse().ok()
}

/// Cgroup settings of a container (upstream: `kuberuntime_container_linux.go`, `qos/policy.go`).
pub fn resources(pod: &Pod, c: &Container, node_memory: i64) -> Resources {
    let r = c.resources.clone().unwrap_or_default();
    let (requests, limits) = (r.requests.unwrap_or_default(), r.limits.unwrap_or_default());
    let get = |map: &BTreeMap<String, Quantity>, name: &str| map.get(name).and_then(amount);
    let cpu_limit = get(&limits, "cpu").map(|q| q.millis());
    let cpu_request = get(&requests, "cpu").map(|q| q.millis()).or(cpu_limit).unwrap_or(0);
    let memory_request = get(&requests, "memory")
        .or(get(&limits, "memory"))
        .map_or(0, |q| q.value());
    let quota = cpu_limit.filter(|l| *l > 0).map(|l| (l.saturating_mul(100)).max(1000));
    let oom_score_adj = match qos(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let share = memory_request.saturating_mul(1000) / node_memory.max(1);
            (1000 - share).clamp(3, 999)
        }
    };
    Resources {
        cpu_shares: (cpu_request.saturating_mul(1024) / 1000).clamp(2, 262_144),
        cpu_quota: quota.unwrap_or(0),
        cpu_period: if quota.is_some() { 100_000 } else { 0 },
        memory_limit: get(&limits, "memory").map_or(0, |q| q.value()),
        oom_score_adj,
    }
}

/// The cgroup of a pod below the node's own.
pub fn cgroup(root: &str, pod: &Pod) -> String {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    match qos(pod) {
        "Guaranteed" => format!("/{root}/pod{uid}"),
        "Burstable" => format!("/{root}/burstable/pod{uid}"),
        _ => format!("/{root}/besteffort/pod{uid}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(resources: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"uid": "u"}, "spec": {"containers": [
            {"name": "a", "image": "i", "resources": resources}]}}))
        .unwrap()
    }

    #[test]
    fn quality_of_service_and_cgroups() {
        let best = pod(json!({}));
        assert_eq!(
            (qos(&best), cgroup("allmend", &best).as_str()),
            ("BestEffort", "/allmend/besteffort/podu")
        );
        let burst = pod(json!({"requests": {"cpu": "100m", "memory": "1Gi"}}));
        assert_eq!(qos(&burst), "Burstable");
        let r = resources(&burst, &mains(&burst).next().unwrap().clone(), 4 << 30);
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.memory_limit, r.oom_score_adj),
            (102, 0, 0, 750)
        );
        let full = pod(json!({"limits": {"cpu": "2", "memory": "64Mi"}}));
        assert_eq!(qos(&full), "Guaranteed");
        let r = resources(&full, &mains(&full).next().unwrap().clone(), 4 << 30);
        assert_eq!(
            (r.cpu_shares, r.cpu_quota, r.cpu_period, r.memory_limit),
            (2048, 200_000, 100_000, 64 << 20)
        );
        assert_eq!(r.oom_score_adj, -997);
    }
}
