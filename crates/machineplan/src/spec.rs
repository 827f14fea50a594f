//! What a VirtualMachineInstance asks for, read out of its JSON and defaulted.
//!
//! Must not know the host: no paths, no accelerator.

use std::collections::BTreeMap;

use meta::Quantity;
use serde_json::Value;

use crate::PlanError;
use crate::devices::{disks, interfaces, volumes};

/// Guest memory when the object names none.
const DEFAULT_MEMORY: i64 = 512 << 20;

/// A machine as asked for.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineSpec {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.uid`.
    pub uid: String,
    /// SMBIOS UUID: `spec.domain.firmware.uuid`, or derived from namespace and name so that it
    /// stays the same when the instance is made anew.
    pub smbios_uuid: String,
    /// SMBIOS serial; empty for none.
    pub serial: String,
    /// Processors.
    pub cpu: Cpu,
    /// Guest memory, bytes.
    pub memory: i64,
    /// Boot firmware.
    pub firmware: Firmware,
    /// Kernel to boot directly, from an image.
    pub kernel_boot: Option<KernelBoot>,
    /// Disks, in the order of the object.
    pub disks: Vec<DiskSpec>,
    /// Volumes by name.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Network interfaces, in the order of the object.
    pub interfaces: Vec<InterfaceSpec>,
    /// Whether there is a display for VNC.
    pub graphics: bool,
    /// Whether the processors wait to be let go.
    pub starts_paused: bool,
    /// Whether USB devices can be brought from a client.
    pub usb_redirection: bool,
    /// Host name of the guest.
    pub hostname: String,
    /// Seconds between the power button and the plug.
    pub termination_grace: u64,
}

/// Processor topology.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cpu {
    /// Sockets.
    pub sockets: u32,
    /// Cores of a socket.
    pub cores: u32,
    /// Threads of a core.
    pub threads: u32,
    /// `host-model`, `host-passthrough` or a QEMU model; empty for the default.
    pub model: String,
}

impl Cpu {
    /// Number of virtual processors.
    pub fn count(&self) -> u32 {
        self.sockets
            .saturating_mul(self.cores)
            .saturating_mul(self.threads)
            .max(1)
    }
}

/// Boot firmware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// SeaBIOS.
    Bios,
    /// OVMF, without secure boot.
    Efi,
}

/// `spec.domain.firmware.kernelBoot`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelBoot {
    /// Image that holds the files.
    pub image: String,
    /// `imagePullPolicy`; empty for the default.
    pub pull_policy: String,
    /// Path of the kernel in the image.
    pub kernel_path: String,
    /// Path of the initial RAM disk in the image; empty for none.
    pub initrd_path: String,
    /// Kernel command line.
    pub args: String,
}

/// A disk of the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// Name of disk and volume.
    pub name: String,
    /// Disk, CD-ROM or LUN.
    pub device: DiskDevice,
    /// How it is attached.
    pub bus: Bus,
    /// Whether the guest cannot write.
    pub read_only: bool,
    /// Boot order from 1; `None` when it is not booted from.
    pub boot_order: Option<u32>,
    /// Serial number that the guest sees; empty for none.
    pub serial: String,
    /// `none`, `writethrough` or `writeback`; empty for the default.
    pub cache: String,
    /// Whether it comes while the machine runs, by a pod of its own.
    pub hotplugged: bool,
}

/// Kind of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskDevice {
    /// A hard disk.
    Disk,
    /// A CD-ROM.
    Cdrom,
}

/// How a disk is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// virtio-blk.
    Virtio,
    /// AHCI.
    Sata,
    /// virtio-scsi.
    Scsi,
}

/// A volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeSpec {
    /// Name.
    pub name: String,
    /// What backs it.
    pub source: VolumeSource,
}

/// What backs a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// A disk image inside a container image; writes are lost with the machine.
    ContainerDisk {
        /// Image reference.
        image: String,
        /// Path in the image; empty for the only file below `/disk`.
        path: String,
        /// Pull policy; empty for the default.
        pull_policy: String,
    },
    /// A claim of the namespace.
    PersistentVolumeClaim {
        /// Name of the claim.
        claim: String,
    },
    /// An empty disk that lives as long as the machine.
    EmptyDisk {
        /// Bytes.
        capacity: i64,
    },
    /// A NoCloud seed. References to Secrets are resolved by the caller.
    CloudInitNoCloud {
        /// The volume source as written.
        source: Value,
    },
    /// A ConfigMap or Secret as a small read-only disk.
    Files {
        /// `configMap` or `secret`.
        kind: &'static str,
        /// Name of the object.
        name: String,
    },
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InterfaceSpec {
    /// Name of interface and network.
    pub name: String,
    /// Device model.
    pub model: InterfaceModel,
    /// MAC address; empty to derive one.
    pub mac: String,
    /// Ports forwarded to the guest; empty for all.
    pub ports: Vec<(String, u16)>,
    /// Whether it is the pod network by masquerade.
    pub masquerade: bool,
    /// Boot order from 1; `None` when it is not booted from.
    pub boot_order: Option<u32>,
}

/// Model of a network device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InterfaceModel {
    /// virtio-net.
    Virtio,
    /// Intel 82574L.
    E1000e,
    /// Realtek 8139.
    Rtl8139,
}

impl MachineSpec {
    /// Reads a VirtualMachineInstance.
    pub fn from_vmi(vmi: &Value) -> Result<Self, PlanError> {
        let (meta, spec) = (&vmi["metadata"], &vmi["spec"]);
        let domain = &spec["domain"];
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
        let firmware = &domain["firmware"];
        let volumes = volumes(&spec["volumes"])?;
        let mut disks = disks(&domain["devices"]["disks"], &volumes)?;
        for claim in spec["volumes"].as_array().into_iter().flatten() {
            for disk in disks.iter_mut().filter(|d| claim["name"] == d.name.as_str()) {
                disk.read_only |= claim["persistentVolumeClaim"]["readOnly"] == true;
                disk.hotplugged = ["persistentVolumeClaim", "dataVolume"]
                    .iter()
                    .any(|k| claim[*k]["hotpluggable"] == true);
            }
        }
        let uuid = match text(&firmware["uuid"]) {
            empty if empty.is_empty() => derived_uuid(&namespace, &name),
            given => given,
        };
        let hostname = match text(&spec["hostname"]) {
            empty if empty.is_empty() => name.split('.').next().unwrap_or(&name).to_owned(),
            given => given,
        };
        Ok(MachineSpec {
            uid: text(&meta["uid"]),
            smbios_uuid: uuid,
            serial: text(&firmware["serial"]),
            cpu: cpu(domain)?,
            memory: memory(domain)?,
            firmware: boot_firmware(firmware)?,
            kernel_boot: kernel_boot(&firmware["kernelBoot"])?,
            disks,
            volumes,
            interfaces: interfaces(spec)?,
            graphics: domain["devices"]["autoattachGraphicsDevice"].as_bool().unwrap_or(true),
            starts_paused: spec["startStrategy"] == "Paused",
            usb_redirection: domain["devices"]["clientPassthrough"].is_object(),
            hostname,
            termination_grace: spec["terminationGracePeriodSeconds"].as_u64().unwrap_or(30),
            namespace,
            name,
        })
    }
}

fn cpu(domain: &Value) -> Result<Cpu, PlanError> {
    let cpu = &domain["cpu"];
    let part = |field: &str| -> Result<u32, PlanError> {
        match &cpu[field] {
            Value::Null => Ok(1),
            v => v
                .as_u64()
                .and_then(|n| u32::try_from(n).ok())
                .filter(|n| (1..=288).contains(n))
                .ok_or_else(|| PlanError::new(format!("spec.domain.cpu.{field}"), "must be between 1 and 288")),
        }
    };
    let mut out = Cpu {
        sockets: part("sockets")?,
        cores: part("cores")?,
        threads: part("threads")?,
        model: cpu["model"].as_str().unwrap_or_default().to_owned(),
    };
    if cpu.is_null() {
        // Without a topology the CPU request or limit says how many there are.
        let resources = &domain["resources"];
        let asked = [&resources["limits"]["cpu"], &resources["requests"]["cpu"]]
            .into_iter()
            .find(|v| !v.is_null());
        if let Some(asked) = asked {
            let count = quantity(asked, "spec.domain.resources.requests.cpu")?
                .value()
                .clamp(1, 288);
            out.sockets = u32::try_from(count).unwrap_or(1);
        }
    }
    if out.count() > 288 {
        return Err(PlanError::new(
            "spec.domain.cpu",
            "sockets x cores x threads may not exceed 288",
        ));
    }
    Ok(out)
}

fn memory(domain: &Value) -> Result<i64, PlanError> {
    let places = [
        (&domain["memory"]["guest"], "spec.domain.memory.guest"),
        (
            &domain["resources"]["requests"]["memory"],
            "spec.domain.resources.requests.memory",
        ),
        (
            &domain["resources"]["limits"]["memory"],
            "spec.domain.resources.limits.memory",
        ),
    ];
    let Some((value, field)) = places.into_iter().find(|(v, _)| !v.is_null()) else {
        return Ok(DEFAULT_MEMORY);
    };
    let bytes = quantity(value, field)?.value();
    if bytes < (16 << 20) {
        return Err(PlanError::new(field, "a machine needs at least 16Mi of memory"));
    }
    Ok(bytes)
}

pub(crate) fn quantity(value: &Value, field: &str) -> Result<Quantity, PlanError> {
    let text = match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    text.parse()
        .map_err(|e| PlanError::new(field, format!("{text:?}: {e}")))
}

fn boot_firmware(firmware: &Value) -> Result<Firmware, PlanError> {
    let efi = &firmware["bootloader"]["efi"];
    if efi.is_null() {
        return Ok(Firmware::Bios);
    }
    if efi["secureBoot"].as_bool().unwrap_or(true) {
        return Err(PlanError::new(
            "spec.domain.firmware.bootloader.efi.secureBoot",
            "secure boot is not supported; set it to false",
        ));
    }
    Ok(Firmware::Efi)
}

fn kernel_boot(boot: &Value) -> Result<Option<KernelBoot>, PlanError> {
    if boot.is_null() {
        return Ok(None);
    }
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let container = &boot["container"];
    let out = KernelBoot {
        image: text(&container["image"]),
        pull_policy: text(&container["imagePullPolicy"]),
        kernel_path: text(&container["kernelPath"]),
        initrd_path: text(&container["initrdPath"]),
        args: text(&boot["kernelArgs"]),
    };
    for (value, field) in [(&out.image, "image"), (&out.kernel_path, "kernelPath")] {
        if value.is_empty() {
            return Err(PlanError::new(
                format!("spec.domain.firmware.kernelBoot.container.{field}"),
                "must be given to boot a kernel directly",
            ));
        }
    }
    Ok(Some(out))
}

/// A stable UUID (version 8, RFC 9562) out of namespace and name.
fn derived_uuid(namespace: &str, name: &str) -> String {
    let mut bytes = [0u8; 16];
    for (half, seed) in [(0, 0x5bd1_e995_u64), (8, 0x9e37_79b9)] {
        bytes[half..half + 8].copy_from_slice(&fnv(seed, namespace, name).to_be_bytes());
    }
    bytes[6] = 0x80 | (bytes[6] & 0x0f);
    bytes[8] = 0x80 | (bytes[8] & 0x3f);
    let h: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}

/// FNV-1a over both names, started from a seed: stable across versions and machines.
pub(crate) fn fnv(seed: u64, namespace: &str, name: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ seed;
    for b in namespace.bytes().chain([0]).chain(name.bytes()) {
        hash = (hash ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3);
    }
    // FNV leaves the high bits of short names alike; mix them.
    (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn vmi(spec: Value) -> Value {
        json!({"metadata": {"name": "db", "namespace": "shop", "uid": "u"}, "spec": spec})
    }

    #[test]
    fn a_plain_machine_is_defaulted() {
        let spec = MachineSpec::from_vmi(&vmi(json!({"domain": {"devices": {}}}))).unwrap();
        assert_eq!((spec.cpu.count(), spec.memory), (1, 512 << 20));
        assert_eq!(
            (spec.interfaces.len(), spec.interfaces[0].name.as_str()),
            (1, "default")
        );
        assert_eq!(spec.hostname, "db");
        let again = MachineSpec::from_vmi(&vmi(json!({"domain": {}}))).unwrap();
        assert_eq!(spec.smbios_uuid, again.smbios_uuid);
        assert_eq!(&spec.smbios_uuid[14..15], "8");
    }

    #[test]
    fn a_read_only_claim_makes_a_read_only_disk() {
        let spec = json!({"domain": {"devices": {"disks": [{"name": "a"}, {"name": "b"}]}}, "volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "x", "readOnly": true}},
            {"name": "b", "persistentVolumeClaim": {"claimName": "y"}}]});
        let spec = MachineSpec::from_vmi(&vmi(spec)).unwrap();
        assert!(spec.disks[0].read_only && !spec.disks[1].read_only);
    }

    #[test]
    fn errors_name_the_field() {
        let disk = |d: Value| json!({"domain": {"devices": {"disks": [d]}}, "volumes": [{"name": "a", "emptyDisk": {"capacity": "1Gi"}}]});
        for (spec, field) in [
            (disk(json!({"name": "x"})), "spec.domain.devices.disks[0].name"),
            (
                disk(json!({"name": "a", "disk": {"bus": "floppy"}})),
                "spec.domain.devices.disks[0].bus",
            ),
            (
                json!({"domain": {"memory": {"guest": "1"}}}),
                "spec.domain.memory.guest",
            ),
            (
                json!({"domain": {"memory": {"guest": "lots"}}}),
                "spec.domain.memory.guest",
            ),
            (json!({"domain": {"cpu": {"cores": 0}}}), "spec.domain.cpu.cores"),
            (json!({"domain": {}, "volumes": [{"name": "a"}]}), "spec.volumes[0]"),
            (
                json!({"domain": {"devices": {"interfaces": [{"name": "n", "bridge": {}}]}}}),
                "spec.domain.devices.interfaces[0]",
            ),
        ] {
            assert_eq!(MachineSpec::from_vmi(&vmi(spec)).unwrap_err().field, field);
        }
    }

    #[test]
    fn junk_never_panics() {
        for junk in [
            json!(null),
            json!([]),
            json!({"spec": 3}),
            json!({"spec": {"domain": [1], "volumes": {"a": 1}}}),
        ] {
            let _ = MachineSpec::from_vmi(&junk);
        }
    }
}
