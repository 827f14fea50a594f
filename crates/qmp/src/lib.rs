//! QEMU machine protocol: one connection to one QEMU.
//!
//! Must not decide anything: it sends commands and hands on events.

mod agent;
mod command;
mod facts;

pub use agent::{GuestAgent, GuestExec, GuestInterface, GuestOs};
pub use command::DeviceCommand;
pub use facts::{AgentInfo, GuestFilesystem, GuestUser};

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures::StreamExt;
use qapi::futures::{QapiService, QmpStreamTokio};
use qapi::qmp;
use tokio::io::WriteHalf;
use tokio::net::UnixStream;
use tokio::sync::mpsc;

/// How long QEMU may take to answer a command.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// How long it may take to write the guest's memory down.
const DUMP_TIMEOUT: Duration = Duration::from_secs(1800);

/// What went wrong on a monitor connection.
#[derive(Debug, thiserror::Error)]
pub enum QmpError {
    /// The socket cannot be reached or closed on us: QEMU is gone, or another holds the monitor.
    #[error("QMP connection to {}", path.display())]
    Connection {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// QEMU refused a command.
    #[error("QEMU refused {command}: {message}")]
    Refused {
        /// The command.
        command: &'static str,
        /// QEMU's words.
        message: String,
    },
    /// QEMU did not answer.
    #[error("QEMU did not answer {command} within {} s", ANSWER_TIMEOUT.as_secs())]
    NoAnswer {
        /// The command.
        command: &'static str,
    },
}

/// Something that QEMU tells unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MachineEvent {
    /// The guest is about to end. `guest` says whether by its own will.
    Shutdown {
        /// Whether the guest asked for it (ACPI power-off), as opposed to the host.
        guest: bool,
        /// QEMU's reason, such as `guest-shutdown` or `host-signal`.
        reason: String,
    },
    /// The guest restarts.
    Reset,
    /// The guest has let go of a device: it is gone.
    DeviceDeleted {
        /// Its id.
        id: String,
    },
    /// The processors stopped.
    Stopped,
    /// The processors run again.
    Resumed,
    /// The guest panicked.
    Panicked,
    /// The guest agent's channel opened or closed.
    Agent {
        /// Whether it is open.
        open: bool,
    },
    /// A disk failed.
    BlockError {
        /// Node name of the disk.
        disk: String,
        /// Whether the host's file system is full.
        no_space: bool,
    },
    /// The connection ended: QEMU is gone or let us go.
    Closed,
}

/// A connection to QEMU's monitor.
pub struct Monitor {
    service: QapiService<QmpStreamTokio<WriteHalf<UnixStream>>>,
    path: PathBuf,
}

impl Monitor {
    /// Connects and negotiates. Events arrive on the receiver, [`MachineEvent::Closed`] last.
    pub async fn connect(path: &Path) -> Result<(Self, mpsc::Receiver<MachineEvent>), QmpError> {
        let fail = |source| QmpError::Connection {
            path: path.to_owned(),
            source,
        };
        let negotiation = QmpStreamTokio::open_uds(path).await.map_err(fail)?;
        let stream = negotiation.negotiate().await.map_err(fail)?;
        let (service, mut events) = stream.into_parts();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Ok(event) = event else { break };
                if let Some(event) = translate(event)
                    && sender.send(event).await.is_err()
                {
                    return;
                }
            }
            let _ = sender.send(MachineEvent::Closed).await;
        });
        let path = path.to_owned();
        Ok((Monitor { service, path }, receiver))
    }

    /// Whether the guest's processors run, and QEMU's name of the state.
    pub async fn status(&self) -> Result<(bool, String), QmpError> {
        let info = self.execute("query-status", qmp::query_status {}).await?;
        Ok((info.running, format!("{:?}", info.status)))
    }

    /// Whether the guest has opened the channel of a character device.
    pub async fn channel_open(&self, label: &str) -> Result<bool, QmpError> {
        let devices = self.execute("query-chardev", qmp::query_chardev {}).await?;
        Ok(devices.iter().any(|d| d.label == label && d.frontend_open))
    }

    /// Presses the power button.
    pub async fn power_button(&self) -> Result<(), QmpError> {
        self.execute("system_powerdown", qmp::system_powerdown {})
            .await
            .map(drop)
    }

    /// Pulls the reset line.
    pub async fn reset(&self) -> Result<(), QmpError> {
        self.execute("system_reset", qmp::system_reset {}).await.map(drop)
    }

    /// Stops the processors.
    pub async fn pause(&self) -> Result<(), QmpError> {
        self.execute("stop", qmp::stop {}).await.map(drop)
    }

    /// Lets the processors run.
    pub async fn resume(&self) -> Result<(), QmpError> {
        self.execute("cont", qmp::cont {}).await.map(drop)
    }

    /// Pulls the plug: QEMU flushes its files and ends.
    pub async fn quit(&self) -> Result<(), QmpError> {
        self.execute("quit", qmp::quit {}).await.map(drop)
    }

    /// What a guest's power-off does: end QEMU, or only stop the processors.
    pub async fn on_power_off(&self, pause: bool) -> Result<(), QmpError> {
        self.device(DeviceCommand::on_power_off(pause)).await
    }

    /// Carries out a command on devices.
    pub async fn device(&self, command: DeviceCommand) -> Result<(), QmpError> {
        command.execute(self).await
    }

    pub(crate) async fn execute<C>(&self, name: &'static str, command: C) -> Result<C::Ok, QmpError>
    where
        C: qmp::QmpCommand,
    {
        let limit = if name == "dump-guest-memory" {
            DUMP_TIMEOUT
        } else {
            ANSWER_TIMEOUT
        };
        match tokio::time::timeout(limit, self.service.execute(command)).await {
            Err(_) => Err(QmpError::NoAnswer { command: name }),
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(qapi::ExecuteError::Qapi(e))) => Err(QmpError::Refused {
                command: name,
                message: e.to_string(),
            }),
            Ok(Err(qapi::ExecuteError::Io(source))) => Err(QmpError::Connection {
                path: self.path.clone(),
                source,
            }),
        }
    }
}

fn translate(event: qmp::Event) -> Option<MachineEvent> {
    Some(match event {
        qmp::Event::SHUTDOWN { data, .. } => MachineEvent::Shutdown {
            guest: data.guest,
            reason: reason_name(&format!("{:?}", data.reason)),
        },
        qmp::Event::RESET { .. } => MachineEvent::Reset,
        qmp::Event::DEVICE_DELETED { data, .. } => MachineEvent::DeviceDeleted { id: data.device? },
        qmp::Event::STOP { .. } => MachineEvent::Stopped,
        qmp::Event::RESUME { .. } => MachineEvent::Resumed,
        qmp::Event::GUEST_PANICKED { .. } => MachineEvent::Panicked,
        qmp::Event::VSERPORT_CHANGE { data, .. } => MachineEvent::Agent { open: data.open },
        qmp::Event::BLOCK_IO_ERROR { data, .. } => MachineEvent::BlockError {
            disk: data.node_name.unwrap_or(data.device),
            no_space: data.nospace.unwrap_or(false),
        },
        _ => return None,
    })
}

/// `guest_shutdown` as the library prints it to `guest-shutdown` as QEMU does.
fn reason_name(debug: &str) -> String {
    debug.replace('_', "-")
}
