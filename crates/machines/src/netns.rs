//! Network namespaces that outlive the process that made them, by a bind mount.
//! Must not configure what is in them.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// Makes a namespace at a path; one that is there already is kept.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path)?;
    // Only the calling thread changes its namespace, and it ends right after.
    std::thread::scope(|scope| {
        let made = scope.spawn(|| -> io::Result<()> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            let none: Option<&str> = None;
            mount(Some("/proc/thread-self/ns/net"), path, none, MsFlags::MS_BIND, none)?;
            Ok(())
        });
        made.join().unwrap_or_else(|_| Err(io::Error::other("thread failed")))
    })
}

/// Removes a namespace's name; the kernel ends it with its last user. What is not there is no error.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    // Once for each mount on it: two creators at once may have stacked them.
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

fn is_namespace(path: &Path) -> bool {
    // The magic of nsfs, as in the kernel's linux/magic.h.
    const NSFS: i64 = 0x6e73_6673;
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == NSFS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_made_kept_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/a");
        create(&path).unwrap();
        use std::os::unix::fs::MetadataExt;
        let inode = fs::metadata(&path).unwrap().ino();
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        assert_ne!(fs::metadata("/proc/thread-self/ns/net").unwrap().ino(), inode);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(path.to_str().unwrap()));
    }
}
