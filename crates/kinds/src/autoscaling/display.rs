//! The TARGETS column of autoscalers.

use serde_json::Value;

use crate::check::{has, quantity};
use crate::edit::{items, text};

const UNKNOWN: &str = "<unknown>";

/// What is measured against what is wanted, two metrics at most.
pub(super) fn metrics(spec: &Value, status: &Value) -> String {
    const SHOWN: usize = 2;
    let current: Vec<&Value> = items(status, "currentMetrics").collect();
    let all: Vec<String> = items(spec, "metrics")
        .enumerate()
        .map(|(i, metric)| one(metric, current.get(i).copied().unwrap_or(&Value::Null)))
        .collect();
    match all.len() {
        0 => "<none>".to_owned(),
        1..=SHOWN => all.join(", "),
        n => format!("{} + {} more...", all[..SHOWN].join(", "), n - SHOWN),
    }
}

fn amount(value: &Value) -> String {
    quantity(value).map_or_else(|| UNKNOWN.to_owned(), |q| q.to_string())
}

fn one(metric: &Value, status: &Value) -> String {
    let kind = text(metric, "type");
    let Some((_, field)) = super::checks::SOURCES.iter().find(|(k, _)| *k == kind) else {
        return "<unknown type>".to_owned();
    };
    let (target, current) = (&metric[*field]["target"], &status[*field]["current"]);
    let name = text(&metric[*field], "name");
    let average = has(target, "averageValue");
    let averages = || {
        format!(
            "{}/{}",
            amount(&current["averageValue"]),
            amount(&target["averageValue"])
        )
    };
    match kind {
        "Pods" => averages(),
        "External" | "Object" if average => format!("{} (avg)", averages()),
        "External" | "Object" => format!("{}/{}", amount(&current["value"]), amount(&target["value"])),
        _ if average => format!("{name}: {}", averages()),
        _ => {
            let percent = |value: &Value, none: &str| match value["averageUtilization"].as_i64() {
                Some(n) => format!("{n}%"),
                None => none.to_owned(),
            };
            format!("{name}: {}/{}", percent(current, UNKNOWN), percent(target, "<auto>"))
        }
    }
}
