//! Which of the servers on one store runs the control loops: the holder of a Lease.
//!
//! Must not know what is run. Its rule: the loops of one holder have ended before those of the
//! next begin. A holder that can't renew stops early enough, by its own clock; the others wait for
//! the lease to run out by theirs, so that clocks need not agree.

use std::sync::Arc;
use std::time::Duration;

use client::{Client, ClientExt};
use jiff::Timestamp;
use kinds::resources::LEASES;
use meta::{Object, Status};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

const NAMESPACE: &str = "kube-system";
const NAME: &str = "allmend-controllers";
/// Times of a lease; upstream's are the same but for `renew`, of which it makes more.
const TIMES: Times = Times {
    lease: Duration::from_secs(15),
    deadline: Duration::from_secs(10),
    renew: Duration::from_secs(4),
    retry: Duration::from_secs(1),
};

#[derive(Clone, Copy)]
struct Times {
    /// How long others leave an unrenewed lease alone.
    lease: Duration,
    /// How long a holder goes on without renewing. What is left of `lease` is for its loops to end.
    deadline: Duration,
    renew: Duration,
    /// How often a candidate looks (in its own cache), and a holder tries again.
    retry: Duration,
}

/// Runs `work` whenever this server holds the lease, until `stop`. `work` must end soon after its
/// token is cancelled, and end what it began.
pub async fn lead<F>(
    client: Arc<dyn Client>,
    identity: String,
    stop: CancellationToken,
    work: impl Fn(CancellationToken) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    Candidate {
        client,
        identity,
        times: TIMES,
        seen: None,
    }
    .lead(stop, work)
    .await;
}

struct Candidate {
    client: Arc<dyn Client>,
    identity: String,
    times: Times,
    /// The version of the lease that was seen last, and since when.
    seen: Option<(u64, Instant)>,
}

/// What a lease says.
fn holder(lease: &Object) -> String {
    text(&lease.to_value(), "/spec/holderIdentity")
}

fn text(value: &Value, path: &str) -> String {
    value
        .pointer(path)
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned()
}

impl Candidate {
    async fn lead<F>(mut self, stop: CancellationToken, work: impl Fn(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        while !stop.is_cancelled() {
            let begun = Instant::now();
            match self.take().await {
                Ok(true) => self.hold(begun, &stop, &work).await,
                Ok(false) => {}
                Err(status) => warn!(error = %status.message, "take the lease of the control loops"),
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(self.times.retry) => {}
            }
        }
    }

    /// Takes the lease if nobody holds it.
    async fn take(&mut self) -> Result<bool, Status> {
        let lease = match self.client.get(&LEASES, NAMESPACE, NAME).await {
            Ok(lease) => lease,
            Err(status) if status.is_not_found() => return self.make().await,
            Err(status) => return Err(status),
        };
        let version = lease.resource_version();
        if self.seen.is_none_or(|(seen, _)| seen != version) {
            self.seen = Some((version, Instant::now()));
        }
        let value = lease.to_value();
        let held = text(&value, "/spec/holderIdentity");
        let seconds = value.pointer("/spec/leaseDurationSeconds").and_then(Value::as_u64);
        let lasts = seconds.map_or(self.times.lease, Duration::from_secs);
        let fresh = self.seen.is_some_and(|(_, since)| since.elapsed() < lasts);
        if !held.is_empty() && held != self.identity && fresh {
            return Ok(false);
        }
        let changes = value
            .pointer("/spec/leaseTransitions")
            .and_then(Value::as_u64)
            .unwrap_or(0);
        let now = meta::time::rfc3339_micro(Timestamp::now());
        let spec = json!({
            "holderIdentity": self.identity, "leaseDurationSeconds": self.times.lease.as_secs(),
            "acquireTime": now, "renewTime": now, "leaseTransitions": changes + 1,
        });
        self.patch(version, &spec).await.map(|taken| taken.is_some())
    }

    async fn make(&self) -> Result<bool, Status> {
        let now = meta::time::rfc3339_micro(Timestamp::now());
        let lease = json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": {"name": NAME, "namespace": NAMESPACE},
            "spec": {
                "holderIdentity": self.identity, "leaseDurationSeconds": self.times.lease.as_secs(),
                "acquireTime": now, "renewTime": now, "leaseTransitions": 0,
            },
        });
        match self.client.create_object(&LEASES, NAMESPACE, &lease).await {
            Ok(_) => Ok(true),
            Err(status) if status.is_already_exists() => Ok(false),
            Err(status) => Err(status),
        }
    }

    /// Changes the version that was seen; `None` if another was quicker.
    async fn patch(&self, version: u64, spec: &Value) -> Result<Option<Arc<Object>>, Status> {
        let patch = json!({"metadata": {"resourceVersion": version.to_string()}, "spec": spec});
        match self.client.merge_patch(&LEASES, NAMESPACE, NAME, "", &patch).await {
            Ok(lease) => Ok(Some(lease)),
            Err(status) if status.is_conflict() || status.is_not_found() => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Works while the lease is held. `renewed` is a time before which it was not taken.
    async fn hold<F>(&self, mut renewed: Instant, stop: &CancellationToken, work: impl Fn(CancellationToken) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        info!(identity = self.identity, "this server runs the control loops now");
        let end = stop.child_token();
        let working = tokio::spawn(work(end.clone()));
        let mut pause = self.times.renew;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            let asked = Instant::now();
            let until = renewed + self.times.deadline;
            match tokio::time::timeout_at(until, self.renew()).await {
                Ok(Ok(true)) => (renewed, pause) = (asked, self.times.renew),
                Ok(Ok(false)) => {
                    warn!("another server has taken the lease of the control loops");
                    break;
                }
                Ok(Err(status)) => {
                    warn!(error = %status.message, "renew the lease of the control loops");
                    pause = self.times.retry;
                }
                Err(_) => {}
            }
            if Instant::now() >= until && renewed != asked {
                warn!("the lease of the control loops could not be renewed in time");
                break;
            }
        }
        end.cancel();
        // It ends early only by a panic, which its hook has reported.
        let _ = working.await;
        info!(identity = self.identity, "the control loops of this server have ended");
        if stop.is_cancelled() {
            self.release().await;
        }
    }

    /// Whether the lease is still ours.
    async fn renew(&self) -> Result<bool, Status> {
        let lease = self.client.get(&LEASES, NAMESPACE, NAME).await?;
        if holder(&lease) != self.identity {
            return Ok(false);
        }
        let spec = json!({"renewTime": meta::time::rfc3339_micro(Timestamp::now())});
        let Some(_) = self.patch(lease.resource_version(), &spec).await? else {
            // An edit by hand, perhaps: whose it is now shows at the next try.
            return Err(Status::conflict(
                "coordination.k8s.io",
                "leases",
                NAME,
                "it was changed",
            ));
        };
        Ok(true)
    }

    /// So that the next server need not wait.
    async fn release(&self) {
        let released = async {
            let lease = self.client.get(&LEASES, NAMESPACE, NAME).await?;
            if holder(&lease) != self.identity {
                return Ok(());
            }
            let spec = json!({"holderIdentity": "", "leaseDurationSeconds": 1});
            self.patch(lease.resource_version(), &spec).await.map(drop)
        };
        match tokio::time::timeout(self.times.retry * 3, released).await {
            Ok(Ok(())) => {}
            Ok(Err(Status { message, .. })) => warn!(error = message, "give back the lease of the control loops"),
            Err(_) => warn!("the lease of the control loops could not be given back in time"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use apiserver::{ApiServer, Config, User};
    use std::sync::atomic::{AtomicUsize, Ordering};

    const QUICK: Times = Times {
        lease: Duration::from_secs(1),
        deadline: Duration::from_millis(600),
        renew: Duration::from_millis(100),
        retry: Duration::from_millis(20),
    };

    /// Counts who works, now and ever; more than one at a time is a failure.
    #[derive(Default)]
    struct Work {
        now: AtomicUsize,
        terms: AtomicUsize,
        most: AtomicUsize,
    }

    impl Work {
        async fn run(self: Arc<Self>, stop: CancellationToken) {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            self.terms.fetch_add(1, Ordering::SeqCst);
            stop.cancelled().await;
            self.now.fetch_sub(1, Ordering::SeqCst);
        }

        async fn term(&self, number: usize) {
            let waited = tokio::time::timeout(Duration::from_secs(20), async {
                while self.terms.load(Ordering::SeqCst) < number {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            });
            assert!(waited.await.is_ok(), "nobody took the lease");
        }
    }

    fn candidate(api: &ApiServer, identity: &str) -> Candidate {
        Candidate {
            client: api.client(User::master("system:kube-controller-manager")),
            identity: identity.to_owned(),
            times: QUICK,
            seen: None,
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn one_works_at_a_time_and_another_takes_over() {
        let dir = tempfile::tempdir().unwrap();
        let options = store::embedded::Options::new(dir.path()).stamp(apiserver::stamp());
        let store = Arc::new(store::Embedded::open(options).unwrap());
        let api = ApiServer::open(Config::default(), store).await.unwrap();
        let work = Arc::new(Work::default());
        let start = |identity: &str| {
            let stop = CancellationToken::new();
            let (candidate, ended, work) = (candidate(&api, identity), stop.clone(), work.clone());
            let task = tokio::spawn(async move { candidate.lead(ended, move |s| work.clone().run(s)).await });
            (stop, task)
        };
        let first = start("a");
        work.term(1).await;
        let second = start("b");
        // Renewed, the lease outlasts its own length.
        tokio::time::sleep(QUICK.lease * 2).await;
        assert_eq!(work.terms.load(Ordering::SeqCst), 1);
        let begun = Instant::now();
        first.0.cancel();
        first.1.await.unwrap();
        work.term(2).await;
        assert!(
            begun.elapsed() < QUICK.lease,
            "a lease that was given back is taken at once"
        );

        // Killed without a word: the lease has to run out.
        second.1.abort();
        let _ = second.1.await;
        let third = start("c");
        tokio::time::sleep(QUICK.lease / 2).await;
        assert_eq!(work.terms.load(Ordering::SeqCst), 2);
        // What the killed one ran ends with its process; here by its own token.
        second.0.cancel();
        work.term(3).await;
        let client = api.client(User::master("a"));
        let lease = client.get(&LEASES, NAMESPACE, NAME).await.unwrap().to_value();
        assert_eq!(text(&lease, "/spec/holderIdentity"), "c");
        assert_eq!(lease["spec"]["leaseTransitions"], 2);

        // Taken away: the holder stops, and gets it again once it has run out.
        let patch = json!({"spec": {"holderIdentity": "thief", "leaseDurationSeconds": 1}});
        client.merge_patch(&LEASES, NAMESPACE, NAME, "", &patch).await.unwrap();
        work.term(4).await;
        third.0.cancel();
        third.1.await.unwrap();
        assert_eq!(work.most.load(Ordering::SeqCst), 1);
        assert_eq!(work.now.load(Ordering::SeqCst), 0);
    }
}
