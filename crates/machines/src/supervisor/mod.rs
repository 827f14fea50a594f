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
//! killed, QEMU runs on, and the next supervisor takes it over. Once QEMU has
//! been begun (`launched`) none is ever started again in this directory, so that
//! there never are two; QEMU also holds its pid file locked.
//!
//! Must not decide: everything it does stands in `machine.json`.

mod control;
mod dhcp;
mod process;
mod serial;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use qmp::{MachineEvent, Monitor};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

pub use control::{Command, Control, MachineState, Subscription};

use crate::files::{ExitFile, MachineDir, MachineFile};
use process::Qemu;

/// How long QEMU may take to open its monitor.
const MONITOR_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a guest may take to go down for a reboot.
const REBOOT_TIMEOUT: Duration = Duration::from_secs(300);
/// How long QEMU's last events may take after its end.
const LAST_WORDS: Duration = Duration::from_secs(1);

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
    let Some(_lock) = process::lock(&dir.supervisor_lock()).map_err(step("lock"))? else {
        return Ok(());
    };
    if dir.exit().map_err(step("read exit.json"))?.is_some() {
        return Ok(());
    }
    if let Err(error) = process::enter(&machine).map_err(step("enter the pod's namespace and cgroup")) {
        // A QEMU that lives is left to a later try; without one this is the end.
        if dir.live_qemu().is_none() {
            dir.write_exit(&failure(&error)).map_err(step("write exit.json"))?;
        }
        return Err(error);
    }
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
    let mut qemu = match begin(dir, machine)? {
        Some(qemu) => qemu,
        None => {
            // Between fork and exec a QEMU has no name yet: whatever else is left in the
            // machine's own cgroup must not come to life after its end was recorded.
            process::kill_others(&machine.cgroups);
            return Ok(ExitFile {
                finished_at: crate::now(),
                exit_code: 137,
                reason: "Error".into(),
                message: "QEMU ended while nobody watched it".into(),
            });
        }
    };
    match serve(dir, machine, &mut qemu).await {
        Ok(shutdown) => Ok(qemu.exit(dir, shutdown).await),
        Err(error) => {
            // An end may be recorded only when there is one.
            qemu.kill();
            qemu.ended().await;
            Err(error)
        }
    }
}

/// Starts QEMU, or takes over the one that runs; `None` when it has run and is gone.
fn begin(dir: &MachineDir, machine: &MachineFile) -> Result<Option<Qemu>, SupervisorError> {
    if dir.launched() {
        let Some(pid) = dir.live_qemu() else { return Ok(None) };
        let qemu = Qemu::adopt(pid).map_err(step("adopt QEMU"))?;
        // The pid may have changed hands before we held it.
        return Ok(dir.is_qemu(pid).then_some(qemu));
    }
    let tap = match &machine.network {
        Some(network) => Some(process::open_tap(network).map_err(step("make the tap"))?),
        None => None,
    };
    dir.mark_launched().map_err(step("record the start"))?;
    let qemu = Qemu::start(dir, machine, tap).map_err(step(format!("start {}", machine.program.display())))?;
    Ok(Some(qemu))
}

/// Serves guest, agent and consoles until QEMU has ended; what QEMU said about its end.
async fn serve(
    dir: &MachineDir,
    machine: &MachineFile,
    qemu: &mut Qemu,
) -> Result<Option<MachineEvent>, SupervisorError> {
    if let Some(network) = &machine.network {
        // While QEMU starts up; and again after a takeover, since the supervisor before us may
        // have died just here.
        process::prepare_network(network).map_err(step("prepare the guest's network"))?;
        dhcp::serve(network).map_err(step("serve DHCP to the guest"))?;
    }
    match connect(dir, qemu).await? {
        Some((monitor, events)) => attend(dir, machine, qemu, Arc::new(monitor), events).await,
        None => Ok(None),
    }
}

/// Waits for the monitor; `None` when QEMU ended instead.
async fn connect(
    dir: &MachineDir,
    qemu: &mut Qemu,
) -> Result<Option<(Monitor, mpsc::Receiver<MachineEvent>)>, SupervisorError> {
    let path = dir.run().join("qmp.sock");
    let deadline = Instant::now() + MONITOR_TIMEOUT;
    // QEMU gives no sign when its socket is there, so this one start-up step retries.
    let mut pause = Duration::from_millis(1);
    loop {
        match Monitor::connect(&path).await {
            Ok(connected) => return Ok(Some(connected)),
            Err(_) if qemu.has_ended() => return Ok(None),
            Err(e) if Instant::now() > deadline => {
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
    qemu: &mut Qemu,
    monitor: Arc<Monitor>,
    mut events: mpsc::Receiver<MachineEvent>,
) -> Result<Option<MachineEvent>, SupervisorError> {
    // Events flow already, so nothing is missed between these questions and the loop.
    let (running, status) = monitor.status().await.unwrap_or((true, String::new()));
    // Its event went to the supervisor before us: let the agent try whether it goes on.
    let no_space = !running && status.replace('_', "-") == "io-error";
    let agent_connected = monitor.channel_open("agent0").await.unwrap_or(false);
    let (state, watcher) = watch::channel(MachineState {
        paused: !running,
        agent_connected,
        no_space,
        failed_disk: if no_space { "(unknown)".into() } else { String::new() },
        ..MachineState::default()
    });
    let (commands, mut asked) = mpsc::channel(16);
    let console = serial::serve(dir, &machine.log)
        .await
        .map_err(step("attach to the serial console"))?;
    control::listen(&dir.join("control.sock"), commands, watcher).map_err(step("listen for the agent"))?;
    process::tell_ready();
    // A supervisor before us may have died while the guest rebooted.
    let _ = monitor.on_power_off(false).await;
    let mut reboot = Reboot::No;
    let mut shutdown: Option<MachineEvent> = None;
    let mut open = true;
    loop {
        tokio::select! {
            () = qemu.ended() => break,
            () = reboot.given_up() => {
                reboot = Reboot::No;
                let monitor = monitor.clone();
                drop(tokio::spawn(async move { monitor.on_power_off(false).await }));
            }
            event = events.recv(), if open => match event {
                Some(event) if reboot.takes(&event) => {
                    if event == MachineEvent::Reset {
                        state.send_if_modified(|s| s.observe(&event));
                    }
                    drop(tokio::spawn(go_on(event, monitor.clone())));
                }
                Some(event @ MachineEvent::Shutdown { .. }) => shutdown = Some(event),
                Some(event) => _ = state.send_if_modified(|s| s.observe(&event)),
                None => open = false,
            },
            Some(asked) = asked.recv() => {
                reboot.hear(&asked.command);
                match asked.command {
                    Command::ReopenLog => {
                        console.reopen_log();
                        let _ = asked.answer.send(Ok(()));
                    }
                    Command::Kill => {
                        qemu.kill();
                        let _ = asked.answer.send(Ok(()));
                    }
                    // Apart, so that a QEMU that does not answer can still be killed.
                    _ => drop(tokio::spawn(obey(asked, monitor.clone(), qemu.killer()))),
                }
            }
        }
    }
    console.finish().await;
    // QEMU's last words may be in the socket still; they end with the connection.
    while open && let Ok(Some(event)) = tokio::time::timeout(LAST_WORDS, events.recv()).await {
        match event {
            MachineEvent::Shutdown { .. } => shutdown = Some(event),
            MachineEvent::Closed => break,
            _ => {}
        }
    }
    Ok(shutdown)
}

/// Where a reboot by the power button stands: QEMU holds the guest that went down, and resets it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reboot {
    No,
    /// The button was pressed, and when.
    Asked(Instant),
    /// The guest is down.
    Down,
}

impl Reboot {
    fn hear(&mut self, command: &Command) {
        match command {
            Command::Reboot => *self = Reboot::Asked(Instant::now()),
            Command::PowerButton | Command::Quit | Command::Kill => *self = Reboot::No,
            _ => {}
        }
    }

    /// Returns when the guest did not heed the button: whatever it does later is its own will.
    async fn given_up(self) {
        match self {
            Reboot::Asked(at) => tokio::time::sleep_until(at + REBOOT_TIMEOUT).await,
            _ => std::future::pending().await,
        }
    }

    /// Whether an event is a step of the reboot, and calls for the next one.
    fn takes(&mut self, event: &MachineEvent) -> bool {
        match (*self, event) {
            (Reboot::Asked(_), MachineEvent::Shutdown { .. }) => *self = Reboot::Down,
            (Reboot::Down, MachineEvent::Reset) => *self = Reboot::No,
            // Held and let go by us: not paused.
            (Reboot::Down, MachineEvent::Stopped) => {}
            _ => return false,
        }
        true
    }
}

/// The next step of a reboot.
async fn go_on(event: MachineEvent, monitor: Arc<Monitor>) {
    let done = match event {
        MachineEvent::Shutdown { .. } => monitor.reset().await,
        MachineEvent::Reset => {
            let _ = monitor.on_power_off(false).await;
            monitor.resume().await
        }
        _ => Ok(()),
    };
    if let Err(error) = done {
        eprintln!("the guest's reboot: {error}");
    }
}

async fn obey(asked: control::Asked, monitor: Arc<Monitor>, killer: process::Killer) {
    let done = match asked.command {
        Command::PowerButton => {
            // It must end, even if it was to reboot before.
            let _ = monitor.on_power_off(false).await;
            monitor.power_button().await
        }
        Command::Reboot => match monitor.on_power_off(true).await {
            Ok(()) => monitor.power_button().await,
            Err(e) => Err(e),
        },
        Command::Device(command) => monitor.device(command).await,
        Command::Pause => monitor.pause().await,
        Command::Resume => monitor.resume().await,
        Command::Reset => monitor.reset().await,
        Command::Quit => {
            // A QEMU that does not answer is killed: the caller wants it gone.
            if monitor.quit().await.is_err() {
                killer.kill();
            }
            Ok(())
        }
        Command::Kill | Command::ReopenLog => Ok(()),
    };
    let _ = asked.answer.send(done.map_err(|e| e.to_string()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reboot_goes_through_its_steps() {
        let down = MachineEvent::Shutdown {
            guest: true,
            reason: "guest-shutdown".into(),
        };
        let mut reboot = Reboot::No;
        assert!(!reboot.takes(&down), "a guest may end by its own will");
        reboot.hear(&Command::Reboot);
        assert!(reboot.takes(&down) && reboot.takes(&MachineEvent::Stopped) && reboot.takes(&MachineEvent::Reset));
        assert!(reboot == Reboot::No);
        reboot.hear(&Command::Reboot);
        reboot.hear(&Command::PowerButton);
        assert!(!reboot.takes(&down), "it was told to end after all");
    }
}
