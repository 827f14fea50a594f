//! Disks that are added to and taken from machines while they run. A volume is
//! in the machine's template, so that it is there at the next start, and in the
//! instance, whose controller brings it into the guest.

use meta::Status;
use serde_json::{Value, json};

use super::conflict;
use crate::core::Core;
use crate::registry::{Call, Target};

/// What is asked for.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Request {
    /// Name, disk and source.
    Add(String, Value, Value),
    /// Name of the volume, or of what it is made of.
    Remove(String),
}

impl Request {
    /// Reads the body of `addvolume` or `removevolume`.
    pub(super) fn read(action: &str, options: &Value) -> Result<Self, Status> {
        let wrong = |why: &str| Err(Status::bad_request(why));
        if options.is_null() {
            return wrong("Request with no body, a new name is expected as the request body");
        }
        let name = options["name"].as_str().unwrap_or_default().to_owned();
        if action == "removevolume" {
            if name.is_empty() {
                return wrong("RemoveVolumeOptions requires name to be set");
            }
            return Ok(Request::Remove(name));
        }
        if name.is_empty() {
            return wrong("AddVolumeOptions requires name to be set");
        }
        if !options["disk"].is_object() {
            return wrong("AddVolumeOptions requires disk to not be nil");
        }
        if !options["volumeSource"].is_object() {
            return wrong("AddVolumeOptions requires VolumeSource to not be nil");
        }
        let mut disk = options["disk"].clone();
        disk["name"] = name.as_str().into();
        let mut source = options["volumeSource"].clone();
        match ["dataVolume", "persistentVolumeClaim"]
            .into_iter()
            .find(|k| source[*k].is_object())
        {
            Some(kind) => source[kind]["hotpluggable"] = true.into(),
            None => {
                return wrong("AddVolumeOptions requires VolumeSource to name a dataVolume or persistentVolumeClaim");
            }
        }
        let bus = disk["disk"]["bus"]
            .as_str()
            .or(disk["lun"]["bus"].as_str())
            .unwrap_or("scsi");
        if !matches!(bus, "scsi" | "virtio") {
            return wrong(&format!(
                "hotplugged Disk {name} requires bus to be 'scsi' or 'virtio'. [{bus}] is not permitted"
            ));
        }
        Ok(Request::Add(name, disk, source))
    }

    /// Whether a list of volumes admits it.
    pub(super) fn verify(&self, volumes: &[Value]) -> Result<(), String> {
        match self {
            Request::Add(name, _, source) => {
                let claim = claim_of(source).unwrap_or_default();
                for v in volumes {
                    if v["name"] == name.as_str() {
                        return Err(format!(
                            "Unable to add volume [{name}] because volume with that name already exists"
                        ));
                    }
                    if claim_of(v) == Some(claim) {
                        return Err(format!(
                            "Unable to add volume source [{claim}] because it already exists"
                        ));
                    }
                }
                Ok(())
            }
            Request::Remove(name) => match volumes.iter().find(|v| is_called(v, name)) {
                None => Err(format!("Unable to remove volume [{name}] because it does not exist")),
                Some(v) if !is_hotpluggable(v) => {
                    let name = v["name"].as_str().unwrap_or_default();
                    Err(format!(
                        "Unable to remove volume [{name}] because it is not hotpluggable"
                    ))
                }
                Some(_) => Ok(()),
            },
        }
    }

    /// Does it to the spec of an instance.
    pub(super) fn apply(&self, spec: &mut Value) {
        let mut volumes = list(&spec["volumes"]);
        let mut disks = list(&spec["domain"]["devices"]["disks"]);
        match self {
            Request::Add(name, disk, source) => {
                let mut volume = source.clone();
                volume["name"] = name.as_str().into();
                volumes.push(volume);
                let mut disk = disk.clone();
                if disk["disk"].is_null() && disk["lun"].is_null() && disk["cdrom"].is_null() {
                    disk["disk"] = json!({"bus": "scsi"});
                }
                disks.push(disk);
            }
            Request::Remove(name) => {
                let gone = volumes.iter().find(|v| is_called(v, name)).map(|v| v["name"].clone());
                let gone = gone.unwrap_or_default();
                volumes.retain(|v| v["name"] != gone);
                disks.retain(|d| d["name"] != gone);
            }
        }
        spec["volumes"] = volumes.into();
        spec["domain"]["devices"]["disks"] = disks.into();
    }
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn claim_of(volume: &Value) -> Option<&str> {
    let claim = volume["persistentVolumeClaim"]["claimName"].as_str();
    claim.or_else(|| volume["dataVolume"]["name"].as_str())
}

fn is_called(volume: &Value, name: &str) -> bool {
    volume["name"] == name || claim_of(volume) == Some(name)
}

fn is_hotpluggable(volume: &Value) -> bool {
    let kinds = ["dataVolume", "persistentVolumeClaim"];
    kinds.iter().any(|k| volume[*k]["hotpluggable"] == true)
}

impl Core {
    /// Adds or removes a volume: of a machine and its instance, or of an instance alone.
    pub(crate) async fn change_volumes(
        &self,
        call: &Call,
        target: Target<'_>,
        action: &str,
        options: &Value,
    ) -> Result<(), Status> {
        let request = Request::read(action, options)?;
        let of_machine = &*target.resource.kind.plural == "virtualmachines";
        let (kind, place) = if of_machine {
            ("virtualmachine", "/spec/template/spec")
        } else {
            ("virtualmachineinstance", "/spec")
        };
        let object = self.current(target).map_err(|e| super::named(e, kind, target.name))?;
        if !of_machine && object.to_value()["status"]["phase"] != "Running" {
            return Err(conflict(kind, target.name, "VMI is not running"));
        }
        self.change_spec(call, target, &request, kind, place).await?;
        if !of_machine {
            return Ok(());
        }
        let Some(instances) = self.catalog.find("kubevirt.io", "virtualmachineinstances") else {
            return Ok(());
        };
        let instance = Target::of(instances, target.namespace, target.name);
        let Ok(found) = self.current(instance) else {
            return Ok(());
        };
        let owned = found.controller().is_some_and(|o| o.uid == object.uid());
        let over = matches!(
            found.to_value()["status"]["phase"].as_str(),
            Some("Succeeded" | "Failed")
        );
        if !owned || over || found.is_deleting() {
            return Ok(());
        }
        match self.change_spec(call, instance, &request, kind, "/spec").await {
            // The instance has it already, or has it no more: that is what was wanted.
            Err(status) if status.is_conflict() || status.is_not_found() => Ok(()),
            other => other,
        }
    }

    async fn change_spec(
        &self,
        call: &Call,
        target: Target<'_>,
        request: &Request,
        kind: &str,
        place: &str,
    ) -> Result<(), Status> {
        let change = |old: &std::sync::Arc<meta::Object>, mut value: Value| {
            let spec = value.pointer_mut(place).ok_or_else(super::unknown)?;
            let volumes = list(&spec["volumes"]);
            request
                .verify(&volumes)
                .map_err(|why| conflict(kind, target.name, &why))?;
            request.apply(spec);
            value["metadata"]["generation"] = (old.header().generation + 1).into();
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
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add() -> Value {
        json!({"name": "extra", "disk": {"disk": {"bus": "scsi"}, "serial": "s"},
            "volumeSource": {"persistentVolumeClaim": {"claimName": "more"}}})
    }

    #[test]
    fn a_volume_comes_and_goes() {
        let mut spec = json!({"domain": {"devices": {}}, "volumes": [
            {"name": "root", "persistentVolumeClaim": {"claimName": "root"}}]});
        let request = Request::read("addvolume", &add()).unwrap();
        request.verify(&list(&spec["volumes"])).unwrap();
        request.apply(&mut spec);
        assert_eq!(spec["volumes"][1]["persistentVolumeClaim"]["hotpluggable"], true);
        assert_eq!(spec["domain"]["devices"]["disks"][0]["name"], "extra");
        let again = request.verify(&list(&spec["volumes"])).unwrap_err();
        assert!(again.contains("already exists"), "{again}");
        // By the claim's name as well as by its own.
        let remove = Request::read("removevolume", &json!({"name": "more"})).unwrap();
        remove.verify(&list(&spec["volumes"])).unwrap();
        remove.apply(&mut spec);
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["domain"]["devices"]["disks"], json!([]));
        let root = Request::Remove("root".into())
            .verify(&list(&spec["volumes"]))
            .unwrap_err();
        assert!(root.contains("not hotpluggable"), "{root}");
        assert!(
            remove
                .verify(&list(&spec["volumes"]))
                .unwrap_err()
                .contains("does not exist")
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        for (field, words) in [
            ("name", "requires name"),
            ("disk", "requires disk"),
            ("volumeSource", "VolumeSource"),
        ] {
            let mut options = add();
            options[field] = Value::Null;
            let said = Request::read("addvolume", &options).unwrap_err().message;
            assert!(said.contains(words), "{said}");
        }
        let mut sata = add();
        sata["disk"]["disk"]["bus"] = "sata".into();
        assert!(
            Request::read("addvolume", &sata)
                .unwrap_err()
                .message
                .contains("[sata]")
        );
        assert!(Request::read("removevolume", &Value::Null).is_err());
    }
}
