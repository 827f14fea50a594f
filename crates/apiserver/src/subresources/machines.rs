//! `subresources.kubevirt.io`: starting, stopping and restarting a
//! VirtualMachine is a change of the object; the controller does the rest.
//! What reaches into a running guest is passed to its node.

use meta::{Reason, Status};
use serde_json::{Value, json};

use crate::core::Core;
use crate::registry::{Call, Target};

/// Versions that clients ask for.
pub(crate) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];
/// What is done to the object; the verb is `update`.
pub(crate) const ACTIONS: [&str; 3] = ["start", "stop", "restart"];
/// What is passed to the node.
pub(crate) const ON_NODE: [&str; 14] = [
    "console",
    "vnc",
    "portforward",
    "pause",
    "unpause",
    "freeze",
    "unfreeze",
    "softreboot",
    "guestosinfo",
    "userlist",
    "filesystemlist",
    "addvolume",
    "removevolume",
    "usbredir",
];

impl Core {
    /// Start, stop or restart.
    pub(crate) async fn act_on_machine(
        &self,
        call: &Call,
        target: Target<'_>,
        action: &str,
        options: &Value,
    ) -> Result<(), Status> {
        let machines = self.catalog.find("kubevirt.io", "virtualmachineinstances");
        let instance = machines.and_then(|r| r.cache.get(&format!("{}/{}", target.namespace, target.name)));
        let running = instance.as_ref().is_some_and(|i| {
            let phase = i.object.to_value();
            let phase = phase
                .pointer("/status/phase")
                .and_then(Value::as_str)
                .unwrap_or_default();
            !matches!(phase, "Succeeded" | "Failed")
        });
        let uid = instance.map(|i| i.object.uid().to_owned()).unwrap_or_default();
        self.rewrite(
            call,
            Target {
                subresource: "",
                ..target
            },
            &|old, mut value| {
                let strategy = run_strategy(&value);
                let refuse = |why: &str| Err(target.conflict(why));
                match action {
                    "start" if running => return refuse("VM is already running"),
                    "stop" | "restart" if !running && strategy != "Always" => return refuse("VM is not running"),
                    "restart" if strategy == "Halted" => {
                        return refuse("RunStategy Halted does not support manual restart requests");
                    }
                    _ => {}
                }
                if old.is_deleting() {
                    return refuse("VM is being deleted");
                }
                apply(&mut value, action, &strategy, &uid, options);
                if value["spec"] != old.to_value()["spec"] {
                    value["metadata"]["generation"] = (old.header().generation + 1).into();
                }
                Ok(value)
            },
        )
        .await?;
        Ok(())
    }
}

/// The strategy, whether given as such or by the older `running`.
fn run_strategy(machine: &Value) -> String {
    match (machine.pointer("/spec/runStrategy"), machine.pointer("/spec/running")) {
        (Some(Value::String(s)), _) => s.clone(),
        (_, Some(Value::Bool(true))) => "Always".into(),
        _ => "Halted".into(),
    }
}

fn apply(value: &mut Value, action: &str, strategy: &str, uid: &str, options: &Value) {
    let by_running = value.pointer("/spec/running").is_some_and(Value::is_boolean);
    let request = |verb: &str| {
        let mut request = json!({"action": verb});
        if verb == "Stop" {
            request["uid"] = uid.into();
            if let Some(grace) = options.get("gracePeriodSeconds").filter(|g| g.is_number()) {
                request["data"] = json!({"gracePeriodSeconds": grace.to_string()});
            }
        }
        request
    };
    // What a spec can say is said there, and holds; the rest is a request that is done once.
    match (action, strategy) {
        ("start", "Halted") if by_running => value["spec"]["running"] = true.into(),
        ("start", "Halted") => value["spec"]["runStrategy"] = "Always".into(),
        ("start", _) => value["status"]["stateChangeRequests"] = json!([request("Start")]),
        ("stop", "Always") if by_running => value["spec"]["running"] = false.into(),
        ("stop", "Always" | "RerunOnFailure") => value["spec"]["runStrategy"] = "Halted".into(),
        ("stop", _) => value["status"]["stateChangeRequests"] = json!([request("Stop")]),
        _ => value["status"]["stateChangeRequests"] = json!([request("Stop"), request("Start")]),
    }
}

/// Refuses an unknown subresource.
pub(crate) fn unknown() -> Status {
    Status::new(
        404,
        Reason::NotFound,
        "the server could not find the requested resource",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_say_in_the_spec_what_a_spec_can_say() {
        let of = |spec: Value, action: &str| {
            let mut value = json!({"spec": spec});
            let strategy = run_strategy(&value);
            apply(&mut value, action, &strategy, "u", &Value::Null);
            value
        };
        assert_eq!(of(json!({"running": false}), "start")["spec"]["running"], true);
        assert_eq!(
            of(json!({"runStrategy": "Halted"}), "start")["spec"]["runStrategy"],
            "Always"
        );
        assert_eq!(
            of(json!({"runStrategy": "Always"}), "stop")["spec"]["runStrategy"],
            "Halted"
        );
        let manual = of(json!({"runStrategy": "Manual"}), "stop");
        assert_eq!(
            manual["status"]["stateChangeRequests"][0],
            json!({"action": "Stop", "uid": "u"})
        );
        let restarted = of(json!({"runStrategy": "Always"}), "restart");
        assert_eq!(restarted["status"]["stateChangeRequests"][1]["action"], "Start");
    }
}
