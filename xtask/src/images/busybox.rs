//! `allmend.local/busybox:1`: a shell and small tools for tests.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::json;

use super::packages::{candidate, unpack};
use super::{Recipe, archive};
use crate::run;

pub const RECIPE: Recipe = Recipe {
    name: "busybox",
    inputs: || Ok(format!("4 {}", candidate("busybox-static")?)),
    build,
};

/// Puts busybox and a link for each of its applets into a root file system.
pub fn install(root: &Path, work: &Path) -> Result<()> {
    let unpacked = work.join("busybox");
    unpack("busybox-static", work, &unpacked)?;
    let bin = root.join("bin");
    fs::create_dir_all(&bin)?;
    let program = ["bin/busybox", "usr/bin/busybox"].map(|p| unpacked.join(p));
    let program = program.iter().find(|p| p.exists()).unwrap_or(&program[0]);
    fs::copy(program, bin.join("busybox"))?;
    for applet in run::output(Command::new(program).arg("--list"))?.lines() {
        if applet != "busybox" {
            symlink("busybox", bin.join(applet))?;
        }
    }
    for directory in ["dev", "etc", "proc", "root", "run", "sys", "tmp", "var"] {
        fs::create_dir_all(root.join(directory))?;
    }
    fs::set_permissions(root.join("tmp"), fs::Permissions::from_mode(0o1777))?;
    fs::write(
        root.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    fs::write(root.join("etc/group"), "root:x:0:\nnogroup:x:65534:\n")?;
    fs::write(root.join("etc/nsswitch.conf"), "hosts: files dns\n")?;
    Ok(())
}

fn build(file: &Path, work: &Path) -> Result<()> {
    let root = work.join("root");
    install(&root, work)?;
    let config = json!({"Cmd": ["sh"], "Env": ["PATH=/bin"]});
    archive::write(file, work, "allmend.local/busybox:1", (&root, 0), &config)
}
