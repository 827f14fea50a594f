//! What a control group says of its use, in both versions, read directly by path.
//! Must not change anything, and must not know what a group belongs to.

use std::fs;
use std::path::PathBuf;

/// Where the kernel shows its control groups.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Groups {
    /// Mount points of version 1 by controller.
    v1: Vec<(String, PathBuf)>,
    /// Mount point of version 2; only of use where there is no version 1.
    v2: Option<PathBuf>,
}

/// Controllers of version 1 that say something of use.
const CONTROLLERS: [&str; 5] = ["cpuacct", "cpu", "memory", "blkio", "pids"];

/// Use of processors and memory by a group and all below it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// When it was read, nanoseconds since the epoch.
    pub at: i64,
    /// Processor time, nanoseconds.
    pub cpu: u64,
    pub memory: Memory,
}

/// Bytes, and counts of page faults.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    pub usage: u64,
    /// Use without what the kernel would drop first.
    pub working_set: u64,
    pub rss: u64,
    pub cache: u64,
    pub mapped: u64,
    pub swap: u64,
    pub faults: u64,
    pub major_faults: u64,
    /// `None` without a limit.
    pub limit: Option<u64>,
}

/// What is only shown to those who look closely.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Details {
    /// Processor time in user and kernel mode, nanoseconds.
    pub user: u64,
    pub system: u64,
    /// Enforcement intervals: all, and those in which the group was held back; nanoseconds of it.
    pub periods: u64,
    pub throttled: u64,
    pub throttled_time: u64,
    /// Microseconds; `None` without a limit.
    pub quota: Option<u64>,
    pub period: u64,
    pub processes: u64,
    pub threads: u64,
    /// Disks: bytes and operations, read and written.
    pub read_bytes: u64,
    pub written_bytes: u64,
    pub reads: u64,
    pub writes: u64,
    pub memory_failures: u64,
}

/// Version 1 says "no limit" with a number near this.
const UNLIMITED: u64 = 1 << 62;
/// The kernel's clock ticks, part of its ABI.
const TICK: u64 = 10_000_000;

impl Groups {
    /// Looks at the mounts.
    pub(crate) fn detect() -> Self {
        Self::parse(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
    }

    fn parse(mountinfo: &str) -> Self {
        let mut out = Groups::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else {
                continue;
            };
            let Some(point) = left.split(' ').nth(4) else { continue };
            let mut right = right.split(' ');
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let ours = options.split(',').filter(|o| CONTROLLERS.contains(o));
                    out.v1.extend(ours.map(|o| (o.to_owned(), PathBuf::from(point))));
                }
                (Some("cgroup2"), _) => out.v2 = Some(point.into()),
                _ => {}
            }
        }
        out
    }

    /// Where a controller keeps a group.
    fn path(&self, controller: &str, group: &str) -> Option<PathBuf> {
        let relative = group.trim_start_matches('/');
        if self.v1.is_empty() {
            return Some(self.v2.as_ref()?.join(relative));
        }
        let found = self.v1.iter().find(|(c, _)| c == controller)?;
        Some(found.1.join(relative))
    }

    fn read(&self, controller: &str, group: &str, file: &str) -> Option<String> {
        fs::read_to_string(self.path(controller, group)?.join(file)).ok()
    }

    fn number(&self, controller: &str, group: &str, file: &str) -> Option<u64> {
        number(&self.read(controller, group, file)?)
    }

    /// Use by a group; `None` when there is no such group.
    pub(crate) fn usage(&self, group: &str) -> Option<Usage> {
        let (cpu, memory) = if self.v1.is_empty() {
            let cpu = field(&self.read("", group, "cpu.stat")?, "usage_usec")?.saturating_mul(1000);
            (cpu, self.memory_v2(group))
        } else {
            let cpu = self.number("cpuacct", group, "cpuacct.usage")?;
            (cpu, self.memory_v1(group))
        };
        let at = super::now();
        Some(Usage { at, cpu, memory })
    }

    fn memory_v1(&self, group: &str) -> Memory {
        let stat = self.read("memory", group, "memory.stat").unwrap_or_default();
        let get = |key: &str| field(&stat, key).unwrap_or(0);
        let usage = self.number("memory", group, "memory.usage_in_bytes").unwrap_or(0);
        Memory {
            usage,
            working_set: usage.saturating_sub(get("total_inactive_file")),
            rss: get("total_rss"),
            cache: get("total_cache"),
            mapped: get("total_mapped_file"),
            swap: get("total_swap"),
            faults: get("total_pgfault"),
            major_faults: get("total_pgmajfault"),
            limit: field(&stat, "hierarchical_memory_limit").filter(|l| *l < UNLIMITED),
        }
    }

    fn memory_v2(&self, group: &str) -> Memory {
        let stat = self.read("", group, "memory.stat").unwrap_or_default();
        let get = |key: &str| field(&stat, key).unwrap_or(0);
        let usage = self.number("", group, "memory.current").unwrap_or(0);
        Memory {
            usage,
            working_set: usage.saturating_sub(get("inactive_file")),
            rss: get("anon"),
            cache: get("file"),
            mapped: get("file_mapped"),
            swap: self.number("", group, "memory.swap.current").unwrap_or(0),
            faults: get("pgfault"),
            major_faults: get("pgmajfault"),
            limit: self.number("", group, "memory.max"),
        }
    }

    /// The rest of what a group says.
    pub(crate) fn details(&self, group: &str) -> Details {
        let mut out = if self.v1.is_empty() {
            self.details_v2(group)
        } else {
            self.details_v1(group)
        };
        out.processes = self.pids(group).len() as u64;
        out.threads = self.number("pids", group, "pids.current").unwrap_or(0);
        out
    }

    fn details_v1(&self, group: &str) -> Details {
        let times = self.read("cpuacct", group, "cpuacct.stat").unwrap_or_default();
        let cpu = self.read("cpu", group, "cpu.stat").unwrap_or_default();
        let get = |key: &str| field(&cpu, key).unwrap_or(0);
        let ticks = |key: &str| field(&times, key).unwrap_or(0).saturating_mul(TICK);
        let io = |file: &str| {
            let text = self.read("blkio", group, file).unwrap_or_default();
            (devices_v1(&text, "Read"), devices_v1(&text, "Write"))
        };
        let (read_bytes, written_bytes) = io("blkio.throttle.io_service_bytes_recursive");
        let (reads, writes) = io("blkio.throttle.io_serviced_recursive");
        Details {
            user: ticks("user"),
            system: ticks("system"),
            periods: get("nr_periods"),
            throttled: get("nr_throttled"),
            throttled_time: get("throttled_time"),
            // -1 stands for no limit, and is no number here.
            quota: self.number("cpu", group, "cpu.cfs_quota_us"),
            period: self.number("cpu", group, "cpu.cfs_period_us").unwrap_or(0),
            memory_failures: self.number("memory", group, "memory.failcnt").unwrap_or(0),
            read_bytes,
            written_bytes,
            reads,
            writes,
            ..Details::default()
        }
    }

    fn details_v2(&self, group: &str) -> Details {
        let cpu = self.read("", group, "cpu.stat").unwrap_or_default();
        let micros = |key: &str| field(&cpu, key).unwrap_or(0).saturating_mul(1000);
        let get = |key: &str| field(&cpu, key).unwrap_or(0);
        let max = self.read("", group, "cpu.max").unwrap_or_default();
        let mut max = max.split_whitespace();
        let io = self.read("", group, "io.stat").unwrap_or_default();
        let events = self.read("", group, "memory.events").unwrap_or_default();
        Details {
            user: micros("user_usec"),
            system: micros("system_usec"),
            periods: get("nr_periods"),
            throttled: get("nr_throttled"),
            throttled_time: micros("throttled_usec"),
            quota: max.next().and_then(number),
            period: max.next().and_then(number).unwrap_or(0),
            memory_failures: field(&events, "max").unwrap_or(0),
            read_bytes: devices_v2(&io, "rbytes="),
            written_bytes: devices_v2(&io, "wbytes="),
            reads: devices_v2(&io, "rios="),
            writes: devices_v2(&io, "wios="),
            ..Details::default()
        }
    }

    /// Names of the groups directly below.
    pub(crate) fn children(&self, group: &str) -> Vec<String> {
        let Some(path) = self.path("cpuacct", group) else {
            return Vec::new();
        };
        let entries = fs::read_dir(path).into_iter().flatten().flatten();
        let groups = entries.filter(|e| e.file_type().is_ok_and(|t| t.is_dir()));
        groups.filter_map(|e| e.file_name().into_string().ok()).collect()
    }

    /// The processes of a group itself.
    pub(crate) fn pids(&self, group: &str) -> Vec<u32> {
        let text = self.read("cpuacct", group, "cgroup.procs").unwrap_or_default();
        text.lines().filter_map(|l| l.trim().parse().ok()).collect()
    }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// The value behind a key, one a line.
fn field(text: &str, key: &str) -> Option<u64> {
    let mut found = text
        .lines()
        .filter_map(|line| line.strip_prefix(key)?.strip_prefix(' '));
    number(found.next()?)
}

/// `8:0 Read 4096`, one device and operation a line.
fn devices_v1(text: &str, operation: &str) -> u64 {
    let of = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        (words.next()? == operation).then(|| number(words.next()?)).flatten()
    };
    text.lines().filter_map(of).fold(0, u64::saturating_add)
}

/// `8:0 rbytes=4096 wbytes=0 …`, one device a line.
fn devices_v2(text: &str, key: &str) -> u64 {
    let words = text.split_whitespace();
    words
        .filter_map(|w| number(w.strip_prefix(key)?))
        .fold(0, u64::saturating_add)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn write(root: &Path, files: &[(&str, &str)]) {
        for (file, text) in files {
            let path = root.join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    #[test]
    fn version_one_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_str().unwrap();
        let mounts: String = ["cpu", "cpuacct", "memory", "blkio", "pids"]
            .iter()
            .map(|c| format!("30 25 0:26 / {root}/{c} rw - cgroup cgroup rw,{c}\n"))
            .collect();
        let groups = Groups::parse(&(mounts + "31 25 0:27 / /u rw - cgroup2 cgroup2 rw\n"));
        assert_eq!(groups.usage("/a/pod"), None);
        write(
            dir.path(),
            &[
                ("cpuacct/a/pod/cpuacct.usage", "1500000000\n"),
                ("cpuacct/a/pod/cpuacct.stat", "user 100\nsystem 50\n"),
                ("cpuacct/a/pod/cgroup.procs", "12\n13\n"),
                ("cpuacct/a/pod/c1/cgroup.procs", ""),
                (
                    "cpu/a/pod/cpu.stat",
                    "nr_periods 9\nnr_throttled 3\nthrottled_time 77\n",
                ),
                ("cpu/a/pod/cpu.cfs_quota_us", "-1\n"),
                ("memory/a/pod/memory.usage_in_bytes", "10000\n"),
                (
                    "memory/a/pod/memory.stat",
                    "rss 1\ninactive_file 2\ntotal_rss 4000\ntotal_inactive_file 3000\ntotal_pgfault 5\n\
                     total_pgmajfault 1\nhierarchical_memory_limit 9223372036854771712\n",
                ),
                (
                    "blkio/a/pod/blkio.throttle.io_service_bytes_recursive",
                    "8:0 Read 10\n8:0 Write 20\n9:0 Read 5\nTotal 35\n",
                ),
            ],
        );
        let usage = groups.usage("/a/pod").unwrap();
        let m = &usage.memory;
        assert_eq!((usage.cpu, m.usage, m.working_set), (1_500_000_000, 10_000, 7000));
        assert_eq!((m.rss, m.faults, m.major_faults, m.limit), (4000, 5, 1, None));
        assert_eq!(groups.children("/a/pod"), ["c1"]);
        let d = groups.details("/a/pod");
        assert_eq!((d.user, d.system), (1_000_000_000, 500_000_000));
        assert_eq!((d.periods, d.throttled, d.throttled_time, d.quota), (9, 3, 77, None));
        assert_eq!((d.read_bytes, d.written_bytes, d.processes), (15, 20, 2));
    }

    #[test]
    fn version_two_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let groups = Groups::parse(&format!("3 2 0:2 / {} rw - cgroup2 cgroup2 rw\n", dir.path().display()));
        write(
            dir.path(),
            &[
                ("p/cpu.stat", "usage_usec 1500\nuser_usec 1000\nthrottled_usec 7\n"),
                ("p/cpu.max", "50000 100000\n"),
                ("p/memory.current", "10000\n"),
                ("p/memory.max", "20000\n"),
                ("p/memory.stat", "anon 4000\nfile 6000\ninactive_file 3000\npgfault 5\n"),
                (
                    "p/io.stat",
                    "8:0 rbytes=10 wbytes=20 rios=1 wios=2\n8:16 rbytes=5 wbytes=0\n",
                ),
            ],
        );
        let usage = groups.usage("/p").unwrap();
        let m = &usage.memory;
        assert_eq!((usage.cpu, m.working_set, m.rss), (1_500_000, 7000, 4000));
        assert_eq!((m.limit, m.cache), (Some(20_000), 6000));
        let d = groups.details("/p");
        assert_eq!((d.quota, d.period, d.user), (Some(50_000), 100_000, 1_000_000));
        assert_eq!((d.read_bytes, d.written_bytes, d.reads, d.writes), (15, 20, 1, 2));
        assert_eq!(Groups::parse("").usage("/"), None);
    }
}
