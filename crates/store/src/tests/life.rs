//! What is particular to the embedded engine: first revisions, group commit, slow watchers,
//! restarts, compaction in the background, snapshots that can be restored.

use super::open;
use crate::embedded::{self, Options};
use crate::{Embedded, Error, Range, Stamp, Store, Txn};
use futures::{FutureExt, StreamExt};
use std::sync::Arc;

async fn put(store: &dyn Store, key: &str, value: impl Into<bytes::Bytes>) -> u64 {
    let txn = Txn::default().put(key.to_owned(), value);
    store
        .commit(txn)
        .await
        .expect("commit")
        .committed()
        .expect("no compare")
        .revision
}

#[tokio::test]
async fn a_new_store_is_at_revision_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), Stamp::none());
    assert_eq!(store.revision().await.expect("revision"), 1);
    assert_eq!(store.compacted().await.expect("compacted"), 0);
    assert!(
        store
            .range(Range::default().at(1))
            .await
            .expect("range")
            .items
            .is_empty()
    );
    assert_eq!(put(&*store, "/a", "x").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_commits_share_an_fsync() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), Stamp::none());
    let commits = (0..500).map(|n| {
        let store = Arc::clone(&store);
        async move { put(&*store, &format!("/k/{n}"), vec![b'x'; 1500]).await }
    });
    let mut revisions = futures::future::join_all(commits).await;
    revisions.sort_unstable();
    assert_eq!(revisions, (2..502).collect::<Vec<_>>());
    let stats = store.stats().await.expect("stats");
    assert_eq!(stats.commits, 500);
    assert!(stats.groups < 100, "{} groups for 500 commits", stats.groups);
}

#[tokio::test]
async fn a_slow_watcher_is_cut_off() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options {
        watch_queue: 10,
        ..Options::new(dir.path())
    };
    let store = Embedded::open(options).expect("open");
    let mut slow = store.watch("/k".into(), 0).await.expect("watch");
    let mut quick = store.watch("/k".into(), 0).await.expect("watch");
    for n in 0..25 {
        let revision = put(&store, "/k", format!("{n}")).await;
        let batch = quick.next().await.expect("an item").expect("a batch");
        assert_eq!(batch.revision, revision);
    }
    let mut delivered = 0;
    let error = loop {
        match slow.next().await.expect("an item") {
            Ok(batch) => delivered = batch.revision,
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, Error::Lagged { delivered: told } if told == delivered),
        "{error:?}"
    );
    assert_eq!(delivered, 11, "what fitted was delivered");
    assert!(slow.next().await.is_none());
    // It can take up where it was cut off.
    let mut resumed = store.watch("/k".into(), delivered + 1).await.expect("watch");
    assert_eq!(
        resumed.next().await.expect("an item").expect("a batch").events.len(),
        15
    );
    let stats = store.stats().await.expect("stats");
    assert_eq!(stats.lagged, 1);
    // One transaction greater than the queue is no lag.
    drop(resumed);
    let many = (0..50).fold(Txn::default(), |txn, n| txn.put(format!("/k/{n}"), "x"));
    store.commit(many).await.expect("commit");
    assert_eq!(quick.next().await.expect("an item").expect("a batch").events.len(), 50);
    drop((slow, quick));
    assert_eq!(store.stats().await.expect("stats").watchers, 0);
}

#[tokio::test]
async fn history_outlives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path(), Stamp::none());
    put(&*store, "/a", "1").await;
    put(&*store, "/a", "2").await;
    store.commit(Txn::default().delete("/a")).await.expect("commit");
    drop(store);
    let store = open(dir.path(), Stamp::none());
    let mut watch = store.watch("/".into(), 2).await.expect("watch");
    let events = watch.next().await.expect("an item").expect("a batch").events;
    assert_eq!(events.iter().map(|e| e.revision).collect::<Vec<_>>(), [2, 3, 4]);
    assert_eq!(events[2].prev.as_ref().map(|kv| &*kv.value), Some(&b"2"[..]));
    // The last record of all, a deletion, is compacted: the revision must not fall back.
    store.compact(4).await.expect("compact");
    drop(watch);
    drop(store);
    let store = open(dir.path(), Stamp::none());
    assert_eq!(store.revision().await.expect("revision"), 4);
    assert_eq!(store.compacted().await.expect("compacted"), 4);
    let error = store.watch("/".into(), 4).await.err();
    assert!(matches!(error, Some(Error::Compacted { .. })), "{error:?}");
    assert_eq!(put(&*store, "/a", "3").await, 5);
}

#[tokio::test]
async fn compaction_makes_room_beside_commits() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Embedded::open(Options::new(dir.path())).expect("open"));
    let mut last = 0;
    for n in 0..2000 {
        last = put(&*store, &format!("/k/{}", n % 10), vec![b'x'; 2000]).await;
    }
    let before = store.stats().await.expect("stats").disk_bytes;
    let compaction = tokio::spawn({
        let store = Arc::clone(&store);
        async move { store.compact(last).await }
    });
    let mut meanwhile = 0;
    while !compaction.is_finished() {
        put(&*store, "/other", "x").await;
        meanwhile += 1;
    }
    compaction.await.expect("no panic").expect("compact");
    assert!(meanwhile > 1, "commits waited for the compaction");
    store.verify().await.expect("verify");
    // The room is used again: as many writes as before make the file no greater by half.
    for n in 0..2000 {
        last = put(&*store, &format!("/k/{}", n % 10), vec![b'x'; 2000]).await;
        if n % 500 == 0 {
            store.compact(last).await.expect("compact");
        }
    }
    let after = store.stats().await.expect("stats").disk_bytes;
    assert!(after < before * 3 / 2, "{before} -> {after} bytes");
}

#[tokio::test]
async fn a_snapshot_can_be_restored() {
    let dir = tempfile::tempdir().expect("a directory");
    let copy = dir.path().join("copy");
    let store = open(&dir.path().join("one"), Stamp::none());
    put(&*store, "/a", "1").await;
    let kept = put(&*store, "/a", "2").await;
    assert_eq!(store.snapshot(&copy).await.expect("snapshot"), kept);
    put(&*store, "/a", "3").await;

    let error = embedded::restore(&copy, &dir.path().join("one")).expect_err("in use");
    assert!(matches!(error, Error::Locked { .. }), "{error:?}");
    store.close().await;
    let error = embedded::restore(&copy, &dir.path().join("one")).expect_err("not empty");
    assert!(matches!(error, Error::Path { .. }), "{error:?}");

    embedded::restore(&copy, &dir.path().join("two")).expect("restore");
    let restored = Embedded::open(Options::new(dir.path().join("two"))).expect("open");
    restored.verify().await.expect("verify");
    let page = restored.range(Range::default()).await.expect("range");
    assert_eq!((page.revision, &*page.items[0].value), (kept, &b"2"[..]));
    assert_eq!(put(&restored, "/a", "4").await, kept + 1);
    let mut history = restored.watch("/".into(), 2).await.expect("history came along");
    assert!(history.next().now_or_never().is_some() || history.next().await.is_some());
}

#[tokio::test]
async fn commits_are_synced() {
    // kill -9 can't tell a synced commit from an unsynced one, so the setting itself is asserted.
    let dir = tempfile::tempdir().expect("a directory");
    let _store = open(dir.path(), Stamp::none());
    let path = dir.path().join("store.db");
    let db = embedded::writer_connection(&path).expect("open");
    let pragma = |name: &str| db.pragma_query_value(None, name, |row| row.get::<_, String>(0));
    assert_eq!(pragma("journal_mode").as_deref(), Ok("wal"));
    let full: i64 = db
        .pragma_query_value(None, "synchronous", |row| row.get(0))
        .expect("pragma");
    assert_eq!(full, 2);
}
