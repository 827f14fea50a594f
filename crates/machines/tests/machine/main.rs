//! Machines with a real QEMU, real namespaces and control groups. Run as root.

mod linux;
mod support;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use machines::MachineRuntime;
use runtime::{ContainerState, MachineChannel, PodRuntime, RuntimeError, RuntimeEvent, StreamRequest, StreamTarget};
use serde_json::{Value, json};
use support::{World, eventually, status};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Prints a banner, echoes, powers off when asked (`guest.S`).
const GUEST: &[u8] = include_bytes!("guest.bin");

fn spec() -> Value {
    json!({
        "domain": {
            "memory": {"guest": "32Mi"},
            "devices": {"disks": [{"name": "root", "disk": {"bus": "virtio"}}]},
        },
        "volumes": [{"name": "root", "containerDisk": {"image": "test/guest"}}],
    })
}

/// A container disk's image as it would be mounted.
fn image(world: &World, deaf: bool) -> PathBuf {
    let root = world.dir.join("image");
    std::fs::create_dir_all(root.join("disk")).unwrap();
    // Firmware boots no disk smaller than a cylinder.
    let mut disk = vec![0u8; 1 << 20];
    disk[..512].copy_from_slice(GUEST);
    disk[509] = u8::from(deaf);
    std::fs::write(root.join("disk/guest.img"), disk).unwrap();
    root
}

async fn start(world: &World, runtime: &MachineRuntime, deaf: bool) -> (String, String) {
    let root = image(world, deaf);
    let config = world.machine(spec());
    runtime.accelerator().await;
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let container = world.container(&[("root", &root)]);
    let id = runtime.create_container(&sandbox, &config, &container).await.unwrap();
    let begun = Instant::now();
    runtime.start_container(&id).await.unwrap();
    println!("start to QEMU running: {:?}", begun.elapsed());
    banner(world, 1).await;
    println!("start to banner: {:?}", begun.elapsed());
    (sandbox, id)
}

async fn banner(world: &World, times: usize) {
    eventually("banner", 20, async || {
        (world.log().matches("test guest is up").count() >= times).then_some(())
    })
    .await;
}

async fn echo(runtime: &MachineRuntime, id: &str, word: &str) {
    let request = StreamRequest::Machine {
        container_id: id.into(),
        channel: MachineChannel::Console,
    };
    // A supervisor that takes over opens its socket a moment later.
    let mut stream = eventually("console", 10, async || match runtime.open_stream(&request).await {
        Ok(StreamTarget::Raw(stream)) => Some(stream),
        _ => None,
    })
    .await;
    stream.write_all(word.as_bytes()).await.unwrap();
    let mut got = vec![0u8; word.len()];
    let read = tokio::time::timeout(Duration::from_secs(10), stream.read_exact(&mut got));
    read.await.unwrap().unwrap();
    assert_eq!(String::from_utf8_lossy(&got), word);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_without_supervisors_ends_and_can_be_removed() {
    let world = World::new(8);
    let runtime = world.runtime_with("/nonexistent/allmend");
    let root = image(&world, false);
    let config = world.machine(spec());
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let container = world.container(&[("root", &root)]);
    let id = runtime.create_container(&sandbox, &config, &container).await.unwrap();
    let error = runtime.start_container(&id).await.unwrap_err().to_string();
    assert!(error.contains("/nonexistent/allmend"), "{error}");
    let ended = eventually("end", 5, async || {
        Some(status(&runtime).await).filter(|s| s.state == ContainerState::Exited)
    })
    .await;
    assert!(ended.message.contains("no supervisor"), "{ended:?}");
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert_eq!(world.leaks(), Vec::<String>::new());
}

/// Whether the guest echoes within a second.
async fn answers(runtime: &MachineRuntime, id: &str) -> bool {
    let request = StreamRequest::Machine {
        container_id: id.into(),
        channel: MachineChannel::Console,
    };
    let Ok(StreamTarget::Raw(mut stream)) = runtime.open_stream(&request).await else {
        return false;
    };
    let mut got = [0u8; 64];
    let asked = async {
        stream.write_all(b"#").await?;
        let n = stream.read(&mut got).await?;
        Ok::<_, std::io::Error>(got[..n].contains(&b'#'))
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), asked).await, Ok(Ok(true)))
}

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_lives_through_the_death_of_its_supervisor() {
    let world = World::new(1);
    let runtime = world.runtime();
    let mut events = runtime.events().await.unwrap();
    let (sandbox, id) = start(&world, &runtime, false).await;
    let line = world
        .log()
        .lines()
        .find(|l| l.contains("test guest is up"))
        .unwrap()
        .to_owned();
    let parts: Vec<&str> = line.splitn(4, ' ').collect();
    assert!(parts[0].ends_with('Z') && parts[1..3] == ["stdout", "F"], "{line}");
    let event = futures::StreamExt::next(&mut events).await.unwrap();
    assert!(matches!(event, RuntimeEvent::Sandbox { id, .. } if id == sandbox));
    echo(&runtime, &id, "hello").await;
    let stats = runtime.stats().await.unwrap();
    assert!(
        stats[0].memory_working_set > 1 << 20 && stats[0].cpu_usage > 0,
        "{stats:?}"
    );

    let qemu = world.processes("qemu.pid");
    assert_eq!(qemu.len(), 1);
    let supervisor = world.processes("machine-supervisor");
    assert_eq!(supervisor.len(), 1);
    let uid = std::fs::read_to_string(format!("/proc/{}/status", qemu[0])).unwrap();
    assert!(uid.contains("Uid:\t107\t107\t107\t107"), "{uid}");
    kill(supervisor[0]);
    eventually("another supervisor", 10, async || {
        let now = world.processes("machine-supervisor");
        (now.len() == 1 && now != supervisor).then_some(())
    })
    .await;
    assert_eq!(world.processes("qemu.pid"), qemu);
    echo(&runtime, &id, "again").await;
    assert_eq!(status(&runtime).await.state, ContainerState::Running);

    runtime.stop_container(&id, Duration::from_secs(20)).await.unwrap();
    let ended = status(&runtime).await;
    assert_eq!((ended.state, ended.exit_code), (ContainerState::Exited, 0), "{ended:?}");
    assert_eq!(ended.reason, "Completed");
    assert!(world.log().contains("bye"));
    runtime.stop_sandbox(&sandbox).await.unwrap();
    assert!(!runtime.list().await.unwrap()[0].ready);
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert!(runtime.list().await.unwrap().is_empty());
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_does_not_listen_is_stopped_at_the_deadline() {
    let world = World::new(2);
    let runtime = world.runtime();
    let (sandbox, id) = start(&world, &runtime, true).await;
    let begun = Instant::now();
    runtime.stop_container(&id, Duration::from_secs(1)).await.unwrap();
    let took = begun.elapsed();
    assert!(
        (Duration::from_secs(1)..Duration::from_secs(5)).contains(&took),
        "{took:?}"
    );
    assert_eq!(status(&runtime).await.state, ContainerState::Exited);
    runtime.remove_sandbox(&sandbox).await.unwrap();
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_agent_takes_the_machine_up_and_sees_its_end() {
    let world = World::new(3);
    let first = world.runtime();
    let (sandbox, id) = start(&world, &first, false).await;
    drop(first);
    let runtime = world.runtime();
    assert_eq!(status(&runtime).await.state, ContainerState::Running);
    let found = runtime.list().await.unwrap().remove(0);
    assert!(found.ready && found.labels["a"] == "b" && found.ips == [world.network.pod()]);
    echo(&runtime, &id, "still here").await;
    runtime.pause(&id).await.unwrap();
    eventually("paused", 5, async || runtime.state(&id).filter(|s| s.paused)).await;
    eventually("condition", 5, async || {
        let vmi = world.api.value("virtualmachineinstances/test/guest");
        (vmi["status"]["conditions"][0]["type"] == "Paused").then_some(())
    })
    .await;
    runtime.unpause(&id).await.unwrap();
    echo(&runtime, &id, "back").await;
    runtime.reset(&id).await.unwrap();
    banner(&world, 2).await;
    // Both at once: the next supervisor must see that QEMU is gone and start none.
    let qemu = world.processes("qemu.pid")[0];
    kill(world.processes("machine-supervisor")[0]);
    kill(qemu);
    let ended = eventually("end", 10, async || {
        Some(status(&runtime).await).filter(|s| s.state == ContainerState::Exited)
    })
    .await;
    assert_eq!((ended.exit_code, ended.reason.as_str()), (137, "Error"));
    runtime.remove_sandbox(&sandbox).await.unwrap();
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_volume_reaches_qemu() {
    let world = World::new(7);
    let runtime = world.runtime();
    let disk = |name: &str| json!({"name": name, "disk": {"bus": "virtio"}});
    let config = world.machine(json!({
        "domain": {"memory": {"guest": "32Mi"}, "devices": {"disks": [
            disk("root"), disk("scratch"), disk("claim"), disk("config"), {"name": "seed", "cdrom": {"bus": "sata"}}]}},
        "volumes": [
            {"name": "root", "containerDisk": {"image": "i", "path": "/disk/root.qcow2"}},
            {"name": "scratch", "emptyDisk": {"capacity": "1Gi"}},
            {"name": "claim", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "config", "configMap": {"name": "settings"}},
            {"name": "seed", "cloudInitNoCloud": {"secretRef": {"name": "seed"}}},
        ],
    }));
    let named = |name: &str| json!({"name": name, "namespace": "test"});
    world.api.put(
        "persistentvolumeclaims",
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": named("data"),
            "status": {"capacity": {"storage": "3Mi"}}}),
    );
    world.api.put(
        "configmaps",
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": named("settings"), "data": {"key": "value"}}),
    );
    let root = image(&world, false);
    let (raw, qcow2) = (root.join("disk/guest.img"), root.join("disk/root.qcow2"));
    support::run(&format!(
        "qemu-img convert -O qcow2 {} {}",
        raw.display(),
        qcow2.display()
    ));
    let before = std::fs::read(&qcow2).unwrap();
    let claim = world.dir.join("claim");
    std::fs::create_dir(&claim).unwrap();
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let container = world.container(&[("root", &root), ("claim", &claim)]);
    // The Secret is missing as yet.
    let error = runtime
        .create_container(&sandbox, &config, &container)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("\"seed\"") && error.contains("secret seed does not exist"),
        "{error}"
    );
    world.api.put(
        "secrets",
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": named("seed"), "data": {"userdata": "eA=="}}),
    );
    let id = runtime.create_container(&sandbox, &config, &container).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    banner(&world, 1).await;
    assert_eq!(std::fs::metadata(claim.join("disk.img")).unwrap().len(), 3 << 20);
    runtime.stop_container(&id, Duration::from_secs(20)).await.unwrap();
    assert_eq!(std::fs::read(&qcow2).unwrap(), before, "the image must not change");
    runtime.remove_sandbox(&sandbox).await.unwrap();
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_that_cannot_be_used_are_named() {
    let world = World::new(4);
    let runtime = world.runtime();
    let config = world.machine(spec());
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let create = async |volumes: &[(&str, &Path)]| {
        let container = world.container(volumes);
        match runtime.create_container(&sandbox, &config, &container).await {
            Err(RuntimeError::Invalid { reason, message }) if reason == "FailedMount" => message,
            other => panic!("{other:?}"),
        }
    };
    let missing = create(&[]).await;
    assert!(
        missing.contains("test/guest") && missing.contains("\"root\""),
        "{missing}"
    );
    let empty = world.dir.join("empty");
    std::fs::create_dir_all(empty.join("disk")).unwrap();
    assert!(create(&[("root", &empty)]).await.contains("no file"));
    // An image that would make QEMU open a file of the host.
    std::fs::write(world.dir.join("secret"), vec![1u8; 1 << 16]).unwrap();
    let evil = empty.join("disk/evil.qcow2");
    let secret = world.dir.join("secret");
    support::run(&format!(
        "qemu-img create -q -f qcow2 -F raw -b {} {}",
        secret.display(),
        evil.display()
    ));
    assert!(create(&[("root", &empty)]).await.contains("refers to another file"));
    let closed = image(&world, false);
    std::os::unix::fs::chown(&closed, Some(0), Some(0)).unwrap();
    support::run(&format!("chmod 700 {}", closed.display()));
    assert!(create(&[("root", &closed)]).await.contains("chmod o+x"));
    assert!(runtime.list().await.unwrap()[0].containers.is_empty());
    runtime.remove_sandbox(&sandbox).await.unwrap();
    assert_eq!(world.leaks(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn supervisors_killed_at_any_moment_neither_end_nor_double_a_machine() {
    let world = World::new(6);
    let runtime = world.runtime();
    let root = image(&world, false);
    let config = world.machine(spec());
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let mut lived = 0;
    for round in 0..12u32 {
        let mut container = world.container(&[("root", &root)]);
        container.attempt = round;
        container.log_path = format!("compute/{round}.log");
        let id = runtime.create_container(&sandbox, &config, &container).await.unwrap();
        let starting = tokio::spawn({
            let (runtime, id) = (runtime.clone(), id.clone());
            async move { runtime.start_container(&id).await }
        });
        let supervisor = eventually("supervisor", 5, async || {
            world.processes("machine-supervisor").first().copied()
        })
        .await;
        tokio::time::sleep(Duration::from_millis(u64::from(round) * 9)).await;
        kill(supervisor);
        let _ = starting.await.unwrap();
        // The banner may fall between two supervisors; the guest's echo tells that it lives.
        let ended = eventually("an outcome", 20, async || {
            assert!(world.processes("qemu.pid").len() <= 1);
            let all = runtime.list().await.unwrap().remove(0).containers;
            let ended = all.into_iter().find(|c| c.id == id)?.state == ContainerState::Exited;
            (ended || answers(&runtime, &id).await).then_some(ended)
        })
        .await;
        if ended {
            // It fell between the record of the start and QEMU's first breath.
            assert_eq!(world.processes("qemu.pid"), Vec::<i32>::new());
        } else {
            lived += 1;
        }
        runtime.remove_container(&id).await.unwrap();
        eventually("gone", 5, async || world.processes("").is_empty().then_some(())).await;
    }
    println!("{lived} of 12 machines lived");
    assert!(lived >= 6);
    runtime.remove_sandbox(&sandbox).await.unwrap();
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}
