//! Cases on watches.

use super::{DEADLINE, commit, delete, fresh, put, stamped, take};
use crate::{Error, EventKind, Store, Txn, WatchEvent, WatchStream};
use futures::StreamExt;
use std::sync::Arc;

async fn watch(store: &Arc<dyn Store>, prefix: &str, from: u64) -> WatchStream {
    store.watch(prefix.to_owned().into(), from).await.expect("watch")
}

fn brief(events: &[WatchEvent]) -> Vec<(EventKind, u64, Option<u64>)> {
    let prev = |e: &WatchEvent| e.prev.as_ref().map(|kv| kv.mod_revision);
    events.iter().map(|e| (e.kind, e.revision, prev(e))).collect()
}

pub(super) async fn live_events_come_in_order(store: Arc<dyn Store>) {
    let prefix = fresh("live");
    let (a, b) = (format!("{prefix}a"), format!("{prefix}b"));
    let before = put(&store, &a, "0").await;
    let mut live = watch(&store, &prefix, 0).await;
    let mut narrow = watch(&store, &b, 0).await;
    let one = put(&store, &a, "1").await;
    put(&store, "/registry/elsewhere", "x").await;
    let made = commit(&store, Txn::default().put(b.clone(), "1").delete(a.clone())).await;
    let events = take(&mut live, 3).await;
    let two = made.revision;
    assert_eq!(
        brief(&events),
        [
            (EventKind::Put, one, Some(before)),
            (EventKind::Put, two, None),
            (EventKind::Delete, two, Some(one))
        ]
    );
    assert_eq!(events[0].value, stamped("1", one));
    assert_eq!(events[1..], *made.events, "watchers see what the committer was told");
    assert_eq!(brief(&take(&mut narrow, 1).await), [(EventKind::Put, two, None)]);
}

pub(super) async fn history_joins_live_without_gap(store: Arc<dyn Store>) {
    const COUNT: usize = 300;
    let prefix = fresh("join");
    let from = put(&store, &format!("{prefix}first"), "x").await;
    let writer = {
        let (store, prefix) = (Arc::clone(&store), prefix.clone());
        tokio::spawn(async move {
            for n in 0..COUNT {
                let key = format!("{prefix}{}", n % 7);
                if n % 5 == 4 {
                    delete(&store, &key).await;
                } else {
                    put(&store, &key, &n.to_string()).await;
                }
            }
        })
    };
    // Watches begin while the writer is at work, each with more history behind it.
    let mut watches = Vec::new();
    for _ in 0..5 {
        watches.push(watch(&store, &prefix, from).await);
        tokio::task::yield_now().await;
    }
    writer.await.expect("the writer failed");
    watches.push(watch(&store, &prefix, from).await);
    let end = put(&store, &format!("{prefix}last"), "x").await;
    let mut seen: Vec<Vec<WatchEvent>> = Vec::new();
    for mut watch in watches {
        let mut events: Vec<WatchEvent> = Vec::new();
        while events.last().is_none_or(|event| event.revision < end) {
            let batch = tokio::time::timeout(DEADLINE, watch.next()).await.expect("in time");
            events.extend(batch.expect("an item").expect("no error").events);
        }
        seen.push(events);
    }
    let mut last = from - 1;
    for event in &seen[0] {
        assert_eq!(event.revision, last + 1, "every revision once, in order");
        last = event.revision;
    }
    assert!(
        seen.iter().all(|events| *events == seen[0]),
        "all watches tell the same"
    );
}

pub(super) async fn transactions_are_not_split(store: Arc<dyn Store>) {
    let prefix = fresh("whole");
    let from = store.revision().await.expect("revision") + 1;
    let mut live = watch(&store, &prefix, 0).await;
    for round in 0..20 {
        let txn = (0..50).fold(Txn::default(), |txn, n| {
            txn.put(format!("{prefix}{round}/{n:02}"), "x".repeat(100))
        });
        commit(&store, txn).await;
    }
    let mut history = watch(&store, &prefix, from).await;
    for stream in [&mut live, &mut history] {
        let mut count = 0;
        let mut last = 0;
        while count < 1000 {
            let item = tokio::time::timeout(DEADLINE, stream.next()).await.expect("in time");
            let batch = item.expect("an item").expect("no error");
            let Some(first) = batch.events.first().map(|event| event.revision) else {
                continue;
            };
            assert!(first > last, "revision {first} came in two batches");
            last = batch.events.last().map_or(0, |event| event.revision);
            assert_eq!(batch.events.len() % 50, 0);
            count += batch.events.len();
        }
    }
}

pub(super) async fn compacted_history_is_refused(store: Arc<dyn Store>) {
    let prefix = fresh("expired");
    let key = format!("{prefix}a");
    put(&store, &key, "1").await;
    let kept = put(&store, &key, "2").await;
    let point = put(&store, &format!("{prefix}b"), "1").await;
    let gone = delete(&store, &key).await;
    store.compact(point).await.expect("compact");
    for from in [kept, point] {
        let error = match store.watch(prefix.clone().into(), from).await {
            Err(error) => error,
            Ok(mut stream) => {
                let item = tokio::time::timeout(DEADLINE, stream.next()).await.expect("in time");
                let error = item.expect("an item").expect_err("a watch from the compacted past");
                assert!(stream.next().await.is_none(), "the error is the end");
                error
            }
        };
        assert!(
            matches!(error, Error::Compacted { requested, compacted }
                if requested == from && compacted == point),
            "{error:?}"
        );
    }
    let mut rest = watch(&store, &prefix, point + 1).await;
    let events = take(&mut rest, 1).await;
    assert_eq!(brief(&events), [(EventKind::Delete, gone, Some(kept))]);
    let prev = events[0].prev.as_ref().map(|kv| kv.value.clone());
    assert_eq!(prev, Some(stamped("2", kept)), "the version before outlives compaction");
}

pub(super) async fn future_revisions_are_awaited(store: Arc<dyn Store>) {
    let prefix = fresh("future");
    let key = format!("{prefix}a");
    let now = put(&store, &key, "0").await;
    let mut later = watch(&store, &prefix, now + 3).await;
    for n in 1..=3 {
        assert_eq!(put(&store, &key, &n.to_string()).await, now + n);
    }
    assert_eq!(take(&mut later, 1).await[0].revision, now + 3);
}

pub(super) async fn closing_ends_watches(store: Arc<dyn Store>) {
    let prefix = fresh("closing");
    let mut live = watch(&store, &prefix, 0).await;
    put(&store, &format!("{prefix}a"), "1").await;
    take(&mut live, 1).await;
    store.close().await;
    let end = tokio::time::timeout(DEADLINE, live.next()).await.expect("in time");
    assert!(end.is_none(), "{end:?}");
    let refused = store.commit(Txn::default().put(prefix.clone(), "x")).await;
    assert!(matches!(refused, Err(Error::Closed)), "{refused:?}");
    let refused = store.watch(prefix.into(), 0).await.err();
    assert!(matches!(refused, Some(Error::Closed)), "{refused:?}");
    store.close().await;
}
