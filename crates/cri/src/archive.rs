//! Small images as docker archives, made in memory: the pause image, which every
//! sandbox needs and which must exist without a registry.
//!
//! Must not be used for large images: everything is in memory.

use serde_json::json;
use sha2::{Digest, Sha256};

/// An image of one layer.
#[derive(Clone, Debug, Default)]
pub struct Archive {
    /// Name with a tag.
    pub name: String,
    /// Files: path without a leading slash, mode, content. Directories end in `/`.
    pub files: Vec<(String, u32, Vec<u8>)>,
    /// Symbolic links: path and target.
    pub links: Vec<(String, String)>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `User`.
    pub user: String,
}

impl Archive {
    /// The archive, as `docker save` would write it.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut layer = Tar::default();
        for (path, mode, content) in &self.files {
            let kind = if path.ends_with('/') { b'5' } else { b'0' };
            layer.entry((path, *mode), kind, "", content);
        }
        for (path, target) in &self.links {
            layer.entry((path, 0o777), b'2', target, &[]);
        }
        let layer = layer.finish();
        let digest: String = Sha256::digest(&layer).iter().map(|b| format!("{b:02x}")).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux",
            "config": {
                "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
                "Entrypoint": self.entrypoint, "Cmd": self.cmd, "User": self.user,
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        let mut out = Tar::default();
        out.entry(("config.json", 0o644), b'0', "", config.to_string().as_bytes());
        out.entry(("layer.tar", 0o644), b'0', "", &layer);
        out.entry(("manifest.json", 0o644), b'0', "", manifest.to_string().as_bytes());
        out.finish()
    }
}

/// The architecture as OCI names it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The pause image under a name; `None` where no program for this processor is at hand.
pub fn pause_archive(name: &str) -> Option<Archive> {
    if std::env::consts::ARCH != "x86_64" {
        return None;
    }
    Some(Archive {
        name: name.to_owned(),
        files: vec![("pause".into(), 0o755, pause_program())],
        entrypoint: vec!["/pause".into()],
        user: "65535:65535".into(),
        ..Archive::default()
    })
}

/// A static ELF of one page that ignores SIGCHLD, so that the kernel reaps the orphans of a shared
/// process namespace (sigaction(2)), and waits for ever. Written in machine code because no
/// toolchain for static programs can be expected where Allmend is built.
fn pause_program() -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let mut code: Vec<u8> = vec![0xb8, 13, 0, 0, 0]; // mov eax, rt_sigaction
    code.extend([0xbf, 17, 0, 0, 0]); // mov edi, SIGCHLD
    let action_at = code.len() + 1;
    code.extend([0xbe, 0, 0, 0, 0]); // mov esi, action
    code.extend([0x31, 0xd2]); // xor edx, edx
    code.extend([0x41, 0xba, 8, 0, 0, 0]); // mov r10d, 8
    code.extend([0x0f, 0x05]); // syscall
    code.extend([0xb8, 34, 0, 0, 0, 0x0f, 0x05, 0xeb, 0xf7]); // again: mov eax, pause; syscall; jmp again
    let action = u32::try_from(BASE + HEADERS).unwrap_or(0) + u32::try_from(code.len()).unwrap_or(0);
    code[action_at..action_at + 4].copy_from_slice(&action.to_le_bytes());
    code.push(1); // SIG_IGN
    code.extend([0; 31]);

    let size = HEADERS + code.len() as u64;
    let mut elf: Vec<u8> = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let half = |n: u16| n.to_le_bytes();
    elf.extend([half(2), half(62)].concat()); // executable, x86-64
    elf.extend(1_u32.to_le_bytes());
    for word in [BASE + HEADERS, 64, 0] {
        elf.extend(word.to_le_bytes()); // entry, program headers, no section headers
    }
    elf.extend(0_u32.to_le_bytes());
    elf.extend([64, 56, 1, 64, 0, 0].map(half).concat());
    elf.extend([1_u32.to_le_bytes(), 5_u32.to_le_bytes()].concat()); // PT_LOAD, read and execute
    for word in [0, BASE, BASE, size, size, 0x1000] {
        elf.extend(word.to_le_bytes());
    }
    elf.extend(code);
    elf
}

/// A `ustar` archive (POSIX.1-1988).
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn entry(&mut self, (path, mode): (&str, u32), kind: u8, link: &str, content: &[u8]) {
        let mut h = [0_u8; 512];
        let mut put = |at: usize, limit: usize, text: &[u8]| {
            let n = text.len().min(limit);
            h[at..at + n].copy_from_slice(&text[..n]);
        };
        put(0, 100, path.as_bytes());
        put(100, 8, format!("{mode:07o}\0").as_bytes());
        put(108, 8, b"0000000\0");
        put(116, 8, b"0000000\0");
        put(124, 12, format!("{:011o}\0", content.len()).as_bytes());
        put(136, 12, b"00000000000\0");
        put(148, 8, b"        ");
        put(156, 1, &[kind]);
        put(157, 100, link.as_bytes());
        put(257, 8, b"ustar\x0000");
        let sum: u32 = h.iter().map(|b| u32::from(*b)).sum();
        h[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(h);
        self.0.extend(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Stdio};

    #[test]
    fn the_pause_program_runs_and_waits() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pause");
        std::fs::write(&path, pause_program()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).stdin(Stdio::null()).spawn().unwrap();
        let wchan = format!("/proc/{}/status", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Signal 17 is bit 16; whoever runs the tests may ignore others.
        let ignores = |status: &str| {
            let mask = status.lines().find_map(|l| l.strip_prefix("SigIgn:\t")).unwrap_or("0");
            u64::from_str_radix(mask, 16).unwrap() & (1 << 16) != 0
        };
        let waiting = loop {
            let status = std::fs::read_to_string(&wchan).unwrap();
            if status.contains("State:\tS") && ignores(&status) {
                break true;
            }
            if std::time::Instant::now() > deadline || child.try_wait().unwrap().is_some() {
                break false;
            }
            std::thread::yield_now();
        };
        let _ = child.kill();
        let _ = child.wait();
        assert!(waiting);
    }

    #[test]
    fn tar_reads_the_archive() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        let archive = Archive {
            name: "a:1".into(),
            files: vec![("bin/".into(), 0o755, vec![]), ("bin/x".into(), 0o755, b"hi".to_vec())],
            ..Archive::default()
        };
        std::fs::write(&path, archive.to_bytes()).unwrap();
        let out = Command::new("tar").arg("-tf").arg(&path).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&out.stdout), "config.json\nlayer.tar\nmanifest.json\n");
    }
}
