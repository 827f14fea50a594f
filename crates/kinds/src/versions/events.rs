//! `events.k8s.io/v1` Event: the core event under other names.

use jiff::Timestamp;
use k8s_openapi::api::events::v1;
use meta::field::ErrorList;
use serde_json::Value;

use super::rename;
use crate::core::events::{COLUMNS, Event as Stored};
use crate::edit::set;
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

/// The kind.
pub(super) fn kind() -> Declared {
    names("events.k8s.io", "v1", "Event", "events", "event", &["ev"])
        .with(typed::<v1::Event>, COLUMNS, &Event)
        .fields(&[
            "regarding.kind",
            "regarding.namespace",
            "regarding.name",
            "regarding.uid",
            "regarding.apiVersion",
            "regarding.resourceVersion",
            "regarding.fieldPath",
            "reason",
            "reportingController",
            "type",
        ])
}

/// Names in the core group, and in this one.
const NAMES: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// From the core group.
pub(super) fn from_core(mut event: Value) -> Value {
    for (core, here) in NAMES {
        rename(&mut event, core, here);
    }
    set(&mut event, "apiVersion", "events.k8s.io/v1");
    // Required here, and null for events of old.
    crate::edit::default(&mut event, "eventTime", Value::Null);
    event
}

/// To the core group.
pub(super) fn to_core(mut event: Value) -> Value {
    for (core, here) in NAMES {
        rename(&mut event, here, core);
    }
    set(&mut event, "apiVersion", "v1");
    event
}

struct Event;

impl Strategy for Event {
    fn name_cell(&self, event: &Value) -> Option<Cell> {
        Stored.name_cell(event)
    }

    fn validate_create(&self, event: &Value) -> ErrorList {
        let mut errors = Stored.validate_create(&to_core(event.clone()));
        if event.get("eventTime").is_none_or(Value::is_null) {
            errors.required(&meta::field::Path::new("eventTime"), "");
        }
        if !["Normal", "Warning"].contains(&crate::edit::text(event, "type")) {
            let words = format!("has invalid value: {}", crate::edit::text(event, "type"));
            errors.invalid(&meta::field::Path::new("type"), "\"\"", words);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        Stored.validate_update(&to_core(new.clone()), &to_core(old.clone()))
    }

    fn row(&self, event: &Value, now: Timestamp) -> Vec<Cell> {
        Stored.row(&to_core(event.clone()), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn there_and_back() {
        let core = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": "e"},
            "involvedObject": {"kind": "Pod", "name": "p"}, "reason": "Started", "message": "m", "type": "Normal",
            "source": {"component": "kubelet"}, "firstTimestamp": "2026-01-01T00:00:00Z",
            "lastTimestamp": "2026-01-01T00:00:00Z", "count": 2, "reportingComponent": "kubelet",
            "reportingInstance": "n", "eventTime": null});
        let here = from_core(core.clone());
        assert_eq!(here["apiVersion"], "events.k8s.io/v1");
        assert_eq!(here["regarding"]["name"], "p");
        assert_eq!(here["note"], "m");
        assert_eq!(here["deprecatedCount"], 2);
        assert_eq!(here["reportingController"], "kubelet");
        assert!(here.get("message").is_none());
        assert_eq!(to_core(here), core);
    }

    #[test]
    fn more_is_required() {
        let errors = Event.validate_create(&json!({"metadata": {"namespace": "a"}, "regarding": {"namespace": "a"}}));
        crate::check::expect(&errors, "eventTime: Required value");
        crate::check::expect(&errors, "type: Invalid value: \"\": has invalid value: ");
    }
}
