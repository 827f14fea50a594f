//! QEMU processes: the pod runtime of virtual machines.
//!
//! A machine's pod has a sandbox (network namespace, cgroup, directory) and one
//! container, `compute`, which is QEMU under a supervisor. Must not decide what
//! a machine looks like: that is `machineplan`; must not know containers.
//!
//! ```text
//! <data>/machines/vm-<hash>/            a sandbox: sandbox.json
//! <data>/machines/vm-<hash>/<attempt>/  a container: machine.json, started.json, exit.json,
//!                                       control.sock, console.sock, disks/, run/ (QEMU's own)
//! <data>/run/netns/vm-<hash>            its network namespace
//! ```

mod accelerator;
mod attachment;
mod cgroup;
mod container;
mod disks;
mod display;
mod dump;
mod facts;
mod files;
mod guest;
mod netns;
mod objects;
mod paths;
mod pod_runtime;
mod sandbox;
mod stream;
mod supervisor;
mod watch;

pub use accelerator::Choice as AcceleratorChoice;
pub use pod_runtime::{Config, MACHINE_IMAGE, MachineRuntime};
pub use supervisor::{MachineState, SupervisorError, supervise};

use jiff::Timestamp;

/// Nanoseconds since the epoch.
fn now() -> i64 {
    i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}

/// `2026-01-02T03:04:05.000000006Z`, as CRI logs print times.
fn rfc3339_nano(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds))
        .unwrap_or(Timestamp::UNIX_EPOCH)
        .strftime("%Y-%m-%dT%H:%M:%S.%9fZ")
        .to_string()
}

/// An I/O error as the runtime's, with what was being done.
fn failed(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> runtime::RuntimeError {
    move |e| runtime::RuntimeError::Failed(format!("{what}: {e}"))
}
