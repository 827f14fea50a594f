//! What apt knows: versions, sources, and the files of a package.
//!
//! Must not install anything. Asking apt takes up to a second each time, so its
//! answers are kept until its lists, its settings or the installed packages change.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::UNIX_EPOCH;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::hex;
use crate::run;

const KERNEL: &str = "linux-image-cloud-amd64";

/// Version of the package that apt would install.
pub fn candidate(package: &str) -> Result<String> {
    Ok(candidates(&[package])?.remove(0))
}

/// The same of several, with one question.
pub fn candidates(packages: &[&str]) -> Result<Vec<String>> {
    let key = |package: &str| format!("candidate {package}");
    let mut answers = Answers::load();
    let missing = |a: &Answers| -> Vec<String> {
        let unknown = packages.iter().filter(|p| !a.known.contains_key(&key(p)));
        unknown.map(|p| (*p).to_owned()).collect()
    };
    for attempt in 0..2 {
        let ask = missing(&answers);
        if ask.is_empty() {
            break;
        }
        if attempt > 0 {
            update()?;
            answers = Answers::load();
        }
        let text = run::output(Command::new("apt-cache").arg("policy").args(&ask))?;
        for (package, version) in policy(&text) {
            answers.known.insert(key(&package), version);
        }
        answers.save();
    }
    if let Some(package) = missing(&answers).first() {
        bail!("apt knows no package {package}: the sources in /etc/apt must have the component main");
    }
    Ok(packages
        .iter()
        .filter_map(|p| answers.known.get(&key(p)).cloned())
        .collect())
}

/// Package and candidate from the output of `apt-cache policy`.
fn policy(text: &str) -> Vec<(String, String)> {
    let (mut out, mut package) = (Vec::new(), String::new());
    for line in text.lines() {
        if let Some(name) = line.strip_suffix(':').filter(|l| !l.starts_with(' ')) {
            package = name.to_owned();
        } else if let Some(version) = line.trim().strip_prefix("Candidate: ").filter(|v| *v != "(none)") {
            out.push((package.clone(), version.to_owned()));
        }
    }
    out
}

/// The package of the kernel that Debian's cloud images run.
pub fn kernel_package() -> Result<String> {
    let key = "kernel".to_owned();
    // The version first: it brings the lists up to date where there are none.
    candidate(KERNEL)?;
    let mut answers = Answers::load();
    if let Some(known) = answers.known.get(&key) {
        return Ok(known.clone());
    }
    let text = run::output(Command::new("apt-cache").args(["depends", KERNEL]))?;
    let package = text.lines().find_map(|l| l.trim().strip_prefix("Depends: "));
    let package = package
        .filter(|p| p.starts_with("linux-image-"))
        .with_context(|| format!("{KERNEL} depends on no kernel"))?
        .to_owned();
    answers.known.insert(key, package.clone());
    answers.save();
    Ok(package)
}

/// Debian's own sources of this machine for a release, its updates and its security updates, one
/// line each. Others, such as backports, have no place in an image.
pub fn sources(codename: &str) -> Result<Vec<String>> {
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let text = run::output(Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]))?;
    let wanted = ["", "-updates", "-security"].map(|end| format!("{codename}{end}"));
    let lines = text.lines().filter_map(|line| {
        let (uri, rest) = line.split_once(' ')?;
        let (release, component) = rest.split_once(' ')?;
        let ours = wanted.iter().any(|w| w == release) && component == "main";
        ours.then(|| format!("deb {uri} {release} main"))
    });
    Ok(lines.collect())
}

/// Downloads a package and unpacks it, without installing it.
pub fn unpack(package: &str, work: &Path, into: &Path) -> Result<()> {
    fs::create_dir_all(into)?;
    // apt drops its rights for downloads; a directory of root's would only make it warn.
    let directory = work.join(format!("deb-{package}"));
    fs::create_dir_all(&directory)?;
    run::program(
        Command::new("apt-get")
            .args(["download", "-qq", "-o", "APT::Sandbox::User=root", package])
            .current_dir(&directory),
    )?;
    let file = fs::read_dir(&directory)?
        .flatten()
        .find(|e| e.file_name().to_string_lossy().ends_with(".deb"));
    let file = file
        .with_context(|| format!("apt-get download {package} left no file"))?
        .path();
    run::program(Command::new("dpkg-deb").arg("-x").arg(file).arg(into))
}

fn update() -> Result<()> {
    println!("apt has no list of packages yet: apt-get update");
    run::program(Command::new("apt-get").args(["update", "-qq"])).context("as root: apt-get update")
}

/// What apt said, and the state of the machine in which it did.
struct Answers {
    state: String,
    known: BTreeMap<String, String>,
}

impl Answers {
    fn path() -> PathBuf {
        crate::cache().join("apt-answers.json")
    }

    /// Empty when anything that apt reads is not what it was.
    fn load() -> Self {
        let state = state();
        let text = fs::read(Self::path()).unwrap_or_default();
        let kept: Value = serde_json::from_slice(&text).unwrap_or_default();
        let same = kept["state"] == state.as_str();
        let pairs = kept["known"].as_object().into_iter().flatten().filter(|_| same);
        let known = pairs.filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())));
        Answers {
            known: known.collect(),
            state,
        }
    }

    /// Not being able to keep them costs time, nothing else.
    fn save(&self) {
        let (path, value) = (Self::path(), json!({"state": self.state, "known": self.known}));
        let fresh = path.with_extension(std::process::id().to_string());
        if fs::create_dir_all(crate::cache()).is_ok() && fs::write(&fresh, value.to_string()).is_ok() {
            let _ = fs::rename(fresh, path);
        }
    }
}

/// Names, sizes and times of what apt reads.
fn state() -> String {
    let mut files = vec![PathBuf::from("/var/lib/dpkg/status")];
    for directory in [
        "/var/lib/apt/lists",
        "/etc/apt",
        "/etc/apt/apt.conf.d",
        "/etc/apt/preferences.d",
        "/etc/apt/sources.list.d",
    ] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        // Directories change with each lock and each partial download.
        files.extend(
            entries
                .map(|e| e.path())
                .filter(|p| p.is_file() && !p.ends_with("lock")),
        );
    }
    files.sort();
    let mut hash = Sha256::new();
    for file in files {
        let Ok(found) = fs::metadata(&file) else { continue };
        let modified = found.modified().ok().and_then(|m| m.duration_since(UNIX_EPOCH).ok());
        let nanos = modified.unwrap_or_default().as_nanos();
        hash.update(format!("{} {} {nanos}\n", file.display(), found.len()));
    }
    hex(&hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn candidates_are_read_from_what_apt_prints() {
        let text =
            "bash:\n  Installed: 5.2\n  Candidate: 5.3\n  Version table:\n     5.3 500\nnone:\n  Candidate: (none)\n";
        assert_eq!(policy(text), [("bash".to_owned(), "5.3".to_owned())]);
    }
}
