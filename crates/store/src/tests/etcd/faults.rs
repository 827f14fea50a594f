//! Members are killed while clients write and watch: what was acknowledged is there, and watches
//! tell all of it, once, in order.

use super::server::{DEADLINE, Servers};
use crate::etcd::{Etcd, Options};
use crate::{Error, EventKind, Outcome, Range, Store, Txn, WatchEvent};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const PREFIX: &str = "/registry/faults/";

/// What the writers were told: revision, key and, unless it was a deletion, value.
type Acknowledged = Vec<(u64, String, Option<String>)>;

/// Writes until told to stop; failures are borne.
async fn write(store: Arc<Etcd>, writer: usize, stop: Arc<AtomicBool>, count: Arc<AtomicUsize>) -> Acknowledged {
    let mut acknowledged = Vec::new();
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let (key, value) = (format!("{PREFIX}{writer}/{}", n % 5), format!("{writer}-{n}"));
        let (txn, value) = if n % 7 == 6 {
            (Txn::default().delete(key.clone()), None)
        } else {
            (Txn::default().put(key.clone(), value.clone()), Some(value))
        };
        match store.commit(txn).await {
            Ok(Outcome::Committed(committed)) if !committed.events.is_empty() => {
                acknowledged.push((committed.revision, key, value));
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(_) => {}
            Err(Error::Unavailable { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
            Err(error) => panic!("a write failed otherwise: {error:?}"),
        }
    }
    acknowledged
}

/// Follows as the API server does: after an error from where it was.
async fn follow(store: Arc<Etcd>, mut next: u64, until: tokio::sync::watch::Receiver<u64>) -> Vec<WatchEvent> {
    let mut seen = Vec::new();
    loop {
        let watch = store.watch(PREFIX.into(), next).await;
        let mut watch = match watch {
            Ok(watch) => watch,
            Err(Error::Unavailable { .. }) => {
                tokio::time::sleep(Duration::from_millis(5)).await;
                continue;
            }
            Err(error) => panic!("a watch failed otherwise: {error:?}"),
        };
        let mut end = until.clone();
        loop {
            if next > *end.borrow() {
                return seen;
            }
            let item = tokio::select! {
                item = watch.next() => item,
                _ = end.changed() => continue,
            };
            match item {
                Some(Ok(batch)) => {
                    next = batch.revision + 1;
                    seen.extend(batch.events);
                }
                Some(Err(Error::Unavailable { .. })) | None => break,
                Some(Err(error)) => panic!("a watch ended otherwise: {error:?}"),
            }
        }
    }
}

/// Kills and restarts as `strike` says while clients are at work, then compares what they know.
async fn trial(servers: &mut Servers, rounds: usize, only_leader: bool) {
    let connect = || async {
        let options = Options {
            timeout: Duration::from_secs(3),
            ..servers.options()
        };
        Arc::new(Etcd::connect(options).await.expect("connect"))
    };
    let (one, two) = (connect().await, connect().await);
    let from = one.revision().await.expect("revision") + 1;
    let (stop, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (end, ended) = tokio::sync::watch::channel(u64::MAX);
    let writers: Vec<_> = [&one, &two, &one, &two]
        .into_iter()
        .enumerate()
        .map(|(n, store)| tokio::spawn(write(store.clone(), n, stop.clone(), count.clone())))
        .collect();
    let watchers: Vec<_> = [&one, &two]
        .into_iter()
        .map(|store| tokio::spawn(follow(store.clone(), from, ended.clone())))
        .collect();
    for _ in 0..rounds {
        progress(&count).await;
        let victim = if only_leader { leader(servers).await } else { 0 };
        servers.kill(victim);
        if only_leader {
            // The others go on without it.
            progress(&count).await;
        }
        servers.launch(victim);
    }
    progress(&count).await;
    stop.store(true, Ordering::Relaxed);
    let mut acknowledged = Acknowledged::new();
    for writer in writers {
        acknowledged.extend(writer.await.expect("a writer failed"));
    }
    servers.ready().await;
    // A last write: whatever was in flight is before it.
    let last = one.commit(Txn::default().put(format!("{PREFIX}last"), "x")).await;
    let last = last.expect("the last write").committed().expect("committed").revision;
    end.send_replace(last);
    let mut tales = Vec::new();
    for watcher in watchers {
        let tale = tokio::time::timeout(DEADLINE, watcher).await.expect("in time");
        tales.push(tale.expect("a watcher failed"));
    }
    compare(&two, acknowledged, tales).await;
}

/// Waits for 50 more acknowledged writes.
async fn progress(count: &AtomicUsize) {
    let (goal, deadline) = (count.load(Ordering::Relaxed) + 50, Instant::now() + DEADLINE);
    while count.load(Ordering::Relaxed) < goal {
        assert!(Instant::now() < deadline, "writes do not go on");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn leader(servers: &Servers) -> usize {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(leader) = servers.leader().await {
            return leader;
        }
        assert!(Instant::now() < deadline, "no leader");
    }
}

async fn compare(store: &Etcd, mut acknowledged: Acknowledged, tales: Vec<Vec<WatchEvent>>) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let brief = |e: &WatchEvent| {
        let value = (e.kind == EventKind::Put).then(|| text(&e.value));
        (e.revision, text(&e.key), value)
    };
    let told: Vec<_> = tales[0].iter().map(brief).collect();
    assert!(told.is_sorted_by(|a, b| a.0 < b.0), "not in order, or twice");
    assert_eq!(
        told,
        tales[1].iter().map(brief).collect::<Vec<_>>(),
        "the watchers disagree"
    );
    acknowledged.sort();
    let mut state = BTreeMap::new();
    for (_, key, value) in &told {
        match value {
            Some(value) => state.insert(key.clone(), value.clone()),
            None => state.remove(key),
        };
    }
    for write in &acknowledged {
        assert!(
            told.binary_search(write).is_ok(),
            "{write:?} was acknowledged, and no watch told it"
        );
    }
    let page = store.range(Range::prefix(PREFIX)).await.expect("range");
    let present: BTreeMap<_, _> = page.items.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
    assert_eq!(present, state, "what is there is not what was told");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_member_is_killed_during_writes() {
    let Some(mut servers) = Servers::start(1).await else {
        return;
    };
    trial(&mut servers, 5, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_of_three_is_killed_during_writes() {
    let Some(mut servers) = Servers::start(3).await else {
        return;
    };
    trial(&mut servers, 4, true).await;
}

/// The cache of the API server then reads everything anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn others_may_compact() {
    let Some(servers) = Servers::start(1).await else { return };
    let (one, two) = (
        Etcd::connect(servers.options()).await,
        Etcd::connect(servers.options()).await,
    );
    let (one, two) = (one.expect("connect"), two.expect("connect"));
    let put = |n: u32| Txn::default().put(format!("{PREFIX}c"), n.to_string());
    let first = one
        .commit(put(0))
        .await
        .expect("commit")
        .committed()
        .expect("committed")
        .revision;
    for n in 1..10 {
        one.commit(put(n)).await.expect("commit");
    }
    two.compact(first + 5).await.expect("compact");
    one.compact(first + 2).await.expect("an older compaction is none");
    assert_eq!(one.compacted().await.expect("compacted"), first + 5);
    let gone = match one.watch(PREFIX.into(), first).await {
        Ok(mut watch) => watch.next().await.expect("an item").map(drop),
        Err(error) => Err(error),
    };
    assert!(matches!(gone, Err(Error::Compacted { .. })), "{gone:?}");
}
