//! How fast: the difference of two looks. Nothing is looked at while nobody asks; who asks after
//! a pause waits for a second look. Must not know what is looked at beyond its processor time.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use tokio::sync::Mutex;

use super::Snapshot;

/// How long a measurement is good for everybody who asks.
const FRESH: i64 = 1_000_000_000;
/// Shortest time between the two looks of a rate, and how long one waits for the second.
const SHORTEST: i64 = 1_000_000_000;
/// An earlier look than this says nothing of now.
const LONGEST: i64 = 60_000_000_000;
/// The host itself in a look; no container is called so.
const HOST: &str = "/";

/// Processor time per second, and over which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Nanoseconds per second.
    pub nanocores: u64,
    /// Nanoseconds.
    pub window: u64,
}

/// A look, compared with the one before it.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub snapshot: Snapshot,
    base: Option<Arc<Base>>,
}

/// What is kept of an earlier look: when, and how much, by key.
type Base = (i64, HashMap<String, (i64, u64)>);

/// Keeps the looks that rates need.
#[derive(Default)]
pub(crate) struct Sampler {
    /// Held while looking: who asks meanwhile gets the same answer.
    measured: Mutex<Option<Arc<Measured>>>,
    looks: std::sync::Mutex<Looks>,
}

#[derive(Default)]
struct Looks {
    older: Option<Arc<Base>>,
    newer: Option<Arc<Base>>,
}

impl Sampler {
    /// The rates of everything, from looks by `look`.
    pub(crate) async fn measure<E, F>(&self, look: impl Fn() -> F) -> Result<Arc<Measured>, E>
    where
        F: Future<Output = Result<Snapshot, E>>,
    {
        let mut kept = self.measured.lock().await;
        let now = super::now();
        if let Some(kept) = kept.as_ref().filter(|k| age(k.snapshot.host.at, now) < FRESH) {
            return Ok(kept.clone());
        }
        let first = look().await?;
        let base = self.keep(&first);
        let measured = match base {
            Some(base) => Measured {
                snapshot: first,
                base: Some(base),
            },
            None => {
                let base = Some(Arc::new(base_of(&first)));
                tokio::time::sleep(Duration::from_nanos(SHORTEST.unsigned_abs())).await;
                let snapshot = look().await?;
                self.keep(&snapshot);
                Measured { snapshot, base }
            }
        };
        let measured = Arc::new(measured);
        *kept = Some(measured.clone());
        Ok(measured)
    }

    /// Takes note of a look; answers the earlier one that it is to be compared with.
    pub(crate) fn keep(&self, snapshot: &Snapshot) -> Option<Arc<Base>> {
        let mut looks = self.looks.lock().unwrap_or_else(PoisonError::into_inner);
        let at = snapshot.host.at;
        let fits = |b: &&Arc<Base>| (SHORTEST..=LONGEST).contains(&age(b.0, at));
        let base = looks.newer.iter().chain(&looks.older).find(fits).cloned();
        if looks.newer.as_ref().is_none_or(|n| age(n.0, at) >= SHORTEST) {
            looks.older = looks.newer.replace(Arc::new(base_of(snapshot)));
        }
        base
    }
}

/// A clock that was set back makes everything old.
fn age(then: i64, now: i64) -> i64 {
    if then > now { i64::MAX } else { now - then }
}

fn base_of(snapshot: &Snapshot) -> Base {
    let mut all = HashMap::new();
    all.insert(HOST.to_owned(), (snapshot.host.at, snapshot.host.cpu));
    for pod in &snapshot.pods {
        all.insert(pod.uid.clone(), (pod.usage.at, pod.usage.cpu));
        let containers = pod.containers.iter();
        all.extend(containers.map(|c| (c.key().to_owned(), (c.usage.at, c.usage.cpu))));
    }
    (snapshot.host.at, all)
}

impl Measured {
    /// The host's.
    pub(crate) fn host_rate(&self) -> Option<Rate> {
        let host = &self.snapshot.host;
        self.rate(HOST, 0, (host.at, host.cpu))
    }

    /// Of a key, by its use now. What was not there at the earlier look is measured since it
    /// was started.
    pub(crate) fn rate(&self, key: &str, started: i64, now: (i64, u64)) -> Option<Rate> {
        let before = self.base.as_ref().and_then(|b| b.1.get(key).copied());
        match before {
            // The runtime has not looked again since.
            Some((then, _)) if then >= now.0 => rate((started, 0), now),
            Some((_, cpu)) if cpu > now.1 => rate((started, 0), now),
            Some(before) => rate(before, now),
            None => rate((started, 0), now),
        }
    }
}

fn rate(from: (i64, u64), to: (i64, u64)) -> Option<Rate> {
    let window = u64::try_from(to.0.checked_sub(from.0)?).ok()?;
    // Starts are known to the second: shorter times would be made up.
    if from.0 <= 0 || window < SHORTEST.unsigned_abs() / 2 {
        return None;
    }
    let used = u128::from(to.1.checked_sub(from.1)?) * 1_000_000_000;
    let nanocores = u64::try_from(used / u128::from(window)).ok()?;
    Some(Rate { nanocores, window })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::stats::{Host, PodUse, Usage};

    const SECOND: i64 = 1_000_000_000;

    fn snapshot(at: i64, cpu: u64) -> Snapshot {
        let usage = Usage {
            at,
            cpu,
            ..Usage::default()
        };
        Snapshot {
            host: Host {
                at,
                cpu,
                ..Host::default()
            },
            pods: vec![PodUse {
                uid: "u".into(),
                usage,
                ..PodUse::default()
            }],
            failed: false,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_after_a_pause_waits_for_a_second_look() {
        let sampler = Sampler::default();
        let looks = Cell::new(0_u64);
        // By the tests' clock, so that rates are exact.
        let begun = (tokio::time::Instant::now(), super::super::now());
        let look = || {
            looks.set(looks.get() + 1);
            let at = begun.1 + i64::try_from(begun.0.elapsed().as_nanos()).unwrap();
            let cpu = looks.get() * 250_000_000;
            async move { Ok::<_, ()>(snapshot(at, cpu)) }
        };
        let first = sampler.measure(look).await.unwrap();
        let rate = first.host_rate().unwrap();
        assert_eq!((rate.nanocores / 1_000_000, looks.get()), (250, 2));
        assert!(rate.window < 1_100_000_000);
        let begun = tokio::time::Instant::now();
        sampler.measure(look).await.unwrap();
        assert_eq!((begun.elapsed(), looks.get() <= 3), (Duration::ZERO, true));
    }

    #[test]
    fn looks_are_compared_with_one_that_fits() {
        let sampler = Sampler::default();
        let at = |s: i64| snapshot(s * SECOND, 0);
        let base = |s: i64| sampler.keep(&at(s)).map(|b| b.0 / SECOND);
        assert_eq!(base(100), None);
        assert_eq!(base(110), Some(100));
        assert_eq!(
            sampler.keep(&snapshot(110 * SECOND + 5, 0)).map(|b| b.0 / SECOND),
            Some(100)
        );
        assert_eq!(base(130), Some(110));
        assert_eq!(base(300), None);
        // The clock was set back.
        assert_eq!(base(200), None);
    }

    #[test]
    fn what_is_new_is_measured_since_its_start() {
        let base = Some(Arc::new(base_of(&snapshot(100 * SECOND, 5))));
        let measured = Measured {
            snapshot: Snapshot::default(),
            base,
        };
        let half = Rate {
            nanocores: 500_000_000,
            window: 2_000_000_000,
        };
        assert_eq!(measured.rate("u", 0, (102 * SECOND, 1_000_000_005)), Some(half));
        assert_eq!(
            measured.rate("new", 100 * SECOND, (102 * SECOND, 1_000_000_000)),
            Some(half)
        );
        // Counted from the beginning again.
        assert_eq!(
            measured.rate("u", 100 * SECOND, (102 * SECOND, 1)).unwrap().nanocores,
            0
        );
        assert_eq!(measured.rate("new", 0, (102 * SECOND, 1)), None);
        assert_eq!(measured.rate("new", 102 * SECOND, (102 * SECOND + 5, 1)), None);
    }
}
