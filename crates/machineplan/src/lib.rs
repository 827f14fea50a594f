//! A virtual machine as a value: what a VirtualMachineInstance asks for, the
//! QEMU command line that gives it, the cloud-init seed and the pod-side
//! network rules.
//!
//! Must not do I/O: paths and host facts come in, text goes out.

mod cloudinit;
mod devices;
mod dhcp;
mod hotplug;
mod network;
mod qemu;
mod spec;

pub use cloudinit::{Seed, disk_image, seed, seed_image};
pub use dhcp::{Lease, dhcp_reply};
pub use hotplug::{Plug, node_name, plug};
pub use network::{GuestNetwork, NatPort, guest_network, masquerade_ruleset};
pub use qemu::{Accelerator, Backing, BackingFormat, HOTPLUG_PORTS, Placement, USB_PORTS, qemu_arguments};
pub use spec::{
    Bus, Cpu, DiskDevice, DiskSpec, Firmware, InterfaceModel, InterfaceSpec, KernelBoot, MachineSpec, VolumeSource,
    VolumeSpec,
};

/// Why a machine cannot be planned: the field that is wrong and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct PlanError {
    /// Path in the VirtualMachineInstance, such as `spec.domain.devices.disks[0].disk.bus`.
    pub field: String,
    /// For people: what is wrong, and the remedy.
    pub message: String,
}

impl PlanError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        PlanError {
            field: field.into(),
            message: message.into(),
        }
    }
}
