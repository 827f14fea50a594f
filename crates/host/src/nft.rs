//! nftables through `nft`, whose language is the stable interface.
//!
//! Must not write any rule itself.

use std::io::{self, Write};
use std::process::{Command, Output, Stdio};

/// Why a script was not applied. Then nothing of it was.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// The program cannot be run.
    #[error("run nft (is nftables installed?)")]
    Run(#[from] io::Error),
    /// The kernel or the program refuses the script.
    #[error("nft refuses line {line} {text:?}: {message}")]
    Refused {
        /// Line of the script, from 1; 0 when unknown.
        line: usize,
        /// That line.
        text: String,
        /// What nft says.
        message: String,
    },
}

/// Applies a script as one transaction. Blocks for some milliseconds.
pub fn apply(script: &str) -> Result<(), NftError> {
    let output = run(&["-f", "-"], script)?;
    if output.status.success() {
        return Ok(());
    }
    Err(refusal(script, &String::from_utf8_lossy(&output.stderr)))
}

/// Whether there is a table, such as `ip filter`.
pub fn has_table(family: &str, name: &str) -> Result<bool, NftError> {
    let output = run(&["-t", "list", "table", family, name], "")?;
    Ok(output.status.success())
}

/// The table as nft prints it; `None` when there is none.
pub fn list_table(family: &str, name: &str) -> Result<Option<String>, NftError> {
    let output = run(&["list", "table", family, name], "")?;
    Ok(output
        .status
        .success()
        .then(|| String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Removes a table; one that is not there is no error.
pub fn delete_table(family: &str, name: &str) -> Result<(), NftError> {
    // Adding what is there changes nothing, so that deleting always succeeds.
    apply(&format!("add table {family} {name}\ndelete table {family} {name}\n"))
}

fn run(arguments: &[&str], input: &str) -> Result<Output, NftError> {
    let mut child = Command::new("nft")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        // It reads all of its input before it prints; should it fail first, its words say more
        // than the broken pipe.
        let _ = stdin.write_all(input.as_bytes());
    }
    Ok(child.wait_with_output()?)
}

/// The first error: `/dev/stdin:8:118-118: Error: syntax error, ...`, then the line and a marker.
fn refusal(script: &str, said: &str) -> NftError {
    let first = said.lines().find(|l| l.contains("Error:")).unwrap_or(said.trim());
    let message = first.split_once("Error:").map_or(first, |(_, m)| m).trim().to_owned();
    let line = first
        .split(':')
        .nth(1)
        .and_then(|n| n.parse::<usize>().ok())
        .unwrap_or(0);
    let text = line
        .checked_sub(1)
        .and_then(|n| script.lines().nth(n))
        .unwrap_or_default();
    NftError::Refused {
        line,
        text: text.trim().to_owned(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_offending_line_is_named() {
        let error = refusal(
            "a\n bad b\n",
            "/dev/stdin:2:1-3: Error: syntax error, unexpected bad\nbad b\n^^^\n",
        );
        let expected = "nft refuses line 2 \"bad b\": syntax error, unexpected bad";
        assert_eq!(error.to_string(), expected);
        assert_eq!(refusal("", "Error: No").to_string(), "nft refuses line 0 \"\": No");
    }
}
