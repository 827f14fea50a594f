//! Conditions, and status that is written only when it differs.

use jiff::Timestamp;
use meta::{Gvr, Object};
use reconcile::Plan;
use serde_json::{Map, Value, json};

/// Conditions of a status, edited in place with upstream's rules of time.
pub(crate) struct Conditions {
    list: Vec<Value>,
    now: String,
}

impl Conditions {
    /// Those that the object has.
    pub fn of(object: &Value, now: Timestamp) -> Self {
        let list = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        Conditions {
            list,
            now: meta::time::rfc3339(now),
        }
    }

    /// The condition of a type.
    pub fn get(&self, kind: &str) -> Option<&Value> {
        self.list.iter().find(|c| c["type"] == kind)
    }

    /// Whether a condition has this status.
    pub fn is(&self, kind: &str, status: &str) -> bool {
        self.get(kind).is_some_and(|c| c["status"] == status)
    }

    /// Reason of a condition; empty without one.
    pub fn reason(&self, kind: &str) -> &str {
        self.get(kind).and_then(|c| c["reason"].as_str()).unwrap_or_default()
    }

    /// Sets a condition; times change only with what they are about.
    pub fn set(&mut self, kind: &str, status: bool, reason: &str, message: &str) -> &mut Value {
        self.set_text(kind, if status { "True" } else { "False" }, reason, message)
    }

    /// Like [`Conditions::set`], with a status that may be `Unknown`.
    pub fn set_text(&mut self, kind: &str, status: &str, reason: &str, message: &str) -> &mut Value {
        let at = match self.list.iter().position(|c| c["type"] == kind) {
            Some(at) => at,
            None => {
                self.list.push(json!({"type": kind}));
                self.list.len() - 1
            }
        };
        let condition = &mut self.list[at];
        if condition["status"] != status {
            condition["lastTransitionTime"] = self.now.as_str().into();
        }
        condition["status"] = status.into();
        for (field, text) in [("reason", reason), ("message", message)] {
            if let (true, Some(map)) = (text.is_empty(), condition.as_object_mut()) {
                map.remove(field);
            } else {
                condition[field] = text.into();
            }
        }
        condition
    }

    /// Like [`Conditions::set`] for kinds whose conditions also carry `lastUpdateTime`.
    pub fn set_updated(&mut self, kind: &str, status: bool, reason: &str, message: &str) {
        let before = self.get(kind).cloned();
        let now = self.now.clone();
        let condition = self.set(kind, status, reason, message);
        if before.as_ref() != Some(condition) {
            condition["lastUpdateTime"] = now.into();
        }
    }

    /// Notes that a condition was looked at anew.
    pub fn stamp(&mut self, kind: &str, time: &str) {
        if let Some(condition) = self.list.iter_mut().find(|c| c["type"] == kind) {
            condition["lastUpdateTime"] = time.into();
        }
    }

    /// Removes a condition.
    pub fn remove(&mut self, kind: &str) {
        self.list.retain(|c| c["type"] != kind);
    }

    /// As JSON; null when there are none.
    pub fn into_value(self) -> Value {
        if self.list.is_empty() {
            Value::Null
        } else {
            Value::Array(self.list)
        }
    }
}

/// Adds a patch of the fields of `status` that differ from what the object has. A null removes.
pub(crate) fn write(plan: &mut Plan, gvr: &Gvr, object: &Object, value: &Value, status: &Value) {
    if let Some(changed) = changed(value, status) {
        plan.patch_status(gvr, object, json!({"status": changed}));
    }
}

/// Like [`write`], but only if nobody else has written the object meanwhile.
pub(crate) fn write_version(plan: &mut Plan, gvr: &Gvr, object: &Object, value: &Value, status: &Value) {
    if let Some(changed) = changed(value, status) {
        let version = object.resource_version().to_string();
        plan.patch_status(
            gvr,
            object,
            json!({"metadata": {"resourceVersion": version}, "status": changed}),
        );
    }
}

fn changed(value: &Value, status: &Value) -> Option<Map<String, Value>> {
    let mut changed = Map::new();
    for (field, wanted) in status.as_object().into_iter().flatten() {
        let present = value["status"].get(field).unwrap_or(&Value::Null);
        if present != wanted && !(is_zero(wanted) && present.is_null()) {
            changed.insert(field.clone(), wanted.clone());
        }
    }
    (!changed.is_empty()).then_some(changed)
}

/// Counts that are 0 are left out upstream; an absent one is no difference.
fn is_zero(value: &Value) -> bool {
    value.is_null() || *value == json!(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_change_with_what_they_are_about() {
        let object = json!({"status": {"conditions": [
            {"type": "Ready", "status": "True", "reason": "Up", "lastTransitionTime": "x"}]}});
        let mut c = Conditions::of(&object, Timestamp::UNIX_EPOCH);
        c.set("Ready", true, "StillUp", "");
        assert_eq!(c.get("Ready").unwrap()["lastTransitionTime"], "x");
        c.set("Ready", false, "Down", "because");
        assert_eq!(c.get("Ready").unwrap()["lastTransitionTime"], "1970-01-01T00:00:00Z");
        c.remove("Ready");
        assert_eq!(c.into_value(), Value::Null);
    }
}
