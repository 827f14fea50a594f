//! Jobs: pods that run until enough of them have succeeded.
//!
//! Pods carry a finalizer until they are counted: first their uids are written into the
//! status, then the finalizer goes, then they are added to the counters. Must not count a
//! pod in any other way.

mod failure;
mod indexes;
mod pods;
mod tally;
#[cfg(test)]
mod tests;
mod work;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use kinds::resources::{JOBS, PODS};
use meta::Object;
use meta::selector::LabelSelector;
use reconcile::{Action, Controller, EventKind, Input, Key, Plan, View, controller_key};
use serde_json::{Value, json};

use crate::common::{claim, selector, selectors_of_orphan};
use crate::status::{self, Conditions};
use pods::Member;
use tally::Tally;

/// The finalizer of pods that are not counted yet.
const TRACKING: &str = "batch.kubernetes.io/job-tracking";
const CONTROLLER_UID: &str = "batch.kubernetes.io/controller-uid";
const OURSELVES: &str = "kubernetes.io/job-controller";

/// See the module.
pub struct JobController;

impl Controller for JobController {
    fn name(&self) -> &'static str {
        "job-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let pods = Input {
            gvr: PODS,
            keys: |pod, view| {
                let mut keys = controller_key(pod, "Job");
                keys.extend(selectors_of_orphan(&JOBS, pod, view));
                keys
            },
        };
        vec![Input::primary(JOBS), pods]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let job = view.get(&JOBS, &key.namespace, &key.name);
        release_strangers(&mut plan, key, job.as_deref(), view);
        let Some(object) = job else { return plan };
        let value = object.to_value();
        if value["spec"]["managedBy"].as_str().is_some_and(|m| m != OURSELVES) {
            return plan;
        }
        let own = || LabelSelector::parse(&format!("{CONTROLLER_UID}={}", object.uid())).ok();
        let Some(selector) = selector(&object)
            .filter(|_| !value["spec"]["selector"].is_null())
            .or_else(own)
        else {
            return plan;
        };
        let members = claim(&mut plan, &PODS, &object, &selector, view);
        let members: Vec<Member> = members.into_iter().filter_map(Member::of).collect();
        let job = Job {
            object: &object,
            value: &value,
            view,
            now,
        };
        if object.is_deleting() || job.finished().is_some() {
            for member in members.iter().filter(|m| m.is_tracked()) {
                member.release(&mut plan);
            }
            job.expire(&mut plan);
        } else {
            job.plan(&mut plan, &members);
        }
        plan
    }
}

/// Pods of a Job that is gone are not counted by anybody.
fn release_strangers(plan: &mut Plan, key: &Key, job: Option<&Object>, view: &dyn View) {
    if job.is_some() {
        return;
    }
    for pod in view.list(&PODS, &key.namespace) {
        let owned = pod.controller().is_some_and(|o| o.kind == "Job" && o.name == key.name);
        if owned && let Some(member) = Member::of(pod).filter(Member::is_tracked) {
            member.release(plan);
        }
    }
}

/// A Job with what a plan looks at.
struct Job<'a> {
    object: &'a Arc<Object>,
    value: &'a Value,
    view: &'a dyn View,
    now: Timestamp,
}

/// How a Job ends.
#[derive(Clone, Debug, PartialEq)]
struct Ending {
    failed: bool,
    reason: String,
    message: String,
}

impl Ending {
    fn failed(reason: &str, message: impl Into<String>) -> Self {
        Ending {
            failed: true,
            reason: reason.to_owned(),
            message: message.into(),
        }
    }

    fn complete(reason: &str, message: impl Into<String>) -> Self {
        Ending {
            failed: false,
            ..Ending::failed(reason, message)
        }
    }

    /// The condition that announces it.
    fn announcement(&self) -> &'static str {
        if self.failed {
            "FailureTarget"
        } else {
            "SuccessCriteriaMet"
        }
    }
}

impl Job<'_> {
    fn spec(&self, field: &str) -> &Value {
        &self.value["spec"][field]
    }

    fn number(&self, field: &str) -> Option<i64> {
        self.spec(field).as_i64()
    }

    fn is_indexed(&self) -> bool {
        self.spec("completionMode") == "Indexed"
    }

    fn is_suspended(&self) -> bool {
        *self.spec("suspend") == true
    }

    /// Whether pods that are going are waited for, and only those that have failed count.
    fn waits_for_terminating(&self) -> bool {
        match self.spec("podReplacementPolicy").as_str() {
            Some(policy) => policy == "Failed",
            None => !self.spec("podFailurePolicy").is_null(),
        }
    }

    /// The condition under which it ended.
    fn finished(&self) -> Option<&Value> {
        let conditions = self.value["status"]["conditions"].as_array()?;
        let last = |c: &&Value| (c["type"] == "Complete" || c["type"] == "Failed") && c["status"] == "True";
        conditions.iter().find(last)
    }

    /// Deletes a finished Job when its time is over.
    fn expire(&self, plan: &mut Plan) {
        let (Some(ttl), Some(end)) = (self.number("ttlSecondsAfterFinished"), self.finished()) else {
            return;
        };
        let end = end["lastTransitionTime"].as_str().and_then(meta::time::parse);
        let Some(end) = end.filter(|_| !self.object.is_deleting()) else {
            return;
        };
        let left = SignedDuration::from_secs(ttl) - self.now.duration_since(end);
        if left.is_positive() {
            plan.again(left.unsigned_abs());
        } else {
            plan.delete(&JOBS, self.object);
        }
    }

    fn started(&self) -> Option<Timestamp> {
        self.value["status"]["startTime"].as_str().and_then(meta::time::parse)
    }

    fn plan(&self, plan: &mut Plan, members: &[Member]) {
        let mut tally = Tally::of(self, members);
        let mut conditions = Conditions::of(self.value, self.now);
        let mut events = Vec::new();
        let start = self.note_suspension(&mut conditions, &mut events);
        let ending = self
            .announced(&conditions)
            .or_else(|| self.judge(plan, members, &tally));
        let going = |m: &&Member| m.is_active() || m.is_terminating();
        let mut end_time = Value::Null;
        if let Some(ending) = &ending {
            tally.close();
            conditions.set(ending.announcement(), true, &ending.reason, &ending.message);
            if members.iter().find(going).is_none() && tally.is_settled() {
                let kind = if ending.failed { "Failed" } else { "Complete" };
                conditions.set(kind, true, &ending.reason, &ending.message);
                if ending.failed {
                    events.push((EventKind::Warning, event_reason(&ending.reason), ending.message.clone()));
                } else {
                    end_time = meta::time::rfc3339(self.now).into();
                    events.push((EventKind::Normal, "Completed", "Job completed".to_owned()));
                }
            }
        }
        self.write_status(plan, members, &tally, conditions, start, end_time);
        for (kind, reason, message) in events {
            plan.event(self.object, kind, reason, message);
        }
        for member in &tally.release {
            member.release(plan);
        }
        match ending {
            Some(_) => self.delete_all(plan, members),
            None => self.work(plan, members, &tally),
        }
    }

    /// How it was said that it would end.
    fn announced(&self, conditions: &Conditions) -> Option<Ending> {
        let known = |kind: &str| conditions.get(kind).filter(|c| c["status"] == "True");
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        let failed = known("FailureTarget");
        let condition = failed.or_else(|| known("SuccessCriteriaMet"))?;
        Some(Ending {
            failed: failed.is_some(),
            reason: text(condition, "reason"),
            message: text(condition, "message"),
        })
    }

    /// Conditions and start time as suspension has them.
    fn note_suspension(
        &self,
        conditions: &mut Conditions,
        events: &mut Vec<(EventKind, &'static str, String)>,
    ) -> Value {
        let now = || Value::from(meta::time::rfc3339(self.now));
        let suspended = conditions.is("Suspended", "True");
        if self.is_suspended() {
            if !suspended {
                conditions.set("Suspended", true, "JobSuspended", "Job suspended");
                events.push((EventKind::Normal, "Suspended", "Job suspended".to_owned()));
            }
        } else if suspended {
            conditions.set("Suspended", false, "JobResumed", "Job resumed");
            events.push((EventKind::Normal, "Resumed", "Job resumed".to_owned()));
            return now();
        } else if self.started().is_none() {
            return now();
        }
        self.value["status"]["startTime"].clone()
    }

    fn write_status(
        &self,
        plan: &mut Plan,
        members: &[Member],
        tally: &Tally<'_>,
        conditions: Conditions,
        start: Value,
        end: Value,
    ) {
        let count = |f: fn(&Member) -> bool| members.iter().filter(|m| f(m)).count();
        let mut new = json!({
            "active": count(Member::is_active),
            "ready": count(Member::is_ready),
            "terminating": count(Member::is_terminating),
            "succeeded": tally.succeeded,
            "failed": tally.failed,
            "uncountedTerminatedPods": tally.uncounted_patch(self.value),
            "startTime": start,
            "conditions": conditions.into_value(),
        });
        if !end.is_null() {
            new["completionTime"] = end;
        }
        if self.is_indexed() {
            let text = indexes::print(&tally.completed);
            new["completedIndexes"] = if text.is_empty() { Value::Null } else { text.into() };
        }
        if self.number("backoffLimitPerIndex").is_some() {
            new["failedIndexes"] = indexes::print(&tally.failed_indexes).into();
        }
        let before = plan.actions.len();
        status::write(plan, &JOBS, self.object, self.value, &new);
        // Counted from an old state, pods would count twice.
        if plan.actions.len() > before
            && let Some(Action::Patch { patch, .. }) = plan.actions.last_mut()
        {
            patch["metadata"]["resourceVersion"] = self.object.resource_version().to_string().into();
        }
    }
}

/// The reason of the Event for a failed Job: that of its condition.
fn event_reason(reason: &str) -> &'static str {
    const KNOWN: [&str; 5] = [
        "BackoffLimitExceeded",
        "DeadlineExceeded",
        "PodFailurePolicy",
        "FailedIndexes",
        "MaxFailedIndexesExceeded",
    ];
    KNOWN.into_iter().find(|k| *k == reason).unwrap_or("Failed")
}
