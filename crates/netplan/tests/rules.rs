//! What the rules of services say, and that differences lead from any table to any other.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use netplan::{Chain, Command, Endpoint, HostPort, Node, Protocol, Ruleset, Service, ServicePort, Set};
use netplan::{diff, replace, rules};
use proptest::prelude::*;

fn node() -> Node {
    Node {
        table: "t".into(),
        links: "alm0-*".into(),
        overlay: "almv0".into(),
        gateway: Ipv4Addr::new(10, 42, 0, 1),
        cluster_cidr: "10.42.0.0/16".parse().unwrap(),
        node_cidr: "10.42.0.0/24".parse().unwrap(),
        service_cidr: "10.43.0.0/16".parse().unwrap(),
        node_ips: vec![Ipv4Addr::new(192, 168, 0, 1)],
    }
}

fn endpoint(address: [u8; 4], ready: bool) -> Endpoint {
    Endpoint {
        address: address.into(),
        port: 8080,
        ready,
        serving: true,
        terminating: !ready,
        here: None,
        near: None,
    }
}

fn web(endpoints: Vec<Endpoint>) -> Service {
    Service {
        namespace: "default".into(),
        name: "web".into(),
        cluster_ips: vec![Ipv4Addr::new(10, 43, 0, 9)],
        ports: vec![ServicePort {
            protocol: Protocol::Tcp,
            port: 80,
            node_port: None,
            endpoints,
        }],
        ..Service::default()
    }
}

fn table(service: &Service) -> Ruleset {
    rules(&node(), std::slice::from_ref(service), &[])
}

const LOCAL: [u8; 4] = [10, 42, 0, 2];
const REMOTE: [u8; 4] = [10, 42, 1, 2];
const KEY: &str = "10.43.0.9 . tcp . 80";

#[test]
fn ready_endpoints_share_the_connections() {
    let got = table(&web(vec![
        endpoint(LOCAL, true),
        endpoint(REMOTE, true),
        endpoint([10, 42, 0, 3], false),
    ]));
    assert_eq!(got.sets["addresses"].elements[KEY], "goto svc/default/web/tcp/80");
    assert_eq!(
        got.chains["svc/default/web/tcp/80"].rules,
        ["meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.42.0.2 . 8080, 1 : 10.42.1.2 . 8080 }"]
    );
    let hairpin: Vec<_> = got.sets["hairpin"].elements.keys().collect();
    assert_eq!(hairpin, ["10.42.0.2 . 10.42.0.2"]);
}

#[test]
fn without_endpoints_connections_are_refused() {
    let mut service = web(vec![]);
    service.ports[0].node_port = Some(30080);
    let got = table(&service);
    assert!(got.sets["addresses"].elements.is_empty() && got.sets["node-ports"].elements.is_empty());
    assert_eq!(got.sets["refused-addresses"].elements[KEY], "goto refuse");
    assert_eq!(got.sets["refused-ports"].elements["tcp . 30080"], "goto refuse");
}

#[test]
fn local_policies_keep_to_the_node() {
    let mut service = web(vec![endpoint(LOCAL, true), endpoint(REMOTE, true)]);
    service.internal_local = true;
    service.external_local = true;
    service.ports[0].node_port = Some(30080);
    let got = table(&service);
    assert_eq!(got.sets["addresses"].elements[KEY], "goto local/default/web/tcp/80");
    let local = &got.chains["local/default/web/tcp/80"].rules;
    assert_eq!(*local, ["meta l4proto tcp dnat ip to 10.42.0.2:8080"]);
    let ext = &got.chains["ext/default/web/tcp/80"].rules;
    assert_eq!(ext[0], "ip saddr 10.42.0.0/16 goto svc/default/web/tcp/80");
    assert_eq!(ext[2], "goto local/default/web/tcp/80");
    service.ports[0].endpoints = vec![endpoint(REMOTE, true)];
    let got = table(&service);
    assert_eq!(got.sets["refused-addresses"].elements[KEY], "drop");
    assert_eq!(got.chains["ext/default/web/tcp/80"].rules[2], "drop");
}

#[test]
fn where_an_endpoint_is_says_its_slice() {
    let at = |address: [u8; 4], here: bool| Endpoint {
        here: Some(here),
        ..endpoint(address, true)
    };
    // On this node with another node's address, and the other way round.
    let mut service = web(vec![at(REMOTE, true), at(LOCAL, false)]);
    service.internal_local = true;
    let got = table(&service);
    let local = &got.chains["local/default/web/tcp/80"].rules;
    assert_eq!(*local, ["meta l4proto tcp dnat ip to 10.42.1.2:8080"]);
}

#[test]
fn what_goes_to_other_nodes_comes_from_a_pod_or_from_the_gateway() {
    let rules = &table(&web(vec![])).chains["nat-postrouting"].rules;
    let at = |what: &str| rules.iter().position(|r| r.contains(what)).unwrap();
    let (foreign, masquerade) = (
        at("ip saddr != 10.42.0.0/16 oifname \"almv0\" snat ip to 10.42.0.1"),
        at("masquerade"),
    );
    assert!(foreign < masquerade);
    for rule in rules {
        assert!(
            !rule.contains("meta mark & 0x4000 == 0x4000") || rule.contains("meta mark set meta mark & 0xffffbfff")
        );
        let pods = rule.contains("ip saddr 10.42.0.0/16");
        assert!(
            !pods || rule.contains("ip daddr != 10.42.0.0/16"),
            "pods keep their addresses among each other: {rule}"
        );
    }
}

#[test]
fn clients_return_to_their_endpoint() {
    let mut service = web(vec![endpoint(LOCAL, true)]);
    service.affinity = Some(60);
    let got = table(&service);
    assert_eq!(
        got.chains["svc/default/web/tcp/80"].rules,
        [
            "ip saddr @seen/60/default/web/tcp/80/10.42.0.2_8080 goto to/default/web/tcp/80/10.42.0.2_8080",
            "numgen random mod 1 vmap { 0 : goto to/default/web/tcp/80/10.42.0.2_8080 }"
        ]
    );
    let set = &got.sets["seen/60/default/web/tcp/80/10.42.0.2_8080"];
    assert_eq!(set.spec, "type ipv4_addr; flags dynamic,timeout; timeout 60s");
}

#[test]
fn only_some_may_use_the_load_balancer() {
    let mut service = web(vec![endpoint(LOCAL, true)]);
    service.load_balancer_ips = vec![Ipv4Addr::new(203, 0, 113, 9)];
    service.source_ranges = Some(vec!["198.51.100.0/24".parse().unwrap()]);
    let got = table(&service);
    let element = &got.sets["addresses"].elements["203.0.113.9 . tcp . 80"];
    assert_eq!(element, "goto from/default/web/tcp/80");
    let from = &got.chains["from/default/web/tcp/80"].rules;
    assert_eq!(
        *from,
        ["ip saddr != { 198.51.100.0/24 } drop", "goto ext/default/web/tcp/80"]
    );
}

#[test]
fn a_service_changes_nothing_of_another() {
    let mut other = web(vec![endpoint(LOCAL, true)]);
    other.name = "other".into();
    other.cluster_ips = vec![Ipv4Addr::new(10, 43, 0, 10)];
    let before = rules(&node(), &[other.clone(), web(vec![endpoint(LOCAL, true)])], &[]);
    let after = rules(&node(), &[other, web(vec![endpoint([10, 42, 0, 3], true)])], &[]);
    let script: Vec<String> = diff(&before, &after).iter().map(Command::to_string).collect();
    assert_eq!(
        script,
        [
            "flush chain ip t svc/default/web/tcp/80",
            "add element ip t hairpin { 10.42.0.3 . 10.42.0.3 }",
            "add rule ip t svc/default/web/tcp/80 meta l4proto tcp dnat ip to 10.42.0.3:8080",
        ]
    );
    assert!(diff(&after, &after).is_empty());
}

/// The kernel, as far as the commands go: refers to nothing that is not there, and lets nothing
/// go that is referred to.
fn carry_out(table: &mut Ruleset, command: &Command) -> Result<(), String> {
    let used = |table: &Ruleset, word: &str| {
        let by = |text: &String| text.split([' ', ',']).any(|w| w == word);
        let rules = table.chains.values().flat_map(|c| &c.rules).any(by);
        rules || table.sets.values().flat_map(|s| s.elements.values()).any(by)
    };
    let chains_known = |table: &Ruleset, text: &str| {
        let words: Vec<&str> = text.split([' ', ',']).collect();
        let known = |p: &[&str]| !matches!(p[0], "goto" | "jump") || table.chains.contains_key(p[1]);
        let sets = words.iter().filter_map(|w| w.strip_prefix('@'));
        words.windows(2).all(known) && sets.into_iter().all(|s| table.sets.contains_key(s))
    };
    let missing = |what: &str| format!("{command}: {what}");
    match command {
        Command::Reset { table: name } => *table = Ruleset::new(name),
        Command::AddChain { name, hook, .. } => {
            let chain = Chain {
                hook: hook.clone(),
                rules: vec![],
            };
            table
                .chains
                .insert(name.clone(), chain)
                .map_or(Ok(()), |_| Err(missing("exists")))?;
        }
        Command::AddSet { name, map, spec, .. } => {
            let set = Set {
                map: *map,
                spec: spec.clone(),
                elements: BTreeMap::new(),
            };
            table
                .sets
                .insert(name.clone(), set)
                .map_or(Ok(()), |_| Err(missing("exists")))?;
        }
        Command::DeleteElements { set, keys, .. } => {
            let set = table.sets.get_mut(set).ok_or_else(|| missing("no set"))?;
            for key in keys {
                set.elements.remove(key).ok_or_else(|| missing("no element"))?;
            }
        }
        Command::FlushChain { name, .. } => {
            table
                .chains
                .get_mut(name)
                .ok_or_else(|| missing("no chain"))?
                .rules
                .clear();
        }
        Command::AddElements { set, elements, .. } => {
            for (key, value) in elements {
                if !chains_known(table, value) {
                    return Err(missing("unknown chain"));
                }
                let set = table.sets.get_mut(set).ok_or_else(|| missing("no set"))?;
                set.elements
                    .insert(key.clone(), value.clone())
                    .map_or(Ok(()), |_| Err(missing("exists")))?;
            }
        }
        Command::AddRule { chain, rule, .. } => {
            if !chains_known(table, rule) {
                return Err(missing("unknown chain or set"));
            }
            table
                .chains
                .get_mut(chain)
                .ok_or_else(|| missing("no chain"))?
                .rules
                .push(rule.clone());
        }
        Command::DeleteChain { name, .. } => {
            if used(table, name) || table.chains.get(name).is_none_or(|c| !c.rules.is_empty()) {
                return Err(missing("in use or not empty"));
            }
            table.chains.remove(name);
        }
        Command::DeleteSet { name, .. } => {
            let set = table.sets.get(name).ok_or_else(|| missing("no set"))?;
            let holds_chains = set.map && !set.elements.is_empty();
            if used(table, &format!("@{name}")) || holds_chains {
                return Err(missing("in use"));
            }
            table.sets.remove(name);
        }
    }
    Ok(())
}

prop_compose! {
    fn any_service()(name in 0..4u8, ends in prop::collection::btree_map(2..6u8, any::<(bool, bool)>(), 0..4),
        node_port in prop::option::of(30000..30003u16), affinity in prop::option::of(prop_oneof![Just(10u32), Just(60)]),
        local in any::<(bool, bool)>(), external in prop::option::of(1..3u8), ranges in any::<bool>(),
        udp in any::<bool>()) -> Service
    {
        let endpoints = ends.iter().map(|(n, (here, ready))| endpoint([10, 42, u8::from(!*here), *n], *ready));
        let mut service = web(endpoints.collect());
        service.name = format!("s{name}");
        service.cluster_ips = vec![Ipv4Addr::new(10, 43, 0, name + 1)];
        service.external_ips = external.iter().map(|n| Ipv4Addr::new(203, 0, 113, *n)).collect();
        service.load_balancer_ips = external.iter().map(|n| Ipv4Addr::new(203, 0, 114, *n)).collect();
        service.source_ranges = ranges.then(|| vec!["198.51.100.0/24".parse().unwrap()]);
        service.affinity = affinity;
        (service.internal_local, service.external_local) = local;
        service.ports[0].node_port = node_port;
        service.ports[0].protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
        service
    }
}

prop_compose! {
    fn any_host_port()(host_ip in any::<bool>(), host_port in 30000..30003u16, pod in 2..5u8) -> HostPort {
        HostPort {
            protocol: Protocol::Tcp,
            host_ip: host_ip.then_some(Ipv4Addr::new(203, 0, 113, 1)),
            host_port,
            pod: Ipv4Addr::new(10, 42, 0, pod),
            pod_port: 80,
        }
    }
}

fn any_table() -> impl Strategy<Value = Ruleset> {
    let services = prop::collection::vec(any_service(), 0..5);
    let host_ports = prop::collection::vec(any_host_port(), 0..3);
    (services, host_ports).prop_map(|(mut services, host_ports)| {
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services.dedup_by(|a, b| a.name == b.name);
        rules(&node(), &services, &host_ports)
    })
}

proptest! {
    #[test]
    fn differences_lead_from_any_table_to_any_other(old in any_table(), new in any_table()) {
        let mut table = old.clone();
        for command in diff(&old, &new) {
            carry_out(&mut table, &command).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&table, &new);
        for command in replace(&old) {
            carry_out(&mut table, &command).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&table, &old);
    }
}
