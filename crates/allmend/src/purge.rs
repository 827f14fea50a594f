//! `allmend purge`: takes away everything that a server made on this machine.
//!
//! Must not touch what it cannot prove to be ours.

use std::path::Path;

use anyhow::{Context, Result, bail};

/// Removes the data directory.
pub fn run(data_dir: &Path, yes: bool) -> Result<()> {
    if !yes {
        bail!(
            "this removes all workloads and data below {}: say --yes to do it",
            data_dir.display()
        );
    }
    if !data_dir.exists() {
        return Ok(());
    }
    // Only a directory that a server made: a slip of the hand must not empty another.
    if !data_dir.join("server").is_dir() {
        bail!(
            "{} is no data directory of Allmend: it has no server/ in it",
            data_dir.display()
        );
    }
    std::fs::remove_dir_all(data_dir).with_context(|| format!("remove {}", data_dir.display()))
}
