//! How replicas move from old ReplicaSets to the new one.

use std::cmp::Reverse;

use k8s_openapi::api::core::v1::Pod;
use kinds::resources::{PODS, REPLICA_SETS};
use reconcile::{Plan, View};

use super::{DESIRED, Work};
use crate::common::is_terminal;

impl Work {
    /// RollingUpdate. New pods first; then old pods that never became available; then as many of
    /// the old ones as may be missing.
    pub(super) fn roll(&mut self, plan: &mut Plan, view: &dyn View) {
        let Some(new) = self.new else {
            let replicas = self.room_for_new(0);
            return self.create_new(plan, replicas, view);
        };
        self.revise_new(plan);
        let has = self.sets[new].replicas;
        let target = if has > self.wanted() {
            self.wanted()
        } else {
            self.room_for_new(has)
        };
        self.scale(plan, new, target);
        if target != has {
            return;
        }
        self.shrink_old(plan, new);
        if self.is_complete() {
            self.clean_up(plan);
        }
    }

    /// Replicas that the new ReplicaSet may have, now that it has `has`.
    fn room_for_new(&self, has: i32) -> i32 {
        if self.recreate() {
            return self.wanted();
        }
        let total: i32 = self.sets.iter().map(|s| s.replicas).sum();
        let most = self.wanted() + self.max_surge();
        if total >= most {
            return has;
        }
        has + (most - total).min(self.wanted() - has).max(0)
    }

    fn shrink_old(&mut self, plan: &mut Plan, new: usize) {
        let old: Vec<usize> = self.old().filter(|i| self.sets[*i].replicas > 0).collect();
        if old.is_empty() {
            return;
        }
        let least = self.wanted() - self.max_unavailable();
        let total: i32 = self.sets.iter().map(|s| s.replicas).sum();
        let new_unavailable = self.sets[new].replicas - self.sets[new].available();
        let mut surplus = total - least - new_unavailable;
        if surplus <= 0 {
            return;
        }
        // Pods that are not available are no loss.
        for i in &old {
            let (has, available) = (self.sets[*i].replicas, self.sets[*i].available());
            let drop = (has - available).min(surplus).max(0);
            if drop > 0 {
                self.scale(plan, *i, has - drop);
                surplus -= drop;
            }
        }
        let available: i32 = self.sets.iter().map(|s| s.available().min(s.replicas)).sum();
        let mut spare = (available - least).min(surplus);
        for i in &old {
            if spare <= 0 {
                return;
            }
            let drop = self.sets[*i].replicas.min(spare);
            if drop > 0 {
                self.scale(plan, *i, self.sets[*i].replicas - drop);
                spare -= drop;
            }
        }
    }

    /// Recreate: nothing new before everything old has ended.
    pub(super) fn roll_by_recreation(&mut self, plan: &mut Plan, view: &dyn View) {
        let old: Vec<usize> = self.old().collect();
        let mut shrunk = false;
        for i in &old {
            shrunk |= self.sets[*i].replicas > 0;
            if self.sets[*i].replicas > 0 {
                self.scale(plan, *i, 0);
            }
        }
        let lives = |i: &usize| {
            let pods = view.owned(&PODS, self.sets[*i].object.uid());
            pods.iter().any(|p| p.view::<Pod>().is_ok_and(|pod| !is_terminal(&pod)))
        };
        if shrunk || old.iter().any(lives) {
            return self.revise_new(plan);
        }
        match self.new {
            None => self.create_new(plan, self.wanted(), view),
            Some(new) => {
                self.revise_new(plan);
                self.scale(plan, new, self.wanted());
                if self.is_complete() {
                    self.clean_up(plan);
                }
            }
        }
    }

    /// Scales the Deployment while several of its ReplicaSets have pods: each in proportion.
    pub(super) fn scale_in_proportion(&mut self, plan: &mut Plan) {
        let active: Vec<usize> = (0..self.sets.len()).filter(|i| self.sets[*i].replicas > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or_else(|| self.sets.len().checked_sub(1)),
            [one] => Some(*one),
            _ => None,
        };
        if let Some(only) = only {
            return self.scale(plan, only, self.wanted());
        }
        let saturated = |s: &super::Set| {
            s.replicas == self.wanted() && s.number(DESIRED) == Some(s.replicas.into()) && s.available() == s.replicas
        };
        if self.new.is_some_and(|n| saturated(&self.sets[n])) {
            for i in self.old().collect::<Vec<_>>() {
                self.scale(plan, i, 0);
            }
            return;
        }
        if self.recreate() {
            return;
        }
        let total: i32 = active.iter().map(|i| self.sets[*i].replicas).sum();
        let allowed = if self.wanted() > 0 {
            self.wanted() + self.max_surge()
        } else {
            0
        };
        let mut left = allowed - total;
        let growing = left > 0;
        // The largest first; of equals the newest when growing, the oldest when shrinking.
        let mut order = active.clone();
        order.sort_by_key(|i| {
            (
                Reverse(self.sets[*i].replicas),
                if growing { Reverse(*i) } else { Reverse(usize::MAX - i) },
            )
        });
        let mut targets: Vec<(usize, i32)> = Vec::new();
        for i in &order {
            let share = self.share(*i, allowed, left);
            left -= share;
            targets.push((*i, self.sets[*i].replicas + share));
        }
        if let Some(first) = targets.first_mut() {
            // What rounding left over.
            first.1 = (first.1 + left).max(0);
        }
        for (i, replicas) in targets {
            self.scale(plan, i, replicas);
        }
    }

    /// What a ReplicaSet gains or loses of `left`, in proportion to its size.
    fn share(&self, index: usize, allowed: i32, left: i32) -> i32 {
        let set = &self.sets[index];
        if set.replicas == 0 || left == 0 {
            return 0;
        }
        let before = set.number(super::MAXIMUM).filter(|m| *m > 0);
        let before = before
            .or_else(|| set.number(DESIRED))
            .unwrap_or_else(|| self.wanted().into())
            .max(1);
        let new = (f64::from(set.replicas) * f64::from(allowed) / before as f64).round() as i32;
        let share = new - set.replicas;
        if left > 0 {
            share.clamp(0, left)
        } else {
            share.clamp(left, 0)
        }
    }

    /// Whether only pods of the present template are left, and all of them are there.
    pub(super) fn is_complete(&self) -> bool {
        let Some(new) = self.new.map(|i| &self.sets[i]) else {
            return false;
        };
        let total: i32 = self.sets.iter().map(super::Set::actual).sum();
        new.actual() == self.wanted() && total == self.wanted() && new.available() == self.wanted()
    }

    /// Deletes old ReplicaSets beyond `spec.revisionHistoryLimit`.
    pub(super) fn clean_up(&self, plan: &mut Plan) {
        let limit = self
            .deployment
            .spec
            .as_ref()
            .and_then(|s| s.revision_history_limit)
            .unwrap_or(10);
        let empty = |i: &usize| {
            let s = &self.sets[*i];
            s.replicas == 0 && s.actual() == 0 && !s.object.is_deleting()
        };
        let mut old: Vec<usize> = self.old().filter(empty).collect();
        old.sort_by_key(|i| self.sets[*i].revision());
        let surplus = old.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        for i in old.iter().take(surplus) {
            plan.delete(&REPLICA_SETS, &self.sets[*i].object);
        }
    }
}
