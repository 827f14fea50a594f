//! A directory as a docker archive with one layer. The same directory gives the same bytes.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::process::Command;

use anyhow::Result;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::hex;
use crate::run;

/// Writes `root` as the image `name` to `archive`.
pub fn write(archive: &Path, work: &Path, name: &str, root: &Path, config: &Value) -> Result<()> {
    let image = work.join("image");
    fs::create_dir_all(&image)?;
    tar(&image.join("layer.tar"), root, &[])?;
    let layer = digest(&image.join("layer.tar"))?;
    let config = json!({
        "architecture": "amd64", "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": config, "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
        "history": [{"created": "1970-01-01T00:00:00Z"}],
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    fs::write(image.join(&config_name), config)?;
    let manifest = json!([{"Config": config_name, "RepoTags": [name], "Layers": ["layer.tar"]}]);
    fs::write(image.join("manifest.json"), manifest.to_string())?;
    tar(archive, &image, &["manifest.json"])
}

fn tar(file: &Path, directory: &Path, first: &[&str]) -> Result<()> {
    let mut command = Command::new("tar");
    command.args([
        "--sort=name",
        "--mtime=@0",
        "--numeric-owner",
        "--owner=0",
        "--group=0",
        "--format=posix",
    ]);
    command.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
    command.arg("-cf").arg(file).arg("-C").arg(directory);
    if first.is_empty() {
        command.arg(".");
    } else {
        let mut names: Vec<_> = fs::read_dir(directory)?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        command.args(names);
    }
    run::program(&mut command)
}

fn digest(file: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}
