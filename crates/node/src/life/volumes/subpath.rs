//! `subPath`: a part of a volume, found without leaving the volume, and held by
//! a mount of its own. What the pod does to names in its volume after the look
//! makes no difference to what is mounted.
//!
//! Must not follow a link out of the volume.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, fchmod, mkdirat, openat2};
use rustix::io::Errno;

use super::mounts::{mounts_below, unmount_below};

const HOW: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS);

/// Makes `sub` of the volume appear at `at`; where there is nothing, a directory is made.
pub(crate) fn bind(volume: &Path, sub: &str, at: &Path) -> io::Result<()> {
    let found = find(volume, sub)?;
    if mounts_below(at)?.iter().any(|m| m == at) {
        unmount_below(at)?;
    }
    if let Some(parent) = at.parent() {
        fs::create_dir_all(parent)?;
    }
    if found.metadata()?.is_dir() {
        fs::create_dir_all(at)?;
    } else if !at.exists() {
        File::create(at)?;
    }
    rustix::mount::mount_bind_recursive(format!("/proc/self/fd/{}", found.as_raw_fd()), at)?;
    Ok(())
}

fn find(volume: &Path, sub: &str) -> io::Result<File> {
    let parts = Path::new(sub).components();
    if !parts
        .clone()
        .all(|p| matches!(p, Component::Normal(_) | Component::CurDir))
    {
        let why = format!("{sub}: must be a relative path without ..");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    let root = File::open(volume)?;
    if !root.metadata()?.is_dir() {
        return Err(io::Error::other("the volume is not a directory"));
    }
    match openat2(&root, sub, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), HOW) {
        Ok(found) => return Ok(found.into()),
        Err(Errno::NOENT) => {}
        Err(Errno::XDEV) => return Err(io::Error::other(format!("{sub}: leads out of the volume"))),
        Err(e) => return Err(e.into()),
    }
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut here = root;
    for part in parts {
        let made = match mkdirat(&here, part.as_os_str(), Mode::from_raw_mode(0o750)) {
            Ok(()) => true,
            Err(Errno::EXIST) => false,
            Err(e) => return Err(e.into()),
        };
        let next: File = openat2(&here, part.as_os_str(), directory, Mode::empty(), HOW)?.into();
        if made {
            // As the directory above, so that the pod's user can use it.
            fchmod(&next, Mode::from_raw_mode(here.metadata()?.mode() & 0o7777))?;
        }
        here = next;
    }
    Ok(here)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sub_paths_stay_in_their_volume() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("out")).unwrap();
        std::os::unix::fs::symlink("a", dir.path().join("in")).unwrap();
        assert!(find(dir.path(), "a/b").is_ok() && dir.path().join("a/b").is_dir());
        assert!(find(dir.path(), "in/c").is_ok() && dir.path().join("a/c").is_dir());
        fs::write(dir.path().join("a/file"), "x").unwrap();
        assert!(find(dir.path(), "in/file").unwrap().metadata().unwrap().is_file());
        for path in ["../x", "/etc", "out", "out/passwd", "a/../../b"] {
            assert!(find(dir.path(), path).is_err(), "{path}");
        }
    }
}
