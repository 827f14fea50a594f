//! Three hosts, each a network namespace with an agent and a pod, on one Ethernet: who reaches whom,
//! and what is left of hosts that go.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use host::link::{Links, Route};
use host::netns;
use host::vxlan::Vxlan;
use informer::Informers;
use network::{Config, Network};
use runtime::PodNetwork;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use crate::api::Api;
use crate::node::{Place, eventually, isolated, serve};

const SERVICE: Ipv4Addr = Ipv4Addr::new(10, 43, 0, 9);
const DEVICE: &str = "almv0";

/// A host with a pod that answers at port 80 with the host's name.
struct Host {
    number: u8,
    dir: tempfile::TempDir,
    place: Place,
    pod: Place,
    /// Its threads, and what they start, are in the host's namespace.
    runtime: Option<Runtime>,
    network: Option<Network>,
    api: Arc<Api>,
}

impl Host {
    async fn new(number: u8, api: &Arc<Api>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().join("host"));
        plug(number, &place).unwrap();
        let pod = Place::new(dir.path().join("pod"));
        let mut host = Host {
            number,
            dir,
            place,
            pod,
            runtime: None,
            network: None,
            api: api.clone(),
        };
        host.start().await;
        let (network, path) = (host.network.clone().unwrap(), host.pod.path.clone());
        let address = host
            .run(async move { network.attach("p", &path, &[]).await.unwrap() })
            .await;
        assert_eq!(address.ip, host.pod_ip());
        host.pod.serve(&host.name(), 80);
        host
    }

    async fn start(&mut self) {
        let build = || Builder::new_multi_thread().worker_threads(1).enable_all().build();
        self.runtime = Some(netns::inside(&self.place.file, build).unwrap());
        let (config, api) = (self.config(), self.api.clone());
        let informers = async move { Network::start(config, Arc::new(Informers::new(api))).await.unwrap() };
        self.network = Some(self.run(informers).await);
    }

    /// Ends the agent where it stands; of what the kernel was asked nothing is under way any more.
    fn kill(&mut self) {
        self.network = None;
        if let Some(runtime) = self.runtime.take() {
            // On a thread of its own: a runtime must not be ended where others wait.
            let ended = std::thread::spawn(move || runtime.shutdown_timeout(Duration::from_secs(5)));
            let _ = ended.join();
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.runtime.as_ref().unwrap().spawn(work).await.unwrap()
    }

    fn config(&self) -> Config {
        Config {
            data_dir: self.dir.path().to_owned(),
            bridge: "alm0".into(),
            node_name: self.name(),
            overlay: DEVICE.into(),
            vni: 7,
            vxlan_port: network::VXLAN_PORT,
            cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
            node_cidr: (Ipv4Addr::new(10, 42, self.number, 0), 24),
            service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
            table: "allmend".into(),
            node_ips: vec![self.ip().into()],
            mtu: self.inside(|| Ok(network::pod_mtu(self.ip().into()))),
            proxy: true,
        }
    }

    fn name(&self) -> String {
        format!("n{}", self.number)
    }

    fn ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(192, 0, 2, self.number + 1)
    }

    fn gateway(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 42, self.number, 1))
    }

    fn pod_ip(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::new(10, 42, self.number, 2))
    }

    /// Says that the node is here.
    fn join(&self) {
        self.join_at(self.ip());
    }

    fn join_at(&self, ip: Ipv4Addr) {
        let subnet = format!("10.42.{}.0/24", self.number);
        let addresses = json!([{"type": "Hostname", "address": self.name()}, {"type": "InternalIP", "address": ip}]);
        self.api.put(
            "nodes",
            json!({"metadata": {"name": self.name()}, "spec": {"podCIDR": subnet, "podCIDRs": [subnet]},
                "status": {"addresses": addresses}}),
        );
    }

    fn leave(&self) {
        self.api.delete("nodes", &self.name());
    }

    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> T {
        netns::inside(&self.place.file, work).unwrap()
    }

    /// Where the overlay leads to; `None` without one, an error while it is being changed.
    fn routes(&self) -> io::Result<Option<Vec<String>>> {
        netns::inside(&self.place.file, || {
            let mut links = Links::open()?;
            let Some((index, _)) = links.vxlan(DEVICE)? else {
                return Ok(None);
            };
            let mut routes: Vec<String> = links.routes(index)?.iter().map(|r| r.to.0.to_string()).collect();
            routes.sort();
            let others = (links.neighbours(index)?.len(), links.forwarding(index)?.len());
            let complete = others == (routes.len(), routes.len());
            complete
                .then_some(Some(routes))
                .ok_or(io::ErrorKind::InvalidData.into())
        })
    }

    fn leads_to(&self, hosts: &[&Host]) -> bool {
        let wanted: Vec<String> = hosts.iter().map(|h| format!("10.42.{}.0", h.number)).collect();
        self.routes().is_ok_and(|routes| routes.unwrap_or_default() == wanted)
    }

    fn is_alone(&self) -> bool {
        matches!(self.routes(), Ok(None))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // The namespaces go with the places.
        self.kill();
    }
}

/// A switch in the test's own namespace.
fn switch() {
    let mut links = Links::open().unwrap();
    links.bridge("switch").unwrap();
}

fn plug(number: u8, place: &Place) -> io::Result<()> {
    let mut links = Links::open()?;
    let port = format!("port{number}");
    links.veth(&port, "eth0", &place.file, 1500)?;
    let joined = Command::new("ip")
        .args(["link", "set", &port, "master", "switch"])
        .status()?;
    assert!(joined.success(), "needs iproute2");
    netns::inside(&place.file, || {
        let mut links = Links::open()?;
        let (lo, eth0) = (links.get("lo")?.unwrap(), links.get("eth0")?.unwrap());
        links.up(lo.index)?;
        links.address(eth0.index, Ipv4Addr::new(192, 0, 2, number + 1), 24)?;
        links.up(eth0.index)
    })
}

async fn three() -> [Host; 3] {
    switch();
    let api = Arc::new(Api::default());
    [
        Host::new(0, &api).await,
        Host::new(1, &api).await,
        Host::new(2, &api).await,
    ]
}

async fn joined() -> [Host; 3] {
    let hosts = three().await;
    hosts.iter().for_each(Host::join);
    let [a, b, c] = &hosts;
    eventually("all know each other", || {
        a.leads_to(&[b, c]) && b.leads_to(&[a, c]) && c.leads_to(&[a, b])
    })
    .await;
    hosts
}

#[test]
fn pods_of_all_hosts_reach_each_other() {
    isolated(|| async {
        let hosts = joined().await;
        for from in &hosts {
            for to in &hosts {
                let said = from.pod.ask((to.pod_ip(), 80)).unwrap();
                assert_eq!(
                    said,
                    (
                        to.name(),
                        if from.number == to.number {
                            said.1
                        } else {
                            from.pod_ip()
                        }
                    )
                );
                let said = from.place.ask((to.pod_ip(), 80)).unwrap();
                assert_eq!(said, (to.name(), from.gateway()), "from the node itself");
            }
        }
        let [a, b, _] = &hosts;
        assert_eq!(a.config().mtu, 1450);
        // Packets as large as they get, both ways.
        let long = "x".repeat(200_000);
        let listener = netns::inside(&b.pod.file, || TcpListener::bind(("0.0.0.0", 81))).unwrap();
        serve(listener, long.clone());
        assert_eq!(a.pod.ask((b.pod_ip(), 81)).unwrap(), (long, a.pod_ip()));
        // The other node's own programs.
        let listener = b.inside(|| TcpListener::bind(("0.0.0.0", 82)));
        serve(listener, "node".into());
        assert_eq!(a.pod.ask((b.gateway(), 82)).unwrap(), ("node".into(), a.pod_ip()));
        assert_eq!(a.pod.ask((b.ip(), 82)).unwrap(), ("node".into(), a.ip().into()));
    });
}

#[test]
fn services_lead_to_other_hosts() {
    isolated(|| async {
        let [a, b, c] = joined().await;
        a.api.endpoints("web", "TCP", &[(b.pod_ip(), true)]);
        let ports = json!([{"port": 8000, "nodePort": 30080}]);
        let spec = |policy: &str| json!({"type": "NodePort", "clusterIP": SERVICE, "ports": ports, "externalTrafficPolicy": policy});
        a.api.service("web", spec("Cluster"));
        let web = SocketAddr::from((SERVICE, 8000));
        for host in [&a, &b, &c] {
            eventually("reached", || host.pod.ask(web).is_ok()).await;
        }
        assert_eq!(
            a.pod.ask(web).unwrap(),
            (b.name(), a.pod_ip()),
            "pods keep their address"
        );
        assert_eq!(a.place.ask(web).unwrap(), (b.name(), a.gateway()));
        assert_eq!(
            a.inside(|| from(a.ip(), web)),
            (b.name(), a.gateway()),
            "whatever address it uses"
        );
        // Node ports of a node that has no endpoint: from outside, from itself, from its pods.
        let port = |ip: Ipv4Addr| SocketAddr::from((ip, 30080));
        assert_eq!(c.place.ask(port(a.ip())).unwrap(), (b.name(), a.gateway()));
        assert_eq!(a.place.ask(port(a.ip())).unwrap(), (b.name(), a.gateway()));
        assert_eq!(a.place.ask(port(Ipv4Addr::LOCALHOST)).unwrap(), (b.name(), a.gateway()));
        assert_eq!(a.pod.ask(port(a.ip())).unwrap().0, b.name());
        assert_eq!(a.pod.ask(port(c.ip())).unwrap().0, b.name());
        a.api.service("web", spec("Local"));
        eventually("clients keep their address", || {
            c.place
                .ask(port(b.ip()))
                .is_ok_and(|said| said == (b.name(), c.ip().into()))
        })
        .await;
        eventually("dropped where there is no endpoint", || {
            c.place
                .ask(port(a.ip()))
                .is_err_and(|e| e.kind() == io::ErrorKind::TimedOut)
        })
        .await;
    });
}

/// Who answers, to a connection from an address.
fn from(source: Ipv4Addr, to: SocketAddr) -> io::Result<(String, IpAddr)> {
    use std::io::Read;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::STREAM, None)?;
    rustix::net::bind(&socket, &SocketAddr::from((source, 0)))?;
    rustix::net::connect(&socket, &to)?;
    let mut said = String::new();
    std::net::TcpStream::from(socket).read_to_string(&mut said)?;
    let (name, from) = said.split_once(' ').ok_or(io::ErrorKind::InvalidData)?;
    Ok((name.to_owned(), from.parse().map_err(|_| io::ErrorKind::InvalidData)?))
}

#[test]
fn hosts_come_and_go() {
    isolated(|| async {
        let [a, b, c] = three().await;
        assert!(a.is_alone());
        a.join();
        b.join();
        eventually("two know each other", || a.leads_to(&[&b]) && b.leads_to(&[&a])).await;
        assert!(a.pod.ask((b.pod_ip(), 80)).is_ok());
        c.join();
        eventually("and a third", || a.leads_to(&[&b, &c])).await;
        // It moves to an address where nobody is, and back.
        b.join_at(Ipv4Addr::new(192, 0, 2, 99));
        eventually("it is looked for elsewhere", || a.pod.ask((b.pod_ip(), 80)).is_err()).await;
        b.join();
        eventually("it is back", || a.pod.ask((b.pod_ip(), 80)).is_ok()).await;
        b.leave();
        eventually("its route has gone", || a.leads_to(&[&c])).await;
        assert!(a.pod.ask((c.pod_ip(), 80)).is_ok());
        c.leave();
        eventually("alone again", || a.is_alone()).await;
    });
}

#[test]
fn what_a_killed_agent_left_is_put_right() {
    isolated(|| async {
        let [mut a, b, c] = joined().await;
        a.kill();
        assert!(a.pod.ask((b.pod_ip(), 80)).is_ok(), "without an agent");
        // Meanwhile one leaves, and somebody spoils what belongs to the other.
        c.leave();
        let mac = a.inside(|| {
            let mut links = Links::open()?;
            let (index, device) = links.vxlan(DEVICE)?.unwrap();
            let (mac, to) = links
                .forwarding(index)?
                .into_iter()
                .find(|(_, to)| *to == b.ip())
                .unwrap();
            links.remove_forwarding(index, mac, to)?;
            links.neighbour(index, Ipv4Addr::new(10, 42, 9, 9), mac)?;
            let stray = Route {
                to: (Ipv4Addr::new(10, 42, 9, 0), 24),
                via: None,
                source: None,
            };
            links.route(index, &stray)?;
            Ok(device.unwrap().mac)
        });
        a.start().await;
        eventually("only b is left", || a.leads_to(&[&b])).await;
        assert!(a.pod.ask((b.pod_ip(), 80)).is_ok());
        // A device that another version made differently, or that is none.
        for vxlan in [true, false] {
            a.kill();
            a.inside(|| {
                let mut links = Links::open()?;
                let (_, device) = links.vxlan(DEVICE)?.unwrap();
                links.delete(DEVICE)?;
                let other = Vxlan {
                    vni: 8,
                    ..device.unwrap()
                };
                if vxlan {
                    links.make_vxlan(DEVICE, &other)
                } else {
                    links.bridge(DEVICE)
                }
            });
            a.start().await;
            eventually("made anew", || a.leads_to(&[&b])).await;
            let (_, device) = a.inside(|| Links::open()?.vxlan(DEVICE)).unwrap();
            assert_eq!(device.map(|d| (d.vni, d.mac)), Some((7, mac)));
            assert!(a.pod.ask((b.pod_ip(), 80)).is_ok());
        }
        // A node that was given another subnet keeps nothing of the old one.
        a.kill();
        a.number = 5;
        a.start().await;
        let addresses = a.inside(|| {
            let mut links = Links::open()?;
            let bridge = links.get("alm0")?.unwrap().index;
            Ok(links
                .addresses()?
                .into_iter()
                .filter(|(i, ..)| *i == bridge)
                .map(|(_, ip, _)| ip)
                .collect::<Vec<_>>())
        });
        assert_eq!(addresses, [a.gateway()]);
        a.kill();
        let config = a.config();
        a.inside(|| network::purge(&config).map_err(io::Error::other));
        assert!(a.is_alone());
        let names = a.inside(|| Ok(Links::open()?.list()?.into_iter().map(|l| l.name).collect::<Vec<_>>()));
        assert!(names.iter().all(|n| n == "lo" || n == "eth0"), "{names:?}");
    });
}
