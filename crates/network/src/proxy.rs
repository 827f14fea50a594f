//! Keeps the rules in force: whenever services, endpoints or host ports change, the difference
//! is applied in one transaction.
//!
//! Must not decide what a rule says.

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use host::{conntrack, nft};
use informer::{Change, Informer, Informers, Subscription};
use k8s_openapi::api::core::v1;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kinds::resources::{ENDPOINT_SLICES, SERVICES};
use meta::Object;
use netplan::{Command, Frontends, Node, Ruleset, Service};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::NetworkError;
use crate::book::Book;

/// Shortest time between two changes of the rules: bursts of events become one.
const PAUSE: Duration = Duration::from_millis(10);
/// First and longest time before what failed is tried again.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How long a sandbox with host ports waits for its rules.
const PATIENCE: Duration = Duration::from_secs(10);
/// Label of a slice: its service.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// The way to ask for the rules of host ports, and for those of endpoints that have left.
pub(crate) struct Proxy {
    requested: watch::Sender<u64>,
    applied: watch::Receiver<Applied>,
}

/// What the rules in force were made from.
#[derive(Default)]
struct Applied {
    /// The last request before.
    request: u64,
    /// Addresses of endpoints that took new connections.
    ready: BTreeSet<Ipv4Addr>,
}

impl Proxy {
    /// Starts the task; it ends with `stop` and leaves the rules in force.
    pub(crate) fn start(
        node: Node,
        inputs: Option<(Arc<Informers>, String)>,
        book: Arc<Mutex<Book>>,
        stop: CancellationToken,
    ) -> Self {
        let (requested, requests) = watch::channel(0);
        let (done, applied) = watch::channel(Applied::default());
        let worker = Worker {
            node,
            book,
            requests,
            done,
            inputs: inputs.map(|(informers, node)| Inputs::new(informers, node)),
            table: None,
            frontends: Frontends::default(),
        };
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = worker.run() => {}
            }
        });
        Proxy { requested, applied }
    }

    /// Host ports have changed.
    pub(crate) fn request(&self) -> u64 {
        let mut number = 0;
        self.requested.send_modify(|n| {
            *n += 1;
            number = *n;
        });
        number
    }

    /// Waits until a request is in force.
    pub(crate) async fn in_force(&self, request: u64) -> Result<(), NetworkError> {
        let mut applied = self.applied.clone();
        let late = NetworkError::Late {
            seconds: PATIENCE.as_secs(),
        };
        match timeout(PATIENCE, applied.wait_for(|a| a.request >= request)).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(late),
        }
    }

    /// Waits until rules are in force that were made from endpoints as they are known now or later,
    /// and in which an address is none that is ready. One that terminates may still be in them,
    /// where no other is left. For ever, if the rules are refused.
    pub(crate) async fn withdrawn(&self, pod: Option<Ipv4Addr>) {
        let mut applied = self.applied.clone();
        let request = self.request();
        // Should the task have ended, nobody would make rules that lead there.
        let _ = applied
            .wait_for(|a| a.request >= request && pod.is_none_or(|pod| !a.ready.contains(&pod)))
            .await;
    }
}

/// Where services come from.
struct Inputs {
    services: Arc<Informer>,
    slices: Arc<Informer>,
    service_changes: Subscription,
    slice_changes: Subscription,
    /// Name of this node.
    node: String,
    /// Ends all informers when it is dropped.
    _informers: Arc<Informers>,
}

impl Inputs {
    fn new(informers: Arc<Informers>, node: String) -> Self {
        let (services, slices) = (informers.of(&SERVICES), informers.of(&ENDPOINT_SLICES));
        Inputs {
            service_changes: services.subscribe(),
            slice_changes: slices.subscribe(),
            services,
            slices,
            node,
            _informers: informers,
        }
    }

    /// The next change of either; `None` when there will be none.
    async fn changed(&mut self) -> Option<Change> {
        tokio::select! {
            change = self.service_changes.next() => change,
            change = self.slice_changes.next() => change,
        }
    }

    /// Forgets the changes that have already happened: the caches have them.
    fn drain(&mut self) {
        while let Some(Some(_)) = self.changed().now_or_never() {}
    }

    fn read(&self) -> Vec<Service> {
        let mut slices: HashMap<(String, String), Vec<Arc<EndpointSlice>>> = HashMap::new();
        for object in self.slices.list("") {
            let Some(service) = object.labels().get(SERVICE_NAME) else {
                continue;
            };
            if let Some(slice) = view(&object) {
                let key = (object.namespace().to_owned(), service.clone());
                slices.entry(key).or_default().push(slice);
            }
        }
        let services = self.services.list("");
        let typed = services.iter().filter_map(|object| {
            let key = (object.namespace().to_owned(), object.name().to_owned());
            let slices: Vec<&EndpointSlice> = slices.get(&key).into_iter().flatten().map(Arc::as_ref).collect();
            netplan::from_api(&*view::<v1::Service>(object)?, &slices, &self.node)
        });
        typed.collect()
    }
}

fn view<T: serde::de::DeserializeOwned + Send + Sync + 'static>(object: &Object) -> Option<Arc<T>> {
    let view = object.view();
    if let Err(error) = &view {
        tracing::warn!(object = object.key(), %error, "left out of the rules");
    }
    view.ok()
}

struct Worker {
    node: Node,
    book: Arc<Mutex<Book>>,
    requests: watch::Receiver<u64>,
    done: watch::Sender<Applied>,
    inputs: Option<Inputs>,
    /// What is in force; `None` when that is unknown.
    table: Option<Ruleset>,
    frontends: Frontends,
}

impl Worker {
    async fn run(mut self) {
        self.synced().await;
        let mut retry = RETRY.0;
        loop {
            let started = Instant::now();
            let request = *self.requests.borrow_and_update();
            let again = match self.bring_up_to_date().await {
                Ok(ready) => {
                    self.done.send_replace(Applied { request, ready });
                    retry = RETRY.0;
                    None
                }
                Err(error) => {
                    tracing::error!(
                        error = error.chain(),
                        "rules are not up to date; trying again in {retry:?}"
                    );
                    let at = Instant::now() + retry;
                    retry = (retry * 2).min(RETRY.1);
                    Some(at)
                }
            };
            if !self.wait(again).await {
                return;
            }
            sleep_until(started + PAUSE).await;
            if let Some(inputs) = &mut self.inputs {
                inputs.drain();
            }
        }
    }

    /// Waits until services are known. Rules that an earlier run left stay in force meanwhile;
    /// where there are none, pods must reach the world without waiting.
    async fn synced(&mut self) {
        let Some(inputs) = &self.inputs else { return };
        let (services, slices) = (inputs.services.clone(), inputs.slices.clone());
        let synced = async move {
            services.synced().await;
            slices.synced().await;
        };
        tokio::pin!(synced);
        if synced.as_mut().now_or_never().is_some() {
            return;
        }
        let name = self.node.table.clone();
        let is_there = blocking(move || nft::has_table("ip", &name)).await;
        let is_fresh = !matches!(is_there, Ok(true));
        loop {
            if is_fresh {
                self.without_services().await;
            }
            tokio::select! {
                () = &mut synced => return,
                // Services of the earlier run cannot be told from its host ports: those wait.
                more = self.requests.changed(), if is_fresh => if more.is_err() { return },
            }
        }
    }

    async fn without_services(&mut self) {
        let request = *self.requests.borrow_and_update();
        let rules = netplan::rules(&self.node, &[], &self.host_ports());
        match self.apply(rules).await {
            Ok(()) => {
                let ready = BTreeSet::new();
                self.done.send_replace(Applied { request, ready });
            }
            Err(error) => tracing::error!(error = error.chain(), "cannot apply the first rules"),
        }
    }

    /// Waits for a reason to look again; false when there can be none any more.
    async fn wait(&mut self, retry: Option<Instant>) -> bool {
        let inputs = async {
            match &mut self.inputs {
                Some(inputs) => inputs.changed().await.is_some(),
                None => futures::future::pending().await,
            }
        };
        let retry = async {
            match retry {
                Some(at) => sleep_until(at).await,
                None => futures::future::pending().await,
            }
        };
        tokio::select! {
            more = inputs => more,
            more = self.requests.changed() => more.is_ok(),
            () = retry => true,
        }
    }

    /// The addresses that take new connections now.
    async fn bring_up_to_date(&mut self) -> Result<BTreeSet<Ipv4Addr>, NetworkError> {
        let services = self.inputs.as_ref().map(Inputs::read).unwrap_or_default();
        let host_ports = self.host_ports();
        self.apply(netplan::rules(&self.node, &services, &host_ports)).await?;
        self.forget_stale(Frontends::of(&services, &host_ports)).await?;
        let endpoints = services.iter().flat_map(|s| &s.ports).flat_map(|p| &p.endpoints);
        Ok(endpoints.filter(|e| e.ready).map(|e| e.address).collect())
    }

    /// Applies the difference; should that be refused, someone else has changed the table, and
    /// it is made anew.
    async fn apply(&mut self, rules: Ruleset) -> Result<(), NetworkError> {
        let known = self.table.take();
        if let Some(known) = &known {
            let commands = netplan::diff(known, &rules);
            if commands.is_empty() {
                self.table = Some(rules);
                return Ok(());
            }
            match run(&commands).await {
                Ok(()) => {
                    self.table = Some(rules);
                    return Ok(());
                }
                Err(error) => tracing::warn!(%error, table = rules.table, "making the table anew"),
            }
        }
        run(&netplan::replace(&rules))
            .await
            .map_err(|source| NetworkError::Rules {
                table: rules.table.clone(),
                source,
            })?;
        self.table = Some(rules);
        Ok(())
    }

    /// Connections over UDP that go where nobody is any more would go on for ever.
    async fn forget_stale(&mut self, new: Frontends) -> Result<(), NetworkError> {
        if new == self.frontends {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.frontends, new.clone());
        let node = self.node.clone();
        let forgotten = blocking(move || {
            let local = |ip| ip == node.gateway || node.node_ips.contains(&ip) || ip.is_loopback();
            let stale =
                |f: &conntrack::Flow| f.protocol == 17 && new.is_stale(&old, f.destination, f.answered_by, &local);
            conntrack::forget(&stale)
        });
        if let Err(error) = forgotten.await {
            // The rules are right; only old UDP connections suffer.
            tracing::warn!(%error, "cannot forget old UDP connections");
        }
        Ok(())
    }

    fn host_ports(&self) -> Vec<netplan::HostPort> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner).host_ports()
    }
}

async fn run(commands: &[Command]) -> Result<(), nft::NftError> {
    let lines: Vec<String> = commands.iter().map(Command::to_string).collect();
    let script = lines.join("\n") + "\n";
    blocking(move || nft::apply(&script)).await
}

/// Runs what blocks; only a panic or the end of the process keeps it from answering.
async fn blocking<T, E>(work: impl FnOnce() -> Result<T, E> + Send + 'static) -> Result<T, E>
where
    T: Send + 'static,
    E: From<std::io::Error> + Send + 'static,
{
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(std::io::Error::other(error).into()))
}
