//! Measures the embedded store itself, through its public interface, one figure a line:
//! `cargo run --profile fast -p store --example commits -- <directory>`.

use futures::StreamExt;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};
use store::embedded::Options;
use store::{Embedded, Range, Store, Txn};

const KEYS: u64 = 50_000;

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: commits <directory>")?;
    let place = Path::new(&dir).join("store-commits");
    let runtime = tokio::runtime::Runtime::new()?;
    let result = runtime.block_on(measure(&place));
    std::fs::remove_dir_all(&place)?;
    result
}

async fn measure(place: &Path) -> Result<(), Box<dyn Error>> {
    let store = Arc::new(Embedded::open(Options::new(place))?);
    let started = Instant::now();
    for chunk in 0..KEYS / 500 {
        let ns = chunk * 500..(chunk + 1) * 500;
        store
            .commit(ns.fold(Txn::default(), |txn, n| txn.put(key(n), value(n))))
            .await?;
    }
    each("load, 500 puts a commit", started.elapsed(), KEYS);
    for clients in [1, 16, 64, 256] {
        commits(&store, clients, 16_000 / clients.max(8)).await?;
    }
    println!("resident                         {:>9.1} MB anonymous", anonymous_mb());
    renewals(&store).await?;
    let started = Instant::now();
    for n in 0..20_000 {
        store.get(key(scatter(n)).as_bytes()).await?;
    }
    each("get, random", started.elapsed(), 20_000);
    let started = Instant::now();
    let page = store.range(Range::prefix("/registry/")).await?;
    each("range over all", started.elapsed(), page.items.len() as u64);
    let (items, revision) = (page.items.len(), page.revision);
    drop(page);
    let started = Instant::now();
    let mut watch = store.watch("/registry/".into(), 3).await?;
    let (mut events, mut last) = (0, 0);
    while last < revision {
        let batch = watch.next().await.ok_or("the watch ended")??;
        (events, last) = (events + batch.events.len(), batch.revision);
    }
    each("watch, history", started.elapsed(), events as u64);
    let started = Instant::now();
    let copy = place.join("copy");
    store.snapshot(&copy).await?;
    println!(
        "snapshot of {items} keys            {:>9.0} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    compaction(&store, revision).await?;
    println!(
        "on disk                          {:>9.1} MB",
        store.stats().await?.disk_bytes as f64 / 1e6
    );
    store.close().await;
    drop((watch, store));
    let started = Instant::now();
    let store = Embedded::open(Options::new(place))?;
    println!(
        "open                             {:>9.2} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    store.close().await;
    Ok(())
}

/// `clients` tasks that each update random keys, one commit after the other.
async fn commits(store: &Arc<Embedded>, clients: u64, rounds: u64) -> Result<(), Box<dyn Error>> {
    let before = store.stats().await?;
    let written = written_bytes();
    let started = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for client in 0..clients {
        let store = Arc::clone(store);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for round in 0..rounds {
                let n = scatter(client * 1_000_003 + round);
                let started = Instant::now();
                store.commit(Txn::default().put(key(n), value(n))).await?;
                times.push(started.elapsed());
            }
            Ok::<_, store::Error>(times)
        });
    }
    let mut times: Vec<Duration> = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    let total = started.elapsed().as_secs_f64();
    times.sort();
    let after = store.stats().await?;
    let count = times.len();
    println!(
        "commit, {clients:>3} clients  p50 {:>6.2} ms  p99 {:>6.2} ms  max {:>6.1} ms  {:>6.0} commits/s  {:>5.1} a group  {:>5.1} kB written each",
        times[count / 2].as_secs_f64() * 1e3,
        times[count * 99 / 100].as_secs_f64() * 1e3,
        times[count - 1].as_secs_f64() * 1e3,
        count as f64 / total,
        count as f64 / (after.groups - before.groups) as f64,
        (written_bytes() - written) as f64 / 1e3 / count as f64,
    );
    Ok(())
}

/// What a cluster at rest does: a few leases of 500 bytes, renewed one at a time.
async fn renewals(store: &Embedded) -> Result<(), Box<dyn Error>> {
    let written = written_bytes();
    for n in 0..2000 {
        let lease = format!("/registry/coordination/leases/node-{}", n % 5);
        store
            .commit(Txn::default().put(lease, value(n)[..500].to_vec()))
            .await?;
    }
    let each = (written_bytes() - written) as f64 / 2000.0 / 1e3;
    println!("renewal of a lease               {each:>9.1} kB written each");
    Ok(())
}

/// Compacts everything while one client goes on committing.
async fn compaction(store: &Arc<Embedded>, revision: u64) -> Result<(), Box<dyn Error>> {
    let started = Instant::now();
    let task = tokio::spawn({
        let store = Arc::clone(store);
        async move { store.compact(revision).await }
    });
    let mut times = Vec::new();
    while !task.is_finished() {
        let started = Instant::now();
        let n = scatter(times.len() as u64);
        store.commit(Txn::default().put(key(n), value(n))).await?;
        times.push(started.elapsed());
    }
    task.await??;
    times.sort();
    println!(
        "compact {revision} revisions         {:>9.0} ms; commits meanwhile p50 {:.2} ms p99 {:.2} ms",
        started.elapsed().as_secs_f64() * 1e3,
        times[times.len() / 2].as_secs_f64() * 1e3,
        times[times.len() * 99 / 100].as_secs_f64() * 1e3,
    );
    Ok(())
}

fn key(n: u64) -> String {
    format!("/registry/core/pods/namespace-{:02}/workload-{n:08}", n % 50)
}

fn value(n: u64) -> Vec<u8> {
    let mut state = n;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 56) as u8
    })
    .take(1500)
    .collect()
}

fn scatter(n: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % KEYS
}

fn each(what: &str, elapsed: Duration, count: u64) {
    println!("{what:32} {:>9.1} us each", elapsed.as_secs_f64() * 1e6 / count as f64);
}

fn number_in(file: &str, label: &str) -> u64 {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(label));
    line.and_then(|l| l.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// Resident memory without the page cache.
fn anonymous_mb() -> f64 {
    number_in("/proc/self/status", "RssAnon:") as f64 / 1024.0
}

/// What this process has caused to be written to the disk.
fn written_bytes() -> u64 {
    number_in("/proc/self/io", "write_bytes:")
}
