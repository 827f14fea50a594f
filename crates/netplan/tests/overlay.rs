//! What the way to other nodes' pods consists of, and that differences lead from any state to any other.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use netplan::Cidr;
use netplan::overlay::{Change, Here, Mac, Overlay, Peer, Way, changes, overlay, pod_mtu};
use proptest::prelude::*;

fn cidr(text: &str) -> Cidr {
    text.parse().unwrap()
}

fn here() -> Here {
    Here {
        vni: 7,
        port: 8472,
        mtu: 1450,
        address: Ipv4Addr::new(192, 0, 2, 1),
        cluster_cidr: cidr("10.42.0.0/16"),
        node_cidr: cidr("10.42.0.0/24"),
        gateway: Ipv4Addr::new(10, 42, 0, 1),
    }
}

fn peer(name: &str, subnet: &str, last: u8) -> Peer {
    Peer {
        name: name.into(),
        subnet: cidr(subnet),
        address: Ipv4Addr::new(192, 0, 2, last),
    }
}

fn plan(peers: &[Peer]) -> Overlay {
    let (overlay, unusable) = overlay(&here(), peers);
    assert_eq!(unusable, []);
    overlay
}

#[test]
fn pods_leave_room_for_what_carries_them() {
    let table = [
        (Some(1500), 1450),
        (Some(9000), 8950),
        (Some(1460), 1410),
        (Some(65_536), 1450),
        (None, 1450),
        (Some(68), 576),
        (Some(0), 576),
    ];
    for (device, pods) in table {
        assert_eq!(pod_mtu(device), pods, "{device:?}");
    }
}

#[test]
fn a_peer_is_a_route_a_neighbour_and_a_forwarding_entry() {
    let got = plan(&[peer("b", "10.42.1.0/24", 2)]);
    let (gateway, mac) = (Ipv4Addr::new(10, 42, 1, 1), Mac::of(cidr("10.42.1.0/24")));
    let way = Way {
        via: Some(gateway),
        source: Some(here().gateway),
    };
    assert_eq!(got.routes, BTreeSet::from([(cidr("10.42.1.0/24"), way)]));
    assert_eq!(got.neighbours, BTreeSet::from([(gateway, mac)]));
    assert_eq!(got.forwarding, BTreeSet::from([(mac, Ipv4Addr::new(192, 0, 2, 2))]));
    let device = got.device.unwrap();
    assert_eq!((device.local, device.mac), (here().address, Mac::of(here().node_cidr)));
    assert_eq!(device.mac.to_string(), "0a:a1:0a:2a:00:00");
    assert!(mac.0[0] & 2 == 2 && mac.0[0] & 1 == 0, "locally administered, for one");
}

#[test]
fn without_peers_there_is_nothing() {
    assert_eq!(plan(&[]), Overlay::default());
    let full = plan(&[peer("b", "10.42.1.0/24", 2)]);
    assert_eq!(changes(&full, &plan(&[])), [Change::RemoveDevice]);
    assert_eq!(changes(&plan(&[]), &plan(&[])), []);
    assert!(matches!(
        changes(&plan(&[]), &full)[..],
        [Change::MakeDevice(_), _, _, Change::SetRoute(..)]
    ));
}

#[test]
fn who_cannot_be_a_peer_is_said_and_harms_nobody() {
    let peers = [
        peer("z", "10.42.1.0/24", 9),
        peer("b", "10.42.1.0/24", 2),
        peer("wide", "10.0.0.0/8", 3),
        peer("far", "10.99.0.0/24", 4),
        peer("own", "10.42.0.128/25", 5),
        peer("self", "10.42.2.0/24", 1),
        peer("tiny", "10.42.3.0/31", 6),
    ];
    let (got, unusable) = overlay(&here(), &peers);
    assert_eq!(got, plan(&peers[1..2]));
    let said: Vec<String> = unusable.iter().map(ToString::to_string).collect();
    assert_eq!(
        said,
        [
            "node wide: its subnet 10.0.0.0/8 is not part of the cluster's 10.42.0.0/16",
            "node own: its subnet 10.42.0.128/25 overlaps 10.42.0.0/24 of this node",
            "node z: its subnet 10.42.1.0/24 overlaps 10.42.1.0/24 of node b",
            "node self: it has the address 192.0.2.1, as this node has",
            "node tiny: its subnet 10.42.3.0/31 is too small",
            "node far: its subnet 10.99.0.0/24 is not part of the cluster's 10.42.0.0/16",
        ]
    );
}

#[test]
fn a_node_with_another_address_is_forwarded_to_without_a_gap() {
    let (old, new) = (
        plan(&[peer("b", "10.42.1.0/24", 2)]),
        plan(&[peer("b", "10.42.1.0/24", 3)]),
    );
    let mac = Mac::of(cidr("10.42.1.0/24"));
    assert_eq!(
        changes(&old, &new),
        [Change::SetForwarding(mac, Ipv4Addr::new(192, 0, 2, 3))]
    );
}

/// The kernel, as far as the changes go.
fn carry_out(state: &mut Overlay, change: &Change) -> Result<(), String> {
    let device = state.device.is_some();
    let must = |so: bool| if so { Ok(()) } else { Err(format!("{change:?}")) };
    match change {
        Change::RemoveDevice => {
            must(device)?;
            *state = Overlay::default();
        }
        Change::MakeDevice(made) => {
            must(!device)?;
            state.device = Some(made.clone());
        }
        Change::RemoveRoute(to, way) => must(state.routes.remove(&(*to, *way)))?,
        Change::RemoveNeighbour(ip) => {
            let before = state.neighbours.len();
            state.neighbours.retain(|(other, _)| other != ip);
            must(state.neighbours.len() < before)?;
        }
        Change::RemoveForwarding(mac, to) => must(state.forwarding.remove(&(*mac, *to)))?,
        Change::SetForwarding(mac, to) => {
            must(device)?;
            state.forwarding.retain(|(other, _)| other != mac);
            state.forwarding.insert((*mac, *to));
        }
        Change::SetNeighbour(ip, mac) => {
            must(device)?;
            state.neighbours.retain(|(other, _)| other != ip);
            state.neighbours.insert((*ip, *mac));
        }
        Change::SetRoute(to, way) => {
            // A packet on its way must find whom to go to.
            must(
                way.via
                    .is_none_or(|via| state.neighbours.iter().any(|(ip, _)| *ip == via)),
            )?;
            state.routes.retain(|(other, _)| other != to);
            state.routes.insert((*to, *way));
        }
    }
    Ok(())
}

prop_compose! {
    fn any_peers()(peers in prop::collection::btree_map(0..5u8, 1..6u8, 0..5)) -> Vec<Peer> {
        let peer = |(subnet, last): (&u8, &u8)| peer(&format!("n{subnet}"), &format!("10.42.{subnet}.0/24"), *last);
        peers.iter().map(peer).collect()
    }
}

prop_compose! {
    /// What peers left, without some of it, with something else besides, or of another device.
    fn any_state()(peers in any_peers(), lost in any::<(bool, bool, bool)>(), more in any::<(bool, bool)>(),
        vni in prop_oneof![3 => Just(7u32), 1 => Just(8)]) -> Overlay
    {
        let (mut state, _) = overlay(&Here { vni, ..here() }, &peers);
        if state.device.is_some() {
            if lost.0 { state.routes.pop_first(); }
            if lost.1 { state.neighbours.pop_first(); }
            if lost.2 { state.forwarding.pop_first(); }
            let mac = Mac::of(cidr("10.42.1.0/24"));
            if more.0 { state.forwarding.insert((mac, Ipv4Addr::new(203, 0, 113, 1))); }
            if more.1 { state.routes.insert((cidr("10.42.1.0/24"), Way { via: None, source: None })); }
        }
        state
    }
}

proptest! {
    #[test]
    fn changes_lead_from_any_state_to_what_is_wanted(old in any_state(), peers in any_peers()) {
        let (want, _) = overlay(&here(), &peers);
        let mut state = old.clone();
        for change in changes(&old, &want) {
            carry_out(&mut state, &change).map_err(TestCaseError::fail)?;
        }
        prop_assert_eq!(&state, &want);
        prop_assert_eq!(changes(&state, &want), []);
    }
}
