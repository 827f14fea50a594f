//! What the node's HTTPS server asks of the agent: which pods are here, and
//! where they run.
//!
//! Must not do I/O itself.

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

/// The pods of this node.
#[async_trait]
pub trait PodLookup: Send + Sync {
    /// The pod of a name.
    async fn find(&self, namespace: &str, name: &str) -> Option<Found>;

    /// All pods, in order of namespace and name.
    fn pods(&self) -> Vec<Arc<Object>>;

    /// Every runtime of the node.
    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>>;
}
