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

/// Writes `root` as the image `name` to `archive`; all files belong to `owner`.
pub fn write(archive: &Path, work: &Path, name: &str, (root, owner): (&Path, u32), config: &Value) -> Result<()> {
    let image = work.join("image");
    fs::create_dir_all(&image)?;
    tar(&image.join("layer.tar"), root, owner, false)?;
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
    tar(archive, &image, 0, true)
}

/// `flat`: names without a leading `./`, as readers of docker archives look for them.
fn tar(file: &Path, directory: &Path, owner: u32, flat: bool) -> Result<()> {
    let mut command = Command::new("tar");
    command.args(["--sort=name", "--mtime=@0", "--numeric-owner", "--format=posix"]);
    command.args([format!("--owner={owner}"), format!("--group={owner}")]);
    command.arg("--pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime");
    command.arg("-cf").arg(file).arg("-C").arg(directory);
    if flat {
        let mut names: Vec<_> = fs::read_dir(directory)?.flatten().map(|e| e.file_name()).collect();
        names.sort();
        command.args(names);
    } else {
        command.arg(".");
    }
    run::program(&mut command)
}

fn digest(file: &Path) -> Result<String> {
    let mut hash = Sha256::new();
    io::copy(&mut File::open(file)?, &mut hash)?;
    Ok(hex(&hash.finalize()))
}
