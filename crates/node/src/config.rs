//! What the node agent is told by whoever starts it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Taint;
use runtime::{PodRuntime, PodVolumes, ServiceRules};

/// Settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of the Node object.
    pub node_name: String,
    /// Address by which others reach this node.
    pub node_ip: IpAddr,
    /// Where all state is kept.
    pub data_dir: PathBuf,
    /// Port of the node's HTTPS server.
    pub kubelet_port: u16,
    /// Addresses of the cluster's DNS.
    pub cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster's DNS names.
    pub cluster_domain: String,
    /// Labels to register with.
    pub labels: BTreeMap<String, String>,
    /// Taints to register with.
    pub taints: Vec<Taint>,
    /// Cgroup below which pods are, such as `allmend`.
    pub cgroup_root: String,
    /// Most pods at the same time.
    pub max_pods: u32,
    /// What `kubectl get nodes` shows as the version.
    pub version: String,
    /// Addresses of this node's pods.
    pub pod_cidr: Option<String>,
}

impl Config {
    /// Everything of one pod.
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        self.pods_dir().join(uid)
    }

    /// The mounted parts of one pod's volumes.
    pub(crate) fn sub_paths(&self, uid: &str) -> PathBuf {
        self.pod_dir(uid).join("subpaths")
    }

    /// Everything of all pods.
    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.data_dir.join("agent/pods")
    }

    /// The logs of all pods.
    pub fn logs_dir(&self) -> PathBuf {
        self.data_dir.join("agent/logs")
    }

    /// The logs of one pod.
    pub(crate) fn pod_logs(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        self.logs_dir().join(format!("{namespace}_{name}_{uid}"))
    }
}

/// What the agent runs pods with.
#[derive(Clone)]
pub struct Ports {
    /// Runs containers.
    pub containers: Arc<dyn PodRuntime>,
    /// Runs virtual machines, where the node can.
    pub machines: Option<Arc<dyn PodRuntime>>,
    /// Persistent volumes.
    pub volumes: Option<Arc<dyn PodVolumes>>,
    /// What Services lead to on this node, where it has them.
    pub services: Option<Arc<dyn ServiceRules>>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}", path.display())]
pub struct NodeError {
    /// The operation.
    pub what: &'static str,
    /// On which path.
    pub path: PathBuf,
    /// What the system said.
    #[source]
    pub source: std::io::Error,
}

/// An error of an operation on a path.
pub(crate) fn at(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> NodeError {
    let path = path.to_owned();
    move |source| NodeError { what, path, source }
}
