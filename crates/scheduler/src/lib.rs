//! The scheduler, as a pure decision: a value that follows the cluster object
//! by object, and a function that says where a pod goes, or why nowhere.
//!
//! Must not do I/O, read a clock or draw random numbers: ties are broken by a seed.

mod cluster;
mod facts;
mod node;
mod resources;
mod storage;
mod terms;

pub use cluster::Cluster;
