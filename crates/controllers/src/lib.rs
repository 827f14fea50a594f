//! The control loops, each a plan as a pure function of (clock, key, view).
//!
//! Must not do I/O, read a clock or keep state. Reasons, conditions and events
//! are upstream's: clients match on them.

mod claims;
mod common;
mod deployment;
mod endpoints;
pub mod garbage;
mod namespaces;
mod nodes;
mod replicaset;
mod roles;
mod status;

pub use claims::{ClaimController, VolumeController};
pub use deployment::DeploymentController;
pub use endpoints::EndpointSliceController;
pub use namespaces::{NamespaceController, NamespaceFurnisher};
pub use nodes::{GRACE as NODE_GRACE, NodeController};
pub use replicaset::ReplicaSetController;
pub use roles::RoleAggregator;

use std::sync::Arc;

use reconcile::Controller;

/// Every controller.
pub fn all() -> Vec<Arc<dyn Controller>> {
    vec![Arc::new(DeploymentController), Arc::new(ReplicaSetController)]
}
