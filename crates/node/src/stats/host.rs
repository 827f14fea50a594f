//! The host as a whole, from `/proc`, and the counters of network interfaces.
//! Must not know pods.

use std::fs;
use std::io;

/// The kernel's clock ticks per second in `/proc/stat`, part of its ABI.
const TICKS: u64 = 100;
const SECOND: u64 = 1_000_000_000;

/// The host as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// When it was read, nanoseconds since the epoch.
    pub at: i64,
    /// When it was booted.
    pub started: i64,
    pub processors: u64,
    /// Processor time, nanoseconds.
    pub cpu: u64,
    /// Bytes.
    pub total: u64,
    pub usage: u64,
    pub working_set: u64,
    pub available: u64,
    pub rss: u64,
    pub swap: u64,
    pub faults: u64,
    pub major_faults: u64,
    pub tasks: u64,
    pub most_tasks: u64,
}

impl Host {
    /// Reads it.
    pub(crate) fn read() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let memory = fs::read_to_string("/proc/meminfo")?;
        let mut host = Host::parse(&stat, &memory, super::now());
        let vmstat = fs::read_to_string("/proc/vmstat").unwrap_or_default();
        (host.faults, host.major_faults) = (number(&vmstat, "pgfault "), number(&vmstat, "pgmajfault "));
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let tasks = load.split(' ').nth(3).and_then(|t| t.split_once('/'));
        host.tasks = tasks.and_then(|(_, all)| all.parse().ok()).unwrap_or(0);
        host.most_tasks = number(&fs::read_to_string("/proc/sys/kernel/pid_max").unwrap_or_default(), "");
        Ok(host)
    }

    fn parse(stat: &str, memory: &str, at: i64) -> Self {
        let line = |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        let ticks = line("cpu ").split_whitespace().map(|n| n.parse().unwrap_or(0_u64));
        // user, nice, system, (idle, iowait,) irq, softirq, steal; guest time is in user's.
        let busy = ticks.enumerate().filter(|(i, _)| matches!(i, 0..=2 | 5..=7));
        let busy: u64 = busy.map(|(_, n)| n).fold(0, u64::saturating_add);
        let each = stat.lines().filter(|l| l.starts_with("cpu") && !l.starts_with("cpu "));
        let bytes = |name: &str| number(memory, name).saturating_mul(1024);
        let total = bytes("MemTotal:");
        let usage = total.saturating_sub(bytes("MemFree:"));
        // As for control groups: what was not used lately of files is dropped first.
        let working_set = usage.saturating_sub(bytes("Inactive(file):"));
        Host {
            at,
            started: i64::try_from(number(stat, "btime ").saturating_mul(SECOND)).unwrap_or(0),
            processors: each.count() as u64,
            cpu: busy.saturating_mul(SECOND / TICKS),
            total,
            usage,
            working_set,
            available: total.saturating_sub(working_set),
            rss: bytes("AnonPages:"),
            swap: bytes("SwapTotal:").saturating_sub(bytes("SwapFree:")),
            ..Host::default()
        }
    }
}

/// The first number of the line that begins so.
fn number(text: &str, name: &str) -> u64 {
    let rest = text.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    let word = rest.split_whitespace().next();
    word.and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub name: String,
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// The interfaces that a process sees, without loopback.
pub(crate) fn interfaces_of(pid: u32) -> Option<Vec<Interface>> {
    let text = fs::read_to_string(format!("/proc/{pid}/net/dev")).ok()?;
    Some(parse_interfaces(&text))
}

/// The host's interfaces, that of the default route first; without those that lead to pods.
pub(crate) fn interfaces() -> Vec<Interface> {
    let mut all = interfaces_of(std::process::id()).unwrap_or_default();
    all.retain(|i| !i.name.starts_with("veth"));
    let routes = fs::read_to_string("/proc/self/net/route").unwrap_or_default();
    let default = default_interface(&routes);
    all.sort_by_key(|i| Some(&i.name) != default.as_ref());
    all
}

fn default_interface(routes: &str) -> Option<String> {
    let mut rows = routes.lines().skip(1).map(|l| {
        let mut words = l.split_whitespace();
        (words.next(), words.next())
    });
    rows.find_map(|(name, to)| (to? == "00000000").then(|| name.map(str::to_owned)).flatten())
}

fn parse_interfaces(text: &str) -> Vec<Interface> {
    let one = |line: &str| {
        let (name, rest) = line.split_once(':')?;
        let numbers: Vec<u64> = rest.split_whitespace().filter_map(|n| n.parse().ok()).collect();
        let get = |i: usize| numbers.get(i).copied();
        Some(Interface {
            name: name.trim().to_owned(),
            rx_bytes: get(0)?,
            rx_packets: get(1)?,
            rx_errors: get(2)?,
            rx_dropped: get(3)?,
            tx_bytes: get(8)?,
            tx_packets: get(9)?,
            tx_errors: get(10)?,
            tx_dropped: get(11)?,
        })
    };
    let all = text.lines().filter_map(one);
    all.filter(|i| i.name != "lo").collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "cpu  100 1 50 9999 77 3 4 5 0 0\ncpu0 1 1 1 1\ncpu1 1\nbtime 1700000000\n";
        let memory = "MemTotal:  1000 kB\nMemFree: 300 kB\nInactive(file):  100 kB\nAnonPages: 5 kB\n";
        let host = Host::parse(stat, memory, 1);
        assert_eq!((host.cpu, host.processors), (163 * 10_000_000, 2));
        assert_eq!((host.usage, host.working_set), (700 * 1024, 600 * 1024));
        assert_eq!((host.available, host.rss), (400 * 1024, 5 * 1024));
        assert_eq!(host.started, 1_700_000_000_000_000_000);
        Host::parse("", "", 0);
        assert!(Host::read().unwrap().working_set > 0);
    }

    #[test]
    fn interfaces_are_counted() {
        let text = "Inter-|   Receive      |  Transmit\n face |bytes    packets errs\n\
                    \x20   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
                    \x20 eth0: 10 2 3 4 0 0 0 0 50 6 7 8 0 0 0 0\n bad: 1\n";
        let found = parse_interfaces(text);
        assert_eq!(found.len(), 1);
        let i = &found[0];
        assert_eq!((i.name.as_str(), i.rx_bytes, i.rx_dropped), ("eth0", 10, 4));
        assert_eq!((i.tx_bytes, i.tx_packets, i.tx_errors, i.tx_dropped), (50, 6, 7, 8));
        let routes = "Iface\tDestination\tGateway\nbr0\t00002A0A\t0\nens3\t00000000\t0102A8C0\n";
        assert_eq!(default_interface(routes).as_deref(), Some("ens3"));
        assert_eq!(default_interface(""), None);
    }
}
