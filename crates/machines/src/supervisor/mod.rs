//! The supervisor: one small process per machine that outlives the agent.
//!
//! ```text
//!   machine.json --> tap, NAT, QEMU started --> running --> QEMU gone --> exit.json
//!                        ^                          |
//!                        '-- QEMU found alive (a supervisor before us was killed)
//! ```
//!
//! It is in the pod's network namespace and cgroup from the start, so that all
//! it makes is there too. QEMU does not depend on it: when the supervisor is
//! killed, QEMU runs on, and the next supervisor takes over by the pid file,
//! which QEMU itself holds locked, so that there never are two QEMUs.
//!
//! Must not decide: everything it does stands in `machine.json`.

mod control;
mod dhcp;
mod process;
mod serial;

use std::io;
use std::path::Path;
use std::time::Duration;

use qmp::{MachineEvent, Monitor};
use tokio::sync::{mpsc, watch};

pub use control::{Command, Control, MachineState, Push, Subscription};

use crate::files::{ExitFile, MachineDir, MachineFile};
use process::Qemu;

/// How long QEMU may take to open its monitor.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(30);

/// What stops a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A step failed.
    #[error("{step}")]
    Step {
        /// Which.
        step: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to supervise.
    #[error("no machine.json: this directory was not prepared by a node agent")]
    NoMachine,
}

pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> SupervisorError {
    let step = step.into();
    move |source| SupervisorError::Step { step, source }
}

/// Supervises the machine in a directory until it ends. The whole life of the process.
pub fn supervise(directory: &Path) -> Result<(), SupervisorError> {
    let dir = MachineDir::new(directory);
    let machine = dir
        .machine()
        .map_err(step("read machine.json"))?
        .ok_or(SupervisorError::NoMachine)?;
    // A second supervisor of the same machine has nothing to do.
    let Some(_lock) = process::lock(&dir.join("supervisor.lock")).map_err(step("lock"))? else {
        return Ok(());
    };
    if dir.exit().map_err(step("read exit.json"))?.is_some() {
        return Ok(());
    }
    process::enter(&machine).map_err(step("enter the pod's namespace and cgroup"))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(step("start"))?;
    let ended = runtime.block_on(run(&dir, &machine));
    let exit = match &ended {
        Ok(exit) => exit.clone(),
        Err(error) => failure(error),
    };
    dir.write_exit(&exit).map_err(step("write exit.json"))?;
    ended.map(drop)
}

fn failure(error: &SupervisorError) -> ExitFile {
    let mut message = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        message = format!("{message}: {cause}");
        source = cause.source();
    }
    ExitFile {
        finished_at: crate::now(),
        exit_code: 128,
        reason: "StartError".into(),
        message,
    }
}

async fn run(dir: &MachineDir, machine: &MachineFile) -> Result<ExitFile, SupervisorError> {
    let started_before = dir.run().join("qemu.pid").exists();
    let mut qemu = match dir.live_qemu() {
        Some(pid) => Qemu::adopt(pid).map_err(step("adopt QEMU"))?,
        None if started_before => {
            return Ok(ExitFile {
                finished_at: crate::now(),
                exit_code: 137,
                reason: "Error".into(),
                message: "QEMU ended while nobody watched it".into(),
            });
        }
        None => {
            if let Some(network) = &machine.network {
                process::prepare_network(network, machine.user.0).map_err(step("prepare the guest's network"))?;
            }
            Qemu::start(dir, machine).map_err(step(format!("start {}", machine.program.display())))?
        }
    };
    if let Some(network) = &machine.network {
        dhcp::serve(network).map_err(step("serve DHCP to the guest"))?;
    }
    let Some((monitor, events)) = connect(dir, &mut qemu).await? else {
        return Ok(qemu.exit(dir, None).await);
    };
    attend(dir, machine, qemu, monitor, events).await
}

/// Waits for the monitor; `None` when QEMU ended instead.
async fn connect(
    dir: &MachineDir,
    qemu: &mut Qemu,
) -> Result<Option<(Monitor, mpsc::Receiver<MachineEvent>)>, SupervisorError> {
    let path = dir.run().join("qmp.sock");
    let deadline = tokio::time::Instant::now() + MONITOR_TIMEOUT;
    // QEMU gives no sign when its socket is there, so this one start-up step retries.
    let mut pause = Duration::from_millis(1);
    loop {
        match Monitor::connect(&path).await {
            Ok(connected) => return Ok(Some(connected)),
            Err(_) if qemu.has_ended() => return Ok(None),
            Err(e) if tokio::time::Instant::now() > deadline => {
                qemu.kill();
                return Err(step("connect to QEMU's monitor")(io::Error::other(e)));
            }
            Err(_) => tokio::time::sleep(pause).await,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
}

/// Serves the agent and the consoles while QEMU lives.
async fn attend(
    dir: &MachineDir,
    machine: &MachineFile,
    mut qemu: Qemu,
    monitor: Monitor,
    mut events: mpsc::Receiver<MachineEvent>,
) -> Result<ExitFile, SupervisorError> {
    let (running, _) = monitor.status().await.unwrap_or((true, String::new()));
    let (state, watcher) = watch::channel(MachineState {
        paused: !running,
        ..MachineState::default()
    });
    let (commands, mut asked) = mpsc::channel(16);
    control::listen(&dir.join("control.sock"), commands, watcher).map_err(step("listen for the agent"))?;
    let console = serial::serve(dir, &machine.log)
        .await
        .map_err(step("attach to the serial console"))?;
    let mut shutdown: Option<MachineEvent> = None;
    let mut open = true;
    loop {
        tokio::select! {
            () = qemu.ended() => break,
            event = events.recv(), if open => match event {
                Some(event @ MachineEvent::Shutdown { .. }) => shutdown = Some(event),
                Some(event) => _ = state.send_if_modified(|s| s.observe(&event)),
                None => open = false,
            },
            Some(asked) = asked.recv() => {
                let answer = obey(&asked.command, &monitor, &qemu, &console).await;
                let _ = asked.answer.send(answer);
            }
        }
    }
    console.finish().await;
    Ok(qemu.exit(dir, shutdown).await)
}

async fn obey(command: &Command, monitor: &Monitor, qemu: &Qemu, console: &serial::Console) -> Result<(), String> {
    let done = match command {
        Command::PowerButton => monitor.power_button().await,
        Command::Pause => monitor.pause().await,
        Command::Resume => monitor.resume().await,
        Command::Reset => monitor.reset().await,
        Command::Quit => match monitor.quit().await {
            Ok(()) => Ok(()),
            // A QEMU that does not answer is killed: the caller wants it gone.
            Err(_) => {
                qemu.kill();
                Ok(())
            }
        },
        Command::Kill => {
            qemu.kill();
            Ok(())
        }
        Command::ReopenLog => {
            console.reopen_log();
            Ok(())
        }
    };
    done.map_err(|e| e.to_string())
}
