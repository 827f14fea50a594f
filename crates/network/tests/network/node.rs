//! A node for tests: a network namespace with an agent, pods that answer, and a world outside.

use std::fs::File;
use std::future::Future;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use host::link::Links;
use host::netns;
use informer::Informers;
use network::{Config, Network};
use runtime::{PodAddress, PodNetwork, PortMapping};

use crate::api::Api;

pub const NODE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const WORLD: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 42, 0, 1);

/// A namespace that goes with its owner.
pub struct Place {
    pub path: PathBuf,
    pub file: File,
}

impl Place {
    pub fn new(path: PathBuf) -> Self {
        netns::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        Place { path, file }
    }

    /// Who answers at an address, and which address they see; from here.
    pub fn ask(&self, to: impl Into<SocketAddr>) -> io::Result<(String, IpAddr)> {
        let to = to.into();
        netns::inside(&self.file, || ask(to))
    }

    /// Answers over TCP, here.
    pub fn serve(&self, name: &str, port: u16) {
        let listener = netns::inside(&self.file, || TcpListener::bind(("0.0.0.0", port))).unwrap();
        serve(listener, name.to_owned());
    }

    /// Answers over UDP, here.
    pub fn serve_udp(&self, name: &str, port: u16) {
        let socket = netns::inside(&self.file, || UdpSocket::bind(("0.0.0.0", port))).unwrap();
        let name = name.to_owned();
        std::thread::spawn(move || {
            let mut buffer = [0; 16];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = netns::remove(&self.path);
    }
}

pub struct Pod {
    pub place: Place,
    pub id: String,
    pub address: PodAddress,
}

pub struct Node {
    pub dir: tempfile::TempDir,
    pub api: Arc<Api>,
    pub network: Network,
    pub world: Place,
}

impl Node {
    pub fn config(dir: &tempfile::TempDir) -> Config {
        Config {
            data_dir: dir.path().to_owned(),
            bridge: "alm0".into(),
            node_name: "a".into(),
            overlay: "almv0".into(),
            vni: 7,
            vxlan_port: network::VXLAN_PORT,
            cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
            node_cidr: (Ipv4Addr::new(10, 42, 0, 0), 24),
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            table: "allmend".into(),
            node_ips: vec![NODE.into()],
            mtu: 1400,
            proxy: true,
        }
    }

    pub async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let world = Place::new(dir.path().join("world"));
        connect_world(&world).unwrap();
        let api = Arc::new(Api::default());
        let network = start(&dir, &api).await;
        Node {
            dir,
            api,
            network,
            world,
        }
    }

    pub async fn restart(&mut self) {
        self.network.clone().stop().await;
        self.network = start(&self.dir, &self.api).await;
    }

    pub async fn pod(&self, name: &str) -> Pod {
        self.pod_with(name, &[]).await
    }

    /// A pod that answers at port 80 with its name.
    pub async fn pod_with(&self, name: &str, ports: &[PortMapping]) -> Pod {
        let place = Place::new(self.dir.path().join("pods").join(name));
        let address = self.network.attach(name, &place.path, ports).await.unwrap();
        place.serve(name, 80);
        place.serve_udp(name, 80);
        Pod {
            place,
            id: name.to_owned(),
            address,
        }
    }
}

async fn start(dir: &tempfile::TempDir, api: &Arc<Api>) -> Network {
    let informers = Arc::new(Informers::new(api.clone()));
    Network::start(Node::config(dir), informers).await.unwrap()
}

fn connect_world(world: &Place) -> io::Result<()> {
    let mut links = Links::open()?;
    let lo = links.get("lo")?.unwrap();
    links.up(lo.index)?;
    let here = links.veth("uplink", "eth0", &world.file, 1500)?;
    links.address(here, NODE, 24)?;
    netns::inside(&world.file, || {
        let mut links = Links::open()?;
        let there = links.get("eth0")?.unwrap();
        links.address(there.index, WORLD, 24)?;
        links.up(there.index)
    })
}

/// Runs a test on a thread of its own whose network, and that of all threads and programs it
/// starts, is new.
pub fn isolated<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    let thread = std::thread::spawn(move || {
        netns::isolate().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(test());
        runtime.shutdown_timeout(Duration::from_secs(1));
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !is_so() {
        assert!(Instant::now() < until, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Answers each connection with a name and the address it comes from.
pub fn serve(listener: TcpListener, name: String) {
    std::thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let _ = write!(stream, "{name} {}", from.ip());
        }
    });
}

/// From the node itself: who answers, and which address they see.
pub fn ask(to: impl Into<SocketAddr>) -> io::Result<(String, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&to.into(), Duration::from_secs(3))?;
    stream.set_read_timeout(Some(Duration::from_secs(3)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    let (name, from) = said.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    let from = from.parse().map_err(|_| io::ErrorKind::InvalidData)?;
    Ok((name.to_owned(), from))
}

/// Whether a connection was refused, at once.
pub fn is_refused(result: &io::Result<(String, IpAddr)>) -> bool {
    matches!(result, Err(e) if e.kind() == io::ErrorKind::ConnectionRefused)
}
