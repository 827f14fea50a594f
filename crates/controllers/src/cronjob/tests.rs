//! Tests of CronJobs in a small world.

use super::*;
use reconcile::World;

struct Bench {
    world: World,
    now: Timestamp,
}

impl Bench {
    fn new(change: Value) -> Self {
        let mut cron = json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "tick", "namespace": "shop", "creationTimestamp": "2026-01-01T00:00:30Z"},
            "spec": {"schedule": "* * * * *", "successfulJobsHistoryLimit": 3, "failedJobsHistoryLimit": 1,
                "jobTemplate": {"metadata": {"labels": {"app": "tick"}}, "spec": {"completions": 1}}}});
        for (k, v) in change.as_object().into_iter().flatten() {
            cron["spec"][k] = v.clone();
        }
        let mut world = World::default();
        world.put(&CRON_JOBS, cron);
        Bench {
            world,
            now: "2026-01-01T00:00:30Z".parse().unwrap(),
        }
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        assert!(self.world.settle(self.now, &CronJobController, 10), "never at rest");
    }

    fn jobs(&self) -> Vec<Arc<Object>> {
        self.world.list(&JOBS, "shop")
    }

    fn names(&self) -> Vec<String> {
        self.jobs().iter().map(|j| j.name().to_owned()).collect()
    }

    fn end(&mut self, name: &str, kind: &str) {
        let time = meta::time::rfc3339(self.now);
        let status = json!({"conditions": [{"type": kind, "status": "True"}], "completionTime": time,
            "startTime": time});
        self.world.change(&JOBS, "shop", name, json!({"status": status}));
        assert!(self.world.settle(self.now, &CronJobController, 10), "never at rest");
    }

    fn status(&self) -> Value {
        self.world.get(&CRON_JOBS, "shop", "tick").unwrap().to_value()["status"].clone()
    }

    fn told(&self, reason: &str) -> usize {
        self.world.events.iter().filter(|(r, _)| r == reason).count()
    }
}

#[test]
fn a_job_at_each_time() {
    let mut b = Bench::new(json!({}));
    b.pass(0);
    assert!(b.names().is_empty());
    let plan = CronJobController.plan(b.now, &Key::new("shop", "tick"), &b.world);
    assert_eq!(plan.again, Some(Duration::from_millis(30_100)));
    b.pass(30);
    assert_eq!(b.names(), ["tick-29453761"]);
    let job = b.jobs()[0].clone();
    assert_eq!(job.annotations()[DUE], "2026-01-01T00:01:00Z");
    assert_eq!(job.labels()["app"], "tick");
    assert_eq!(b.status()["lastScheduleTime"], "2026-01-01T00:01:00Z");
    assert_eq!(b.status()["active"][0]["name"], "tick-29453761");
    b.end("tick-29453761", "Complete");
    assert_eq!(b.status()["active"], Value::Null);
    assert_eq!(b.status()["lastSuccessfulTime"], "2026-01-01T00:01:00Z");
    let message = "Saw completed job: tick-29453761, condition: Complete";
    assert!(b.world.events.contains(&("SawCompletedJob".into(), message.into())));
    b.pass(60);
    assert_eq!(b.names().len(), 2);
}

#[test]
fn missed_times_are_made_up_for_once() {
    let mut b = Bench::new(json!({}));
    b.pass(4 * 3600);
    assert_eq!(b.names().len(), 1);
    assert_eq!((b.told("TooManyMissedTimes"), b.told("SuccessfulCreate")), (1, 1));
    let mut late = Bench::new(json!({"schedule": "0 0 * * *", "startingDeadlineSeconds": 60}));
    late.pass(86_400 + 120);
    assert!(late.names().is_empty(), "too late");
}

#[test]
fn concurrency_is_as_asked() {
    for (policy, jobs) in [("Allow", 2), ("Forbid", 1), ("Replace", 1)] {
        let mut b = Bench::new(json!({"concurrencyPolicy": policy}));
        b.pass(30);
        let first = b.names();
        b.pass(60);
        assert_eq!(b.names().len(), jobs, "{policy}");
        assert_eq!(b.names() == first, policy == "Forbid", "{policy}");
    }
}

#[test]
fn a_forbidden_run_comes_late() {
    let mut b = Bench::new(json!({"concurrencyPolicy": "Forbid"}));
    b.pass(30);
    b.pass(70);
    assert_eq!(b.names(), ["tick-29453761"]);
    b.end("tick-29453761", "Failed");
    assert_eq!(b.names(), ["tick-29453761", "tick-29453762"]);
}

#[test]
fn history_is_kept_short() {
    let mut b = Bench::new(json!({"successfulJobsHistoryLimit": 2}));
    b.pass(30);
    for i in 0..8 {
        let name = b.names().pop().unwrap();
        b.end(&name, if i % 4 == 3 { "Failed" } else { "Complete" });
        b.pass(60);
    }
    let ended = |kind: &str| {
        let jobs = b.jobs().into_iter().map(Run::of);
        jobs.filter(|j| j.ending() == Some(kind)).count()
    };
    assert_eq!((ended("Complete"), ended("Failed")), (2, 1));
}

#[test]
fn suspended_and_unreadable_schedules_rest() {
    for change in [
        json!({"suspend": true}),
        json!({"schedule": "never"}),
        json!({"timeZone": "Mars/Olympus"}),
    ] {
        let mut b = Bench::new(change);
        b.pass(3600);
        assert!(b.names().is_empty());
    }
}
