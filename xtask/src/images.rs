//! `cargo xtask images`: the images of tests and example, built offline from
//! Debian packages, and kept until what they are made of changes.
//!
//! Must not pull an image from anywhere.

mod archive;
mod busybox;
mod debian;
mod micro;
mod packages;
mod web;

use std::fs::{self, File};
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
    let is_there = || archive.exists() && fs::read_to_string(&stamp).is_ok_and(|k| k == key);
    if is_there() {
        return Ok(());
    }
    // Another run may be building it just now.
    let lock = archive.with_extension("lock");
    let lock = File::create(&lock).with_context(|| format!("make {}", lock.display()))?;
    lock.lock().context("wait for another build of the image")?;
    if is_there() {
        return Ok(());
    }
    println!("building the image {}", recipe.name);
    let work = directory().join(format!(".{}-work", recipe.name));
    clear(&work)?;
    fs::create_dir_all(&work)?;
    let fresh = archive.with_extension("new");
    let made = (recipe.build)(&fresh, &work);
    let cleared = clear(&work);
    made?;
    cleared?;
    fs::rename(&fresh, &archive)?;
    fs::write(stamp, key)?;
    Ok(())
}

/// Removes a directory to work in. What is still mounted there, after a build that was interrupted, is not of it.
fn clear(work: &Path) -> Result<()> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let places = mounts.lines().filter_map(|l| l.split(' ').nth(1));
    // The last one mounted first.
    for place in places
        .filter(|p| Path::new(p).starts_with(work))
        .collect::<Vec<_>>()
        .into_iter()
        .rev()
    {
        run::program(Command::new("umount").arg("-l").arg(place))?;
    }
    match fs::remove_dir_all(work) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", work.display()))
        }
        _ => Ok(()),
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
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
