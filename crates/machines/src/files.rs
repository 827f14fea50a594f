//! What is kept on disk of a machine: its directory is the truth from which
//! agent and supervisor recover. Versioned; written whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use machineplan::Lease;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of every file below.
const VERSION: u32 = 1;

/// A machine's directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineDir(PathBuf);

impl MachineDir {
    /// At a path.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        MachineDir(path.into())
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A file or socket in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// What QEMU itself may write: its sockets and its pid file. The rest belongs to root,
    /// so that a guest that breaks out of QEMU cannot change what is started next.
    pub fn run(&self) -> PathBuf {
        self.0.join("run")
    }

    /// The sandbox, if it was recorded.
    pub fn sandbox(&self) -> io::Result<Option<SandboxFile>> {
        read(&self.join("sandbox.json"))
    }

    /// Records the sandbox.
    pub fn write_sandbox(&self, file: &SandboxFile) -> io::Result<()> {
        write(&self.join("sandbox.json"), file)
    }

    /// What to start, if it was prepared.
    pub fn machine(&self) -> io::Result<Option<MachineFile>> {
        read(&self.join("machine.json"))
    }

    /// Records what to start.
    pub fn write_machine(&self, file: &MachineFile) -> io::Result<()> {
        write(&self.join("machine.json"), file)
    }

    /// When it was started, nanoseconds since the epoch.
    pub fn started(&self) -> io::Result<Option<StartFile>> {
        read(&self.join("started.json"))
    }

    /// Records that it was started: from here on only an exit ends it.
    pub fn write_started(&self, file: &StartFile) -> io::Result<()> {
        write(&self.join("started.json"), file)
    }

    /// How it ended, if it did.
    pub fn exit(&self) -> io::Result<Option<ExitFile>> {
        read(&self.join("exit.json"))
    }

    /// Records how it ended.
    pub fn write_exit(&self, file: &ExitFile) -> io::Result<()> {
        write(&self.join("exit.json"), file)
    }

    /// This machine's QEMU, if it lives: by the pid that it wrote, else by a search.
    ///
    /// The file alone is not enough: QEMU writes it some time after it began and removes
    /// it a little before its end, and after a crash the pid may be another process's.
    pub fn live_qemu(&self) -> Option<i32> {
        let written = fs::read_to_string(self.run().join("qemu.pid"));
        let pid: Option<i32> = written.ok().and_then(|text| text.trim().parse().ok());
        pid.filter(|pid| self.is_qemu(*pid)).or_else(|| self.search_qemu())
    }

    /// Whether a process is this machine's QEMU: its command line names our pid file.
    pub fn is_qemu(&self, pid: i32) -> bool {
        let own = self.run().join("qemu.pid").into_os_string().into_encoded_bytes();
        fs::read(format!("/proc/{pid}/cmdline"))
            .is_ok_and(|line| line.split(|b| *b == 0).any(|argument| argument == own))
    }

    fn search_qemu(&self) -> Option<i32> {
        let mut pids = fs::read_dir("/proc").ok()?.filter_map(|entry| {
            let name = entry.ok()?.file_name();
            name.to_str()?.parse::<i32>().ok()
        });
        pids.find(|pid| self.is_qemu(*pid))
    }

    /// Whether QEMU was begun: then a supervisor may only take it over or see its end.
    pub fn launched(&self) -> bool {
        self.join("launched").exists()
    }

    /// Records that QEMU is about to be begun.
    pub fn mark_launched(&self) -> io::Result<()> {
        File::create(self.join("launched")).map(drop)
    }

    /// Whether a supervisor has the machine: it holds this lock as long as it lives.
    pub fn supervisor_lock(&self) -> PathBuf {
        self.join("supervisor.lock")
    }
}

/// The sandbox: what the runtime must give back in its lists.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SandboxFile {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Attempt.
    pub attempt: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Whether it was stopped.
    pub stopped: bool,
    /// Boot of the host on which it was made: on another it is gone.
    #[serde(default)]
    pub boot_id: String,
    /// Address of the pod.
    pub ip: String,
    /// MTU of the pod network.
    pub mtu: u32,
    /// Network namespace.
    pub netns: PathBuf,
    /// Cgroup directories that QEMU joins.
    pub cgroups: Vec<PathBuf>,
    /// Cgroup directories above them that were made for this sandbox, outermost first.
    #[serde(default)]
    pub made_cgroups: Vec<PathBuf>,
    /// Name servers.
    pub dns: Vec<String>,
    /// Search list.
    pub search: Vec<String>,
    /// Directory of the logs.
    pub log_directory: PathBuf,
    /// Labels to give back.
    pub labels: BTreeMap<String, String>,
    /// Annotations to give back.
    pub annotations: BTreeMap<String, String>,
    /// UID of the instance that the pod belongs to.
    #[serde(default)]
    pub instance: String,
    /// Whether the pod is no machine: it brings a disk to the instance's.
    #[serde(default)]
    pub attachment: bool,
}

/// A disk that a pod brings to a running machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttachmentFile {
    /// Id of the device.
    pub device: String,
    /// Name of the block node.
    pub node: String,
    /// Arguments of `blockdev-add`.
    pub blockdev: Value,
    /// Arguments of `device_add`, to be tried one after the other.
    pub devices: Vec<Value>,
    /// Instead of all that: the file that the guest's memory is written to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dump: Option<PathBuf>,
}

/// The container, and what the supervisor needs to start QEMU. Leaves no choice open.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineFile {
    /// Name of the container.
    pub container: String,
    /// Attempt.
    pub attempt: u32,
    /// Nanoseconds since the epoch.
    pub created_at: i64,
    /// Image as asked for.
    pub image: String,
    /// Absolute path of the log.
    pub log: PathBuf,
    /// Labels to give back.
    pub labels: BTreeMap<String, String>,
    /// Annotations to give back.
    pub annotations: BTreeMap<String, String>,
    /// QEMU's program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// User and group that it runs as.
    pub user: (u32, u32),
    /// Network namespace to enter; empty for none.
    pub netns: PathBuf,
    /// Cgroup directories to join.
    pub cgroups: Vec<PathBuf>,
    /// How readily the kernel kills it when memory is short; only ever raised.
    #[serde(default)]
    pub oom_score_adj: i64,
    /// The guest's network, if it has one.
    pub network: Option<NetworkFile>,
    /// The disk, when it is one that is brought to another machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attachment: Option<AttachmentFile>,
}

/// The guest's network.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetworkFile {
    /// Tap device.
    pub tap: String,
    /// What the guest is told.
    pub lease: Lease,
    /// nftables script for the namespace.
    pub ruleset: String,
}

/// Start of the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartFile {
    /// Nanoseconds since the epoch.
    pub started_at: i64,
    /// Boot of the host on which it was started: after another, nothing runs.
    pub boot_id: String,
}

/// End of the machine.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitFile {
    /// Nanoseconds since the epoch.
    pub finished_at: i64,
    /// Exit code; 0 when the guest powered off.
    pub exit_code: i32,
    /// CamelCase reason.
    pub reason: String,
    /// More words.
    pub message: String,
}

#[derive(Deserialize)]
struct Head {
    version: u32,
}

#[derive(Serialize)]
struct Versioned<T> {
    version: u32,
    #[serde(flatten)]
    content: T,
}

fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    let invalid = |why: String| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {why}", path.display()));
    // The version alone first: what a newer release wrote need not have our fields.
    let head: Head = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    if head.version > VERSION {
        return Err(invalid(format!(
            "version {} was written by a newer release; this one knows {VERSION}",
            head.version
        )));
    }
    let content = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    Ok(Some(content))
}

fn write<T: Serialize>(path: &Path, content: &T) -> io::Result<()> {
    let bytes = serde_json::to_vec(&Versioned {
        version: VERSION,
        content,
    })?;
    let temporary = path.with_extension("new");
    let mut file = File::create(&temporary)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_round_trip_and_newer_versions_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(dir.path());
        assert!(machine.exit().unwrap().is_none());
        machine
            .write_exit(&ExitFile {
                exit_code: 3,
                ..ExitFile::default()
            })
            .unwrap();
        assert_eq!(machine.exit().unwrap().unwrap().exit_code, 3);
        fs::write(machine.join("exit.json"), r#"{"version":99,"exitCode":1}"#).unwrap();
        assert!(machine.exit().unwrap_err().to_string().contains("newer release"));
    }

    #[test]
    fn a_pid_of_another_process_is_not_ours() {
        let dir = tempfile::tempdir().unwrap();
        let machine = MachineDir::new(dir.path());
        fs::create_dir(machine.run()).unwrap();
        fs::write(machine.run().join("qemu.pid"), std::process::id().to_string()).unwrap();
        assert_eq!(machine.live_qemu(), None);
    }
}
