//! [`MachineRuntime`]: `PodRuntime` for pods whose sandbox is a virtual machine.
//!
//! The disk is the truth: every answer is read from the sandboxes' directories,
//! so a new agent knows what the one before it knew. Must not keep in memory
//! what a restart would lose.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use client::Client;
use futures::StreamExt;
use futures::stream::BoxStream;
use runtime::{
    ContainerConfig, ContainerStats, ExecOutput, ImageInfo, PodNetwork, PodRuntime, RegistryAuth, RuntimeError,
    RuntimeEvent, SandboxConfig, SandboxStatus, StreamRequest, StreamTarget,
};
use tokio::sync::{OnceCell, broadcast};
use tokio_stream::wrappers::BroadcastStream;

use crate::accelerator::{self, Choice};
use crate::supervisor::{Command, Control, MachineState};
use crate::watch::Live;
use crate::{cgroup, display, facts, failed, guest, paths, sandbox, stream, watch};

/// The image that a machine's container has: QEMU itself.
pub const MACHINE_IMAGE: &str = "allmend.local/machine:1";

/// Where things are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data directory; QEMU's user must be able to enter it.
    pub data_dir: PathBuf,
    /// The program that is the supervisor when called as `<program> machine-supervisor DIR`.
    pub executable: PathBuf,
    /// `qemu-system-x86_64`.
    pub qemu: PathBuf,
    /// `qemu-img`.
    pub qemu_img: PathBuf,
    /// User and group that QEMU runs as.
    pub user: (u32, u32),
}

impl Config {
    /// Debian's programs, and the user 107 that KubeVirt's images are made for.
    pub fn new(data_dir: impl Into<PathBuf>, executable: impl Into<PathBuf>) -> Self {
        Config {
            data_dir: data_dir.into(),
            executable: executable.into(),
            qemu: "/usr/bin/qemu-system-x86_64".into(),
            qemu_img: "/usr/bin/qemu-img".into(),
            user: (107, 107),
        }
    }

    pub(crate) fn machines(&self) -> PathBuf {
        self.data_dir.join("machines")
    }

    pub(crate) fn netns(&self, id: &str) -> PathBuf {
        self.data_dir.join("run/netns").join(id)
    }
}

/// Runs machines. Cheap to clone; must be made inside a tokio runtime.
#[derive(Clone)]
pub struct MachineRuntime {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Config,
    pub client: Arc<dyn Client>,
    pub network: Arc<dyn PodNetwork>,
    pub events: broadcast::Sender<RuntimeEvent>,
    pub hierarchy: cgroup::Hierarchy,
    pub boot_id: String,
    accelerator: OnceCell<Choice>,
    version: OnceCell<String>,
    /// Machines whose supervisor is being listened to.
    pub live: Mutex<HashMap<String, Arc<Live>>>,
}

impl MachineRuntime {
    /// Takes up the machines that the directory knows, and begins the accelerator's self-test.
    pub fn open(config: Config, client: Arc<dyn Client>, network: Arc<dyn PodNetwork>) -> Result<Self, RuntimeError> {
        use std::os::unix::fs::PermissionsExt;
        let machines = config.machines();
        std::fs::create_dir_all(&machines).map_err(failed(machines.display()))?;
        std::fs::set_permissions(&machines, std::fs::Permissions::from_mode(0o711))
            .map_err(failed(machines.display()))?;
        let boot_id = accelerator::boot_id().map_err(failed("read the boot id"))?;
        let (events, _) = broadcast::channel(1024);
        let inner = Arc::new(Inner {
            config,
            client,
            network,
            events,
            hierarchy: cgroup::detect(),
            boot_id,
            accelerator: OnceCell::new(),
            version: OnceCell::new(),
            live: Mutex::default(),
        });
        let testing = inner.clone();
        tokio::spawn(async move { testing.accelerator().await });
        for id in inner.running()? {
            watch::begin(&inner, &id);
        }
        inner.break_off_dumps()?;
        Ok(MachineRuntime { inner })
    }

    /// The accelerator in use; waits for the self-test.
    pub async fn accelerator(&self) -> Choice {
        self.inner.accelerator().await
    }

    /// Stops the guest's processors.
    pub async fn pause(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.inner.command(container_id, Command::Pause).await
    }

    /// Lets the guest's processors run again.
    pub async fn unpause(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.inner.command(container_id, Command::Resume).await
    }

    /// Pulls the guest's reset line.
    pub async fn reset(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.inner.command(container_id, Command::Reset).await
    }

    /// Presses the guest's power button.
    pub async fn power_button(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.inner.command(container_id, Command::PowerButton).await
    }

    /// The state of a running machine as last told by its supervisor.
    pub fn state(&self, container_id: &str) -> Option<MachineState> {
        let live = self.inner.live(container_id)?;
        let state = live.state.borrow().clone();
        Some(state)
    }

    /// Asks the guest to reboot: by its agent, else by the power button.
    pub async fn soft_reboot(&self, container_id: &str) -> Result<(), RuntimeError> {
        if facts::reboot(&self.inner, container_id).await {
            return Ok(());
        }
        self.inner.command(container_id, Command::Reboot).await
    }

    /// What the guest agent says of the guest, as KubeVirt shows it; `what` is `guestosinfo`,
    /// `userlist` or `filesystemlist`.
    pub async fn guest_info(&self, container_id: &str, what: &str) -> Result<serde_json::Value, RuntimeError> {
        facts::info(&self.inner, container_id, what).await
    }

    /// Holds the guest's filesystems still, until told to go on or for so long.
    pub async fn freeze(&self, container_id: &str, at_most: Duration) -> Result<(), RuntimeError> {
        facts::freeze(&self.inner, container_id, at_most).await
    }

    /// Lets the guest's filesystems go on.
    pub async fn unfreeze(&self, container_id: &str) -> Result<(), RuntimeError> {
        facts::unfreeze(&self.inner, container_id).await
    }

    /// A picture of the display, as PNG.
    pub async fn screenshot(&self, container_id: &str) -> Result<Vec<u8>, RuntimeError> {
        display::screenshot(&self.inner, container_id).await
    }

    /// Id of the machine's container in a pod, the latest when there were several.
    pub fn container_of(&self, pod_uid: &str) -> Result<Option<String>, RuntimeError> {
        let mut all = self.inner.sandboxes()?;
        all.retain(|s| s.pod_uid == pod_uid);
        let containers = all.into_iter().flat_map(|s| s.containers);
        Ok(containers.max_by_key(|c| c.created_at).map(|c| c.id))
    }
}

impl Inner {
    pub(crate) async fn accelerator(&self) -> Choice {
        let cache = self.config.data_dir.join("accelerator.json");
        let test = || accelerator::choose(&self.config.qemu, self.config.user, &cache);
        self.accelerator.get_or_init(test).await.clone()
    }

    pub(crate) fn live(&self, container_id: &str) -> Option<Arc<Live>> {
        let live = self.live.lock().unwrap_or_else(PoisonError::into_inner);
        live.get(container_id).cloned()
    }

    pub(crate) fn emit(&self, sandbox_id: &str, pod_uid: &str) {
        // Nobody listening is fine: whoever comes later lists first.
        let _ = self.events.send(RuntimeEvent::Sandbox {
            id: sandbox_id.to_owned(),
            pod_uid: pod_uid.to_owned(),
        });
    }

    /// Sends one command to a machine's supervisor.
    pub(crate) async fn command(&self, container_id: &str, command: Command) -> Result<(), RuntimeError> {
        let dir = self.container_dir(container_id)?;
        let unavailable = |e: std::io::Error| RuntimeError::Unavailable(format!("machine {container_id}: {e}"));
        let mut control = Control::connect(&dir.join("control.sock")).await.map_err(unavailable)?;
        control.send(command).await.map_err(unavailable)
    }
}

#[async_trait]
impl PodRuntime for MachineRuntime {
    async fn version(&self) -> Result<String, RuntimeError> {
        let read = || async {
            let output = tokio::process::Command::new(&self.inner.config.qemu)
                .arg("--version")
                .output();
            let output = output.await.map_err(failed(self.inner.config.qemu.display()))?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = text.split_whitespace().nth(3).unwrap_or("unknown");
            Ok::<_, RuntimeError>(format!("qemu://{version}"))
        };
        self.inner.version.get_or_try_init(read).await.cloned()
    }

    async fn ready(&self) -> Result<(), RuntimeError> {
        let config = &self.inner.config;
        let needs: [(&Path, &str); 3] = [
            (&config.qemu, "install the package qemu-system-x86"),
            (&config.qemu_img, "install the package qemu-utils"),
            (Path::new("/dev/net/tun"), "load the kernel module tun"),
        ];
        for (path, remedy) in needs {
            if !path.exists() {
                let why = format!("{} is missing; {remedy}", path.display());
                return Err(RuntimeError::Unavailable(why));
            }
        }
        let machines = config.machines();
        let mut above = machines.ancestors();
        above
            .try_for_each(|d| paths::may_enter(d, config.user))
            .map_err(RuntimeError::Unavailable)
    }

    async fn run_sandbox(&self, config: &SandboxConfig) -> Result<String, RuntimeError> {
        sandbox::run(&self.inner, config).await
    }

    async fn stop_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        sandbox::stop(&self.inner, id).await
    }

    async fn remove_sandbox(&self, id: &str) -> Result<(), RuntimeError> {
        sandbox::remove(&self.inner, id).await
    }

    async fn list(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        self.inner.sandboxes()
    }

    async fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        self.inner.sandbox(id)
    }

    async fn create_container(
        &self,
        sandbox_id: &str,
        sandbox: &SandboxConfig,
        container: &ContainerConfig,
    ) -> Result<String, RuntimeError> {
        self.inner.create(sandbox_id, sandbox, container).await
    }

    async fn start_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.start(id).await
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), RuntimeError> {
        self.inner.stop(id, grace).await
    }

    async fn remove_container(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.remove(id).await
    }

    async fn exec_sync(&self, id: &str, command: &[String], timeout: Duration) -> Result<ExecOutput, RuntimeError> {
        guest::exec(&self.inner, id, command, timeout).await
    }

    async fn open_stream(&self, request: &StreamRequest) -> Result<StreamTarget, RuntimeError> {
        stream::open(&self.inner, request).await
    }

    async fn reopen_log(&self, id: &str) -> Result<(), RuntimeError> {
        self.inner.command(id, Command::ReopenLog).await
    }

    async fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        self.inner.stats()
    }

    fn storage(&self, container_id: &str) -> Option<PathBuf> {
        self.inner.container_dir(container_id).ok().map(|dir| dir.path().to_owned())
    }

    async fn events(&self) -> Result<BoxStream<'static, RuntimeEvent>, RuntimeError> {
        let events = BroadcastStream::new(self.inner.events.subscribe());
        // A listener that fell behind looks at everything again.
        Ok(events.map(|e| e.unwrap_or(RuntimeEvent::Resync)).boxed())
    }

    async fn image_status(&self, image: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        Ok((image == MACHINE_IMAGE).then(machine_image))
    }

    async fn pull_image(&self, image: &str, _auth: Option<&RegistryAuth>) -> Result<String, RuntimeError> {
        if image == MACHINE_IMAGE {
            return Ok(MACHINE_IMAGE.to_owned());
        }
        Err(RuntimeError::NotFound(format!(
            "image {image}: a machine's pod runs {MACHINE_IMAGE} only"
        )))
    }

    async fn list_images(&self) -> Result<Vec<ImageInfo>, RuntimeError> {
        Ok(vec![machine_image()])
    }

    async fn remove_image(&self, _image: &str) -> Result<(), RuntimeError> {
        Ok(())
    }
}

fn machine_image() -> ImageInfo {
    ImageInfo {
        id: MACHINE_IMAGE.to_owned(),
        repo_tags: vec![MACHINE_IMAGE.to_owned()],
        ..ImageInfo::default()
    }
}
