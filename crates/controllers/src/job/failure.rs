//! When a Job ends: too many failures, too much time, its own policies, or enough successes.
//!
//! Must not write anything.

use jiff::SignedDuration;
use reconcile::Plan;
use serde_json::Value;

use super::pods::Member;
use super::tally::Tally;
use super::{Ending, Job, indexes};

/// What the Job's `podFailurePolicy` says of a failed pod.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    /// No rule, or one that says to count.
    Count,
    /// It does not count; the rule.
    Ignore(usize),
    /// Its index has failed; the rule.
    FailIndex(usize),
    /// The Job has failed; why.
    FailJob(String),
}

impl Job<'_> {
    /// Applies `podFailurePolicy` to a pod that has failed.
    pub(super) fn verdict(&self, member: &Member) -> Verdict {
        if !member.has_failed() {
            return Verdict::Count;
        }
        let rules = self.spec("podFailurePolicy")["rules"].as_array();
        for (i, rule) in rules.into_iter().flatten().enumerate() {
            let action = rule["action"].as_str().unwrap_or_default();
            let Some(why) = matching(rule, member) else { continue };
            return match action {
                "Ignore" => Verdict::Ignore(i),
                "FailIndex" => Verdict::FailIndex(i),
                "FailJob" => Verdict::FailJob(format!("{why} matching {action} rule at index {i}")),
                _ => Verdict::Count,
            };
        }
        Verdict::Count
    }

    /// Whether the Job is to end now, and how.
    pub(super) fn judge(&self, plan: &mut Plan, members: &[Member], tally: &Tally<'_>) -> Option<Ending> {
        let failed = self.failure(plan, members, tally);
        failed.or_else(|| self.success(members, tally))
    }

    fn failure(&self, plan: &mut Plan, members: &[Member], tally: &Tally<'_>) -> Option<Ending> {
        for member in members {
            if let Verdict::FailJob(message) = self.verdict(member) {
                return Some(Ending::failed("PodFailurePolicy", message));
            }
        }
        let per_index = self.number("backoffLimitPerIndex").is_some();
        let default = if per_index { i64::from(i32::MAX) } else { 6 };
        let limit = self.number("backoffLimit").unwrap_or(default);
        if tally.all_failed() > limit || self.restarts_exceed(limit, members) {
            return Some(Ending::failed(
                "BackoffLimitExceeded",
                "Job has reached the specified backoff limit",
            ));
        }
        if self.is_past_deadline(plan) {
            return Some(Ending::failed(
                "DeadlineExceeded",
                "Job was active longer than specified deadline",
            ));
        }
        if per_index && self.is_indexed() {
            let count = i64::try_from(tally.failed_indexes.len()).unwrap_or(i64::MAX);
            if self.number("maxFailedIndexes").is_some_and(|most| count > most) {
                let message = "Job has exceeded the specified maximal number of failed indexes";
                return Some(Ending::failed("MaxFailedIndexesExceeded", message));
            }
            if count > 0 && count + tally.succeeded >= self.number("completions").unwrap_or(0) {
                return Some(Ending::failed("FailedIndexes", "Job has failed indexes"));
            }
        }
        None
    }

    /// Where containers are restarted in place, their restarts count as failures.
    fn restarts_exceed(&self, limit: i64, members: &[Member]) -> bool {
        if self.spec("template")["spec"]["restartPolicy"] != "OnFailure" {
            return false;
        }
        let restarts: i64 = members
            .iter()
            .filter(|m| m.is_active())
            .flat_map(Member::containers)
            .map(|c| i64::from(c.restart_count))
            .sum();
        if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    fn is_past_deadline(&self, plan: &mut Plan) -> bool {
        let (Some(seconds), Some(start)) = (self.number("activeDeadlineSeconds"), self.started()) else {
            return false;
        };
        if self.is_suspended() {
            return false;
        }
        let left = SignedDuration::from_secs(seconds) - self.now.duration_since(start);
        if left.is_positive() {
            plan.again(left.unsigned_abs());
        }
        !left.is_positive()
    }

    fn success(&self, members: &[Member], tally: &Tally<'_>) -> Option<Ending> {
        if self.is_indexed() {
            let rules = self.spec("successPolicy")["rules"].as_array();
            for (i, rule) in rules.into_iter().flatten().enumerate() {
                if is_met(rule, tally) {
                    return Some(Ending::complete("SuccessPolicy", format!("Matched rules at index {i}")));
                }
            }
        }
        let succeeded = tally.all_succeeded();
        let busy = || members.iter().any(Member::is_active);
        let enough = match self.number("completions") {
            Some(completions) => succeeded >= completions,
            None => succeeded > 0 && !busy(),
        };
        enough.then(|| Ending::complete("CompletionsReached", "Reached expected number of succeeded pods"))
    }
}

/// Whether a rule of `successPolicy` is met.
fn is_met(rule: &Value, tally: &Tally<'_>) -> bool {
    let count = rule["succeededCount"].as_u64().and_then(|n| usize::try_from(n).ok());
    match rule["succeededIndexes"].as_str() {
        Some(text) => {
            let wanted = indexes::parse(text);
            let done = wanted.intersection(&tally.completed).count();
            done >= count.unwrap_or(wanted.len())
        }
        None => count.is_some_and(|n| tally.completed.len() >= n),
    }
}

/// What about a pod a rule of `podFailurePolicy` means, in words.
fn matching(rule: &Value, member: &Member) -> Option<String> {
    let pod = member.object.key();
    let codes = &rule["onExitCodes"];
    if codes.is_object() {
        let listed = |code: i32| codes["values"].as_array().into_iter().flatten().any(|v| *v == code);
        let wanted = |name: &str| codes["containerName"].as_str().is_none_or(|n| n == name);
        for container in member.containers().filter(|c| wanted(&c.name)) {
            let state = container.state.as_ref().and_then(|s| s.terminated.as_ref());
            let Some(code) = state.map(|t| t.exit_code).filter(|c| *c != 0) else {
                continue;
            };
            if listed(code) == (codes["operator"] == "In") {
                let name = &container.name;
                return Some(format!("Container {name} for pod {pod} failed with exit code {code}"));
            }
        }
        return None;
    }
    for wanted in rule["onPodConditions"].as_array().into_iter().flatten() {
        let kind = wanted["type"].as_str().unwrap_or_default();
        let status = wanted["status"].as_str().unwrap_or("True");
        let condition = crate::common::pod_condition(&member.pod, kind);
        if condition.is_some_and(|c| c.status == status) {
            return Some(format!("Pod {pod} has condition {kind}"));
        }
    }
    None
}
