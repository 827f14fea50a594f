//! Event.

use jiff::Timestamp;
use k8s_openapi::api::core::v1;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::check::named;
use crate::columns::{column, since, wide};
use crate::edit::text;
use crate::schemas::typed;
use crate::{Cell, Column, Declared, Strategy};

/// Columns of both versions.
pub(crate) const COLUMNS: &[Column] = &[
    column("Last Seen", "string"),
    column("Type", "string"),
    column("Reason", "string"),
    column("Object", "string"),
    wide("Subobject", "string"),
    wide("Source", "string"),
    column("Message", "string"),
    wide("First Seen", "string"),
    wide("Count", "string"),
    wide("Name", "string"),
];

/// The kind.
pub(super) fn kind() -> Declared {
    super::core_kind("Event", "events", "event", &["ev"])
        .with(typed::<v1::Event>, COLUMNS, &Event)
        .fields(&[
            "involvedObject.kind",
            "involvedObject.namespace",
            "involvedObject.name",
            "involvedObject.uid",
            "involvedObject.apiVersion",
            "involvedObject.resourceVersion",
            "involvedObject.fieldPath",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ])
}

/// What can be said of events in the form in which they are stored.
pub(crate) struct Event;

const LONGEST_TEXT: usize = 128;
const LONGEST_MESSAGE: usize = 1024;

impl Strategy for Event {
    fn name_cell(&self, _event: &Value) -> Option<Cell> {
        None
    }

    fn validate_create(&self, event: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let namespace = text(&event["metadata"], "namespace");
        let involved = text(&event["involvedObject"], "namespace");
        let system = matches!(namespace, "" | "default" | "kube-system");
        let new_style = event.get("eventTime").is_some_and(|t| !t.is_null());
        let fits = if involved.is_empty() {
            system
        } else {
            new_style || involved == namespace
        };
        if !fits {
            let at = Path::new("involvedObject").child("namespace");
            errors.invalid(&at, quoted(involved), "does not match event.namespace");
        }
        if new_style {
            check_new_style(event, &mut errors);
        }
        errors
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn row(&self, event: &Value, now: Timestamp) -> Vec<Cell> {
        let given = |pointer: &str| event.pointer(pointer).filter(|v| v.is_string());
        let first = since(given("/firstTimestamp").or(given("/eventTime")), now);
        let last = match given("/series/lastObservedTime").or(given("/lastTimestamp")) {
            Some(time) => since(Some(time), now),
            None => first.clone(),
        };
        let series = event.pointer("/series/count").and_then(Value::as_i64);
        let count = event["count"].as_i64().filter(|n| *n != 0).unwrap_or(1);
        let object = &event["involvedObject"];
        let kind = text(object, "kind").to_lowercase();
        let target = match text(object, "name") {
            "" => kind,
            name => format!("{kind}/{name}"),
        };
        vec![
            last.into(),
            text(event, "type").into(),
            text(event, "reason").into(),
            target.into(),
            text(object, "fieldPath").into(),
            source(event).into(),
            text(event, "message").trim().into(),
            first.into(),
            series.unwrap_or(count).into(),
            text(&event["metadata"], "name").into(),
        ]
    }

    fn field(&self, event: &Value, path: &str) -> String {
        if path == "source" {
            let component = text(&event["source"], "component");
            return first_of(component, text(event, "reportingComponent")).to_owned();
        }
        let found = path.split('.').try_fold(event, |v, part| v.get(part));
        found.and_then(Value::as_str).unwrap_or_default().to_owned()
    }
}

fn first_of<'a>(a: &'a str, b: &'a str) -> &'a str {
    if a.is_empty() { b } else { a }
}

fn source(event: &Value) -> String {
    let given = &event["source"];
    let component = first_of(text(given, "component"), text(event, "reportingComponent"));
    match first_of(text(given, "host"), text(event, "reportingInstance")) {
        "" => component.to_owned(),
        instance => format!("{component}, {instance}"),
    }
}

/// Events with `eventTime` have more that is required of them.
fn check_new_style(event: &Value, errors: &mut ErrorList) {
    let controller = Path::new("reportingController");
    match text(event, "reportingComponent") {
        "" => errors.required(&controller, ""),
        name => named(name, names::qualified_name, &controller, errors),
    }
    for field in ["reportingInstance", "action", "reason"] {
        let (value, at) = (text(event, field), Path::new(field));
        if value.is_empty() {
            errors.required(&at, "");
        }
        if value.len() > LONGEST_TEXT {
            errors.invalid(&at, "\"\"", format!("can have at most {LONGEST_TEXT} characters"));
        }
    }
    if text(event, "message").len() > LONGEST_MESSAGE {
        let words = format!("can have at most {LONGEST_MESSAGE} characters");
        errors.invalid(&Path::new("message"), "\"\"", words);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::expect;
    use serde_json::json;

    #[test]
    fn where_events_may_be() {
        let event = |namespace: &str, involved: &str| json!({"metadata": {"name": "e", "namespace": namespace}, "involvedObject": {"namespace": involved}});
        assert!(Event.validate_create(&event("a", "a")).is_empty());
        assert!(Event.validate_create(&event("default", "")).is_empty());
        let words = "involvedObject.namespace: Invalid value: \"b\": does not match event.namespace";
        expect(&Event.validate_create(&event("a", "b")), words);
        let mut new = event("a", "a");
        new["eventTime"] = "2026-01-01T00:00:00.000000Z".into();
        let errors = Event.validate_create(&new);
        expect(&errors, "reportingController: Required value");
        expect(&errors, "action: Required value");
    }

    #[test]
    fn cells() {
        let event = json!({"metadata": {"name": "e"}, "involvedObject": {"kind": "Pod", "name": "p"}, "message": " m ",
            "source": {"component": "c", "host": "h"}, "firstTimestamp": "1970-01-01T00:00:00Z"});
        let row = Event.row(&event, "1970-01-01T00:01:00Z".parse().unwrap());
        assert_eq!(row[0], "60s");
        assert_eq!(
            (&row[3], &row[5], &row[6]),
            (&json!("pod/p"), &json!("c, h"), &json!("m"))
        );
        assert_eq!(row[8], 1);
    }
}
