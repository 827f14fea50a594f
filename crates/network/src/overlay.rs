//! Keeps the way to other nodes' pods: whenever a Node changes, what is in the kernel is compared
//! with what is to be there, and the difference is carried out.
//!
//! Must not decide what is to be there.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use host::link::{Links, Route, set_sysctl};
use host::vxlan::Vxlan;
use informer::{Informer, Informers, Subscription};
use k8s_openapi::api::core::v1;
use kinds::resources::NODES;
use meta::Object;
use netplan::overlay::{Change, Device, Here, Mac, Overlay, Peer, Way};
use netplan::{Cidr, overlay};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::NetworkError;

/// Shortest time between two looks: nodes that join together are one change.
const PAUSE: Duration = Duration::from_millis(10);
/// First and longest time before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// How long something that others have changed in the kernel may stay so.
const LOOK_AGAIN: Duration = Duration::from_secs(60);

/// Largest packet of the pods of a node with this address.
pub fn pod_mtu(node_ip: IpAddr) -> u32 {
    let found = device_mtu(node_ip).unwrap_or_else(|error| {
        tracing::warn!(%error, "cannot see the size of packets; pods have that of an Ethernet");
        None
    });
    overlay::pod_mtu(found)
}

fn device_mtu(node_ip: IpAddr) -> io::Result<Option<u32>> {
    let IpAddr::V4(ip) = node_ip else { return Ok(None) };
    let mut links = Links::open()?;
    let addresses = links.addresses()?;
    let index = addresses
        .into_iter()
        .find(|(_, address, _)| *address == ip)
        .map(|(index, ..)| index);
    let link = links.list()?.into_iter().find(|link| Some(link.index) == index);
    Ok(link.map(|link| link.mtu))
}

/// Follows the other nodes until `stop`; the way to them stays.
pub(crate) fn start(
    here: Here,
    node_name: String,
    device: String,
    informers: Arc<Informers>,
    stop: CancellationToken,
    tasks: &TaskTracker,
) {
    let nodes = informers.of(&NODES);
    let follower = Follower {
        here,
        node_name,
        device,
        changes: nodes.subscribe(),
        nodes,
        unusable: BTreeSet::new(),
        _informers: informers,
    };
    tasks.spawn(async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follower.run() => {}
        }
    });
}

struct Follower {
    here: Here,
    node_name: String,
    device: String,
    nodes: Arc<Informer>,
    changes: Subscription,
    /// What has been said of nodes that cannot be reached.
    unusable: BTreeSet<String>,
    /// Ends all informers when it is dropped.
    _informers: Arc<Informers>,
}

impl Follower {
    async fn run(mut self) {
        // Before they are known, no peer may be taken for gone.
        self.nodes.synced().await;
        let mut retry = RETRY.0;
        loop {
            let started = Instant::now();
            match self.bring_up_to_date().await {
                Ok(()) => {
                    retry = RETRY.0;
                    if let Ok(None) = timeout(LOOK_AGAIN, self.changes.next()).await {
                        return;
                    }
                }
                Err(error) => {
                    let error = error.chain();
                    tracing::error!(
                        error,
                        "the way to other nodes is not up to date; trying again in {retry:?}"
                    );
                    sleep(retry).await;
                    retry = (retry * 2).min(RETRY.1);
                }
            }
            sleep_until(started + PAUSE).await;
            while let Some(Some(_)) = self.changes.next().now_or_never() {}
        }
    }

    async fn bring_up_to_date(&mut self) -> Result<(), NetworkError> {
        let peers: Vec<Peer> = self.nodes.list("").iter().filter_map(|node| self.peer(node)).collect();
        let (want, unusable) = overlay::overlay(&self.here, &peers);
        let unusable: BTreeSet<String> = unusable.iter().map(ToString::to_string).collect();
        for why in unusable.difference(&self.unusable) {
            tracing::warn!("pods cannot be reached: {why}");
        }
        self.unusable = unusable;
        let device = self.device.clone();
        let failed = NetworkError::host("set up the way to other nodes' pods");
        let done = tokio::task::spawn_blocking(move || bring_about(&device, &want)).await;
        let changes = done
            .unwrap_or_else(|error| Err(io::Error::other(error)))
            .map_err(failed)?;
        if changes > 0 {
            tracing::info!(
                device = self.device,
                peers = peers.len(),
                changes,
                "the way to other nodes is set up"
            );
        }
        Ok(())
    }

    /// Another node, once it can be reached.
    fn peer(&self, object: &Object) -> Option<Peer> {
        let node = object.view::<v1::Node>().ok()?;
        let addresses = node.status.as_ref()?.addresses.iter().flatten();
        let mut internal = addresses
            .filter(|a| a.type_ == "InternalIP")
            .filter_map(|a| a.address.parse().ok());
        let subnet = node.spec.as_ref()?.pod_cidr.as_ref()?.parse().ok()?;
        let name = object.name().to_owned();
        (name != self.node_name).then_some(())?;
        Some(Peer {
            subnet,
            address: internal.next()?,
            name,
        })
    }
}

/// Makes it so; returns how much there was to do. Blocks.
fn bring_about(name: &str, want: &Overlay) -> io::Result<usize> {
    let mut kernel = Kernel {
        name,
        links: Links::open()?,
        index: 0,
    };
    let have = kernel.read()?;
    let changes = overlay::changes(&have, want);
    changes.iter().try_for_each(|change| kernel.carry_out(change))?;
    Ok(changes.len())
}

struct Kernel<'a> {
    name: &'a str,
    links: Links,
    index: u32,
}

impl Kernel<'_> {
    fn read(&mut self) -> io::Result<Overlay> {
        let device = match self.links.vxlan(self.name)? {
            None => return Ok(Overlay::default()),
            Some((_, None)) => {
                // The name is ours, so what has it is what is left of something of ours.
                self.links.delete(self.name)?;
                return Ok(Overlay::default());
            }
            Some((index, Some(device))) => {
                self.index = index;
                // An earlier run may have ended between making it and this.
                self.furnish()?;
                device
            }
        };
        let cidr = |to: (Ipv4Addr, u8)| Cidr::new(to.0, to.1).map_err(io::Error::other);
        let way = |route: Route| {
            let Route { to, via, source } = route;
            cidr(to).map(|to| (to, Way { via, source }))
        };
        let neighbours = self.links.neighbours(self.index)?.into_iter();
        let forwarding = self.links.forwarding(self.index)?.into_iter();
        Ok(Overlay {
            device: Some(Device {
                vni: device.vni,
                port: device.port,
                local: device.local,
                mac: Mac(device.mac),
                mtu: device.mtu,
                learning: device.learning,
            }),
            routes: self
                .links
                .routes(self.index)?
                .into_iter()
                .map(way)
                .collect::<io::Result<_>>()?,
            neighbours: neighbours.map(|(ip, mac)| (ip, Mac(mac))).collect(),
            forwarding: forwarding.map(|(mac, to)| (Mac(mac), to)).collect(),
        })
    }

    fn carry_out(&mut self, change: &Change) -> io::Result<()> {
        let (links, index) = (&mut self.links, self.index);
        let route = |to: &Cidr, way: &Way| Route {
            to: (to.network(), to.prefix()),
            via: way.via,
            source: way.source,
        };
        match change {
            Change::RemoveDevice => links.delete(self.name),
            Change::MakeDevice(device) => self.make(device),
            Change::RemoveRoute(to, way) => links.remove_route(index, &route(to, way)),
            Change::RemoveNeighbour(ip) => links.remove_neighbour(index, *ip),
            Change::RemoveForwarding(mac, to) => links.remove_forwarding(index, mac.0, *to),
            Change::SetForwarding(mac, to) => links.forward(index, mac.0, *to),
            Change::SetNeighbour(ip, mac) => links.neighbour(index, *ip, mac.0),
            Change::SetRoute(to, way) => links.route_onlink(index, &route(to, way)),
        }
        .map_err(|e| io::Error::new(e.kind(), format!("{change:?}: {e}")))
    }

    fn make(&mut self, device: &Device) -> io::Result<()> {
        self.index = self.links.make_vxlan(
            self.name,
            &Vxlan {
                vni: device.vni,
                port: device.port,
                local: device.local,
                mac: device.mac.0,
                mtu: device.mtu,
                learning: device.learning,
            },
        )?;
        self.furnish()
    }

    /// Up, and as with pods' links: no IPv6 where the kernel has it, and node ports on loopback
    /// addresses lead here as well.
    fn furnish(&mut self) -> io::Result<()> {
        self.links.up(self.index)?;
        let _ = set_sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", self.name), "1");
        set_sysctl(&format!("net/ipv4/conf/{}/route_localnet", self.name), "1")
    }
}
