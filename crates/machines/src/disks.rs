//! The machine's disks: from volumes as the node agent mounted them to files
//! that the unprivileged QEMU may open.
//!
//! Whatever a guest wrote is never looked at to find out what it is: a format is
//! told by the kind of volume. Only images of containers, which no guest writes
//! to, are asked, and none may refer to a file outside itself.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use client::Client;
use machineplan::{
    Backing, BackingFormat, Firmware, MachineSpec, VolumeSource, VolumeSpec, disk_image, seed, seed_image,
};
use runtime::{ContainerConfig, RuntimeError};
use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use serde_json::Value;

use crate::objects;
use crate::paths::{file_in_root, may_open, only_file};

/// What is prepared, and with what.
pub(crate) struct Preparation<'a> {
    pub client: &'a dyn Client,
    pub spec: &'a MachineSpec,
    /// Directory for the machine's own disks.
    pub directory: PathBuf,
    /// User and group of QEMU.
    pub user: (u32, u32),
    pub qemu_img: &'a Path,
    /// Host paths of volumes, by name.
    pub sources: BTreeMap<String, PathBuf>,
}

/// Firmware files: code, and the machine's own variables.
pub(crate) type Ovmf = (PathBuf, PathBuf);

/// Places where distributions keep OVMF.
const OVMF: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
];

/// Host paths of volumes by name: the last component of the path in the container.
pub(crate) fn sources(config: &ContainerConfig) -> BTreeMap<String, PathBuf> {
    let mounts = config.mounts.iter().map(|m| (&m.container_path, &m.host_path));
    let devices = config.devices.iter().map(|d| (&d.container_path, &d.host_path));
    let named = mounts.chain(devices).filter_map(|(inside, host)| {
        let name = Path::new(inside).file_name()?.to_str()?;
        Some((name.to_owned(), host.clone()))
    });
    named.collect()
}

impl Preparation<'_> {
    /// Every volume that a disk names.
    pub(crate) async fn volumes(&self) -> Result<BTreeMap<String, Backing>, RuntimeError> {
        self.make_directory().map_err(|e| self.failed("", &e.to_string()))?;
        let mut out = BTreeMap::new();
        for disk in self.spec.disks.iter().filter(|d| !d.hotplugged) {
            if let Some(volume) = self.spec.volumes.get(&disk.name) {
                let backing = self.volume(volume, disk.read_only).await?;
                may_open(&backing.path, self.user, !(backing.read_only || disk.read_only))
                    .map_err(|why| self.failed(&disk.name, &why))?;
                out.insert(disk.name.clone(), backing);
            }
        }
        Ok(out)
    }

    /// Kernel and initial RAM disk, when the machine boots one directly.
    pub(crate) fn kernel(&self) -> Result<Option<(PathBuf, Option<PathBuf>)>, RuntimeError> {
        let Some(boot) = &self.spec.kernel_boot else {
            return Ok(None);
        };
        let name = "kernel-boot";
        let root = self.source(name)?;
        let find = |path: &str| {
            let file = file_in_root(root, path).map_err(|e| self.failed(name, &e.to_string()))?;
            may_open(&file, self.user, false).map_err(|why| self.failed(name, &why))?;
            Ok::<_, RuntimeError>(file)
        };
        let initrd = match boot.initrd_path.as_str() {
            "" => None,
            path => Some(find(path)?),
        };
        Ok(Some((find(&boot.kernel_path)?, initrd)))
    }

    /// UEFI firmware, when the machine wants it and the host has it.
    pub(crate) fn firmware(&self) -> io::Result<Option<Ovmf>> {
        if self.spec.firmware != Firmware::Efi {
            return Ok(None);
        }
        let Some((code, vars)) = OVMF.into_iter().find(|(code, _)| Path::new(code).exists()) else {
            return Ok(None);
        };
        let own = self.directory.join("efivars.fd");
        self.write(&own, &fs::read(vars)?, 0o600)?;
        Ok(Some((code.into(), own)))
    }

    async fn volume(&self, volume: &VolumeSpec, read_only: bool) -> Result<Backing, RuntimeError> {
        let name = &volume.name;
        let own = |end: &str| self.directory.join(format!("{name}.{end}"));
        let named = |e: RuntimeError| match e {
            RuntimeError::Failed(why) => self.failed(name, &why),
            RuntimeError::NotFound(what) => self.failed(name, &format!("{what} does not exist; create it")),
            other => other,
        };
        match &volume.source {
            VolumeSource::ContainerDisk { path, .. } => self.container_disk(name, path, read_only).await,
            VolumeSource::PersistentVolumeClaim { claim } => self.claim(name, claim).await,
            VolumeSource::EmptyDisk { capacity } => {
                let file = own("qcow2");
                let arguments = ["-f", "qcow2", &path_text(&file), &capacity.to_string()].map(str::to_owned);
                self.qemu_img("create", &arguments)
                    .await
                    .map_err(|why| self.failed(name, &why))?;
                Ok(backing(file, BackingFormat::Qcow2, false))
            }
            VolumeSource::CloudInitNoCloud { source } => {
                let user_data = self.referred(source, "secretRef", "userdata").await.map_err(named)?;
                let network = self
                    .referred(source, "networkDataSecretRef", "networkdata")
                    .await
                    .map_err(named)?;
                let field = format!("volume {name} cloudInitNoCloud");
                let made = seed(self.spec, &field, source, user_data.as_deref(), network.as_deref())
                    .map_err(|e| self.failed(name, &e.to_string()))?;
                self.image(name, own("img"), seed_image(&made))
            }
            VolumeSource::Files { kind, name: object } => {
                let files = objects::files(self.client, &self.spec.namespace, kind, object)
                    .await
                    .map_err(named)?;
                let files: Vec<(&str, &[u8])> = files.iter().map(|(k, v)| (k.as_str(), v.as_slice())).collect();
                self.image(name, own("img"), disk_image("CFGDATA", &files))
            }
        }
    }

    fn image(&self, name: &str, path: PathBuf, image: io::Result<Vec<u8>>) -> Result<Backing, RuntimeError> {
        image
            .and_then(|bytes| self.write(&path, &bytes, 0o400))
            .map_err(|e| self.failed(name, &e.to_string()))?;
        Ok(backing(path, BackingFormat::Raw, true))
    }

    /// The value that a Secret reference of a cloud-init source leads to.
    async fn referred(&self, source: &Value, reference: &str, key: &str) -> Result<Option<Vec<u8>>, RuntimeError> {
        let Some(secret) = source[reference]["name"].as_str() else {
            return Ok(None);
        };
        let files = objects::files(self.client, &self.spec.namespace, "secret", secret).await?;
        let found = files.into_iter().find(|(k, _)| k.eq_ignore_ascii_case(key));
        found
            .map(|(_, v)| Some(v))
            .ok_or_else(|| RuntimeError::Failed(format!("{reference}: Secret {secret} has no key {key}; add it")))
    }

    async fn container_disk(&self, name: &str, path: &str, read_only: bool) -> Result<Backing, RuntimeError> {
        let fail = |why: String| self.failed(name, &why);
        let root = self.source(name)?;
        let file = match path {
            "" => only_file(root, "disk"),
            given => file_in_root(root, given),
        };
        let file = file.map_err(|e| fail(e.to_string()))?;
        may_open(&file, self.user, false).map_err(fail)?;
        let format = image_format(&file).map_err(|e| fail(e.to_string()))?;
        if format == BackingFormat::Qcow2 {
            self.stands_alone(&file).await.map_err(fail)?;
        }
        if read_only {
            return Ok(backing(file, format, true));
        }
        let overlay = self.directory.join(format!("{name}.qcow2"));
        let format = if format == BackingFormat::Qcow2 { "qcow2" } else { "raw" };
        let arguments = [
            "-f",
            "qcow2",
            "-F",
            format,
            "-b",
            &path_text(&file),
            &path_text(&overlay),
        ];
        self.qemu_img("create", &arguments.map(str::to_owned))
            .await
            .map_err(fail)?;
        Ok(backing(overlay, BackingFormat::Qcow2, false))
    }

    /// A qcow2 image could name any file of the host as its backing or data file.
    async fn stands_alone(&self, file: &Path) -> Result<(), String> {
        let arguments = ["-f", "qcow2", "--output=json", &path_text(file)].map(str::to_owned);
        let info = self.qemu_img("info", &arguments).await?;
        let info: Value = serde_json::from_str(&info).map_err(|e| format!("qemu-img info: {e}"))?;
        let refers = |v: &Value| v.as_str().is_some_and(|s| !s.is_empty());
        if refers(&info["backing-filename"]) || refers(&info["format-specific"]["data"]["data-file"]) {
            return Err("the image refers to another file; flatten it with qemu-img convert".into());
        }
        Ok(())
    }

    async fn claim(&self, name: &str, claim: &str) -> Result<Backing, RuntimeError> {
        let fail = |why: String| self.failed(name, &format!("PersistentVolumeClaim {claim}: {why}"));
        let source = self.source(name)?;
        let meta = fs::metadata(source).map_err(|e| fail(format!("{}: {e}", source.display())))?;
        if meta.is_dir() {
            let capacity = objects::claim_capacity(self.client, &self.spec.namespace, claim);
            self.disk_file(source, capacity.await?)
                .map_err(|e| fail(e.to_string()))?;
            return Ok(backing(source.join("disk.img"), BackingFormat::Raw, false));
        }
        let kind = meta.file_type();
        let format = if kind.is_block_device() {
            BackingFormat::Block
        } else if kind.is_file() {
            BackingFormat::Raw
        } else {
            return Err(fail(format!(
                "{} is neither a directory, a file nor a block device",
                source.display()
            )));
        };
        std::os::unix::fs::chown(source, Some(self.user.0), Some(self.user.1)).map_err(|e| fail(e.to_string()))?;
        Ok(backing(source.clone(), format, false))
    }

    /// `disk.img` of a volume: made when missing, given to QEMU. A pod may have put a link there.
    fn disk_file(&self, directory: &Path, capacity: u64) -> io::Result<()> {
        let parent = File::open(directory)?;
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let mode = Mode::RUSR | Mode::WUSR;
        let how = ResolveFlags::NO_SYMLINKS | ResolveFlags::BENEATH;
        let file = File::from(openat2(&parent, "disk.img", flags, mode, how)?);
        let meta = file.metadata()?;
        if !meta.is_file() || meta.nlink() != 1 {
            return Err(io::Error::other("disk.img is not a plain file"));
        }
        if meta.len() == 0 {
            file.set_len(capacity)?;
        }
        fchown(&file, Some(self.user.0), Some(self.user.1))?;
        // The directory's owner and mode are the volume's; QEMU only needs to pass.
        let m = parent.metadata()?;
        if m.mode() & 0o001 == 0 {
            parent.set_permissions(fs::Permissions::from_mode(m.mode() & 0o7777 | 0o001))?;
        }
        Ok(())
    }

    fn source(&self, name: &str) -> Result<&PathBuf, RuntimeError> {
        self.sources
            .get(name)
            .ok_or_else(|| self.failed(name, "the volume is not mounted on this node"))
    }

    async fn qemu_img(&self, command: &str, arguments: &[String]) -> Result<String, String> {
        let mut call = tokio::process::Command::new(self.qemu_img);
        call.arg(command)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        if rustix::process::geteuid().is_root() {
            call.uid(self.user.0).gid(self.user.1);
        }
        let output = call
            .output()
            .await
            .map_err(|e| format!("{}: {e}; install qemu-utils", self.qemu_img.display()))?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        Err(format!(
            "qemu-img {command}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        ))
    }

    fn make_directory(&self) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o700))?;
        std::os::unix::fs::chown(&self.directory, Some(self.user.0), Some(self.user.1))
    }

    /// The directory is QEMU's own, so what is there already may be anything: it is replaced.
    fn write(&self, path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
        let _ = fs::remove_file(path);
        let mut file = OpenOptions::new().create_new(true).write(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        fchown(&file, Some(self.user.0), Some(self.user.1))
    }

    fn failed(&self, disk: &str, why: &str) -> RuntimeError {
        RuntimeError::Invalid {
            reason: "FailedMount".into(),
            message: format!(
                "machine {}/{}: disk {disk:?}: {why}",
                self.spec.namespace, self.spec.name
            ),
        }
    }
}

/// The format of an image that no guest has written to.
fn image_format(path: &Path) -> io::Result<BackingFormat> {
    let mut magic = Vec::new();
    File::open(path)?.take(4).read_to_end(&mut magic)?;
    Ok(if magic == b"QFI\xfb" {
        BackingFormat::Qcow2
    } else {
        BackingFormat::Raw
    })
}

fn backing(path: PathBuf, format: BackingFormat, read_only: bool) -> Backing {
    Backing {
        path,
        format,
        read_only,
    }
}

fn path_text(path: &Path) -> String {
    path.display().to_string()
}
