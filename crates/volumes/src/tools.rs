//! The host's programs and tables: file systems, loop devices, mounts.
//! Must not know what a volume is.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use crate::{VolumeError, io};

/// Runs a program; its standard output when its exit code is among those allowed.
async fn run(program: &'static str, arguments: &[&str], allowed: &[i32]) -> Result<String, VolumeError> {
    let failed = |message: String| VolumeError::Program { program, message };
    let output = tokio::process::Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|e| failed(format!("{e}; install e2fsprogs and util-linux")))?;
    match output.status.code() {
        Some(code) if allowed.contains(&code) => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        _ => {
            let mut words = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            if words.is_empty() {
                words = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            }
            Err(failed(format!("{} ({})", words, output.status)))
        }
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Makes an ext4 in a file. Without discard: the file is sparse already, and not every
/// file below a loop device takes it.
pub(crate) async fn make_filesystem(file: &Path) -> Result<(), VolumeError> {
    let options = "nodiscard,lazy_itable_init=1,lazy_journal_init=1";
    let file = text(file);
    // Reserved blocks are for a system's root file system, not for data.
    run("mkfs.ext4", &["-q", "-F", "-m", "0", "-E", options, &file], &[0])
        .await
        .map(drop)
}

/// Replays the journal and mends what can be mended safely.
pub(crate) async fn check_filesystem(file: &Path) -> Result<(), VolumeError> {
    // 1: errors were corrected. 4 and above: a person has to look.
    run("e2fsck", &["-p", &text(file)], &[0, 1]).await.map(drop)
}

/// Grows an ext4 that is not mounted to the size of its file.
pub(crate) async fn grow_unmounted(file: &Path) -> Result<(), VolumeError> {
    // resize2fs asks for a full check first.
    run("e2fsck", &["-f", "-p", &text(file)], &[0, 1]).await?;
    run("resize2fs", &[&text(file)], &[0]).await.map(drop)
}

/// Grows a mounted ext4 to the size of its device. `false` when this process may not: the
/// kernel asks for CAP_SYS_RESOURCE, which roots of containers may lack.
pub(crate) async fn grow_mounted(device: &Path) -> Result<bool, VolumeError> {
    match run("resize2fs", &[&text(device)], &[0]).await {
        Ok(_) => Ok(true),
        Err(VolumeError::Program { message, .. }) if message.contains("Permission denied") => Ok(false),
        Err(error) => Err(error),
    }
}

/// Mounts an image by a loop device that goes with the mount.
pub(crate) async fn mount_image(file: &Path, target: &Path) -> Result<(), VolumeError> {
    run(
        "mount",
        &["-t", "ext4", "-o", "loop,noatime", &text(file), &text(target)],
        &[0],
    )
    .await
    .map(drop)
}

/// Sets up a loop device, with the page cache below it: direct I/O is not possible everywhere.
pub(crate) async fn attach_loop(file: &Path) -> Result<PathBuf, VolumeError> {
    let device = run("losetup", &["--find", "--show", "--direct-io=off", &text(file)], &[0]).await?;
    Ok(device.trim().into())
}

/// Tells a loop device that its file has grown.
pub(crate) async fn refresh_loop(device: &Path) -> Result<(), VolumeError> {
    run("losetup", &["--set-capacity", &text(device)], &[0]).await.map(drop)
}

/// Takes a loop device down.
pub(crate) async fn detach_loop(device: &Path) -> Result<(), VolumeError> {
    run("losetup", &["--detach", &text(device)], &[0]).await.map(drop)
}

/// Loop devices of a file.
pub(crate) async fn loops_of(file: &Path) -> Result<Vec<PathBuf>, VolumeError> {
    let list = run(
        "losetup",
        &["--noheadings", "--output", "NAME", "--associated", &text(file)],
        &[0],
    )
    .await?;
    Ok(list
        .lines()
        .map(|l| l.trim().into())
        .filter(|p: &PathBuf| !p.as_os_str().is_empty())
        .collect())
}

/// Gives the files of a directory to a group, as `fsGroup` wants it. These programs walk by
/// descriptors and follow no links, whatever a running pod does meanwhile.
pub(crate) async fn give_to_group(directory: &Path, group: u32) -> Result<(), VolumeError> {
    let (path, group) = (text(directory), group.to_string());
    run("chgrp", &["-R", "-h", &group, &path], &[0]).await?;
    run("chmod", &["-R", "g+rwX", &path], &[0]).await?;
    run("chmod", &["g+s", &path], &[0]).await.map(drop)
}

/// A line of the mount table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MountEntry {
    /// `major:minor` of the file system.
    pub device: String,
    /// Where.
    pub target: PathBuf,
}

/// The mount table.
pub(crate) fn mounts() -> Result<Vec<MountEntry>, VolumeError> {
    let text = std::fs::read_to_string("/proc/self/mountinfo").map_err(io("read /proc/self/mountinfo"))?;
    Ok(parse_mounts(&text))
}

fn parse_mounts(text: &str) -> Vec<MountEntry> {
    let entry = |line: &str| {
        let mut fields = line.split(' ').skip(2);
        let device = fields.next()?.to_owned();
        let target = unescape(fields.nth(1)?);
        Some(MountEntry { device, target })
    };
    text.lines().filter_map(entry).collect()
}

/// The kernel writes blanks and the like as three octal digits.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let octal = (bytes[i] == b'\\')
            .then(|| text.get(i + 1..i + 4).and_then(|o| u8::from_str_radix(o, 8).ok()))
            .flatten();
        match octal {
            Some(byte) => {
                out.push(byte);
                i += 4;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    std::ffi::OsString::from_vec(out).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_are_read() {
        let found = parse_mounts("36 35 7:3 / /a\\040b rw,noatime - ext4 /dev/loop3 rw\nshort\n");
        assert_eq!(
            found,
            [MountEntry {
                device: "7:3".into(),
                target: "/a b".into()
            }]
        );
    }
}
