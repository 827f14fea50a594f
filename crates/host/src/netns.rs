//! Network namespaces that outlive the process that made them, by a bind mount.
//!
//! Must not configure what is in them.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};

/// Magic of nsfs, as in the kernel's linux/magic.h.
const NSFS: i64 = 0x6e73_6673;
/// Where a thread finds the namespace it is in.
const OWN: &str = "/proc/thread-self/ns/net";

/// Makes a namespace at a path; one that is there already is kept.
pub fn create(path: &Path) -> io::Result<()> {
    if is_namespace(path) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    File::create(path)?;
    // Only a thread of its own changes its namespace, and it ends right after.
    on_a_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let none: Option<&str> = None;
        mount(Some(OWN), path, none, MsFlags::MS_BIND, none)?;
        Ok(())
    })
}

/// Removes a namespace's name; the kernel ends it with its last user. What is not there is no error.
pub fn remove(path: &Path) -> io::Result<()> {
    // Once for each mount on it: two creators at once may have stacked them.
    while is_namespace(path) {
        umount2(path, MntFlags::MNT_DETACH)?;
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

/// Whether a path names a namespace that is there: a file whose mount is gone does not.
pub fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type == NSFS)
}

/// Runs `work` on a thread in a namespace.
pub fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_a_thread(|| {
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        work()
    })
}

/// Brings the calling thread into a new namespace of its own, for good; what it starts follows.
pub fn isolate() -> io::Result<()> {
    Ok(unshare(CloneFlags::CLONE_NEWNET)?)
}

/// The namespaces that are mounted somewhere below a directory.
pub fn mounted_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(mounts
        .lines()
        .filter_map(nsfs_mount)
        .filter(|p| p.starts_with(directory))
        .collect())
}

/// Where a line of mountinfo mounts an nsfs.
fn nsfs_mount(line: &str) -> Option<PathBuf> {
    let (mount, kind) = line.split_once(" - ")?;
    if !kind.starts_with("nsfs ") {
        return None;
    }
    let path = mount.split(' ').nth(4)?;
    Some(
        path.replace("\\040", " ")
            .replace("\\011", "\t")
            .replace("\\134", "\\")
            .into(),
    )
}

fn on_a_thread<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(work).join();
        done.unwrap_or_else(|_| Err(io::Error::other("thread failed")))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn a_namespace_is_made_kept_entered_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("netns/a");
        create(&path).unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        create(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
        let file = File::open(&path).unwrap();
        assert_eq!(inside(&file, || fs::metadata(OWN)).unwrap().ino(), inode);
        assert_ne!(fs::metadata(OWN).unwrap().ino(), inode);
        assert_eq!(mounted_below(dir.path()).unwrap(), std::slice::from_ref(&path));
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert!(!path.exists() && mounted_below(dir.path()).unwrap().is_empty());
    }
}
