//! `allmend.local/micro-guest:1`: kernel and initial RAM disk of a machine that
//! boots in seconds under emulation (see `guests/micro/init`).

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::packages::{candidate, kernel_package, unpack};
use super::{Recipe, archive, busybox};
use crate::run;

const INIT: &str = include_str!("../../guests/micro/init");
const UDHCPC: &str = include_str!("../../guests/micro/udhcpc");
/// What the guest needs beyond what the kernel has built in; what these depend on comes with them.
const MODULES: &[&str] = &["virtio_pci", "virtio_blk", "virtio_net", "button", "evdev"];

pub const RECIPE: Recipe = Recipe {
    name: "micro-guest",
    inputs: || {
        let kernel = kernel_package()?;
        Ok(format!(
            "1 {} {kernel} {INIT}{UDHCPC}{MODULES:?}",
            candidate("busybox-static")?
        ))
    },
    build,
};

fn build(file: &Path, work: &Path) -> Result<()> {
    let kernel = kernel()?;
    let initrd = work.join("initrd");
    busybox::install(&initrd, work)?;
    script(&initrd.join("init"), INIT)?;
    script(&initrd.join("etc/udhcpc"), UDHCPC)?;
    copy_modules(&kernel.modules, MODULES, &initrd.join("lib/modules"))?;
    let root = work.join("root");
    fs::create_dir_all(root.join("boot"))?;
    fs::copy(&kernel.image, root.join("boot/vmlinuz"))?;
    pack(&initrd, &root.join("boot/initrd"))?;
    archive::write(file, work, "allmend.local/micro-guest:1", (&root, 0), &json!({}))
}

/// A kernel as its package has it.
struct Kernel {
    /// The bootable image.
    image: PathBuf,
    /// `lib/modules/<version>`.
    modules: PathBuf,
}

/// Debian's cloud kernel, unpacked and kept until there is a newer one.
pub fn kernel_tree() -> Result<PathBuf> {
    let package = kernel_package()?;
    let tree = crate::cache()
        .join("kernel")
        .join(format!("{package}_{}", candidate(&package)?));
    if !tree.exists() {
        let work = tree.with_extension("new");
        let _ = fs::remove_dir_all(&work);
        fs::create_dir_all(&work)?;
        unpack(&package, &work, &work.join("tree"))?;
        fs::rename(work.join("tree"), &tree)?;
        fs::remove_dir_all(&work)?;
    }
    Ok(tree)
}

fn kernel() -> Result<Kernel> {
    let tree = kernel_tree()?;
    let first = |directory: &str, start: &str| -> Result<PathBuf> {
        let path = tree.join(directory);
        let entries = fs::read_dir(&path).with_context(|| format!("read {}", path.display()))?;
        let entry = entries
            .flatten()
            .find(|e| e.file_name().to_string_lossy().starts_with(start));
        Ok(entry
            .with_context(|| format!("{} has no {start}*", path.display()))?
            .path())
    };
    Ok(Kernel {
        modules: first("lib/modules", "").or_else(|_| first("usr/lib/modules", ""))?,
        image: first("boot", "vmlinuz")?,
    })
}

/// Copies modules with what they depend on, and writes the order in which to load them.
fn copy_modules(from: &Path, names: &[&str], into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    let version = from.file_name().context("no kernel version")?;
    let base = from.ancestors().nth(3).context("no module tree")?;
    run::program(Command::new("depmod").arg("-b").arg(base).arg(version))?;
    let dependencies = fs::read_to_string(from.join("modules.dep"))?;
    let built_in = fs::read_to_string(from.join("modules.builtin"))?;
    let mut order: Vec<String> = Vec::new();
    let mut seen = BTreeSet::new();
    for name in names {
        let file = format!("/{name}.ko");
        if built_in.lines().any(|l| l.ends_with(&file)) {
            continue;
        }
        let line = dependencies
            .lines()
            .find(|l| l.split(':').next().is_some_and(|p| p.ends_with(&file)));
        let Some((path, needs)) = line.and_then(|l| l.split_once(':')) else {
            bail!("the kernel has no module {name}");
        };
        // modules.dep lists the deepest last.
        let needs = needs.split_whitespace().rev().chain([path]);
        for path in needs {
            if seen.insert(path.to_owned()) {
                let name = path.rsplit('/').next().unwrap_or(path).to_owned();
                fs::copy(from.join(path), into.join(&name))?;
                order.push(name);
            }
        }
    }
    fs::write(into.join("order"), order.join("\n") + "\n")?;
    Ok(())
}

fn script(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
    Ok(())
}

/// A directory as a compressed cpio archive.
fn pack(directory: &Path, file: &Path) -> Result<()> {
    let line =
        "find . -print0 | sort -z | cpio --null --create --format=newc --reproducible --owner=0:0 --quiet | gzip -9n";
    let output = fs::File::create(file)?;
    let status = Command::new("sh")
        .args(["-c", line])
        .current_dir(directory)
        .stdout(Stdio::from(output))
        .status()?;
    if !status.success() {
        bail!("pack the initial RAM disk: {status}");
    }
    Ok(())
}
