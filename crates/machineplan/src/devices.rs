//! Volumes, disks and interfaces of a VirtualMachineInstance, read out of its JSON.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::PlanError;
use crate::spec::{Bus, DiskDevice, DiskSpec, InterfaceModel, InterfaceSpec, VolumeSource, VolumeSpec, quantity};

pub(crate) fn volumes(list: &Value) -> Result<BTreeMap<String, VolumeSpec>, PlanError> {
    let mut out = BTreeMap::new();
    for (i, v) in list.as_array().into_iter().flatten().enumerate() {
        let field = format!("spec.volumes[{i}]");
        let name = v["name"].as_str().unwrap_or_default().to_owned();
        let source = volume_source(v, &field)?;
        let spec = VolumeSpec {
            name: name.clone(),
            source,
        };
        if out.insert(name.clone(), spec).is_some() {
            return Err(PlanError::new(
                format!("{field}.name"),
                format!("volume {name:?} is named twice"),
            ));
        }
    }
    Ok(out)
}

fn volume_source(v: &Value, field: &str) -> Result<VolumeSource, PlanError> {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if let Some(disk) = v.get("containerDisk") {
        return Ok(VolumeSource::ContainerDisk {
            image: text(&disk["image"]),
            path: text(&disk["path"]),
            pull_policy: text(&disk["imagePullPolicy"]),
        });
    }
    if let Some(claim) = v.get("persistentVolumeClaim") {
        return Ok(VolumeSource::PersistentVolumeClaim {
            claim: text(&claim["claimName"]),
        });
    }
    if let Some(volume) = v.get("dataVolume") {
        // A DataVolume fills a claim of its own name.
        return Ok(VolumeSource::PersistentVolumeClaim {
            claim: text(&volume["name"]),
        });
    }
    if let Some(empty) = v.get("emptyDisk") {
        let capacity = quantity(&empty["capacity"], &format!("{field}.emptyDisk.capacity"))?.value();
        return Ok(VolumeSource::EmptyDisk { capacity });
    }
    for key in ["cloudInitNoCloud", "cloudInitConfigDrive"] {
        if let Some(source) = v.get(key) {
            return Ok(VolumeSource::CloudInitNoCloud { source: source.clone() });
        }
    }
    if let Some(map) = v.get("configMap") {
        return Ok(VolumeSource::Files {
            kind: "configMap",
            name: text(&map["name"]),
        });
    }
    if let Some(secret) = v.get("secret") {
        return Ok(VolumeSource::Files {
            kind: "secret",
            name: text(&secret["secretName"]),
        });
    }
    Err(PlanError::new(
        field,
        "needs one of containerDisk, persistentVolumeClaim, dataVolume, emptyDisk, cloudInitNoCloud, configMap, secret",
    ))
}

pub(crate) fn disks(list: &Value, volumes: &BTreeMap<String, VolumeSpec>) -> Result<Vec<DiskSpec>, PlanError> {
    let mut out: Vec<DiskSpec> = Vec::new();
    for (i, d) in list.as_array().into_iter().flatten().enumerate() {
        let field = format!("spec.domain.devices.disks[{i}]");
        let name = d["name"].as_str().unwrap_or_default().to_owned();
        if !volumes.contains_key(&name) {
            return Err(PlanError::new(
                format!("{field}.name"),
                format!("no volume is called {name:?}; add it to spec.volumes"),
            ));
        }
        let (device, body, default_bus) = match (d.get("cdrom"), d.get("lun")) {
            (Some(c), _) => (DiskDevice::Cdrom, c, "sata"),
            (None, Some(l)) => (DiskDevice::Disk, l, "virtio"),
            (None, None) => (DiskDevice::Disk, &d["disk"], "virtio"),
        };
        let bus = match body["bus"].as_str().unwrap_or(default_bus) {
            "virtio" if device == DiskDevice::Disk => Bus::Virtio,
            "sata" => Bus::Sata,
            "scsi" => Bus::Scsi,
            other => {
                return Err(PlanError::new(
                    format!("{field}.bus"),
                    format!("bus {other:?} is not supported here; use virtio, sata or scsi (a cdrom: sata or scsi)"),
                ));
            }
        };
        let boot_order = d["bootOrder"].as_u64().and_then(|n| u32::try_from(n).ok());
        out.push(DiskSpec {
            read_only: body["readonly"].as_bool().unwrap_or(device == DiskDevice::Cdrom),
            serial: d["serial"].as_str().unwrap_or_default().to_owned(),
            cache: d["cache"].as_str().unwrap_or_default().to_owned(),
            hotplugged: false,
            name,
            device,
            bus,
            boot_order,
        });
    }
    Ok(out)
}

pub(crate) fn interfaces(spec: &Value) -> Result<Vec<InterfaceSpec>, PlanError> {
    let devices = &spec["domain"]["devices"];
    let Some(list) = devices["interfaces"].as_array() else {
        // As upstream: a machine that says nothing gets the pod network.
        let attach = devices["autoattachPodInterface"].as_bool().unwrap_or(true);
        return Ok(attach.then(default_interface).into_iter().collect());
    };
    let mut out = Vec::new();
    for (i, v) in list.iter().enumerate() {
        let field = format!("spec.domain.devices.interfaces[{i}]");
        let model = match v["model"].as_str().unwrap_or("virtio") {
            "virtio" => InterfaceModel::Virtio,
            "e1000e" | "e1000" => InterfaceModel::E1000e,
            "rtl8139" => InterfaceModel::Rtl8139,
            other => {
                return Err(PlanError::new(
                    format!("{field}.model"),
                    format!("model {other:?} is not supported; use virtio, e1000e or rtl8139"),
                ));
            }
        };
        if ["bridge", "sriov", "macvtap", "passt"]
            .iter()
            .any(|b| v.get(b).is_some())
        {
            return Err(PlanError::new(
                field,
                "only masquerade is supported on the pod network; set masquerade: {}",
            ));
        }
        let ports = v["ports"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|p| {
                let port = u16::try_from(p["port"].as_u64()?).ok()?;
                Some((p["protocol"].as_str().unwrap_or("TCP").to_owned(), port))
            })
            .collect();
        out.push(InterfaceSpec {
            name: v["name"].as_str().unwrap_or_default().to_owned(),
            model,
            mac: v["macAddress"].as_str().unwrap_or_default().to_ascii_lowercase(),
            ports,
            masquerade: true,
            boot_order: v["bootOrder"].as_u64().and_then(|n| u32::try_from(n).ok()),
        });
    }
    Ok(out)
}

fn default_interface() -> InterfaceSpec {
    InterfaceSpec {
        name: "default".into(),
        model: InterfaceModel::Virtio,
        mac: String::new(),
        ports: Vec::new(),
        masquerade: true,
        boot_order: None,
    }
}
