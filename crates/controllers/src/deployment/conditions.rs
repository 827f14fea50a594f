//! What a Deployment's status says.

use std::time::Duration;

use kinds::resources::DEPLOYMENTS;
use reconcile::Plan;
use serde_json::{Value, json};

use super::{Set, Work};
use crate::status::{self, Conditions};

impl Work {
    /// Writes the status into `plan`.
    pub(super) fn write_status(&self, plan: &mut Plan) {
        let total: i32 = self.sets.iter().map(Set::actual).sum();
        let ready: i32 = self.sets.iter().map(Set::ready).sum();
        let available: i32 = self.sets.iter().map(Set::available).sum();
        let updated = self.new.map_or(0, |i| self.sets[i].actual());
        // What was asked for counts too: pods that could not even be made are unavailable.
        let asked: i32 = self.sets.iter().map(|s| s.replicas).sum();
        let unavailable = (asked.max(total) - available).max(0);
        let mut conditions = Conditions::of(&self.value, self.now);
        let least = self.wanted() - self.max_unavailable();
        if available >= least {
            let message = "Deployment has minimum availability.";
            conditions.set_updated("Available", true, "MinimumReplicasAvailable", message);
        } else {
            let message = "Deployment does not have minimum availability.";
            conditions.set_updated("Available", false, "MinimumReplicasUnavailable", message);
        }
        let counts = [total, updated, ready, available, unavailable];
        self.progress(plan, &mut conditions, counts);
        let status = json!({
            "observedGeneration": self.object.header().generation,
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available,
            "unavailableReplicas": unavailable,
            "conditions": conditions.into_value(),
        });
        status::write(plan, &DEPLOYMENTS, &self.object, &self.value, &status);
    }

    fn progress(&self, plan: &mut Plan, conditions: &mut Conditions, counts: [i32; 5]) {
        let deadline = self.deployment.spec.as_ref().and_then(|s| s.progress_deadline_seconds);
        // The greatest number means: no deadline.
        let Some(deadline) = deadline.filter(|d| *d != i32::MAX) else {
            return conditions.remove("Progressing");
        };
        if self.paused() {
            if conditions.reason("Progressing") != "DeploymentPaused" {
                let status = conditions.get("Progressing").is_none_or(|c| c["status"] != "False");
                let status = if status { "Unknown" } else { "False" };
                conditions.set_text("Progressing", status, "DeploymentPaused", "Deployment is paused");
                touch(conditions, self);
            }
            return;
        }
        if conditions.reason("Progressing") == "DeploymentPaused" {
            conditions.set_text("Progressing", "Unknown", "DeploymentResumed", "Deployment is resumed");
            touch(conditions, self);
        }
        let Some(new) = self.new.map(|i| &self.sets[i]) else {
            if plan
                .actions
                .iter()
                .any(|a| matches!(a, reconcile::Action::Create { .. }))
            {
                let name = plan.actions.iter().find_map(created_name).unwrap_or_default();
                let message = format!("Created new replica set \"{name}\"");
                conditions.set_updated("Progressing", true, "NewReplicaSetCreated", &message);
                plan.again(seconds(deadline));
            }
            return;
        };
        let name = new.object.name();
        let before = &self.value["status"];
        let count = |f: &str| before[f].as_i64().unwrap_or(0);
        let [total, updated, ready, available, _] = counts.map(i64::from);
        let old = total - updated;
        let old_before = count("replicas") - count("updatedReplicas");
        let moved = updated > count("updatedReplicas")
            || old < old_before
            || ready > count("readyReplicas")
            || available > count("availableReplicas");
        let complete = self.is_complete();
        let was_complete = conditions.reason("Progressing") == "NewReplicaSetAvailable"
            && count("observedGeneration") == self.object.header().generation;
        if complete {
            let message = format!("ReplicaSet \"{name}\" has successfully progressed.");
            conditions.set_updated("Progressing", true, "NewReplicaSetAvailable", &message);
        } else if moved || conditions.get("Progressing").is_none() || self.begins(conditions) {
            if was_complete && !moved {
                return;
            }
            let message = format!("ReplicaSet \"{name}\" is progressing.");
            conditions.set("Progressing", true, "ReplicaSetUpdated", &message);
            touch(conditions, self);
            plan.again(seconds(deadline));
        } else if conditions.reason("Progressing") != "NewReplicaSetAvailable" {
            let since = conditions.get("Progressing").and_then(|c| c["lastUpdateTime"].as_str());
            let since = since.and_then(meta::time::parse).unwrap_or(self.now);
            let left = i64::from(deadline) - self.now.duration_since(since).as_secs();
            if left > 0 {
                plan.again(seconds(left.try_into().unwrap_or(deadline)));
            } else {
                let message = format!("ReplicaSet \"{name}\" has timed out progressing.");
                conditions.set_updated("Progressing", false, "ProgressDeadlineExceeded", &message);
            }
        }
    }

    /// Whether a rollout begins: the last one had come to its end, and now there is another template.
    fn begins(&self, conditions: &Conditions) -> bool {
        let Some(new) = self.new.map(|i| &self.sets[i]) else {
            return false;
        };
        let ended = matches!(
            conditions.reason("Progressing"),
            "NewReplicaSetAvailable" | "ProgressDeadlineExceeded"
        );
        let told = conditions
            .get("Progressing")
            .and_then(|c| c["message"].as_str())
            .unwrap_or_default();
        ended && !told.contains(&format!("\"{}\"", new.object.name()))
    }
}

fn touch(conditions: &mut Conditions, work: &Work) {
    let now = meta::time::rfc3339(work.now);
    conditions.stamp("Progressing", &now);
}

fn seconds(n: i32) -> Duration {
    Duration::from_secs(u64::try_from(n).unwrap_or(0) + 1)
}

fn created_name(action: &reconcile::Action) -> Option<String> {
    match action {
        reconcile::Action::Create { object, .. } => Some(match &object["metadata"]["name"] {
            Value::String(name) => name.clone(),
            _ => String::new(),
        }),
        _ => None,
    }
}
