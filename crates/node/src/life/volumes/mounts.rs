//! Mounts and paths of the host.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// A file system in memory; one that is there already stays. Whether it is new.
pub(crate) fn tmpfs(directory: &Path, limit: Option<i64>) -> io::Result<bool> {
    if mounts_below(directory)?.iter().any(|m| m == directory) {
        return Ok(false);
    }
    let options = limit.map(|l| format!("size={l}"));
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    mount(Some("tmpfs"), directory, Some("tmpfs"), flags, options.as_deref())?;
    Ok(true)
}

/// A `hostPath` of a type, made where the type says so. The error is for people.
pub(crate) fn host_path(path: &str, kind: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(path);
    let failed = |e: io::Error| format!("hostPath {}: {e}", path.display());
    match kind {
        "DirectoryOrCreate" => fs::create_dir_all(&path).map_err(failed)?,
        "FileOrCreate" if !path.exists() => {
            fs::File::create_new(&path).map_err(failed)?;
        }
        _ => {}
    }
    let kind_of = |p: &Path| fs::metadata(p).map(|m| m.file_type());
    let (fits, what) = match kind {
        "" => return Ok(path),
        "Directory" | "DirectoryOrCreate" => (kind_of(&path).is_ok_and(|t| t.is_dir()), "a directory"),
        "File" | "FileOrCreate" => (kind_of(&path).is_ok_and(|t| t.is_file()), "a file"),
        "Socket" => (kind_of(&path).is_ok_and(|t| t.is_socket()), "a socket"),
        "CharDevice" => (kind_of(&path).is_ok_and(|t| t.is_char_device()), "a character device"),
        "BlockDevice" => (kind_of(&path).is_ok_and(|t| t.is_block_device()), "a block device"),
        other => return Err(format!("hostPath type {other} is not known")),
    };
    if fits {
        Ok(path)
    } else {
        Err(format!("hostPath type check failed: {} is not {what}", path.display()))
    }
}

/// Whether a path is a block device.
pub(crate) fn is_block(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|m| m.file_type().is_block_device())
}

/// The mounts at and below a directory, the deepest first.
pub(crate) fn mounts_below(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let points = table.lines().filter_map(|l| l.split(' ').nth(4));
    let mut below: Vec<PathBuf> = points
        .map(|p| PathBuf::from(unescape(p)))
        .filter(|p| p.starts_with(directory))
        .collect();
    below.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    Ok(below)
}

/// Spaces and the like are written in octal (proc(5)).
fn unescape(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        match after.get(..3).and_then(|o| u8::from_str_radix(o, 8).ok()) {
            Some(byte) => {
                out.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                out.push('\\');
                rest = after;
            }
        }
    }
    out + rest
}

/// Unmounts everything at and below a directory.
pub(crate) fn unmount_below(directory: &Path) -> io::Result<()> {
    for point in mounts_below(directory)? {
        umount2(&point, MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW)?;
    }
    Ok(())
}

/// Removes a directory, but nothing that is still mounted below it.
pub(crate) fn remove_tree(directory: &Path) -> io::Result<()> {
    if let Some(point) = mounts_below(directory)?.first() {
        return Err(io::Error::other(format!("{} is still mounted", point.display())));
    }
    match fs::remove_dir_all(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_are_read_as_written() {
        assert_eq!(unescape(r"/a\040b\134c"), r"/a b\c");
        assert_eq!(unescape(r"\x"), r"\x");
    }

    #[test]
    fn host_paths_are_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: &str| dir.path().join(n).to_string_lossy().into_owned();
        assert!(host_path(&path("a/b"), "DirectoryOrCreate").is_ok());
        assert!(host_path(&path("a/b"), "File").unwrap_err().contains("is not a file"));
        assert!(host_path(&path("f"), "FileOrCreate").is_ok());
        assert!(host_path(&path("none"), "").is_ok());
        assert!(host_path(&path("none"), "Weird").is_err());
    }
}
