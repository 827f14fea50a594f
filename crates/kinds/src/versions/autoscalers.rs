//! `autoscaling/v1` HorizontalPodAutoscaler: one target for the CPU in fields; what else
//! `v2` has, in annotations.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v1;
use meta::field::ErrorList;
use serde_json::{Map, Value, json};

use super::rename;
use crate::autoscaling::{Autoscaler as Stored, COLUMNS};
use crate::check::has;
use crate::edit::{default, items, object, set, text};
use crate::plain::names;
use crate::schemas::typed;
use crate::{Cell, Declared, Strategy};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// The kind.
pub(super) fn kind() -> Declared {
    names(
        "autoscaling",
        "v1",
        "HorizontalPodAutoscaler",
        "horizontalpodautoscalers",
        "horizontalpodautoscaler",
        &["hpa"],
    )
    .with(typed::<v1::HorizontalPodAutoscaler>, COLUMNS, &Autoscaler)
    .status()
}

struct Autoscaler;

impl Strategy for Autoscaler {
    fn default(&self, scaler: &mut Value) {
        if let Some(spec) = object(scaler, "spec") {
            default(spec, "minReplicas", 1);
        }
    }

    fn validate_create(&self, scaler: &Value) -> ErrorList {
        Stored.validate_create(&to_v2(scaler.clone()))
    }

    fn validate_update(&self, new: &Value, _: &Value) -> ErrorList {
        self.validate_create(new)
    }

    fn validate_status_update(&self, new: &Value, old: &Value) -> ErrorList {
        Stored.validate_status_update(new, old)
    }

    fn row(&self, scaler: &Value, now: Timestamp) -> Vec<Cell> {
        Stored.row(&to_v2(scaler.clone()), now)
    }
}

/// Whether a metric is what `targetCPUUtilizationPercentage` says.
fn is_cpu(metric: &Value, part: &str) -> bool {
    let resource = &metric["resource"];
    text(metric, "type") == "Resource" && text(resource, "name") == "cpu" && has(&resource[part], "averageUtilization")
}

/// From `v2`.
pub(super) fn from_v2(mut scaler: Value) -> Value {
    set(&mut scaler, "apiVersion", "autoscaling/v1");
    let mut notes = Map::new();
    let mut note = |key: &str, value: Value| {
        notes.insert(key.to_owned(), value.to_string().into());
    };
    if let Some(spec) = scaler.get_mut("spec").filter(|s| s.is_object()) {
        let metrics: Vec<Value> = items(spec, "metrics").cloned().collect();
        crate::edit::drop(spec, "metrics");
        if let Some(cpu) = metrics.iter().find(|m| is_cpu(m, "target")) {
            let percent = cpu["resource"]["target"]["averageUtilization"].clone();
            set(spec, "targetCPUUtilizationPercentage", percent);
        }
        let others = metrics.into_iter().filter(|m| !is_cpu(m, "target"));
        let others: Vec<Value> = others.map(|m| flatten(m, "target", "target")).collect();
        if !others.is_empty() {
            note(METRICS, others.into());
        }
        if let Some(behavior) = spec.as_object_mut().and_then(|s| s.remove("behavior"))
            && behavior.is_object()
        {
            note(BEHAVIOR, with_first(behavior, |c| c.to_ascii_uppercase()));
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|s| s.is_object()) {
        let metrics: Vec<Value> = items(status, "currentMetrics").cloned().collect();
        crate::edit::drop(status, "currentMetrics");
        if let Some(cpu) = metrics.iter().find(|m| is_cpu(m, "current")) {
            let percent = cpu["resource"]["current"]["averageUtilization"].clone();
            set(status, "currentCPUUtilizationPercentage", percent);
        }
        if !metrics.is_empty() {
            let all: Vec<Value> = metrics.into_iter().map(|m| flatten(m, "current", "current")).collect();
            note(CURRENT, all.into());
        }
        if let Some(conditions) = status.as_object_mut().and_then(|s| s.remove("conditions"))
            && conditions.as_array().is_some_and(|c| !c.is_empty())
        {
            note(CONDITIONS, conditions);
        }
    }
    if !notes.is_empty()
        && let Some(annotations) = object(&mut scaler, "metadata").and_then(|m| object(m, "annotations"))
    {
        for (key, value) in notes {
            set(annotations, &key, value);
        }
    }
    scaler
}

/// To `v2`.
pub(super) fn to_v2(mut scaler: Value) -> Value {
    set(&mut scaler, "apiVersion", "autoscaling/v2");
    let metrics = take_note(&mut scaler, METRICS);
    let current = take_note(&mut scaler, CURRENT);
    let conditions = take_note(&mut scaler, CONDITIONS);
    let behavior = take_note(&mut scaler, BEHAVIOR);
    let lift = |notes: Value, part: &str| -> Vec<Value> {
        let list = match notes {
            Value::Array(list) => list,
            _ => Vec::new(),
        };
        list.into_iter().map(|m| deepen(m, part)).collect()
    };
    if let Some(spec) = scaler.get_mut("spec").filter(|s| s.is_object()) {
        let mut all = lift(metrics, "target");
        let percent = spec
            .as_object_mut()
            .and_then(|s| s.remove("targetCPUUtilizationPercentage"));
        if let Some(percent) = percent.filter(|p| !p.is_null()) {
            let target = json!({"type": "Utilization", "averageUtilization": percent});
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !all.is_empty() {
            set(spec, "metrics", all);
        }
        if behavior.is_object() {
            set(spec, "behavior", with_first(behavior, |c| c.to_ascii_lowercase()));
        }
    }
    if let Some(status) = scaler.get_mut("status").filter(|s| s.is_object()) {
        let mut all = lift(current, "current");
        let percent = status
            .as_object_mut()
            .and_then(|s| s.remove("currentCPUUtilizationPercentage"));
        if let Some(percent) = percent.filter(|p| !p.is_null() && all.is_empty()) {
            let current = json!({"averageUtilization": percent});
            all.push(json!({"type": "Resource", "resource": {"name": "cpu", "current": current}}));
        }
        if !all.is_empty() {
            set(status, "currentMetrics", all);
        }
        if conditions.is_array() {
            set(status, "conditions", conditions);
        }
    }
    scaler
}

/// Takes an annotation and reads it; null when it is absent, or not what it should be.
fn take_note(scaler: &mut Value, key: &str) -> Value {
    let Some(metadata) = scaler.get_mut("metadata").and_then(Value::as_object_mut) else {
        return Value::Null;
    };
    let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) else {
        return Value::Null;
    };
    let taken = annotations.remove(key);
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
    let text = taken.as_ref().and_then(Value::as_str).unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

/// `v2`'s nested metric as the flat one of `v1`; `part` is `target` or `current`, and the
/// prefix of the flat names.
fn flatten(mut metric: Value, part: &str, prefix: &str) -> Value {
    for (_, field) in crate::autoscaling::SOURCES {
        let Some(source) = metric.get_mut(field).filter(|s| s.is_object()) else {
            continue;
        };
        let nested = source.as_object_mut().and_then(|s| s.remove(part)).unwrap_or_default();
        let identifier = source
            .as_object_mut()
            .and_then(|s| s.remove("metric"))
            .unwrap_or_default();
        let mut put = |name: &str, value: &Value| {
            if !value.is_null() {
                set(source, name, value.clone());
            }
        };
        put("metricName", &identifier["name"]);
        let selector = if field == "external" {
            "metricSelector"
        } else {
            "selector"
        };
        put(selector, &identifier["selector"]);
        put(&format!("{prefix}AverageUtilization"), &nested["averageUtilization"]);
        // Of objects, only the plain value has the prefix.
        let average = if field == "object" {
            "averageValue".to_owned()
        } else {
            format!("{prefix}AverageValue")
        };
        put(&average, &nested["averageValue"]);
        put(&format!("{prefix}Value"), &nested["value"]);
        if field == "object" {
            rename(source, "describedObject", "target");
        }
    }
    metric
}

/// The other way round.
fn deepen(mut metric: Value, part: &str) -> Value {
    for (_, field) in crate::autoscaling::SOURCES {
        let Some(source) = metric.get_mut(field).and_then(Value::as_object_mut) else {
            continue;
        };
        if field == "object"
            && let Some(described) = source.remove("target")
        {
            source.insert("describedObject".into(), described);
        }
        let average = if field == "object" {
            "averageValue".to_owned()
        } else {
            format!("{part}AverageValue")
        };
        let mut nested = Map::new();
        for (flat, name, kind) in [
            (format!("{part}AverageUtilization"), "averageUtilization", "Utilization"),
            (average, "averageValue", "AverageValue"),
            (format!("{part}Value"), "value", "Value"),
        ] {
            if let Some(value) = source.remove(&flat).filter(|v| !v.is_null()) {
                nested.insert(name.into(), value);
                if part == "target" && !nested.contains_key("type") {
                    nested.insert("type".into(), kind.into());
                }
            }
        }
        source.insert(part.to_owned(), nested.into());
        let mut identifier = Map::new();
        for (flat, name) in [
            ("metricName", "name"),
            ("metricSelector", "selector"),
            ("selector", "selector"),
        ] {
            if let Some(value) = source.remove(flat).filter(|v| !v.is_null()) {
                identifier.insert(name.into(), value);
            }
        }
        if !identifier.is_empty() {
            source.insert("metric".into(), identifier.into());
        }
    }
    metric
}

/// The annotation's names begin with capitals, for it was the server's own form once.
fn with_first(value: Value, change: fn(&char) -> char) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .map(|(key, value)| {
                let mut chars = key.chars();
                let first = chars.next().map(|c| change(&c));
                (
                    first.into_iter().chain(chars).collect::<String>(),
                    with_first(value, change),
                )
            })
            .collect::<Map<_, _>>()
            .into(),
        Value::Array(list) => list.into_iter().map(|v| with_first(v, change)).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_is_a_field() {
        let v1 = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 50},
            "status": {"currentCPUUtilizationPercentage": 20}});
        let v2 = to_v2(v1);
        assert_eq!(
            v2["spec"]["metrics"],
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}}])
        );
        let back = from_v2(v2);
        assert_eq!(
            back["spec"],
            json!({"maxReplicas": 3, "targetCPUUtilizationPercentage": 50})
        );
        assert_eq!(back["status"]["currentCPUUtilizationPercentage"], 20);
    }

    #[test]
    fn the_rest_is_annotations_and_comes_back() {
        let metrics = json!([
            {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
            {"type": "Pods", "pods": {"metric": {"name": "q"}, "target": {"type": "AverageValue", "averageValue": "5"}}},
            {"type": "Object", "object": {"describedObject": {"kind": "Ingress", "name": "i"}, "metric": {"name": "r"},
                "target": {"type": "Value", "value": "9"}}},
            {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"a": "b"}}},
                "target": {"type": "AverageValue", "averageValue": "7"}}},
        ]);
        let behavior = json!({"scaleUp": {"policies": [{"type": "Pods", "value": 1, "periodSeconds": 15}], "selectPolicy": "Max"}});
        let v2 = json!({"apiVersion": "autoscaling/v2", "metadata": {"name": "h"},
            "spec": {"maxReplicas": 3, "metrics": metrics, "behavior": behavior},
            "status": {"conditions": [{"type": "AbleToScale", "status": "True"}]}});
        let v1 = from_v2(v2.clone());
        let annotations = &v1["metadata"]["annotations"];
        let note = |key: &str| serde_json::from_str::<Value>(annotations[key].as_str().unwrap()).unwrap();
        assert_eq!(
            note(METRICS)[0],
            json!({"type": "Resource", "resource": {"name": "memory", "targetAverageValue": "1Gi"}})
        );
        assert_eq!(
            note(METRICS)[2],
            json!({"type": "Object", "object": {"target": {"kind": "Ingress", "name": "i"}, "metricName": "r", "targetValue": "9"}})
        );
        assert_eq!(note(BEHAVIOR)["ScaleUp"]["Policies"][0]["PeriodSeconds"], 15);
        assert!(v1["spec"].get("metrics").is_none() && v1["status"].get("conditions").is_none());
        assert_eq!(to_v2(v1), v2);
    }

    #[test]
    fn broken_notes_are_left_out() {
        let v1 = json!({"metadata": {"annotations": {METRICS: "{", BEHAVIOR: "[]"}}, "spec": {"maxReplicas": 1}, "status": {}});
        let v2 = to_v2(v1);
        assert_eq!(v2["spec"], json!({"maxReplicas": 1}));
        assert!(v2["metadata"].get("annotations").is_none());
    }
}
