//! `subresources.kubevirt.io`: starting, stopping and restarting a
//! VirtualMachine is a change of the object; the controller does the rest.
//! What reaches into a running guest is passed to its node, after a look at
//! whether the guest's state allows it.

mod checks;
mod dump;
mod expand;
mod volumes;

use meta::{Reason, Status};
use serde_json::{Value, json};

pub(crate) use checks::{check, reachable};
pub(crate) use expand::{expand, expand_given, has_instance, no_feature};

use crate::core::Core;
use crate::registry::{Call, Target};

/// Versions that clients ask for.
pub(crate) const VERSIONS: [&str; 2] = ["v1", "v1alpha3"];
/// What is done to the object; the verb is `update`.
pub(crate) const ACTIONS: [&str; 8] = [
    "start",
    "stop",
    "restart",
    "migrate",
    "addvolume",
    "removevolume",
    "memorydump",
    "removememorydump",
];
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
    "reset",
    "guestosinfo",
    "userlist",
    "filesystemlist",
    "usbredir",
    "vsock",
];
/// The shortest time that a machine which must go at once is given, as upstream's restart by force.
const SHORTEST: i64 = 1;

/// The instance of a machine, as far as its requests care.
struct Running {
    uid: String,
    phase: String,
    grace: Option<i64>,
}

impl Running {
    fn is_final(&self) -> bool {
        matches!(self.phase.as_str(), "Succeeded" | "Failed")
    }
}

impl Core {
    /// Start, stop, restart, migrate.
    pub(crate) async fn act_on_machine(
        &self,
        call: &Call,
        target: Target<'_>,
        action: &str,
        options: &Value,
    ) -> Result<(), Status> {
        if matches!(action, "addvolume" | "removevolume") {
            return self.change_volumes(call, target, action, options).await;
        }
        if matches!(action, "memorydump" | "removememorydump") {
            return self.dump_machine(call, target, action, options).await;
        }
        let machine = self
            .current(target)
            .map_err(|e| named(e, "virtualmachine", target.name))?;
        let instances = self.catalog.find("kubevirt.io", "virtualmachineinstances");
        let instance = instances.and_then(|r| r.cache.get(&format!("{}/{}", target.namespace, target.name)));
        let found = instance.map(|i| i.object.to_value());
        if action == "migrate" {
            return migrate(target.name, found.as_ref());
        }
        let running = found.as_ref().map(|v| Running {
            uid: v["metadata"]["uid"].as_str().unwrap_or_default().to_owned(),
            phase: v["status"]["phase"].as_str().unwrap_or_default().to_owned(),
            grace: v["spec"]["terminationGracePeriodSeconds"].as_i64(),
        });
        let strategy = run_strategy(&machine.to_value());
        may(action, &strategy, running.as_ref(), options).map_err(|e| e.about(target.name))?;
        if let Some(grace) = shortened(action, running.as_ref(), options)
            && let Some(resource) = instances
        {
            let instance = Target::of(resource, target.namespace, target.name);
            self.shorten(call, instance, grace).await?;
        }
        let uid = running.map(|r| r.uid).unwrap_or_default();
        self.rewrite(
            call,
            Target {
                subresource: "",
                ..target
            },
            &|old, mut value| {
                if old.is_deleting() {
                    return Err(conflict("virtualmachine", target.name, "VM is being deleted"));
                }
                let strategy = run_strategy(&value);
                apply(&mut value, action, &strategy, &uid, options)?;
                if value["spec"] != old.to_value()["spec"] {
                    value["metadata"]["generation"] = (old.header().generation + 1).into();
                }
                Ok(value)
            },
        )
        .await?;
        Ok(())
    }

    /// Gives an instance less time to end.
    async fn shorten(&self, call: &Call, target: Target<'_>, grace: i64) -> Result<(), Status> {
        self.rewrite(call, target, &|old, mut value| {
            value["spec"]["terminationGracePeriodSeconds"] = grace.into();
            value["metadata"]["generation"] = (old.header().generation + 1).into();
            Ok(value)
        })
        .await
        .map(drop)
    }
}

/// 409 about a kind in the singular, as upstream's handlers word it.
fn conflict(kind: &str, name: &str, why: &str) -> Status {
    Status::conflict("kubevirt.io", kind, name, why)
}

/// 404 in the singular.
pub(crate) fn named(e: Status, kind: &str, name: &str) -> Status {
    if e.is_not_found() {
        Status::not_found("kubevirt.io", kind, name)
    } else {
        e
    }
}

/// Why something is not done.
enum Refusal {
    Conflict(String),
    BadRequest(String),
}

impl Refusal {
    fn about(self, name: &str) -> Status {
        match self {
            Refusal::Conflict(why) => conflict("virtualmachine", name, &why),
            Refusal::BadRequest(why) => Status::bad_request(why),
        }
    }
}

/// Whether the state allows it.
fn may(action: &str, strategy: &str, instance: Option<&Running>, options: &Value) -> Result<(), Refusal> {
    let refuse = |why: &str| Err(Refusal::Conflict(why.to_owned()));
    let alive = instance.filter(|i| !i.is_final());
    let grace = options["gracePeriod"]
        .as_i64()
        .or(options["gracePeriodSeconds"].as_i64());
    match (action, strategy) {
        ("start", _) if alive.is_some_and(|i| !matches!(i.phase.as_str(), "" | "Unknown")) => {
            refuse("VM is already running")
        }
        ("start", "Always" | "Once") => refuse(&format!("{strategy} does not support manual start requests")),
        ("start", "RerunOnFailure") if instance.is_some_and(|i| i.phase == "Failed") => {
            refuse(&format!("{strategy} does not support starting VM from failed state"))
        }
        ("stop", "Halted" | "RerunOnFailure" | "Manual") if alive.is_none() => refuse("VM is not running"),
        ("stop", "Halted") if !alive.is_some_and(|i| i.grace.is_none() || grace < i.grace) || grace.is_none() => {
            refuse("Halted only supports manual stop requests with a shorter graceperiod")
        }
        ("restart", _) if grace.is_some_and(|g| g > 0) => Err(Refusal::BadRequest(
            "For force restart, only gracePeriod=0 is supported for now".into(),
        )),
        ("restart", _) if grace.is_some_and(|g| g < 0) => Err(Refusal::BadRequest(
            "gracePeriod has to be greater or equal to 0".into(),
        )),
        ("restart", "Halted" | "Once") => {
            // The word is upstream's.
            refuse(&format!(
                "RunStategy {strategy} does not support manual restart requests"
            ))
        }
        ("restart", _) if instance.is_none() => refuse("VM is not running: Halted"),
        _ => Ok(()),
    }
}

/// How long the instance is to have left for its end, when that is less than it has.
fn shortened(action: &str, instance: Option<&Running>, options: &Value) -> Option<i64> {
    let grace = options["gracePeriod"]
        .as_i64()
        .or(options["gracePeriodSeconds"].as_i64())?;
    let instance = instance.filter(|i| !i.is_final())?;
    let grace = match action {
        "stop" => grace.max(0),
        "restart" => SHORTEST,
        _ => return None,
    };
    (instance.grace != Some(grace)).then_some(grace)
}

/// The strategy, whether given as such or by the older `running`.
fn run_strategy(machine: &Value) -> String {
    match (machine.pointer("/spec/runStrategy"), machine.pointer("/spec/running")) {
        (Some(Value::String(s)), _) => s.clone(),
        (_, Some(Value::Bool(true))) => "Always".into(),
        _ => "Halted".into(),
    }
}

fn apply(value: &mut Value, action: &str, strategy: &str, uid: &str, options: &Value) -> Result<(), Status> {
    let by_running = value.pointer("/spec/running").is_some_and(Value::is_boolean);
    let paused = options["paused"].as_bool().unwrap_or_default();
    let stop = json!({"action": "Stop", "uid": uid});
    let mut start = json!({"action": "Start"});
    if paused {
        start["data"] = json!({"paused": "true"});
    }
    // What a spec can say is said there, and holds; the rest is a request that is done once.
    let requests = match (action, strategy) {
        ("start", "Halted") => {
            if by_running {
                value["spec"]["running"] = true.into();
            } else {
                value["spec"]["runStrategy"] = "Always".into();
            }
            if !paused {
                return Ok(());
            }
            vec![start]
        }
        ("start", _) => vec![start],
        ("stop", "Always" | "Once") if by_running => {
            value["spec"]["running"] = false.into();
            return Ok(());
        }
        ("stop", "Always" | "RerunOnFailure" | "Once") => {
            value["spec"]["runStrategy"] = "Halted".into();
            return Ok(());
        }
        ("stop", _) => vec![stop],
        _ => vec![stop, start],
    };
    let open = value["status"]["stateChangeRequests"].as_array().map_or(0, Vec::len);
    if open > 0 && action != "stop" {
        let why = "unable to complete request: stop/start already underway";
        return Err(Status::internal(why));
    }
    value["status"]["stateChangeRequests"] = requests.into();
    Ok(())
}

/// Machines stay where they are: the answer is upstream's for one that cannot be moved.
fn migrate(name: &str, instance: Option<&Value>) -> Result<(), Status> {
    let Some(instance) = instance else {
        return Err(Status::not_found("kubevirt.io", "virtualmachineinstance", name));
    };
    if instance["status"]["phase"] != "Running" {
        return Err(conflict("virtualmachine", name, "VM is not running"));
    }
    let mut conditions = instance["status"]["conditions"].as_array().into_iter().flatten();
    let why = conditions.find(|c| c["type"] == "LiveMigratable" && c["status"] == "False");
    let text = |field: &str, other: &'static str| why.and_then(|c| c[field].as_str()).unwrap_or(other).to_owned();
    let reason = text("reason", "MigrationNotSupported");
    let message = text(
        "message",
        "cannot migrate VMI: live migration is not available in this version",
    );
    Err(Status::internal(format!(
        "admission webhook \"migration-create-validator.kubevirt.io\" denied the request: \
         Cannot migrate VMI, Reason: {reason}, Message: {message}"
    )))
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
            apply(&mut value, action, &strategy, "u", &Value::Null).unwrap();
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
        let mut busy = restarted;
        assert!(apply(&mut busy, "restart", "Always", "u", &Value::Null).is_err());
        let mut halted = json!({"spec": {"runStrategy": "Halted"}});
        apply(&mut halted, "start", "Halted", "", &json!({"paused": true})).unwrap();
        assert_eq!(
            halted["status"]["stateChangeRequests"][0]["data"],
            json!({"paused": "true"})
        );
    }

    #[test]
    fn strategies_refuse_as_upstream_does() {
        let instance = |phase: &str| Running {
            uid: "u".into(),
            phase: phase.into(),
            grace: Some(30),
        };
        let why = |action: &str, strategy: &str, i: Option<&Running>, options: Value| {
            may(action, strategy, i, &options).err().map(|e| e.about("db").message)
        };
        let up = instance("Running");
        for (action, strategy, i, options, words) in [
            ("start", "Always", Some(&up), json!({}), "VM is already running"),
            (
                "start",
                "Always",
                None,
                json!({}),
                "Always does not support manual start",
            ),
            ("stop", "Manual", None, json!({}), "VM is not running"),
            ("stop", "Halted", Some(&up), json!({}), "shorter graceperiod"),
            (
                "stop",
                "Halted",
                Some(&up),
                json!({"gracePeriod": 30}),
                "shorter graceperiod",
            ),
            ("restart", "Halted", Some(&up), json!({}), "RunStategy Halted"),
            ("restart", "Always", None, json!({}), "VM is not running: Halted"),
            (
                "restart",
                "Always",
                Some(&up),
                json!({"gracePeriodSeconds": 5}),
                "only gracePeriod=0",
            ),
        ] {
            let said = why(action, strategy, i, options).unwrap_or_default();
            assert!(said.contains(words), "{action} {strategy}: {said:?}");
        }
        for (action, strategy, i, options) in [
            ("start", "Halted", None, json!({})),
            ("start", "Manual", Some(&instance("Failed")), json!({})),
            ("stop", "Always", None, json!({})),
            ("stop", "Halted", Some(&up), json!({"gracePeriod": 0})),
            ("restart", "Always", Some(&up), json!({"gracePeriodSeconds": 0})),
        ] {
            assert_eq!(why(action, strategy, i, options), None, "{action} {strategy}");
        }
        let zero = json!({"gracePeriodSeconds": 0});
        assert_eq!(shortened("restart", Some(&up), &zero), Some(1));
        assert_eq!(shortened("stop", Some(&up), &json!({"gracePeriod": 7})), Some(7));
        assert_eq!(shortened("stop", Some(&up), &json!({})), None);
    }

    #[test]
    fn what_cannot_move_says_why() {
        let vmi = json!({"status": {"phase": "Running", "conditions": [{"type": "LiveMigratable", "status": "False",
            "reason": "DisksNotLiveMigratable", "message": "local"}]}});
        let said = migrate("db", Some(&vmi)).unwrap_err().message;
        assert!(
            said.contains("Reason: DisksNotLiveMigratable, Message: local"),
            "{said}"
        );
        assert!(migrate("db", None).unwrap_err().is_not_found());
    }
}
