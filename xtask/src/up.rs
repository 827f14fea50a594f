//! `cargo xtask up` and `down`: the main job on this machine, with the example.
//!
//! Must not do what the product does: it calls the binary and kubectl as a user would.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::{deps, images, run};

const DATA_DIR: &str = "/var/lib/allmend";
const KUBECONFIG: &str = "/etc/allmend/allmend.yaml";
const LOG: &str = "/var/log/allmend.log";
/// The example's port on every address of the machine.
const SHOP_PORT: u16 = 30080;
/// How long the server may take to answer.
const SERVER: Duration = Duration::from_secs(60);
/// How long the example may take; a guest boots slowly without KVM.
const EXAMPLE: Duration = Duration::from_secs(600);

/// Builds, installs, starts, and shows.
pub fn up() -> Result<()> {
    need_root("up")?;
    deps::install(deps::TEST)?;
    let kubectl = deps::kubectl()?;
    run::cargo(&["build", "--release", "--package", "allmend"])?;
    images::build(images::FOR_EXAMPLE)?;
    let binary = crate::released("allmend");
    let kubectl = Kubectl(kubectl);
    start_server(&binary, &kubectl)?;
    import(&binary)?;
    let example = crate::root().join("examples/farm-shop");
    println!("applying {}", example.display());
    kubectl.run(&["apply", "-f", &example.to_string_lossy()])?;
    wait_for_shop(&kubectl)?;
    tell(&kubectl);
    Ok(())
}

/// Stops the server; with `purge`, removes all that it made.
pub fn down(purge: bool) -> Result<()> {
    need_root("down")?;
    match server_pid() {
        Some(pid) => {
            run::program(Command::new("kill").args(["-TERM", &pid.to_string()]))?;
            wait("the server to end", SERVER, || server_pid().is_none_or(|p| p != pid))?;
            println!("the server has ended");
        }
        None => println!("no server runs"),
    }
    if !purge && Path::new(DATA_DIR).exists() {
        println!(
            "workloads keep running, and cargo xtask up takes them up again; cargo xtask down --purge removes everything"
        );
        return Ok(());
    }
    if !purge {
        return Ok(());
    }
    if !Path::new(DATA_DIR).exists() {
        println!("there is nothing to remove: no {DATA_DIR}");
        return Ok(());
    }
    let binary = crate::released("allmend");
    if !binary.exists() {
        bail!(
            "{} is missing, and it knows what is to be removed: cargo xtask build, then again",
            binary.display()
        );
    }
    run::program(Command::new(&binary).args(["purge", "--yes", "--data-dir", DATA_DIR]))?;
    for file in [KUBECONFIG, LOG] {
        let _ = fs::remove_file(file);
    }
    // Only when nothing else is in it.
    if let Some(directory) = Path::new(KUBECONFIG).parent() {
        let _ = fs::remove_dir(directory);
    }
    println!("removed {DATA_DIR} and everything that ran");
    Ok(())
}

/// Containers, machines and networks are made by root.
fn need_root(verb: &str) -> Result<()> {
    let user = fs::metadata("/proc/self").context("read /proc/self")?.uid();
    if user != 0 {
        bail!("this runs containers and machines, and so needs root: sudo -E env PATH=\"$PATH\" cargo xtask {verb}");
    }
    Ok(())
}

struct Kubectl(PathBuf);

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.0);
        command.env("KUBECONFIG", KUBECONFIG).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Result<()> {
        run::program(&mut self.command(arguments))
    }

    fn output(&self, arguments: &[&str]) -> Option<String> {
        let output = self.command(arguments).stderr(Stdio::null()).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

/// The process of a server with our data directory.
fn server_pid() -> Option<u32> {
    let entries = fs::read_dir("/proc").ok()?.flatten();
    let mut pids = entries.filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok());
    pids.find(|pid| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<String> = line
            .split(|b| *b == 0)
            .map(|w| String::from_utf8_lossy(w).into_owned())
            .collect();
        let named = words.windows(2).any(|w| w[0] == "--data-dir" && w[1] == DATA_DIR);
        words.first().is_some_and(|w| w.ends_with("allmend")) && words.get(1).is_some_and(|w| w == "server") && named
    })
}

fn start_server(binary: &Path, kubectl: &Kubectl) -> Result<()> {
    let built = fs::metadata(binary)?.modified()?;
    if let Some(pid) = server_pid() {
        let started = fs::metadata(format!("/proc/{pid}")).and_then(|m| m.modified());
        if started.is_ok_and(|s| s > built) {
            println!("the server runs already (pid {pid})");
            return Ok(());
        }
        println!("replacing the running server by the new build; workloads keep running");
        down(false)?;
    }
    let log = File::options()
        .create(true)
        .append(true)
        .open(LOG)
        .with_context(|| format!("open {LOG}"))?;
    let begun = Instant::now();
    let mut command = Command::new(binary);
    command.args(["server", "--data-dir", DATA_DIR, "--write-kubeconfig", KUBECONFIG]);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A session of its own: the terminal's Ctrl-C is not for it.
    let child = command
        .process_group(0)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let pid = child.id();
    let ready = || {
        kubectl
            .output(&["get", "nodes", "--no-headers"])
            .is_some_and(|o| o.split_whitespace().nth(1) == Some("Ready"))
    };
    let waited = wait("the node to be ready", SERVER, || {
        ready() || !Path::new(&format!("/proc/{pid}/exe")).exists()
    });
    if waited.is_err() || !ready() {
        bail!(
            "the server did not come up; the end of {LOG}:\n{}",
            tail(Path::new(LOG))
        );
    }
    println!(
        "server and node are ready after {:.1} s (pid {pid}, log {LOG})",
        begun.elapsed().as_secs_f64()
    );
    Ok(())
}

fn import(binary: &Path) -> Result<()> {
    let listed = run::output(Command::new(binary).args(["image", "ls", "--data-dir", DATA_DIR]))?;
    for name in images::FOR_EXAMPLE {
        let archive = images::path(name);
        let stamp = Path::new(DATA_DIR).join("agent").join(format!("imported-{name}"));
        let key = fs::read_to_string(archive.with_extension("key")).unwrap_or_default();
        let there = listed.contains(&images::reference(name));
        if there && fs::read_to_string(&stamp).is_ok_and(|k| k == key) {
            continue;
        }
        run::program(
            Command::new(binary)
                .args(["image", "import", "--data-dir", DATA_DIR])
                .arg(&archive),
        )?;
        fs::write(stamp, key)?;
    }
    Ok(())
}

/// Whether the shop answers with what the database in the machine holds.
fn shop_serves() -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream =
            TcpStream::connect(("127.0.0.1", SHOP_PORT)).or_else(|_| TcpStream::connect((own_address(), SHOP_PORT)))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET /stock HTTP/1.0\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|a| a.starts_with("HTTP/1.0 200") || a.starts_with("HTTP/1.1 200"))
}

/// The address of the default route.
fn own_address() -> String {
    let asked = std::net::UdpSocket::bind(("0.0.0.0", 0)).and_then(|s| {
        // Connecting a datagram socket sends nothing: it only asks the routing table.
        s.connect(("192.0.2.1", 9))?;
        s.local_addr()
    });
    asked.map_or_else(|_| "127.0.0.1".into(), |a| a.ip().to_string())
}

fn wait_for_shop(kubectl: &Kubectl) -> Result<()> {
    println!("waiting until the shop shows the stock (the machine boots, and makes its database at the first start)");
    let begun = Instant::now();
    let mut last = String::new();
    let waited = wait("the shop", EXAMPLE, || {
        let machine = kubectl
            .output(&["get", "vm", "stock", "-o", "jsonpath={.status.printableStatus}"])
            .unwrap_or_default();
        let ready = kubectl
            .output(&["get", "deploy", "web", "-o", "jsonpath={.status.readyReplicas}"])
            .unwrap_or_default();
        let now = format!(
            "  machine: {machine}, web containers ready: {}",
            if ready.is_empty() { "0" } else { &ready }
        );
        if now != last {
            println!("{now} ({:.0} s)", begun.elapsed().as_secs_f64());
            last = now;
        }
        shop_serves()
    });
    if waited.is_err() {
        let objects = kubectl.output(&["get", "vm,vmi,pods,pvc", "-o", "wide"]);
        let events = kubectl.output(&["get", "events", "--sort-by=.lastTimestamp"]);
        println!(
            "{}\n\n{}",
            objects.unwrap_or_default(),
            last_lines(&events.unwrap_or_default())
        );
        bail!(
            "the shop does not answer on port {SHOP_PORT} after {} s; the objects are above, the server's log is {LOG}",
            EXAMPLE.as_secs()
        );
    }
    println!("the shop serves after {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

fn tell(kubectl: &Kubectl) {
    let address = own_address();
    let console = "virtctl console stock    (user farmer, password farmer)";
    let ssh = "kubectl port-forward service/stock 2222:22 & ssh -p 2222 farmer@127.0.0.1";
    println!(
        "\n  export KUBECONFIG={KUBECONFIG}\n  kubectl get vm,vmi,pods          with {}\n\n  the shop      http://{address}:{SHOP_PORT}/\n  \
         the machine   {console}\n                or {ssh}\n                its serial console so far: kubectl logs -l app=stock\n  an update     kubectl set image deployment/web web=allmend.local/farm-shop-web:2\n  \
         a restart     virtctl restart stock\n\n  cargo xtask down           stops the server; workloads keep running\n  \
         cargo xtask down --purge   removes everything\n",
        kubectl.0.display()
    );
}

fn wait(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            bail!("waited {} s for {what}", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn tail(path: &Path) -> String {
    last_lines(&fs::read_to_string(path).unwrap_or_default())
}

fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
