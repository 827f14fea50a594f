//! A Linux guest: DHCP, NAT both ways, a claim's disk and the guest agent's channel.
//!
//! Needs a Debian cloud kernel with its modules: unpack linux-image-cloud-amd64 and
//! name the directory in `ALLMEND_TEST_KERNEL`, or install the package; and busybox-static.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use runtime::{MachineChannel, PodRuntime, StreamRequest, StreamTarget};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{World, eventually, run};

/// In the order of their dependencies.
const MODULES: [&str; 9] = [
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_console",
];

const INIT: &str = r#"#!/bin/busybox sh
busybox mount -t devtmpfs dev /dev
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
for m in MODULES; do busybox insmod /modules/$m.ko; done
busybox ip link set lo up
busybox ip link set eth0 up
busybox udhcpc -i eth0 -n -q -s /dhcp
echo persisted | busybox dd of=/dev/vda conv=fsync 2>/dev/null
( while true; do echo hello from the guest | busybox nc -l -p 8080; done ) &
( while ! echo out of the guest | busybox nc OUTSIDE; do busybox usleep 100000; done ) &
for p in /sys/class/virtio-ports/*; do
  [ "$(busybox cat $p/name)" = org.qemu.guest_agent.0 ] && port=/dev/${p##*/}
done
echo "guest is up on $port"
( read -r go </dev/ttyS0; busybox dd if=/dev/urandom of=/dev/vdb bs=64k count=64 conv=fsync 2>/dev/null && echo "large write done" ) &
while true; do
  while read -r line; do
    case "$line" in
      *guest-sync*) id=${line##*\"id\":}; echo "{\"return\": ${id%%\}*}}" ;;
      *guest-get-osinfo*) echo '{"return": {"id": "busybox", "pretty-name": "Busybox guest"}}' ;;
      *guest-network-get*) echo "{\"return\": [{\"name\": \"eth0\", \"hardware-address\": \"$(busybox cat /sys/class/net/eth0/address)\"}]}" ;;
      *guest-exec-status*) echo '{"return": {"exited": true, "exitcode": 7, "out-data": "aGVsbG8="}}' ;;
      *guest-exec*) echo '{"return": {"pid": 5}}' ;;
    esac
  done <&3 >&3
  busybox usleep 100000
done 3<>$port
"#;

const DHCP: &str = r#"#!/bin/busybox sh
[ "$1" = bound ] || exit 0
busybox ip addr add $ip/$mask dev $interface
busybox ip route add default via $router
busybox ip link set $interface mtu $mtu
echo "bound ip=$ip router=$router dns=$dns search=$search mtu=$mtu name=$hostname"
"#;

fn kernel() -> (PathBuf, PathBuf) {
    let root = std::env::var("ALLMEND_TEST_KERNEL").unwrap_or_else(|_| "/".into());
    let root = PathBuf::from(root);
    let entries = fs::read_dir(root.join("boot")).into_iter().flatten().flatten();
    let kernels =
        entries.filter_map(|e| Some((e.file_name().to_str()?.strip_prefix("vmlinuz-")?.to_owned(), e.path())));
    let (version, kernel) = kernels
        .filter(|(v, _)| v.contains("cloud"))
        .max()
        .expect("no cloud kernel: unpack linux-image-cloud-amd64 and set ALLMEND_TEST_KERNEL to the directory");
    let modules = [root.join("lib/modules"), root.join("usr/lib/modules")];
    let modules = modules
        .iter()
        .map(|m| m.join(&version))
        .find(|m| m.exists())
        .expect("the kernel's modules");
    (kernel, modules)
}

fn find(directory: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(directory)
        .ok()?
        .flatten()
        .find_map(|entry| match entry.file_type() {
            Ok(t) if t.is_dir() => find(&entry.path(), name),
            _ => (entry.file_name() == *name).then(|| entry.path()),
        })
}

/// Kernel and initial RAM disk, as an image of a container would have them.
fn boot_image(world: &World, outside: &str) -> PathBuf {
    let (kernel, modules) = kernel();
    let image = world.dir.join("boot");
    let root = world.dir.join("initramfs");
    for dir in ["dev", "proc", "sys", "bin", "modules"] {
        fs::create_dir_all(root.join(dir)).unwrap();
    }
    fs::create_dir_all(&image).unwrap();
    fs::copy(kernel, image.join("vmlinuz")).unwrap();
    let busybox = Path::new("/usr/bin/busybox");
    assert!(busybox.exists(), "busybox is missing: install busybox-static");
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    let mut all: Vec<&str> = MODULES.to_vec();
    all.push("virtio_blk");
    for module in &all {
        let file = format!("{module}.ko");
        let found = find(&modules, &file).unwrap_or_else(|| panic!("{file} in {}", modules.display()));
        fs::copy(found, root.join("modules").join(file)).unwrap();
    }
    let init = INIT.replace("MODULES", &all.join(" ")).replace("OUTSIDE", outside);
    for (name, text) in [("init", init.as_str()), ("dhcp", DHCP)] {
        fs::write(root.join(name), text).unwrap();
        fs::set_permissions(root.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut cpio = Command::new("busybox")
        .args(["cpio", "-o", "-H", "newc"])
        .current_dir(&root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(image.join("initrd")).unwrap())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let names = Command::new("find")
        .arg(".")
        .current_dir(&root)
        .output()
        .unwrap()
        .stdout;
    cpio.stdin.take().unwrap().write_all(&names).unwrap();
    assert!(cpio.wait().unwrap().success());
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_linux_guest_is_on_the_pods_network_and_speaks_through_its_agent() {
    let world = World::new(5);
    let runtime = world.runtime();
    let config = world.machine(json!({
        "domain": {
            "memory": {"guest": "160Mi"},
            "firmware": {"kernelBoot": {"kernelArgs": "console=ttyS0 quiet", "container": {
                "image": "test/boot", "kernelPath": "/vmlinuz", "initrdPath": "/initrd"}}},
            "devices": {"autoattachGraphicsDevice": false, "disks": [
                {"name": "data", "disk": {"bus": "virtio"}}, {"name": "large", "disk": {"bus": "virtio"}}]},
        },
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "large", "persistentVolumeClaim": {"claimName": "large"}}],
    }));
    let sandbox = runtime.run_sandbox(&config).await.unwrap();
    let listener = TcpListener::bind((world.network.host(), 0)).unwrap();
    let outside = format!("{} {}", world.network.host(), listener.local_addr().unwrap().port());
    let outside = tokio::task::spawn_blocking({
        let boot = boot_image(&world, &outside);
        move || (boot, listener)
    });
    let (boot, listener) = outside.await.unwrap();
    let data = world.dir.join("volume.img");
    fs::File::create(&data).unwrap().set_len(1 << 20).unwrap();
    // A disk of 8 MiB where there is only one.
    let small = world.dir.join("small");
    fs::create_dir(&small).unwrap();
    run(&format!("mount -t tmpfs -o size=1m,mode=711 tmpfs {}", small.display()));
    let large = small.join("volume.img");
    fs::File::create(&large).unwrap().set_len(8 << 20).unwrap();
    let container = world.container(&[("kernel-boot", &boot), ("data", &data), ("large", &large)]);
    let id = runtime.create_container(&sandbox, &config, &container).await.unwrap();
    let begun = Instant::now();
    runtime.start_container(&id).await.unwrap();
    println!("start to QEMU running: {:?}", begun.elapsed());
    eventually("guest", 40, async || {
        world.log().contains("guest is up on /dev/vport").then_some(())
    })
    .await;
    println!("start to Linux up: {:?}", begun.elapsed());
    let bound = world
        .log()
        .lines()
        .find(|l| l.contains("bound ip="))
        .unwrap_or_default()
        .to_owned();
    let expected = "ip=10.0.2.2 router=10.0.2.1 dns=192.0.2.1 search=test.svc.cluster.local mtu=1450 name=guest";
    assert!(bound.contains(expected), "{}", world.log());

    // Into the guest, through the pod's address.
    let request = StreamRequest::PortForward {
        sandbox_id: sandbox.clone(),
        ports: vec![8080],
    };
    let greeting = eventually("port of the guest", 10, async || {
        let Ok(StreamTarget::Raw(mut stream)) = runtime.open_stream(&request).await else {
            return None;
        };
        let mut buffer = vec![0u8; 64];
        let read = tokio::time::timeout(Duration::from_secs(2), stream.read(&mut buffer)).await;
        let n = read.ok()?.ok().filter(|n| *n > 0)?;
        Some(String::from_utf8_lossy(&buffer[..n]).into_owned())
    })
    .await;
    assert_eq!(greeting, "hello from the guest\n");
    // Out of the guest, as the pod.
    let (peer, words) = tokio::task::spawn_blocking(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mut buffer = [0u8; 17];
        stream.read_exact(&mut buffer).unwrap();
        (peer, String::from_utf8_lossy(&buffer).into_owned())
    })
    .await
    .unwrap();
    assert_eq!(
        (peer.ip().to_string(), words.as_str()),
        (world.network.pod(), "out of the guest\n")
    );

    eventually("agent", 10, async || runtime.state(&id).filter(|s| s.agent_connected)).await;
    let out = runtime
        .exec_sync(&id, &["true".into()], Duration::from_secs(5))
        .await
        .unwrap();
    assert_eq!((out.exit_code, out.stdout.as_slice()), (7, &b"hello"[..]));
    let vmi = eventually("status", 10, async || {
        let vmi = world.api.value("virtualmachineinstances/test/guest");
        (vmi["status"]["guestOSInfo"]["prettyName"] == "Busybox guest").then_some(vmi)
    })
    .await;
    let condition = |vmi: &serde_json::Value, kind: &str| {
        let all = vmi["status"]["conditions"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|c| c["type"] == kind)
    };
    assert!(condition(&vmi, "AgentConnected").is_some());
    let interface = &vmi["status"]["interfaces"][0];
    assert_eq!(
        (interface["ipAddress"].as_str(), interface["interfaceName"].as_str()),
        (Some(&*world.network.pod()), Some("eth0"))
    );

    // The guest waits where the host has no space, says so, and goes on when there is some.
    let console = StreamRequest::Machine {
        container_id: id.clone(),
        channel: MachineChannel::Console,
    };
    let Ok(StreamTarget::Raw(mut console)) = runtime.open_stream(&console).await else {
        panic!("no console")
    };
    console.write_all(b"go\n").await.unwrap();
    let paused = eventually("pause", 10, async || {
        let vmi = world.api.value("virtualmachineinstances/test/guest");
        condition(&vmi, "Paused").filter(|c| c["reason"] == "PausedIOError")
    })
    .await;
    assert!(paused["message"].as_str().unwrap().contains("disk large"), "{paused}");
    assert!(!world.log().contains("large write done"));
    run(&format!("mount -o remount,size=32m {}", small.display()));
    eventually("large write", 40, async || {
        world.log().contains("large write done").then_some(())
    })
    .await;

    runtime.remove_sandbox(&sandbox).await.unwrap();
    run(&format!("umount {}", small.display()));
    assert!(fs::read(&data).unwrap().starts_with(b"persisted\n"));
    eventually("nothing left", 5, async || world.leaks().is_empty().then_some(())).await;
}
