//! Services, policy and IPAM as nftables rulesets and addresses, computed as values.
