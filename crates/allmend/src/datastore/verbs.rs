//! `allmend datastore`: moves, saves, restores, checks and re-encrypts the state of a cluster.
//!
//! Must not leave anything half done: what is made is built beside its place and renamed, and an
//! etcd that is being filled is marked until it is full.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand};
use store::embedded::{self, Files};
use store::etcd::Etcd;
use store::sealed::Rules;
use store::{Embedded, KeyValue, Outcome, Range, Store, Txn};

use super::{DatastoreFlags, Opened, PROBE, encryption, open_raw, stamp};
use crate::cli::DataDir;
use crate::credentials::ServerPaths;

/// Where all objects are.
const OBJECTS: &str = "/registry/";
/// What a restored store's revisions are ahead of the snapshot's: more than were ever made after
/// it, so that no client has seen them. There is room for some 100,000 restores.
const AHEAD: u64 = 1_000_000_000;
/// What may be in a data directory before a store is restored into it.
const CREDENTIALS: &[&str] = &["tls", "token", "url", "encryption.yaml"];

/// What to do with the state.
#[derive(Subcommand)]
pub enum DatastoreVerb {
    /// Copy the state to another place; its servers must be stopped.
    Migrate(Migrate),
    /// Save the state to a file, or restore it.
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Read everything, verify checksums, and say which objects are damaged or can't be read.
    Check(Place),
    /// Write anew what is not encrypted as the configuration says now.
    Reencrypt(Place),
}

/// From where to where.
#[derive(Args)]
pub struct Migrate {
    /// Data directory of a server, or a comma-separated list of etcd URLs.
    #[arg(long)]
    from: String,
    /// The same; it must be empty.
    #[arg(long)]
    to: String,
    #[command(flatten)]
    flags: DatastoreFlags,
}

/// A file with the state.
#[derive(Subcommand)]
pub enum Snapshot {
    /// Save the state to a new file, also while servers run.
    Save {
        #[command(flatten)]
        place: Place,
        /// The file to make.
        file: PathBuf,
    },
    /// Make the store of a data directory that has none from such a file.
    Restore {
        #[command(flatten)]
        data: DataDir,
        /// The file.
        file: PathBuf,
    },
}

/// Which store.
#[derive(Args)]
pub struct Place {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    flags: DatastoreFlags,
}

impl Place {
    fn paths(&self) -> ServerPaths {
        ServerPaths::new(&self.data.data_dir)
    }
}

/// Runs a verb.
pub fn run(verb: DatastoreVerb) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async {
        match verb {
            DatastoreVerb::Migrate(migration) => migrate(&migration).await,
            DatastoreVerb::Snapshot(Snapshot::Save { place, file }) => save(&place, &file).await,
            DatastoreVerb::Snapshot(Snapshot::Restore { data, file }) => restore(&data.data_dir, &file).await,
            DatastoreVerb::Check(place) => check(&place).await,
            DatastoreVerb::Reencrypt(place) => reencrypt(&place).await,
        }
    })
}

fn is_etcd(place: &str) -> bool {
    place.contains("://")
}

/// Opens a store that is there, as it lies.
async fn source(place: &str, flags: &DatastoreFlags) -> Result<Arc<dyn Store>> {
    if is_etcd(place) {
        return Ok(Arc::new(Etcd::connect(flags.etcd(place)?).await?));
    }
    let dir = ServerPaths::new(Path::new(place)).store();
    if !embedded::exists(&dir) {
        bail!(
            "{place} is no data directory with a store: {} is missing",
            dir.display()
        );
    }
    let options = embedded::Options::new(&dir).stamp(stamp());
    Ok(Arc::new(Embedded::open(options)?))
}

async fn migrate(migration: &Migrate) -> Result<()> {
    let Migrate { from, to, flags } = migration;
    let source = source(from, flags).await.context("--from")?;
    let revision = source.revision().await.context("--from")?;
    let count = if is_etcd(to) {
        let mut options = flags.etcd(to).context("--to")?;
        options.filling = true;
        let mut etcd = Etcd::connect(options).await.context("--to")?;
        etcd.fill(OBJECTS.as_bytes(), revision).await.context("--to")?;
        let count = fill(&*source, &etcd).await?;
        unchanged(&*source, revision).await?;
        etcd.filled().await.context("--to")?;
        count
    } else {
        let building = Building::begin(Path::new(to)).context("--to")?;
        let count = building.fill(&*source, revision).await?;
        unchanged(&*source, revision).await?;
        building.finish()?;
        count
    };
    source.close().await;
    println!("{count} objects were copied; {from} is unchanged");
    if !is_etcd(from) && !is_etcd(to) {
        println!("certificates, token and encryption.yaml are in {from}/server: copy them to {to}/server");
    }
    Ok(())
}

/// Else writes that clients were told of would be missing in the copy.
async fn unchanged(source: &dyn Store, revision: u64) -> Result<()> {
    let now = source.revision().await?;
    if now != revision {
        bail!("--from was changed while it was copied (revision {revision}, now {now}): stop its servers first");
    }
    Ok(())
}

/// Copies the objects and the probe of the keys that encrypt them.
async fn copy(source: &dyn Store, to: &dyn Store) -> store::Result<u64> {
    let count = store::copy(source, to, OBJECTS).await?;
    if let Some(probe) = source.get(PROBE).await? {
        to.commit(Txn::default().put(PROBE, probe.value)).await?;
    }
    Ok(count)
}

/// Copies, and compares the copy.
async fn fill(source: &dyn Store, to: &dyn Store) -> Result<u64> {
    let count = copy(source, to).await.context("copy")?;
    if let Some(key) = store::equal(source, to, OBJECTS, &stamp()).await.context("compare")? {
        bail!("the copy of {key} is not like the original; was it written to meanwhile?");
    }
    Ok(count)
}

/// A store of a data directory that is not at its place yet. Dropped unfinished, it is gone.
struct Building {
    partial: PathBuf,
    place: PathBuf,
}

impl Building {
    fn begin(data_dir: &Path) -> Result<Self> {
        let place = ServerPaths::new(data_dir).store();
        if embedded::exists(&place) {
            bail!("{} has a store already", data_dir.display());
        }
        let partial = place.with_extension("partial");
        // Left by an attempt that was cut short.
        remove(&partial)?;
        std::fs::create_dir_all(&partial).with_context(|| format!("create {}", partial.display()))?;
        Ok(Building { partial, place })
    }

    fn store(&self) -> PathBuf {
        self.partial.join("store")
    }

    async fn fill(&self, source: &dyn Store, begin: u64) -> Result<u64> {
        let options = embedded::Options {
            begin,
            ..embedded::Options::new(self.store()).stamp(stamp())
        };
        let target = Embedded::open(options)?;
        let count = fill(source, &target).await?;
        target.verify().await?;
        target.close().await;
        Ok(count)
    }

    fn finish(self) -> Result<()> {
        let of = || format!("put the store to {}", self.place.display());
        // There may be a lock file from a server that never wrote.
        let _ = std::fs::remove_file(self.place.join("lock"));
        std::fs::rename(self.store(), &self.place).with_context(of)?;
        let parent = self.place.parent().unwrap_or(Path::new("/"));
        let synced = std::fs::File::open(parent).and_then(|dir| dir.sync_all());
        synced.with_context(of)
    }
}

impl Drop for Building {
    fn drop(&mut self) {
        // What counts is the first error; the rest is only litter, removed by the next attempt.
        let _ = remove(&self.partial);
    }
}

fn remove(dir: &Path) -> Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(e).with_context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

async fn save(place: &Place, file: &Path) -> Result<()> {
    if file.exists() {
        bail!("{} exists already", file.display());
    }
    let dir = place.paths().store();
    if place.flags.shared() {
        // A snapshot has one form, whichever store it is of.
        let source = source(&place.flags.datastore_endpoint, &place.flags).await?;
        let mut partial = file.as_os_str().to_owned();
        partial.push(".partial-store");
        let partial = PathBuf::from(partial);
        remove(&partial)?;
        let made = async {
            let options = embedded::Options {
                begin: source.revision().await?,
                ..embedded::Options::new(&partial).stamp(stamp())
            };
            let copy = Embedded::open(options)?;
            self::copy(&*source, &copy).await?;
            copy.snapshot(file).await?;
            copy.close().await;
            Ok::<_, store::Error>(())
        };
        let made = made.await;
        remove(&partial)?;
        made?;
    } else {
        Files::open(&dir)?.snapshot(file)?;
    }
    println!("saved to {}", file.display());
    println!("Secrets in it are encrypted: keep a copy of encryption.yaml too, in another place");
    Ok(())
}

async fn restore(data_dir: &Path, file: &Path) -> Result<()> {
    if !file.is_file() {
        bail!("{} is no file", file.display());
    }
    refuse_others(data_dir)?;
    let building = Building::begin(data_dir)?;
    let raw = building.partial.join("snapshot");
    embedded::restore(file, &raw)?;
    let of = || format!("{} can't be restored", file.display());
    let source = Embedded::open(embedded::Options::new(&raw).stamp(stamp())).with_context(of)?;
    source.verify().await.with_context(of)?;
    let begin = source.revision().await? + AHEAD;
    let count = building.fill(&source, begin).await.with_context(of)?;
    source.close().await;
    building.finish()?;
    println!("{count} objects were restored to {}", data_dir.display());
    if !ServerPaths::new(data_dir).encryption().exists() {
        println!("put the encryption.yaml of the saved server to server/ there, or Secrets can't be read");
    }
    Ok(())
}

/// A data directory with anything but credentials belongs to something else.
fn refuse_others(data_dir: &Path) -> Result<()> {
    let names = |dir: &Path| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| e.path()).collect()
    };
    let server = data_dir.join("server");
    let known = |path: &PathBuf| {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        CREDENTIALS.contains(&name) || name == "db.partial"
    };
    let others = names(data_dir).into_iter().filter(|p| *p != server);
    let inner = names(&server).into_iter().filter(|p| !known(p));
    if let Some(path) = others.chain(inner).next() {
        bail!(
            "{} is not empty: it has {}; choose another with --data-dir, or move that away",
            data_dir.display(),
            path.display()
        );
    }
    Ok(())
}

/// Damage found so far.
#[derive(Default)]
struct Findings {
    objects: u64,
    damaged: u64,
}

impl Findings {
    fn tell(&mut self, what: &dyn std::fmt::Display) {
        self.damaged += 1;
        eprintln!("{what}");
    }

    fn look(&mut self, rules: &Rules, kv: &KeyValue) {
        self.objects += 1;
        let plain = match rules.open(&kv.key, &kv.value) {
            Ok(plain) => plain.unwrap_or_else(|| kv.value.clone()),
            Err(error) => return self.tell(&error),
        };
        if let Err(error) = apiserver::decode_stored(&plain) {
            let key = String::from_utf8_lossy(&kv.key);
            self.tell(&format!("{key} is no object: {error}"));
        }
    }
}

async fn check(place: &Place) -> Result<()> {
    let paths = place.paths();
    let config = place
        .flags
        .encryption_config
        .clone()
        .unwrap_or_else(|| paths.encryption());
    let rules = if config.exists() || place.flags.encryption_config.is_some() {
        encryption::read(&config)?
    } else {
        Rules::default()
    };
    let mut findings = Findings::default();
    let mut range = Range::prefix(OBJECTS).limit(500);
    if place.flags.shared() {
        let store = source(&place.flags.datastore_endpoint, &place.flags).await?;
        loop {
            let page = store.range(range.clone()).await?;
            page.items.iter().for_each(|kv| findings.look(&rules, kv));
            match page.items.last() {
                Some(last) if page.more => range = range.at(page.revision).start_after(last.key.clone()),
                _ => break,
            }
        }
    } else {
        let files = Files::open(&paths.store())?;
        files.verify(&mut |error| findings.tell(&error));
        // A damaged record ends a page: then what is not damaged is looked at one by one no more.
        while findings.damaged == 0 || range.start_after.is_none() {
            let page = match files.range(&range) {
                Ok(page) => page,
                Err(_) if findings.damaged > 0 => break,
                Err(error) => return Err(error.into()),
            };
            page.items.iter().for_each(|kv| findings.look(&rules, kv));
            match page.items.last() {
                Some(last) if page.more => range = range.start_after(last.key.clone()),
                _ => break,
            }
        }
    }
    if findings.damaged > 0 {
        bail!("{} damaged or unreadable, see above", findings.damaged);
    }
    println!("{} objects, all whole and readable", findings.objects);
    Ok(())
}

async fn reencrypt(place: &Place) -> Result<()> {
    let paths = place.paths();
    if !place.flags.shared() && !embedded::exists(&paths.store()) {
        bail!("{} has no store", place.data.data_dir.display());
    }
    let opened = open_raw(&place.flags, &paths)
        .await
        .context("re-encrypting the embedded store needs its server to be stopped")?;
    let (done, failed) = rewrite(&opened).await?;
    // The versions before are not encrypted as they should be: they go too.
    let now = opened.raw.revision().await?;
    opened.raw.compact(now).await.context("compact")?;
    opened.raw.close().await;
    if place.flags.shared() {
        println!("{done} objects were written anew; run etcdctl defrag to clear what lay in their place");
    } else {
        drop(opened);
        embedded::tidy(&paths.store())?;
        println!("{done} objects were written anew");
    }
    if failed > 0 {
        bail!("{failed} could not be read, see above");
    }
    Ok(())
}

async fn rewrite(opened: &Opened) -> Result<(u64, u64)> {
    let plain = opened.plain();
    let (mut done, mut failed) = (0, 0);
    let mut range = Range::prefix(OBJECTS).limit(500);
    loop {
        let page = opened.raw.range(range.clone()).await?;
        for kv in &page.items {
            if opened.rules.is_current(&kv.key, &kv.value) {
                continue;
            }
            match one(&*plain, &kv.key).await {
                Ok(()) => done += 1,
                Err(error @ store::Error::Unreadable { .. }) => {
                    failed += 1;
                    eprintln!("{error}");
                }
                Err(error) => return Err(error.into()),
            }
        }
        match page.items.last() {
            Some(last) if page.more => range = range.start_after(last.key.clone()),
            _ => return Ok((done, failed)),
        }
    }
}

/// Puts an object as it is. Servers may write to it meanwhile: then theirs counts.
async fn one(plain: &dyn Store, key: &[u8]) -> store::Result<()> {
    let key = bytes::Bytes::copy_from_slice(key);
    while let Some(kv) = plain.get(&key).await? {
        let txn = Txn::update(key.clone(), kv.mod_revision, kv.value);
        if let Outcome::Committed(_) = plain.commit(txn).await? {
            break;
        }
    }
    Ok(())
}
