//! Moving a store: what is copied, how revisions go on, and a look at files in use.

use super::open;
use crate::embedded::{self, Files, Options};
use crate::{Embedded, Error, Range, Stamp, Store, Txn, copy, equal};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const PREFIX: &str = "/registry/";

fn stamp() -> Stamp {
    crate::conformance::stamp()
}

fn begin_at(dir: &Path, begin: u64) -> Arc<dyn Store> {
    let options = Options {
        begin,
        ..Options::new(dir).stamp(stamp())
    };
    Arc::new(Embedded::open(options).expect("open"))
}

async fn fill(store: &dyn Store, count: usize) {
    for n in 0..count {
        let txn = Txn::default()
            .put(format!("{PREFIX}a/{n:04}"), format!("value {n}"))
            .put(format!("{PREFIX}b"), "x".repeat(2000))
            .put("/elsewhere", "not copied");
        store.commit(txn).await.expect("commit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_has_greater_revisions_and_no_past() {
    let dir = tempfile::tempdir().expect("a directory");
    let from = open(&dir.path().join("from"), stamp());
    fill(&*from, 700).await;
    let last = from.revision().await.expect("revision");
    let to = begin_at(&dir.path().join("to"), last);
    assert_eq!(to.revision().await.expect("revision"), last);
    assert_eq!(copy(&*from, &*to, PREFIX).await.expect("copy"), 701);
    assert_eq!(equal(&*from, &*to, PREFIX, &stamp()).await.expect("compare"), None);
    let page = to.range(Range::default()).await.expect("range");
    assert_eq!(page.items.len(), 701, "only what has the prefix");
    for kv in &page.items {
        assert!(kv.mod_revision > last);
        assert!(kv.value.ends_with(format!("@{}", kv.mod_revision).as_bytes()));
    }
    let past = to.watch(PREFIX.into(), last).await.map(drop);
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
    let past = to.range(Range::prefix(PREFIX).at(last - 1)).await;
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
    let again = copy(&*from, &*to, PREFIX).await;
    assert!(matches!(again, Err(Error::Invalid(_))), "{again:?}");
    to.commit(Txn::default().put(format!("{PREFIX}a/0005"), "other"))
        .await
        .expect("commit");
    let differs = equal(&*from, &*to, PREFIX, &stamp()).await.expect("compare");
    assert_eq!(differs.as_deref(), Some("/registry/a/0005"));
    to.close().await;
    let to = open(&dir.path().join("to"), stamp());
    assert!(
        to.revision().await.expect("revision") > last,
        "also after opening it again"
    );
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_and_back_through_etcd() {
    use crate::etcd::Etcd;
    let Some(servers) = super::etcd::server::Servers::start(1).await else {
        return;
    };
    let dir = tempfile::tempdir().expect("a directory");
    let from = open(&dir.path().join("from"), stamp());
    fill(&*from, 300).await;
    from.compact(250).await.expect("compact");
    let first = from.revision().await.expect("revision");
    let mut options = servers.options();
    (options.filling, options.stamp) = (true, stamp());
    let mut etcd = Etcd::connect(options.clone()).await.expect("connect");
    etcd.fill(PREFIX.as_bytes(), first).await.expect("fill");
    assert_eq!(copy(&*from, &etcd, PREFIX).await.expect("copy"), 301);
    etcd.filled().await.expect("filled");
    options.filling = false;
    let etcd = Etcd::connect(options).await.expect("connect");
    assert_eq!(equal(&*from, &etcd, PREFIX, &stamp()).await.expect("compare"), None);
    let second = etcd.revision().await.expect("revision");
    assert!(second > first);
    let page = etcd.range(Range::prefix(PREFIX)).await.expect("range");
    assert!(page.items.iter().all(|kv| kv.mod_revision > first));

    let back = begin_at(&dir.path().join("back"), second);
    assert_eq!(copy(&etcd, &*back, PREFIX).await.expect("copy"), 301);
    assert_eq!(equal(&*from, &*back, PREFIX, &stamp()).await.expect("compare"), None);
    let page = back.range(Range::prefix(PREFIX)).await.expect("range");
    assert!(page.items.iter().all(|kv| kv.mod_revision > second));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_in_use_are_copied_while_clients_write() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("store");
    let store = open(&place, stamp());
    fill(&*store, 100).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (store, stop) = (store.clone(), stop.clone());
        tokio::spawn(async move {
            // Two keys that are always alike: a copy in between would show.
            for n in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let txn = Txn::default()
                    .put("/registry/one", n.to_string())
                    .put("/registry/two", n.to_string());
                store.commit(txn).await.expect("commit");
            }
        })
    };
    let mut last = 0;
    for n in 0..5 {
        let file = dir.path().join(format!("copy{n}"));
        let at = place.clone();
        let to = file.clone();
        let copied = tokio::task::spawn_blocking(move || Files::open(&at)?.snapshot(&to));
        let revision = copied.await.expect("copy").expect("copy");
        let other = dir.path().join(format!("restored{n}"));
        embedded::restore(&file, &other).expect("restore");
        let restored = Embedded::open(Options::new(&other)).expect("open");
        restored.verify().await.expect("whole");
        assert!(restored.revision().await.expect("revision") >= revision && revision >= last);
        last = revision;
        let get = async |key: &str| restored.get(key.as_bytes()).await.expect("get").map(|kv| kv.value);
        assert_eq!(get("/registry/one").await, get("/registry/two").await);
    }
    stop.store(true, Ordering::Relaxed);
    writer.await.expect("the writer failed");
    let over = Files::open(&place).expect("open").snapshot(&dir.path().join("copy0"));
    assert!(matches!(over, Err(Error::Path { .. })), "{over:?}");
    assert!(matches!(Files::open(dir.path()), Err(Error::Path { .. })));
}

#[tokio::test]
async fn all_damage_is_reported() {
    let dir = tempfile::tempdir().expect("a directory");
    {
        let store = open(dir.path(), stamp());
        fill(&*store, 20).await;
        store.close().await;
    }
    let found = || {
        let mut found = Vec::new();
        Files::open(dir.path())
            .expect("open")
            .verify(&mut |error| found.push(error.to_string()));
        found
    };
    assert_eq!(found(), Vec::<String>::new());
    let file = dir.path().join("store.db");
    let mut bytes = std::fs::read(&file).expect("read");
    for what in [&b"value 3"[..], b"value 11"] {
        let at = bytes.windows(what.len()).rposition(|w| w == what).expect("the value");
        bytes[at] ^= 0x20;
    }
    std::fs::write(&file, bytes).expect("write");
    let found = found();
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].contains("/registry/a/0003") && found[1].contains("/registry/a/0011"),
        "{found:?}"
    );
}
