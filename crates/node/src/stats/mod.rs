//! Use of resources by this node, its pods and their containers, machines included: read from
//! control groups and `/proc` when somebody asks, never before.
//! Must not ask the API, and must not keep history beyond two samples.

mod cgroup;
mod disk;
mod host;
mod sampler;
mod snapshot;

pub(crate) use cgroup::{Details, Groups, Memory, Usage};
pub(crate) use disk::{Space, space_below, space_of};
pub(crate) use host::{Host, Interface, interfaces, interfaces_of};
pub(crate) use sampler::{Measured, Rate, Sampler};
pub(crate) use snapshot::{ContainerUse, PodUse, Snapshot};

use jiff::Timestamp;

/// Nanoseconds since the epoch.
pub(crate) fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
