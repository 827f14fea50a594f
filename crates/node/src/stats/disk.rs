//! Space on disks: of a file system, and of all below a directory. Must not follow links, and
//! must not leave the file system that it begins on.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Most files that are looked at below one directory: numbers are not worth more.
const MOST: usize = 200_000;

/// Space on a disk, bytes and files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Space {
    pub available: u64,
    pub capacity: u64,
    pub used: u64,
    pub files_free: u64,
    pub files: u64,
    pub files_used: u64,
}

/// Of the file system that a path is on.
pub(crate) fn space_of(path: &Path) -> Option<Space> {
    let s = rustix::fs::statvfs(path).ok()?;
    let bytes = |blocks: u64| blocks.saturating_mul(s.f_frsize);
    Some(Space {
        available: bytes(s.f_bavail),
        capacity: bytes(s.f_blocks),
        used: bytes(s.f_blocks.saturating_sub(s.f_bfree)),
        files_free: s.f_ffree,
        files: s.f_files,
        files_used: s.f_files.saturating_sub(s.f_ffree),
    })
}

/// Bytes and files below a directory, itself included; a file with many names counts once.
pub(crate) fn space_below(path: &Path) -> (u64, u64) {
    let Ok(top) = fs::symlink_metadata(path) else {
        return (0, 0);
    };
    let (mut bytes, mut files) = (top.blocks().saturating_mul(512), 1);
    let mut linked = HashSet::new();
    let mut left: Vec<PathBuf> = vec![path.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            let Ok(m) = entry.metadata() else { continue };
            if m.dev() != top.dev() || (m.nlink() > 1 && !m.is_dir() && !linked.insert(m.ino())) {
                continue;
            }
            bytes = bytes.saturating_add(m.blocks().saturating_mul(512));
            files += 1;
            if files as usize >= MOST {
                return (bytes, files);
            }
            if m.is_dir() {
                left.push(entry.path());
            }
        }
    }
    (bytes, files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_once() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), vec![1; 100_000]).unwrap();
        let one = space_below(dir.path());
        fs::hard_link(dir.path().join("d/a"), dir.path().join("b")).unwrap();
        std::os::unix::fs::symlink("/", dir.path().join("root")).unwrap();
        let two = space_below(dir.path());
        assert!(one.0 >= 100_000 && two.0 < one.0 + 50_000, "{one:?} {two:?}");
        assert_eq!((one.1, two.1), (3, 4));
        assert_eq!(space_below(Path::new("/nonsense")), (0, 0));
        assert!(space_of(dir.path()).unwrap().capacity > 0);
    }
}
