//! The control socket: JSON lines between agent and supervisor. The supervisor
//! pushes the machine's state at once and at every change; the agent sends
//! commands and gets an answer to each, in order.

use std::io;
use std::path::Path;

use qmp::{DeviceCommand, MachineEvent};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot, watch};

/// What an agent may ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Command {
    /// Press the power button.
    PowerButton,
    /// Stop the processors.
    Pause,
    /// Let them run.
    Resume,
    /// Pull the reset line.
    Reset,
    /// Press the power button, and begin anew when the guest has gone down.
    Reboot,
    /// Change a device.
    Device(DeviceCommand),
    /// Pull the plug; QEMU flushes its files.
    Quit,
    /// Kill QEMU.
    Kill,
    /// The log was rotated away: begin a new file.
    ReopenLog,
}

/// The machine's state as far as QEMU knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MachineState {
    /// Whether the processors are stopped.
    pub paused: bool,
    /// Whether the guest agent has opened its channel.
    pub agent_connected: bool,
    /// Whether the guest panicked.
    pub panicked: bool,
    /// The disk that failed last; empty when none did.
    pub failed_disk: String,
    /// Whether it failed for want of space on the host: the guest waits until there is some.
    pub no_space: bool,
    /// Devices that the guest has let go of, the last ones.
    pub gone_devices: Vec<String>,
}

/// How many of them are remembered.
const REMEMBERED: usize = 64;

impl MachineState {
    /// Takes an event in; whether anything changed.
    pub(crate) fn observe(&mut self, event: &MachineEvent) -> bool {
        let before = self.clone();
        match event {
            MachineEvent::Stopped => self.paused = true,
            MachineEvent::Resumed => {
                self.paused = false;
                self.failed_disk.clear();
                self.no_space = false;
            }
            MachineEvent::Agent { open } => self.agent_connected = *open,
            MachineEvent::Panicked => self.panicked = true,
            MachineEvent::Reset => {
                self.agent_connected = false;
                self.panicked = false;
            }
            MachineEvent::BlockError { disk, no_space } => {
                self.failed_disk.clone_from(disk);
                self.no_space = *no_space;
            }
            MachineEvent::DeviceDeleted { id } => {
                self.gone_devices.retain(|d| d != id);
                self.gone_devices.push(id.clone());
                let most = self.gone_devices.len().saturating_sub(REMEMBERED);
                self.gone_devices.drain(..most);
            }
            MachineEvent::Shutdown { .. } | MachineEvent::Closed => {}
        }
        *self != before
    }
}

/// A line from the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Push {
    /// The state, at the start and at each change.
    State(MachineState),
    /// The answer to the oldest unanswered command; null when it succeeded.
    Answer(Option<String>),
}

pub(super) struct Asked {
    pub command: Command,
    pub answer: oneshot::Sender<Result<(), String>>,
}

/// Listens; every connection gets the state and may command.
pub(super) fn listen(
    path: &Path,
    commands: mpsc::Sender<Asked>,
    state: watch::Receiver<MachineState>,
) -> io::Result<()> {
    let listener = bind(path)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(attend(stream, commands.clone(), state.clone()));
        }
    });
    Ok(())
}

/// A socket that only root may connect to.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    let _ = std::fs::remove_file(path);
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

async fn attend(
    stream: UnixStream,
    commands: mpsc::Sender<Asked>,
    mut state: watch::Receiver<MachineState>,
) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut lines = BufReader::new(read).lines();
    state.mark_changed();
    loop {
        let push = tokio::select! {
            changed = state.changed() => match changed {
                Ok(()) => Push::State(state.borrow_and_update().clone()),
                Err(_) => return Ok(()),
            },
            line = lines.next_line() => match line? {
                Some(line) => Push::Answer(execute(&line, &commands).await.err()),
                None => return Ok(()),
            },
        };
        let mut line = serde_json::to_vec(&push)?;
        line.push(b'\n');
        write.write_all(&line).await?;
    }
}

async fn execute(line: &str, commands: &mpsc::Sender<Asked>) -> Result<(), String> {
    let command = serde_json::from_str(line).map_err(|e| format!("unknown command: {e}"))?;
    let (answer, answered) = oneshot::channel();
    let gone = || "the machine has ended".to_owned();
    commands.send(Asked { command, answer }).await.map_err(|_| gone())?;
    answered.await.map_err(|_| gone())?
}

/// The agent's end, for commands.
pub struct Control {
    lines: tokio::io::Lines<BufReader<tokio::net::unix::OwnedReadHalf>>,
    write: tokio::net::unix::OwnedWriteHalf,
}

impl Control {
    /// Connects to a supervisor.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let (read, write) = UnixStream::connect(path).await?.into_split();
        let lines = BufReader::new(read).lines();
        Ok(Control { lines, write })
    }

    /// Sends a command and waits for its answer.
    pub async fn send(&mut self, command: Command) -> io::Result<()> {
        let mut line = serde_json::to_vec(&command)?;
        line.push(b'\n');
        self.write.write_all(&line).await?;
        loop {
            match self.next().await? {
                Push::Answer(None) => return Ok(()),
                Push::Answer(Some(error)) => return Err(io::Error::other(error)),
                Push::State(_) => {}
            }
        }
    }

    async fn next(&mut self) -> io::Result<Push> {
        let line = self.lines.next_line().await?.ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(serde_json::from_str(&line)?)
    }
}

/// The agent's end, for the state.
pub struct Subscription(Control);

impl Subscription {
    /// Connects to a supervisor.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        Control::connect(path).await.map(Subscription)
    }

    /// The present state at the first call, then each change. An error means that the
    /// supervisor is gone: the machine ended, or the supervisor was killed.
    pub async fn next(&mut self) -> io::Result<MachineState> {
        loop {
            if let Push::State(state) = self.0.next().await? {
                return Ok(state);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn commands_are_answered_and_states_pushed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control.sock");
        let (commands, mut asked) = mpsc::channel(1);
        let (state, watcher) = watch::channel(MachineState::default());
        listen(&path, commands, watcher).unwrap();
        tokio::spawn(async move {
            while let Some(a) = asked.recv().await {
                let refuse = a.command == Command::Reset;
                let _ = a.answer.send(if refuse { Err("no".into()) } else { Ok(()) });
            }
        });
        let mut control = Control::connect(&path).await.unwrap();
        control.send(Command::Pause).await.unwrap();
        assert_eq!(control.send(Command::Reset).await.unwrap_err().to_string(), "no");
        let mut subscription = Subscription::connect(&path).await.unwrap();
        assert!(!subscription.next().await.unwrap().paused);
        state.send_if_modified(|s| s.observe(&MachineEvent::Stopped));
        assert!(subscription.next().await.unwrap().paused);
    }
}
