//! Tests of Jobs in a small world.

use super::*;
use reconcile::World;

fn job(change: Value) -> Value {
    let mut job = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "shop", "uid": "j"},
        "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6,
            "selector": {"matchLabels": {CONTROLLER_UID: "j"}},
            "template": {"metadata": {"labels": {CONTROLLER_UID: "j"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "i"}]}}}});
    for (k, v) in change.as_object().into_iter().flatten() {
        job["spec"][k] = v.clone();
    }
    job
}

struct Bench {
    world: World,
    now: Timestamp,
}

impl Bench {
    fn new(change: Value) -> Self {
        let mut world = World::default();
        world.put(&JOBS, job(change));
        let mut bench = Bench {
            world,
            now: "2026-01-01T00:00:00Z".parse().unwrap(),
        };
        bench.settle();
        bench
    }

    fn settle(&mut self) {
        assert!(self.world.settle(self.now, &JobController, 20), "never at rest");
    }

    fn pass(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
        self.settle();
    }

    fn pods(&self) -> Vec<Arc<Object>> {
        self.world.list(&PODS, "shop")
    }

    fn active(&self) -> Vec<Member> {
        let members = self.pods().into_iter().filter_map(Member::of);
        members.filter(Member::is_active).collect()
    }

    /// Has an active pod end; `index` says which.
    fn end(&mut self, index: Option<i64>, status: Value) {
        let pod = self.active().into_iter().find(|m| m.index() == index).unwrap();
        self.world
            .change(&PODS, "shop", pod.object.name(), json!({"status": status}));
        self.settle();
    }

    fn succeed(&mut self, index: Option<i64>) {
        self.end(index, json!({"phase": "Succeeded"}));
    }

    fn fail(&mut self, index: Option<i64>, code: i32) {
        let time = meta::time::rfc3339(self.now);
        let terminated = json!({"exitCode": code, "finishedAt": time});
        let container = json!({"name": "a", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": terminated}});
        self.end(index, json!({"phase": "Failed", "containerStatuses": [container]}));
    }

    /// What nodes do with pods that are going.
    fn reap(&mut self) {
        for pod in self.pods() {
            if pod.is_deleting() && pod.header().finalizers.is_empty() {
                self.world.remove(&PODS, "shop", pod.name());
            }
        }
        self.settle();
    }

    fn value(&self) -> Value {
        self.world.get(&JOBS, "shop", "work").unwrap().to_value()
    }

    fn status(&self, field: &str) -> Value {
        self.value()["status"][field].clone()
    }

    /// Type and reason of conditions that are true.
    fn conditions(&self) -> Vec<(String, String)> {
        let list = self.status("conditions");
        let list = list.as_array().cloned().unwrap_or_default();
        let text = |c: &Value, f: &str| c[f].as_str().unwrap_or_default().to_owned();
        list.iter()
            .filter(|c| c["status"] == "True")
            .map(|c| (text(c, "type"), text(c, "reason")))
            .collect()
    }

    fn ended(&self, kind: &str, reason: &str) {
        let last = self.conditions().into_iter().find(|c| c.0 == kind);
        assert_eq!(last, Some((kind.into(), reason.into())), "{:?}", self.value()["status"]);
        let tracked = self.pods().iter().any(|p| !p.header().finalizers.is_empty());
        assert!(!tracked, "nothing is left to count");
        assert_eq!(self.status("uncountedTerminatedPods"), json!({}));
    }
}

#[test]
fn pods_run_until_enough_have_succeeded() {
    let mut b = Bench::new(json!({"completions": 3, "parallelism": 2}));
    assert_eq!(b.active().len(), 2);
    assert_eq!(b.status("startTime"), "2026-01-01T00:00:00Z");
    let pod = b.pods()[0].clone();
    assert_eq!(pod.header().finalizers, [TRACKING]);
    assert_eq!(pod.labels()["job-name"], "work");
    b.succeed(None);
    assert_eq!((b.status("succeeded"), b.active().len()), (json!(1), 2));
    b.succeed(None);
    assert_eq!(b.active().len(), 1);
    b.succeed(None);
    assert_eq!(b.status("succeeded"), 3);
    b.ended("Complete", "CompletionsReached");
    b.ended("SuccessCriteriaMet", "CompletionsReached");
    assert_eq!(b.status("completionTime"), "2026-01-01T00:00:00Z");
    assert!(b.world.events.contains(&("Completed".into(), "Job completed".into())));
}

#[test]
fn a_work_queue_ends_with_its_last_pod() {
    let mut b = Bench::new(json!({"completions": null, "parallelism": 2}));
    assert_eq!(b.active().len(), 2);
    b.succeed(None);
    assert_eq!((b.active().len(), b.conditions().len()), (1, 0));
    b.succeed(None);
    b.ended("Complete", "CompletionsReached");
}

#[test]
fn failures_are_paused_after_and_limited() {
    let mut b = Bench::new(json!({"backoffLimit": 1}));
    b.fail(None, 1);
    assert_eq!((b.status("failed"), b.active().len()), (json!(1), 0));
    let plan = JobController.plan(b.now, &Key::new("shop", "work"), &b.world);
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(10)));
    b.pass(10);
    assert_eq!(b.active().len(), 1);
    b.fail(None, 1);
    b.ended("Failed", "BackoffLimitExceeded");
    assert_eq!(b.status("failed"), 2);
    let message = "Job has reached the specified backoff limit";
    assert!(
        b.world
            .events
            .contains(&("BackoffLimitExceeded".into(), message.into()))
    );
}

#[test]
fn restarts_in_place_count() {
    let template = json!({"metadata": {"labels": {CONTROLLER_UID: "j"}}, "spec": {"restartPolicy": "OnFailure"}});
    let mut b = Bench::new(json!({"backoffLimit": 2, "template": template}));
    let container = json!({"name": "a", "image": "i", "imageID": "", "ready": true, "restartCount": 2});
    let status = json!({"phase": "Running", "containerStatuses": [container]});
    b.end(None, status);
    b.reap();
    b.ended("Failed", "BackoffLimitExceeded");
}

#[test]
fn time_runs_out() {
    let mut b = Bench::new(json!({"activeDeadlineSeconds": 30}));
    let name = b.pods()[0].name().to_owned();
    b.world.change(&PODS, "shop", &name, json!({"spec": {"nodeName": "n"}}));
    b.pass(29);
    assert_eq!(b.active().len(), 1);
    b.pass(1);
    assert_eq!(b.active().len(), 0);
    assert_eq!(b.conditions(), [("FailureTarget".into(), "DeadlineExceeded".into())]);
    b.reap();
    b.ended("Failed", "DeadlineExceeded");
    assert_eq!(b.status("failed"), 1);
}

#[test]
fn finished_jobs_expire() {
    let mut b = Bench::new(json!({"ttlSecondsAfterFinished": 60}));
    b.succeed(None);
    b.ended("Complete", "CompletionsReached");
    let plan = JobController.plan(b.now, &Key::new("shop", "work"), &b.world);
    assert_eq!(plan.again, Some(std::time::Duration::from_secs(60)));
    b.pass(60);
    assert!(b.world.get(&JOBS, "shop", "work").is_none());
}

#[test]
fn suspended_jobs_rest() {
    let mut b = Bench::new(json!({"parallelism": 2, "completions": 2}));
    b.world
        .change(&JOBS, "shop", "work", json!({"spec": {"suspend": true}}));
    b.settle();
    b.reap();
    assert_eq!((b.pods().len(), b.status("failed")), (0, Value::Null));
    assert_eq!(b.conditions(), [("Suspended".into(), "JobSuspended".into())]);
    b.pass(5);
    b.world
        .change(&JOBS, "shop", "work", json!({"spec": {"suspend": false}}));
    b.settle();
    assert_eq!(b.active().len(), 2);
    assert_eq!(b.status("startTime"), "2026-01-01T00:00:05Z");
    let reasons: Vec<&str> = b.world.events.iter().map(|(r, _)| r.as_str()).collect();
    assert!(reasons.contains(&"Suspended") && reasons.contains(&"Resumed"));
}

#[test]
fn indexes_are_each_done_once() {
    let mut b = Bench::new(json!({"completions": 4, "parallelism": 3, "completionMode": "Indexed"}));
    let indexes = |b: &Bench| b.active().iter().filter_map(Member::index).collect::<Vec<_>>();
    assert_eq!(indexes(&b), [0, 1, 2]);
    let pod = b.pods()[0].to_value();
    assert_eq!(pod["spec"]["hostname"], "work-0");
    assert_eq!(pod["spec"]["containers"][0]["env"][0]["name"], "JOB_COMPLETION_INDEX");
    b.succeed(Some(1));
    b.succeed(Some(0));
    assert_eq!(
        (b.status("completedIndexes"), b.status("succeeded")),
        (json!("0,1"), json!(2))
    );
    b.fail(Some(2), 1);
    assert_eq!(indexes(&b), [3]);
    b.pass(10);
    assert_eq!(indexes(&b), [2, 3]);
    b.succeed(Some(2));
    b.succeed(Some(3));
    assert_eq!(b.status("completedIndexes"), "0-3");
    b.ended("Complete", "CompletionsReached");
}

#[test]
fn indexes_fail_one_by_one() {
    let mut b = Bench::new(json!({"completions": 2, "parallelism": 2, "completionMode": "Indexed",
        "backoffLimit": null, "backoffLimitPerIndex": 1}));
    b.fail(Some(0), 1);
    let held = |b: &Bench| b.pods().iter().filter(|p| !p.header().finalizers.is_empty()).count();
    assert_eq!(held(&b), 2, "the failed pod remembers");
    b.pass(10);
    assert_eq!(held(&b), 2, "its successor does now");
    b.fail(Some(0), 1);
    b.pass(100);
    assert_eq!((b.status("failedIndexes"), b.active().len()), (json!("0"), 1));
    b.succeed(Some(1));
    b.ended("Failed", "FailedIndexes");
    assert_eq!((b.status("failed"), b.status("succeeded")), (json!(2), json!(1)));
}

#[test]
fn policies_decide_about_failures() {
    let codes = |operator: &str, code: i32, action: &str| json!({"action": action, "onExitCodes": {"operator": operator, "values": [code]}});
    let disrupted = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]});
    let rules = json!([disrupted, codes("In", 42, "FailJob")]);
    let mut b = Bench::new(json!({"backoffLimit": 0, "podFailurePolicy": {"rules": rules}}));
    let condition = json!({"type": "DisruptionTarget", "status": "True"});
    b.end(None, json!({"phase": "Failed", "conditions": [condition]}));
    assert_eq!((b.status("failed"), b.active().len()), (Value::Null, 1));
    let name = b.active()[0].object.key();
    b.fail(None, 42);
    b.ended("Failed", "PodFailurePolicy");
    let message = format!("Container a for pod {name} failed with exit code 42 matching FailJob rule at index 1");
    assert!(b.world.events.contains(&("PodFailurePolicy".into(), message)));
}

#[test]
fn a_success_policy_ends_early() {
    let rules = json!([{"succeededIndexes": "0,2", "succeededCount": 1}]);
    let mut b = Bench::new(json!({"completions": 3, "parallelism": 3, "completionMode": "Indexed",
        "successPolicy": {"rules": rules}}));
    b.succeed(Some(1));
    assert_eq!(b.conditions(), []);
    b.succeed(Some(2));
    b.reap();
    b.ended("Complete", "SuccessPolicy");
}

#[test]
fn fewer_pods_run_when_parallelism_shrinks() {
    let mut b = Bench::new(json!({"completions": 5, "parallelism": 4}));
    b.world
        .change(&JOBS, "shop", "work", json!({"spec": {"parallelism": 1}}));
    b.settle();
    b.reap();
    assert_eq!((b.active().len(), b.status("failed")), (1, Value::Null));
}

#[test]
fn pods_of_a_job_that_is_gone_are_let_go() {
    let mut b = Bench::new(json!({}));
    b.world.remove(&JOBS, "shop", "work");
    b.world.step(b.now, &JobController, &Key::new("shop", "work"));
    assert!(b.pods().iter().all(|p| p.header().finalizers.is_empty()));
    assert!(
        JobController
            .plan(b.now, &Key::new("shop", "work"), &b.world)
            .is_empty()
    );
}

#[test]
fn others_may_manage_a_job() {
    let b = Bench::new(json!({"managedBy": "example.com/queue"}));
    assert!(b.pods().is_empty());
}
