//! `cargo xtask images`: the images of tests and example, built offline from
//! Debian packages, and kept until what they are made of changes.
//!
//! Must not pull an image from anywhere.

mod archive;
mod busybox;
mod debian;
mod micro;
mod web;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};

use crate::run;

/// One image and how it is made.
pub struct Recipe {
    /// Name of the archive, without its ending.
    pub name: &'static str,
    /// Everything that decides what comes out.
    pub inputs: fn() -> Result<String>,
    /// Makes the docker archive at a path, with a directory to work in.
    pub build: fn(archive: &Path, work: &Path) -> Result<()>,
}

/// All images.
const ALL: &[Recipe] = &[busybox::RECIPE, micro::RECIPE, debian::RECIPE, web::ONE, web::TWO];

/// Images that the example needs.
pub const FOR_EXAMPLE: &[&str] = &["debian-guest", "farm-shop-web-1", "farm-shop-web-2"];

pub use micro::kernel_tree;

/// Where archives are.
pub fn directory() -> PathBuf {
    crate::cache().join("images")
}

/// What an image is called in manifests.
pub fn reference(name: &str) -> String {
    match name.rsplit_once('-') {
        Some((base, version)) if version.parse::<u32>().is_ok() => format!("allmend.local/{base}:{version}"),
        _ => format!("allmend.local/{name}:1"),
    }
}

/// Path of an image's archive.
pub fn path(name: &str) -> PathBuf {
    directory().join(format!("{name}.tar"))
}

/// Builds the named images, or all of them, unless they are there already.
pub fn build(names: &[&str]) -> Result<()> {
    if let Some(unknown) = names.iter().find(|n| !ALL.iter().any(|r| r.name == **n)) {
        let known: Vec<&str> = ALL.iter().map(|r| r.name).collect();
        bail!("no image {unknown:?}: there are {}", known.join(", "));
    }
    fs::create_dir_all(directory()).with_context(|| format!("make {}", directory().display()))?;
    for recipe in ALL {
        if names.is_empty() || names.contains(&recipe.name) {
            one(recipe).with_context(|| format!("build the image {}", recipe.name))?;
        }
    }
    Ok(())
}

fn one(recipe: &Recipe) -> Result<()> {
    let inputs = (recipe.inputs)()?;
    let key = hex(&Sha256::digest(inputs.as_bytes()));
    let archive = path(recipe.name);
    let stamp = archive.with_extension("key");
    if archive.exists() && fs::read_to_string(&stamp).is_ok_and(|k| k == key) {
        return Ok(());
    }
    println!("building the image {}", recipe.name);
    let work = directory().join(format!(".{}-{}", recipe.name, std::process::id()));
    fs::create_dir_all(&work)?;
    let fresh = archive.with_extension("new");
    let made = (recipe.build)(&fresh, &work);
    let _ = fs::remove_dir_all(&work);
    made?;
    fs::rename(&fresh, &archive)?;
    fs::write(stamp, key)?;
    Ok(())
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Version of the package that apt would install.
fn candidate(package: &str) -> Result<String> {
    let text = run::output(Command::new("apt-cache").args(["policy", package]))?;
    let version = text.lines().find_map(|l| l.trim().strip_prefix("Candidate: "));
    match version {
        Some(v) if v != "(none)" => Ok(v.to_owned()),
        _ => bail!("apt knows no package {package}: run apt-get update"),
    }
}

/// Downloads a package and unpacks it, without installing it.
fn unpack(package: &str, work: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    // apt drops its rights for downloads; a directory of root's would only make it warn.
    let directory = work.join(format!("deb-{package}"));
    fs::create_dir_all(&directory)?;
    run::program(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(&directory),
    )?;
    let file = fs::read_dir(&directory)?
        .flatten()
        .find(|e| e.file_name().to_string_lossy().ends_with(".deb"));
    let file = file
        .with_context(|| format!("apt-get download {package} left no file"))?
        .path();
    run::program(Command::new("dpkg-deb").arg("-x").arg(file).arg(into))
}

/// The package of the kernel that Debian's cloud images run.
fn kernel_package() -> Result<String> {
    let text = run::output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
    let package = text.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
    let package = package.filter(|p| p.starts_with("linux-image-"));
    Ok(package
        .context("apt knows no linux-image-cloud-amd64: run apt-get update")?
        .to_owned())
}

/// Copies the shared libraries of a program, the loader among them, to where it looks for them.
fn copy_libraries(program: &Path, root: &Path) -> Result<()> {
    let text = run::output(Command::new("ldd").arg(program))?;
    let words = text
        .lines()
        .filter_map(|l| l.split_whitespace().find(|w| w.starts_with('/')));
    for library in words.map(Path::new) {
        let inside = root.join(library.strip_prefix("/").unwrap_or(library));
        fs::create_dir_all(inside.parent().context("a library outside any directory")?)?;
        fs::copy(library, inside)?;
    }
    Ok(())
}
