//! Whether KVM runs guests on this host, found out by running one.
//!
//! That `/dev/kvm` opens says little: a kernel may offer it and yet interpret
//! the guest instruction by instruction, or refuse what QEMU sets. So a guest of
//! one kilobyte (`guest.S`) runs with the very options that machines get. The
//! answer holds for one boot, one QEMU and one `/dev/kvm`, and is kept on disk.
//!
//! Must not know machines.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use machineplan::Accelerator;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

/// The guest: the end of a ROM.
const GUEST: &[u8] = include_bytes!("guest.bin");
/// Size of the ROM; QEMU wants multiples of 64 KiB.
const ROM_SIZE: usize = 64 << 10;
/// What QEMU ends with when the guest wrote 0x2a to the exit port: `(value << 1) | 1`.
const PASSED: i32 = (0x2a << 1) | 1;
/// How long the guest may take. A processor needs a tenth of the first; the second try is for
/// hosts that are busy with something else just now, and far below what interpretation takes.
const DEADLINES: [Duration; 2] = [Duration::from_secs(2), Duration::from_secs(6)];
/// Version of the file.
const VERSION: u32 = 1;

/// The accelerator, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The accelerator.
    pub accelerator: Accelerator,
    /// User and group that QEMU must run as: the group is the one that may open `/dev/kvm`.
    pub user: (u32, u32),
    /// Why KVM is not used, for people; empty when it is.
    pub why_not_kvm: String,
}

/// What the answer depends on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identity {
    boot_id: String,
    qemu: (u64, i64, u64),
    kvm: Option<(u64, i64)>,
    user: (u32, u32),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kept {
    version: u32,
    identity: Identity,
    why_not_kvm: String,
}

/// Chooses, from the answer kept at `cache` or by the self-test. Never fails: without KVM there is TCG.
pub async fn choose(program: &Path, user: (u32, u32), cache: &Path) -> Choice {
    let kvm = std::fs::metadata("/dev/kvm").ok();
    let with_group = (user.0, kvm.as_ref().map_or(user.1, |m| device_group(m, user.1)));
    let identity = Identity {
        boot_id: boot_id().unwrap_or_default(),
        qemu: std::fs::metadata(program).map_or((0, 0, 0), |m| (m.ino(), m.mtime(), m.len())),
        kvm: kvm.as_ref().map(|m| (m.rdev(), m.ctime())),
        user: with_group,
    };
    let why_not_kvm = match recall(cache, &identity) {
        Some(kept) => kept,
        None => {
            let found = match &kvm {
                None => "there is no /dev/kvm".to_owned(),
                Some(_) => test(program, with_group, &["-accel", "kvm", "-cpu", "host"], cache)
                    .await
                    .err()
                    .unwrap_or_default(),
            };
            remember(cache, identity, &found);
            found
        }
    };
    if why_not_kvm.is_empty() {
        tracing::info!("machines run with KVM");
        return Choice {
            accelerator: Accelerator::Kvm,
            user: with_group,
            why_not_kvm,
        };
    }
    tracing::warn!(
        why = why_not_kvm,
        "KVM is not usable: machines run without hardware acceleration"
    );
    Choice {
        accelerator: Accelerator::Tcg,
        user,
        why_not_kvm,
    }
}

/// Runs the guest; the error says what happened instead.
async fn test(program: &Path, user: (u32, u32), accelerator: &[&str], near: &Path) -> Result<(), String> {
    for deadline in DEADLINES {
        if let Some(result) = try_for(deadline, program, user, accelerator, near).await {
            return result;
        }
    }
    Err(format!(
        "the test guest did not end within {} s",
        DEADLINES[1].as_secs()
    ))
}

/// `None` when the deadline passed.
async fn try_for(
    deadline: Duration,
    program: &Path,
    user: (u32, u32),
    accelerator: &[&str],
    near: &Path,
) -> Option<Result<(), String>> {
    let rom = near.with_extension("rom");
    if let Err(e) = write_rom(&rom) {
        return Some(Err(format!("{}: {e}", rom.display())));
    }
    let mut command = Command::new(program);
    command
        .args([
            "-nodefaults",
            "-no-user-config",
            "-no-reboot",
            "-display",
            "none",
            "-m",
            "16",
        ])
        .args([
            "-machine",
            "q35",
            "-device",
            "isa-debug-exit,iobase=0xf4,iosize=4",
            "-bios",
        ])
        .arg(&rom)
        .args(accelerator)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    if rustix::process::geteuid().is_root() {
        command.uid(user.0).gid(user.1);
    }
    let ended = match command.spawn() {
        Ok(child) => tokio::time::timeout(deadline, child.wait_with_output()).await,
        Err(e) => Ok(Err(e)),
    };
    let _ = std::fs::remove_file(&rom);
    let output = match ended {
        Err(_) => return None,
        Ok(Err(e)) => return Some(Err(format!("{}: {e}", program.display()))),
        Ok(Ok(output)) => output,
    };
    if output.status.code() == Some(PASSED) {
        return Some(Ok(()));
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().last().unwrap_or("the test guest failed");
    Some(Err(match output.status.signal() {
        Some(signal) => format!("QEMU ended by signal {signal}: {last}"),
        None => last.to_owned(),
    }))
}

/// A ROM is mapped so that it ends at 4 GiB, with the reset vector 16 bytes before.
fn write_rom(path: &Path) -> io::Result<()> {
    let mut rom = vec![0xff; ROM_SIZE - GUEST.len()];
    rom.extend_from_slice(GUEST);
    std::fs::write(path, rom)
}

/// The group that may use a device, if it is the group that makes the difference.
pub(crate) fn device_group(device: &std::fs::Metadata, otherwise: u32) -> u32 {
    let for_all = device.mode() & 0o006 == 0o006;
    let for_group = device.mode() & 0o060 == 0o060;
    if !for_all && for_group { device.gid() } else { otherwise }
}

/// What the kernel calls this boot.
pub(crate) fn boot_id() -> io::Result<String> {
    Ok(std::fs::read_to_string("/proc/sys/kernel/random/boot_id")?
        .trim()
        .to_owned())
}

fn recall(cache: &Path, identity: &Identity) -> Option<String> {
    let kept: Kept = serde_json::from_slice(&std::fs::read(cache).ok()?).ok()?;
    (kept.version == VERSION && kept.identity == *identity).then_some(kept.why_not_kvm)
}

fn remember(cache: &Path, identity: Identity, why_not_kvm: &str) {
    let kept = Kept {
        version: VERSION,
        identity,
        why_not_kvm: why_not_kvm.to_owned(),
    };
    let write = || -> io::Result<()> {
        let temporary = cache.with_extension("new");
        std::fs::write(&temporary, serde_json::to_vec(&kept)?)?;
        std::fs::rename(temporary, cache)
    };
    if let Err(error) = write() {
        // Costs a test at the next start and nothing else.
        tracing::warn!(%error, path = %cache.display(), "cannot keep the accelerator's test");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "/usr/bin/qemu-system-x86_64";

    fn own() -> (u32, u32) {
        (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
    }

    #[tokio::test]
    async fn the_guest_passes_where_guests_run() {
        let dir = tempfile::tempdir().unwrap();
        test(
            Path::new(QEMU),
            own(),
            &["-accel", "tcg"],
            &dir.path().join("accelerator.json"),
        )
        .await
        .unwrap();
        let bad = test(
            Path::new(QEMU),
            own(),
            &["-accel", "nonesuch"],
            &dir.path().join("a.json"),
        )
        .await;
        assert!(bad.unwrap_err().contains("nonesuch"));
    }

    #[tokio::test]
    async fn the_answer_is_kept_for_this_boot_and_this_qemu() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("accelerator.json");
        let first = choose(Path::new(QEMU), own(), &cache).await;
        let mut kept: Kept = serde_json::from_slice(&std::fs::read(&cache).unwrap()).unwrap();
        kept.why_not_kvm = "kept".into();
        std::fs::write(&cache, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(choose(Path::new(QEMU), own(), &cache).await.why_not_kvm, "kept");
        kept.identity.boot_id = "another".into();
        std::fs::write(&cache, serde_json::to_vec(&kept).unwrap()).unwrap();
        assert_eq!(choose(Path::new(QEMU), own(), &cache).await, first);
    }
}
