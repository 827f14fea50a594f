//! The QEMU command line of a machine. The value is what unit tests assert.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::PlanError;
use crate::network::guest_network;
use crate::spec::{Bus, DiskDevice, DiskSpec, Firmware, InterfaceModel, InterfaceSpec, MachineSpec};

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor's own virtualisation.
    Kvm,
    /// Translation in QEMU: slow, works everywhere.
    Tcg,
}

/// Where on this host a machine is put.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Accelerator that a self-test found to work.
    pub accelerator: Accelerator,
    /// Directory of the machine's sockets, no longer than 80 bytes (socket paths end at 108).
    pub directory: PathBuf,
    /// What backs each volume, by name.
    pub volumes: BTreeMap<String, Backing>,
    /// Kernel and initial RAM disk, when the machine boots a kernel directly.
    pub kernel: Option<(PathBuf, Option<PathBuf>)>,
    /// OVMF code image, when the host has one.
    pub ovmf_code: Option<PathBuf>,
    /// The machine's own writable copy of the OVMF variables.
    pub ovmf_vars: Option<PathBuf>,
    /// Tap devices, one for each interface, in order. QEMU gets them opened: whoever starts it
    /// puts the number of the descriptor in place of the name in `fd=<name>`.
    pub taps: Vec<String>,
    /// Whether `/dev/vhost-net` can be used.
    pub vhost_net: bool,
    /// MTU of the pod network.
    pub mtu: u32,
}

/// What backs a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backing {
    /// File or block device.
    pub path: PathBuf,
    /// Its format.
    pub format: BackingFormat,
    /// Whether nobody writes to it.
    pub read_only: bool,
}

/// Format of a backing file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackingFormat {
    /// Plain bytes in a file.
    Raw,
    /// qcow2, with a backing chain of its own.
    Qcow2,
    /// A block device.
    Block,
}

/// How many disks of bus virtio can be plugged while the machine runs; of bus scsi it is any number.
pub const HOTPLUG_PORTS: usize = 4;
/// How many USB devices clients can bring at a time, as upstream.
pub const USB_PORTS: usize = 4;

/// The arguments after the program's name.
pub fn qemu_arguments(spec: &MachineSpec, at: &Placement) -> Result<Vec<String>, PlanError> {
    let mut a = Arguments::default();
    base(&mut a, spec, at)?;
    for port in 0..HOTPLUG_PORTS {
        a.add(
            "-device",
            format!("pcie-root-port,id=port{port},chassis={port},slot={port}"),
        );
    }
    a.add("-device", "virtio-scsi-pci,id=scsi0");
    for (i, disk) in spec.disks.iter().enumerate().filter(|(_, d)| !d.hotplugged) {
        add_disk(&mut a, i, disk, spec, at)?;
    }
    for (i, interface) in spec.interfaces.iter().enumerate() {
        add_interface(&mut a, i, interface, spec, at)?;
    }
    add_channels(&mut a, spec, at);
    Ok(a.0)
}

#[derive(Default)]
struct Arguments(Vec<String>);

impl Arguments {
    fn add(&mut self, flag: &str, value: impl Into<String>) {
        self.0.push(flag.to_owned());
        self.0.push(value.into());
    }

    fn flag(&mut self, flag: &str) {
        self.0.push(flag.to_owned());
    }
}

fn base(a: &mut Arguments, spec: &MachineSpec, at: &Placement) -> Result<(), PlanError> {
    let title = escape(&format!("{}_{}", spec.namespace, spec.name));
    a.add("-name", format!("guest={title},debug-threads=on"));
    a.add("-uuid", spec.smbios_uuid.clone());
    // QEMU holds the file locked: a second QEMU for the same directory ends at once.
    a.add("-pidfile", at.directory.join("qemu.pid").display().to_string());
    a.flag("-nodefaults");
    a.flag("-no-user-config");
    // Nothing that QEMU runs may start programs, gain rights or make rare system calls.
    a.add(
        "-sandbox",
        "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
    );
    let accelerator = match at.accelerator {
        Accelerator::Kvm => "kvm",
        Accelerator::Tcg => "tcg,thread=multi",
    };
    a.add("-accel", accelerator);
    a.add(
        "-machine",
        "q35,usb=off,vmport=off,dump-guest-core=off,memory-backend=ram0",
    );
    a.add("-cpu", cpu_model(spec, at.accelerator));
    let cpu = &spec.cpu;
    a.add(
        "-smp",
        format!(
            "{},sockets={},cores={},threads={}",
            cpu.count(),
            cpu.sockets,
            cpu.cores,
            cpu.threads
        ),
    );
    // QEMU wants whole MiB; rounding down would give less than asked.
    let mebibytes = (spec.memory + (1 << 20) - 1) >> 20;
    a.add("-m", format!("size={mebibytes}M"));
    a.add(
        "-object",
        format!("memory-backend-memfd,id=ram0,size={mebibytes}M,share=on"),
    );
    a.add("-rtc", "base=utc,driftfix=slew");
    a.add("-boot", "strict=on");
    if spec.starts_paused {
        a.flag("-S");
    }
    a.add("-msg", "timestamp=on");
    a.add("-global", "ICH9-LPC.disable_s3=1");
    let mut smbios = format!("type=1,manufacturer=Allmend,product=Machine,uuid={}", spec.smbios_uuid);
    if !spec.serial.is_empty() {
        smbios.push_str(&format!(",serial={}", escape(&spec.serial)));
    }
    a.add("-smbios", smbios);
    firmware(a, spec, at)
}

fn cpu_model(spec: &MachineSpec, accelerator: Accelerator) -> String {
    match (spec.cpu.model.as_str(), accelerator) {
        ("" | "host-model" | "host-passthrough", Accelerator::Kvm) => "host".to_owned(),
        ("" | "host-model" | "host-passthrough", Accelerator::Tcg) => "max".to_owned(),
        (model, _) => escape(model),
    }
}

fn firmware(a: &mut Arguments, spec: &MachineSpec, at: &Placement) -> Result<(), PlanError> {
    if spec.firmware == Firmware::Efi {
        let (Some(code), Some(vars)) = (&at.ovmf_code, &at.ovmf_vars) else {
            return Err(PlanError::new(
                "spec.domain.firmware.bootloader.efi",
                "this node has no UEFI firmware: install the package ovmf on it",
            ));
        };
        for (unit, file, read_only) in [(0, code, "on"), (1, vars, "off")] {
            let file = escape(&file.display().to_string());
            a.add(
                "-drive",
                format!("if=pflash,unit={unit},format=raw,readonly={read_only},file={file}"),
            );
        }
    }
    if let Some(boot) = &spec.kernel_boot {
        let Some((kernel, initrd)) = &at.kernel else {
            return Err(PlanError::new(
                "spec.domain.firmware.kernelBoot",
                "the kernel image has not been prepared",
            ));
        };
        a.add("-kernel", kernel.display().to_string());
        if let Some(initrd) = initrd {
            a.add("-initrd", initrd.display().to_string());
        }
        if !boot.args.is_empty() {
            a.add("-append", boot.args.clone());
        }
    }
    Ok(())
}

fn add_disk(
    a: &mut Arguments,
    index: usize,
    disk: &DiskSpec,
    spec: &MachineSpec,
    at: &Placement,
) -> Result<(), PlanError> {
    let backing = at.volumes.get(&disk.name).ok_or_else(|| {
        PlanError::new(
            format!("spec.domain.devices.disks[{index}]"),
            format!("volume {:?} has not been prepared on this node", disk.name),
        )
    })?;
    let read_only = disk.read_only || backing.read_only;
    a.add(
        "-blockdev",
        blockdev(&format!("disk{index}"), disk, backing, read_only).to_string(),
    );
    let mut device = match (disk.bus, disk.device) {
        (Bus::Virtio, _) => format!("virtio-blk-pci,drive=disk{index}"),
        (Bus::Sata, DiskDevice::Cdrom) => format!("ide-cd,bus=ide.{},drive=disk{index}", sata_port(spec, index)),
        (Bus::Sata, DiskDevice::Disk) => format!("ide-hd,bus=ide.{},drive=disk{index}", sata_port(spec, index)),
        (Bus::Scsi, kind) => {
            let driver = if kind == DiskDevice::Cdrom {
                "scsi-cd"
            } else {
                "scsi-hd"
            };
            format!("{driver},bus=scsi0.0,drive=disk{index}")
        }
    };
    device.push_str(&format!(",id=dev-{}", escape(&disk.name)));
    if let Some(order) = boot_index(index, disk, spec) {
        device.push_str(&format!(",bootindex={order}"));
    }
    if !disk.serial.is_empty() {
        device.push_str(&format!(",serial={}", escape(&disk.serial)));
    }
    a.add("-device", device);
    Ok(())
}

/// Without any boot order the disks are tried in the order of the object.
fn boot_index(index: usize, disk: &DiskSpec, spec: &MachineSpec) -> Option<u32> {
    let any =
        spec.disks.iter().any(|d| d.boot_order.is_some()) || spec.interfaces.iter().any(|i| i.boot_order.is_some());
    if any {
        disk.boot_order
    } else {
        u32::try_from(index + 1).ok()
    }
}

fn sata_port(spec: &MachineSpec, index: usize) -> usize {
    let before = spec.disks[..index].iter();
    before.filter(|d| d.bus == Bus::Sata && !d.hotplugged).count()
}

pub(crate) fn blockdev(node: &str, disk: &DiskSpec, backing: &Backing, read_only: bool) -> Value {
    let driver = if backing.format == BackingFormat::Block {
        "host_device"
    } else {
        "file"
    };
    // Writes reach the host's page cache and are flushed when the guest flushes; `none`
    // goes past the page cache where the file system can do that.
    let direct = disk.cache == "none";
    let cache = json!({"direct": direct, "no-flush": false});
    let file = json!({
        "driver": driver,
        "filename": backing.path.display().to_string(),
        "cache": cache,
        "aio": "threads",
        "discard": "unmap",
    });
    let format = if backing.format == BackingFormat::Qcow2 {
        "qcow2"
    } else {
        "raw"
    };
    json!({
        "node-name": node,
        "driver": format,
        "read-only": read_only,
        "discard": "unmap",
        "detect-zeroes": if read_only { "off" } else { "unmap" },
        "cache": cache,
        "file": file,
    })
}

fn add_interface(
    a: &mut Arguments,
    index: usize,
    interface: &InterfaceSpec,
    spec: &MachineSpec,
    at: &Placement,
) -> Result<(), PlanError> {
    let tap = at.taps.get(index).ok_or_else(|| {
        PlanError::new(
            format!("spec.domain.devices.interfaces[{index}]"),
            "only one interface, on the pod network, is supported",
        )
    })?;
    let vhost = if at.vhost_net { ",vhost=on" } else { "" };
    a.add("-netdev", format!("tap,id=net{index}{vhost},fd={tap}"));
    let mac = guest_network(spec, interface).mac;
    let driver = match interface.model {
        InterfaceModel::Virtio => format!("virtio-net-pci,host_mtu={}", at.mtu),
        InterfaceModel::E1000e => "e1000e".to_owned(),
        InterfaceModel::Rtl8139 => "rtl8139".to_owned(),
    };
    let boot = match interface.boot_order {
        Some(order) => format!(",bootindex={order}"),
        // No option ROM: a machine that does not boot from the network starts sooner.
        None => ",romfile=".to_owned(),
    };
    a.add(
        "-device",
        format!("{driver},netdev=net{index},id=dev-net{index},mac={mac}{boot}"),
    );
    Ok(())
}

fn add_channels(a: &mut Arguments, spec: &MachineSpec, at: &Placement) {
    let socket = |name: &str| escape(&at.directory.join(name).display().to_string());
    for (id, file) in [
        ("serial0", "serial.sock"),
        ("qmp0", "qmp.sock"),
        ("agent0", "agent.sock"),
    ] {
        a.add(
            "-chardev",
            format!("socket,id={id},path={},server=on,wait=off", socket(file)),
        );
    }
    a.add("-serial", "chardev:serial0");
    a.add("-mon", "chardev=qmp0,mode=control");
    a.add("-device", "virtio-serial-pci,id=channel0");
    // With an id: QEMU tells of the channel's opening only for devices that have one.
    a.add(
        "-device",
        "virtserialport,bus=channel0.0,chardev=agent0,name=org.qemu.guest_agent.0,id=agent-port0",
    );
    a.add("-object", "rng-random,id=rng0,filename=/dev/urandom");
    a.add("-device", "virtio-rng-pci,rng=rng0");
    a.add("-device", "virtio-balloon-pci,id=balloon0,free-page-reporting=on");
    if spec.usb_redirection {
        a.add("-device", "qemu-xhci,id=usb0");
        for i in 0..USB_PORTS {
            let path = socket(&format!("usb{i}.sock"));
            a.add(
                "-chardev",
                format!("socket,id=usbredir{i},path={path},server=on,wait=off"),
            );
            a.add(
                "-device",
                format!("usb-redir,bus=usb0.0,chardev=usbredir{i},id=usbredir-dev{i}"),
            );
        }
    }
    if spec.graphics {
        a.add("-device", "VGA,id=video0,vgamem_mb=16");
        a.add("-vnc", format!("unix:{}", socket("vnc.sock")));
    } else {
        a.add("-display", "none");
    }
}

/// QEMU's option syntax doubles commas.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> MachineSpec {
        MachineSpec::from_vmi(&json!({
            "metadata": {"name": "db", "namespace": "shop", "uid": "u"},
            "spec": {
                "domain": {
                    "cpu": {"cores": 2},
                    "memory": {"guest": "1Gi"},
                    "devices": {"disks": [
                        {"name": "root", "disk": {"bus": "virtio"}},
                        {"name": "seed", "cdrom": {"bus": "sata"}},
                        {"name": "extra", "disk": {"bus": "scsi"}, "serial": "a,b"},
                    ]},
                },
                "volumes": [
                    {"name": "root", "containerDisk": {"image": "i"}},
                    {"name": "seed", "cloudInitNoCloud": {"userData": "x"}},
                    {"name": "extra", "emptyDisk": {"capacity": "1Gi"}},
                ],
            },
        }))
        .unwrap()
    }

    fn placement() -> Placement {
        let backing = |path: &str, format| Backing {
            path: path.into(),
            format,
            read_only: false,
        };
        Placement {
            accelerator: Accelerator::Tcg,
            directory: "/run/m".into(),
            volumes: BTreeMap::from([
                ("root".to_owned(), backing("/d/root.qcow2", BackingFormat::Qcow2)),
                ("seed".to_owned(), backing("/d/seed.img", BackingFormat::Raw)),
                ("extra".to_owned(), backing("/dev/loop0", BackingFormat::Block)),
            ]),
            kernel: None,
            ovmf_code: None,
            ovmf_vars: None,
            taps: vec!["tap0".into()],
            vhost_net: false,
            mtu: 1450,
        }
    }

    #[test]
    fn the_command_line_says_what_was_asked() {
        let line = qemu_arguments(&spec(), &placement()).unwrap().join(" ");
        for part in [
            "-accel tcg,thread=multi",
            "-cpu max",
            "-smp 2,sockets=1,cores=2,threads=1",
            "-m size=1024M",
            "-sandbox on",
            "virtio-blk-pci,drive=disk0,id=dev-root,bootindex=1",
            "ide-cd,bus=ide.0,drive=disk1",
            "scsi-hd,bus=scsi0.0,drive=disk2,id=dev-extra,bootindex=3,serial=a,,b",
            "\"driver\":\"host_device\"",
            "tap,id=net0,fd=tap0",
            "host_mtu=1450",
            "path=/run/m/qmp.sock",
            "-vnc unix:/run/m/vnc.sock",
        ] {
            assert!(line.contains(part), "{part} missing in {line}");
        }
    }

    #[test]
    fn options_of_the_instance_reach_the_line() {
        let mut spec = spec();
        spec.starts_paused = true;
        spec.usb_redirection = true;
        spec.disks[2].hotplugged = true;
        let line = qemu_arguments(&spec, &placement()).unwrap().join(" ");
        for part in [
            " -S ",
            "qemu-xhci,id=usb0",
            "path=/run/m/usb3.sock",
            "pcie-root-port,id=port3",
            "virtio-scsi-pci",
        ] {
            assert!(line.contains(part), "{part} missing in {line}");
        }
        assert!(!line.contains("dev-extra"), "it is plugged later: {line}");
    }

    #[test]
    fn what_is_not_prepared_is_named() {
        let mut at = placement();
        at.volumes.remove("seed");
        let error = qemu_arguments(&spec(), &at).unwrap_err();
        assert_eq!(error.field, "spec.domain.devices.disks[1]");
        assert!(error.message.contains("seed"));
        let mut efi = spec();
        efi.firmware = Firmware::Efi;
        assert!(qemu_arguments(&efi, &placement()).unwrap_err().message.contains("ovmf"));
    }
}
