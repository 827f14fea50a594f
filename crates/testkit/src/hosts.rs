//! Several hosts on one machine: network namespaces on a switch that is a namespace itself, each
//! host with a data directory of its own. Nothing of them is in the machine's own network.
//!
//! Must not isolate more than the network: cgroups and mounts are the machine's.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal};
use tempfile::TempDir;

use crate::server::{tail, turn};
use crate::{Kubectl, Server, until};

static COUNT: AtomicU32 = AtomicU32::new(0);
/// Port of the API.
const PORT: u16 = 6443;
/// How long a command may take.
const RUN: Duration = Duration::from_secs(90);
/// How long a process that was asked to end may take.
const END: Duration = Duration::from_secs(30);

/// Hosts that reach each other and nothing else. Dropped, they and all on them are gone.
pub struct Hosts {
    hosts: Vec<Host>,
    switch: String,
    _turn: fs::File,
}

/// A host. Runs one `allmend` at a time, a server or an agent.
pub struct Host {
    /// Its name, and that of its node.
    pub name: String,
    /// Its address.
    pub address: String,
    namespace: String,
    files: TempDir,
    child: Option<Child>,
}

impl Hosts {
    /// As many as there are names.
    pub fn new(names: &[&str]) -> Result<Self> {
        let turn = turn()?;
        let unique = format!("{:x}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let switch = format!("alt-{unique}");
        let mut all = Hosts {
            hosts: Vec::new(),
            switch: switch.clone(),
            _turn: turn,
        };
        ip(&["netns", "add", &switch])?;
        ip(&["-n", &switch, "link", "add", "br0", "up", "type", "bridge"])?;
        for (n, name) in names.iter().enumerate() {
            let namespace = format!("alt-{unique}-{name}");
            let files = tempfile::Builder::new().prefix("alh").tempdir_in("/tmp")?;
            all.hosts.push(Host {
                name: (*name).to_owned(),
                address: format!("192.0.2.{}", n + 1),
                namespace,
                files,
                child: None,
            });
            let host = &all.hosts[n];
            let (ns, port) = (host.namespace.as_str(), format!("port{n}"));
            ip(&["netns", "add", ns])?;
            ip(&["-n", ns, "link", "set", "lo", "up"])?;
            ip(&[
                "-n", &switch, "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", ns,
            ])?;
            ip(&["-n", &switch, "link", "set", &port, "master", "br0", "up"])?;
            ip(&[
                "-n",
                ns,
                "address",
                "add",
                &format!("{}/24", host.address),
                "dev",
                "eth0",
            ])?;
            ip(&["-n", ns, "link", "set", "eth0", "up"])?;
            // Leads nowhere, but programs look for one.
            ip(&["-n", ns, "route", "add", "default", "via", "192.0.2.254"])?;
        }
        Ok(all)
    }

    /// A host by its place in the list of names.
    pub fn host(&mut self, n: usize) -> &mut Host {
        &mut self.hosts[n]
    }

    /// An unmodified kubectl, run on the first host with its administrator's kubeconfig.
    pub fn kubectl(&self) -> Kubectl {
        Kubectl::new(&self.hosts[0].kubeconfig()).inside(&self.hosts[0].namespace)
    }

    /// The URL of the server on the first host.
    pub fn url(&self) -> String {
        format!("https://{}:{PORT}", self.hosts[0].address)
    }

    /// The token that the server on the first host prints.
    pub fn token(&self) -> Result<String> {
        Ok(self.hosts[0].allmend(&["token"])?.trim().to_owned())
    }

    /// What all hosts logged last, for messages of failing tests.
    pub fn logs(&self) -> String {
        let log = |h: &Host| format!("--- {}:\n{}\n", h.name, tail(&h.log()));
        self.hosts.iter().map(log).collect()
    }
}

impl Host {
    /// Starts `allmend server` and waits until it is ready.
    pub fn serve(&mut self, flags: &[&str]) -> Result<()> {
        let kubeconfig = self.kubeconfig().to_string_lossy().into_owned();
        let mut all = vec!["server", "--write-kubeconfig", &kubeconfig];
        all.extend(flags);
        self.launch(&all)?;
        let kubectl = Kubectl::new(&self.kubeconfig()).inside(&self.namespace);
        until("the server to be ready", Duration::from_secs(30), || {
            self.check_alive()?;
            let ran = kubectl.run(&["get", "--raw", "/readyz"], "");
            let ran = ran.map_err(|e| e.to_string())?;
            if ran.ok { Ok(()) } else { Err(ran.stderr) }
        })
    }

    /// Starts `allmend agent`, and waits for nothing.
    pub fn join(&mut self, server: &str, token: &str, flags: &[&str]) -> Result<()> {
        let mut all = vec!["agent", "--server", server];
        if !token.is_empty() {
            all.extend(["--token", token]);
        }
        all.extend(flags);
        self.launch(&all)
    }

    fn launch(&mut self, arguments: &[&str]) -> Result<()> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.log())?;
        let mut command = self.command(&Server::binary());
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command.args(["--node-name", &self.name, "--node-ip", &self.address]);
        let child = command
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        self.child = Some(child);
        Ok(())
    }

    fn check_alive(&mut self) -> Result<(), String> {
        match self.child.as_mut().map(Child::try_wait) {
            Some(Ok(Some(status))) => Err(format!("it ended with {status}: {}", tail(&self.log()))),
            _ => Ok(()),
        }
    }

    /// A program on this host.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/run/netns/{}", self.namespace)).arg(program);
        command
    }

    /// Runs `allmend` with this host's data directory: what it printed.
    pub fn allmend(&self, arguments: &[&str]) -> Result<String> {
        let output = self.try_allmend(arguments)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("allmend {} on {}: {said}", arguments.join(" "), self.name);
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// The same, however it ends; what does not end is an error, with what it said.
    pub fn try_allmend(&self, arguments: &[&str]) -> Result<Output> {
        let (out, err) = (self.files.path().join("out"), self.files.path().join("err"));
        let mut command = self.command(&Server::binary());
        command.args(arguments).arg("--data-dir").arg(self.data_dir());
        command.stdout(fs::File::create(&out)?).stderr(fs::File::create(&err)?);
        let mut child = command.stdin(Stdio::null()).spawn()?;
        let ended = until("it to end", RUN, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            _ => Err(tail(&err)),
        });
        if ended.is_err() {
            child.kill()?;
            child.wait()?;
        }
        Ok(Output {
            status: ended.with_context(|| format!("allmend {}", arguments.join(" ")))?,
            stdout: fs::read(&out)?,
            stderr: fs::read(&err)?,
        })
    }

    /// Imports test images by name from `ALLMEND_IMAGES`, once containerd is there.
    pub fn import(&self, names: &[&str]) -> Result<()> {
        let directory = std::env::var_os("ALLMEND_IMAGES").context("ALLMEND_IMAGES is not set")?;
        for name in names {
            let file = Path::new(&directory).join(format!("{name}.tar"));
            let file = file.to_str().context("path of the image")?;
            self.allmend(&["image", "import", file])?;
        }
        Ok(())
    }

    /// Ends the process of `allmend` with a signal, and waits until it has ended: whether it
    /// ended by itself with 0.
    pub fn end(&mut self, signal: Signal) -> Result<bool> {
        let Some(mut child) = self.child.take() else {
            return Ok(true);
        };
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("pid")?;
        // nsenter has become the program itself, with the same pid.
        rustix::process::kill_process(pid, signal)?;
        let status = until("the process to end", END, || match child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        });
        let status = status.with_context(|| tail(&self.log()))?;
        Ok(status.signal().is_none() && status.success())
    }

    /// Where this host keeps everything.
    pub fn data_dir(&self) -> PathBuf {
        self.files.path().join("d")
    }

    /// The administrator's kubeconfig, if a server runs here.
    pub fn kubeconfig(&self) -> PathBuf {
        self.files.path().join("kubeconfig")
    }

    /// What the processes on this host logged.
    pub fn log(&self) -> PathBuf {
        self.files.path().join("log")
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
        for host in &mut self.hosts {
            let _ = host.end(Signal::KILL);
        }
        for host in &self.hosts {
            // Containers, mounts and links outlive the process by design.
            if let Err(error) = host.allmend(&["purge", "--yes"]) {
                eprintln!("clean up {}: {error:#}", host.name);
            }
            let _ = ip(&["netns", "del", &host.namespace]);
        }
        let _ = ip(&["netns", "del", &self.switch]);
    }
}

fn ip(arguments: &[&str]) -> Result<()> {
    let output = Command::new("ip").args(arguments).output().context("run ip")?;
    if !output.status.success() {
        bail!(
            "ip {}: {}",
            arguments.join(" "),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
