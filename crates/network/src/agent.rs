//! The agent: puts sandboxes on the network and takes them off again.
//!
//! Must not decide addresses or rules.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use host::netns;
use informer::Informers;
use runtime::{PodAddress, PodNetwork, PortMapping, RuntimeError, ServiceRules};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::book::{Book, Mapping, Pod};
use crate::cni::server;
use crate::plumb::{Plugged, Plumber};
use crate::proxy::Proxy;
use crate::{Config, NetworkError, overlay};

/// The network of this node. Clones are the same network.
#[derive(Clone)]
pub struct Network {
    agent: Arc<Agent>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the network's parts share.
pub(crate) struct Agent {
    plumber: Plumber,
    book: Arc<Mutex<Book>>,
    proxy: Proxy,
    gateway: Ipv4Addr,
    mtu: u32,
}

/// A sandbox that is on the network.
#[derive(Clone, Debug)]
pub(crate) struct Attached {
    pub address: Ipv4Addr,
    pub gateway: Ipv4Addr,
    pub plugged: Plugged,
}

impl Network {
    /// Sets the node's side up, reconciles what an earlier run left, and serves CNI. Services
    /// follow as soon as they are known. Sandboxes stay connected from one run to the next.
    pub async fn start(config: Config, informers: Arc<Informers>) -> Result<Network, NetworkError> {
        let node = config.node()?;
        let plumber = Plumber::new(&config.bridge, config.mtu, &node);
        let (state, range) = (config.state(), node.node_cidr);
        let prepared = blocking(move || {
            plumber
                .prepare()
                .map_err(NetworkError::host("set the node's links up"))?;
            let mut book = Book::open(state, range)?;
            reconcile(&plumber, &mut book)?;
            Ok((plumber, book))
        });
        let (plumber, book) = prepared.await?;
        let book = Arc::new(Mutex::new(book));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let gateway = node.gateway;
        if let Some(here) = config.here(&node) {
            let (name, device) = (config.node_name.clone(), config.overlay.clone());
            overlay::start(here, name, device, informers.clone(), stop.clone(), &tasks);
        }
        let inputs = config.proxy.then(|| (informers, config.node_name.clone()));
        let proxy = Proxy::start(node, inputs, book.clone(), stop.clone());
        let agent = Arc::new(Agent {
            plumber,
            book,
            proxy,
            gateway,
            mtu: config.mtu,
        });
        server::start(&config, agent.clone(), stop.clone(), &tasks)?;
        Ok(Network { agent, stop, tasks })
    }

    /// Stops serving; sandboxes stay connected and rules stay in force.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

impl Agent {
    /// Puts a sandbox on the network; one that is there already gets the same answer.
    pub(crate) async fn attach(
        self: &Arc<Self>,
        sandbox: &str,
        netns: &Path,
        host_ports: Vec<Mapping>,
    ) -> Result<Attached, NetworkError> {
        let has_host_ports = !host_ports.is_empty();
        let pod = Pod {
            netns: netns.to_owned(),
            host_ports,
        };
        let (agent, sandbox) = (self.clone(), sandbox.to_owned());
        let attached = blocking(move || agent.plug(&sandbox, pod)).await?;
        if has_host_ports {
            self.proxy.in_force(self.proxy.request()).await?;
        }
        Ok(attached)
    }

    /// Takes a sandbox off the network.
    pub(crate) async fn detach(self: &Arc<Self>, sandbox: &str) -> Result<(), NetworkError> {
        let (agent, sandbox) = (self.clone(), sandbox.to_owned());
        let had_host_ports = blocking(move || agent.unplug(&sandbox)).await?;
        if had_host_ports {
            // Nobody waits: the address rests before it is given again.
            self.proxy.request();
        }
        Ok(())
    }

    /// Whether a sandbox is on the network.
    pub(crate) fn knows(&self, sandbox: &str) -> bool {
        self.book().get(sandbox).is_some()
    }

    fn plug(&self, sandbox: &str, pod: Pod) -> Result<Attached, NetworkError> {
        let netns = pod.netns.clone();
        let (address, is_new) = self.book().add(sandbox, pod)?;
        match self.plumber.connect(&netns, address) {
            Ok(plugged) => Ok(Attached {
                address,
                gateway: self.gateway,
                plugged,
            }),
            Err(error) => {
                if is_new && let Err(second) = self.unplug(sandbox) {
                    tracing::warn!(sandbox, error = second.chain(), "cannot clean up");
                }
                Err(NetworkError::host("connect the sandbox")(error))
            }
        }
    }

    /// True when it had host ports.
    fn unplug(&self, sandbox: &str) -> Result<bool, NetworkError> {
        let Some((address, had)) = self.book().get(sandbox).map(|(a, pod)| (a, !pod.host_ports.is_empty())) else {
            return Ok(false);
        };
        // The link goes first: an address that is free must not be in use.
        self.plumber
            .disconnect(address)
            .map_err(NetworkError::host("disconnect the sandbox"))?;
        self.book().remove(sandbox)?;
        Ok(had)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sandboxes whose namespace is gone are forgotten, links without a sandbox removed, and missing
/// links made.
fn reconcile(plumber: &Plumber, book: &mut Book) -> Result<(), NetworkError> {
    let failed = NetworkError::host("reconcile the pods' links");
    let mut links = plumber.host_links().map_err(&failed)?;
    for (sandbox, address, pod) in book.all() {
        let link = plumber.host_link(address);
        if !netns::is_namespace(&pod.netns) {
            tracing::info!(sandbox, %address, "sandbox has gone");
            book.remove(&sandbox)?;
            continue;
        }
        let is_there = links.contains(&link);
        links.retain(|other| *other != link);
        if !is_there && let Err(error) = plumber.connect(&pod.netns, address) {
            tracing::warn!(sandbox, %address, %error, "cannot connect a sandbox again");
        }
    }
    for link in links {
        host::link::Links::open()
            .and_then(|mut l| l.delete(&link))
            .map_err(&failed)?;
    }
    Ok(())
}

#[async_trait]
impl PodNetwork for Network {
    async fn attach(
        &self,
        sandbox_id: &str,
        netns: &Path,
        host_ports: &[PortMapping],
    ) -> Result<PodAddress, RuntimeError> {
        let host_ports = host_ports.iter().map(Mapping::from).collect();
        let attached = self.agent.attach(sandbox_id, netns, host_ports).await?;
        Ok(PodAddress {
            ip: IpAddr::V4(attached.address),
            prefix: 32,
            gateway: IpAddr::V4(attached.gateway),
            mtu: self.agent.mtu,
        })
    }

    async fn detach(&self, sandbox_id: &str) -> Result<(), RuntimeError> {
        Ok(self.agent.detach(sandbox_id).await?)
    }
}

#[async_trait]
impl ServiceRules for Network {
    async fn withdrawn(&self, pod: Option<IpAddr>) {
        let pod = match pod {
            // Of addresses of IPv6 there is never a rule.
            Some(IpAddr::V6(_)) => return,
            Some(IpAddr::V4(pod)) => Some(pod),
            None => None,
        };
        self.agent.proxy.withdrawn(pod).await;
    }
}

impl From<NetworkError> for RuntimeError {
    fn from(error: NetworkError) -> Self {
        match error {
            NetworkError::Late { .. } => RuntimeError::Unavailable(error.chain()),
            _ => RuntimeError::Failed(error.chain()),
        }
    }
}

/// Runs what blocks; only a panic or the end of the process keeps it from answering.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, NetworkError> + Send + 'static,
) -> Result<T, NetworkError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(NetworkError::host("finish the work")(std::io::Error::other(error))))
}
