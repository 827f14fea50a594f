//! Kernel and process access: netlink, nft, mounts, cgroups, namespaces.

pub mod tap;
