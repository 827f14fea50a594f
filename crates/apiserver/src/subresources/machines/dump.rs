//! `memorydump` and `removememorydump`: requests in the machine's status. Must
//! not take a claim that the memory does not fit into.

use meta::{Quantity, Status};
use serde_json::{Value, json};

use super::conflict;
use crate::core::Core;
use crate::registry::{Call, Target};

/// What a dump has besides the guest's memory.
const OVERHEAD: i64 = 100 << 20;
/// Share of a volume that its file system takes, in thousandths; upstream's default.
const FILE_SYSTEM: i64 = 55;

impl Core {
    /// Asks for a dump of the machine's memory, or forgets the last one.
    pub(crate) async fn dump_machine(
        &self,
        call: &Call,
        target: Target<'_>,
        action: &str,
        options: &Value,
    ) -> Result<(), Status> {
        let machine = self.current(target);
        let machine = machine
            .map_err(|e| super::named(e, "virtualmachine", target.name))?
            .to_value();
        let present = &machine["status"]["memoryDumpRequest"];
        let wanted = if action == "memorydump" {
            let claim = claim_for(target.name, present, options)?;
            self.check_dump(target, &claim)?;
            json!({"claimName": claim, "phase": "Associating"})
        } else {
            json!({"claimName": present["claimName"], "phase": "Dissociating", "remove": true})
        };
        let change = |_: &std::sync::Arc<meta::Object>, mut value: Value| {
            let why = busy(target.name, &value["status"]["memoryDumpRequest"], action);
            if let Some(why) = why {
                return Err(conflict("virtualmachine", target.name, &why));
            }
            value["status"]["memoryDumpRequest"] = wanted.clone();
            Ok(value)
        };
        self.rewrite(
            call,
            Target {
                subresource: "",
                ..target
            },
            &change,
        )
        .await
        .map(drop)
    }

    /// Whether the machine runs and the claim is large enough.
    fn check_dump(&self, target: Target<'_>, claim: &str) -> Result<(), Status> {
        let find = |group: &str, plural: &str| self.catalog.find(group, plural).ok_or_else(Status::no_such_path);
        let instances = find("kubevirt.io", "virtualmachineinstances")?;
        let instance = self.current(Target::of(instances, target.namespace, target.name));
        let instance = instance.map_err(|e| super::named(e, "virtualmachineinstance", target.name))?;
        let instance = instance.to_value();
        if instance["status"]["phase"] != "Running" {
            return Err(conflict("virtualmachineinstance", target.name, "VMI is not running"));
        }
        let claims = find("", "persistentvolumeclaims")?;
        let found = self.current(Target::of(claims, target.namespace, claim))?.to_value();
        fits(claim, &found, &instance)
    }
}

/// The claim that is meant: the named one, or the one of the last dump.
fn claim_for(machine: &str, present: &Value, options: &Value) -> Result<String, Status> {
    let named = options["claimName"].as_str().unwrap_or_default();
    let last = present["claimName"].as_str().unwrap_or_default();
    match (named, last) {
        ("", "") => Err(Status::bad_request("Memory dump requires claim name to be set")),
        ("", last) => Ok(last.to_owned()),
        (named, last) if !last.is_empty() && named != last => {
            let why = format!(
                "can't request memory dump for pvc [{named}] while pvc [{last}] is still associated as the memory dump pvc"
            );
            Err(conflict("virtualmachine", machine, &why))
        }
        (named, _) => Ok(named.to_owned()),
    }
}

/// Why nothing is done now.
fn busy(machine: &str, present: &Value, action: &str) -> Option<String> {
    let claim = present["claimName"].as_str().unwrap_or_default();
    if action != "memorydump" {
        return match (present.is_object(), present["remove"] == true) {
            (false, _) => Some(format!(
                "can't remove memory dump association for vm {machine}, no association found"
            )),
            (_, true) => Some(format!("memory dump remove request for pvc [{claim}] already exists")),
            _ => None,
        };
    }
    match present["phase"].as_str() {
        None | Some("Completed" | "Failed") => None,
        Some("Dissociating") => Some(format!(
            "can't dump memory for pvc [{claim}] a remove memory dump request is in progress"
        )),
        Some(_) => Some(format!("memory dump request for pvc [{claim}] already in progress")),
    }
}

fn fits(name: &str, claim: &Value, instance: &Value) -> Result<(), Status> {
    let refuse = |why: &str| Err(Status::conflict("kubevirt.io", "persistentvolumeclaim", name, why));
    let spec = &claim["spec"];
    if spec["volumeMode"] == "Block" {
        return refuse("pvc should be filesystem pvc");
    }
    let modes = spec["accessModes"].as_array();
    if modes.is_some_and(|m| !m.is_empty() && m.iter().all(|m| m == "ReadOnlyMany")) {
        return refuse("pvc access mode can't be read only");
    }
    let quantity = |v: &Value| v.as_str().and_then(|q| q.parse::<Quantity>().ok()).map(|q| q.value());
    let domain = &instance["spec"]["domain"];
    let memory = quantity(&domain["resources"]["requests"]["memory"]).or_else(|| quantity(&domain["memory"]["guest"]));
    let needed = (memory.unwrap_or_default() + OVERHEAD) / 1000 * (1000 + FILE_SYSTEM);
    let size = quantity(&spec["resources"]["requests"]["storage"]).unwrap_or_default();
    if size < needed {
        let size = Quantity::from_bytes(size);
        return refuse(&format!(
            "pvc size [{size}] should be bigger then [{}]",
            Quantity::from_bytes(needed)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_refused_as_upstream_does() {
        let none = Value::Null;
        let named = json!({"claimName": "a"});
        assert_eq!(claim_for("db", &none, &named).unwrap(), "a");
        assert_eq!(claim_for("db", &named, &json!({})).unwrap(), "a");
        assert!(claim_for("db", &none, &json!({})).is_err());
        assert!(claim_for("db", &named, &json!({"claimName": "b"})).is_err());
        let at = |phase: &str| json!({"claimName": "a", "phase": phase});
        assert!(busy("db", &at("InProgress"), "memorydump").is_some());
        assert!(busy("db", &at("Completed"), "memorydump").is_none());
        assert!(busy("db", &none, "removememorydump").is_some());
        assert!(busy("db", &at("Completed"), "removememorydump").is_none());
        let instance = json!({"spec": {"domain": {"resources": {"requests": {"memory": "128Mi"}}}}});
        let claim = |size: &str| json!({"spec": {"resources": {"requests": {"storage": size}}}});
        let small = fits("a", &claim("200Mi"), &instance).unwrap_err();
        assert!(small.message.contains("should be bigger then"), "{}", small.message);
        fits("a", &claim("300Mi"), &instance).unwrap();
    }
}
