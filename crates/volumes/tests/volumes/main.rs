//! Volumes with real files, loop devices and mounts. Run as root.

mod api;

use std::fs;
use std::io::Write;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use api::Api;
use serde_json::{Value, json};
use volumes::{Config, Publication, VolumeError, Volumes};

struct World {
    dir: PathBuf,
    api: Arc<Api>,
    volumes: Volumes,
    run: tokio::task::JoinHandle<()>,
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl World {
    fn new(name: &str) -> Self {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests mount: run them as root"
        );
        let dir = PathBuf::from(format!("/tmp/volt-{name}-{}", std::process::id()));
        fs::create_dir(&dir).unwrap();
        let api: Arc<Api> = Arc::default();
        let volumes = Self::open(&dir, &api);
        let run = spawn(&volumes);
        World { dir, api, volumes, run }
    }

    fn open(dir: &Path, api: &Arc<Api>) -> Volumes {
        let config = Config {
            data_dir: dir.to_owned(),
            node_name: "n1".into(),
        };
        Volumes::open(config, api.clone()).unwrap()
    }

    /// As after kill -9 of the agent.
    fn restart(&mut self) {
        self.run.abort();
        self.volumes = Self::open(&self.dir, &self.api);
        self.run = spawn(&self.volumes);
    }

    fn claim(&self, name: &str, size: &str, mode: &str) {
        self.api.put(
            "persistentvolumeclaims",
            json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {"name": name, "namespace": "test", "uid": format!("uid-{name}"),
                    "annotations": {"volume.kubernetes.io/selected-node": "n1"}},
                "status": {"capacity": {"storage": "64Mi"}},
                "spec": {"storageClassName": "local", "accessModes": ["ReadWriteOnce"], "volumeMode": mode,
                    "resources": {"requests": {"storage": size}}}}),
        );
    }

    async fn volume(&self, name: &str) -> (PathBuf, Value) {
        let key = format!("persistentvolumes//pvc-uid-{name}");
        eventually("volume", async || !self.api.get_value(&key).is_null()).await;
        let pv = self.api.get_value(&key);
        (pv["spec"]["local"]["path"].as_str().unwrap().into(), pv)
    }

    fn target(&self, name: &str) -> PathBuf {
        let target = self.dir.join("pods").join(name);
        fs::create_dir_all(&target).unwrap();
        target
    }

    fn release(&self, pv: &Value) {
        let mut pv = pv.clone();
        pv["status"]["phase"] = "Released".into();
        self.api.put("persistentvolumes", pv);
    }

    fn leaks(&self) -> String {
        let dir = self.dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let loops = output("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]);
        let lines = mounts.lines().chain(loops.lines()).filter(|l| l.contains(&dir));
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.run.abort();
        let dir = self.dir.to_string_lossy().into_owned();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        for target in mounts
            .lines()
            .filter_map(|l| l.split(' ').nth(4))
            .filter(|t| t.contains(&dir))
        {
            let _ = Command::new("umount").args(["-l", target]).output();
        }
        let list = ["--list", "--noheadings", "--output", "NAME,BACK-FILE"];
        let loops = Command::new("losetup").args(list).output().unwrap().stdout;
        for line in String::from_utf8_lossy(&loops).lines().filter(|l| l.contains(&dir)) {
            let device = line.split_whitespace().next().unwrap_or_default();
            let _ = Command::new("losetup").args(["-d", device]).output();
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn spawn(volumes: &Volumes) -> tokio::task::JoinHandle<()> {
    let volumes = volumes.clone();
    tokio::spawn(async move { volumes.run().await })
}

async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !check().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

fn by<'a>(volume: &'a Path, pod_uid: &'a str) -> Publication<'a> {
    Publication {
        volume,
        pod_uid,
        single: false,
    }
}

#[tokio::test]
async fn a_file_system_is_shared_by_pods_survives_restarts_grows_and_goes() {
    let mut world = World::new("fs");
    world.claim("data", "64Mi", "Filesystem");
    let (volume, pv) = world.volume("data").await;
    assert_eq!(world.volumes.path_of(&pv).as_ref(), Some(&volume));
    let class = world.api.get_value("storageclasses//local");
    assert_eq!(
        class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"],
        "true"
    );
    let (a, b) = (world.target("a"), world.target("b"));
    let begun = Instant::now();
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, Some(2000))
        .await
        .unwrap();
    println!("first mount: {:?}", begun.elapsed());
    fs::write(a.join("f"), "kept").unwrap();
    assert_eq!(fs::metadata(&a).unwrap().gid(), 2000);
    // The capacity is what was asked for.
    let full = (0..80).try_for_each(|i| fs::write(a.join(format!("big{i}")), vec![1u8; 1 << 20]));
    assert_eq!(full.unwrap_err().kind(), std::io::ErrorKind::StorageFull);
    (0..80).for_each(|i| drop(fs::remove_file(a.join(format!("big{i}")))));

    world.restart();
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    world.volumes.mount(by(&volume, "pod-b"), &b, true, None).await.unwrap();
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "kept");
    assert!(fs::write(b.join("g"), "x").is_err());
    let refused = world.volumes.attach_machine(by(&volume, "vm")).await.unwrap_err();
    assert!(matches!(refused, VolumeError::InUse(_)), "{refused}");

    world.claim("data", "128Mi", "Filesystem");
    let status = || world.api.get_value("persistentvolumeclaims/test/data")["status"].clone();
    let size = || rustix::fs::statvfs(&a).map(|s| s.f_blocks * s.f_frsize).unwrap();
    // At once where the kernel lets us, else when the last pod has gone.
    eventually("growth", async || {
        status()["capacity"]["storage"] == "128Mi" || status()["conditions"][0]["type"] == "FileSystemResizePending"
    })
    .await;
    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
    world.volumes.unmount(&volume, "pod-b", &b).await.unwrap();
    eventually("status", async || status()["capacity"]["storage"] == "128Mi").await;
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    world.volumes.mount(by(&volume, "pod-b"), &b, true, None).await.unwrap();
    assert!(size() > 100 << 20, "{}", size());

    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
    assert_eq!(fs::read_to_string(b.join("f")).unwrap(), "kept");
    world.release(&pv);
    tokio::task::yield_now().await;
    assert!(volume.join("volume.img").exists(), "a volume in use must stay");
    world.volumes.unmount(&volume, "pod-b", &b).await.unwrap();
    world.volumes.unmount(&volume, "pod-b", &b).await.unwrap();
    eventually("removal", async || {
        !volume.exists() && world.api.all("persistentvolumes").is_empty()
    })
    .await;
    assert_eq!(world.leaks(), "");
}

#[tokio::test]
async fn an_unclean_file_system_is_mended_and_foreign_data_is_kept() {
    let world = World::new("fsck");
    world.claim("data", "32Mi", "Filesystem");
    let (volume, _) = world.volume("data").await;
    let a = world.target("a");
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    fs::write(a.join("f"), "x").unwrap();
    rustix::fs::sync();
    // As a crash leaves it: a copy of the file of a mounted file system.
    let copy = fs::read(volume.join("volume.img")).unwrap();
    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
    fs::write(volume.join("volume.img"), copy).unwrap();
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    assert_eq!(fs::read_to_string(a.join("f")).unwrap(), "x");
    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();

    let image = fs::File::options().write(true).open(volume.join("volume.img")).unwrap();
    image.write_all_at(&[7; 4096], 0).unwrap();
    let error = world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap_err();
    assert!(matches!(error, VolumeError::Unmountable { .. }), "{error}");
    // What failed keeps nobody away.
    world.volumes.attach_machine(by(&volume, "vm")).await.unwrap();
    world.volumes.detach_machine(&volume, "vm").await.unwrap();
    // As an agent leaves it that is killed while it formats: nothing in it is worth keeping.
    fs::write(volume.join("formatting"), "").unwrap();
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    assert!(!volume.join("formatting").exists() && !a.join("f").exists());
    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
    let elsewhere = world
        .volumes
        .mount(by(Path::new("/etc"), "pod-a"), &a, false, None)
        .await
        .unwrap_err();
    assert!(matches!(elsewhere, VolumeError::NotOurs { .. }));
    assert_eq!(world.leaks(), "");
}

#[tokio::test]
async fn a_block_device_has_the_size_and_goes_with_its_last_pod() {
    let mut world = World::new("block");
    world.claim("disk", "10Mi", "Block");
    let (volume, _) = world.volume("disk").await;
    let device = world.volumes.attach_block(by(&volume, "pod-a")).await.unwrap();
    assert!(fs::metadata(&device).unwrap().file_type().is_block_device());
    let size = output("blockdev", &["--getsize64", &device.to_string_lossy()]);
    assert_eq!(size.trim(), (10 << 20).to_string());
    world.restart();
    assert_eq!(world.volumes.attach_block(by(&volume, "pod-a")).await.unwrap(), device);
    assert_eq!(world.volumes.attach_block(by(&volume, "pod-b")).await.unwrap(), device);
    let alone = Publication {
        single: true,
        ..by(&volume, "pod-c")
    };
    assert!(matches!(
        world.volumes.attach_block(alone).await,
        Err(VolumeError::InUse(_))
    ));
    fs::File::options()
        .write(true)
        .open(&device)
        .unwrap()
        .write_all(&[1; 512])
        .unwrap();
    world.volumes.detach_block(&volume, "pod-a").await.unwrap();
    assert!(world.leaks().contains("volume.img"));
    world.volumes.detach_block(&volume, "pod-b").await.unwrap();
    assert_eq!(world.leaks(), "");
    assert_eq!(fs::read(volume.join("volume.img")).unwrap()[..512], [1; 512]);
}

/// Ends its process when the test does.
struct Qemu(Child);

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn what_qemu_has_open_is_not_mounted() {
    let world = World::new("vm");
    world.claim("disk", "10Mi", "Filesystem");
    let (volume, _) = world.volume("disk").await;
    let file = world.volumes.attach_machine(by(&volume, "vm")).await.unwrap();
    assert_eq!(fs::metadata(&file).unwrap().len(), 10 << 20);
    let a = world.target("a");
    let error = world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains("pod vm as the disk of a virtual machine"),
        "{error}"
    );
    world.volumes.detach_machine(&volume, "vm").await.unwrap();
    // A QEMU that no record knows.
    let qemu = Command::new("qemu-system-x86_64")
        .args([
            "-M",
            "q35",
            "-nodefaults",
            "-display",
            "none",
            "-S",
            "-monitor",
            "stdio",
            "-m",
            "16",
        ])
        .args(["-drive", &format!("if=virtio,format=raw,file={}", file.display())])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("qemu-system-x86_64 is missing: install qemu-system-x86");
    let qemu = Qemu(qemu);
    eventually("QEMU's lock", async || {
        let mounted = world.volumes.mount(by(&volume, "pod-a"), &a, false, None).await;
        if mounted.is_ok() {
            world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
        }
        matches!(mounted, Err(VolumeError::Busy { .. }))
    })
    .await;
    drop(qemu);
    world
        .volumes
        .mount(by(&volume, "pod-a"), &a, false, None)
        .await
        .unwrap();
    world.volumes.unmount(&volume, "pod-a", &a).await.unwrap();
    assert_eq!(world.leaks(), "");
}

#[tokio::test]
async fn what_cannot_be_is_said_once_with_figures() {
    let world = World::new("full");
    world.claim("huge", "900Ti", "Filesystem");
    eventually("event", async || !world.api.all("events").is_empty()).await;
    let event = world.api.all("events").remove(0);
    assert_eq!(event["reason"], "ProvisioningFailed");
    let message = event["message"].as_str().unwrap();
    assert!(message.contains("943718400 MiB"), "{message}");
    assert!(world.api.all("persistentvolumes").is_empty());
}
