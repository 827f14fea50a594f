//! What must hold before anything starts. Each check fails with one line that
//! names the remedy. Must not change the machine.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// What a node calls, and the packages that bring it.
const NODE_PROGRAMS: &[(&str, &str)] = &[
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
];

/// This machine can be a node; `otherwise` says what else one may do, such as `, or ...`.
pub fn node(otherwise: &str) -> Result<()> {
    root(otherwise)?;
    kernel(otherwise)?;
    programs(NODE_PROGRAMS, otherwise)
}

/// A node needs root: namespaces, mounts and cgroups are made.
fn root(otherwise: &str) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("a node needs root to make namespaces and mounts: run with sudo{otherwise}");
}

/// The data directory can be made and written.
pub fn data_dir(path: &Path) -> Result<()> {
    let remedy = || {
        format!(
            "data directory {} cannot be written: choose another with --data-dir, or mend its permissions or file system",
            path.display()
        )
    };
    std::fs::create_dir_all(path).with_context(remedy)?;
    let probe = path.join(".write-probe");
    std::fs::write(&probe, b"").with_context(remedy)?;
    std::fs::remove_file(&probe).with_context(remedy)
}

/// Programs that the node calls are installed.
fn programs(wanted: &[(&str, &str)], otherwise: &str) -> Result<()> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/sbin", "/usr/bin"].map(Into::into));
    let missing: Vec<_> = wanted
        .iter()
        .filter(|(p, _)| !places.iter().any(|d| d.join(p).exists()))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let programs: Vec<_> = missing.iter().map(|(p, _)| *p).collect();
    let mut packages: Vec<_> = missing.iter().map(|(_, k)| *k).collect();
    packages.dedup();
    bail!(
        "the node needs {}, not found: apt-get install {}{otherwise}",
        programs.join(", "),
        packages.join(" ")
    );
}

/// Binds the port; names who is likely to hold it otherwise.
pub fn listen(address: IpAddr, port: u16) -> Result<TcpListener> {
    let at = SocketAddr::new(address, port);
    let listener = TcpListener::bind(at).with_context(|| {
        format!("cannot listen on {at}: is another server running? Choose another port with --https-listen-port")
    })?;
    listener.set_nonblocking(true).context("prepare the listening socket")?;
    Ok(listener)
}

/// The kernel has what the node needs.
fn kernel(otherwise: &str) -> Result<()> {
    for (path, what) in [
        ("/proc/self/ns/net", "network namespaces (CONFIG_NET_NS)"),
        ("/proc/self/ns/user", "user namespaces (CONFIG_USER_NS)"),
        ("/sys/fs/cgroup", "cgroups mounted on /sys/fs/cgroup"),
    ] {
        if !Path::new(path).exists() {
            bail!("the kernel lacks {what}: a node cannot run here{otherwise}");
        }
    }
    Ok(())
}
