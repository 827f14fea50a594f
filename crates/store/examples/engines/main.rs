//! Measures candidate engines on the store's own write pattern, one figure a line.
//!
//! `cargo run --profile fast -p store --features engine-bench --example engines -- all <directory>`
//! runs every engine in a process of its own, so that memory figures do not mix. As root it also
//! fills a small tmpfs under each, to see what a full disk does. It knows nothing of the store.

mod candidates;

use candidates::{Fallible, Record, open};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const ENGINES: [&str; 6] = ["sqlite1k", "sqlite2k", "sqlite4k", "redb", "lmdb", "fjall"];
const KEYS: u64 = 50_000;
const VALUE: usize = 1500;

fn main() -> Fallible<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["all", dir] => all(Path::new(dir)),
        ["speed", engine, dir] => speed(engine, Path::new(dir)),
        ["reopen", engine, dir] => reopen(engine, Path::new(dir)),
        ["full", engine, dir] => full(engine, Path::new(dir)),
        _ => Err("usage: engines all <directory>".into()),
    }
}

fn all(dir: &Path) -> Fallible<()> {
    for engine in ENGINES {
        let place = dir.join(format!("engines-{engine}"));
        for step in ["speed", "reopen"] {
            run(step, engine, &place)?;
        }
        std::fs::remove_dir_all(&place)?;
        match Tmpfs::mount(&place) {
            Ok(tmpfs) => run("full", engine, &tmpfs.0)?,
            Err(reason) => println!("{engine:9} full disk               skipped: {reason}"),
        }
        std::fs::remove_dir_all(&place)?;
    }
    Ok(())
}

fn run(step: &str, engine: &str, dir: &Path) -> Fallible<()> {
    let status = Command::new(std::env::current_exe()?)
        .args([step, engine])
        .arg(dir)
        .status()?;
    if !status.success() {
        println!("{engine:9} {step:24} failed: {status}");
    }
    Ok(())
}

/// Key number `n` among those of a middling cluster.
fn key(n: u64) -> Vec<u8> {
    let namespace = n % 50;
    format!("/registry/core/pods/namespace-{namespace:02}/workload-{n:08}").into_bytes()
}

/// A pseudo-random sequence, the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }

    /// Bytes that compress about as well as JSON, so that compression flatters nobody.
    fn value(&mut self) -> Vec<u8> {
        (0..VALUE / 2)
            .flat_map(|_| [b'"', (self.next() % 64) as u8 + 32])
            .collect()
    }
}

fn speed(engine: &str, dir: &Path) -> Fallible<()> {
    let db = open(engine, dir)?;
    let mut random = Random(1);
    let mut revision = 0;
    let started = Instant::now();
    for chunk in 0..KEYS / 500 {
        let batch: Vec<Record> = (chunk * 500..(chunk + 1) * 500)
            .map(|n| {
                revision += 1;
                (revision, key(n), random.value())
            })
            .collect();
        db.write(&batch)?;
    }
    figure(engine, "load 50k, batches of 500", started.elapsed(), KEYS);
    for (size, rounds) in [(1, 3000), (16, 1000), (64, 500)] {
        let mut times = Vec::with_capacity(rounds);
        let before = written_bytes();
        for _ in 0..rounds {
            let batch: Vec<Record> = (0..size)
                .map(|_| {
                    revision += 1;
                    (revision, key(random.next() % KEYS), random.value())
                })
                .collect();
            let started = Instant::now();
            db.write(&batch)?;
            times.push(started.elapsed());
        }
        times.sort();
        let total: Duration = times.iter().sum();
        println!(
            "{engine:9} update, batches of {size:<5} p50 {:>7.2} ms  p99 {:>7.2} ms  {:>7.0} records/s  {:>5.1} kB written/record",
            times[rounds / 2].as_secs_f64() * 1e3,
            times[rounds * 99 / 100].as_secs_f64() * 1e3,
            (rounds as u64 * size) as f64 / total.as_secs_f64(),
            (written_bytes() - before) as f64 / 1e3 / (rounds as u64 * size) as f64
        );
    }
    let started = Instant::now();
    for _ in 0..50_000 {
        db.get(&key(random.next() % KEYS))?;
    }
    figure(engine, "get, random", started.elapsed(), 50_000);
    let started = Instant::now();
    let found = db.scan(b"/registry/core/pods/")?;
    figure(engine, "scan of all keys", started.elapsed(), found as u64);
    println!(
        "{engine:9} resident after writes     {:>7.1} MB anonymous",
        anonymous_mb()
    );
    Ok(())
}

/// Opens what `speed` left, reads one key, and tells time, memory and size.
fn reopen(engine: &str, dir: &Path) -> Fallible<()> {
    let before = anonymous_mb();
    let started = Instant::now();
    let db = open(engine, dir)?;
    db.get(&key(7))?;
    println!(
        "{engine:9} open, 117k records        {:>7.2} ms",
        started.elapsed().as_secs_f64() * 1e3
    );
    println!(
        "{engine:9} resident after open       {:>7.1} MB anonymous",
        anonymous_mb() - before
    );
    println!(
        "{engine:9} on disk (176 MB of values) {:>6.0} MB",
        size(dir)? as f64 / 1e6
    );
    Ok(())
}

/// Writes until the disk is full, then asks: do reads go on, do writes resume when space is back?
fn full(engine: &str, dir: &Path) -> Fallible<()> {
    let ballast = dir.join("ballast");
    std::fs::write(&ballast, vec![0; 24 << 20])?;
    let place = dir.join("db");
    let db = match open(engine, &place) {
        Ok(db) => db,
        Err(error) => {
            println!("{engine:9} full disk: does not open on 64 MB: {error}");
            return Ok(());
        }
    };
    let mut random = Random(1);
    let mut revision = 0;
    let deadline = Instant::now() + Duration::from_secs(60);
    let error = loop {
        revision += 1;
        if let Err(error) = db.write(&[(revision, key(revision % 1000), random.value())]) {
            break error;
        }
        if Instant::now() > deadline {
            println!("{engine:9} full disk: no error in 60 s");
            return Ok(());
        }
    };
    println!("{engine:9} full disk: write {revision} says: {error}");
    println!(
        "{engine:9} full disk: a read says     {:?}",
        db.get(&key(1)).map_err(|e| e.to_string())
    );
    std::fs::remove_file(&ballast)?;
    let again = db.write(&[(revision, key(1), random.value())]);
    println!(
        "{engine:9} space back: a write says   {:?}",
        again.map_err(|e| e.to_string())
    );
    println!(
        "{engine:9} space back: a read says    {:?}",
        db.get(&key(1)).map_err(|e| e.to_string())
    );
    drop(db);
    let reopened = open(engine, &place)
        .and_then(|db| {
            db.write(&[(revision + 1, key(2), random.value())])?;
            db.get(&key(2))
        })
        .map_err(|e| e.to_string());
    println!("{engine:9} reopened: write, read say  {reopened:?}");
    Ok(())
}

fn figure(engine: &str, what: &str, elapsed: Duration, count: u64) {
    println!(
        "{engine:9} {what:25} {:>7.1} us each",
        elapsed.as_secs_f64() * 1e6 / count as f64
    );
}

/// Anonymous resident memory: what is charged to us, without the page cache that mmap shows.
fn anonymous_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"));
    let kilobytes = line.and_then(|l| l.split_whitespace().next()?.parse::<f64>().ok());
    kilobytes.unwrap_or(f64::NAN) / 1024.0
}

/// What this process has caused to be written to the disk.
fn written_bytes() -> u64 {
    let io = std::fs::read_to_string("/proc/self/io").unwrap_or_default();
    let line = io.lines().find_map(|l| l.strip_prefix("write_bytes: "));
    line.and_then(|l| l.parse().ok()).unwrap_or(0)
}

fn size(dir: &Path) -> Fallible<u64> {
    use std::os::unix::fs::MetadataExt;
    let mut total = 0;
    for entry in std::fs::read_dir(dir)? {
        let entry = entry?;
        let meta = entry.metadata()?;
        total += if meta.is_dir() {
            size(&entry.path())?
        } else {
            meta.blocks() * 512
        };
    }
    Ok(total)
}

/// A small file system that is unmounted when dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(dir: &Path) -> Fallible<Self> {
        std::fs::create_dir_all(dir)?;
        let output = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=64m", "tmpfs"])
            .arg(dir)
            .output()?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
        }
        Ok(Self(dir.to_path_buf()))
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        if let Err(error) = Command::new("umount").arg(&self.0).status() {
            eprintln!("can't unmount {}: {error}", self.0.display());
        }
    }
}
