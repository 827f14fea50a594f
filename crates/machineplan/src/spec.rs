//! What a VirtualMachineInstance asks for, read out of its JSON and defaulted.
//!
//! Must not know the host: no paths, no accelerator.

use std::collections::BTreeMap;

use meta::Quantity;
use serde_json::Value;

use crate::PlanError;

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
        let disks = disks(&domain["devices"]["disks"], &volumes)?;
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

fn quantity(value: &Value, field: &str) -> Result<Quantity, PlanError> {
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

fn volumes(list: &Value) -> Result<BTreeMap<String, VolumeSpec>, PlanError> {
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

fn disks(list: &Value, volumes: &BTreeMap<String, VolumeSpec>) -> Result<Vec<DiskSpec>, PlanError> {
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
            name,
            device,
            bus,
            boot_order,
        });
    }
    Ok(out)
}

fn interfaces(spec: &Value) -> Result<Vec<InterfaceSpec>, PlanError> {
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
        assert_eq!(spec.interfaces, [default_interface()]);
        assert_eq!(spec.hostname, "db");
        let again = MachineSpec::from_vmi(&vmi(json!({"domain": {}}))).unwrap();
        assert_eq!(spec.smbios_uuid, again.smbios_uuid);
        assert_eq!(&spec.smbios_uuid[14..15], "8");
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
