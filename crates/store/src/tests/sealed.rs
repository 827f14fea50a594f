//! Encryption: the conformance suite through it, what lies in the store, and what can't be read.

use crate::sealed::{Algorithm, Key, Provider, Rule, Rules, Sealed, around};
use crate::{Embedded, Error, Range, Stamp, Store, Txn, embedded::Options};
use futures::StreamExt;
use std::path::Path;
use std::sync::Arc;

fn key(algorithm: Algorithm, name: &str, byte: u8) -> Provider {
    Provider::Key(Key::new(algorithm, name, &[byte; 32]).expect("a key"))
}

fn rules(providers: Vec<Provider>) -> Rules {
    let prefixes = vec!["/registry/".to_owned()];
    Rules(vec![Rule { prefixes, providers }])
}

/// The store, and what lies in it.
fn open(dir: &Path, rules: Rules, stamp: Stamp) -> (Arc<dyn Store>, Arc<dyn Store>) {
    let inner = Embedded::open(Options::new(dir).stamp(around(stamp.clone()))).expect("open");
    let inner: Arc<dyn Store> = Arc::new(inner);
    (Arc::new(Sealed::new(inner.clone(), rules, stamp)), inner)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_with_either_cipher() {
    for algorithm in [Algorithm::AesGcm, Algorithm::Secretbox] {
        let dir = tempfile::tempdir().expect("a directory");
        let count = std::cell::Cell::new(0);
        crate::conformance::run(async |stamp| {
            count.set(count.get() + 1);
            let rules = rules(vec![key(algorithm, "one", 1)]);
            open(&dir.path().join(count.get().to_string()), rules, stamp).0
        })
        .await;
    }
}

#[cfg(feature = "etcd")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conformance_before_etcd() {
    use crate::etcd::Etcd;
    let Some(servers) = super::etcd::server::Servers::start(1).await else {
        return;
    };
    crate::conformance::run(async |stamp: Stamp| {
        let mut options = servers.options();
        options.stamp = around(stamp.clone());
        let inner = Arc::new(Etcd::connect(options).await.expect("connect"));
        let rules = rules(vec![key(Algorithm::AesGcm, "one", 1)]);
        Arc::new(Sealed::new(inner, rules, stamp)) as Arc<dyn Store>
    })
    .await;
}

#[tokio::test]
async fn only_cipher_text_lies_in_the_store_and_keys_rotate() {
    let dir = tempfile::tempdir().expect("a directory");
    let stamp = crate::conformance::stamp;
    {
        let (plain, _) = open(dir.path(), Rules::default(), stamp());
        plain
            .commit(Txn::create("/registry/old", "plain"))
            .await
            .expect("commit");
        plain.close().await;
    }
    let one = || key(Algorithm::AesGcm, "one", 1);
    {
        let (store, inner) = open(dir.path(), rules(vec![one(), Provider::Identity]), stamp());
        let old = store.get(b"/registry/old").await.expect("get").expect("there");
        assert_eq!(old.value, "plain@2");
        let update = Txn::update("/registry/old", 2, "secret");
        let done = store
            .commit(update)
            .await
            .expect("commit")
            .committed()
            .expect("committed");
        assert_eq!(done.events[0].value, "secret@3");
        assert_eq!(
            done.events[0].prev.as_ref().map(|kv| kv.value.clone()),
            Some("plain@2".into())
        );
        let lies = inner.get(b"/registry/old").await.expect("get").expect("there").value;
        assert!(lies.starts_with(b"k8s:enc:aesgcm:v1:one:"), "{lies:?}");
        assert!(!lies.windows(6).any(|w| w == b"secret"));
        store.close().await;
    }
    // The new key writes, both read; then the old one is gone.
    let two = || key(Algorithm::Secretbox, "two", 2);
    {
        let (store, inner) = open(dir.path(), rules(vec![two(), one()]), stamp());
        assert_eq!(
            store.get(b"/registry/old").await.expect("get").expect("there").value,
            "secret@3"
        );
        store.commit(Txn::create("/registry/new", "x")).await.expect("commit");
        let lies = inner.get(b"/registry/new").await.expect("get").expect("there").value;
        assert!(lies.starts_with(b"k8s:enc:secretbox:v1:two:"), "{lies:?}");
        store.close().await;
    }
    let (store, _) = open(dir.path(), rules(vec![two()]), stamp());
    let error = store
        .range(Range::prefix("/registry/"))
        .await
        .expect_err("a key is missing");
    let text = error.to_string();
    assert!(
        text.contains("/registry/old") && text.contains("aesgcm key \"one\""),
        "{text}"
    );
    assert_eq!(
        store.get(b"/registry/new").await.expect("get").expect("there").value,
        "x@4"
    );
}

#[tokio::test]
async fn what_does_not_fit_is_named_and_does_not_hold_up_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let with = |byte| rules(vec![key(Algorithm::AesGcm, "one", byte)]);
    let (store, inner) = open(dir.path(), with(1), Stamp::none());
    store.commit(Txn::create("/registry/a", "for a")).await.expect("commit");
    let lies = inner.get(b"/registry/a").await.expect("get").expect("there").value;
    // Copied to another place, and damaged.
    let mut damaged = lies.to_vec();
    damaged[40] ^= 1;
    inner.commit(Txn::create("/registry/b", lies)).await.expect("commit");
    inner.commit(Txn::create("/registry/c", damaged)).await.expect("commit");
    inner.commit(Txn::create("/registry/d", "plain")).await.expect("commit");
    inner
        .commit(Txn::create("/registry/e", "k8s:enc:kms:v2:x:y"))
        .await
        .expect("commit");
    for (name, words) in [
        ("/registry/b", "does not fit"),
        ("/registry/c", "does not fit"),
        ("/registry/d", "not encrypted"),
        ("/registry/e", "kms key \"x\""),
    ] {
        let error = store.get(name.as_bytes()).await.expect_err(name);
        assert!(
            matches!(&error, Error::Unreadable { key, .. } if key == name),
            "{error:?}"
        );
        assert!(error.to_string().contains(words), "{error}");
    }
    let mut watch = store.watch("/registry/".into(), 2).await.expect("watch");
    let mut seen = Vec::new();
    while seen.len() < 5 {
        seen.extend(watch.next().await.expect("an item").expect("no error").events);
    }
    assert_eq!(seen[0].value, "for a");
    assert!(seen[1].value.starts_with(b"k8s:enc:"));
    store.close().await;
    drop((store, inner, watch));
    // Another key of the same name.
    let (store, _) = open(dir.path(), with(2), Stamp::none());
    let error = store.get(b"/registry/a").await.expect_err("the wrong key");
    assert!(error.to_string().contains("does not fit"), "{error}");
}

#[test]
fn keys_are_checked() {
    for (algorithm, name, size) in [
        (Algorithm::AesGcm, "a", 31),
        (Algorithm::Secretbox, "a", 16),
        (Algorithm::AesGcm, "a:b", 32),
        (Algorithm::AesGcm, "", 32),
    ] {
        assert!(Key::new(algorithm, name, &vec![0; size]).is_err(), "{name} {size}");
    }
    assert!(Key::new(Algorithm::AesGcm, "a", &[0; 16]).is_ok());
    assert!(!format!("{:?}", Key::new(Algorithm::AesGcm, "a", &[7; 32])).contains('7'));
}
