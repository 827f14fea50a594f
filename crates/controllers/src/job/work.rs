//! How many pods of a Job run, and which.
//!
//! Must not count those that have ended.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use kinds::resources::PODS;
use reconcile::Plan;

use super::Job;
use super::pods::Member;
use super::tally::Tally;
use crate::common::{fresh_name, phase};

/// Pods that one plan makes at most, as upstream.
const BURST: usize = 500;
/// How long after a failure a new pod is made; twice as long after each further one.
const FIRST_PAUSE: i64 = 10;
const LONGEST_PAUSE: i64 = 600;

impl Job<'_> {
    /// Deletes what still runs of a Job that ends; those that are deleted are counted as failed.
    pub(super) fn delete_all(&self, plan: &mut Plan, members: &[Member]) {
        for member in members.iter().filter(|m| m.is_active()) {
            self.delete(plan, member);
        }
    }

    /// Deletes pods that are not wanted any more; they do not count.
    fn dismiss(&self, plan: &mut Plan, member: &Member) {
        if member.is_tracked() {
            member.release(plan);
        }
        self.delete(plan, member);
    }

    /// Makes or deletes pods so that as many run as should.
    pub(super) fn work(&self, plan: &mut Plan, members: &[Member], tally: &Tally<'_>) {
        let mut active: Vec<&Member> = members.iter().filter(|m| m.is_active()).collect();
        if self.is_suspended() {
            for member in active {
                self.dismiss(plan, member);
            }
            return;
        }
        if self.is_indexed() {
            active = self.dismiss_doubles(plan, active, tally);
        }
        let running = i64::try_from(active.len()).unwrap_or(i64::MAX);
        let parallelism = self.number("parallelism").unwrap_or(1).max(0);
        let done = tally.all_succeeded();
        let wanted = match self.number("completions") {
            Some(completions) => {
                let failed = i64::try_from(tally.failed_indexes.len()).unwrap_or(0);
                (completions - done - failed).clamp(0, parallelism)
            }
            None if done > 0 => running.min(parallelism),
            None => parallelism,
        };
        if running > wanted {
            active.sort_by_cached_key(|m| useless_first(m));
            let surplus = usize::try_from(running - wanted).unwrap_or(0);
            for member in active.into_iter().take(surplus) {
                self.dismiss(plan, member);
            }
            return;
        }
        let going = members.iter().filter(|m| m.is_terminating()).count();
        let going = if self.waits_for_terminating() { going } else { 0 };
        let missing = usize::try_from(wanted - running).unwrap_or(0).saturating_sub(going);
        if missing == 0 {
            return;
        }
        if self.is_indexed() {
            self.create_indexed(plan, members, tally, missing);
        } else if let Some(pause) = self.pause(members.iter()) {
            plan.again(pause);
        } else {
            let prefix = format!("{}-", self.object.name());
            for name in self.free_names(&prefix).take(missing.min(BURST)) {
                self.create(plan, &name, None, 0);
            }
        }
    }

    fn free_names(&self, prefix: &str) -> impl Iterator<Item = String> {
        let names = (0..).map(move |i| fresh_name(prefix, self.object.uid(), self.now, i));
        names.filter(|n| self.view.get(&PODS, self.object.namespace(), n).is_none())
    }

    /// Of the pods of one index the oldest stays; indexes that are done or out of range have none.
    fn dismiss_doubles<'m>(&self, plan: &mut Plan, active: Vec<&'m Member>, tally: &Tally<'_>) -> Vec<&'m Member> {
        let completions = self.number("completions").unwrap_or(0);
        let mut by_index: BTreeMap<i64, Vec<&'m Member>> = BTreeMap::new();
        for member in active {
            let index = member.index().unwrap_or(i64::MAX);
            by_index.entry(index).or_default().push(member);
        }
        let mut kept = Vec::new();
        for (index, mut pods) in by_index {
            pods.sort_by_key(|m| (m.object.header().creation_timestamp.clone(), m.object.uid().to_owned()));
            let over =
                index >= completions || tally.completed.contains(&index) || tally.failed_indexes.contains(&index);
            let mut pods = pods.into_iter();
            if !over {
                kept.extend(pods.next());
            }
            for member in pods {
                self.dismiss(plan, member);
            }
        }
        kept
    }

    fn create_indexed(&self, plan: &mut Plan, members: &[Member], tally: &Tally<'_>, missing: usize) {
        let completions = self.number("completions").unwrap_or(0);
        let per_index = self.number("backoffLimitPerIndex").is_some();
        if !per_index && let Some(pause) = self.pause(members.iter()) {
            plan.again(pause);
            return;
        }
        let waited_for = |m: &&Member| m.is_active() || (m.is_terminating() && self.waits_for_terminating());
        let taken: BTreeSet<i64> = members.iter().filter(waited_for).filter_map(Member::index).collect();
        let is_free = |n: &i64| !taken.contains(n) && !tally.completed.contains(n) && !tally.failed_indexes.contains(n);
        let mut made = 0;
        for index in (0..completions).filter(is_free) {
            if made == missing.min(BURST) {
                break;
            }
            let before = || members.iter().filter(move |m| m.index() == Some(index));
            let mut failures = 0;
            if per_index {
                if let Some(pause) = self.pause(before()) {
                    plan.again(pause);
                    continue;
                }
                let counted = |m: &&Member| !m.is_active() && !m.has_succeeded() && !self.is_ignored(m);
                let spent = before().filter(counted).map(|m| m.failures_before() + 1);
                failures = spent.max().unwrap_or(0);
            }
            let prefix = format!("{}-{index}-", self.object.name());
            if let Some(name) = self.free_names(&prefix).next() {
                self.create(plan, &name, Some(index), failures);
                made += 1;
            }
        }
    }

    fn is_ignored(&self, member: &Member) -> bool {
        matches!(self.verdict(member), super::failure::Verdict::Ignore(_))
    }

    /// How long to wait before a new pod, after the failures since the last success.
    fn pause<'m>(&self, members: impl Iterator<Item = &'m Member>) -> Option<Duration> {
        let (mut failures, mut success): (Vec<Timestamp>, Option<Timestamp>) = (Vec::new(), None);
        for member in members {
            if member.has_succeeded() {
                success = success.max(member.ended());
            } else if member.has_failed() && !self.is_ignored(member) {
                failures.extend(member.ended());
            }
        }
        failures.retain(|t| success.is_none_or(|s| *t >= s));
        let last = failures.iter().max()?;
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
        let pause = (FIRST_PAUSE << doublings).min(LONGEST_PAUSE);
        let left = SignedDuration::from_secs(pause) - self.now.duration_since(*last);
        left.is_positive().then(|| left.unsigned_abs())
    }
}

/// Pods that go first when there are too many: unbound, pending, not ready, young.
fn useless_first(member: &Member) -> (bool, bool, bool, std::cmp::Reverse<String>) {
    let created = member.object.header().creation_timestamp.clone().unwrap_or_default();
    (
        member.is_bound(),
        phase(&member.pod) != "Pending",
        member.is_ready(),
        std::cmp::Reverse(created),
    )
}
