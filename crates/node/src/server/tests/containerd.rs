//! kubectl's streams into a container of a real containerd, with a front that
//! stands in for the API server.
//!
//! Needs root, containerd, runc, busybox and kubectl; without them the test says so and passes.

use std::path::Path;
use std::process::Stdio;
use std::sync::Mutex;

use async_trait::async_trait;
use cri::{Archive, Containerd, ContainerdConfig, CriRuntime};
use runtime::{ContainerConfig, Namespaces, PodRuntime, SandboxConfig};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::*;
use crate::lookup::{Found, PodLookup};

const IMAGE: &str = "allmend.local/busybox:1";

/// A containerd of the test's own with one pod.
struct World {
    directory: tempfile::TempDir,
    containerd: Option<Containerd>,
    runtime: Arc<CriRuntime>,
    sandbox: String,
}

impl World {
    async fn new(script: &str) -> Option<World> {
        let tools = [
            "/usr/bin/containerd",
            "/usr/sbin/runc",
            "/usr/bin/busybox",
            "/usr/bin/kubectl",
        ];
        if !rustix::process::geteuid().is_root() || tools.iter().any(|t| !Path::new(t).exists()) {
            eprintln!("skipped: needs root, containerd, runc, busybox-static and kubectl");
            return None;
        }
        let directory = tempfile::Builder::new().prefix("alm-node").tempdir_in("/tmp").unwrap();
        let containerd = Containerd::start(ContainerdConfig::new(directory.path()))
            .await
            .unwrap();
        let runtime = Arc::new(CriRuntime::new(&containerd.socket().to_string_lossy()));
        let mut world = World {
            directory,
            containerd: Some(containerd),
            runtime,
            sandbox: String::new(),
        };
        let tar = world.directory.path().join("busybox.tar");
        std::fs::write(&tar, busybox().to_bytes()).unwrap();
        world.runtime.import(&tar, None).await.unwrap();
        let group = world.directory.path().file_name().unwrap().to_string_lossy();
        let config = SandboxConfig {
            pod: pod("p", json!({})),
            attempt: 0,
            hostname: "p".into(),
            log_directory: world.directory.path().join("logs"),
            dns: Default::default(),
            cgroup_parent: format!("/{group}"),
            namespaces: Namespaces {
                host_network: true,
                ..Default::default()
            },
            sysctls: Default::default(),
            port_mappings: vec![],
            privileged: false,
            security_context: Value::Null,
            labels: Default::default(),
            annotations: Default::default(),
        };
        world.sandbox = world.runtime.run_sandbox(&config).await.unwrap();
        let container = ContainerConfig {
            name: "c".into(),
            image: IMAGE.into(),
            command: ["/bin/sh", "-c", script].map(String::from).into(),
            log_path: "c/0.log".into(),
            stdin: true,
            ..Default::default()
        };
        std::fs::create_dir_all(config.log_directory.join("c")).unwrap();
        let id = world
            .runtime
            .create_container(&world.sandbox, &config, &container)
            .await
            .unwrap();
        world.runtime.start_container(&id).await.unwrap();
        Some(world)
    }

    async fn end(mut self) {
        self.runtime.stop_sandbox(&self.sandbox).await.unwrap();
        self.runtime.remove_sandbox(&self.sandbox).await.unwrap();
        self.sandbox.clear();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !self.sandbox.is_empty() {
            // The test failed and its own runtime is unwinding: another one does the cleaning.
            let socket = self
                .containerd
                .as_ref()
                .map(|c| c.socket().to_string_lossy().into_owned());
            let (sandbox, socket) = (self.sandbox.clone(), socket.unwrap_or_default());
            let clean = async move {
                let runtime = CriRuntime::new(&socket);
                let _ = runtime.stop_sandbox(&sandbox).await;
                let _ = runtime.remove_sandbox(&sandbox).await;
            };
            let limited = async { tokio::time::timeout(LIMIT, clean).await };
            std::thread::scope(|scope| {
                scope.spawn(|| tokio::runtime::Runtime::new().map(|rt| rt.block_on(limited)));
            });
        }
        let pid = self.containerd.as_ref().map(Containerd::pid);
        self.containerd = None;
        if let Some(pid) = pid.and_then(|p| rustix::process::Pid::from_raw(i32::try_from(p).ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.directory.path().to_string_lossy().into_owned();
        for line in table.lines().rev() {
            if let Some(at) = line.split(' ').nth(4).filter(|p| p.starts_with(&ours)) {
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
        let Some(group) = self.directory.path().file_name() else {
            return;
        };
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(controller.path().join(group));
        }
    }
}

fn busybox() -> Archive {
    Archive {
        name: IMAGE.into(),
        files: vec![
            ("bin/".into(), 0o755, vec![]),
            ("bin/busybox".into(), 0o755, std::fs::read("/usr/bin/busybox").unwrap()),
        ],
        links: ["sh", "sleep"]
            .map(|name| (format!("bin/{name}"), "busybox".to_owned()))
            .to_vec(),
        cmd: vec!["/bin/sh".into()],
        ..Archive::default()
    }
}

/// The one pod, as its runtime has it now.
struct Live {
    runtime: Arc<CriRuntime>,
    sandbox: String,
}

#[async_trait]
impl PodLookup for Live {
    async fn find(&self, _: &str, _: &str) -> Option<Found> {
        Some(Found {
            pod: pod("p", json!({})),
            runtime: self.runtime.clone(),
            sandbox: self.runtime.sandbox(&self.sandbox).await.ok()?,
        })
    }
    fn pods(&self) -> Vec<Arc<Object>> {
        vec![pod("p", json!({}))]
    }
    fn runtimes(&self) -> Vec<Arc<dyn PodRuntime>> {
        vec![self.runtime.clone()]
    }
}

/// Heads of requests that were passed to the node, in lower case.
type Heads = Arc<Mutex<Vec<String>>>;

/// Plain HTTP for kubectl: a little of the API, and the streams of the node.
async fn front(stand: Arc<Stand>, heads: Heads) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stand.clone(), heads.clone(), stream));
        }
    });
    format!("http://{address}")
}

async fn serve(stand: Arc<Stand>, heads: Heads, mut client: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let target = head.split(' ').nth(1).unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let onward = match path.strip_prefix("/api/v1/namespaces/ns/pods/p/") {
        Some("exec") => "/exec/ns/p/c",
        Some("attach") => "/attach/ns/p/c",
        Some("log") => "/containerLogs/ns/p/c",
        Some("portforward") => "/portForward/ns/p",
        _ => {
            let answer = api(path).to_string();
            let length = answer.len();
            let head = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
            );
            client.write_all((head + &answer).as_bytes()).await?;
            return client.shutdown().await;
        }
    };
    let mut query = query.to_owned();
    for (theirs, ours) in [
        ("stdin=true", "input=1"),
        ("stdout=true", "output=1"),
        ("stderr=true", "error=1"),
    ] {
        query = query.replace(theirs, ours);
    }
    let head = head.replacen(target, &format!("{onward}?{query}"), 1);
    lock(&heads).push(head.to_lowercase());
    let mut node = stand.connect(Some(("front", "system:masters")), b"http/1.1").await?;
    node.write_all(head.as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut node).await?;
    Ok(())
}

fn api(path: &str) -> Value {
    match path {
        "/api" => json!({"kind": "APIVersions", "versions": ["v1"]}),
        "/apis" => json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": []}),
        "/api/v1" => json!({"kind": "APIResourceList", "groupVersion": "v1", "resources": [
            {"name": "pods", "singularName": "pod", "kind": "Pod", "namespaced": true, "verbs": ["get", "list"]}]}),
        _ => {
            let mut pod = pod("p", json!({})).to_value();
            pod["spec"]["containers"] = json!([{"name": "c", "image": IMAGE, "stdin": true}]);
            pod
        }
    }
}

fn kubectl(server: &str, home: &Path, args: &[&str]) -> Command {
    let mut command = Command::new("/usr/bin/kubectl");
    command.env_clear().env("HOME", home).env("PATH", "/usr/bin:/bin");
    command.args(["--server", server, "--namespace", "ns", "--kubeconfig", "/dev/null"]);
    command.args(args);
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

async fn output(mut command: Command, input: &str) -> (Option<i32>, String, String) {
    command.stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await;
    let output = output.expect("kubectl ends in time").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A port on which nobody listens.
async fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().port()
}

/// What a web server says through kubectl's port-forward, over two connections.
async fn forwarded(server: &str, home: &Path, port: u16, web_sockets: &str) -> String {
    let mut forward = kubectl(server, home, &["port-forward", "p", &format!(":{port}")]);
    forward.env("KUBECTL_PORT_FORWARD_WEBSOCKETS", web_sockets);
    let mut child = forward.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
    let local = line
        .as_deref()
        .and_then(|l| l.strip_prefix("Forwarding from 127.0.0.1:"));
    let local: u16 = local.and_then(|l| l.split(' ').next()).unwrap().parse().unwrap();
    let mut page = String::new();
    for _ in 0..2 {
        page.clear();
        let mut stream = TcpStream::connect(("127.0.0.1", local)).await.unwrap();
        stream.write_all(b"GET /page HTTP/1.0\r\n\r\n").await.unwrap();
        let reading = tokio::time::timeout(LIMIT, stream.read_to_string(&mut page));
        reading.await.unwrap().unwrap();
    }
    child.kill().await.unwrap();
    page
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_reaches_into_a_container() {
    let port = free_port().await;
    let script = format!(
        "echo begun; echo page > /page; /bin/busybox httpd -h / -p 127.0.0.1:{port}; while read line; do echo got $line; done; sleep 600"
    );
    let Some(world) = World::new(&script).await else { return };
    let lookup = Live {
        runtime: world.runtime.clone(),
        sandbox: world.sandbox.clone(),
    };
    let stand = Arc::new(stand_with(Arc::new(lookup), None).await);
    let heads = Heads::default();
    let server = front(stand.clone(), heads.clone()).await;
    let home = world.directory.path();

    let exec = kubectl(
        &server,
        home,
        &["exec", "p", "--", "/bin/sh", "-c", "echo out; echo err >&2; exit 3"],
    );
    let (code, out, err) = output(exec, "").await;
    assert_eq!((code, out.as_str()), (Some(3), "out\n"), "{err}");
    assert!(err.starts_with("err\n"), "{err}");

    let long = "x".repeat(200_000);
    let (code, out, err) = output(
        kubectl(&server, home, &["exec", "-i", "p", "--", "/bin/busybox", "cat"]),
        &long,
    )
    .await;
    assert_eq!((code, out.len()), (Some(0), long.len()), "{err}");

    let (code, out, err) = output(kubectl(&server, home, &["logs", "p", "--tail=1"]), "").await;
    assert_eq!((code, out.as_str()), (Some(0), "begun\n"), "{err}");

    for web_sockets in ["true", "false"] {
        let page = forwarded(&server, home, port, web_sockets).await;
        assert!(page.ends_with("\r\n\r\npage\n"), "{page}");
    }
    let asked = |path: &str, what: &str| lock(&heads).iter().any(|h| h.contains(path) && h.contains(what));
    assert!(asked("/exec/", "v5.channel.k8s.io") && !asked("/exec/", "upgrade: spdy/3.1"));
    assert!(asked("/portforward/", "spdy/3.1+portforward.k8s.io") && asked("/portforward/", "upgrade: spdy/3.1"));

    let mut attach = kubectl(&server, home, &["attach", "-i", "p"]);
    let mut child = attach.stdin(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(b"hello\n").await.unwrap();
    let line = tokio::time::timeout(LIMIT, lines.next_line()).await.unwrap().unwrap();
    assert_eq!(line.as_deref(), Some("got hello"));
    child.kill().await.unwrap();
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_forwards_the_ports_of_a_machine() {
    if !Path::new("/usr/bin/kubectl").exists() {
        eprintln!("skipped: needs kubectl");
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 22];
            let _ = stream.read_exact(&mut request).await;
            let _ = stream.write_all(&request).await;
            let _ = stream.write_all(&[b'x'; 300_000]).await;
        }
    });
    let runtime = FakeRuntime {
        connects: true,
        ..FakeRuntime::default()
    };
    *lock(&runtime.sandbox) = Some(sandbox("p", vec![]));
    let stand = Arc::new(stand(vec![pod("p", json!({}))], runtime, None).await);
    let server = front(stand.clone(), Heads::default()).await;
    for web_sockets in ["true", "false"] {
        let page = forwarded(&server, stand.directory.path(), port, web_sockets).await;
        assert!(page.starts_with("GET /page HTTP/1.0\r\n\r\nx"), "{page:.99}");
        assert_eq!(page.len(), 22 + 300_000);
    }
}
