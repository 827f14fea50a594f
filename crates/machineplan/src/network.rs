//! The guest's network behind its pod's address: addresses, MAC and the NAT
//! rules inside the pod's network namespace (KubeVirt's masquerade binding).

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use crate::spec::{InterfaceSpec, MachineSpec, fnv};

/// Addresses on the link between pod and guest; the same in every pod, as
/// KubeVirt's default `vmNetworkCIDR` 10.0.2.0/24.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestNetwork {
    /// Address of the pod's end: gateway and DHCP server.
    pub gateway: Ipv4Addr,
    /// Address of the guest.
    pub guest: Ipv4Addr,
    /// Prefix length.
    pub prefix: u8,
    /// MAC address of the guest.
    pub mac: String,
}

/// A port that leads to the guest.
pub type NatPort = (String, u16);

/// The addresses of an interface.
pub fn guest_network(spec: &MachineSpec, interface: &InterfaceSpec) -> GuestNetwork {
    let mac = if interface.mac.is_empty() {
        derived_mac(&spec.namespace, &spec.name, &interface.name)
    } else {
        interface.mac.replace('-', ":")
    };
    GuestNetwork {
        gateway: Ipv4Addr::new(10, 0, 2, 1),
        guest: Ipv4Addr::new(10, 0, 2, 2),
        prefix: 24,
        mac,
    }
}

/// A locally administered unicast MAC that stays the same when the machine is made anew.
fn derived_mac(namespace: &str, name: &str, interface: &str) -> String {
    let h = fnv(0x6d61_6300, &format!("{namespace}/{name}"), interface).to_be_bytes();
    format!("02:{:02x}:{:02x}:{:02x}:{:02x}:{:02x}", h[0], h[1], h[2], h[3], h[4])
}

/// The nftables script for the pod's namespace: what arrives at `uplink` goes to the guest
/// (all ports, or those given), what the guest sends leaves as the pod. Applying it again
/// replaces it.
pub fn masquerade_ruleset(uplink: &str, pod_ip: &str, network: &GuestNetwork, ports: &[NatPort]) -> String {
    let guest = network.guest;
    let mut dnat = String::new();
    if ports.is_empty() {
        let _ = writeln!(dnat, "    dnat to {guest}");
    }
    for (protocol, port) in ports {
        let protocol = protocol.to_ascii_lowercase();
        let _ = writeln!(dnat, "    {protocol} dport {port} dnat to {guest}");
    }
    let subnet = format!("{}/{}", network.gateway, network.prefix);
    format!(
        "table ip allmend-vm {{}}\nflush table ip allmend-vm\ntable ip allmend-vm {{\n  chain to_guest {{\n{dnat}  }}\n  \
         chain prerouting {{\n    type nat hook prerouting priority dstnat; policy accept;\n    iifname \"{uplink}\" ip \
         daddr {pod_ip} jump to_guest\n  }}\n  chain output {{\n    type nat hook output priority -100; policy accept;\n    \
         ip daddr {{ 127.0.0.1, {pod_ip} }} jump to_guest\n  }}\n  chain postrouting {{\n    type nat hook postrouting \
         priority srcnat; policy accept;\n    ip saddr {subnet} oifname \"{uplink}\" masquerade\n    ip daddr {guest} ip \
         saddr 127.0.0.1 snat to {gateway}\n  }}\n}}\n",
        gateway = network.gateway,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn macs_are_stable_unicast_and_differ() {
        let spec = |name: &str| MachineSpec::from_vmi(&json!({"metadata": {"name": name, "namespace": "n"}})).unwrap();
        let mac = |name: &str| {
            let s = spec(name);
            guest_network(&s, &s.interfaces[0]).mac
        };
        assert_eq!(mac("a"), mac("a"));
        assert_ne!(mac("a"), mac("b"));
        assert!(mac("a").starts_with("02:"));
    }

    #[test]
    fn only_named_ports_are_forwarded() {
        let spec = MachineSpec::from_vmi(&json!({})).unwrap();
        let network = guest_network(&spec, &spec.interfaces[0]);
        let all = masquerade_ruleset("eth0", "10.42.0.5", &network, &[]);
        assert!(all.contains("\n    dnat to 10.0.2.2\n"), "{all}");
        let some = masquerade_ruleset("eth0", "10.42.0.5", &network, &[("TCP".into(), 5432)]);
        assert!(
            some.contains("tcp dport 5432 dnat to 10.0.2.2") && !some.contains("\n    dnat to"),
            "{some}"
        );
    }
}
