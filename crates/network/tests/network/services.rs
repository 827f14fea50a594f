//! Services: who is reached, from where, and who is not.

use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use host::netns;
use runtime::ServiceRules;
use serde_json::json;

use crate::node::{GATEWAY, NODE, Node, WORLD, ask, eventually, is_refused, isolated, serve};

const IP: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);

fn to(port: u16) -> (IpAddr, u16) {
    (IP.into(), port)
}

#[test]
fn a_service_is_reached_by_its_ready_endpoints() {
    isolated(|| async {
        let node = Node::new().await;
        let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
        node.api
            .service("web", json!({"clusterIP": IP, "ports": [{"port": 8000}]}));
        eventually("refused without endpoints", || is_refused(&client.place.ask(to(8000)))).await;
        assert!(is_refused(&ask(to(8000))));
        assert!(
            is_refused(&client.place.ask((Ipv4Addr::new(10, 43, 9, 9), 1))),
            "an address that nobody has"
        );

        node.api
            .endpoints("web", "TCP", &[(a.address.ip, true), (b.address.ip, true)]);
        let started = Instant::now();
        eventually("reached", || client.place.ask(to(8000)).is_ok()).await;
        println!("in force after {:?}", started.elapsed());
        let mut seen = std::collections::BTreeSet::new();
        eventually("both answer", || {
            let (name, from) = client.place.ask(to(8000)).unwrap();
            assert_eq!(from, client.address.ip, "pods keep their address");
            seen.insert(name);
            seen.len() == 2
        })
        .await;
        assert_eq!(ask(to(8000)).unwrap().1, IpAddr::V4(GATEWAY));
        assert!(
            is_refused(&client.place.ask(to(8001))),
            "a port that the service does not have"
        );

        node.api
            .endpoints("web", "TCP", &[(a.address.ip, false), (b.address.ip, true)]);
        eventually("only b answers", || (0..20).all(|_| ask(to(8000)).unwrap().0 == "b")).await;
        // A pod that reaches itself is seen with the gateway's address.
        assert_eq!(b.place.ask(to(8000)).unwrap(), ("b".into(), GATEWAY.into()));

        node.api
            .endpoints("web", "TCP", &[(a.address.ip, false), (b.address.ip, false)]);
        eventually("refused again", || is_refused(&client.place.ask(to(8000)))).await;
        node.api.delete("services", "web");
        node.api
            .service("other", json!({"clusterIP": IP, "ports": [{"port": 8000}]}));
        node.api.endpoints("other", "TCP", &[(a.address.ip, true)]);
        eventually("the address has a new owner", || {
            ask(to(8000)).is_ok_and(|answer| answer.0 == "a")
        })
        .await;
    });
}

#[test]
fn clients_stay_with_their_endpoint() {
    isolated(|| async {
        let node = Node::new().await;
        let pods = [node.pod("a").await, node.pod("b").await, node.pod("c").await];
        let ends: Vec<_> = pods.iter().map(|p| (p.address.ip, true)).collect();
        node.api.endpoints("web", "TCP", &ends);
        let spec = json!({"clusterIP": IP, "ports": [{"port": 80}], "sessionAffinity": "ClientIP"});
        node.api.service("web", spec);
        eventually("reached", || ask(to(80)).is_ok()).await;
        let first = ask(to(80)).unwrap().0;
        assert!((0..20).all(|_| ask(to(80)).unwrap().0 == first));
        let rest: Vec<_> = ends
            .iter()
            .zip(["a", "b", "c"])
            .map(|(e, name)| (e.0, name != first))
            .collect();
        node.api.endpoints("web", "TCP", &rest);
        eventually("another one answers", || ask(to(80)).unwrap().0 != first).await;
        let second = ask(to(80)).unwrap().0;
        assert!((0..20).all(|_| ask(to(80)).unwrap().0 == second));
    });
}

#[test]
fn node_ports_answer_on_all_addresses() {
    isolated(|| async {
        let node = Node::new().await;
        let a = node.pod("a").await;
        let spec = |policy: &str| {
            let port = json!({"port": 80, "nodePort": 30080});
            json!({"type": "NodePort", "clusterIP": IP, "ports": [port], "externalTrafficPolicy": policy,
                "externalIPs": ["198.51.100.7"]})
        };
        node.api.service("web", spec("Cluster"));
        eventually("refused", || is_refused(&node.world.ask((NODE, 30080)))).await;
        assert!(is_refused(&ask(([127, 0, 0, 1], 30080))));
        node.api.endpoints("web", "TCP", &[(a.address.ip, true)]);
        eventually("reached", || node.world.ask((NODE, 30080)).is_ok()).await;
        assert_eq!(node.world.ask((NODE, 30080)).unwrap(), ("a".into(), GATEWAY.into()));
        for local in [NODE, Ipv4Addr::LOCALHOST, GATEWAY] {
            assert_eq!(ask((local, 30080)).unwrap().0, "a", "{local}");
        }
        assert_eq!(a.place.ask((NODE, 30080)).unwrap().0, "a");
        assert_eq!(a.place.ask((Ipv4Addr::new(198, 51, 100, 7), 80)).unwrap().0, "a");

        node.api.service("web", spec("Local"));
        eventually("clients keep their address", || {
            node.world
                .ask((NODE, 30080))
                .is_ok_and(|answer| answer == ("a".into(), WORLD.into()))
        })
        .await;
        assert_eq!(ask(([127, 0, 0, 1], 30080)).unwrap().0, "a");
        let remote = Ipv4Addr::new(10, 42, 7, 7).into();
        node.api.endpoints("web", "TCP", &[(remote, true)]);
        eventually("dropped where there is no local endpoint", || {
            node.world
                .ask((NODE, 30080))
                .is_err_and(|e| e.kind() == std::io::ErrorKind::TimedOut)
        })
        .await;
    });
}

#[test]
fn the_node_itself_can_be_an_endpoint() {
    isolated(|| async {
        let node = Node::new().await;
        let client = node.pod("client").await;
        serve(TcpListener::bind((NODE, 80)).unwrap(), "node".into());
        node.api.endpoints("kubernetes", "TCP", &[(NODE.into(), true)]);
        let ports = json!([{"port": 443}]);
        node.api.service(
            "kubernetes",
            json!({"clusterIP": IP, "ports": ports, "internalTrafficPolicy": "Local"}),
        );
        eventually("reached", || ask(to(443)).is_ok()).await;
        assert_eq!(client.place.ask(to(443)).unwrap(), ("node".into(), client.address.ip));
    });
}

#[test]
fn udp_clients_follow_their_service() {
    isolated(|| async {
        let node = Node::new().await;
        let (a, b, client) = (node.pod("a").await, node.pod("b").await, node.pod("client").await);
        node.api.endpoints("dns", "UDP", &[(a.address.ip, true)]);
        node.api.service(
            "dns",
            json!({"clusterIP": IP, "ports": [{"port": 53, "protocol": "UDP"}]}),
        );
        let socket = netns::inside(&client.place.file, || UdpSocket::bind("0.0.0.0:0")).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        let answer = || {
            let mut buffer = [0; 16];
            socket.send_to(b"?", to(53)).ok()?;
            let (length, _) = socket.recv_from(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
        };
        eventually("a answers", || answer().as_deref() == Some("a")).await;
        node.api.endpoints("dns", "UDP", &[(b.address.ip, true)]);
        eventually("b answers on the same socket", || answer().as_deref() == Some("b")).await;
    });
}

#[test]
fn who_waits_for_an_endpoint_to_leave_sees_it_gone() {
    isolated(|| async {
        let node = Node::new().await;
        let (a, b) = (node.pod("a").await, node.pod("b").await);
        let both = [(a.address.ip, true), (b.address.ip, true)];
        let only_b = [(a.address.ip, false), (b.address.ip, true)];
        node.api
            .service("web", json!({"clusterIP": IP, "ports": [{"port": 80}]}));
        for _ in 0..10 {
            node.api.endpoints("web", "TCP", &both);
            eventually("a answers", || ask(to(80)).is_ok_and(|said| said.0 == "a")).await;
            let withdrawn = node.network.withdrawn(Some(a.address.ip));
            tokio::pin!(withdrawn);
            let early = tokio::time::timeout(Duration::from_millis(50), withdrawn.as_mut()).await;
            assert!(early.is_err(), "it is still there");
            let started = Instant::now();
            node.api.endpoints("web", "TCP", &only_b);
            withdrawn.await;
            println!("withdrawn after {:?}", started.elapsed());
            assert!((0..20).all(|_| ask(to(80)).unwrap().0 == "b"));
        }
        // Nobody is to wait for what cannot come.
        node.network.withdrawn(Some(a.address.ip)).await;
        node.network.withdrawn(Some("fd00::1".parse().unwrap())).await;
        node.network.withdrawn(None).await;
    });
}

#[test]
fn services_survive_a_restart_and_a_lost_table() {
    isolated(|| async {
        let mut node = Node::new().await;
        let a = node.pod("a").await;
        node.api.endpoints("web", "TCP", &[(a.address.ip, true)]);
        node.api
            .service("web", json!({"clusterIP": IP, "ports": [{"port": 80}]}));
        eventually("reached", || ask(to(80)).is_ok()).await;
        node.network.clone().stop().await;
        assert!(ask(to(80)).is_ok(), "without an agent");
        node.restart().await;
        assert!(ask(to(80)).is_ok(), "while the agent starts");
        node.api
            .service("more", json!({"clusterIP": "10.43.0.10", "ports": [{"port": 80}]}));
        node.api.endpoints("more", "TCP", &[(a.address.ip, true)]);
        let more = Ipv4Addr::new(10, 43, 0, 10);
        eventually("the second one", || ask((more, 80)).is_ok()).await;
        host::nft::delete_table("ip", "allmend").unwrap();
        node.api.delete("services", "more");
        eventually("made anew", || ask(to(80)).is_ok()).await;
        assert!(is_refused(&ask((more, 80))));
    });
}
