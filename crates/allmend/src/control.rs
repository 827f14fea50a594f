//! The control loops of a server: which of them run, and how they end.
//!
//! Must not hold logic: controllers decide, the driver acts.

use std::sync::Arc;

use apiserver::{ApiServer, User};
use client::Client;
use driver::{Driver, Recorder};
use informer::Informers;
use meta::Gvr;
use reconcile::Controller;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::cli::Component;

/// The running loops.
pub struct Control {
    stop: CancellationToken,
    tasks: JoinSet<()>,
    /// The caches that they share, for whoever else runs in this process.
    pub informers: Arc<Informers>,
}

impl Control {
    /// Starts all loops but the disabled ones.
    pub fn start(api: &ApiServer, root_ca: &str, cluster_cidr: netplan::Cidr, disabled: &[Component]) -> Self {
        let client: Arc<dyn Client> = api.client(User::master("system:kube-controller-manager"));
        let informers = Arc::new(Informers::new(client.clone()));
        let driver = Driver {
            informers: informers.clone(),
            recorder: Recorder::new(client.clone()),
            client,
        };
        let mut control = Control {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
            informers,
        };
        for controller in controllers::all(root_ca) {
            control.run(&driver, controller);
        }
        control.run(&driver, Arc::new(controllers::NodeIpam::of(cluster_cidr)));
        if !disabled.contains(&Component::Machines) {
            for controller in controllers::machines() {
                control.run(&driver, controller);
            }
        }
        control.watch_nodes(&driver);
        let (d, stop) = (driver.clone(), control.stop.clone());
        control.tasks.spawn(driver::collect(d, collectable(), stop));
        let (d, stop) = (driver, control.stop.clone());
        control.tasks.spawn(driver::schedule(d, stop));
        control
    }

    fn run(&mut self, driver: &Driver, controller: Arc<dyn Controller>) {
        self.tasks
            .spawn(driver::run(driver.clone(), controller, self.stop.clone()));
    }

    /// Nodes were silent while the server was away: they get their time before they are judged.
    fn watch_nodes(&mut self, driver: &Driver) {
        let (driver, stop) = (driver.clone(), self.stop.clone());
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(controllers::NODE_GRACE) => {}
                () = stop.cancelled() => return,
            }
            driver::run(driver, Arc::new(controllers::NodeController), stop).await;
        });
    }

    /// Ends all loops; writes that were begun are finished.
    pub async fn stop(mut self) {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The resources that may own or be owned.
fn collectable() -> Vec<Gvr> {
    let events = |k: &&Arc<kinds::Kind>| k.kind == "Event";
    let kept = |k: &&Arc<kinds::Kind>| ["delete", "list", "watch", "get"].iter().all(|v| k.verbs.contains(v));
    kinds::all()
        .iter()
        .filter(|k| !events(k) && kept(k))
        .map(|k| k.gvr())
        .collect()
}
