//! What must hold before anything starts. Each check fails with one line that
//! names the remedy. Must not change the machine.

use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// A node needs root: namespaces, mounts and cgroups are made.
pub fn root() -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    bail!("a node needs root to make namespaces and mounts: run with sudo, or run only the API with --disable-agent");
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
pub fn programs(wanted: &[(&str, &str)]) -> Result<()> {
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
        "the node needs {}, not found: apt-get install {}  (or run only the API with --disable-agent)",
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
pub fn kernel() -> Result<()> {
    for (path, what) in [
        ("/proc/self/ns/net", "network namespaces (CONFIG_NET_NS)"),
        ("/proc/self/ns/user", "user namespaces (CONFIG_USER_NS)"),
        ("/sys/fs/cgroup", "cgroups mounted on /sys/fs/cgroup"),
    ] {
        if !Path::new(path).exists() {
            bail!("the kernel lacks {what}: a node cannot run here; run only the API with --disable-agent");
        }
    }
    Ok(())
}
