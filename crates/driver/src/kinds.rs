//! Loops that concern every kind: the garbage collector and the emptying of
//! namespaces. They begin anew when definitions of custom resources come or go.
//!
//! Must not judge.

use std::sync::Arc;
use std::time::Duration;

use controllers::NamespaceController;
use controllers::garbage::{Served, served};
use informer::{Informer, Subscription};
use kinds::resources::DEFINITIONS;
use tokio_util::sync::CancellationToken;

use crate::garbage::collect;
use crate::run::{Driver, run};

/// Definitions come in heaps: a change is acted upon when none has followed for so long.
const SETTLED: Duration = Duration::from_millis(250);

/// Runs the loops until `stop`.
pub async fn of_all_kinds(driver: Driver, stop: CancellationToken) {
    let definitions = driver.informers.of(&DEFINITIONS);
    let mut changes = definitions.subscribe();
    tokio::select! {
        () = definitions.synced() => {}
        () = stop.cancelled() => return,
    }
    let mut all = served(&definitions.list(""));
    loop {
        let term = stop.child_token();
        let namespaces = Arc::new(NamespaceController::new(&all));
        let running = tokio::spawn({
            let (driver, all, term) = (driver.clone(), all.clone(), term.clone());
            async move {
                tokio::join!(
                    run(driver.clone(), namespaces, term.clone()),
                    collect(driver, all, term)
                )
            }
        });
        let fresh = tokio::select! {
            fresh = other_than(&all, &definitions, &mut changes) => Some(fresh),
            () = stop.cancelled() => None,
        };
        term.cancel();
        // What was begun is finished; a panic has been reported by its hook.
        let _ = running.await;
        match fresh {
            Some(fresh) => all = fresh,
            None => return,
        }
    }
}

/// Waits until other kinds are served than these.
async fn other_than(all: &[Served], definitions: &Informer, changes: &mut Subscription) -> Vec<Served> {
    loop {
        if changes.next().await.is_none() {
            // Only the end of the process ends a cache.
            return std::future::pending().await;
        }
        while let Ok(Some(_)) = tokio::time::timeout(SETTLED, changes.next()).await {}
        let fresh = served(&definitions.list(""));
        if fresh != all {
            return fresh;
        }
    }
}
