//! Kernel and process access: netlink, nft, mounts, cgroups, namespaces.
