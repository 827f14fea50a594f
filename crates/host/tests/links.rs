//! Links, namespaces, rules and tracked connections in a namespace of the test's own. Needs root.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use host::link::{Links, Route, set_sysctl};
use host::{conntrack, netns, nft};

const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);
const POD: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 2);

/// Runs a test on a thread whose network is new and ends with it.
fn isolated(test: impl FnOnce() + Send + 'static) {
    let thread = std::thread::spawn(move || {
        netns::isolate().unwrap();
        test();
    });
    thread.join().unwrap();
}

/// A namespace that goes with the test, also when it fails.
struct Place(PathBuf);

impl Drop for Place {
    fn drop(&mut self) {
        let _ = netns::remove(&self.0);
    }
}

fn pod(links: &mut Links, namespace: &File) {
    let here = links.veth("pod-2", "eth0", namespace, 1500).unwrap();
    let route = Route {
        to: (POD, 32),
        via: None,
        source: Some(GATEWAY),
    };
    links.route(here, &route).unwrap();
    netns::inside(namespace, || {
        let mut links = Links::open()?;
        let eth0 = links.get("eth0")?.unwrap();
        assert_eq!(eth0.mac.len(), 17);
        links.address(eth0.index, POD, 32)?;
        links.address(eth0.index, POD, 32)?;
        links.up(eth0.index)?;
        let mut route = Route {
            to: (GATEWAY, 32),
            via: None,
            source: None,
        };
        links.route(eth0.index, &route)?;
        route.to = (Ipv4Addr::UNSPECIFIED, 0);
        route.via = Some(GATEWAY);
        links.route(eth0.index, &route)
    })
    .unwrap();
}

#[test]
fn a_namespace_is_reached_over_a_pair_of_links() {
    isolated(|| {
        let dir = tempfile::tempdir().unwrap();
        let place = Place(dir.path().join("pod"));
        netns::create(&place.0).unwrap();
        let namespace = File::open(&place.0).unwrap();
        let mut links = Links::open().unwrap();
        let bridge = links.bridge("test0").unwrap();
        assert_eq!(links.bridge("test0").unwrap(), bridge);
        links.address(bridge, GATEWAY, 32).unwrap();
        set_sysctl("net/ipv4/ip_forward", "1").unwrap();
        let started = Instant::now();
        pod(&mut links, &namespace);
        println!("attached in {:?}", started.elapsed());
        let listener = netns::inside(&namespace, || TcpListener::bind((POD, 80))).unwrap();
        let server = std::thread::spawn(move || -> io::Result<SocketAddrV4> {
            let (mut stream, from) = listener.accept()?;
            stream.write_all(b"hello")?;
            match from {
                std::net::SocketAddr::V4(v4) => Ok(v4),
                std::net::SocketAddr::V6(_) => Err(io::ErrorKind::Other.into()),
            }
        });
        let mut stream = TcpStream::connect_timeout(&(POD, 80).into(), Duration::from_secs(5)).unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        assert_eq!(said, "hello");
        assert_eq!(*server.join().unwrap().unwrap().ip(), GATEWAY);
        let names: Vec<String> = links.list().unwrap().into_iter().map(|l| l.name).collect();
        assert!(names.contains(&"pod-2".to_owned()) && names.contains(&"test0".to_owned()));
        let started = Instant::now();
        links.delete("pod-2").unwrap();
        println!("deleted in {:?}", started.elapsed());
        links.delete("pod-2").unwrap();
        assert_eq!(links.get("pod-2").unwrap(), None);
    });
}

#[test]
fn rules_are_applied_whole_or_not_at_all() {
    isolated(|| {
        let bad = "add table ip t\nadd chain ip t good\nadd rule ip t good frobnicate\n";
        let error = nft::apply(bad).unwrap_err().to_string();
        assert!(error.contains("line 3") && error.contains("frobnicate"), "{error}");
        assert!(!nft::has_table("ip", "t").unwrap());
        nft::apply("add table ip t\nadd chain ip t good\n").unwrap();
        assert!(nft::list_table("ip", "t").unwrap().unwrap().contains("chain good"));
        nft::delete_table("ip", "t").unwrap();
        nft::delete_table("ip", "t").unwrap();
        assert!(!nft::has_table("ip", "t").unwrap());
    });
}

#[test]
fn tracked_connections_are_forgotten() {
    isolated(|| {
        let mut links = Links::open().unwrap();
        let lo = links.get("lo").unwrap().unwrap();
        links.up(lo.index).unwrap();
        // Any rule that looks at a connection's state makes the kernel track.
        nft::apply(concat!(
            "table ip t {\n chain c {\n type nat hook output priority -100\n",
            "ip daddr 127.0.0.9 udp dport 9 dnat to 127.0.0.1:1009\n}\n}\n"
        ))
        .unwrap();
        let server = UdpSocket::bind("127.0.0.1:1009").unwrap();
        let client = UdpSocket::bind("127.0.0.1:0").unwrap();
        client.send_to(b"x", "127.0.0.9:9").unwrap();
        let mut buffer = [0; 1];
        server.recv_from(&mut buffer).unwrap();
        let stale = |flow: &conntrack::Flow| {
            flow.protocol == 17
                && flow.destination == SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 9), 9)
                && flow.answered_by == SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1009)
        };
        assert_eq!(conntrack::forget(&|f| f.protocol == 6).unwrap(), 0);
        assert_eq!(conntrack::forget(&stale).unwrap(), 1);
        assert_eq!(conntrack::forget(&stale).unwrap(), 0);
    });
}
