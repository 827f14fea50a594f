//! Disks that come and go while a machine runs: what QEMU is told, as values.

use serde_json::{Value, json};

use crate::PlanError;
use crate::qemu::{Backing, HOTPLUG_PORTS, blockdev};
use crate::spec::{Bus, DiskDevice, DiskSpec, fnv};

/// What plugs a disk, and what takes it out again.
#[derive(Clone, Debug, PartialEq)]
pub struct Plug {
    /// Id of the device.
    pub device: String,
    /// Name of the block node.
    pub node: String,
    /// Arguments of `blockdev-add`.
    pub blockdev: Value,
    /// Arguments of `device_add`, one after the other until one is taken: a port may be in use.
    pub devices: Vec<Value>,
}

/// Name of a plugged disk's block node: those have 31 bytes at most, volumes 63.
pub fn node_name(volume: &str) -> String {
    format!("hp-{:016x}", fnv(0x6870, "volume", volume))
}

/// How a disk is plugged.
pub fn plug(disk: &DiskSpec, backing: &Backing) -> Result<Plug, PlanError> {
    let node = node_name(&disk.name);
    let device = format!("dev-{}", disk.name);
    let mut base = json!({"drive": node, "id": device});
    if !disk.serial.is_empty() {
        base["serial"] = disk.serial.as_str().into();
    }
    let with = |driver: &str, bus: &str| {
        let mut out = base.clone();
        out["driver"] = driver.into();
        out["bus"] = bus.into();
        out
    };
    let devices = match (disk.bus, disk.device) {
        (Bus::Scsi, DiskDevice::Disk) => vec![with("scsi-hd", "scsi0.0")],
        (Bus::Scsi, DiskDevice::Cdrom) => vec![with("scsi-cd", "scsi0.0")],
        (Bus::Virtio, _) => (0..HOTPLUG_PORTS)
            .map(|port| with("virtio-blk-pci", &format!("port{port}")))
            .collect(),
        (Bus::Sata, _) => {
            let why = "a disk that is plugged while the machine runs must be on bus scsi or virtio";
            return Err(PlanError::new(format!("disk {}", disk.name), why));
        }
    };
    let blockdev = blockdev(&node, disk, backing, disk.read_only || backing.read_only);
    Ok(Plug {
        device,
        node,
        blockdev,
        devices,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qemu::BackingFormat;

    fn disk(bus: Bus) -> DiskSpec {
        DiskSpec {
            name: "a-volume-with-a-name-that-is-longer-than-nodes-may-be".into(),
            device: DiskDevice::Disk,
            bus,
            read_only: false,
            boot_order: None,
            serial: "s".into(),
            cache: String::new(),
            hotplugged: true,
        }
    }

    #[test]
    fn disks_are_plugged_where_there_is_room() {
        let backing = Backing {
            path: "/v/volume.img".into(),
            format: BackingFormat::Raw,
            read_only: false,
        };
        let scsi = plug(&disk(Bus::Scsi), &backing).unwrap();
        assert!(scsi.node.len() <= 31, "{}", scsi.node);
        assert_eq!(scsi.blockdev["node-name"], scsi.node.as_str());
        assert_eq!(scsi.blockdev["file"]["filename"], "/v/volume.img");
        assert_eq!(scsi.devices.len(), 1);
        assert_eq!(
            (&scsi.devices[0]["driver"], &scsi.devices[0]["serial"]),
            (&json!("scsi-hd"), &json!("s"))
        );
        let virtio = plug(&disk(Bus::Virtio), &backing).unwrap();
        assert_eq!(virtio.devices.len(), HOTPLUG_PORTS);
        assert_eq!(virtio.devices[1]["bus"], "port1");
        assert!(plug(&disk(Bus::Sata), &backing).is_err());
    }
}
