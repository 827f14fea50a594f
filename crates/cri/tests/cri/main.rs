//! CRI against a real containerd of the test's own: pods with the host's network,
//! events, images, streams' addresses, and a containerd that is killed.
//!
//! Needs root, containerd and runc; without them the tests say so and pass.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cri::{Archive, Containerd, ContainerdConfig, CriRuntime};
use futures::StreamExt;
use meta::Object;
use runtime::{
    ContainerConfig, ContainerState, Namespaces, PodRuntime, RuntimeEvent, SandboxConfig, StreamRequest, StreamTarget,
    Streams,
};
use serde_json::{Value, json};

const IMAGE: &str = "allmend.local/busybox:1";

/// A containerd in a directory of its own, with everything of it ended at the end.
struct World {
    dir: tempfile::TempDir,
    containerd: Option<Containerd>,
    runtime: Arc<CriRuntime>,
}

impl World {
    async fn new() -> Option<World> {
        let tools = ["/usr/bin/containerd", "/usr/sbin/runc", "/usr/bin/busybox"];
        if !rustix::process::geteuid().is_root() || tools.iter().any(|t| !Path::new(t).exists()) {
            eprintln!("skipped: needs root, containerd, runc and busybox-static");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("alm-cri").tempdir_in("/tmp").unwrap();
        let containerd = Containerd::start(ContainerdConfig::new(dir.path())).await.unwrap();
        let runtime = Arc::new(CriRuntime::new(&containerd.socket().to_string_lossy()));
        let tar = dir.path().join("busybox.tar");
        std::fs::write(&tar, busybox().to_bytes()).unwrap();
        let names = runtime.import(&tar, None).await.unwrap();
        assert_eq!(names, [IMAGE]);
        Some(World { dir, containerd: Some(containerd), runtime })
    }

    fn sandbox(&self, name: &str) -> SandboxConfig {
        let pod = json!({"kind": "Pod", "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}")}});
        SandboxConfig {
            pod: Arc::new(Object::from_value(pod).unwrap()),
            attempt: 0,
            hostname: name.into(),
            log_directory: self.dir.path().join("logs").join(name),
            dns: Default::default(),
            cgroup_parent: format!("/{}", self.dir.path().file_name().unwrap().to_string_lossy()),
            namespaces: Namespaces { host_network: true, ..Default::default() },
            sysctls: BTreeMap::new(),
            port_mappings: vec![],
            privileged: false,
            security_context: Value::Null,
            labels: BTreeMap::from([("a".into(), "b".into())]),
            annotations: BTreeMap::new(),
        }
    }

    async fn start(&self, sandbox_id: &str, sandbox: &SandboxConfig, name: &str, script: &str) -> String {
        let config = ContainerConfig {
            name: name.into(),
            image: IMAGE.into(),
            command: vec!["/bin/sh".into(), "-c".into(), script.into()],
            log_path: format!("{name}/0.log"),
            ..Default::default()
        };
        std::fs::create_dir_all(sandbox.log_directory.join(name)).unwrap();
        let id = self.runtime.create_container(sandbox_id, sandbox, &config).await.unwrap();
        self.runtime.start_container(&id).await.unwrap();
        id
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let pid = self.containerd.as_ref().map(Containerd::pid);
        // The test's own runtime may be unwinding: another one does the cleaning.
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let rt = tokio::runtime::Runtime::new().unwrap();
                let socket = self.containerd.as_ref().map(|c| c.socket().to_string_lossy().into_owned());
                if let Some(socket) = socket {
                    let clean = async {
                        let fresh = Arc::new(CriRuntime::new(&socket));
                        let _ = tokio::time::timeout(Duration::from_secs(30), clean_with(fresh)).await;
                    };
                    rt.block_on(clean);
                }
            });
        });
        self.containerd = None;
        if let Some(pid) = pid.and_then(|p| rustix::process::Pid::from_raw(i32::try_from(p).ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let ours = self.dir.path().to_string_lossy().into_owned();
        for line in table.lines().rev() {
            if let Some(at) = line.split(' ').nth(4).filter(|p| p.starts_with(&ours)) {
                let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
            }
        }
        let group = self.dir.path().file_name().unwrap();
        for controller in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            let _ = std::fs::remove_dir(controller.path().join(group));
        }
    }
}

async fn clean_with(runtime: Arc<CriRuntime>) {
    for s in runtime.list().await.unwrap_or_default() {
        let _ = runtime.stop_sandbox(&s.id).await;
        let _ = runtime.remove_sandbox(&s.id).await;
    }
}

fn busybox() -> Archive {
    let program = std::fs::read("/usr/bin/busybox").unwrap();
    let link = |name: &str| (format!("bin/{name}"), "busybox".to_owned());
    Archive {
        name: IMAGE.into(),
        files: vec![
            ("bin/".into(), 0o755, vec![]),
            ("tmp/".into(), 0o777, vec![]),
            ("bin/busybox".into(), 0o755, program),
        ],
        links: ["sh", "sleep", "echo", "cat", "true", "false", "id"].map(link).to_vec(),
        cmd: vec!["/bin/sh".into()],
        ..Archive::default()
    }
}

async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_lives_and_its_end_is_told() {
    let Some(world) = World::new().await else { return };
    let rt = &world.runtime;
    assert_eq!(rt.version().await.unwrap(), "containerd://1.6.20");
    let mut events = rt.events().await.unwrap();
    assert_eq!(events.next().await, Some(RuntimeEvent::Resync));

    let config = world.sandbox("one");
    let sandbox = rt.run_sandbox(&config).await.unwrap();
    let quick = world.start(&sandbox, &config, "quick", "echo hello; exit 3").await;
    let told = RuntimeEvent::Sandbox { id: sandbox.clone(), pod_uid: String::new() };
    let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
    assert_eq!(next, Some(told));
    let seen = rt.sandbox(&sandbox).await.unwrap().unwrap();
    assert!(seen.ready && seen.labels["a"] == "b" && seen.pod_uid == "uid-one");
    let c = &seen.containers[0];
    assert_eq!((c.state, c.exit_code, c.reason.as_str()), (ContainerState::Exited, 3, "Error"));
    let log = std::fs::read_to_string(&c.log_path).unwrap();
    assert!(log.contains(" stdout F hello"), "{log}");
    rt.remove_container(&quick).await.unwrap();

    let long = world.start(&sandbox, &config, "long", "sleep 600").await;
    let command = ["/bin/sh", "-c", "echo out; echo err >&2; exit 7"].map(String::from);
    let out = rt.exec_sync(&long, &command, Duration::from_secs(5)).await.unwrap();
    assert_eq!((out.stdout.as_slice(), out.stderr.as_slice(), out.exit_code), (&b"out\n"[..], &b"err\n"[..], 7));
    let streams = Streams { stdout: true, stdin: true, ..Default::default() };
    let request = StreamRequest::Exec { container_id: long.clone(), command: vec!["cat".into()], streams };
    match rt.open_stream(&request).await.unwrap() {
        StreamTarget::Url(url) => assert!(url.starts_with("http://127.0.0.1:"), "{url}"),
        StreamTarget::Raw(_) => panic!("CRI gives addresses"),
    }
    rt.stop_container(&long, Duration::ZERO).await.unwrap();
    rt.stop_sandbox(&sandbox).await.unwrap();
    rt.remove_sandbox(&sandbox).await.unwrap();
    assert!(rt.sandbox(&sandbox).await.unwrap().is_none());
    rt.stop_sandbox(&sandbox).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn containers_outlive_containerd_and_its_keeper() {
    let Some(mut world) = World::new().await else { return };
    let config = world.sandbox("two");
    let sandbox = world.runtime.run_sandbox(&config).await.unwrap();
    let id = world.start(&sandbox, &config, "long", "sleep 600").await;
    let pid = world.containerd.as_ref().unwrap().pid();
    let mut events = world.runtime.events().await.unwrap();
    assert_eq!(events.next().await, Some(RuntimeEvent::Resync));

    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(raw, rustix::process::Signal::KILL).unwrap();
    let running = async || {
        let seen = world.runtime.sandbox(&sandbox).await.ok()??;
        let c = seen.containers.iter().find(|c| c.id == id)?;
        (seen.ready && c.state == ContainerState::Running).then_some(())
    };
    until("the new containerd", async || {
        (world.containerd.as_ref().unwrap().pid() != pid).then_some(())
    })
    .await;
    until("the container", running).await;
    let next = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
    assert_eq!(next, Some(RuntimeEvent::Resync));

    // A new keeper takes up the running instance.
    let pid = world.containerd.as_ref().unwrap().pid();
    world.containerd = None;
    let again = Containerd::start(ContainerdConfig::new(world.dir.path())).await.unwrap();
    assert_eq!(again.pid(), pid);
    world.containerd = Some(again);
    // And notices the death of a process that is not its child.
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid as i32).unwrap(), rustix::process::Signal::KILL).unwrap();
    until("the third containerd", async || {
        (world.containerd.as_ref().unwrap().pid() != pid).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn images_come_go_and_are_shown() {
    let Some(world) = World::new().await else { return };
    let rt = &world.runtime;
    let info = rt.image_status(IMAGE).await.unwrap().unwrap();
    assert!(info.id.starts_with("sha256:") && info.size > 100_000, "{info:?}");
    assert!(rt.image_status("allmend.local/none:1").await.unwrap().is_none());
    assert!(rt.list_images().await.unwrap().iter().any(|i| i.repo_tags == [IMAGE]));
    assert!(rt.pull_image("127.0.0.1:1/x:1", None).await.is_err());

    let target: PathBuf = world.dir.path().join("shown");
    std::fs::create_dir(&target).unwrap();
    rt.mount_image(IMAGE, &target).await.unwrap();
    rt.mount_image(IMAGE, &target).await.unwrap();
    assert!(target.join("bin/busybox").exists());
    assert!(std::fs::write(target.join("x"), "").is_err());
    rt.unmount_image(&target).await.unwrap();
    rt.unmount_image(&target).await.unwrap();
    assert!(!target.join("bin").exists());
    rt.remove_image(IMAGE).await.unwrap();
    assert!(rt.image_status(IMAGE).await.unwrap().is_none());
}

/// Prints how long the steps of a pod take; the whole start is measured in `node`.
#[tokio::test(flavor = "multi_thread")]
async fn steps_are_quick() {
    let Some(world) = World::new().await else { return };
    let mut all = Vec::new();
    for i in 0..10 {
        let config = world.sandbox(&format!("s{i}"));
        let t0 = Instant::now();
        let sandbox = world.runtime.run_sandbox(&config).await.unwrap();
        let t1 = Instant::now();
        world.start(&sandbox, &config, "c", "sleep 600").await;
        all.push((t1 - t0, t1.elapsed()));
        world.runtime.stop_sandbox(&sandbox).await.unwrap();
        world.runtime.remove_sandbox(&sandbox).await.unwrap();
    }
    all.sort();
    println!("run sandbox, create and start container: {:?}", all[5]);
    assert!(all[5].0 < Duration::from_secs(5));
}
