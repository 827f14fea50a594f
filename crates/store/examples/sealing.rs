//! What encryption costs: a value alone, and commits and reads through a store with it and without.
//!
//! `cargo run --profile fast -p store --example sealing -- <directory>`

use std::error::Error;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use store::sealed::{Algorithm, Key, Provider, Rule, Rules, Sealed, around, random_secret};
use store::{Embedded, Range, Stamp, Store, Txn, embedded::Options};

const SIZE: usize = 1500;
const KEYS: usize = 5000;

fn rules(algorithm: Algorithm) -> Result<Rules, String> {
    let key = Key::new(algorithm, "key", &random_secret())?;
    Ok(Rules(vec![Rule {
        prefixes: vec!["/registry/".to_owned()],
        providers: vec![Provider::Key(key)],
    }]))
}

async fn through(name: &str, store: Arc<dyn Store>) -> Result<(), Box<dyn Error>> {
    let mut times = Vec::with_capacity(KEYS);
    for n in 0..KEYS {
        let begun = Instant::now();
        store
            .commit(Txn::create(format!("/registry/{n}"), vec![b'x'; SIZE]))
            .await?;
        times.push(begun.elapsed());
    }
    times.sort();
    let begun = Instant::now();
    let page = store.range(Range::prefix("/registry/")).await?;
    let each = begun.elapsed() / u32::try_from(page.items.len())?;
    println!(
        "{name}: commit p50 {:?} p99 {:?}, read of all {each:?} a key",
        times[KEYS / 2],
        times[KEYS * 99 / 100]
    );
    store.close().await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("give a directory")?;
    for algorithm in [Algorithm::AesGcm, Algorithm::Secretbox] {
        let key = Key::new(algorithm, "key", &random_secret())?;
        let rules = rules(algorithm)?;
        let plain = vec![b'x'; SIZE];
        let begun = Instant::now();
        for _ in 0..100_000 {
            black_box(key.seal(b"/registry/a", black_box(&plain)));
        }
        let seal = begun.elapsed() / 100_000;
        let own = rules.probe(b"/registry/a").ok_or("no key")?;
        let begun = Instant::now();
        for _ in 0..100_000 {
            black_box(rules.open(b"/registry/a", black_box(&own))?);
        }
        let open = begun.elapsed() / 100_000;
        println!(
            "{}: {seal:?} to encrypt {SIZE} bytes, {open:?} to decrypt a small one",
            algorithm.name()
        );
    }
    let open = |name: &str| Embedded::open(Options::new(format!("{dir}/{name}")).stamp(around(Stamp::none())));
    through("plain", Arc::new(open("plain")?)).await?;
    for algorithm in [Algorithm::AesGcm, Algorithm::Secretbox] {
        let inner = Arc::new(open(algorithm.name())?);
        let sealed = Sealed::new(inner, rules(algorithm)?, Stamp::none());
        through(algorithm.name(), Arc::new(sealed)).await?;
    }
    Ok(())
}
