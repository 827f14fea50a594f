//! QEMU processes: the pod runtime of virtual machines.
//!
//! A machine's pod has a sandbox (network namespace, cgroup, directory) and one
//! container, `compute`, which is QEMU under a supervisor. Must not decide what
//! a machine looks like: that is `machineplan`; must not know containers.

mod accelerator;
mod files;
mod supervisor;

pub use supervisor::{SupervisorError, supervise};

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
