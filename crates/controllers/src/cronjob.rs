//! CronJobs: a Job of a template whenever a schedule says so.
//!
//! Must not look at pods, and must not tell what nothing was done about: an event without a
//! write would be told again at every look.

mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use kinds::resources::{CRON_JOBS, JOBS};
use meta::Object;
use reconcile::{Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{controlled_by, owner_reference};
use crate::status;
use schedule::Schedule;

/// When a Job was due, as an annotation of the Job.
const DUE: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed runs than this are worth a warning.
const MANY: usize = 100;
/// How much later than due it is looked again, so that it is not too early.
const MARGIN: Duration = Duration::from_millis(100);

/// See the module.
pub struct CronJobController;

impl Controller for CronJobController {
    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let jobs = Input {
            gvr: JOBS,
            keys: |job, _| controller_key(job, "CronJob"),
        };
        vec![Input::primary(CRON_JOBS), jobs]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&CRON_JOBS, &key.namespace, &key.name) else {
            return plan;
        };
        let value = object.to_value();
        let owned = view.owned(&JOBS, object.uid()).into_iter();
        let jobs = owned.filter(|j| controlled_by(j, &object)).map(Run::of).collect();
        let cron = Cron {
            object: &object,
            value: &value,
            jobs,
            now,
        };
        cron.plan(&mut plan, view);
        plan
    }
}

/// A Job of the schedule.
struct Run {
    object: Arc<Object>,
    value: Value,
}

impl Run {
    fn of(object: Arc<Object>) -> Self {
        let value = object.to_value();
        Run { object, value }
    }

    /// The type of the condition under which it ended.
    fn ending(&self) -> Option<&str> {
        let conditions = self.value["status"]["conditions"].as_array()?;
        let mut true_ones = conditions.iter().filter(|c| c["status"] == "True");
        true_ones.find_map(|c| c["type"].as_str().filter(|t| matches!(*t, "Complete" | "Failed")))
    }

    fn time(&self, field: &str) -> Option<Timestamp> {
        self.value["status"][field].as_str().and_then(meta::time::parse)
    }
}

struct Cron<'a> {
    object: &'a Arc<Object>,
    value: &'a Value,
    jobs: Vec<Run>,
    now: Timestamp,
}

impl Cron<'_> {
    fn plan(&self, plan: &mut Plan, view: &dyn View) {
        self.note_endings(plan);
        self.forget_old(plan);
        let started = self.start(plan, view);
        self.write_status(plan, started);
    }

    fn remembered(&self) -> impl Iterator<Item = &str> {
        let active = self.value["status"]["active"].as_array();
        active.into_iter().flatten().filter_map(|a| a["name"].as_str())
    }

    fn note_endings(&self, plan: &mut Plan) {
        for name in self.remembered() {
            match self.jobs.iter().find(|j| j.object.name() == name) {
                Some(job) => {
                    if let Some(ending) = job.ending() {
                        let message = format!("Saw completed job: {name}, condition: {ending}");
                        plan.event(self.object, EventKind::Normal, "SawCompletedJob", message);
                    }
                }
                None => {
                    let message = format!("Active job went missing: {name}");
                    plan.event(self.object, EventKind::Normal, "MissingJob", message);
                }
            }
        }
    }

    /// Deletes the oldest of those that have ended.
    fn forget_old(&self, plan: &mut Plan) {
        if self.object.is_deleting() {
            return;
        }
        for (kind, field) in [
            ("Complete", "successfulJobsHistoryLimit"),
            ("Failed", "failedJobsHistoryLimit"),
        ] {
            let Some(limit) = self.value["spec"][field].as_u64() else {
                continue;
            };
            let ended = self.jobs.iter().filter(|j| j.ending() == Some(kind));
            let mut ended: Vec<&Run> = ended.filter(|j| !j.object.is_deleting()).collect();
            ended.sort_by_key(|j| (j.time("startTime"), j.object.name().to_owned()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(usize::MAX));
            for job in ended.into_iter().take(surplus) {
                self.delete(plan, job);
            }
        }
    }

    fn delete(&self, plan: &mut Plan, job: &Run) {
        plan.delete(&JOBS, &job.object);
        let message = format!("Deleted job {}", job.object.name());
        plan.event(self.object, EventKind::Normal, "SuccessfulDelete", message);
    }

    fn active(&self) -> impl Iterator<Item = &Run> {
        self.jobs.iter().filter(|j| j.ending().is_none())
    }

    fn last(&self) -> Option<Timestamp> {
        let last = self.value["status"]["lastScheduleTime"].as_str();
        last.and_then(meta::time::parse)
    }

    /// The zone and the schedule; `None` when one of them cannot be read.
    fn schedule(&self) -> Option<(TimeZone, Schedule)> {
        let zone = match self.value["spec"]["timeZone"].as_str() {
            Some(name) => TimeZone::get(name).ok()?,
            None => TimeZone::UTC,
        };
        let text = self.value["spec"]["schedule"].as_str().unwrap_or_default();
        Some((zone, Schedule::parse(text)?))
    }

    /// Starts a Job if one is due; gives when it was due.
    fn start(&self, plan: &mut Plan, view: &dyn View) -> Option<Timestamp> {
        if self.object.is_deleting() || self.value["spec"]["suspend"] == true {
            return None;
        }
        let (zone, schedule) = self.schedule()?;
        if let Some(next) = schedule.next(self.now, &zone) {
            plan.again(self.now.duration_until(next).unsigned_abs() + MARGIN);
        }
        let created = self.object.header().creation_timestamp.as_deref();
        let created = created.and_then(meta::time::parse).unwrap_or(self.now);
        let mut since = self.last().unwrap_or(created);
        if let Some(seconds) = self.value["spec"]["startingDeadlineSeconds"].as_i64() {
            let deadline = self.now.checked_sub(SignedDuration::from_secs(seconds));
            since = since.max(deadline.unwrap_or(since));
        }
        let due = schedule.last(since, self.now, &zone)?;
        match self.value["spec"]["concurrencyPolicy"].as_str() {
            Some("Forbid") if self.active().next().is_some() => return None,
            Some("Replace") => {
                for job in self.active().filter(|j| !j.object.is_deleting()) {
                    self.delete(plan, job);
                }
            }
            _ => {}
        }
        if schedule.count(since, self.now, &zone, MANY + 1) > MANY {
            let message = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock \
                           skew";
            plan.event(self.object, EventKind::Warning, "TooManyMissedTimes", message);
        }
        let name = format!("{}-{}", self.object.name(), due.as_second() / 60);
        if view.get(&JOBS, self.object.namespace(), &name).is_none() {
            plan.create(&JOBS, self.object.namespace(), self.job(&name, due, &zone));
            let message = format!("Created job {name}");
            plan.event(self.object, EventKind::Normal, "SuccessfulCreate", message);
        }
        Some(due)
    }

    fn job(&self, name: &str, due: Timestamp, zone: &TimeZone) -> Value {
        let template = &self.value["spec"]["jobTemplate"];
        let mut metadata = json!({"name": name, "annotations": {}, "ownerReferences": [owner_reference(self.object)]});
        for field in ["labels", "annotations"] {
            let value = &template["metadata"][field];
            if !value.is_null() {
                metadata[field] = value.clone();
            }
        }
        let zoned = due.to_zoned(zone.clone());
        let offset = if zoned.offset().is_zero() { "Z" } else { "%:z" };
        let time = zoned.strftime(&format!("%Y-%m-%dT%H:%M:%S{offset}")).to_string();
        metadata["annotations"][DUE] = time.into();
        json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": template["spec"]})
    }

    fn write_status(&self, plan: &mut Plan, started: Option<Timestamp>) {
        let reference = |j: &Run| {
            json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": j.object.namespace(),
                "name": j.object.name(), "uid": j.object.uid()})
        };
        let active: Vec<Value> = self.active().map(reference).collect();
        let present = &self.value["status"]["lastSuccessfulTime"];
        let before = present.as_str().and_then(meta::time::parse);
        let complete = self.jobs.iter().filter(|j| j.ending() == Some("Complete"));
        let latest = complete.filter_map(|j| j.time("completionTime")).max();
        let succeeded = latest.filter(|l| before.is_none_or(|b| *l > b));
        let last = started.filter(|s| Some(*s) != self.last());
        let new = json!({
            "active": if active.is_empty() { Value::Null } else { active.into() },
            "lastScheduleTime": last.map_or_else(
                || self.value["status"]["lastScheduleTime"].clone(), |t| meta::time::rfc3339(t).into()),
            "lastSuccessfulTime": succeeded.map_or_else(|| present.clone(), |t| meta::time::rfc3339(t).into()),
        });
        status::write(plan, &CRON_JOBS, self.object, self.value, &new);
    }
}
