//! Cases on transactions.

use super::{commit, delete, fresh, put, stamped};
use crate::{Condition, Error, EventKind, Outcome, Store, Txn};
use std::sync::Arc;

pub(super) async fn revisions_rise_by_one(store: Arc<dyn Store>) {
    let prefix = fresh("revisions");
    let key = format!("{prefix}a");
    let first = put(&store, &key, "1").await;
    assert_eq!(store.revision().await.expect("revision"), first);
    assert_eq!(
        put(&store, &key, "1").await,
        first + 1,
        "an equal value is a new version"
    );
    let many = (0..20).fold(Txn::default(), |txn, n| txn.put(format!("{prefix}m{n}"), "x"));
    assert_eq!(
        commit(&store, many).await.revision,
        first + 2,
        "a transaction is one revision"
    );
    assert_eq!(delete(&store, &key).await, first + 3);
    let nothing = commit(&store, Txn::default().delete(key.clone())).await;
    assert_eq!((nothing.revision, nothing.events.len()), (first + 3, 0));
    let refused = store.commit(Txn::update(key.clone(), 1, "x")).await.expect("commit");
    assert!(refused.committed().is_none());
    assert_eq!(
        put(&store, &key, "2").await,
        first + 4,
        "what changes nothing takes no revision"
    );
}

pub(super) async fn compares_decide(store: Arc<dyn Store>) {
    let prefix = fresh("compares");
    let key = format!("{prefix}a");
    let created = commit(&store, Txn::create(key.clone(), "1")).await.revision;
    let again = store.commit(Txn::create(key.clone(), "2")).await.expect("commit");
    let Outcome::CompareFailed { current, revision } = again else {
        panic!("created twice: {again:?}");
    };
    assert!(revision >= created);
    let current = current[0].as_ref().expect("the present version");
    assert_eq!(
        (current.mod_revision, &current.value),
        (created, &stamped("1", created))
    );

    let updated = commit(&store, Txn::update(key.clone(), created, "2")).await.revision;
    let stale = store
        .commit(Txn::update(key.clone(), created, "3"))
        .await
        .expect("commit");
    assert!(matches!(stale, Outcome::CompareFailed { .. }), "{stale:?}");
    let stale = store.commit(Txn::remove(key.clone(), created)).await.expect("commit");
    assert!(matches!(stale, Outcome::CompareFailed { .. }), "{stale:?}");
    commit(&store, Txn::remove(key.clone(), updated)).await;

    let absent = store
        .commit(Txn::update(key.clone(), updated, "4"))
        .await
        .expect("commit");
    assert!(
        matches!(&absent, Outcome::CompareFailed { current, .. } if *current == [None]),
        "{absent:?}"
    );
    let present = Txn::default()
        .when(key.clone(), Condition::Present)
        .put(key.clone(), "5");
    let absent = store.commit(present.clone()).await.expect("commit");
    assert!(matches!(absent, Outcome::CompareFailed { .. }), "{absent:?}");
    commit(&store, Txn::create(key.clone(), "6")).await;
    commit(&store, present).await;

    // Keys that are compared but not changed, in the order given.
    let other = format!("{prefix}other");
    let guarded = Txn::default()
        .when(other.clone(), Condition::Absent)
        .when(key.clone(), Condition::Absent)
        .put(format!("{prefix}guarded"), "x");
    let refused = store.commit(guarded).await.expect("commit");
    let Outcome::CompareFailed { current, .. } = refused else {
        panic!("{refused:?}")
    };
    assert!(current[0].is_none() && current[1].as_ref().is_some_and(|kv| kv.key == key));
    assert_eq!(
        store.get(format!("{prefix}guarded").as_bytes()).await.expect("get"),
        None
    );
}

pub(super) async fn metadata_counts_versions(store: Arc<dyn Store>) {
    let key = format!("{}a", fresh("metadata"));
    let first = put(&store, &key, "1").await;
    let second = put(&store, &key, "2").await;
    let now = store.get(key.as_bytes()).await.expect("get").expect("there");
    assert_eq!((now.create_revision, now.mod_revision, now.version), (first, second, 2));
    delete(&store, &key).await;
    assert_eq!(store.get(key.as_bytes()).await.expect("get"), None);
    let anew = commit(&store, Txn::default().put(key.clone(), "3")).await;
    let now = store.get(key.as_bytes()).await.expect("get").expect("there");
    let revision = anew.revision;
    assert_eq!(
        (now.create_revision, now.mod_revision, now.version),
        (revision, revision, 1)
    );
    assert_eq!(anew.events[0].to_key_value().as_ref(), Some(&now));
    assert_eq!(anew.events[0].prev, None, "what was deleted is not the version before");
}

pub(super) async fn values_carry_their_revision(store: Arc<dyn Store>) {
    let key = format!("{}a", fresh("stamp"));
    let made = commit(&store, Txn::create(key.clone(), "v")).await;
    assert_eq!(made.events[0].value, stamped("v", made.revision));
    let read = store.get(key.as_bytes()).await.expect("get").expect("there");
    assert_eq!(read.value, stamped("v", made.revision));
    // What was read is put back: the old stamp gives way to the new one.
    let again = commit(&store, Txn::update(key.clone(), made.revision, read.value.clone())).await;
    assert_eq!(again.events[0].value, stamped("v", again.revision));
    assert_eq!(again.events[0].prev.as_ref(), Some(&read));
    let gone = commit(&store, Txn::default().delete(key.clone())).await;
    let event = &gone.events[0];
    assert_eq!(
        (event.kind, event.revision, event.version),
        (EventKind::Delete, gone.revision, 0)
    );
    let prev = event.prev.as_ref().expect("a delete tells what was there");
    assert_eq!((&prev.value, prev.version), (&stamped("v", again.revision), 2));
}

pub(super) async fn transactions_are_atomic(store: Arc<dyn Store>) {
    let prefix = fresh("atomic");
    let (a, b, c) = (format!("{prefix}a"), format!("{prefix}b"), format!("{prefix}c"));
    put(&store, &a, "1").await;
    let mixed = Txn::default()
        .when(a.clone(), Condition::Present)
        .put(b.clone(), "2")
        .delete(a.clone())
        .delete(c.clone());
    let done = commit(&store, mixed.clone()).await;
    let kinds: Vec<_> = done.events.iter().map(|e| (e.kind, e.key.clone())).collect();
    assert_eq!(
        kinds,
        [
            (EventKind::Put, b.clone().into()),
            (EventKind::Delete, a.clone().into())
        ],
        "in the order of the operations, without the delete of an absent key"
    );
    assert!(done.events.iter().all(|e| e.revision == done.revision));
    let refused = store.commit(mixed).await.expect("commit");
    assert!(refused.committed().is_none());
    let b = store.get(b.as_bytes()).await.expect("get").expect("there");
    assert_eq!(b.version, 1, "a refused transaction changes nothing");
    // The empty value is a value, not a deletion.
    let empty = put(&store, &c, "").await;
    let c = store.get(c.as_bytes()).await.expect("get").expect("there");
    assert_eq!((c.value, c.mod_revision), (stamped("", empty), empty));
}

pub(super) async fn impossible_transactions_are_refused(store: Arc<dyn Store>) {
    let key = format!("{}a", fresh("impossible"));
    let before = store.revision().await.expect("revision");
    let twice = Txn::default().put(key.clone(), "1").delete(key.clone());
    let error = store.commit(twice).await.expect_err("a key occurs twice");
    assert!(matches!(&error, Error::Invalid(text) if text.contains(&key)), "{error}");
    let error = store
        .commit(Txn::default().put("", "1"))
        .await
        .expect_err("an empty key");
    assert!(matches!(error, Error::Invalid(_)), "{error}");
    let great = Txn::default().put(key.clone(), vec![b'x'; 64 << 20]);
    let error = store.commit(great).await.expect_err("64 MB");
    assert!(matches!(error, Error::TooLarge { .. }), "{error}");
    assert_eq!(store.revision().await.expect("revision"), before);
    put(&store, &key, "still works").await;
}

pub(super) async fn no_increment_is_lost(store: Arc<dyn Store>) {
    const TASKS: usize = 8;
    const EACH: usize = 10;
    let key = format!("{}counter", fresh("increment"));
    let first = put(&store, &key, "0").await;
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..TASKS {
        let (store, key) = (Arc::clone(&store), key.clone());
        tasks.spawn(async move {
            for _ in 0..EACH {
                loop {
                    let now = store.get(key.as_bytes()).await.expect("get").expect("there");
                    let text = String::from_utf8_lossy(&now.value).into_owned();
                    let count: usize = text.split('@').next().and_then(|n| n.parse().ok()).expect("a number");
                    let next = (count + 1).to_string();
                    let txn = Txn::update(key.clone(), now.mod_revision, next);
                    if store.commit(txn).await.expect("commit").committed().is_some() {
                        break;
                    }
                }
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.expect("a task failed");
    }
    let last = store.get(key.as_bytes()).await.expect("get").expect("there");
    let total = (TASKS * EACH) as u64;
    assert_eq!(last.version, total + 1);
    assert_eq!(last.value, stamped(&total.to_string(), last.mod_revision));
    assert_eq!(last.mod_revision, first + total, "revisions have no holes");
}
