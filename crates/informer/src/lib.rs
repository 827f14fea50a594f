//! Shared caches over list and watch: one per resource and client, however
//! many readers. Objects are the very `Arc`s that the client hands out; in
//! the server's own process those are the API's, so nothing is copied.
//!
//! Must not decide anything, and must not write.

mod cache;
mod feed;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::Client;
use meta::Gvr;
use tokio_util::sync::CancellationToken;

pub use cache::{Change, Index, Informer, Subscription};

/// The informers of one client. Dropped, all of them end.
pub struct Informers {
    client: Arc<dyn Client>,
    running: Mutex<HashMap<Scope, Arc<Informer>>>,
    stop: CancellationToken,
}

/// What an informer covers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Scope {
    pub gvr: Gvr,
    pub namespace: String,
    pub label_selector: String,
    pub field_selector: String,
}

impl Informers {
    /// No informer runs until it is asked for.
    pub fn new(client: Arc<dyn Client>) -> Self {
        Informers {
            client,
            running: Mutex::default(),
            stop: CancellationToken::new(),
        }
    }

    /// The client that they read through.
    pub fn client(&self) -> &Arc<dyn Client> {
        &self.client
    }

    /// All objects of a resource.
    pub fn of(&self, gvr: &Gvr) -> Arc<Informer> {
        self.scoped(gvr, "", "", "")
    }

    /// Objects of a namespace (empty for all) that match both selectors (empty for all).
    pub fn scoped(&self, gvr: &Gvr, namespace: &str, label_selector: &str, field_selector: &str) -> Arc<Informer> {
        let scope = Scope {
            gvr: gvr.clone(),
            namespace: namespace.to_owned(),
            label_selector: label_selector.to_owned(),
            field_selector: field_selector.to_owned(),
        };
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let informer = running.entry(scope.clone()).or_insert_with(|| {
            let informer = Arc::new(Informer::new());
            tokio::spawn(feed::run(
                self.client.clone(),
                scope,
                Arc::downgrade(&informer),
                self.stop.clone(),
            ));
            informer
        });
        informer.clone()
    }
}

impl Drop for Informers {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
