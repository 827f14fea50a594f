//! Whether an instance's state allows what is asked of it, before its node is
//! asked. Codes and words are KubeVirt's. Must not look beyond the instance.

use meta::Status;
use serde_json::Value;

use super::conflict as conflict_about;

/// What an instance says of itself, read once.
struct Instance<'v> {
    value: &'v Value,
    name: &'v str,
}

impl Instance<'_> {
    fn phase(&self) -> &str {
        self.value["status"]["phase"].as_str().unwrap_or_default()
    }

    fn runs(&self) -> bool {
        self.phase() == "Running"
    }

    fn is(&self, condition: &str) -> bool {
        let mut all = self.value["status"]["conditions"].as_array().into_iter().flatten();
        all.any(|c| c["type"] == condition && c["status"] == "True")
    }

    fn device(&self, field: &str) -> &Value {
        &self.value["spec"]["domain"]["devices"][field]
    }

    fn conflict(&self, why: &str) -> Result<(), Status> {
        Err(conflict_about("virtualmachineinstance", self.name, why))
    }
}

/// Whether an action may be passed on to the instance's node.
pub(crate) fn check(action: &str, name: &str, value: &Value) -> Result<(), Status> {
    const NO_VM: &str = "VM is not running";
    const NO_VMI: &str = "VMI is not running";
    let vmi = Instance { value, name };
    let wrong = |why: &str| Err(Status::bad_request(why));
    match action {
        "pause" | "freeze" | "softreboot" if !vmi.runs() => vmi.conflict(NO_VM),
        "unpause" | "unfreeze" | "guestosinfo" | "userlist" | "filesystemlist" if !vmi.runs() => vmi.conflict(NO_VMI),
        "pause" if value["spec"]["livenessProbe"].is_object() && probes(value) => Err(Status::forbidden(
            "kubevirt.io",
            "virtualmachineinstance",
            name,
            "Pausing VMIs with a non-GuestAgentPing LivenessProbe is not supported",
        )),
        "pause" if vmi.is("Paused") => vmi.conflict("VMI is already paused"),
        "unpause" if !vmi.is("Paused") => vmi.conflict("VMI is not paused"),
        "softreboot" | "portforward" if vmi.is("Paused") => vmi.conflict("VMI is paused"),
        "softreboot" if !vmi.is("AgentConnected") && acpi_is_off(value) => {
            vmi.conflict("VMI neither have the agent connected nor the ACPI feature enabled")
        }
        "guestosinfo" | "userlist" | "filesystemlist" if !vmi.is("AgentConnected") => {
            vmi.conflict("VMI does not have guest agent connected")
        }
        "console" if vmi.device("autoattachSerialConsole") == false => wrong("No serial consoles are present."),
        "console" if vmi.phase() == "Failed" => vmi.conflict("VMI is in failed status"),
        "vnc" if vmi.device("autoattachGraphicsDevice") == false => wrong("No graphics devices are present."),
        "usbredir" if vmi.device("clientPassthrough").is_null() => vmi.conflict("Not configured with USB Redirection"),
        "console" | "vnc" | "usbredir" if !vmi.runs() => wrong(NO_VMI),
        "vsock" if vmi.device("autoattachVSOCK") != true => wrong("VSOCK is not attached."),
        _ => Ok(()),
    }
}

/// Whether there is a node to ask; `reset` says more.
pub(crate) fn reachable(action: &str, value: &Value) -> Result<(), Status> {
    let phase = value["status"]["phase"].as_str().unwrap_or_default();
    if matches!(phase, "Running" | "Scheduled") {
        return Ok(());
    }
    let why =
        format!("Unable to connect to VirtualMachineInstance because phase is {phase} instead of Running or Scheduled");
    Err(Status::bad_request(match action {
        "reset" => format!("Failed to reset non-running VMI with phase {phase}: {why}"),
        _ => why,
    }))
}

/// Whether the liveness probe is one that a paused guest fails.
fn probes(value: &Value) -> bool {
    value["spec"]["livenessProbe"]["guestAgentPing"].is_null()
}

fn acpi_is_off(value: &Value) -> bool {
    value["spec"]["domain"]["features"]["acpi"]["enabled"] == false
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_refuse_as_upstream_does() {
        let vmi = |phase: &str, conditions: &[&str]| {
            let conditions: Vec<Value> = conditions
                .iter()
                .map(|c| json!({"type": c, "status": "True"}))
                .collect();
            json!({"spec": {"domain": {"devices": {"autoattachGraphicsDevice": false}, "features": {"acpi": {"enabled": false}}},
                "livenessProbe": {"tcpSocket": {"port": 1}}}, "status": {"phase": phase, "conditions": conditions}})
        };
        for (action, value, code, words) in [
            ("pause", vmi("Scheduling", &[]), 409, "VM is not running"),
            ("pause", vmi("Running", &[]), 403, "LivenessProbe"),
            ("unpause", vmi("Running", &[]), 409, "VMI is not paused"),
            ("softreboot", vmi("Running", &["Paused"]), 409, "VMI is paused"),
            ("softreboot", vmi("Running", &[]), 409, "neither have the agent"),
            ("userlist", vmi("Running", &[]), 409, "guest agent"),
            ("vnc", vmi("Running", &[]), 400, "No graphics devices"),
            ("console", vmi("Failed", &[]), 409, "failed status"),
            ("console", vmi("Scheduled", &[]), 400, "VMI is not running"),
            ("usbredir", vmi("Running", &[]), 409, "USB Redirection"),
            ("vsock", vmi("Running", &[]), 400, "VSOCK"),
            ("portforward", vmi("Running", &["Paused"]), 409, "VMI is paused"),
        ] {
            let status = check(action, "db", &value).unwrap_err();
            assert_eq!(status.code, code, "{action}: {}", status.message);
            assert!(status.message.contains(words), "{action}: {}", status.message);
        }
        for action in ["softreboot", "guestosinfo", "console", "reset", "freeze"] {
            check(action, "db", &vmi("Running", &["AgentConnected"])).unwrap();
        }
        let waits = vmi("Scheduling", &[]);
        assert!(
            reachable("reset", &waits)
                .unwrap_err()
                .message
                .starts_with("Failed to reset")
        );
        reachable("console", &vmi("Running", &[])).unwrap();
    }
}
