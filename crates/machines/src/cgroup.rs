//! The machine's cgroup, in both versions: made below the pod's, limited, read,
//! removed. Must not touch any other group's settings.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use runtime::Resources;

/// Controllers of version 1 that machines use.
const CONTROLLERS: [&str; 4] = ["cpu", "cpuacct", "memory", "pids"];

/// Where the kernel shows its control groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Hierarchy {
    /// Controllers with their mount points.
    V1(Vec<(String, PathBuf)>),
    /// The one mount point.
    V2(PathBuf),
    /// None: machines run without limits.
    Absent,
}

/// Looks at the mounts.
pub(crate) fn detect() -> Hierarchy {
    parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

fn parse(mountinfo: &str) -> Hierarchy {
    let mut v1: Vec<(String, PathBuf)> = Vec::new();
    let mut v2 = None;
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else {
            continue;
        };
        let Some(point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match (right.next(), right.nth(1)) {
            (Some("cgroup"), Some(options)) => {
                let ours = options.split(',').filter(|o| CONTROLLERS.contains(o));
                v1.extend(ours.map(|o| (o.to_owned(), PathBuf::from(point))));
            }
            (Some("cgroup2"), _) => v2 = Some(PathBuf::from(point)),
            _ => {}
        }
    }
    match (v1.is_empty(), v2) {
        // A hybrid layout has its controllers in version 1.
        (false, _) => Hierarchy::V1(v1),
        (true, Some(point)) => Hierarchy::V2(point),
        (true, None) => Hierarchy::Absent,
    }
}

/// Directories made for a machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Made {
    /// What QEMU joins, one for each hierarchy.
    pub leaves: Vec<PathBuf>,
    /// Directories above them that were not there, outermost first.
    pub parents: Vec<PathBuf>,
}

/// Makes `parent/name` in every hierarchy.
pub(crate) fn create(hierarchy: &Hierarchy, parent: &str, name: &str) -> io::Result<Made> {
    let relative = Path::new(parent.trim_start_matches('/')).join(name);
    let mut made = Made::default();
    for root in roots(hierarchy) {
        let mut path = root.clone();
        for part in relative.components() {
            if matches!(hierarchy, Hierarchy::V2(_)) {
                // Fails where a controller is missing or the group has processes: then no limits.
                for controller in ["+cpu", "+memory", "+pids"] {
                    let _ = fs::write(path.join("cgroup.subtree_control"), controller);
                }
            }
            path.push(part);
            match fs::create_dir(&path) {
                Ok(()) => made.parents.push(path.clone()),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
            }
        }
        made.parents.retain(|p| *p != path);
        made.leaves.push(path);
    }
    Ok(made)
}

fn roots(hierarchy: &Hierarchy) -> Vec<PathBuf> {
    match hierarchy {
        Hierarchy::V1(controllers) => {
            let mut roots: Vec<PathBuf> = controllers.iter().map(|(_, p)| p.clone()).collect();
            roots.sort();
            roots.dedup();
            roots
        }
        Hierarchy::V2(root) => vec![root.clone()],
        Hierarchy::Absent => Vec::new(),
    }
}

/// Sets the limits on the leaves.
pub(crate) fn limit(leaves: &[PathBuf], r: &Resources) -> io::Result<()> {
    for leaf in leaves {
        for (file, value) in settings(r) {
            let path = leaf.join(file);
            if path.exists() {
                fs::write(&path, value).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            }
        }
    }
    Ok(())
}

/// Files and values of both versions; only those that a directory has are written.
fn settings(r: &Resources) -> Vec<(&'static str, String)> {
    let mut out = Vec::new();
    if r.cpu_shares > 0 {
        let shares = r.cpu_shares.clamp(2, 262_144);
        out.push(("cpu.shares", shares.to_string()));
        // KEP-2254's conversion of 2..262144 to 1..10000.
        out.push(("cpu.weight", (1 + (shares - 2) * 9999 / 262_142).to_string()));
    }
    if r.cpu_quota > 0 {
        let period = if r.cpu_period > 0 { r.cpu_period } else { 100_000 };
        out.push(("cpu.cfs_period_us", period.to_string()));
        out.push(("cpu.cfs_quota_us", r.cpu_quota.to_string()));
        out.push(("cpu.max", format!("{} {period}", r.cpu_quota)));
    }
    if r.memory_limit > 0 {
        out.push(("memory.limit_in_bytes", r.memory_limit.to_string()));
        out.push(("memory.max", r.memory_limit.to_string()));
    }
    out
}

/// CPU time in nanoseconds and working set in bytes.
pub(crate) fn usage(leaves: &[PathBuf]) -> (u64, u64) {
    let number = |file: &str| {
        let mut found = leaves.iter().filter_map(|l| fs::read_to_string(l.join(file)).ok());
        found.find_map(|t| t.trim().parse::<u64>().ok())
    };
    let field = |file: &str, key: &str| {
        let mut found = leaves.iter().filter_map(|l| fs::read_to_string(l.join(file)).ok());
        found.find_map(|t| {
            let line = t.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
            line?.trim().parse::<u64>().ok()
        })
    };
    let cpu = number("cpuacct.usage").or_else(|| field("cpu.stat", "usage_usec").map(|us| us * 1000));
    let memory = number("memory.usage_in_bytes").or_else(|| number("memory.current"));
    let inactive = field("memory.stat", "total_inactive_file").or_else(|| field("memory.stat", "inactive_file"));
    (
        cpu.unwrap_or(0),
        memory.unwrap_or(0).saturating_sub(inactive.unwrap_or(0)),
    )
}

/// Whether the kernel killed a process of the group for want of memory.
pub(crate) fn oom_killed(leaves: &[PathBuf]) -> bool {
    ["memory.oom_control", "memory.events"].iter().any(|file| {
        let mut texts = leaves.iter().filter_map(|l| fs::read_to_string(l.join(file)).ok());
        texts.any(|t| {
            t.lines()
                .any(|l| l.strip_prefix("oom_kill ").is_some_and(|n| n.trim() != "0"))
        })
    })
}

/// Removes the groups: leaves must become empty within the deadline, parents go if nobody uses them.
pub(crate) async fn remove(leaves: &[PathBuf], parents: &[PathBuf]) -> io::Result<()> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    for leaf in leaves {
        loop {
            match fs::remove_dir(leaf) {
                Ok(()) => break,
                Err(e) if e.kind() == io::ErrorKind::NotFound => break,
                // A process that has just ended is in its group a little longer, and the
                // kernel tells nobody in version 1.
                Err(_) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", leaf.display()))),
            }
        }
    }
    for parent in parents.iter().rev() {
        let _ = fs::remove_dir(parent);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_told_apart() {
        let v1 = "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                  31 25 0:27 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n\
                  32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = parse(v1);
        assert_eq!(
            roots(&found),
            [
                PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"),
                PathBuf::from("/sys/fs/cgroup/memory")
            ]
        );
        let v2 = parse("32 25 0:28 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
        assert_eq!(v2, Hierarchy::V2("/sys/fs/cgroup".into()));
        assert_eq!(parse(""), Hierarchy::Absent);
    }

    #[test]
    fn shares_become_weights() {
        let r = |cpu_shares| Resources {
            cpu_shares,
            ..Resources::default()
        };
        for (shares, weight) in [(2, "1"), (1024, "39"), (262_144, "10000")] {
            assert!(settings(&r(shares)).contains(&("cpu.weight", weight.to_owned())));
        }
    }

    #[tokio::test]
    async fn groups_are_made_and_removed_on_this_host() {
        let hierarchy = detect();
        let name = format!("allmend-machines-test-{}", std::process::id());
        let made = create(&hierarchy, &format!("/{name}/pod"), "m").unwrap();
        limit(
            &made.leaves,
            &Resources {
                memory_limit: 64 << 20,
                ..Resources::default()
            },
        )
        .unwrap();
        assert!(made.leaves.iter().all(|l| l.is_dir()));
        remove(&made.leaves, &made.parents).await.unwrap();
        assert!(made.parents.iter().all(|p| !p.exists()));
    }
}
