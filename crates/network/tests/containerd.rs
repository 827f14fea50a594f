//! The whole way: a real containerd calls the plugin, which is this very program, and pods talk
//! to each other through a service. In a network namespace and a directory of the test's own.
//!
//! Needs root, containerd, runc and busybox; without them the test says so and passes.

#[path = "network/api.rs"]
mod api;

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::process::exit;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::{Archive, Containerd, ContainerdConfig, CriRuntime};
use host::link::Links;
use host::netns;
use informer::Informers;
use network::{Config, Network, cni};
use runtime::{ContainerConfig, PodRuntime, PortMapping, SandboxConfig};
use serde_json::{Value, json};

use api::Api;

const IMAGE: &str = "allmend.local/busybox:1";

fn main() {
    if cni::is_plugin(&std::env::args_os().next().unwrap_or_default()) {
        exit(network::cni_main());
    }
    let tools = ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/bin/busybox"];
    if !rustix::process::geteuid().is_root() || tools.iter().any(|t| !Path::new(t).exists()) {
        eprintln!("skipped: needs root, containerd, runc and busybox-static");
        return;
    }
    let thread = std::thread::spawn(|| {
        netns::isolate().unwrap();
        let mut links = Links::open().unwrap();
        let lo = links.get("lo").unwrap().unwrap();
        links.up(lo.index).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(world());
    });
    if thread.join().is_err() {
        exit(1);
    }
}

/// Runs the test and cleans up, whatever comes of it.
async fn world() {
    let dir = tempfile::Builder::new().prefix("alm-net").tempdir_in("/tmp").unwrap();
    let api = Arc::new(Api::default());
    let config = Config {
        data_dir: dir.path().to_owned(),
        bridge: "alm0".into(),
        node_name: "a".into(),
        overlay: "almv0".into(),
        vni: 7,
        vxlan_port: network::VXLAN_PORT,
        cluster_cidr: ([10, 42, 0, 0].into(), 16),
        node_cidr: ([10, 42, 0, 0].into(), 24),
        service_cidr: ([10, 43, 0, 0].into(), 16),
        table: "allmend".into(),
        node_ips: vec![],
        mtu: 1500,
        proxy: true,
    };
    let network = Network::start(config.clone(), Arc::new(Informers::new(api.clone())))
        .await
        .unwrap();
    let containerd = Containerd::start(ContainerdConfig::new(dir.path())).await.unwrap();
    let runtime = Arc::new(CriRuntime::new(&containerd.socket().to_string_lossy()));
    let test = tokio::spawn(pods(runtime.clone(), api, dir.path().to_owned()));
    let result = tokio::time::timeout(Duration::from_secs(60), test).await;
    for sandbox in runtime.list().await.unwrap_or_default() {
        let _ = runtime.stop_sandbox(&sandbox.id).await;
        let _ = runtime.remove_sandbox(&sandbox.id).await;
    }
    let state = std::fs::read_to_string(dir.path().join("agent/network.json")).unwrap_or_default();
    end(containerd, dir.path());
    network.stop().await;
    network::purge(&config).unwrap();
    result.expect("within a minute").unwrap();
    assert!(
        state.contains("\"pods\":{}"),
        "containerd takes all sandboxes off the network: {state}"
    );
}

async fn pods(runtime: Arc<CriRuntime>, api: Arc<Api>, dir: std::path::PathBuf) {
    let tar = dir.join("busybox.tar");
    std::fs::write(&tar, busybox().to_bytes()).unwrap();
    runtime.import(&tar, None).await.unwrap();
    let port = PortMapping {
        protocol: "TCP".into(),
        container_port: 80,
        host_port: 8080,
        host_ip: String::new(),
    };
    let web = sandbox(&dir, "web", vec![port]);
    let started = Instant::now();
    let id = runtime.run_sandbox(&web).await.unwrap();
    println!("sandbox after {:?}", started.elapsed());
    let status = runtime.sandbox(&id).await.unwrap().unwrap();
    assert_eq!(status.ips, ["10.42.0.2"]);
    run(
        &runtime,
        &id,
        &web,
        "web",
        "while true; do busybox nc -l -p 80 -e /bin/busybox echo hello; done",
    )
    .await;
    let address: IpAddr = status.ips[0].parse().unwrap();
    api.service("web", json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}));
    api.endpoints("web", "TCP", &[(address, true)]);
    for to in ["10.42.0.2:80", "10.43.0.9:80", "127.0.0.1:8080"] {
        until(to, || ask(to).is_ok_and(|said| said == "hello\n")).await;
    }
    let client = sandbox(&dir, "client", vec![]);
    let id = runtime.run_sandbox(&client).await.unwrap();
    api.delete("services", "web");
    until("the service has gone", || ask("10.43.0.9:80").is_err()).await;
    api.service("web", json!({"clusterIP": "10.43.0.9", "ports": [{"port": 80}]}));
    until("the service is back", || ask("10.43.0.9:80").is_ok()).await;
    let container = run(&runtime, &id, &client, "client", "exec sleep 1000").await;
    let command = ["/bin/busybox", "nc", "-w", "5", "10.43.0.9", "80"].map(String::from);
    let said = runtime
        .exec_sync(&container, &command, Duration::from_secs(10))
        .await
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "hello\n");
    println!("ok: pods through containerd");
}

fn sandbox(dir: &Path, name: &str, port_mappings: Vec<PortMapping>) -> SandboxConfig {
    let pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}")}});
    SandboxConfig {
        pod: Arc::new(meta::Object::from_value(pod).unwrap()),
        attempt: 0,
        hostname: name.into(),
        log_directory: dir.join("logs").join(name),
        dns: Default::default(),
        cgroup_parent: format!("/{}", dir.file_name().unwrap().to_string_lossy()),
        namespaces: Default::default(),
        sysctls: BTreeMap::new(),
        port_mappings,
        privileged: false,
        security_context: Value::Null,
        labels: BTreeMap::new(),
        annotations: BTreeMap::new(),
    }
}

async fn run(runtime: &CriRuntime, sandbox_id: &str, sandbox: &SandboxConfig, name: &str, script: &str) -> String {
    let config = ContainerConfig {
        name: name.into(),
        image: IMAGE.into(),
        command: vec!["/bin/sh".into(), "-c".into(), script.into()],
        log_path: format!("{name}/0.log"),
        ..Default::default()
    };
    std::fs::create_dir_all(sandbox.log_directory.join(name)).unwrap();
    let id = runtime.create_container(sandbox_id, sandbox, &config).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    id
}

fn busybox() -> Archive {
    let program = std::fs::read("/usr/bin/busybox").unwrap();
    let link = |name: &str| (format!("bin/{name}"), "busybox".to_owned());
    Archive {
        name: IMAGE.into(),
        files: vec![("bin/".into(), 0o755, vec![]), ("bin/busybox".into(), 0o755, program)],
        links: ["sh", "sleep"].map(link).to_vec(),
        cmd: vec!["/bin/sh".into()],
        ..Archive::default()
    }
}

fn ask(to: &str) -> std::io::Result<String> {
    let to = to.parse().map_err(|_| std::io::ErrorKind::InvalidInput)?;
    let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut said = String::new();
    stream.read_to_string(&mut said)?;
    Ok(said)
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !is_so() {
        assert!(Instant::now() < deadline, "not within 15 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Ends containerd and unmounts what it leaves.
fn end(containerd: Containerd, dir: &Path) {
    let pid = i32::try_from(containerd.pid())
        .ok()
        .and_then(rustix::process::Pid::from_raw);
    drop(containerd);
    if let Some(pid) = pid {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let ours = dir.to_string_lossy().into_owned();
    for line in mounts.lines().rev() {
        if let Some(at) = line.split(' ').nth(4).filter(|p| p.starts_with(&ours)) {
            let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
        }
    }
    let group = dir.file_name().unwrap_or_default();
    for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = std::fs::remove_dir(controller.path().join(group));
    }
}
