//! The control loops, each a plan as a pure function of (clock, key, view).
//!
//! Must not do I/O, read a clock or keep state. Reasons, conditions and events
//! are upstream's: clients match on them.

pub mod certificates;
mod claims;
mod common;
mod cronjob;
mod daemonset;
mod deployment;
mod dns;
mod endpoints;
pub mod garbage;
mod instance;
mod job;
mod machine;
mod namespaces;
mod node_ipam;
mod nodes;
mod replicaset;
mod revisions;
mod roles;
mod statefulset;
mod status;

pub use certificates::CertificateController;
pub use claims::{ClaimController, VolumeController};
pub use cronjob::CronJobController;
pub use daemonset::DaemonSetController;
pub use deployment::DeploymentController;
pub use dns::{ClusterDns, DNS_LABEL};
pub use endpoints::EndpointSliceController;
pub use instance::InstanceController;
pub use job::JobController;
pub use machine::MachineController;
pub use namespaces::{NamespaceController, NamespaceFurnisher};
pub use node_ipam::NodeIpam;
pub use nodes::{GRACE as NODE_GRACE, NodeController};
pub use replicaset::ReplicaSetController;
pub use roles::RoleAggregator;
pub use statefulset::StatefulSetController;

use std::sync::Arc;

use reconcile::Controller;

/// Every controller that is always wanted.
pub fn all(root_ca: &str) -> Vec<Arc<dyn Controller>> {
    vec![
        Arc::new(DeploymentController),
        Arc::new(ReplicaSetController),
        Arc::new(EndpointSliceController),
        Arc::new(NamespaceFurnisher {
            root_ca: root_ca.to_owned(),
        }),
        Arc::new(ClaimController),
        Arc::new(VolumeController),
        Arc::new(RoleAggregator),
        Arc::new(StatefulSetController),
        Arc::new(DaemonSetController),
        Arc::new(JobController),
        Arc::new(CronJobController),
    ]
}

/// The controllers of virtual machines.
pub fn machines() -> Vec<Arc<dyn Controller>> {
    vec![Arc::new(MachineController), Arc::new(InstanceController)]
}
