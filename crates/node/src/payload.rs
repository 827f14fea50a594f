//! The files of ConfigMap, Secret, downwardAPI and projected volumes, written
//! so that readers see all of an update or none of it.
//!
//! Must not read the API.
//!
//! ```text
//! key.txt -> ..data/key.txt      ..data -> ..<time>      ..<time>/key.txt
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

/// Content and mode of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    pub content: Vec<u8>,
    pub mode: u32,
}

/// Files by their path below the volume.
pub(crate) type Payload = BTreeMap<String, File>;

/// Whether a path stays below the volume and out of our own names.
pub(crate) fn is_plain(path: &str) -> bool {
    let path = Path::new(path);
    let mut parts = path.components().peekable();
    let hidden = parts
        .peek()
        .is_some_and(|p| p.as_os_str().to_string_lossy().starts_with(".."));
    path.as_os_str().len() <= 4096 && !hidden && parts.all(|p| matches!(p, Component::Normal(_)))
}

/// Makes the volume at `target` hold exactly these files. `group` gets to read them.
pub(crate) fn write(target: &Path, payload: &Payload, group: Option<u32>) -> io::Result<()> {
    if let Some(bad) = payload.keys().find(|p| p.is_empty() || !is_plain(p)) {
        return Err(io::Error::other(format!("invalid path {bad:?} in a volume")));
    }
    fs::create_dir_all(target)?;
    let data = target.join("..data");
    let old = fs::read_link(&data).ok();
    if old.is_some() && same(&data, payload, group) {
        return link(target, payload);
    }
    let name = format!("..{}", Timestamp::now().as_nanosecond());
    let fresh = target.join(&name);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in payload {
        let at = fresh.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&at, &file.content)?;
        let mut mode = file.mode;
        if let Some(group) = group {
            chown(&at, None, Some(group))?;
            mode |= 0o440;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    let next = target.join("..data_tmp");
    remove_if_there(&next)?;
    symlink(&name, &next)?;
    fs::rename(&next, &data)?;
    link(target, payload)?;
    if let Some(old) = old {
        let old = target.join(old);
        if old != fresh {
            fs::remove_dir_all(old).or_else(not_there)?;
        }
    }
    Ok(())
}

/// Whether the files are there already.
fn same(data: &Path, payload: &Payload, group: Option<u32>) -> bool {
    let extra = if group.is_some() { 0o440 } else { 0 };
    let mut there = BTreeSet::new();
    if files(data, Path::new(""), &mut there).is_err() || there.len() != payload.len() {
        return false;
    }
    payload.iter().all(|(path, file)| {
        let at = data.join(path);
        let mode = fs::metadata(&at).map(|m| m.permissions().mode() & 0o7777);
        mode.is_ok_and(|m| m == file.mode | extra) && fs::read(&at).is_ok_and(|c| c == file.content)
    })
}

fn files(root: &Path, below: &Path, out: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(root.join(below))? {
        let entry = entry?;
        let path = below.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            files(root, &path, out)?;
        } else {
            out.insert(path);
        }
    }
    Ok(())
}

/// Links to the first component of every path; links to what is gone are removed.
fn link(target: &Path, payload: &Payload) -> io::Result<()> {
    let tops: BTreeSet<&str> = payload.keys().filter_map(|p| p.split('/').next()).collect();
    for top in &tops {
        let at = target.join(top);
        if fs::symlink_metadata(&at).is_err() {
            symlink(Path::new("..data").join(top), &at)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !tops.contains(&*name) {
            remove_if_there(&entry.path())?;
        }
    }
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    fs::remove_file(path).or_else(not_there)
}

fn not_there(e: io::Error) -> io::Result<()> {
    if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(files: &[(&str, &str)]) -> Payload {
        let file = |content: &str| File {
            content: content.into(),
            mode: 0o644,
        };
        files.iter().map(|(p, c)| ((*p).to_owned(), file(c))).collect()
    }

    #[test]
    fn updates_are_seen_whole() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("v");
        write(&target, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "1");
        assert_eq!(fs::read_to_string(target.join("d/b")).unwrap(), "2");
        let before = fs::read_link(target.join("..data")).unwrap();
        write(&target, &payload(&[("a", "1"), ("d/b", "2")]), None).unwrap();
        assert_eq!(fs::read_link(target.join("..data")).unwrap(), before, "nothing changed");
        write(&target, &payload(&[("a", "3")]), None).unwrap();
        assert_eq!(fs::read_to_string(target.join("a")).unwrap(), "3");
        assert!(!target.join("d").exists() && !target.join(before).exists());
        write(&target, &payload(&[]), None).unwrap();
        assert!(!target.join("a").exists());
    }

    #[test]
    fn paths_stay_inside() {
        for (path, fine) in [("a/b", true), ("../x", false), ("/x", false), ("..data", false), ("a/../b", false)] {
            assert_eq!(is_plain(path), fine, "{path}");
        }
    }
}
