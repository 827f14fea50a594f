//! What the node's HTTPS server asks of the agent: which pods are here, and
//! where they run.
//!
//! Must not do I/O itself.

use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use meta::Object;
use runtime::{PodRuntime, SandboxStatus};

/// A pod of this node.
#[derive(Clone)]
pub struct Found {
    /// As last seen.
    pub pod: Arc<Object>,
    /// What runs it.
    pub runtime: Arc<dyn PodRuntime>,
    /// Its newest sandbox with containers, if it has one.
    pub sandbox: Option<SandboxStatus>,
}

/// Where things of this node are.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// Name of the Node object; empty when not known.
    pub node_name: String,
    /// Control group below which pods are.
    pub cgroup_root: String,
    /// What is kept of pods, each below its UID.
    pub pods: PathBuf,
    /// A path on the file system that pods use.
    pub storage: PathBuf,
}

/// The pods of this node.
#[async_trait]
pub trait PodLookup: Send + Sync {
    /// The pod of a name.
    async fn find(&self, namespace: &str, name: &str) -> Option<Found>;

    /// All pods, in order of namespace and name.
    fn pods(&self) -> Vec<Arc<Object>>;

    /// Every runtime of the node.
    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>>;

    /// Where things are. Without it numbers come from the runtimes alone.
    fn places(&self) -> Places {
        Places::default()
    }
}
