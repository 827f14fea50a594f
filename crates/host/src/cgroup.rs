//! Settings of the kernel's cgroup file system. Must not make or remove groups: runtimes do.

use std::io;
use std::path::PathBuf;

use rustix::mount::{MountFlags, mount_remount};

const MOUNTS: &str = "/proc/self/mountinfo";
const OPTION: &str = "favordynmods";

/// Makes moving processes between groups cheap, at the price of slightly dearer forks: the mount
/// option `favordynmods` (Linux 6.0) of the unified hierarchy. Starting a container moves
/// processes, and each move else waits for an RCU grace period, some 10 to 20 ms. The setting
/// holds for the whole kernel until it is restarted.
///
/// # Errors
/// Where there is no unified hierarchy, or the kernel does not know the option.
pub fn favor_moves() -> io::Result<()> {
    let mounts = std::fs::read_to_string(MOUNTS)?;
    let unified = mounts.lines().find_map(Mount::parse);
    let mount = unified.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "no cgroup2 is mounted"))?;
    if mount.options.split(',').any(|o| o == OPTION) {
        return Ok(());
    }
    // What is not named again would be taken away.
    let options = format!("{},{OPTION}", mount.options);
    mount_remount(&mount.path, mount.flags, options.as_str())?;
    Ok(())
}

/// A mounted cgroup2.
#[derive(Debug, PartialEq)]
struct Mount {
    path: PathBuf,
    flags: MountFlags,
    /// Those of the file system, without `rw`.
    options: String,
}

impl Mount {
    /// From a line of `mountinfo` (proc_pid_mountinfo(5)); `None` for other file systems.
    fn parse(line: &str) -> Option<Self> {
        let (mount, system) = line.split_once(" - ")?;
        let mut system = system.split(' ');
        if system.next()? != "cgroup2" {
            return None;
        }
        let options = system.nth(1).unwrap_or_default();
        let options: Vec<&str> = options.split(',').filter(|o| !matches!(*o, "rw" | "ro")).collect();
        let mut mount = mount.split(' ').skip(4);
        let path = mount.next()?.replace("\\040", " ");
        let mut flags = MountFlags::empty();
        for option in mount.next()?.split(',') {
            flags |= match option {
                "ro" => MountFlags::RDONLY,
                "nosuid" => MountFlags::NOSUID,
                "nodev" => MountFlags::NODEV,
                "noexec" => MountFlags::NOEXEC,
                "noatime" => MountFlags::NOATIME,
                "relatime" => MountFlags::RELATIME,
                _ => MountFlags::empty(),
            };
        }
        Some(Mount {
            path: path.into(),
            flags,
            options: options.join(","),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_hierarchy_is_found_with_its_options() {
        let line = "35 25 0:30 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot";
        let found = Mount::parse(line).unwrap();
        assert_eq!(found.path, PathBuf::from("/sys/fs/cgroup"));
        assert_eq!(found.options, "nsdelegate,memory_recursiveprot");
        assert!(
            found
                .flags
                .contains(MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME)
        );
        assert!(!found.flags.contains(MountFlags::RDONLY));
        for other in [
            "",
            " - ",
            "36 25 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu",
            "1 2 - cgroup2",
        ] {
            assert_eq!(Mount::parse(other), None, "{other}");
        }
    }
}
