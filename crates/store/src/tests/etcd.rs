//! The same conformance suite on a real etcd, where its program is installed, and what it does
//! when members die.

mod faults;
pub(super) mod server;

use crate::etcd::{Etcd, Options};
use crate::{Error, Range, Store, Txn};
use futures::StreamExt;
use server::Servers;
use std::sync::Arc;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let Some(servers) = Servers::start(1).await else { return };
    crate::conformance::run(async |stamp| {
        let options = Options {
            stamp,
            ..servers.options()
        };
        Arc::new(Etcd::connect(options).await.expect("connect")) as Arc<dyn Store>
    })
    .await;
}

/// Moved from a store with greater revisions: everything goes on from there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_an_offset() {
    let Some(servers) = Servers::start(1).await else { return };
    let filling = || Options {
        filling: true,
        ..servers.options()
    };
    let mut store = Etcd::connect(filling()).await.expect("connect");
    store.fill(b"/registry/", 1_000_000).await.expect("fill");
    let first = store.commit(Txn::create("/registry/a", "1")).await.expect("commit");
    assert!(first.committed().expect("committed").revision > 1_000_000);
    let refused = Etcd::connect(servers.options()).await.map(drop);
    assert!(matches!(refused, Err(Error::Unfinished { .. })), "{refused:?}");

    // Cut short and begun again: what was there is gone, and no revision comes twice.
    let before = store.revision().await.expect("revision");
    let mut again = Etcd::connect(filling()).await.expect("connect");
    again.fill(b"/registry/", 1_000_000).await.expect("fill");
    assert!(again.get(b"/registry/a").await.expect("get").is_none());
    again.filled().await.expect("filled");
    assert!(again.revision().await.expect("revision") > before);

    crate::conformance::run(async |stamp| {
        let options = Options {
            stamp,
            ..servers.options()
        };
        Arc::new(Etcd::connect(options).await.expect("connect")) as Arc<dyn Store>
    })
    .await;
    let store = Etcd::connect(servers.options()).await.expect("connect");
    let past = store.range(Range::prefix("/registry/").at(999_999)).await;
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
    let past = store.watch("/registry/".into(), 999_999).await.map(drop);
    assert!(matches!(past, Err(Error::Compacted { .. })), "{past:?}");
    let mut full = Etcd::connect(filling()).await.expect("connect");
    let refused = full.fill(b"/registry/", 5).await;
    assert!(matches!(refused, Err(Error::Invalid(_))), "{refused:?}");
}

/// Else a reader that waits for the present revision would wait for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_elsewhere_in_etcd_show_how_far_a_watch_has_come() {
    let Some(servers) = Servers::start(1).await else { return };
    let store = Etcd::connect(servers.options()).await.expect("connect");
    let mut watch = store.watch("/registry/".into(), 0).await.expect("watch");
    store.commit(Txn::create("/elsewhere", "x")).await.expect("commit");
    let now = store.revision().await.expect("revision");
    let batch = tokio::time::timeout(server::DEADLINE, watch.next())
        .await
        .expect("in time");
    let batch = batch.expect("an item").expect("no error");
    assert!(batch.events.is_empty() && batch.revision == now, "{batch:?}");
}

#[tokio::test]
async fn an_absent_etcd_is_named() {
    let options = Options {
        timeout: Duration::from_secs(2),
        ..Options::new(["http://127.0.0.1:1"])
    };
    let error = Etcd::connect(options)
        .await
        .map(drop)
        .expect_err("nobody listens there");
    assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
    let text = error.to_string();
    assert!(
        text.contains("http://127.0.0.1:1") && text.contains("refused"),
        "{text}"
    );
}
