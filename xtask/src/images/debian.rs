//! `allmend.local/debian-guest:1`: a whole Debian as a bootable disk, with
//! cloud-init, the QEMU guest agent and PostgreSQL.

use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::json;

use super::packages::{candidates, sources};
use super::{Recipe, archive};
use crate::run;

const SETUP: &str = include_str!("../../guests/debian/setup");
const EXTLINUX: &str = include_str!("../../guests/debian/extlinux.conf");
const PACKAGES: &[&str] = &[
    "systemd-sysv",
    "udev",
    "dbus",
    "netbase",
    "libnss-myhostname",
    "ifupdown",
    "isc-dhcp-client",
    "iproute2",
    "cloud-init",
    "qemu-guest-agent",
    "openssh-server",
    "postgresql",
    "e2fsprogs",
    "less",
    "procps",
    "sudo",
    "initramfs-tools",
    "zstd",
    "linux-image-cloud-amd64",
];
/// Size of the disk; the guest's own, data belongs on volumes.
const SIZE: &str = "2560M";
/// Who KubeVirt's machines run as, and so who must be able to read the disk.
const USER: u32 = 107;
/// Where the partition begins.
const START: u64 = 1 << 20;

pub const RECIPE: Recipe = Recipe {
    name: "debian-guest",
    inputs: || {
        Ok(format!(
            "2 {:?} {SETUP}{EXTLINUX}{PACKAGES:?}{SIZE}",
            candidates(PACKAGES)?
        ))
    },
    build,
};

fn build(file: &Path, work: &Path) -> Result<()> {
    let tree = work.join("tree");
    let (mirror, suite) = (crate::deps::mirror()?.0, suite()?);
    run::program(
        Command::new("debootstrap")
            .args(["--variant=minbase", &suite])
            .arg(&tree)
            .arg(mirror),
    )?;
    // With security updates, where this machine has them.
    fs::write(tree.join("etc/apt/sources.list"), sources(&suite)?.join("\n") + "\n")?;
    fs::copy("/etc/resolv.conf", tree.join("etc/resolv.conf")).context("copy /etc/resolv.conf")?;
    fs::write(tree.join("setup"), SETUP)?;
    let proc = tree.join("proc");
    run::program(Command::new("mount").args(["-t", "proc", "proc"]).arg(&proc))?;
    let configured = run::program(
        Command::new("chroot")
            .arg(&tree)
            .args(["/bin/sh", "-e", "/setup"])
            .args(PACKAGES)
            .stdout(std::process::Stdio::null()),
    );
    run::program(Command::new("umount").arg("-l").arg(&proc))?;
    fs::remove_file(tree.join("setup"))?;
    configured?;
    let boot = tree.join("boot/extlinux");
    fs::create_dir_all(&boot)?;
    fs::write(boot.join("extlinux.conf"), EXTLINUX)?;
    let disk = work.join("disk.raw");
    make_disk(&disk, &tree, work)?;
    let root = work.join("root");
    fs::create_dir_all(root.join("disk"))?;
    run::program(
        Command::new("qemu-img")
            .args([
                "convert",
                "-c",
                "-f",
                "raw",
                "-O",
                "qcow2",
                "-o",
                "compression_type=zstd",
            ])
            .arg(&disk)
            .arg(root.join("disk/disk.qcow2")),
    )?;
    archive::write(file, work, "allmend.local/debian-guest:1", (&root, USER), &json!({}))
}

fn suite() -> Result<String> {
    let release = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let name = release.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME="));
    Ok(name
        .context("this is not Debian: /etc/os-release has no VERSION_CODENAME")?
        .to_owned())
}

/// A disk with one bootable partition that holds the tree.
fn make_disk(disk: &Path, tree: &Path, work: &Path) -> Result<()> {
    run::program(Command::new("truncate").arg("-s").arg(SIZE).arg(disk))?;
    run::shell(&format!(
        "printf 'start=2048, type=83, bootable\\n' | sfdisk --quiet {}",
        disk.display()
    ))?;
    let partition = fs::metadata(disk)?.len() - START;
    // extlinux reads neither 64-bit block numbers nor checksummed metadata.
    run::program(
        Command::new("mkfs.ext4")
            .args([
                "-q",
                "-F",
                "-L",
                "root",
                "-O",
                "^64bit,^metadata_csum",
                "-E",
                &format!("offset={START}"),
            ])
            .arg("-d")
            .arg(tree)
            .arg(disk)
            .arg(format!("{}k", partition / 1024)),
    )?;
    let mount = work.join("mount");
    fs::create_dir_all(&mount)?;
    run::program(
        Command::new("mount")
            .args(["-o", &format!("loop,offset={START}")])
            .arg(disk)
            .arg(&mount),
    )?;
    let installed = run::program(
        Command::new("extlinux")
            .arg("--install")
            .arg(mount.join("boot/extlinux")),
    );
    run::program(Command::new("umount").arg(&mount))?;
    installed?;
    run::program(
        Command::new("dd")
            .args([
                "if=/usr/lib/EXTLINUX/mbr.bin",
                "bs=440",
                "count=1",
                "conv=notrunc",
                "status=none",
            ])
            .arg(format!("of={}", disk.display())),
    )
}
