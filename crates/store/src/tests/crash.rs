//! kill -9 at random moments: a child commits, compacts and reports what was acknowledged; it is
//! killed, the store is reopened, and nothing that was reported may be missing.

use super::open;
use crate::{Embedded, Range, Stamp, Store, Txn, embedded::Options};
use futures::StreamExt;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

const ROUNDS: u32 = 30;
const TASKS: u64 = 8;
/// Tells the re-executed test program that it is the child, and where its store is.
const CHILD: &str = "STORE_CRASH_TEST_DIR";

/// Not a test by itself: what the child does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let store = open(Path::new(&dir), Stamp::none());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..TASKS {
        let store = Arc::clone(&store);
        tasks.spawn(async move { commit_for_ever(&store, task).await });
    }
    let error = tasks.join_next().await;
    panic!("a task ended: {error:?}");
}

/// Raises a counter under a key that is deleted now and then; each transaction also leaves a trace.
async fn commit_for_ever(store: &Arc<dyn Store>, task: u64) {
    let key = format!("/counter/{task}");
    let found = store.get(format!("/count/{task}").as_bytes()).await.expect("get");
    let mut count: u64 = found.map_or(0, |kv| String::from_utf8_lossy(&kv.value).parse().expect("a number"));
    loop {
        count += 1;
        let txn = Txn::default().put(format!("/count/{task}"), count.to_string());
        let filler = "x".repeat((count as usize * 37) % 5000);
        let txn = if count.is_multiple_of(10) {
            txn.delete(key.clone())
        } else {
            txn.put(key.clone(), filler)
        };
        let revision = store
            .commit(txn)
            .await
            .expect("commit")
            .committed()
            .expect("no compare")
            .revision;
        // One write call, so that a line is whole or absent.
        let line = format!("\nack {task} {count} {revision}\n");
        std::io::stdout().write_all(line.as_bytes()).expect("report");
        if task == 0 && count.is_multiple_of(50) {
            store.compact(revision - 20).await.expect("compact");
        }
    }
}

fn start(dir: &Path) -> Child {
    Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", "tests::crash::child", "--nocapture", "--test-threads=1"])
        .env(CHILD, dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("start the child")
}

/// Task -> (count, revision) of the last acknowledgement read before and after the kill.
type Acked = BTreeMap<u64, (u64, u64)>;

fn kill_after(dir: &Path, acks: u32) -> Acked {
    let mut child = start(dir);
    let output = child.stdout.take().expect("a pipe");
    let mut acked = Acked::new();
    let mut seen = 0;
    for line in BufReader::new(output).lines() {
        let Ok(line) = line else { break };
        let Some(ack) = line.strip_prefix("ack ") else { continue };
        let numbers: Vec<u64> = ack.split(' ').filter_map(|n| n.parse().ok()).collect();
        let [task, count, revision] = numbers[..] else {
            panic!("half a line: {line:?}")
        };
        acked.insert(task, (count, revision));
        seen += 1;
        if seen == acks {
            // What the child still wrote to the pipe is read to its end all the same.
            child.kill().expect("kill");
        }
    }
    child.wait().expect("wait");
    assert!(seen >= acks, "the child ended by itself after {seen} acknowledgements");
    acked
}

#[tokio::test]
async fn kill_at_random_moments_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut floor: Acked = Acked::new();
    for round in 0..ROUNDS {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let acks = 1 + (random >> 33) as u32 % 600;
        floor.extend(kill_after(dir.path(), acks));
        let store = Embedded::open(Options::new(dir.path())).expect("reopen");
        store
            .verify()
            .await
            .unwrap_or_else(|error| panic!("round {round}: {error}"));
        let revision = store.revision().await.expect("revision");
        for (task, (count, acked)) in &floor {
            let kv = store.get(format!("/count/{task}").as_bytes()).await.expect("get");
            let kv = kv.expect("an acknowledged key");
            let kept: u64 = String::from_utf8_lossy(&kv.value).parse().expect("a number");
            assert!(kept >= *count, "round {round}: task {task} lost {count}, has {kept}");
            assert!(revision >= *acked, "round {round}: revision {acked} is lost");
            assert_eq!(kv.version, kept, "a version for every count");
            let counter = store.get(format!("/counter/{task}").as_bytes()).await.expect("get");
            assert_eq!(counter.is_none(), kept.is_multiple_of(10), "half a transaction");
        }
        whole_history(&store, revision).await;
    }
    let total: u64 = floor.values().map(|(count, _)| count).sum();
    eprintln!("{ROUNDS} kills, {total} acknowledged transactions, none lost");
}

/// History is complete from the compaction point on, and agrees with the present.
async fn whole_history(store: &Embedded, revision: u64) {
    let compacted = store.compacted().await.expect("compacted");
    let mut next = compacted + 1;
    let page = store.range(Range::default().at(compacted.max(1))).await.expect("range");
    let mut state: BTreeMap<_, _> = page.items.into_iter().map(|kv| (kv.key.clone(), kv)).collect();
    if next <= revision {
        let mut watch = store.watch(bytes::Bytes::new(), next).await.expect("watch");
        next = next.max(2);
        while next <= revision {
            for event in watch.next().await.expect("more").expect("events").events {
                assert!(event.revision == next || event.revision + 1 == next, "a gap at {next}");
                next = event.revision + 1;
                match event.to_key_value() {
                    Some(kv) => state.insert(kv.key.clone(), kv),
                    None => state.remove(&event.key),
                };
            }
        }
    }
    let now = store.range(Range::default()).await.expect("range").items;
    assert!(state.into_values().eq(now), "history and present disagree");
}
