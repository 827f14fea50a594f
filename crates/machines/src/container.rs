//! The container `compute` of a machine's sandbox: QEMU, from the object to the
//! process and back to an exit code.
//!
//! ```text
//!   create: machine.json --> start: started.json, supervisor --> exit.json
//! ```

use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use machineplan::{Accelerator, Lease, MachineSpec, Placement, guest_network, masquerade_ruleset, qemu_arguments};
use runtime::{ContainerConfig, ContainerState, ContainerStatus, RuntimeError, SandboxConfig};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::time::Instant;

use crate::disks::{self, Preparation};
use crate::files::{ExitFile, MachineDir, MachineFile, NetworkFile, SandboxFile, StartFile};
use crate::pod_runtime::Inner;
use crate::sandbox::is_id;
use crate::supervisor::Command;
use crate::{cgroup, dump, failed, objects, paths, watch};

/// How long a supervisor may take to report that QEMU runs.
const START_TIMEOUT: Duration = Duration::from_secs(45);
/// How long QEMU may take to flush and end when told to quit.
const QUIT_TIMEOUT: Duration = Duration::from_secs(10);
/// How often the power button is pressed: a guest that was still booting ignored the first.
const PRESS_AGAIN: Duration = Duration::from_secs(10);
/// Name of the machine's link to its guest.
const TAP: &str = "tap0";
/// Name of the pod's interface.
const UPLINK: &str = "eth0";

impl Inner {
    /// Directory of a container; its id is `<sandbox>.<attempt>`.
    pub(crate) fn container_dir(&self, id: &str) -> Result<MachineDir, RuntimeError> {
        let parts = id.split_once('.').filter(|(s, a)| is_id(s) && a.parse::<u32>().is_ok());
        let (sandbox, attempt) = parts.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        Ok(MachineDir::new(self.sandbox_dir(sandbox).join(attempt)))
    }

    /// Ids of containers that were started and have not ended.
    pub(crate) fn running(&self) -> Result<Vec<String>, RuntimeError> {
        let containers = self.sandboxes()?.into_iter().flat_map(|s| s.containers);
        let running = containers.filter(|c| c.state == ContainerState::Running);
        Ok(running
            .map(|c| c.id)
            .filter(|id| self.attachment(id).is_none())
            .collect())
    }

    /// One container as its directory tells.
    pub(crate) fn container(&self, id: &str, sandbox: &SandboxFile) -> Result<Option<ContainerStatus>, RuntimeError> {
        let dir = self.container_dir(id)?;
        let read = |e| failed(format!("container {id}"))(e);
        let Some(machine) = dir.machine().map_err(read)? else {
            return Ok(None);
        };
        let started = dir.started().map_err(read)?;
        let mut exit = dir.exit().map_err(read)?;
        if let (Some(start), None) = (&started, &exit)
            && start.boot_id != self.boot_id
        {
            exit = Some(ExitFile {
                finished_at: start.started_at,
                exit_code: 137,
                reason: "Error".into(),
                message: "the host was restarted".into(),
            });
        }
        if machine.attachment.as_ref().is_some_and(|a| a.dump.is_none())
            && let (Some(start), None) = (&started, &exit)
            && self.machine_of_instance(&sandbox.instance)?.is_none()
        {
            // With its machine it is gone.
            exit = Some(ExitFile {
                finished_at: start.started_at,
                reason: "Completed".into(),
                ..ExitFile::default()
            });
        }
        let state = match (&started, &exit) {
            (_, Some(_)) => ContainerState::Exited,
            (Some(_), None) => ContainerState::Running,
            (None, None) => ContainerState::Created,
        };
        let mut exit = exit.unwrap_or_default();
        if state == ContainerState::Exited && exit.exit_code == 137 && cgroup::oom_killed(&sandbox.cgroups) {
            exit.reason = "OOMKilled".into();
        }
        Ok(Some(ContainerStatus {
            id: id.to_owned(),
            name: machine.container,
            attempt: machine.attempt,
            state,
            image_ref: machine.image.clone(),
            image: machine.image,
            created_at: machine.created_at,
            started_at: started.map_or(0, |s| s.started_at),
            finished_at: exit.finished_at,
            exit_code: exit.exit_code,
            reason: exit.reason,
            message: exit.message,
            log_path: machine.log,
            labels: machine.labels,
            annotations: machine.annotations,
        }))
    }

    /// Plans the machine, prepares its disks and records both.
    pub(crate) async fn create(
        &self,
        sandbox_id: &str,
        sandbox: &SandboxConfig,
        config: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        let file = if is_id(sandbox_id) {
            let read = self.sandbox_dir(sandbox_id).sandbox();
            read.map_err(failed("read sandbox.json"))?
        } else {
            None
        };
        let file = file.ok_or_else(|| RuntimeError::NotFound(format!("sandbox {sandbox_id}")))?;
        let id = format!("{sandbox_id}.{}", config.attempt);
        let dir = self.container_dir(&id)?;
        if dir.machine().map_err(failed("read machine.json"))?.is_some() {
            return Ok(id);
        }
        let spec = objects::machine_of(self.client.as_ref(), &sandbox.pod).await?;
        let planned = if let Some(name) = dump::file_of(&sandbox.pod) {
            self.plan_dump(&dir, &file, config, name)
        } else if file.attachment {
            self.plan_attachment(&dir, &file, config, spec).await
        } else {
            self.plan(&dir, &file, config, &spec).await
        };
        match planned {
            Ok(()) => Ok(id),
            Err(error) => {
                let _ = fs::remove_dir_all(dir.path());
                Err(error)
            }
        }
    }

    async fn plan(
        &self,
        dir: &MachineDir,
        sandbox: &SandboxFile,
        config: &ContainerConfig,
        spec: &MachineSpec,
    ) -> Result<(), RuntimeError> {
        let choice = self.accelerator().await;
        make_directories(dir, choice.user).map_err(failed(dir.path().display()))?;
        let preparation = Preparation {
            client: self.client.as_ref(),
            spec,
            directory: dir.join("disks"),
            user: choice.user,
            qemu_img: &self.config.qemu_img,
            sources: disks::sources(config),
        };
        let volumes = preparation.volumes().await?;
        let firmware = preparation.firmware().map_err(failed("prepare the UEFI firmware"))?;
        let (ovmf_code, ovmf_vars) = firmware.unzip();
        let vhost = PathBuf::from("/dev/vhost-net");
        let placement = Placement {
            accelerator: choice.accelerator,
            directory: dir.run(),
            volumes,
            kernel: preparation.kernel()?,
            ovmf_code,
            ovmf_vars,
            taps: vec![TAP.to_owned()],
            vhost_net: choice.accelerator == Accelerator::Kvm && paths::may_open(&vhost, choice.user, true).is_ok(),
            mtu: sandbox.mtu,
        };
        let arguments = qemu_arguments(spec, &placement).map_err(|e| RuntimeError::Invalid {
            reason: "InvalidMachine".into(),
            message: format!("VirtualMachineInstance {}/{}: {e}", spec.namespace, spec.name),
        })?;
        let r = &config.resources;
        cgroup::limit(&sandbox.cgroups, r).map_err(failed("limit the machine's cgroup"))?;
        let machine = MachineFile {
            container: config.name.clone(),
            attempt: config.attempt,
            created_at: crate::now(),
            image: config.image.clone(),
            log: sandbox.log_directory.join(&config.log_path),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            program: self.config.qemu.clone(),
            arguments,
            user: choice.user,
            netns: sandbox.netns.clone(),
            cgroups: sandbox.cgroups.clone(),
            oom_score_adj: r.oom_score_adj,
            network: network(spec, sandbox),
            attachment: None,
        };
        dir.write_machine(&machine).map_err(failed("record the machine"))
    }

    /// Starts the supervisor; returns when QEMU runs.
    pub(crate) async fn start(self: &std::sync::Arc<Self>, id: &str) -> Result<(), RuntimeError> {
        let dir = self.container_dir(id)?;
        let machine = dir.machine().map_err(failed("read machine.json"))?;
        let machine = machine.ok_or_else(|| RuntimeError::NotFound(format!("container {id}")))?;
        if dir.started().map_err(failed("read started.json"))?.is_some() {
            return Ok(());
        }
        let start = StartFile {
            started_at: crate::now(),
            boot_id: self.boot_id.clone(),
        };
        if let Some(attachment) = &machine.attachment {
            match &attachment.dump {
                Some(target) => self.begin_dump(id, target)?,
                None => self.plug(id, attachment).await?,
            }
            dir.write_started(&start).map_err(failed("record the start"))?;
            self.changed(id);
            return Ok(());
        }
        dir.write_started(&start).map_err(failed("record the start"))?;
        let ready = self.spawn_supervisor(&dir).await;
        let exit = dir.exit().map_err(failed("read exit.json"))?;
        // Watched from here in any case: only the watch sees the end, or mends a supervisor that failed.
        watch::begin(self, id);
        self.changed(id);
        match (ready, exit) {
            (Ok(true), _) | (Ok(false), None) => Ok(()),
            (Ok(false), Some(exit)) if exit.exit_code == 0 => Ok(()),
            (Ok(false), Some(exit)) => Err(RuntimeError::Invalid {
                reason: "StartError".into(),
                message: exit.message,
            }),
            (Err(error), _) => Err(error),
        }
    }

    /// Starts a supervisor, which outlives us. Whether it reported that QEMU runs.
    pub(crate) async fn spawn_supervisor(&self, dir: &MachineDir) -> Result<bool, RuntimeError> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(dir.join("supervisor.log"))
            .map_err(failed("open supervisor.log"))?;
        let program = &self.config.executable;
        let mut child = tokio::process::Command::new(program)
            .arg("machine-supervisor")
            .arg(dir.path())
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(failed(program.display()))?;
        let stdout = child.stdout.take();
        let ready = async {
            let Some(stdout) = stdout else { return false };
            let mut lines = BufReader::new(stdout).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if line == "ready" {
                    return true;
                }
            }
            false
        };
        let ready = tokio::time::timeout(START_TIMEOUT, ready).await;
        // Nobody else would collect it while we live.
        tokio::spawn(async move { child.wait().await });
        ready.map_err(|_| RuntimeError::Timeout(format!("starting QEMU in {}", dir.path().display())))
    }

    /// Power button, then the plug, then SIGKILL.
    pub(crate) async fn stop(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        let Ok(dir) = self.container_dir(id) else { return Ok(()) };
        if !self.is_running(&dir)? {
            return Ok(());
        }
        if let Some(attachment) = self.attachment(id) {
            if attachment.dump.is_some() {
                return dump::end(&dir, 137, "the dump was broken off");
            }
            return self.unplug(id, &dir, &attachment, grace).await;
        }
        let deadline = Instant::now() + grace;
        // A paused guest cannot hear the button.
        let paused = self.live(id).is_some_and(|l| l.state.borrow().paused);
        while !paused && Instant::now() < deadline {
            if let Err(error) = self.command(id, Command::PowerButton).await {
                tracing::debug!(machine = id, %error, "power button");
            }
            if self.ended(id, &dir, deadline.min(Instant::now() + PRESS_AGAIN)).await? {
                return Ok(());
            }
        }
        for command in [Command::Quit, Command::Kill] {
            let asked = tokio::time::timeout(QUIT_TIMEOUT, self.command(id, command)).await;
            if matches!(asked, Ok(Ok(()))) && self.ended(id, &dir, Instant::now() + QUIT_TIMEOUT).await? {
                return Ok(());
            }
        }
        // The supervisor is gone or stuck: its successor records the end.
        if let Some(pid) = dir.live_qemu().and_then(rustix::process::Pid::from_raw) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if self.ended(id, &dir, Instant::now() + QUIT_TIMEOUT).await? {
            return Ok(());
        }
        Err(RuntimeError::Timeout(format!("stopping machine {id}")))
    }

    /// Waits for the end of a machine; whether it came before the deadline.
    async fn ended(&self, id: &str, dir: &MachineDir, deadline: Instant) -> Result<bool, RuntimeError> {
        let mut events = self.events.subscribe();
        loop {
            if !self.is_running(dir)? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            // The watch of the machine tells its end; without one only looking helps.
            let nap = if self.live(id).is_some() {
                left
            } else {
                left.min(Duration::from_millis(50))
            };
            let _ = tokio::time::timeout(nap, events.recv()).await;
        }
    }

    pub(crate) fn is_running(&self, dir: &MachineDir) -> Result<bool, RuntimeError> {
        let started = dir.started().map_err(failed("read started.json"))?;
        let here = started.is_some_and(|s| s.boot_id == self.boot_id);
        Ok(here && dir.exit().map_err(failed("read exit.json"))?.is_none())
    }

    /// Kills the machine if it runs and removes its directory.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), RuntimeError> {
        self.stop(id, Duration::ZERO).await?;
        let Ok(dir) = self.container_dir(id) else { return Ok(()) };
        match fs::remove_dir_all(dir.path()) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(dir.path().display())(e)),
            _ => {
                self.changed(id);
                Ok(())
            }
        }
    }

    /// Tells listeners that a container changed.
    pub(crate) fn changed(&self, container_id: &str) {
        let sandbox = container_id.split('.').next().unwrap_or_default();
        let file = self.sandbox_dir(sandbox).sandbox();
        let pod_uid = file.ok().flatten().map(|f| f.pod_uid).unwrap_or_default();
        self.emit(sandbox, &pod_uid);
    }
}

pub(crate) fn make_directories(dir: &MachineDir, user: (u32, u32)) -> io::Result<()> {
    // What an attempt that failed left behind.
    if dir.path().exists() {
        fs::remove_dir_all(dir.path())?;
    }
    fs::create_dir(dir.path())?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711))?;
    fs::create_dir(dir.run())?;
    fs::set_permissions(dir.run(), fs::Permissions::from_mode(0o700))?;
    std::os::unix::fs::chown(dir.run(), Some(user.0), Some(user.1))
}

fn network(spec: &MachineSpec, sandbox: &SandboxFile) -> Option<NetworkFile> {
    let interface = spec.interfaces.first()?;
    let guest = guest_network(spec, interface);
    Some(NetworkFile {
        tap: TAP.to_owned(),
        ruleset: masquerade_ruleset(UPLINK, &sandbox.ip, &guest, &interface.ports),
        lease: Lease {
            address: guest.guest,
            prefix: guest.prefix,
            gateway: guest.gateway,
            dns: sandbox.dns.iter().filter_map(|d| d.parse::<Ipv4Addr>().ok()).collect(),
            search: sandbox.search.clone(),
            hostname: spec.hostname.clone(),
            mtu: u16::try_from(sandbox.mtu).unwrap_or(1500),
        },
    })
}
