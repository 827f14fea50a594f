//! The control loops, each a plan as a pure function of (clock, key, view).
//!
//! Must not do I/O, read a clock or keep state. Reasons, conditions and events
//! are upstream's: clients match on them.

mod common;
mod deployment;
mod endpoints;
pub mod garbage;
mod namespaces;
mod replicaset;
mod status;

pub use deployment::DeploymentController;
pub use endpoints::EndpointSliceController;
pub use namespaces::{NamespaceController, NamespaceFurnisher};
pub use replicaset::ReplicaSetController;

use std::sync::Arc;

use reconcile::Controller;

/// Every controller.
pub fn all() -> Vec<Arc<dyn Controller>> {
    vec![Arc::new(DeploymentController), Arc::new(ReplicaSetController)]
}
