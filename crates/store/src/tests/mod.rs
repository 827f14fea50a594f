//! Tests of the embedded engine: the conformance suite, a model, crashes, and bad disks.

mod crash;
mod disk;
#[cfg(feature = "etcd")]
mod etcd;
mod life;
mod model;
mod sealed;
mod transfer;

use crate::{Embedded, Stamp, Store, embedded::Options};
use std::path::Path;
use std::sync::Arc;

fn open(dir: &Path, stamp: Stamp) -> Arc<dyn Store> {
    Arc::new(Embedded::open(Options::new(dir).stamp(stamp)).expect("open"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = std::cell::Cell::new(0);
    crate::conformance::run(async |stamp| {
        count.set(count.get() + 1);
        open(&dir.path().join(count.get().to_string()), stamp)
    })
    .await;
}
