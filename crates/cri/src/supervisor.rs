//! Keeps our own containerd alive.
//!
//! containerd is started detached and outlives the agent; a new agent finds it by
//! process id and start time and takes it up again. When it dies it is started
//! anew: containers live on under their shims and containerd finds them again.
//! Must never stop it because the agent stops.

use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_cri::v1::VersionRequest;
use k8s_cri::v1::runtime_service_client::RuntimeServiceClient;
use runtime::PodRuntime;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tokio::process::{Child, Command};
use tokio::sync::{oneshot, watch};
use tracing::{info, warn};

use crate::archive::pause_archive;
use crate::channel::{SOCKET_PATH_MAX, lazy, timed};
use crate::config::ContainerdConfig;
use crate::runtime::CriRuntime;

/// How long a new instance may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);
/// An instance that lived this long did not fail at start.
const STEADY: Duration = Duration::from_secs(30);

/// Why containerd does not run.
#[derive(Debug, thiserror::Error)]
pub enum SupervisorError {
    /// A file or directory could not be read or written.
    #[error("{what} {}", path.display())]
    File {
        /// The operation.
        what: &'static str,
        /// The path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The program could not be run.
    #[error("start {}: install the package containerd, or name another endpoint with --container-runtime-endpoint", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The socket's path is longer than the kernel takes.
    #[error("the socket path {} has more than {SOCKET_PATH_MAX} bytes; choose a shorter --data-dir", .0.display())]
    PathTooLong(PathBuf),
    /// The pause image could not be imported.
    #[error("import the pause image")]
    Pause(#[source] runtime::RuntimeError),
    /// It runs but does not answer, or ended at once.
    #[error("containerd did not come up; the end of {} says: {tail}", log.display())]
    NotUp {
        /// Its log file.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
}

/// A containerd instance that is kept alive while this value lives.
pub struct Containerd {
    config: Arc<ContainerdConfig>,
    pid: watch::Receiver<u32>,
    _stop_watching: oneshot::Sender<()>,
}

/// Which process is ours: a process id alone may have been given to another.
#[derive(Serialize, Deserialize, Clone, Copy, PartialEq, Eq, Debug)]
struct Identity {
    pid: u32,
    start_time: u64,
}

enum Process {
    Child(Box<Child>),
    Adopted(oneshot::Receiver<()>),
}

impl Containerd {
    /// Takes up the instance of these directories, or starts it. Returns when it answers CRI.
    pub async fn start(config: ContainerdConfig) -> Result<Self, SupervisorError> {
        let config = Arc::new(config);
        if config.socket().as_os_str().len() > SOCKET_PATH_MAX {
            return Err(SupervisorError::PathTooLong(config.socket()));
        }
        let directories = [&config.root, &config.state, &config.cni_conf_dir, &config.registry_dir];
        for path in directories {
            std::fs::create_dir_all(path).map_err(file("create directory", path))?;
        }
        let (process, identity) = match adopt(&config).await {
            Some(found) => found,
            None => launch(&config).await?,
        };
        provide_pause(&config).await?;
        let (pid_tx, pid) = watch::channel(identity.pid);
        let (stop, stopped) = oneshot::channel();
        tokio::spawn(keep_alive(config.clone(), process, pid_tx, stopped));
        Ok(Containerd {
            config,
            pid,
            _stop_watching: stop,
        })
    }

    /// The CRI endpoint.
    pub fn socket(&self) -> PathBuf {
        self.config.socket()
    }

    /// The present process.
    pub fn pid(&self) -> u32 {
        *self.pid.borrow()
    }

    /// How it is set up.
    pub fn config(&self) -> &ContainerdConfig {
        &self.config
    }
}

/// Without the pause image no sandbox starts, and it is in no registry.
async fn provide_pause(config: &ContainerdConfig) -> Result<(), SupervisorError> {
    let name = &config.sandbox_image;
    let runtime = CriRuntime::new(&config.socket().to_string_lossy());
    if !name.starts_with("allmend.local/") || matches!(runtime.image_status(name).await, Ok(Some(_))) {
        return Ok(());
    }
    let Some(archive) = pause_archive(name) else {
        return Ok(());
    };
    let path = config.state.join("pause.tar");
    std::fs::write(&path, archive.to_bytes()).map_err(file("write", &path))?;
    let result = runtime.import(&path, None).await;
    let _ = std::fs::remove_file(&path);
    result.map(|_| ()).map_err(SupervisorError::Pause)
}

async fn keep_alive(
    config: Arc<ContainerdConfig>,
    mut process: Process,
    pid: watch::Sender<u32>,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut pause = Duration::ZERO;
    loop {
        let since = Instant::now();
        tokio::select! {
            () = ended(&mut process) => {}
            _ = &mut stopped => return,
        }
        warn!(pid = *pid.borrow(), "containerd ended; it is started again");
        pause = if since.elapsed() > STEADY { Duration::ZERO } else { pause };
        process = loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = &mut stopped => return,
            }
            pause = (pause * 2).clamp(Duration::from_millis(200), Duration::from_secs(20));
            match launch(&config).await {
                Ok((process, identity)) => {
                    pid.send_replace(identity.pid);
                    break process;
                }
                Err(e) => warn!(error = %chain(&e), "containerd could not be started"),
            }
        };
    }
}

async fn ended(process: &mut Process) {
    match process {
        Process::Child(child) => {
            if let Err(e) = child.wait().await {
                warn!(error = %e, "watching containerd failed");
            }
        }
        Process::Adopted(end) => {
            let _ = end.await;
        }
    }
}

/// The instance that an agent before this one left running, if it still answers.
async fn adopt(config: &ContainerdConfig) -> Option<(Process, Identity)> {
    let raw = std::fs::read(identity_file(config)).ok()?;
    let identity: Identity = serde_json::from_slice(&raw).ok()?;
    if start_time(identity.pid)? != identity.start_time {
        return None;
    }
    let pid = Pid::from_raw(i32::try_from(identity.pid).ok()?)?;
    let fd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
    // Between the check and the open the process could have been replaced.
    if start_time(identity.pid)? != identity.start_time {
        return None;
    }
    if !answers(&config.socket(), START_LIMIT, || true).await {
        warn!(pid = identity.pid, "the containerd of the agent before does not answer; it is replaced");
        let _ = rustix::process::pidfd_send_signal(&fd, rustix::process::Signal::KILL);
        let _ = end_of(fd).await;
        return None;
    }
    info!(pid = identity.pid, "containerd was taken up");
    Some((Process::Adopted(end_of(fd)), identity))
}

/// Tells the end of a process that is not our child. A pidfd becomes readable then
/// (pidfd_open(2)); a thread waits, since registering foreign descriptors with the reactor is
/// not safe code.
fn end_of(fd: OwnedFd) -> oneshot::Receiver<()> {
    let (tell, told) = oneshot::channel();
    std::thread::spawn(move || {
        let mut wanted = [PollFd::new(&fd, PollFlags::IN)];
        while matches!(poll(&mut wanted, None), Err(rustix::io::Errno::INTR)) {}
        let _ = tell.send(());
    });
    told
}

async fn launch(config: &ContainerdConfig) -> Result<(Process, Identity), SupervisorError> {
    let path = config.root.join("config.toml");
    std::fs::write(&path, config.render()).map_err(file("write", &path))?;
    let log_path = config.log();
    let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path);
    let log = log.map_err(file("open", &log_path))?;
    let errors = log.try_clone().map_err(file("open", &log_path))?;
    let mut command = Command::new(&config.program);
    command
        .arg("--config")
        .arg(&path)
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(errors)
        // Its own group: the terminal's interrupt is for the agent alone.
        .process_group(0)
        .kill_on_drop(false);
    let started = |source| SupervisorError::Start {
        program: config.program.clone(),
        source,
    };
    let mut child = command.spawn().map_err(started)?;
    let not_up = || SupervisorError::NotUp {
        log: log_path.clone(),
        tail: tail(&log_path),
    };
    let pid = child.id().ok_or_else(not_up)?;
    let identity = Identity {
        pid,
        start_time: start_time(pid).ok_or_else(not_up)?,
    };
    let path = identity_file(config);
    let raw = serde_json::to_vec(&identity).unwrap_or_default();
    std::fs::write(&path, raw).map_err(file("write", &path))?;
    let alive = || matches!(child.try_wait(), Ok(None));
    if !answers(&config.socket(), START_LIMIT, alive).await {
        let _ = child.start_kill();
        return Err(not_up());
    }
    info!(pid, "containerd runs");
    Ok((Process::Child(Box::new(child)), identity))
}

/// Waits until CRI answers. A socket cannot be waited for by an event of its own, so the
/// steps are short and end with the first answer.
async fn answers(socket: &Path, limit: Duration, mut alive: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    let mut client = RuntimeServiceClient::new(lazy(socket));
    while Instant::now() < deadline && alive() {
        let request = timed(VersionRequest::default(), Duration::from_secs(5));
        if client.version(request).await.is_ok() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}

fn identity_file(config: &ContainerdConfig) -> PathBuf {
    config.state.join("process.json")
}

/// Field 22 of `/proc/<pid>/stat` (proc(5)): ticks since boot. `None` for zombies too.
fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first() == Some(&"Z") {
        return None;
    }
    fields.get(19)?.parse().ok()
}

fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text[text.len().saturating_sub(600)..]).into_owned();
    text.trim().replace('\n', " | ")
}

fn file(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SupervisorError {
    let path = path.to_owned();
    move |source| SupervisorError::File { what, path, source }
}

fn chain(e: &dyn std::error::Error) -> String {
    match e.source() {
        Some(inner) => format!("{e}: {}", chain(inner)),
        None => e.to_string(),
    }
}
