//! The kernel takes every table and every difference between tables.

use std::net::Ipv4Addr;

use host::nft;
use netplan::{Command, Endpoint, HostPort, Protocol, Ruleset, Service, ServicePort};

use crate::node::isolated;

fn node() -> netplan::Node {
    netplan::Node {
        table: "t".into(),
        links: "alm0-*".into(),
        overlay: "almv0".into(),
        gateway: Ipv4Addr::new(10, 42, 0, 1),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        node_cidr: "10.42.0.0/24".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        node_ips: vec![],
    }
}

/// Numbers that look random and are the same in every run.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % limit
    }

    fn coin(&mut self) -> bool {
        self.below(2) == 0
    }

    fn address(&mut self, network: [u8; 3], limit: u64) -> Ipv4Addr {
        let [a, b, c] = network;
        Ipv4Addr::new(a, b, c, 2 + self.below(limit) as u8)
    }

    fn protocol(&mut self) -> Protocol {
        [Protocol::Tcp, Protocol::Udp, Protocol::Sctp][self.below(3) as usize]
    }

    fn service(&mut self, number: u8) -> Service {
        let mut endpoints: Vec<Endpoint> = (0..self.below(4))
            .map(|_| {
                let network = [10, 42, self.below(2) as u8];
                Endpoint {
                    address: self.address(network, 5),
                    port: 8080,
                    ready: self.coin(),
                    serving: true,
                    terminating: true,
                    here: None,
                    near: None,
                }
            })
            .collect();
        endpoints.sort();
        endpoints.dedup_by_key(|e| e.address);
        Service {
            namespace: "default".into(),
            name: format!("s{number}"),
            cluster_ips: vec![Ipv4Addr::new(10, 43, 0, number)],
            external_ips: (0..self.below(2)).map(|_| self.address([203, 0, 113], 2)).collect(),
            load_balancer_ips: (0..self.below(2)).map(|_| self.address([203, 0, 114], 2)).collect(),
            source_ranges: self.coin().then(|| vec!["198.51.100.0/24".parse().unwrap()]),
            affinity: self.coin().then(|| [10, 60][self.below(2) as usize]),
            internal_local: self.coin(),
            external_local: self.coin(),
            ports: vec![ServicePort {
                protocol: self.protocol(),
                port: 80,
                node_port: self.coin().then_some(30000 + number as u16 % 2),
                endpoints,
            }],
        }
    }

    fn table(&mut self) -> Ruleset {
        let mut services = Vec::new();
        for number in 1..5 {
            if self.coin() {
                services.push(self.service(number));
            }
        }
        let host_ports: Vec<HostPort> = (0..self.below(3))
            .map(|_| HostPort {
                protocol: self.protocol(),
                host_ip: self.coin().then_some(Ipv4Addr::new(203, 0, 113, 2)),
                host_port: 30000 + self.below(2) as u16,
                pod: self.address([10, 42, 0], 3),
                pod_port: 80,
            })
            .collect();
        netplan::rules(&node(), &services, &host_ports)
    }
}

fn apply(commands: &[Command]) {
    let lines: Vec<String> = commands.iter().map(Command::to_string).collect();
    let script = lines.join("\n") + "\n";
    nft::apply(&script).unwrap_or_else(|e| panic!("{e}\n{script}"));
}

#[test]
fn differences_are_accepted_and_end_where_a_new_table_would() {
    isolated(|| async {
        let mut numbers = Numbers(7);
        let mut old = numbers.table();
        apply(&netplan::replace(&old));
        for _ in 0..60 {
            let new = numbers.table();
            apply(&netplan::diff(&old, &new));
            old = new;
            let listed = nft::list_table("ip", "t").unwrap().unwrap();
            let count = |what: &str| listed.lines().filter(|l| l.trim_start().starts_with(what)).count();
            assert_eq!(count("chain "), old.chains.len());
            assert_eq!(count("set ") + count("map "), old.sets.len());
            let rules: usize = old.chains.values().map(|c| c.rules.len()).sum();
            let hooks = old.chains.values().filter(|c| c.hook.is_some()).count();
            let sets: Vec<&str> = listed.split("\tchain ").skip(1).collect();
            let lines: usize = sets
                .iter()
                .map(|c| c.lines().filter(|l| l.starts_with("\t\t")).count())
                .sum();
            assert_eq!(lines, rules + hooks, "{listed}");
        }
    });
}
