//! Kernel and process access: netlink, nft, mounts, cgroups, namespaces.
//!
//! Must not decide anything: names, addresses and rules come from the callers.

pub mod cgroup;
pub mod conntrack;
pub mod link;
mod netlink;
pub mod netns;
pub mod nft;
pub mod tap;
pub mod vxlan;
