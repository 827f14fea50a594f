//! Pods that bring a disk to a machine that runs: the pod's container runs as
//! long as the disk is plugged. Everything else about the pod, where it is
//! placed and what becomes of its claim, is as for other pods.
//!
//! Must not let go of a volume that QEMU still has.

use std::time::Duration;

use machineplan::MachineSpec;
use qmp::DeviceCommand;
use runtime::{ContainerConfig, RuntimeError};
use serde_json::json;
use tokio::time::Instant;

use crate::container::make_directories;
use crate::disks::{self, Preparation};
use crate::failed;
use crate::files::{AttachmentFile, ExitFile, MachineDir, MachineFile, SandboxFile};
use crate::pod_runtime::Inner;
use crate::supervisor::Command;

/// What a guest is given at least to let go of a disk.
const LEAST: Duration = Duration::from_secs(10);
/// How often it is asked: a guest that was booting did not hear it.
const ASK_AGAIN: Duration = Duration::from_secs(2);

impl Inner {
    /// The disk that a container brings, if it is one that does.
    pub(crate) fn attachment(&self, id: &str) -> Option<AttachmentFile> {
        let machine = self.container_dir(id).ok()?.machine().ok()??;
        machine.attachment
    }

    /// Id of the running machine of an instance.
    pub(crate) fn machine_of_instance(&self, uid: &str) -> Result<Option<String>, RuntimeError> {
        let machines = self.config.machines();
        let entries = std::fs::read_dir(&machines).map_err(failed(machines.display()))?;
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Some(id) = name.to_str().filter(|n| crate::sandbox::is_id(n)) else {
                continue;
            };
            let Ok(Some(file)) = self.sandbox_dir(id).sandbox() else {
                continue;
            };
            if file.attachment || file.instance != uid || uid.is_empty() {
                continue;
            }
            for container in self.container_ids(id)? {
                if self.is_running(&self.container_dir(&container)?)? {
                    return Ok(Some(container));
                }
            }
        }
        Ok(None)
    }

    /// Prepares the disk and records how it is plugged.
    pub(crate) async fn plan_attachment(
        &self,
        dir: &MachineDir,
        sandbox: &SandboxFile,
        config: &ContainerConfig,
        mut spec: MachineSpec,
    ) -> Result<(), RuntimeError> {
        let sources = disks::sources(config);
        spec.disks.retain(|d| sources.contains_key(&d.name));
        let Some(disk) = spec.disks.first_mut() else {
            let volumes: Vec<&str> = sources.keys().map(String::as_str).collect();
            return Err(RuntimeError::Invalid {
                reason: "InvalidMachine".into(),
                message: format!("the machine has no disk of volume {}", volumes.join(", ")),
            });
        };
        disk.hotplugged = false;
        let disk = disk.clone();
        let choice = self.accelerator().await;
        make_directories(dir, choice.user).map_err(failed(dir.path().display()))?;
        let preparation = Preparation {
            client: self.client.as_ref(),
            spec: &spec,
            directory: dir.join("disks"),
            user: choice.user,
            qemu_img: &self.config.qemu_img,
            sources,
        };
        let backings = preparation.volumes().await?;
        let invalid = |message: String| RuntimeError::Invalid {
            reason: "InvalidMachine".into(),
            message,
        };
        let backing = backings.get(&disk.name);
        let backing = backing.ok_or_else(|| invalid(format!("volume {} is not there", disk.name)))?;
        let plug = machineplan::plug(&disk, backing).map_err(|e| invalid(e.to_string()))?;
        let machine = MachineFile {
            container: config.name.clone(),
            attempt: config.attempt,
            created_at: crate::now(),
            image: config.image.clone(),
            log: sandbox.log_directory.join(&config.log_path),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            user: choice.user,
            attachment: Some(AttachmentFile {
                device: plug.device,
                node: plug.node,
                blockdev: plug.blockdev,
                devices: plug.devices,
                dump: None,
            }),
            ..MachineFile::default()
        };
        dir.write_machine(&machine).map_err(failed("record the disk"))
    }

    pub(crate) fn machine_of_container(&self, id: &str) -> Result<Option<String>, RuntimeError> {
        let sandbox = id.split('.').next().unwrap_or_default();
        let file = self
            .sandbox_dir(sandbox)
            .sandbox()
            .map_err(failed("read sandbox.json"))?;
        self.machine_of_instance(&file.unwrap_or_default().instance)
    }

    /// Plugs a disk. Doing it again changes nothing.
    pub(crate) async fn plug(&self, id: &str, disk: &AttachmentFile) -> Result<(), RuntimeError> {
        let machine = self.machine_of_container(id)?;
        let machine = machine.ok_or_else(|| RuntimeError::Unavailable("the machine does not run".into()))?;
        let tell = |command| self.command(&machine, Command::Device(command));
        if let Err(error) = tell(DeviceCommand::BlockdevAdd(disk.blockdev.clone())).await
            && !is_there(&error)
        {
            return Err(error);
        }
        let mut last = None;
        for device in &disk.devices {
            match tell(DeviceCommand::DeviceAdd(device.clone())).await {
                Ok(()) => return Ok(()),
                Err(error) if is_there(&error) => return Ok(()),
                Err(error) => last = Some(error),
            }
        }
        let _ = tell(DeviceCommand::BlockdevDel(json!({"node-name": disk.node}))).await;
        let why = last.map(|e| e.to_string()).unwrap_or_default();
        Err(RuntimeError::Invalid {
            reason: "StartError".into(),
            message: format!("cannot plug {}: {why}", disk.device),
        })
    }

    /// Takes a disk out of its machine, and records the end.
    pub(crate) async fn unplug(
        &self,
        id: &str,
        dir: &MachineDir,
        disk: &AttachmentFile,
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let deadline = Instant::now() + grace.max(LEAST);
        while let Some(machine) = self.machine_of_container(id)? {
            let mut states = self.live(&machine).map(|l| l.state.subscribe());
            let ask = DeviceCommand::DeviceDel(json!({"id": disk.device}));
            // It may be gone already, or on its way.
            let asked = self.command(&machine, Command::Device(ask)).await;
            let gone = DeviceCommand::BlockdevDel(json!({"node-name": disk.node}));
            match self.command(&machine, Command::Device(gone.clone())).await {
                Ok(()) => break,
                Err(error) if is_gone(&error) => break,
                Err(_) => {}
            }
            if Instant::now() >= deadline {
                let why = asked.err().map(|e| format!(": {e}")).unwrap_or_default();
                return Err(RuntimeError::Timeout(format!(
                    "taking {} out of the guest{why}",
                    disk.device
                )));
            }
            let told = async {
                match &mut states {
                    Some(states) => _ = states.changed().await,
                    None => std::future::pending().await,
                }
            };
            let _ = tokio::time::timeout(ASK_AGAIN, told).await;
        }
        let exit = ExitFile {
            finished_at: crate::now(),
            reason: "Completed".into(),
            ..ExitFile::default()
        };
        dir.write_exit(&exit).map_err(failed("record the end"))?;
        self.changed(id);
        Ok(())
    }
}

/// Whether QEMU says that there is such a thing already.
fn is_there(error: &RuntimeError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("duplicate")
}

/// Whether QEMU says that there is no such node.
fn is_gone(error: &RuntimeError) -> bool {
    let words = error.to_string().to_lowercase();
    words.contains("failed to find node") || words.contains("cannot find device")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qemus_words_are_understood() {
        let failed = |words: &str| RuntimeError::Unavailable(words.into());
        assert!(is_there(&failed(
            "QEMU refused device_add: Duplicate device ID 'dev-extra'"
        )));
        assert!(is_there(&failed(
            "QEMU refused blockdev-add: Duplicate nodes with node-name='hp-1'"
        )));
        assert!(!is_there(&failed("Bus 'port0' does not support hotplugging")));
        assert!(is_gone(&failed(
            "QEMU refused blockdev-del: Failed to find node with node-name='hp-1'"
        )));
        assert!(!is_gone(&failed("Node hp-1 is in use")));
    }
}
