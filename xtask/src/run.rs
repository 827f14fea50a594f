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
    program(cargo_command().args(arguments))
}

/// Cargo in the checkout, as if nobody had called us through cargo: build scripts that watch what it
/// says of the package would else build everything anew each time it is called the other way.
pub fn cargo_command() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::root());
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

/// Whether cargo sets a variable for the package that it runs, rather than the user for cargo.
fn is_of_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || name == "CARGO_CRATE_NAME"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_hears_the_user_and_not_the_package() {
        for (name, of_package) in [
            ("CARGO_PKG_VERSION", true),
            ("CARGO_MANIFEST_DIR", true),
            ("CARGO_HOME", false),
            ("CARGO_TARGET_DIR", false),
            ("CARGO_INCREMENTAL", false),
        ] {
            assert_eq!(is_of_package(name), of_package, "{name}");
        }
    }
}
