//! Pods on the network: among each other, with the node and with the world, over restarts.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, TcpListener};
use std::time::Instant;

use host::link::Links;
use host::nft;
use runtime::{PodNetwork, PortMapping};

use crate::node::{GATEWAY, NODE, Node, Place, WORLD, ask, eventually, is_refused, isolated, serve};

#[test]
fn pods_reach_each_other_the_node_and_the_world() {
    isolated(|| async {
        let node = Node::new().await;
        let started = Instant::now();
        let a = node.pod("a").await;
        println!("attached in {:?}", started.elapsed());
        let b = node.pod("b").await;
        assert_eq!(a.address.gateway, IpAddr::V4(GATEWAY));
        assert_eq!((a.address.prefix, a.address.mtu), (32, 1400));
        assert_eq!(a.place.ask((b.address.ip, 80)).unwrap(), ("b".into(), a.address.ip));
        assert_eq!(ask((b.address.ip, 80)).unwrap(), ("b".into(), GATEWAY.into()));
        serve(TcpListener::bind((NODE, 81)).unwrap(), "node".into());
        assert_eq!(a.place.ask((NODE, 81)).unwrap(), ("node".into(), a.address.ip));
        node.world.serve("world", 82);
        eventually("pods have the node's address outside", || {
            a.place
                .ask((WORLD, 82))
                .is_ok_and(|answer| answer == ("world".into(), NODE.into()))
        })
        .await;
    });
}

#[test]
fn attaching_twice_and_restarting_change_nothing() {
    isolated(|| async {
        let mut node = Node::new().await;
        let a = node.pod("a").await;
        let again = node.network.attach("a", &a.place.path, &[]).await.unwrap();
        assert_eq!(again, a.address);
        node.restart().await;
        assert!(ask((a.address.ip, 80)).is_ok());
        let again = node.network.attach("a", &a.place.path, &[]).await.unwrap();
        assert_eq!(again, a.address);
        // A link that someone removed is made again.
        Links::open().unwrap().delete("alm0-2").unwrap();
        node.restart().await;
        assert!(ask((a.address.ip, 80)).is_ok());
        // A sandbox whose namespace went while nobody looked is forgotten.
        let b = node.pod("b").await;
        node.network.clone().stop().await;
        host::netns::remove(&b.place.path).unwrap();
        node.restart().await;
        eventually("the link has gone", || {
            Links::open().unwrap().get("alm0-3").unwrap().is_none()
        })
        .await;
        let state = fs::read_to_string(node.dir.path().join("agent/network.json")).unwrap();
        assert!(
            state.contains("10.42.0.2") && !state.contains("\"10.42.0.3\":"),
            "{state}"
        );
        assert!(!state.contains("\"b\""), "{state}");
        let c = node.pod("c").await;
        assert_eq!(c.address.ip.to_string(), "10.42.0.4");
    });
}

#[test]
fn detached_is_gone_and_purged_is_as_before() {
    isolated(|| async {
        let node = Node::new().await;
        let a = node.pod("a").await;
        let started = Instant::now();
        node.network.detach(&a.id).await.unwrap();
        println!("detached in {:?}", started.elapsed());
        node.network.detach(&a.id).await.unwrap();
        node.network.detach("never seen").await.unwrap();
        assert!(Links::open().unwrap().get("alm0-2").unwrap().is_none());
        let _b = node.pod("b").await;
        node.network.clone().stop().await;
        let config = Node::config(&node.dir);
        let left = Place::new(node.dir.path().join("run/netns/left"));
        network::purge(&config).unwrap();
        network::purge(&config).unwrap();
        let mut links: Vec<String> = Links::open()
            .unwrap()
            .list()
            .unwrap()
            .into_iter()
            .map(|l| l.name)
            .collect();
        links.sort();
        assert_eq!(links, ["lo", "uplink"]);
        assert!(!nft::has_table("ip", "allmend").unwrap() && !left.path.exists());
        assert!(host::netns::mounted_below(node.dir.path()).unwrap().is_empty());
    });
}

#[test]
fn many_pods_come_and_go_at_once() {
    isolated(|| async {
        let node = Node::new().await;
        let places: Vec<Place> = (0..60)
            .map(|n| Place::new(node.dir.path().join(format!("pods/{n}"))))
            .collect();
        let attach = places.iter().enumerate().map(|(n, place)| {
            let network = node.network.clone();
            async move { network.attach(&n.to_string(), &place.path, &[]).await.unwrap().ip }
        });
        let started = Instant::now();
        let addresses: BTreeSet<IpAddr> = futures::future::join_all(attach).await.into_iter().collect();
        println!("60 attached in {:?}", started.elapsed());
        assert_eq!(addresses.len(), 60);
        let detach = (0..60).map(|n| {
            let network = node.network.clone();
            async move { network.detach(&n.to_string()).await.unwrap() }
        });
        let started = Instant::now();
        futures::future::join_all(detach).await;
        println!("60 detached in {:?}", started.elapsed());
        assert!(
            !Links::open()
                .unwrap()
                .list()
                .unwrap()
                .iter()
                .any(|link| link.name.starts_with("alm0-"))
        );
    });
}

#[test]
fn a_namespace_that_is_not_there_costs_no_address() {
    isolated(|| async {
        let node = Node::new().await;
        let error = node
            .network
            .attach("x", &node.dir.path().join("nowhere"), &[])
            .await
            .unwrap_err();
        assert!(error.to_string().starts_with("cannot connect the sandbox: "), "{error}");
        assert!(Links::open().unwrap().get("alm0-2").unwrap().is_none());
        let state = fs::read_to_string(node.dir.path().join("agent/network.json")).unwrap();
        assert!(!state.contains("\"x\""), "{state}");
    });
}

#[test]
fn host_ports_lead_to_pods_and_end_with_them() {
    isolated(|| async {
        let node = Node::new().await;
        let port = |protocol: &str, host_port, host_ip: &str| PortMapping {
            protocol: protocol.into(),
            container_port: 80,
            host_port,
            host_ip: host_ip.into(),
        };
        let ports = [port("TCP", 8080, ""), port("TCP", 8081, "127.0.0.1")];
        let a = node.pod_with("a", &ports).await;
        assert_eq!(node.world.ask((NODE, 8080)).unwrap(), ("a".into(), WORLD.into()));
        assert_eq!(ask((NODE, 8080)).unwrap().0, "a");
        assert_eq!(ask(([127, 0, 0, 1], 8080)).unwrap(), ("a".into(), GATEWAY.into()));
        assert_eq!(a.place.ask((NODE, 8080)).unwrap(), ("a".into(), GATEWAY.into()));
        assert_eq!(ask(([127, 0, 0, 1], 8081)).unwrap().0, "a");
        assert!(is_refused(&node.world.ask((NODE, 8081))));
        node.network.detach("a").await.unwrap();
        eventually("the port is closed", || is_refused(&node.world.ask((NODE, 8080)))).await;
    });
}
