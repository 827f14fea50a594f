//! Cells of tables: what `kubectl get` prints.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{Cell, Column, Text};

/// A column shown always.
pub(crate) const fn column(name: &'static str, kind: &'static str) -> Column {
    Column {
        name: Text::Borrowed(name),
        kind: Text::Borrowed(kind),
        format: Text::Borrowed(""),
        priority: 0,
        description: Text::Borrowed(name),
    }
}

/// A column shown always, with a format.
pub(crate) const fn formatted(name: &'static str, kind: &'static str, format: &'static str) -> Column {
    Column {
        name: Text::Borrowed(name),
        kind: Text::Borrowed(kind),
        format: Text::Borrowed(format),
        priority: 0,
        description: Text::Borrowed(name),
    }
}

/// A column shown with `-o wide`.
pub(crate) const fn wide(name: &'static str, kind: &'static str) -> Column {
    Column {
        name: Text::Borrowed(name),
        kind: Text::Borrowed(kind),
        format: Text::Borrowed(""),
        priority: 1,
        description: Text::Borrowed(name),
    }
}

/// The column that every kind has.
pub(crate) const AGE: Column = column("Age", "string");

/// Time since `metadata.creationTimestamp`.
pub(crate) fn age(object: &Value, now: Timestamp) -> Cell {
    since(object.pointer("/metadata/creationTimestamp"), now).into()
}

/// Time since a timestamp field, or `<unknown>`.
pub(crate) fn since(time: Option<&Value>, now: Timestamp) -> String {
    match time.and_then(Value::as_str).and_then(meta::time::parse) {
        Some(then) => meta::time::human_duration(now.as_second() - then.as_second()),
        None => "<unknown>".to_owned(),
    }
}

/// Text at a pointer, or `<none>`.
pub(crate) fn text_or_none(object: &Value, pointer: &str) -> Cell {
    match object.pointer(pointer) {
        Some(Value::String(s)) if !s.is_empty() => s.as_str().into(),
        Some(Value::Number(n)) => n.to_string().into(),
        Some(Value::Bool(b)) => b.to_string().into(),
        _ => "<none>".into(),
    }
}

/// Labels as `a=b,c=d`, or `<none>`.
pub(crate) fn labels(map: Option<&Value>) -> String {
    let empty = Map::new();
    let map = map.and_then(Value::as_object).unwrap_or(&empty);
    let list: Vec<String> = map
        .iter()
        .map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or_default()))
        .collect();
    if list.is_empty() {
        "<none>".to_owned()
    } else {
        list.join(",")
    }
}

/// A selector in its object form as text, or `<none>`.
pub(crate) fn selector(value: Option<&Value>) -> Cell {
    let text = value
        .and_then(|v| meta::LabelSelector::from_object(v).ok())
        .map(|s| s.to_string())
        .unwrap_or_default();
    if text.is_empty() { "<none>".into() } else { text.into() }
}

/// Names and images of a pod template's containers.
pub(crate) fn containers(pod_spec: Option<&Value>) -> (String, String) {
    let list = pod_spec.and_then(|s| s.get("containers")).and_then(Value::as_array);
    let field = |f: &str| {
        let all: Vec<&str> = list.into_iter().flatten().map(|c| crate::edit::text(c, f)).collect();
        all.join(",")
    };
    (field("name"), field("image"))
}

/// Up to three of a list, and how many more there are; `none` when there is nothing.
pub(crate) fn some_of(all: Vec<String>, none: &str) -> String {
    const SHOWN: usize = 3;
    match all.len() {
        0 => none.to_owned(),
        1..=SHOWN => all.join(","),
        n => format!("{} + {} more...", all[..SHOWN].join(","), n - SHOWN),
    }
}
