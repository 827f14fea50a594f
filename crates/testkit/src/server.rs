//! A server of the test's own: its data, its ports, its life.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::{Kubectl, findings, until};

static COUNT: AtomicU32 = AtomicU32::new(0);

/// What a test wants of its server.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// Run no node: the API alone, without root.
    pub api_only: bool,
    /// More flags.
    pub flags: Vec<String>,
    /// Keep the data on a file system of its own with so many MiB.
    pub disk_mib: Option<u32>,
}

/// A running server. Dropped, it and all that it made are gone.
pub struct Server {
    options: ServerOptions,
    port: u16,
    node_port: u16,
    child: Option<Child>,
    data: TempDir,
    /// Tables and links that were there before us: those of other servers, or of a run that was cut short.
    found: Vec<String>,
    /// Nodes share the host's addresses: there is one at a time. Released last, after the purge.
    _turn: Option<File>,
}

impl Server {
    /// Starts a server and waits until it is ready.
    pub fn start(options: ServerOptions) -> Result<Self> {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: paths of sockets end at 108 bytes.
        let data = tempfile::Builder::new()
            .prefix(&format!("al{number}-"))
            .tempdir_in("/tmp")
            .context("make a data directory")?;
        let turn = if options.api_only { None } else { Some(turn()?) };
        let mut server = Server {
            options,
            port: free_port()?,
            node_port: free_port()?,
            child: None,
            data,
            found: tables_and_links()?,
            _turn: turn,
        };
        if let Some(size) = server.options.disk_mib {
            fs::create_dir(server.data_dir())?;
            let options = format!("size={size}m");
            let mut mount = Command::new("mount");
            let status = mount
                .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
                .arg(server.data_dir())
                .status()?;
            if !status.success() {
                bail!("mount a tmpfs: {status}");
            }
        }
        findings::enter(&server.kubeconfig(), &server.log());
        server.launch()?;
        Ok(server)
    }

    /// The binary under test: `ALLMEND_BIN`, or the release build.
    pub fn binary() -> PathBuf {
        if let Some(given) = std::env::var_os("ALLMEND_BIN") {
            return given.into();
        }
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/release/allmend")
    }

    /// Starts the process again after [`Server::kill`] or [`Server::stop`].
    pub fn launch(&mut self) -> Result<()> {
        let binary = Self::binary();
        if !binary.exists() {
            bail!(
                "{} is missing: cargo xtask build, or name a binary with ALLMEND_BIN",
                binary.display()
            );
        }
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = Command::new(&binary);
        command
            .arg("server")
            .arg("--data-dir")
            .arg(self.data_dir())
            .args(["--bind-address", "127.0.0.1", "--https-listen-port"])
            .arg(self.port.to_string())
            .arg("--write-kubeconfig")
            .arg(self.kubeconfig())
            // Other addresses than the defaults: a server of the developer's own may run here.
            .args(["--cluster-cidr", "10.142.0.0/16", "--service-cidr", "10.143.0.0/16"])
            .args(&self.options.flags);
        if self.options.api_only {
            command.arg("--disable-agent");
        } else {
            command.args(["--kubelet-port", &self.node_port.to_string()]);
        }
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        until("the server to be ready", Duration::from_secs(30), || {
            if let Some(Ok(Some(status))) = self.child.as_mut().map(Child::try_wait) {
                return Err(format!("it ended with {status}: {}", tail(&self.log())));
            }
            if !self.kubeconfig().exists() {
                return Err("no kubeconfig yet".to_owned());
            }
            let ran = self
                .kubectl()
                .run(&["get", "--raw", "/readyz"], "")
                .map_err(|e| e.to_string())?;
            if ran.ok { Ok(()) } else { Err(ran.stderr) }
        })
        .with_context(|| tail(&self.log()))
    }

    /// Waits until the node is Ready.
    pub fn wait_node(&self) -> Result<()> {
        let kubectl = self.kubectl();
        until("the node to be ready", Duration::from_secs(60), || {
            let row = kubectl
                .ok(&["get", "nodes", "--no-headers"])
                .map_err(|e| e.to_string())?;
            if row.split_whitespace().nth(1) == Some("Ready") {
                Ok(())
            } else {
                Err(row)
            }
        })
        .with_context(|| tail(&self.log()))
    }

    /// Kills the server as a power cut would, but only the server.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(Signal::KILL)
    }

    /// Asks the server to end, and waits until it has.
    pub fn stop(&mut self) -> Result<()> {
        self.signal(Signal::TERM)
    }

    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(mut child) = self.child.take() else {
            return Ok(());
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        rustix::process::kill_process(pid, signal)?;
        child.wait()?;
        Ok(())
    }

    /// Pid of the server.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Processes of this server whose command line has a word with `part` in it, such as
    /// `containerd` or `machine-supervisor`.
    pub fn processes(&self, part: &str) -> Vec<u32> {
        let directory = self.data_dir().to_string_lossy().into_owned();
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
        let ours = |pid: &u32| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            line.contains(&directory) && line.split('\0').take(2).any(|w| w.ends_with(part))
        };
        pids.filter(ours).collect()
    }

    /// Kills one process as the kernel's OOM killer would.
    pub fn kill_process(pid: u32) -> Result<()> {
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("pid")?;
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, Signal::KILL);
        Ok(())
    }

    /// Removes all that runs and all data; then nothing of it may be left on the host.
    pub fn purge(&mut self) -> Result<()> {
        self.kill()?;
        self.allmend(&["purge", "--yes"])?;
        let directory = self.data_dir().to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let mut left: Vec<String> = mounts
            .lines()
            .filter(|l| l.contains(&directory))
            .map(str::to_owned)
            .collect();
        let loops = printed("losetup", &["-a"])?;
        left.extend(loops.lines().filter(|l| l.contains(&directory)).map(str::to_owned));
        // Nodes take turns, so whatever has come since we started is ours.
        left.extend(tables_and_links()?.into_iter().filter(|l| !self.found.contains(l)));
        left.extend(self.processes("").iter().map(|pid| format!("process {pid}")));
        if self.data_dir().exists() {
            left.push(directory);
        }
        if left.is_empty() {
            Ok(())
        } else {
            bail!("left behind: {}", left.join("; "))
        }
    }

    /// Where the server keeps everything.
    pub fn data_dir(&self) -> PathBuf {
        self.data.path().join("d")
    }

    /// The administrator's kubeconfig.
    pub fn kubeconfig(&self) -> PathBuf {
        self.data.path().join("kubeconfig")
    }

    /// URL of the API.
    pub fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    /// What the server logged.
    pub fn log(&self) -> PathBuf {
        self.data.path().join("log")
    }

    /// An unmodified kubectl for this server.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.kubeconfig())
    }

    /// Imports test images by name from `ALLMEND_IMAGES`, where `cargo xtask test` puts them.
    pub fn import(&self, names: &[&str]) -> Result<()> {
        let directory = std::env::var_os("ALLMEND_IMAGES")
            .context("ALLMEND_IMAGES is not set: run the tests with cargo xtask test")?;
        for name in names {
            let file = Path::new(&directory).join(format!("{name}.tar"));
            let file = file.to_str().context("path of the image")?;
            self.allmend(&["image", "import", file])?;
        }
        Ok(())
    }

    /// Runs a verb of the binary with this server's data directory.
    pub fn allmend(&self, arguments: &[&str]) -> Result<String> {
        let output = Command::new(Self::binary())
            .args(arguments)
            .arg("--data-dir")
            .arg(self.data_dir())
            .output()?;
        if !output.status.success() {
            bail!(
                "allmend {}: {}",
                arguments.join(" "),
                String::from_utf8_lossy(&output.stderr)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- the server's log ends with:\n{}", tail(&self.log()));
        }
        findings::leave(&self.log());
        let _ = self.kill();
        // Containers, machines, mounts and namespaces outlive the server by design.
        if let Err(error) = self.allmend(&["purge", "--yes"]) {
            eprintln!("clean up {}: {error:#}", self.data.path().display());
        }
        if self.options.disk_mib.is_some() {
            let _ = Command::new("umount")
                .arg("-l")
                .arg(self.data_dir())
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// The host's nftables tables and network links that have names as a server gives them.
fn tables_and_links() -> Result<Vec<String>> {
    let tables = printed("nft", &["list", "tables"])?;
    let links = printed("ip", &["-br", "link"])?;
    let tables = tables.lines().filter(|l| l.contains(" allmend-")).map(str::to_owned);
    let links = links.lines().filter_map(|l| l.split([' ', '@']).next());
    let links = links.filter(|l| l.starts_with("al")).map(|l| format!("link {l}"));
    Ok(tables.chain(links).collect())
}

fn printed(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.with_context(|| format!("run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Waits until no other test has a node.
pub(crate) fn turn() -> Result<File> {
    let path = std::env::temp_dir().join("allmend-test-node.lock");
    let file = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    file.lock().with_context(|| format!("lock {}", path.display()))?;
    Ok(file)
}

/// A port nobody listens on now. Another may take it before we do; the server then says so.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
