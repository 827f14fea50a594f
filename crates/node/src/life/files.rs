//! Files that containers see change all at once: they are written beside the
//! present ones, and one rename of a link puts them in place.
//!
//! ```text
//! volume/key          -> ..data/key
//! volume/..data       -> ..2026-01-01T00_00_00.123
//! volume/..2026-…/key
//! ```
//!
//! Must not know where the content comes from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

const DATA: &str = "..data";

/// A file to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Content.
    pub bytes: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner, if not root.
    pub owner: Option<u32>,
}

/// Writes files, by path relative to `directory`, and takes away those that are not among them.
/// What is the same already is left alone.
pub(crate) fn write(
    directory: &Path,
    files: &BTreeMap<PathBuf, File>,
    group: Option<u32>,
    now: Timestamp,
) -> io::Result<()> {
    for path in files.keys() {
        let plain = path.components().all(|c| matches!(c, Component::Normal(_)));
        let reserved = path.to_string_lossy().starts_with("..");
        if !plain || reserved || path.as_os_str().is_empty() {
            let why = format!("{} is not a path within the volume", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    let data = directory.join(DATA);
    if same(&data, files)? {
        return Ok(());
    }
    let name = format!("..{}", now.strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = directory.join(&name);
    fs::DirBuilder::new().mode(0o755).create(&fresh)?;
    for (path, file) in files {
        put(&fresh, path, file, group)?;
    }
    let old = fs::read_link(&data).ok();
    let link = directory.join("..data_tmp");
    remove(&link)?;
    symlink(&name, &link)?;
    fs::rename(&link, &data)?;
    visible(directory, files)?;
    if let Some(old) = old.filter(|o| o.as_os_str() != name.as_str()) {
        fs::remove_dir_all(directory.join(old)).or_else(gone)?;
    }
    Ok(())
}

fn put(root: &Path, path: &Path, file: &File, group: Option<u32>) -> io::Result<()> {
    let target = root.join(path);
    if let Some(parent) = target.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    fs::write(&target, &file.bytes)?;
    if file.owner.is_some() || group.is_some() {
        chown(&target, file.owner, group)?;
    }
    // A group that owns the file is to read it.
    let mode = if group.is_some() {
        file.mode | ((file.mode & 0o400) >> 3)
    } else {
        file.mode
    };
    fs::set_permissions(&target, fs::Permissions::from_mode(mode))
}

/// A link for each first component.
fn visible(directory: &Path, files: &BTreeMap<PathBuf, File>) -> io::Result<()> {
    let wanted: BTreeSet<_> = files.keys().filter_map(|p| p.iter().next()).collect();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(name.as_os_str()) {
            remove(&directory.join(name))?;
        }
    }
    for name in wanted {
        let link = directory.join(name);
        let target = Path::new(DATA).join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&target) {
            remove(&link)?;
            symlink(target, link)?;
        }
    }
    Ok(())
}

/// Whether exactly these files are there.
fn same(data: &Path, files: &BTreeMap<PathBuf, File>) -> io::Result<bool> {
    let mut count = 0;
    let mut stack = match fs::canonicalize(data) {
        Ok(root) => vec![root],
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let root = stack.first().cloned().unwrap_or_default();
    while let Some(directory) = stack.pop() {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.is_dir() {
                stack.push(path);
                continue;
            }
            let relative = path.strip_prefix(&root).unwrap_or(&path);
            let Some(file) = files.get(relative) else {
                return Ok(false);
            };
            let size = path.metadata()?.size();
            if size != file.bytes.len() as u64 || fs::read(&path)? != file.bytes {
                return Ok(false);
            }
            count += 1;
        }
    }
    Ok(count == files.len())
}

fn remove(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(gone)
}

fn gone(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound {
        Ok(())
    } else {
        Err(e)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> BTreeMap<PathBuf, File> {
        let file = |text: &str| File {
            bytes: text.into(),
            mode: 0o644,
            owner: None,
        };
        list.iter().map(|(p, t)| (PathBuf::from(p), file(t))).collect()
    }

    #[test]
    fn files_are_replaced_together() {
        let dir = tempfile::tempdir().unwrap();
        let at = |s: i64| Timestamp::from_second(s).unwrap();
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, at(1)).unwrap();
        let first = fs::read_link(dir.path().join(DATA)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("sub/b")).unwrap(), "2");
        write(dir.path(), &files(&[("a", "1"), ("sub/b", "2")]), None, at(2)).unwrap();
        assert_eq!(fs::read_link(dir.path().join(DATA)).unwrap(), first, "nothing changed");
        write(dir.path(), &files(&[("a", "3")]), None, at(3)).unwrap();
        assert_eq!(fs::read_to_string(dir.path().join("a")).unwrap(), "3");
        assert!(!dir.path().join("sub").exists() && !dir.path().join(first).exists());
    }

    #[test]
    fn paths_stay_inside() {
        let dir = tempfile::tempdir().unwrap();
        for path in ["../x", "/etc/x", "a/../../x", "..data", ""] {
            let refused = write(dir.path(), &files(&[(path, "")]), None, Timestamp::UNIX_EPOCH);
            assert!(refused.is_err(), "{path}");
        }
    }
}
