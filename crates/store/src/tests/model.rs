//! Random operations against a model that keeps every state there ever was, with reopening and
//! compaction in between, and watches from every revision at the end.

use crate::embedded::Options;
use crate::{Committed, Condition, Embedded, Error, EventKind, KeyValue, Outcome, Range, Store, Txn, WatchEvent};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::path::Path;

#[derive(Debug, Clone)]
enum Action {
    Commit(Vec<Guard>, Vec<Change>),
    /// Compacts at this share of the history.
    Compact(f64),
    Reopen,
    /// Reads keys with a prefix at this share of the history.
    Read(u8, f64, usize),
}

#[derive(Debug, Clone)]
enum Guard {
    Absent(u8),
    Present(u8),
    /// At the version that is there, if the flag is set, or else at an older one.
    At(u8, bool),
}

#[derive(Debug, Clone)]
struct Change {
    key: u8,
    value: Option<Vec<u8>>,
}

fn guard() -> impl Strategy<Value = Guard> {
    prop_oneof![
        (0..6u8).prop_map(Guard::Absent),
        (0..6u8).prop_map(Guard::Present),
        (0..6u8, any::<bool>()).prop_map(|(key, fresh)| Guard::At(key, fresh)),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    let value = prop::option::weighted(0.7, prop::collection::vec(any::<u8>(), 0..20));
    (0..6u8, value).prop_map(|(key, value)| Change { key, value })
}

fn action() -> impl Strategy<Value = Action> {
    let guards = prop_oneof![2 => Just(vec![]), 1 => prop::collection::vec(guard(), 1..3)];
    let commit = (guards, prop::collection::vec(change(), 1..4));
    prop_oneof![
        12 => commit.prop_map(|(guards, changes)| Action::Commit(guards, changes)),
        1 => (0.0..1.0f64).prop_map(Action::Compact),
        1 => Just(Action::Reopen),
        3 => (0..6u8, 0.0..1.1f64, 0..4usize).prop_map(|(k, at, n)| Action::Read(k, at, n)),
    ]
}

/// Keys of which some are prefixes of others.
fn key(n: u8) -> Bytes {
    Bytes::from_static(["/a", "/a/b", "/a/c", "/a0", "/b", "/b/\u{ff}"][usize::from(n)].as_bytes())
}

type State = BTreeMap<Bytes, KeyValue>;

/// `states[n]` is the state after revision `n + 1`.
struct Model {
    states: Vec<State>,
    events: Vec<WatchEvent>,
    compacted: u64,
}

impl Model {
    fn new() -> Self {
        Self {
            states: vec![State::new()],
            events: Vec::new(),
            compacted: 0,
        }
    }

    fn revision(&self) -> u64 {
        self.states.len() as u64
    }

    fn now(&self) -> &State {
        &self.states[self.states.len() - 1]
    }

    fn at_share(&self, share: f64) -> u64 {
        1 + (share * (self.revision() - 1) as f64).round() as u64
    }

    fn txn(&self, guards: &[Guard], changes: &[Change]) -> Txn {
        let mut txn = Txn::default();
        for guard in guards {
            txn = match *guard {
                Guard::Absent(k) => txn.when(key(k), Condition::Absent),
                Guard::Present(k) => txn.when(key(k), Condition::Present),
                Guard::At(k, fresh) => {
                    let now = self.now().get(&key(k)).map_or(7, |kv| kv.mod_revision);
                    let revision = if fresh { now } else { now - 1 };
                    txn.when(key(k), Condition::ModRevision(revision))
                }
            };
        }
        for change in changes {
            if txn.ops.iter().any(|op| *op.key() == key(change.key)) {
                continue;
            }
            txn = match &change.value {
                Some(value) => txn.put(key(change.key), value.clone()),
                None => txn.delete(key(change.key)),
            };
        }
        txn
    }

    fn commit(&mut self, txn: &Txn) -> Outcome {
        let now = self.now().clone();
        let holds = txn.compares.iter().all(|compare| {
            let kv = now.get(&compare.key);
            match compare.condition {
                Condition::Absent => kv.is_none(),
                Condition::Present => kv.is_some(),
                Condition::ModRevision(r) => kv.is_some_and(|kv| kv.mod_revision == r),
            }
        });
        if !holds {
            let current = txn.compares.iter().map(|c| now.get(&c.key).cloned()).collect();
            return Outcome::CompareFailed {
                current,
                revision: self.revision(),
            };
        }
        let revision = self.revision() + 1;
        let mut next = now.clone();
        let mut events = Vec::new();
        for op in &txn.ops {
            let prev = now.get(op.key()).cloned();
            let mut event = WatchEvent {
                kind: EventKind::Delete,
                key: op.key().clone(),
                value: Bytes::new(),
                revision,
                create_revision: 0,
                version: 0,
                prev: prev.clone(),
            };
            match op {
                crate::Op::Put { value, .. } => {
                    event.kind = EventKind::Put;
                    event.value = value.clone();
                    event.create_revision = prev.as_ref().map_or(revision, |p| p.create_revision);
                    event.version = prev.map_or(1, |p| p.version + 1);
                    next.extend(event.to_key_value().map(|kv| (kv.key.clone(), kv)));
                }
                crate::Op::Delete { .. } if prev.is_none() => continue,
                crate::Op::Delete { key } => drop(next.remove(key)),
            }
            events.push(event);
        }
        if events.is_empty() {
            let revision = self.revision();
            return Outcome::Committed(Committed {
                revision,
                events: events.into(),
            });
        }
        self.states.push(next);
        self.events.extend(events.iter().cloned());
        Outcome::Committed(Committed {
            revision,
            events: events.into(),
        })
    }

    /// Keys with `prefix` after `revision`, or why they can't be read.
    fn read(&self, prefix: &Bytes, revision: u64) -> Result<Vec<KeyValue>, &'static str> {
        if revision > self.revision() {
            return Err("future");
        }
        if revision < self.compacted {
            return Err("compacted");
        }
        let state = &self.states[revision as usize - 1];
        Ok(state
            .values()
            .filter(|kv| kv.key.starts_with(prefix))
            .cloned()
            .collect())
    }
}

fn open(dir: &Path) -> Embedded {
    // What the disk does is another test's matter; this one wants many cases.
    Embedded::open(Options {
        sync: false,
        ..Options::new(dir)
    })
    .expect("open")
}

async fn play(actions: Vec<Action>) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = open(dir.path());
    let mut model = Model::new();
    let mut live = store.watch(Bytes::new(), 2).await.expect("watch");
    let mut seen = Vec::new();
    for action in actions {
        match action {
            Action::Commit(guards, changes) => {
                let txn = model.txn(&guards, &changes);
                let outcome = store.commit(txn.clone()).await.expect("commit");
                assert_eq!(outcome, model.commit(&txn));
            }
            Action::Compact(share) => {
                let revision = model.at_share(share);
                store.compact(revision).await.expect("compact");
                model.compacted = model.compacted.max(revision);
            }
            Action::Reopen => {
                // The live watch may have been cut off from what it had not read.
                while let Some(Some(item)) = live.next().now_or_never() {
                    match item {
                        Ok(batch) => seen.extend(batch.events),
                        // History that it had not read yet was compacted under it.
                        Err(Error::Compacted { .. }) => break,
                        Err(error) => panic!("{error}"),
                    }
                }
                drop(store);
                store = open(dir.path());
                let from = seen.last().map_or(2, |event: &WatchEvent| event.revision + 1);
                match store.watch(Bytes::new(), from).await {
                    Ok(stream) => live = stream,
                    Err(Error::Compacted { .. }) => {
                        // All that is missed was compacted away before the watch could be renewed.
                        seen = model.events.clone();
                        let from = model.revision() + 1;
                        live = store.watch(Bytes::new(), from).await.expect("watch");
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            Action::Read(k, share, limit) => {
                let revision = model.at_share(share);
                let range = Range::prefix(key(k)).at(revision).limit(limit);
                let found = store.range(range).await;
                match (model.read(&key(k), revision), found) {
                    (Ok(mut items), Ok(page)) => {
                        assert_eq!(page.more, limit > 0 && items.len() > limit);
                        items.truncate(if limit > 0 { limit } else { usize::MAX });
                        assert_eq!(page.items, items);
                    }
                    (Err("future"), Err(Error::FutureRevision { .. })) => {}
                    (Err("compacted"), Err(Error::Compacted { .. })) => {}
                    (expected, found) => panic!("expected {expected:?}, found {found:?}"),
                }
            }
        }
    }
    finish(&store, &model).await;
    while seen.len() < model.events.len() {
        match live.next().await {
            Some(Ok(batch)) => seen.extend(batch.events),
            // History that the watch had not read yet was compacted under it.
            Some(Err(Error::Compacted { .. })) => return,
            other => panic!("the live watch ended: {other:?}"),
        }
    }
    assert_eq!(seen, model.events);
}

/// Compares everything that is left.
async fn finish(store: &Embedded, model: &Model) {
    store.verify().await.expect("verify");
    assert_eq!(store.revision().await.expect("revision"), model.revision());
    assert_eq!(store.compacted().await.expect("compacted"), model.compacted);
    let stats = store.stats().await.expect("stats");
    assert_eq!(stats.keys, model.now().len() as u64);
    for n in 0..6 {
        let found = store.get(&key(n)).await.expect("get");
        assert_eq!(found.as_ref(), model.now().get(&key(n)));
    }
    for revision in model.compacted.max(1)..=model.revision() {
        let page = store.range(Range::default().at(revision)).await.expect("range");
        assert_eq!(page.items, model.read(&Bytes::new(), revision).expect("kept"));
    }
    for from in 1..=model.revision() {
        let expected: Vec<_> = model.events.iter().filter(|e| e.revision >= from).cloned().collect();
        match store.watch(Bytes::new(), from).await {
            Ok(mut watch) => {
                assert!(from > model.compacted);
                let mut events = Vec::new();
                while events.len() < expected.len() {
                    events.extend(watch.next().await.expect("more").expect("events").events);
                }
                assert_eq!(events, expected, "from {from}");
            }
            Err(Error::Compacted { .. }) => assert!(from <= model.compacted, "{from}"),
            Err(error) => panic!("{error}"),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]
    #[test]
    fn random_operations_agree_with_the_model(
        actions in prop::collection::vec(action(), 1..120),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime");
        runtime.block_on(play(actions));
    }
}
