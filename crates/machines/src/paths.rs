//! Paths that others had a hand in: images, and volumes that pods wrote to.
//! Names are resolved inside their root, whatever links they contain.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};

/// The real path of a regular file inside a root, with links followed as if the root were `/`.
pub(crate) fn file_in_root(root: &Path, path: &str) -> io::Result<PathBuf> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{path:?}: {e}"));
    let directory = File::open(root)?;
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file =
        openat2(&directory, path.trim_start_matches('/'), flags, Mode::empty(), how).map_err(|e| named(e.into()))?;
    let file = File::from(file);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other(format!("{path:?} is not a regular file")));
    }
    use std::os::fd::AsRawFd;
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

/// The only regular file in a directory of a root.
pub(crate) fn only_file(root: &Path, directory: &str) -> io::Result<PathBuf> {
    let mut found = Vec::new();
    let entries = std::fs::read_dir(root.join(directory))
        .map_err(|e| io::Error::new(e.kind(), format!("/{directory} of the image: {e}")))?;
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            found.push(entry.path());
        }
    }
    match found.as_slice() {
        [one] => Ok(one.clone()),
        [] => Err(io::Error::other(format!(
            "the image has no file in /{directory}; put the disk there or set path"
        ))),
        _ => Err(io::Error::other(format!(
            "the image has several files in /{directory}; set path"
        ))),
    }
}

/// Whether a user may open a path, by the modes of it and of what is above it; the error names
/// the part that is closed.
pub(crate) fn may_open(path: &Path, user: (u32, u32), write: bool) -> Result<(), String> {
    for above in path.ancestors().skip(1) {
        may_enter(above, user)?;
    }
    let m = std::fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
    if may(&m, user, if write { 6 } else { 4 }) {
        return Ok(());
    }
    Err(format!(
        "QEMU's user {uid} cannot {} {}: give the file to {uid}:{gid} (in an image: COPY --chown={uid}:{gid})",
        if write { "write" } else { "read" },
        path.display(),
        uid = user.0,
        gid = user.1,
    ))
}

/// Whether a user may enter a directory.
pub(crate) fn may_enter(directory: &Path, user: (u32, u32)) -> Result<(), String> {
    let m = std::fs::metadata(directory).map_err(|e| format!("{}: {e}", directory.display()))?;
    if may(&m, user, 1) {
        return Ok(());
    }
    let directory = directory.display();
    Err(format!(
        "QEMU's user {} cannot enter {directory}: allow it with chmod o+x",
        user.0
    ))
}

fn may(m: &Metadata, user: (u32, u32), bits: u32) -> bool {
    let shift = if m.uid() == user.0 {
        6
    } else if m.gid() == user.1 {
        3
    } else {
        0
    };
    user.0 == 0 || (m.mode() >> shift) & bits == bits
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn links_do_not_lead_out_of_an_image() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "s").unwrap();
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("disk")).unwrap();
        fs::write(dir.path().join("disk/a.img"), "x").unwrap();
        symlink(outside.path().join("secret"), dir.path().join("disk/evil.img")).unwrap();
        symlink("/disk/a.img", dir.path().join("link")).unwrap();
        assert_eq!(only_file(dir.path(), "disk").unwrap(), dir.path().join("disk/a.img"));
        let followed = file_in_root(dir.path(), "/link").unwrap();
        assert_eq!(
            followed.canonicalize().unwrap(),
            dir.path().join("disk/a.img").canonicalize().unwrap()
        );
        assert!(file_in_root(dir.path(), "disk/evil.img").is_err());
        assert!(file_in_root(dir.path(), "../../../../etc/passwd").is_err());
        assert!(file_in_root(dir.path(), "disk").is_err());
    }

    #[test]
    fn closed_directories_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let inner = dir.path().join("inner");
        fs::create_dir(&inner).unwrap();
        let file = inner.join("f");
        fs::write(&file, "x").unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        let why = may_open(&file, (65_000, 65_000), false).unwrap_err();
        assert!(why.contains("inner") && why.contains("chmod"), "{why}");
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o711)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o604)).unwrap();
        may_open(&file, (65_000, 65_000), false).unwrap();
        assert!(may_open(&file, (65_000, 65_000), true).unwrap_err().contains("--chown"));
    }
}
