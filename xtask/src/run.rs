//! Running programs, with the command line in the error.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// Runs a program, its output shown.
pub fn program(command: &mut Command) -> Result<()> {
    let line = line(command);
    let status = command.status().with_context(|| format!("run {line}"))?;
    if !status.success() {
        bail!("{line} ended with {status}");
    }
    Ok(())
}

/// Runs a program and gives its output.
pub fn output(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("run {line}"))?;
    if !output.status.success() {
        bail!("{line} ended with {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a line of shell.
pub fn shell(line: &str) -> Result<()> {
    program(Command::new("sh").args(["-e", "-c", line]))
}

/// Runs cargo in the checkout.
pub fn cargo(arguments: &[&str]) -> Result<()> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    program(Command::new(cargo).args(arguments).current_dir(crate::root()))
}

/// Whether a program is on the path or where system programs live.
pub fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .any(|d| Path::new(&d).join(name).exists())
}

fn line(command: &Command) -> String {
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|w| w.to_string_lossy().into_owned())
        .collect();
    words.join(" ")
}
