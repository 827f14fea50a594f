//! Keeps a cache current: a watch that begins with the present state, and
//! begins anew when it breaks. Nothing deleted meanwhile is missed: what a new
//! beginning does not name is gone.

use std::collections::BTreeSet;
use std::sync::Weak;
use std::time::Duration;

use client::{Client, EventStream, ListOptions, WatchEvent};
use futures::StreamExt;
use meta::Status;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{Informer, Scope};

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Feeds until nobody reads any more.
pub(crate) async fn run(
    client: std::sync::Arc<dyn Client>,
    scope: Scope,
    informer: Weak<Informer>,
    stop: CancellationToken,
) {
    let mut from = 0;
    let mut pause = FIRST_PAUSE;
    loop {
        let before = from;
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = watch(client.as_ref(), &scope, &informer, &mut from) => ended,
        };
        if informer.strong_count() == 0 {
            return;
        }
        match ended {
            // The server ends watches now and then; go on where it ended.
            Ok(()) => debug!(resource = %scope.gvr, "watch ended"),
            Err(status) if status.is_expired() => from = 0,
            Err(status) => warn!(resource = %scope.gvr, error = %status, "watch broke"),
        }
        if from > before {
            pause = FIRST_PAUSE;
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One watch, from its beginning to its end.
async fn watch(client: &dyn Client, scope: &Scope, informer: &Weak<Informer>, from: &mut u64) -> Result<(), Status> {
    let initial = *from == 0;
    let options = ListOptions {
        label_selector: scope.label_selector.clone(),
        field_selector: scope.field_selector.clone(),
        resource_version: if initial { String::new() } else { from.to_string() },
        send_initial_events: initial,
        allow_bookmarks: true,
        ..ListOptions::default()
    };
    let events = client.watch(&scope.gvr, &scope.namespace, &options).await?;
    follow(events, initial, informer, from).await
}

async fn follow(
    mut events: EventStream,
    initial: bool,
    informer: &Weak<Informer>,
    from: &mut u64,
) -> Result<(), Status> {
    // Keys of the initial events, until they are complete.
    let mut listed = initial.then(BTreeSet::new);
    while let Some(event) = events.next().await {
        let Some(informer) = informer.upgrade() else {
            return Ok(());
        };
        match event? {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                let revision = object.resource_version();
                if let Some(listed) = &mut listed {
                    listed.insert(object.key());
                    informer.put(object);
                } else {
                    informer.put(object);
                    *from = (*from).max(revision);
                    informer.advance(revision);
                }
            }
            WatchEvent::Deleted(object) => {
                if let Some(listed) = &mut listed {
                    listed.remove(&object.key());
                }
                informer.remove(&object.key());
                if listed.is_none() {
                    *from = (*from).max(object.resource_version());
                    informer.advance(object.resource_version());
                }
            }
            WatchEvent::Bookmark {
                resource_version,
                initial_events_end,
            } => {
                if initial_events_end && let Some(listed) = listed.take() {
                    informer.retain(&listed);
                }
                if listed.is_none() {
                    *from = (*from).max(resource_version);
                    // An empty store is at revision 0 for some: the list is complete all the same.
                    informer.advance(resource_version.max(1));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use futures::stream;
    use meta::Object;
    use serde_json::json;

    fn object(name: &str, revision: u64) -> Arc<Object> {
        let value = json!({"metadata": {"name": name, "uid": name, "resourceVersion": revision.to_string()}});
        Arc::new(Object::from_value(value).unwrap())
    }

    fn mark(resource_version: u64, initial_events_end: bool) -> WatchEvent {
        WatchEvent::Bookmark {
            resource_version,
            initial_events_end,
        }
    }

    #[tokio::test]
    async fn what_vanished_while_the_watch_was_broken_is_gone() {
        let informer = Arc::new(Informer::new());
        let weak = Arc::downgrade(&informer);
        let mut from = 0;
        let first = vec![
            Ok(WatchEvent::Added(object("a", 1))),
            Ok(WatchEvent::Added(object("b", 2))),
            Ok(mark(2, true)),
            Ok(WatchEvent::Modified(object("a", 3))),
            Err(Status::expired("too old")),
        ];
        assert!(
            follow(stream::iter(first).boxed(), true, &weak, &mut from)
                .await
                .unwrap_err()
                .is_expired()
        );
        assert_eq!((from, informer.revision()), (3, 3));
        let again = vec![Ok(WatchEvent::Added(object("a", 3))), Ok(mark(9, true))];
        follow(stream::iter(again).boxed(), true, &weak, &mut from)
            .await
            .unwrap();
        assert_eq!(informer.list("").len(), 1);
        assert_eq!(informer.revision(), 9);
    }
}
