//! The port between the node agent and whatever runs a pod: containers behind
//! CRI, or a virtual machine in QEMU. Shaped after CRI v1, so that the pod
//! worker is one state machine for both.
//!
//! Must not do I/O, and must not know which runtimes exist.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::BoxStream;
use meta::Object;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};

/// What runs the sandboxes and containers of pods.
///
/// All calls are idempotent where CRI's are: stopping or removing what is not
/// there succeeds.
#[async_trait]
pub trait PodRuntime: Send + Sync {
    /// Name and version for `status.nodeInfo.containerRuntimeVersion`, such as `containerd://1.6.20`.
    async fn version(&self) -> Result<String, RuntimeError>;

    /// Whether the runtime can run pods now; the error says what is missing.
    async fn ready(&self) -> Result<(), RuntimeError>;

    /// Creates and starts a sandbox: the network namespace, its address, its cgroup. Returns its id.
    async fn run_sandbox(&self, sandbox: &SandboxConfig) -> Result<String, RuntimeError>;

    /// Stops everything in a sandbox and releases its network.
    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError>;

    /// Forgets a stopped sandbox and its containers.
    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError>;

    /// Every sandbox with its containers, as the runtime has them now.
    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError>;

    /// One sandbox with its containers; `None` when there is no such sandbox.
    async fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError>;

    /// Creates a container in a sandbox. Returns its id.
    async fn create_container(
        &self,
        sandbox_id: &str,
        sandbox: &SandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError>;

    /// Starts a created container.
    async fn start_container(&self, id: &str) -> Result<(), RuntimeError>;

    /// Asks a container to stop and kills it when `grace` has passed. Returns when it has stopped.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError>;

    /// Removes a container; kills it if it still runs.
    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError>;

    /// Runs a command in a container to its end and returns what it printed.
    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError>;

    /// Opens an interactive stream (exec, attach or port-forward).
    async fn open_stream(&self, request: &StreamRequest) -> Result<StreamTarget, RuntimeError>;

    /// Tells the runtime that a container's log file was rotated away.
    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError>;

    /// CPU and memory use of every container.
    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError>;

    /// The directory that a container's own writes end up in, where it is not the upper layer of
    /// its root file system: a machine's disks.
    fn storage(&self, _container_id: &str) -> Option<PathBuf> {
        None
    }

    /// Something about a sandbox changed: look again. The stream lives as long as the runtime does.
    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError>;

    /// The image's id when it is present.
    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>, RuntimeError>;

    /// Pulls an image. Returns its reference by digest or id.
    async fn pull_image(&self, image: &str, auth: Option<&RegistryAuth>) -> Result<String, RuntimeError>;

    /// All images present.
    async fn list_images(&self) -> Result<Vec<ImageInfo>, RuntimeError>;

    /// Removes an image.
    async fn remove_image(&self, image: &str) -> Result<(), RuntimeError>;

    /// Makes the files of an image that is present appear read-only at `target`, an existing
    /// empty directory. Doing it again is no error.
    async fn mount_image(&self, _image: &str, _target: &Path) -> Result<(), RuntimeError> {
        Err(RuntimeError::Unsupported("mounting images".into()))
    }

    /// Undoes [`PodRuntime::mount_image`]. What is not mounted is no error.
    async fn unmount_image(&self, _target: &Path) -> Result<(), RuntimeError> {
        Ok(())
    }
}

/// The pod network of this node, for runtimes that make network namespaces themselves.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Gives the namespace at `netns` an interface `eth0` with an address. The same
    /// sandbox gets the same address again.
    async fn attach(
        &self,
        sandbox_id: &str,
        netns: &Path,
        host_ports: &[PortMapping],
    ) -> Result<PodAddress, RuntimeError>;

    /// Releases the sandbox's address and interface; unknown sandboxes are no error.
    async fn detach(&self, sandbox_id: &str) -> Result<(), RuntimeError>;
}

/// The Services of this node, as far as new connections to a pod are concerned.
#[async_trait]
pub trait ServiceRules: Send + Sync {
    /// Waits until no Service leads new connections from this node to a pod's address, given that
    /// no EndpointSlice says any more that it is ready. An endpoint that terminates may keep those
    /// of Services that have no other. `None` for a pod that has no address to itself: then it is
    /// waited until all that is known now of endpoints is in force. May take for ever: the caller
    /// limits it.
    async fn withdrawn(&self, pod: Option<IpAddr>);
}

/// The persistent volumes of this node, for pods that use them.
#[async_trait]
pub trait PodVolumes: Send + Sync {
    /// Makes a volume usable by a pod. Doing it again is no error, and gives the same path.
    ///
    /// For [`VolumeUse::Filesystem`] the path is the target; for a block device it is the device;
    /// for a machine it is the disk's file or device.
    async fn publish(&self, claim: &VolumeClaim) -> Result<PathBuf, RuntimeError>;

    /// Ends a pod's use of a volume. What is not in use is no error.
    async fn unpublish(&self, claim: &VolumeClaim) -> Result<(), RuntimeError>;
}

/// A pod's use of a persistent volume.
#[derive(Clone, Debug)]
pub struct VolumeClaim {
    /// The PersistentVolume.
    pub volume: Arc<Object>,
    /// UID of the pod.
    pub pod_uid: String,
    /// Whether the claim is ReadWriteOncePod.
    pub single: bool,
    /// How it is used.
    pub usage: VolumeUse,
}

/// How a pod uses a persistent volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeUse {
    /// Its file system, mounted at an existing directory.
    Filesystem {
        /// The directory.
        target: PathBuf,
        /// Whether writes are refused.
        read_only: bool,
        /// Group that owns the files (`spec.securityContext.fsGroup`).
        fs_group: Option<u32>,
    },
    /// A block device.
    Block,
    /// A disk of a virtual machine.
    Machine,
}

/// How a pod is on the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// The pod's address.
    pub ip: IpAddr,
    /// Prefix length of its network.
    pub prefix: u8,
    /// Its default gateway.
    pub gateway: IpAddr,
    /// Largest packet.
    pub mtu: u32,
}

/// What a sandbox is to be.
#[derive(Clone, Debug)]
pub struct SandboxConfig {
    /// The pod itself, for runtimes that need more than the fields below.
    pub pod: Arc<Object>,
    /// Counts the sandboxes of this pod, from 0.
    pub attempt: u32,
    /// Host name inside the sandbox.
    pub hostname: String,
    /// Directory that the containers' log files are relative to.
    pub log_directory: PathBuf,
    /// Name servers, search list and options of the pod's resolv.conf.
    pub dns: DnsConfig,
    /// Parent cgroup, such as `/allmend/burstable/pod<uid>`.
    pub cgroup_parent: String,
    /// `spec.hostNetwork`, `hostPID`, `hostIPC`, `shareProcessNamespace`.
    pub namespaces: Namespaces,
    /// Kernel parameters from the pod's security context.
    pub sysctls: BTreeMap<String, String>,
    /// Host ports of all containers.
    pub port_mappings: Vec<PortMapping>,
    /// Whether any container is privileged.
    pub privileged: bool,
    /// `securityContext` of the pod as JSON; null when absent.
    pub security_context: Value,
    /// Labels the runtime must give back in [`SandboxStatus`].
    pub labels: BTreeMap<String, String>,
    /// Annotations the runtime must give back.
    pub annotations: BTreeMap<String, String>,
}

/// Resolver settings of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DnsConfig {
    /// Name servers.
    pub servers: Vec<String>,
    /// Search list.
    pub searches: Vec<String>,
    /// Options, such as `ndots:5`.
    pub options: Vec<String>,
}

/// Which namespaces a pod shares with the host or among its containers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespaces {
    /// `spec.hostNetwork`.
    pub host_network: bool,
    /// `spec.hostPID`.
    pub host_pid: bool,
    /// `spec.hostIPC`.
    pub host_ipc: bool,
    /// `spec.shareProcessNamespace`.
    pub share_process: bool,
}

/// A port of the host that leads into a sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortMapping {
    /// `TCP`, `UDP` or `SCTP`.
    pub protocol: String,
    /// Port inside.
    pub container_port: u16,
    /// Port on the host.
    pub host_port: u16,
    /// Host address; empty for all.
    pub host_ip: String,
}

/// What a container is to be.
#[derive(Clone, Debug, Default)]
pub struct ContainerConfig {
    /// Name within the pod.
    pub name: String,
    /// Restart count, from 0.
    pub attempt: u32,
    /// Image reference as the user wrote it.
    pub image: String,
    /// What [`PodRuntime::pull_image`] or [`PodRuntime::image_status`] said the image is.
    pub image_ref: String,
    /// Entry point; empty for the image's own.
    pub command: Vec<String>,
    /// Arguments; empty for the image's own.
    pub args: Vec<String>,
    /// Working directory; empty for the image's own.
    pub working_dir: String,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// Mounts of files and directories of the host.
    pub mounts: Vec<Mount>,
    /// Block devices of the host.
    pub devices: Vec<Device>,
    /// Log file relative to the sandbox's log directory.
    pub log_path: String,
    /// Whether stdin is kept open.
    pub stdin: bool,
    /// Whether stdin closes after the first attach.
    pub stdin_once: bool,
    /// Whether there is a terminal.
    pub tty: bool,
    /// CPU and memory settings of the cgroup.
    pub resources: Resources,
    /// The container's and the pod's security contexts, merged, as JSON.
    pub security_context: Value,
    /// `STOPSIGNAL` override; empty for the image's own.
    pub stop_signal: String,
    /// Id of the container whose process namespace this one enters (ephemeral containers
    /// with a target); empty for none.
    pub target_id: String,
    /// Labels the runtime must give back in [`ContainerStatus`].
    pub labels: BTreeMap<String, String>,
    /// Annotations the runtime must give back.
    pub annotations: BTreeMap<String, String>,
}

/// A bind mount.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: String,
    /// Whether writes are refused.
    pub read_only: bool,
    /// `None`, `HostToContainer` or `Bidirectional`.
    pub propagation: String,
}

/// A device node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Path on the host.
    pub host_path: PathBuf,
    /// Path in the container.
    pub container_path: String,
    /// Subset of `rwm`.
    pub permissions: String,
}

/// Cgroup settings of a container, in the kernel's v1 terms; runtimes convert for v2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    /// `cpu.shares`, 2 to 262144; 0 for unset.
    pub cpu_shares: i64,
    /// `cpu.cfs_quota_us`; 0 for unset.
    pub cpu_quota: i64,
    /// `cpu.cfs_period_us`; 0 for unset.
    pub cpu_period: i64,
    /// Bytes; 0 for unset.
    pub memory_limit: i64,
    /// `oom_score_adj`, -1000 to 1000.
    pub oom_score_adj: i64,
}

/// A sandbox as the runtime has it.
#[derive(Clone, Debug, Default)]
pub struct SandboxStatus {
    /// Id.
    pub id: String,
    /// UID of the pod it belongs to.
    pub pod_uid: String,
    /// Name of the pod.
    pub pod_name: String,
    /// Namespace of the pod.
    pub pod_namespace: String,
    /// Attempt it was made with.
    pub attempt: u32,
    /// Whether it is up.
    pub ready: bool,
    /// Addresses; the first is the pod's IP. Empty with the host's network.
    pub ips: Vec<String>,
    /// When it was made, nanoseconds since the epoch.
    pub created_at: i64,
    /// Labels it was made with.
    pub labels: BTreeMap<String, String>,
    /// Annotations it was made with.
    pub annotations: BTreeMap<String, String>,
    /// Its containers, all attempts.
    pub containers: Vec<ContainerStatus>,
}

/// A container as the runtime has it.
#[derive(Clone, Debug, Default)]
pub struct ContainerStatus {
    /// Id.
    pub id: String,
    /// Name within the pod.
    pub name: String,
    /// Attempt it was made with.
    pub attempt: u32,
    /// Created, running or exited.
    pub state: ContainerState,
    /// Image as asked for.
    pub image: String,
    /// Image as found.
    pub image_ref: String,
    /// Nanoseconds since the epoch; 0 when it has not happened.
    pub created_at: i64,
    /// Nanoseconds since the epoch; 0 when it has not happened.
    pub started_at: i64,
    /// Nanoseconds since the epoch; 0 when it has not happened.
    pub finished_at: i64,
    /// Exit code once exited.
    pub exit_code: i32,
    /// CamelCase reason such as `OOMKilled`, `Completed`, `Error`.
    pub reason: String,
    /// More words.
    pub message: String,
    /// Absolute path of the log file.
    pub log_path: PathBuf,
    /// Labels it was made with.
    pub labels: BTreeMap<String, String>,
    /// Annotations it was made with.
    pub annotations: BTreeMap<String, String>,
}

/// State of a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerState {
    /// Made but not started.
    #[default]
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime does not know.
    Unknown,
}

/// Something changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// Look at this sandbox again.
    Sandbox {
        /// Id of the sandbox; empty when only the pod is known.
        id: String,
        /// UID of the pod; empty when only the sandbox is known.
        pod_uid: String,
    },
    /// Events may have been missed: look at everything again.
    Resync,
}

/// What a command printed.
#[derive(Clone, Debug, Default)]
pub struct ExecOutput {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit code.
    pub exit_code: i32,
}

/// What kind of stream is wanted.
#[derive(Clone, Debug)]
pub enum StreamRequest {
    /// Run a command.
    Exec {
        /// Container id.
        container_id: String,
        /// Command and arguments.
        command: Vec<String>,
        /// Which standard streams, and whether on a terminal.
        streams: Streams,
    },
    /// Attach to the main process.
    Attach {
        /// Container id.
        container_id: String,
        /// Which standard streams, and whether on a terminal.
        streams: Streams,
    },
    /// Connect to ports inside the sandbox.
    PortForward {
        /// Sandbox id.
        sandbox_id: String,
        /// The ports.
        ports: Vec<u16>,
    },
    /// A byte channel of a virtual machine.
    Machine {
        /// Container id.
        container_id: String,
        /// Which one.
        channel: MachineChannel,
    },
}

/// A byte channel of a virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineChannel {
    /// The serial console.
    Console,
    /// The display, in the RFB protocol (RFC 6143).
    Vnc,
    /// A USB port for a device of the client's, in the usbredir protocol.
    UsbRedirection,
    /// Datagrams to and from a port of the guest's: each read and each write is one.
    Udp(u16),
}

/// Which standard streams are wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Streams {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// One terminal for all three.
    pub tty: bool,
}

/// Where a stream leads.
pub enum StreamTarget {
    /// A streaming server of the runtime that speaks SPDY/3.1 remotecommand (CRI).
    Url(String),
    /// Raw bytes: a serial console, or one forwarded port.
    Raw(Box<dyn Duplex>),
}

/// Both directions of a byte stream.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// Use of resources by one container.
#[derive(Clone, Debug, Default)]
pub struct ContainerStats {
    /// UID of the pod.
    pub pod_uid: String,
    /// Name within the pod.
    pub name: String,
    /// When it was read, nanoseconds since the epoch.
    pub timestamp: i64,
    /// Total CPU time, nanoseconds.
    pub cpu_usage: u64,
    /// Working set, bytes.
    pub memory_working_set: u64,
}

/// An image that is present.
#[derive(Clone, Debug, Default)]
pub struct ImageInfo {
    /// Id by digest.
    pub id: String,
    /// Tags.
    pub repo_tags: Vec<String>,
    /// Digests.
    pub repo_digests: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Numeric user of the image's config, if any.
    pub uid: Option<i64>,
    /// Named user of the image's config; empty when none.
    pub username: String,
}

/// Credentials of an image registry. Never printed.
#[derive(Clone, Default)]
pub struct RegistryAuth {
    /// User.
    pub username: String,
    /// Password.
    pub password: String,
    /// Ready-made `auth` field of a Docker config.
    pub auth: String,
    /// Server the credentials are for.
    pub server_address: String,
    /// Token.
    pub identity_token: String,
}

/// What went wrong in a runtime.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The thing is not there.
    #[error("{0} not found")]
    NotFound(String),
    /// The runtime cannot be reached; it may come back.
    #[error("runtime unavailable: {0}")]
    Unavailable(String),
    /// It took too long.
    #[error("{0} timed out")]
    Timeout(String),
    /// The runtime cannot do this.
    #[error("{0} is not supported by this runtime")]
    Unsupported(String),
    /// The object asks for something wrong: it will not go away by itself.
    /// `reason` is CamelCase, such as `ImagePullBackOff`'s cause `ErrImagePull` or `FailedMount`.
    #[error("{message}")]
    Invalid {
        /// CamelCase reason.
        reason: String,
        /// For people: object, field, remedy.
        message: String,
    },
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}
