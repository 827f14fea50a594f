//! Pods that receive a machine's memory: the container begins the dump, and
//! ends with it. QEMU writes where it may write; the file goes into the claim
//! from there.
//!
//! Must not trust QEMU's file, nor the names in the claim.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use meta::Object;
use qmp::DeviceCommand;
use runtime::{ContainerConfig, RuntimeError};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

use crate::failed;
use crate::files::{AttachmentFile, ExitFile, MachineDir, MachineFile, SandboxFile};
use crate::pod_runtime::Inner;
use crate::sandbox::{DUMP, DUMP_FILE};
use crate::supervisor::Command;

/// The name of the file that a pod receives; `None` for other pods.
pub(crate) fn file_of(pod: &Object) -> Option<&str> {
    let label = pod.labels().get("kubevirt.io")?;
    (label == DUMP).then(|| pod.annotations().get(DUMP_FILE).map_or("", String::as_str))
}

/// Records how a dump ended; once is enough.
pub(crate) fn end(dir: &MachineDir, exit_code: i32, message: &str) -> Result<(), RuntimeError> {
    if dir.exit().map_err(failed("read exit.json"))?.is_some() {
        return Ok(());
    }
    let exit = ExitFile {
        finished_at: crate::now(),
        exit_code,
        reason: if exit_code == 0 { "Completed" } else { "Error" }.into(),
        message: message.to_owned(),
    };
    dir.write_exit(&exit).map_err(failed("record the end"))
}

impl Inner {
    /// Records where the memory goes.
    pub(crate) fn plan_dump(
        &self,
        dir: &MachineDir,
        sandbox: &SandboxFile,
        config: &ContainerConfig,
        name: &str,
    ) -> Result<(), RuntimeError> {
        let invalid = |message: &str| RuntimeError::Invalid {
            reason: "InvalidMachine".into(),
            message: message.to_owned(),
        };
        if name.is_empty() || name.starts_with('.') || name.contains('/') {
            return Err(invalid("the pod names no file for the dump"));
        }
        let mount = config
            .mounts
            .iter()
            .find(|m| m.container_path.starts_with("/var/run/kubevirt/"));
        let mount = mount.ok_or_else(|| invalid("the pod has no volume for the dump"))?;
        std::fs::create_dir_all(dir.path()).map_err(failed(dir.path().display()))?;
        let machine = MachineFile {
            container: config.name.clone(),
            attempt: config.attempt,
            created_at: crate::now(),
            image: config.image.clone(),
            log: sandbox.log_directory.join(&config.log_path),
            labels: config.labels.clone(),
            annotations: config.annotations.clone(),
            attachment: Some(AttachmentFile {
                dump: Some(mount.host_path.join(name)),
                ..AttachmentFile::default()
            }),
            ..MachineFile::default()
        };
        dir.write_machine(&machine).map_err(failed("record the dump"))
    }

    /// Begins to write; the container ends with it.
    pub(crate) fn begin_dump(self: &Arc<Self>, id: &str, target: &Path) -> Result<(), RuntimeError> {
        let dir = self.container_dir(id)?;
        let (inner, id, target) = (self.clone(), id.to_owned(), target.to_owned());
        tokio::spawn(async move {
            let (code, message) = match inner.dump(&id, target).await {
                Ok(()) => (0, String::new()),
                Err(error) => (1, error.to_string()),
            };
            if let Err(error) = end(&dir, code, &message) {
                tracing::error!(container = id, %error, "cannot record the end of a dump");
            }
            inner.changed(&id);
        });
        Ok(())
    }

    async fn dump(&self, id: &str, target: PathBuf) -> Result<(), RuntimeError> {
        let machine = self.machine_of_container(id)?;
        let machine = machine.ok_or_else(|| RuntimeError::Unavailable("the machine does not run".into()))?;
        let source = self.container_dir(&machine)?.run().join(format!("{id}.dump"));
        let command = DeviceCommand::dump_memory(&source.to_string_lossy());
        let mut done = self.command(&machine, Command::Device(command)).await;
        if done.is_ok() {
            let from = source.clone();
            let copied = tokio::task::spawn_blocking(move || copy(&from, &target)).await;
            let copied = copied.unwrap_or_else(|e| Err(io::Error::other(e)));
            done = copied.map_err(failed("write the dump into its claim"));
        }
        let _ = std::fs::remove_file(&source);
        done
    }

    /// Dumps whose agent ended: nobody goes on with them.
    pub(crate) fn break_off_dumps(&self) -> Result<(), RuntimeError> {
        for container in self.sandboxes()?.into_iter().flat_map(|s| s.containers) {
            let dump = self.attachment(&container.id).is_some_and(|a| a.dump.is_some());
            if dump && container.state == runtime::ContainerState::Running {
                end(
                    &self.container_dir(&container.id)?,
                    1,
                    "the agent was restarted during the dump",
                )?;
            }
        }
        Ok(())
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let mut from = File::from(rustix::fs::open(from, flags, Mode::empty())?);
    if !from.metadata()?.is_file() {
        return Err(io::Error::other("QEMU left no file"));
    }
    let (Some(directory), Some(name)) = (to.parent(), to.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    remove_older(directory)?;
    let directory = File::open(directory)?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::RUSR | Mode::WUSR;
    let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
    let mut file = File::from(openat2(&directory, name, flags, mode, how)?);
    let written = io::copy(&mut from, &mut file).and_then(|_| file.sync_all());
    if written.is_err() {
        // Half a dump is none, and takes the room of the next.
        let _ = std::fs::remove_file(to);
    }
    written
}

/// A claim keeps the last dump only: it is made for the size of one.
fn remove_older(directory: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let is_dump = entry.file_name().to_string_lossy().ends_with(".memory.dump");
        if is_dump && entry.file_type()?.is_file() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dump_stays_alone() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["db-1.memory.dump", "notes"] {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let from = dir.path().join("from");
        std::fs::write(&from, "memory").unwrap();
        copy(&from, &dir.path().join("db-2.memory.dump")).unwrap();
        assert!(!dir.path().join("db-1.memory.dump").exists());
        assert!(dir.path().join("notes").exists() && dir.path().join("db-2.memory.dump").exists());
    }

    #[test]
    fn a_dump_is_copied_once_and_follows_no_links() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("a"), dir.path().join("b"));
        std::fs::write(&from, "memory").unwrap();
        copy(&from, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"memory");
        assert!(copy(&from, &to).is_err(), "what is there stays");
        let link = dir.path().join("c");
        std::os::unix::fs::symlink("/etc/hostname", &link).unwrap();
        assert!(copy(&link, &dir.path().join("d")).is_err());
        assert!(copy(&from, &link).is_err());
    }
}
