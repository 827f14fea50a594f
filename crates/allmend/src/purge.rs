//! `allmend purge`: takes away everything that a server made on this machine.
//!
//! Must not touch what it cannot prove to be ours: processes name the data
//! directory on their command line or are in its cgroups, mounts are below it,
//! names on the host follow from its path.

use std::collections::BTreeSet;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::mount::{UnmountFlags, unmount};
use rustix::process::{Pid, Signal, kill_process};

use crate::names::HostNames;

/// How long what was killed may take to be gone.
const PATIENCE: Duration = Duration::from_secs(20);
const CGROUPS: &str = "/sys/fs/cgroup";

/// Ends all workloads and removes the data directory.
pub fn run(data_dir: &Path, yes: bool) -> Result<()> {
    if !yes {
        bail!(
            "this removes all workloads and data below {}: say --yes to do it",
            data_dir.display()
        );
    }
    if !data_dir.exists() {
        return Ok(());
    }
    // Only a directory that a server made: a slip of the hand must not empty another.
    if !data_dir.join("server").is_dir() && !data_dir.join("agent").is_dir() {
        bail!(
            "{} is no data directory of Allmend: it has no server/ in it",
            data_dir.display()
        );
    }
    let data_dir = fs::canonicalize(data_dir).with_context(|| format!("find {}", data_dir.display()))?;
    let names = HostNames::of(&data_dir);
    end_processes(&data_dir, &names.cgroup)?;
    unmount_all(&data_dir)?;
    network::purge(&network(&data_dir, &names)).context("remove the network")?;
    release_loops(&data_dir)?;
    for hierarchy in hierarchies() {
        remove_cgroups(&hierarchy.join(&names.cgroup))
            .with_context(|| format!("remove cgroups of {}", names.cgroup))?;
    }
    fs::remove_dir_all(&data_dir).with_context(|| format!("remove {}", data_dir.display()))
}

/// Enough of the configuration to find what the network left.
fn network(data_dir: &Path, names: &HostNames) -> network::Config {
    network::Config {
        data_dir: data_dir.to_owned(),
        bridge: names.bridge.clone(),
        node_name: String::new(),
        overlay: names.overlay.clone(),
        vni: crate::node::VNI,
        vxlan_port: network::VXLAN_PORT,
        cluster_cidr: (Ipv4Addr::new(10, 42, 0, 0), 16),
        node_cidr: (Ipv4Addr::new(10, 42, 0, 0), 24),
        service_cidr: (Ipv4Addr::new(10, 43, 0, 0), 16),
        table: names.table.clone(),
        node_ips: vec![IpAddr::V4(Ipv4Addr::LOCALHOST)],
        mtu: 1500,
        proxy: false,
    }
}

fn end_processes(data_dir: &Path, cgroup: &str) -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ours = processes(data_dir, cgroup);
        if ours.is_empty() {
            return Ok(());
        }
        if Instant::now() > deadline {
            bail!("processes {ours:?} do not end; they use {}", data_dir.display());
        }
        for pid in ours {
            if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
                // It may have ended by itself.
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Processes of a data directory, ourselves excepted.
fn processes(data_dir: &Path, cgroup: &str) -> BTreeSet<u32> {
    let text = data_dir.to_string_lossy().into_owned();
    let own = std::process::id();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    let group = format!("/{cgroup}/");
    let ours = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words = line.split(|b| *b == 0).map(String::from_utf8_lossy);
        let named = words.into_iter().any(|w| names_directory(&w, &text));
        // An ended process that its parent has not asked for has neither.
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let alive = !line.is_empty() || !is_zombie(*pid);
        alive && (named || groups.lines().any(|l| format!("{l}/").contains(&group)))
    };
    pids.filter(|p| *p != own && ours(p)).collect()
}

/// Whether a word of a command line is the directory, or something in it.
fn names_directory(word: &str, directory: &str) -> bool {
    word.match_indices(directory).any(|(at, _)| {
        let after = word[at + directory.len()..].chars().next();
        after.is_none_or(|c| c == '/' || c == ',' || c == '"')
    })
}

fn is_zombie(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')')
        .is_none_or(|(_, rest)| rest.trim_start().starts_with(['Z', 'X']))
}

fn unmount_all(data_dir: &Path) -> Result<()> {
    for _ in 0..3 {
        let table = fs::read_to_string("/proc/self/mountinfo").context("read the mounts")?;
        let points = table
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .map(|p| PathBuf::from(p.replace("\\040", " ")));
        let mut below: Vec<PathBuf> = points.filter(|p| p.starts_with(data_dir)).collect();
        if below.is_empty() {
            return Ok(());
        }
        below.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
        for point in below {
            // One may go with another.
            let _ = unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
        }
    }
    Ok(())
}

/// Loop devices whose files are in the directory.
fn release_loops(data_dir: &Path) -> Result<()> {
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if name.starts_with("loop") && Path::new(file.trim()).starts_with(data_dir) {
            let device = format!("/dev/{name}");
            let status = Command::new("losetup").args(["-d", &device]).status();
            status.with_context(|| format!("losetup -d {device}"))?;
        }
    }
    Ok(())
}

/// The mounted cgroup hierarchies: one of version 2, or one per controller of version 1.
fn hierarchies() -> Vec<PathBuf> {
    let mut all = vec![PathBuf::from(CGROUPS)];
    let entries = fs::read_dir(CGROUPS).into_iter().flatten().flatten();
    all.extend(entries.map(|e| e.path()).filter(|p| p.is_dir()));
    all
}

/// Removes a cgroup and those below it; they are directories whose files remove themselves.
fn remove_cgroups(group: &Path) -> std::io::Result<()> {
    if !group.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(group)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_cgroups(&entry.path())?;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match fs::remove_dir(group) {
            // Killed processes leave it in their own time.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::BUSY.raw_os_error()) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(20));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_directory_is_meant() {
        assert!(names_directory("--state=/tmp/a1/run", "/tmp/a1"));
        assert!(names_directory("file=/tmp/a1,format=raw", "/tmp/a1"));
        assert!(!names_directory("/tmp/a12/run", "/tmp/a1"));
        assert!(!names_directory("", "/tmp/a1"));
    }

    #[test]
    fn what_is_no_data_directory_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        assert!(run(dir.path(), false).unwrap_err().to_string().contains("--yes"));
        assert!(
            run(dir.path(), true)
                .unwrap_err()
                .to_string()
                .contains("no data directory")
        );
        assert!(dir.path().exists());
    }
}
