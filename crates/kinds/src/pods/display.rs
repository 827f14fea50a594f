//! The STATUS, READY and RESTARTS columns of pods, as `kubectl get pods` shows them.

use jiff::Timestamp;
use serde_json::Value;

use crate::Cell;
use crate::columns::{age, since, text_or_none};
use crate::edit::{int, items, text};

/// Cells: Ready, Status, Restarts, Age, IP, Node, Nominated Node, Readiness Gates.
pub(crate) fn status_cells(pod: &Value, now: Timestamp) -> Vec<Cell> {
    let empty = Value::Null;
    let (spec, status) = (pod.get("spec").unwrap_or(&empty), pod.get("status").unwrap_or(&empty));
    let mut reason = match text(status, "reason") {
        "" => text(status, "phase").to_owned(),
        given => given.to_owned(),
    };
    let gated = items(status, "conditions")
        .any(|c| text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".to_owned();
    }
    let mut counts = Counts {
        ready: 0,
        total: items(spec, "containers").count(),
        restarts: 0,
        last_restart: String::new(),
    };
    let initialising = init_reason(spec, status, &mut counts, &mut reason);
    if !initialising || is_initialized(status) {
        // Init containers are done: what they took is no longer of interest, but for sidecars.
        counts.restarts = 0;
        counts.last_restart.clear();
        items(status, "initContainerStatuses")
            .filter(|c| is_sidecar(spec, text(c, "name")))
            .for_each(|c| counts.restarted(c));
        main_reason(status, &mut counts, &mut reason);
    }
    if pod.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null()) {
        reason = if text(status, "reason") == "NodeLost" {
            "Unknown".to_owned()
        } else if matches!(text(status, "phase"), "Succeeded" | "Failed") {
            reason
        } else {
            "Terminating".to_owned()
        };
    }
    let restarts = if counts.restarts > 0 && !counts.last_restart.is_empty() {
        let ago = since(Some(&counts.last_restart.as_str().into()), now);
        format!("{} ({ago} ago)", counts.restarts)
    } else {
        counts.restarts.to_string()
    };
    vec![
        format!("{}/{}", counts.ready, counts.total).into(),
        reason.into(),
        restarts.into(),
        age(pod, now),
        text_or_none(pod, "/status/podIP"),
        text_or_none(pod, "/spec/nodeName"),
        text_or_none(pod, "/status/nominatedNodeName"),
        gates(spec, status).into(),
    ]
}

struct Counts {
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: String,
}

impl Counts {
    fn restarted(&mut self, container: &Value) {
        self.restarts += int(container, "/restartCount");
        if let Some(at) = container
            .pointer("/lastState/terminated/finishedAt")
            .and_then(Value::as_str)
            && at > self.last_restart.as_str()
        {
            self.last_restart = at.to_owned();
        }
    }
}

fn is_initialized(status: &Value) -> bool {
    items(status, "conditions").any(|c| text(c, "type") == "Initialized" && text(c, "status") == "True")
}

fn is_sidecar(spec: &Value, name: &str) -> bool {
    items(spec, "initContainers").any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always")
}

/// The reason while init containers run; whether one of them holds the pod up.
fn init_reason(spec: &Value, status: &Value, counts: &mut Counts, reason: &mut String) -> bool {
    counts.total += items(spec, "initContainers")
        .filter(|c| text(c, "restartPolicy") == "Always")
        .count();
    let number = items(spec, "initContainers").count();
    for (i, c) in items(status, "initContainerStatuses").enumerate() {
        counts.restarted(c);
        let is_sidecar = is_sidecar(spec, text(c, "name"));
        let ended = c.pointer("/state/terminated").filter(|t| t.is_object());
        if ended.is_some_and(|t| int(t, "/exitCode") == 0) {
            continue;
        }
        if let Some(ended) = ended.filter(|_| !(is_sidecar && c["started"] == true)) {
            *reason = match text(ended, "reason") {
                "" if int(ended, "/signal") != 0 => format!("Init:Signal:{}", int(ended, "/signal")),
                "" => format!("Init:ExitCode:{}", int(ended, "/exitCode")),
                given => format!("Init:{given}"),
            };
            return true;
        }
        if is_sidecar && c.get("started").and_then(Value::as_bool) == Some(true) {
            if c.get("ready").and_then(Value::as_bool) == Some(true) {
                counts.ready += 1;
            }
            continue;
        }
        let waiting = c
            .pointer("/state/waiting")
            .map(|w| text(w, "reason"))
            .unwrap_or_default();
        *reason = match waiting {
            "" | "PodInitializing" => format!("Init:{i}/{number}"),
            given => format!("Init:{given}"),
        };
        return true;
    }
    false
}

fn main_reason(status: &Value, counts: &mut Counts, reason: &mut String) {
    let mut running = false;
    let statuses: Vec<&Value> = items(status, "containerStatuses").collect();
    for c in statuses.iter().rev() {
        counts.restarted(c);
        let waiting = c
            .pointer("/state/waiting")
            .map(|w| text(w, "reason"))
            .unwrap_or_default();
        if !waiting.is_empty() {
            waiting.clone_into(reason);
        } else if let Some(ended) = c.pointer("/state/terminated") {
            *reason = match text(ended, "reason") {
                "" if int(ended, "/signal") != 0 => format!("Signal:{}", int(ended, "/signal")),
                "" => format!("ExitCode:{}", int(ended, "/exitCode")),
                given => given.to_owned(),
            };
        } else if c.get("ready").and_then(Value::as_bool) == Some(true) && c.pointer("/state/running").is_some() {
            running = true;
            counts.ready += 1;
        }
    }
    if reason == "Completed" && running {
        let ready = items(status, "conditions").any(|c| text(c, "type") == "Ready" && text(c, "status") == "True");
        *reason = if ready { "Running" } else { "NotReady" }.to_owned();
    }
}

fn gates(spec: &Value, status: &Value) -> String {
    let gates: Vec<&str> = items(spec, "readinessGates")
        .map(|g| text(g, "conditionType"))
        .collect();
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let holds =
        |gate: &&&str| items(status, "conditions").any(|c| text(c, "type") == **gate && text(c, "status") == "True");
    format!("{}/{}", gates.iter().filter(holds).count(), gates.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn row(pod: Value) -> Vec<String> {
        status_cells(&pod, Timestamp::UNIX_EPOCH)
            .iter()
            .take(3)
            .map(|c| c.as_str().unwrap_or_default().to_owned())
            .collect()
    }

    #[test]
    fn the_status_column() {
        let pod = |status: Value| json!({"spec": {"containers": [{"name": "a"}, {"name": "b"}]}, "status": status});
        assert_eq!(row(pod(json!({"phase": "Pending"}))), ["0/2", "Pending", "0"]);
        let waiting = json!({"phase": "Running", "containerStatuses": [
            {"ready": true, "state": {"running": {}}},
            {"restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}},
        ]});
        assert_eq!(row(pod(waiting)), ["1/2", "CrashLoopBackOff", "3"]);
        let done = json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]});
        assert_eq!(row(pod(done))[1], "Completed");
        let mut leaving = pod(json!({"phase": "Running"}));
        leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        assert_eq!(row(leaving)[1], "Terminating");
        let mut init =
            pod(json!({"phase": "Pending", "initContainerStatuses": [{"name": "i", "state": {"running": {}}}]}));
        init["spec"]["initContainers"] = json!([{"name": "i"}, {"name": "j"}]);
        assert_eq!(row(init)[1], "Init:0/2");
    }
}
