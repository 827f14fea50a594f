//! The node of this machine: which agents run, in which order they start and
//! end.
//!
//! Must not hold logic: each part is a crate.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use client::Client;
use cri::{Containerd, ContainerdConfig, CriRuntime};
use dns::Dns;
use informer::Informers;
use machines::MachineRuntime;
use network::Network;
use node::{Node, Ports, Server};
use pki::ServerIdentity;
use runtime::{PodRuntime, ServiceRules};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use volumes::Volumes;

use crate::adapters::{MachinePort, VolumePort};
use crate::cli::{Component, NodeFlags};
use crate::cluster::Cluster;
use crate::names::HostNames;
use crate::subnet;

/// Number of the VXLAN between nodes; not one that other networks take by themselves.
pub const VNI: u32 = 0x0a11;
const DNS_PORT: u16 = 53;

/// What a node is started with.
pub struct Setup {
    /// Flags.
    pub flags: NodeFlags,
    /// Parts that are left out.
    pub disabled: Vec<Component>,
    /// The API.
    pub client: Arc<dyn Client>,
    /// Caches of it.
    pub informers: Arc<Informers>,
    /// Name of the node.
    pub name: String,
    /// Its address.
    pub ip: IpAddr,
    /// What all nodes agree on.
    pub cluster: Cluster,
    /// What the node's server proves itself with.
    pub serving: Arc<ServerIdentity>,
    /// Labels beyond those of the command line.
    pub labels: BTreeMap<String, String>,
}

impl Setup {
    fn enabled(&self, component: Component) -> bool {
        !self.disabled.contains(&component) && (component != Component::Dns || self.cluster.dns)
    }
}

/// The node's name: given, or the machine's.
pub fn name(flags: &NodeFlags) -> Result<String> {
    let own = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    let name = flags.node_name.clone().unwrap_or(own);
    let wrong = meta::names::dns1123_subdomain(&name);
    if wrong.is_empty() {
        return Ok(name);
    }
    bail!(
        "{name:?} cannot be the name of a node: {}; choose another with --node-name",
        wrong.join("; ")
    );
}

/// A running node.
pub struct Running {
    node: Node,
    network: Network,
    dns: Option<Dns>,
    stop: CancellationToken,
    tasks: Vec<JoinHandle<()>>,
    /// Kept alive as long as the node runs; the process itself outlives it.
    _containerd: Option<Containerd>,
}

impl Running {
    /// Ends the agents in order. Containers, machines and the network stay.
    pub async fn stop(self) {
        self.stop.cancel();
        self.node.stop().await;
        if let Some(dns) = self.dns {
            dns.stop();
        }
        self.network.stop().await;
        for task in self.tasks {
            // Tasks without an end of their own.
            task.abort();
        }
    }
}

/// Starts everything that makes this machine a node.
pub async fn start(setup: Setup) -> Result<Running> {
    let data_dir = setup.flags.data_dir.clone();
    let names = HostNames::of(&data_dir);
    let enabled = |c: Component| setup.enabled(c);
    let stop = CancellationToken::new();
    let mut tasks = Vec::new();

    if let Err(error) = host::cgroup::favor_moves() {
        debug!(%error, "containers start some 30 ms slower than they could");
    }
    let (labels, taints) = (labels(&setup)?, taints(&setup)?);
    let (client, informers) = (setup.client.as_ref(), &setup.informers);
    let subnet = subnet::of_node(client, informers, &setup.name, &labels, &taints).await;
    let subnet = subnet.context("find out the subnet of this node's pods")?;
    let network_config = network_config(&data_dir, &names, &setup, subnet, enabled(Component::ServiceProxy));
    let gateway = Ipv4Addr::from(u32::from(network_config.node_cidr.0) + 1);
    let network = Network::start(network_config.clone(), setup.informers.clone());
    let network = network.await.context("start the network")?;

    let (containerd, endpoint) = containerd(&setup.flags).await?;
    let containers = Arc::new(CriRuntime::new(&endpoint));

    let volumes_config = volumes::Config {
        data_dir: data_dir.clone(),
        node_name: setup.name.clone(),
    };
    let volumes = Volumes::open(volumes_config, setup.client.clone()).context("open the volumes")?;
    if enabled(Component::LocalStorage) {
        let provisioner = volumes.clone();
        tasks.push(tokio::spawn(async move { provisioner.run().await }));
    }
    let machines = if enabled(Component::Machines) {
        open_machines(&data_dir, &setup, &network)?
    } else {
        None
    };

    let config = node::Config {
        node_name: setup.name.clone(),
        node_ip: setup.ip,
        data_dir: data_dir.clone(),
        kubelet_port: setup.flags.kubelet_port,
        cluster_dns: vec![setup.cluster.cluster_dns],
        cluster_domain: setup.cluster.cluster_domain.clone(),
        labels,
        taints,
        cgroup_root: names.cgroup,
        max_pods: 110,
        version: format!("v1.36.0+allmend-{}", env!("CARGO_PKG_VERSION")),
        pod_cidr: Some(format!("{}/{}", network_config.node_cidr.0, network_config.node_cidr.1)),
    };
    let logs = config.logs_dir();
    let ports = Ports {
        containers,
        machines: machines.clone().map(|m| Arc::new(m) as Arc<dyn PodRuntime>),
        volumes: Some(Arc::new(VolumePort(volumes))),
        services: enabled(Component::ServiceProxy).then(|| Arc::new(network.clone()) as Arc<dyn ServiceRules>),
    };
    let node = Node::start(config, setup.client.clone(), setup.informers.clone(), ports);
    let node = node.await.context("start the node agent")?;

    let control = machines.map(|m| Arc::new(MachinePort(m)) as Arc<dyn node::MachineControl>);
    let server = Server::new(Arc::new(node.clone()), control, logs);
    tasks.push(serve(&setup, server, stop.clone()).await?);
    let dns = if enabled(Component::Dns) {
        Some(start_dns(&setup, gateway).await?)
    } else {
        None
    };
    Ok(Running {
        node,
        network,
        dns,
        stop,
        tasks,
        _containerd: containerd,
    })
}

/// How the network of a data directory's server is set up.
fn network_config(
    data_dir: &Path,
    names: &HostNames,
    setup: &Setup,
    node_cidr: (Ipv4Addr, u8),
    proxy: bool,
) -> network::Config {
    network::Config {
        data_dir: data_dir.to_owned(),
        bridge: names.bridge.clone(),
        node_name: setup.name.clone(),
        overlay: names.overlay.clone(),
        vni: VNI,
        vxlan_port: network::VXLAN_PORT,
        cluster_cidr: setup.cluster.cluster_cidr,
        node_cidr,
        service_cidr: setup.cluster.service_cidr,
        table: names.table.clone(),
        node_ips: vec![setup.ip],
        mtu: network::pod_mtu(setup.ip),
        proxy,
    }
}

async fn containerd(flags: &NodeFlags) -> Result<(Option<Containerd>, String)> {
    if let Some(endpoint) = &flags.container_runtime_endpoint {
        return Ok((None, endpoint.clone()));
    }
    let ours = Containerd::start(ContainerdConfig::new(&flags.data_dir));
    let ours = ours.await.context("start containerd")?;
    let socket = ours.socket().to_string_lossy().into_owned();
    Ok((Some(ours), socket))
}

fn open_machines(data_dir: &Path, setup: &Setup, network: &Network) -> Result<Option<MachineRuntime>> {
    let executable = std::env::current_exe().context("find our own executable")?;
    let config = machines::Config::new(data_dir, executable);
    if !config.qemu.exists() {
        warn!(path = %config.qemu.display(), "no QEMU here: virtual machines cannot run on this node; install qemu-system-x86 and qemu-utils");
        return Ok(None);
    }
    let runtime = MachineRuntime::open(config, setup.client.clone(), Arc::new(network.clone()));
    Ok(Some(runtime.context("open the machines")?))
}

fn labels(setup: &Setup) -> Result<BTreeMap<String, String>> {
    let mut labels = setup.labels.clone();
    // Told either way: what was said at an earlier start must not stay.
    let dns = setup.enabled(Component::Dns).to_string();
    labels.insert(controllers::DNS_LABEL.to_owned(), dns);
    for given in &setup.flags.node_label {
        let Some((key, value)) = given.split_once('=') else {
            bail!("--node-label {given:?}: write key=value");
        };
        labels.insert(key.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn taints(setup: &Setup) -> Result<Vec<k8s_openapi::api::core::v1::Taint>> {
    setup.flags.node_taint.iter().map(|t| parse_taint(t)).collect()
}

fn parse_taint(text: &str) -> Result<k8s_openapi::api::core::v1::Taint> {
    let parts = text.rsplit_once(':').filter(|(k, _)| !k.is_empty());
    let Some((key, effect)) = parts.filter(|(_, e)| ["NoSchedule", "PreferNoSchedule", "NoExecute"].contains(e)) else {
        bail!(
            "--node-taint {text:?}: write key=value:Effect, where Effect is NoSchedule, PreferNoSchedule or NoExecute"
        );
    };
    let (key, value) = key
        .split_once('=')
        .map_or((key, None), |(k, v)| (k, Some(v.to_owned())));
    Ok(k8s_openapi::api::core::v1::Taint {
        key: key.to_owned(),
        value,
        effect: effect.to_owned(),
        time_added: None,
    })
}

async fn serve(setup: &Setup, server: Server, stop: CancellationToken) -> Result<JoinHandle<()>> {
    let tls = pki::server_config(
        setup.serving.clone(),
        &setup.cluster.client_authority,
        true,
        &[b"h2", b"http/1.1"],
    )?;
    let port = setup.flags.kubelet_port;
    let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let listener = tokio::net::TcpListener::bind(address).await.with_context(|| {
        format!("listen on {address}: is another node running on this machine? Choose another port with --kubelet-port")
    })?;
    Ok(tokio::spawn(async move {
        if let Err(error) = server.serve(listener, Arc::new(tls), stop).await {
            warn!(%error, "the node's server ended");
        }
    }))
}

/// Names are answered on the gateway's address; a control loop leads the Service `kube-dns` there.
async fn start_dns(setup: &Setup, gateway: Ipv4Addr) -> Result<Dns> {
    let listen = vec![SocketAddr::from((gateway, DNS_PORT))];
    let config = dns::Config {
        upstreams: dns::upstreams(&PathBuf::from("/etc/resolv.conf"), &listen),
        listen,
        domain: setup.cluster.cluster_domain.clone(),
    };
    let dns = Dns::start(config, setup.informers.clone()).await?;
    info!(listen = %SocketAddr::from((gateway, DNS_PORT)), "names are answered");
    Ok(dns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taints_are_read_as_kubectl_writes_them() {
        let taint = parse_taint("role=db:NoSchedule").unwrap();
        assert_eq!(
            (taint.key.as_str(), taint.value.as_deref(), taint.effect.as_str()),
            ("role", Some("db"), "NoSchedule")
        );
        assert_eq!(parse_taint("dedicated:NoExecute").unwrap().value, None);
        for junk in ["", "x", "x:Never", ":NoSchedule"] {
            assert!(
                parse_taint(junk).unwrap_err().to_string().contains("--node-taint"),
                "{junk}"
            );
        }
    }
}
