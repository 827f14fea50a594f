//! What every backend must do, as one suite: `conformance::run(open).await` panics at the first
//! thing that does not hold. The backend's store need not be empty and may be shared by all
//! cases: each uses keys of its own and revisions relative to the present one.

mod reads;
mod watches;
mod writes;

use crate::{Committed, Stamp, Store, Txn, WatchEvent, WatchStream};
use bytes::Bytes;
use futures::StreamExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// How long a case waits for what must come.
const DEADLINE: Duration = Duration::from_secs(20);

/// Runs all cases. `open` yields a store that uses the given stamp; it is called once per case.
pub async fn run<F>(open: impl Fn(Stamp) -> F)
where
    F: Future<Output = Arc<dyn Store>>,
{
    macro_rules! cases {
        ($($module:ident :: $case:ident),* $(,)?) => {$(
            let store = open(stamp()).await;
            eprintln!("conformance: {}::{}", stringify!($module), stringify!($case));
            tokio::time::timeout(DEADLINE * 3, $module::$case(store))
                .await
                .expect(concat!(stringify!($case), " takes too long"));
        )*};
    }
    cases![
        writes::revisions_rise_by_one,
        writes::compares_decide,
        writes::metadata_counts_versions,
        writes::values_carry_their_revision,
        writes::transactions_are_atomic,
        writes::impossible_transactions_are_refused,
        writes::no_increment_is_lost,
        reads::ranges_have_exact_borders,
        reads::pages_are_stable,
        reads::the_past_can_be_read,
        reads::compaction_cuts_the_past,
        reads::snapshots_are_written_once,
        watches::live_events_come_in_order,
        watches::history_joins_live_without_gap,
        watches::transactions_are_not_split,
        watches::compacted_history_is_refused,
        watches::future_revisions_are_awaited,
        watches::closing_ends_watches,
    ];
}

/// Ends the value with `@revision`, replacing what follows the last `@`.
pub fn stamp() -> Stamp {
    Stamp::new(|value, revision| {
        let end = value.iter().rposition(|byte| *byte == b'@').unwrap_or(value.len());
        let mut stamped = value[..end].to_vec();
        stamped.extend_from_slice(format!("@{revision}").as_bytes());
        stamped.into()
    })
}

fn stamped(value: &str, revision: u64) -> Bytes {
    Bytes::from(format!("{value}@{revision}"))
}

/// A key prefix that no other case uses, also when runs share one backend.
fn fresh(case: &str) -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let now = now.map_or(0, |d| d.as_nanos());
    format!("/registry/{case}-{now}-{}/", COUNT.fetch_add(1, Ordering::Relaxed))
}

async fn commit(store: &Arc<dyn Store>, txn: Txn) -> Committed {
    let outcome = store.commit(txn).await.expect("commit");
    outcome
        .clone()
        .committed()
        .unwrap_or_else(|| panic!("not committed: {outcome:?}"))
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str) -> u64 {
    let txn = Txn::default().put(key.to_owned(), value.to_owned());
    commit(store, txn).await.revision
}

async fn delete(store: &Arc<dyn Store>, key: &str) -> u64 {
    commit(store, Txn::default().delete(key.to_owned())).await.revision
}

/// The next `count` events, across batches.
async fn take(watch: &mut WatchStream, count: usize) -> Vec<WatchEvent> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = tokio::time::timeout(DEADLINE, watch.next())
            .await
            .unwrap_or_else(|_| panic!("{} of {count} events came", events.len()))
            .expect("the watch ended")
            .expect("the watch failed");
        let last = batch.events.last().map(|event| event.revision);
        assert!(
            last.is_none_or(|last| last <= batch.revision),
            "a batch claims less than it holds"
        );
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "more events than were expected: {events:?}");
    events
}
