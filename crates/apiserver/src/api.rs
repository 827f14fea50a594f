//! The server as the binary sees it: open, serve, hand out clients.
//! Must not hold any logic: it wires the engine to its frontends.

use std::sync::Arc;
use std::time::Duration;

use client::Client;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::core::Core;
use crate::identity::User;
use crate::inprocess::InProcess;
use crate::resource::Catalog;
use crate::server::Frontend;

/// Why a server could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The store could not be read.
    #[error("read the store")]
    Store(#[from] store::Error),
    /// Objects that every cluster has could not be made.
    #[error("make the {what}")]
    Bootstrap {
        /// Which.
        what: String,
        /// Why.
        #[source]
        source: meta::Status,
    },
}

/// An API server over a store. Cheap to clone.
#[derive(Clone)]
pub struct ApiServer {
    core: Arc<Core>,
    frontend: Arc<Frontend>,
}

impl ApiServer {
    /// Reads the store, makes what every cluster has, and begins background work. The store must
    /// have been opened with [`crate::stamp`].
    pub async fn open(config: Config, store: Arc<dyn store::Store>) -> Result<Self, OpenError> {
        Self::open_with(config, store, Catalog::built_in()).await
    }

    /// The same with other kinds.
    pub async fn open_with(config: Config, store: Arc<dyn store::Store>, catalog: Catalog) -> Result<Self, OpenError> {
        let core = Core::open(config, store, catalog).await?;
        core.bootstrap().await?;
        core.restore_definitions().await;
        tokio::spawn(core.clone().follow_definitions());
        let frontend = Frontend::new(core.clone());
        let server = ApiServer { core, frontend };
        server.keep_house();
        Ok(server)
    }

    /// Serves HTTPS until `stop`, then lets requests finish and ends watches.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Arc<rustls::ServerConfig>,
        stop: CancellationToken,
    ) -> std::io::Result<()> {
        self.frontend.clone().serve(listener, tls, stop).await
    }

    /// A client in this process, with an identity: no TLS, HTTP, authentication or authorisation,
    /// but all of admission and validation. Its objects are those of the caches.
    pub fn client(&self, user: User) -> Arc<dyn Client> {
        Arc::new(InProcess::new(self.core.clone(), user))
    }

    /// The engine.
    pub fn core(&self) -> &Arc<Core> {
        &self.core
    }

    /// Ends background work and all watches. The store stays open.
    pub fn shut_down(&self) {
        self.core.shut_down();
    }

    /// What needs doing now and then: forget what nobody asks for, compact history.
    fn keep_house(&self) {
        const EVERY: Duration = Duration::from_secs(300);
        let (core, frontend) = (Arc::downgrade(&self.core), Arc::downgrade(&self.frontend));
        let stop = self.core.stop.clone();
        tokio::spawn(async move {
            let mut compact_to = 0;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(EVERY) => {}
                }
                let (Some(core), Some(frontend)) = (core.upgrade(), frontend.upgrade()) else {
                    return;
                };
                frontend.discovery.forget();
                frontend.recent.forget();
                core.catalog.stored().iter().for_each(|r| r.cache.forget_pages());
                core.expire_events().await;
                let now = core.revision();
                // An idle server must not write.
                if compact_to > 0
                    && compact_to != now
                    && let Err(error) = core.store.compact(compact_to).await
                {
                    tracing::warn!(%error, "compact the store");
                }
                compact_to = now;
            }
        });
    }
}
