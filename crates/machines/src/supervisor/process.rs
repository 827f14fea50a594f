//! The supervisor's own process and QEMU's: namespace, cgroup, network device,
//! start, adoption, end.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use qmp::MachineEvent;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, PidfdFlags, Signal};
use rustix::thread::LinkNameSpaceType;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::files::{ExitFile, MachineDir, MachineFile, NetworkFile};

/// Takes a lock that ends with the process; `None` when another has it.
pub(super) fn lock(path: &Path) -> io::Result<Option<File>> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(path)?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(file)),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Leaves the agent's session, cgroup and network. Before any other thread exists.
pub(super) fn enter(machine: &MachineFile) -> io::Result<()> {
    // Fails when we lead a session already, which is as good.
    let _ = rustix::process::setsid();
    if !machine.netns.as_os_str().is_empty() {
        let namespace = File::open(&machine.netns)?;
        rustix::thread::move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    }
    for cgroup in &machine.cgroups {
        let procs = cgroup.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .open(&procs)
            .and_then(|mut f| f.write_all(b"0\n"))
            .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", procs.display())))?;
    }
    if machine.oom_score_adj > 0 {
        // Lowering it needs CAP_SYS_RESOURCE, so it is only raised, and that never fails a start.
        let _ = std::fs::write("/proc/self/oom_score_adj", machine.oom_score_adj.min(1000).to_string());
    }
    Ok(())
}

/// Tells the agent that waits on our standard output, if one does.
pub(super) fn tell_ready() {
    let mut out = io::stdout();
    let _ = out.write_all(b"ready\n").and_then(|()| out.flush());
}

/// Kills every other process in the machine's own cgroups.
pub(super) fn kill_others(cgroups: &[PathBuf]) {
    let own = rustix::process::getpid();
    for cgroup in cgroups {
        let members = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        for pid in members.lines().filter_map(|l| Pid::from_raw(l.trim().parse().ok()?)) {
            if pid != own {
                let _ = rustix::process::kill_process(pid, Signal::KILL);
            }
        }
    }
}

/// Makes the tap in the pod's namespace. Returns QEMU's end: QEMU's user need not be able to
/// open `/dev/net/tun`.
pub(super) fn open_tap(network: &NetworkFile) -> io::Result<OwnedFd> {
    host::tap::open(&network.tap).map_err(|e| io::Error::new(e.kind(), format!("/dev/net/tun: {e}")))
}

/// The tap's address, forwarding and the NAT rules. Doing it again changes nothing.
pub(super) fn prepare_network(network: &NetworkFile) -> io::Result<()> {
    let (tap, lease) = (&network.tap, &network.lease);
    let batch = format!(
        "addr replace {}/{} dev {tap}\nlink set dev {tap} mtu {} up\nlink set dev lo up\n",
        lease.gateway, lease.prefix, lease.mtu
    );
    pipe("ip", &["-batch", "-"], &batch)?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
    // Connections from inside the pod to 127.0.0.1 reach the guest too.
    std::fs::write(format!("/proc/sys/net/ipv4/conf/{tap}/route_localnet"), "1")?;
    pipe("nft", &["-f", "-"], &network.ruleset)
}

fn pipe(program: &str, arguments: &[&str], input: &str) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{program}: {e}"));
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(named)?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes()).map_err(named)?;
    }
    let output = child.wait_with_output().map_err(named)?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!(
        "{program} {}: {}",
        arguments.join(" "),
        words.trim()
    )))
}

/// A running QEMU, our child or one that a supervisor before us started.
pub(super) struct Qemu {
    pidfd: Arc<AsyncFd<OwnedFd>>,
    child: Option<Child>,
}

/// Can kill QEMU from another task.
pub(super) struct Killer(Arc<AsyncFd<OwnedFd>>);

impl Killer {
    /// Kills QEMU, and no process that may have taken its pid.
    pub(super) fn kill(&self) {
        let _ = rustix::process::pidfd_send_signal(self.0.get_ref(), Signal::KILL);
    }
}

impl Qemu {
    /// Starts QEMU as its own user, with its end of the tap.
    pub(super) fn start(dir: &MachineDir, machine: &MachineFile, tap: Option<OwnedFd>) -> io::Result<Self> {
        let mut arguments = machine.arguments.clone();
        if let (Some(network), Some(tap)) = (&machine.network, &tap) {
            let number = host::tap::inheritable(tap)?;
            let named = format!(",fd={}", network.tap);
            for argument in &mut arguments {
                if let Some(start) = argument.strip_suffix(&named) {
                    *argument = format!("{start},fd={number}");
                }
            }
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("qemu.log"))?;
        let child = Command::new(&machine.program)
            .args(&arguments)
            .uid(machine.user.0)
            .gid(machine.user.1)
            .process_group(0)
            .current_dir("/")
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
        let mut qemu = Self::adopt(pid)?;
        qemu.child = Some(child);
        Ok(qemu)
    }

    /// Takes over a QEMU that runs.
    pub(super) fn adopt(pid: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::NONBLOCK)?;
        #[expect(deprecated, reason = "sound for OwnedFd, and its successor is unsafe to call")]
        let pidfd = AsyncFd::with_interest(pidfd, Interest::READABLE)?;
        let pidfd = Arc::new(pidfd);
        Ok(Qemu { pidfd, child: None })
    }

    /// Returns when QEMU has ended.
    pub(super) async fn ended(&self) {
        // A pidfd becomes readable when its process ends, and stays so.
        let _ = self.pidfd.readable().await;
    }

    /// Whether QEMU has ended.
    pub(super) fn has_ended(&mut self) -> bool {
        match &mut self.child {
            Some(child) => !matches!(child.try_wait(), Ok(None)),
            None => {
                let mut ready = [PollFd::new(self.pidfd.get_ref(), PollFlags::IN)];
                matches!(poll(&mut ready, Some(&Timespec::default())), Ok(n) if n > 0)
            }
        }
    }

    /// Something that can kill it.
    pub(super) fn killer(&self) -> Killer {
        Killer(self.pidfd.clone())
    }

    /// Kills QEMU.
    pub(super) fn kill(&self) {
        self.killer().kill();
    }

    /// How it ended, after [`Qemu::ended`].
    pub(super) async fn exit(&mut self, dir: &MachineDir, shutdown: Option<MachineEvent>) -> ExitFile {
        self.ended().await;
        let status = self.child.as_mut().and_then(|c| c.wait().ok());
        let finished_at = crate::now();
        let exit = |exit_code, reason: &str, message: String| ExitFile {
            finished_at,
            exit_code,
            reason: reason.to_owned(),
            message,
        };
        if let Some(MachineEvent::Shutdown { guest: true, reason }) = &shutdown
            && reason == "guest-shutdown"
        {
            return exit(0, "Completed", String::new());
        }
        use std::os::unix::process::ExitStatusExt;
        match status {
            Some(s) if s.success() => exit(0, "Completed", String::new()),
            Some(s) => match (s.code(), s.signal()) {
                (Some(code), _) => exit(code, "Error", last_words(dir)),
                (None, Some(signal)) => exit(128 + signal, "Error", format!("QEMU was killed by signal {signal}")),
                (None, None) => exit(137, "Error", String::new()),
            },
            // Not our child: only the monitor told.
            None => match shutdown {
                Some(MachineEvent::Shutdown { reason, .. }) if reason == "host-qmp-quit" => {
                    exit(0, "Completed", String::new())
                }
                _ => exit(137, "Error", last_words(dir)),
            },
        }
    }
}

/// The end of what QEMU printed: why it did not start.
fn last_words(dir: &MachineDir) -> String {
    let text = std::fs::read(dir.join("qemu.log")).unwrap_or_default();
    let tail = &text[text.len().saturating_sub(1000)..];
    String::from_utf8_lossy(tail).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_is_held_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock(&path).unwrap();
        assert!(first.is_some() && lock(&path).unwrap().is_none());
        drop(first);
        assert!(lock(&path).unwrap().is_some());
    }

    #[tokio::test]
    async fn exit_codes_and_last_words_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineFile {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), "echo cannot open disk >&2; exit 3".into()],
            user: (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw()),
            ..MachineFile::default()
        };
        let dir = MachineDir::new(dir.path());
        let mut qemu = Qemu::start(&dir, &machine, None).unwrap();
        let exit = qemu.exit(&dir, None).await;
        assert_eq!((exit.exit_code, exit.message.as_str()), (3, "cannot open disk"));
    }
}
