//! How the ended pods of a Job are counted, each exactly once.
//!
//! Must not create or delete pods.

use std::collections::{BTreeSet, HashMap};

use serde_json::{Map, Value, json};

use super::failure::Verdict;
use super::pods::Member;
use super::{Job, indexes};

/// Pods noted in the status at once at most, as upstream.
const MOST_NOTED: usize = 500;

/// The counters as they will be, and which pods may go.
pub(super) struct Tally<'a> {
    /// `status.succeeded`.
    pub succeeded: i64,
    /// `status.failed`.
    pub failed: i64,
    /// Indexes that are done.
    pub completed: BTreeSet<i64>,
    /// Indexes that have failed too often.
    pub failed_indexes: BTreeSet<i64>,
    /// Uids that are noted but not added to the counters.
    noted: [Vec<String>; 2],
    /// Pods whose finalizer is to go.
    pub release: Vec<&'a Member>,
    /// Pods that stay for now although they are noted.
    held: Vec<&'a Member>,
    /// Whether pods are left that are not even noted.
    rest: bool,
}

const FIELDS: [&str; 2] = ["succeeded", "failed"];

impl<'a> Tally<'a> {
    pub fn of(job: &Job<'_>, members: &'a [Member]) -> Self {
        let status = &job.value["status"];
        let set = |field: &str| indexes::parse(status[field].as_str().unwrap_or_default());
        let mut tally = Tally {
            succeeded: status["succeeded"].as_i64().unwrap_or(0),
            failed: status["failed"].as_i64().unwrap_or(0),
            completed: set("completedIndexes"),
            failed_indexes: set("failedIndexes"),
            noted: [Vec::new(), Vec::new()],
            release: Vec::new(),
            held: Vec::new(),
            rest: false,
        };
        tally.flush(status, members);
        tally.note(job, members);
        if job.is_indexed() {
            let completions = job.number("completions").unwrap_or(0);
            tally.completed.retain(|n| *n < completions);
            tally.succeeded = i64::try_from(tally.completed.len()).unwrap_or(i64::MAX);
        }
        tally
    }

    /// Pods that were noted and have lost their finalizer are added to the counters.
    fn flush(&mut self, status: &Value, members: &[Member]) {
        let by_uid: HashMap<&str, &Member> = members.iter().map(|m| (m.object.uid(), m)).collect();
        let uncounted = &status["uncountedTerminatedPods"];
        for (i, field) in FIELDS.iter().enumerate() {
            let uids = uncounted[field].as_array().into_iter().flatten();
            for uid in uids.filter_map(Value::as_str) {
                if by_uid.get(uid).is_some_and(|m| m.is_tracked()) {
                    self.noted[i].push(uid.to_owned());
                } else if i == 0 {
                    self.succeeded += 1;
                } else {
                    self.failed += 1;
                }
            }
        }
    }

    fn note(&mut self, job: &Job<'_>, members: &'a [Member]) {
        for member in members.iter().filter(|m| m.is_tracked()) {
            let uid = member.object.uid();
            if self.noted.iter().flatten().any(|u| u == uid) {
                self.release.push(member);
                continue;
            }
            // One that never had a node has nobody to say that it failed.
            let lost = member.is_terminating() && (!job.waits_for_terminating() || !member.is_bound());
            if !member.has_succeeded() && !member.has_failed() && !lost {
                continue;
            }
            if self.release.len() >= MOST_NOTED {
                self.rest = true;
                continue;
            }
            if member.has_succeeded() {
                self.note_success(job, member);
            } else {
                self.note_failure(job, member);
            }
        }
        self.hold_back(job, members);
    }

    fn note_success(&mut self, job: &Job<'_>, member: &'a Member) {
        if job.is_indexed() {
            let index = member.index().filter(|n| !self.failed_indexes.contains(n));
            self.completed.extend(index);
        } else {
            self.noted[0].push(member.object.uid().to_owned());
        }
        self.release.push(member);
    }

    fn note_failure(&mut self, job: &Job<'_>, member: &'a Member) {
        let verdict = job.verdict(member);
        if !matches!(verdict, Verdict::Ignore(_)) {
            self.noted[1].push(member.object.uid().to_owned());
            if let (Some(limit), Some(index)) = (job.number("backoffLimitPerIndex"), member.index()) {
                let spent = member.failures_before() >= limit || matches!(verdict, Verdict::FailIndex(_));
                if spent && !self.completed.contains(&index) {
                    self.failed_indexes.insert(index);
                }
            }
        }
        self.release.push(member);
    }

    /// The last failed pod of an index stays until another takes its place: it knows how many
    /// have failed.
    fn hold_back(&mut self, job: &Job<'_>, members: &[Member]) {
        if job.number("backoffLimitPerIndex").is_none() {
            return;
        }
        let mut newest: HashMap<i64, i64> = HashMap::new();
        for member in members {
            if let Some(index) = member.index() {
                let n = newest.entry(index).or_insert(-1);
                *n = (*n).max(member.failures_before() * 2 + i64::from(member.is_active()));
            }
        }
        let (completed, failed) = (&self.completed, &self.failed_indexes);
        let goes = |m: &&Member| {
            let Some(index) = m.index() else { return true };
            let settled = completed.contains(&index) || failed.contains(&index);
            settled || newest.get(&index).is_some_and(|n| *n > m.failures_before() * 2)
        };
        (self.release, self.held) = std::mem::take(&mut self.release).into_iter().partition(goes);
    }

    /// Lets go of pods that stayed for a successor which will not come.
    pub fn close(&mut self) {
        self.release.append(&mut self.held);
    }

    /// All that have failed, noted ones included.
    pub fn all_failed(&self) -> i64 {
        self.failed + i64::try_from(self.noted[1].len()).unwrap_or(0)
    }

    /// All that have succeeded, noted ones included.
    pub fn all_succeeded(&self) -> i64 {
        self.succeeded + i64::try_from(self.noted[0].len()).unwrap_or(0)
    }

    /// Whether every ended pod is in the counters.
    pub fn is_settled(&self) -> bool {
        self.noted.iter().all(Vec::is_empty) && !self.rest
    }

    /// `status.uncountedTerminatedPods` as a merge patch; the present value if nothing changes.
    pub fn uncounted_patch(&self, job: &Value) -> Value {
        let present = &job["status"]["uncountedTerminatedPods"];
        let mut clean = Map::new();
        let mut patch = Map::new();
        for (field, uids) in FIELDS.iter().zip(&self.noted) {
            if uids.is_empty() {
                patch.insert((*field).to_owned(), Value::Null);
            } else {
                clean.insert((*field).to_owned(), json!(uids));
                patch.insert((*field).to_owned(), json!(uids));
            }
        }
        if present.as_object().is_some_and(|p| *p == clean) {
            return present.clone();
        }
        if clean.is_empty() && present.is_null() {
            return json!({});
        }
        Value::Object(patch)
    }
}
