//! What all parts of the server share: the store, the catalog with its caches,
//! the plug-ins. Must not know HTTP.

use std::sync::Arc;

use meta::Status;
use store::Store;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::admission::{self, Admission};
use crate::auth::{Rbac, StaticTokens};
use crate::cache::{self, Begin, Progress, Selection, Watch};
use crate::config::Config;
use crate::identity::User;
use crate::projection::catch_up;
use crate::registry::Target;
use crate::resource::Catalog;

/// The engine.
pub struct Core {
    /// Settings.
    pub config: Config,
    /// Kinds and their caches.
    pub catalog: Arc<Catalog>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) progress: Arc<Progress>,
    pub(crate) admission: Vec<Box<dyn Admission>>,
    pub(crate) rbac: Rbac,
    pub(crate) tokens: StaticTokens,
    pub(crate) anonymous: Arc<User>,
    /// Service addresses and ports that are being given out.
    pub(crate) reserved: Arc<admission::Reserved>,
    /// Held by a write that counts against a quota.
    pub(crate) quota: Arc<tokio::sync::Mutex<()>>,
    /// Changes of the custom resources, to be made by the feeder of the caches.
    pub(crate) register: mpsc::UnboundedSender<cache::Registration>,
    /// Cancelled when the server ends.
    pub(crate) stop: CancellationToken,
}

impl Core {
    /// Reads the store into the caches and begins to follow it.
    pub(crate) async fn open(config: Config, store: Arc<dyn Store>, catalog: Catalog) -> store::Result<Arc<Self>> {
        let (catalog, progress) = (Arc::new(catalog), Arc::new(Progress::default()));
        let (register, registrations) = mpsc::unbounded_channel();
        let revision = cache::load(&catalog, &*store, &progress).await?;
        let stop = CancellationToken::new();
        tokio::spawn(cache::feed(
            catalog.clone(),
            store.clone(),
            progress.clone(),
            revision,
            registrations,
            stop.clone(),
        ));
        Ok(Arc::new(Core {
            tokens: StaticTokens::new(&config.tokens),
            anonymous: Arc::new(User::anonymous()),
            config,
            catalog,
            store,
            progress,
            admission: admission::built_in(),
            rbac: Rbac::default(),
            reserved: Arc::default(),
            quota: Arc::default(),
            register,
            stop,
        }))
    }

    /// The revision up to which everything is cached.
    pub fn revision(&self) -> u64 {
        self.progress.applied()
    }

    /// Makes sure that the caches hold everything that anybody acknowledged, other
    /// servers on the same store included.
    pub(crate) async fn read_barrier(&self) -> Result<(), Status> {
        let revision = self
            .store
            .revision()
            .await
            .map_err(|e| crate::registry::store_status(&e))?;
        self.wait_for(revision).await
    }

    /// Begins a watch.
    pub async fn watch(&self, target: Target<'_>, selection: Selection, from: Begin) -> Result<Watch, Status> {
        if let Begin::After(revision) = from {
            self.wait_for(revision).await?;
        }
        catch_up(target.resource).await?;
        let applied = self.progress.applied();
        let subscription = target.resource.cache.subscribe(&selection, from, applied)?;
        Ok(Watch::new(target.resource.kind.clone(), selection, subscription))
    }

    /// Ends background work and all watches.
    pub fn shut_down(&self) {
        self.stop.cancel();
        self.catalog.stored().iter().for_each(|r| r.cache.end_watches());
    }
}
