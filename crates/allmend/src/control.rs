//! The control loops of a server: which of them run, and how they end.
//!
//! Must not hold logic: controllers decide, the driver acts.

use std::sync::Arc;

use apiserver::{ApiServer, User};
use client::Client;
use driver::{Driver, Recorder};
use informer::Informers;
use reconcile::Controller;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::cli::Component;
use crate::leader;

/// The running loops.
pub struct Control {
    stop: CancellationToken,
    running: JoinHandle<()>,
    /// Caches for whoever else runs in this process.
    pub informers: Arc<Informers>,
}

impl Control {
    /// Starts all loops but the disabled ones, and `more`; if other servers may use the same store, only while
    /// this one leads.
    pub fn start(
        api: &ApiServer,
        root_ca: &str,
        cluster_cidr: netplan::Cidr,
        disabled: &[Component],
        more: Vec<Arc<dyn Controller>>,
        shared: bool,
    ) -> Self {
        let client: Arc<dyn Client> = api.client(User::master("system:kube-controller-manager"));
        let informers = Arc::new(Informers::new(client.clone()));
        let loops = Arc::new(Loops {
            client: client.clone(),
            root_ca: root_ca.to_owned(),
            cluster_cidr,
            machines: !disabled.contains(&Component::Machines),
            more,
        });
        let stop = CancellationToken::new();
        let running = if shared {
            let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let identity = format!("{name}_{}", pki::random_token(8));
            // Caches anew for each term: they begin with what the leader before has written. Older
            // ones might not have it yet, and a controller would do its work again.
            let work = move |stop| loops.clone().run(Arc::new(Informers::new(loops.client.clone())), stop);
            tokio::spawn(leader::lead(client, identity, stop.clone(), work))
        } else {
            tokio::spawn(loops.run(informers.clone(), stop.clone()))
        };
        Control {
            stop,
            running,
            informers,
        }
    }

    /// Ends all loops; writes that were begun are finished.
    pub async fn stop(self) {
        self.stop.cancel();
        // It ends early only by a panic, which its hook has reported.
        let _ = self.running.await;
    }
}

/// What the loops are made of.
struct Loops {
    client: Arc<dyn Client>,
    root_ca: String,
    cluster_cidr: netplan::Cidr,
    machines: bool,
    more: Vec<Arc<dyn Controller>>,
}

impl Loops {
    /// Runs all loops until `stop`.
    async fn run(self: Arc<Self>, informers: Arc<Informers>, stop: CancellationToken) {
        let driver = Driver {
            informers,
            recorder: Recorder::new(self.client.clone()),
            client: self.client.clone(),
        };
        let mut tasks = JoinSet::new();
        let mut all = controllers::all(&self.root_ca);
        all.push(Arc::new(controllers::NodeIpam::of(self.cluster_cidr)));
        all.extend(self.more.iter().cloned());
        if self.machines {
            all.extend(controllers::machines());
        }
        for controller in all {
            tasks.spawn(driver::run(driver.clone(), controller, stop.clone()));
        }
        tasks.spawn(watch_nodes(driver.clone(), stop.clone()));
        tasks.spawn(driver::of_all_kinds(driver.clone(), stop.clone()));
        tasks.spawn(driver::schedule(driver, stop));
        while tasks.join_next().await.is_some() {}
    }
}

/// Nodes were silent while no loop ran: they get their time before they are judged.
async fn watch_nodes(driver: Driver, stop: CancellationToken) {
    tokio::select! {
        () = tokio::time::sleep(controllers::NODE_GRACE) => {}
        () = stop.cancelled() => return,
    }
    driver::run(driver, Arc::new(controllers::NodeController), stop).await;
}
