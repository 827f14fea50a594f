//! An unmodified kubectl, run as a user runs it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// kubectl with a kubeconfig.
#[derive(Clone)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
    /// The network namespace in which it runs; that of the test without.
    namespace: Option<String>,
}

/// How a command ended.
#[derive(Debug)]
pub struct Ran {
    /// Whether it exited with 0.
    pub ok: bool,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Kubectl {
    /// `KUBECTL` names the program; otherwise the one on the path.
    pub fn new(kubeconfig: &Path) -> Self {
        Kubectl {
            program: std::env::var_os("KUBECTL").map_or_else(|| "kubectl".into(), PathBuf::from),
            kubeconfig: kubeconfig.to_owned(),
            namespace: None,
        }
    }

    /// The same, in a named network namespace.
    pub fn inside(mut self, namespace: &str) -> Self {
        self.namespace = Some(namespace.to_owned());
        self
    }

    /// The command, to be run by the caller.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(&self.program),
            Some(namespace) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{namespace}")).arg(&self.program);
                command
            }
        };
        command.env("KUBECONFIG", &self.kubeconfig);
        // Discovery is cached by server address, which tests use again. Before the verb: what
        // comes after may belong to a command in a container.
        command
            .arg("--cache-dir")
            .arg(self.kubeconfig.with_extension("cache"))
            .args(arguments);
        command
    }

    /// Runs to the end, with `input` on standard input.
    pub fn run(&self, arguments: &[&str], input: &str) -> Result<Ran> {
        let mut child = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("run {}: install it, or name it with KUBECTL", self.program.display()))?;
        if let Some(mut stdin) = child.stdin.take() {
            // A command that does not read its input closes it.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output()?;
        Ok(Ran {
            ok: output.status.success(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        })
    }

    /// Runs, and gives what it printed; an error when it failed.
    pub fn ok(&self, arguments: &[&str]) -> Result<String> {
        self.ok_with(arguments, "")
    }

    /// As [`Kubectl::ok`] with standard input, such as a manifest for `apply -f -`.
    pub fn ok_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let ran = self.run(arguments, input)?;
        if !ran.ok {
            bail!("kubectl {} failed: {}{}", arguments.join(" "), ran.stdout, ran.stderr);
        }
        Ok(ran.stdout)
    }

    /// Runs, and gives what it complained about; an error when it succeeded.
    pub fn refused(&self, arguments: &[&str], input: &str) -> Result<String> {
        let ran = self.run(arguments, input)?;
        if ran.ok {
            bail!("kubectl {} succeeded: {}", arguments.join(" "), ran.stdout);
        }
        Ok(ran.stderr)
    }

    /// `get ... -o json`.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let text = self.ok(&all)?;
        serde_json::from_str(&text).with_context(|| format!("kubectl {}: not JSON", arguments.join(" ")))
    }

    /// Applies a manifest.
    pub fn apply(&self, manifest: &str) -> Result<String> {
        self.ok_with(&["apply", "-f", "-"], manifest)
    }

    /// Waits with `kubectl wait`.
    pub fn wait(&self, arguments: &[&str], timeout: Duration) -> Result<String> {
        let limit = format!("--timeout={}s", timeout.as_secs());
        let mut all = vec!["wait", limit.as_str()];
        all.extend(arguments);
        self.ok(&all)
    }

    /// Starts a command that goes on (watch, port-forward, logs -f). The caller ends it.
    pub fn start(&self, arguments: &[&str]) -> Result<Child> {
        self.command(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("start kubectl")
    }
}
