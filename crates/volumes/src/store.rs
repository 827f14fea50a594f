//! The volumes on disk: made, found, grown, removed, and who uses each.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use client::Client;
use serde::{Deserialize, Serialize};
use volumeplan::{Use, User};

use crate::{VolumeError, io};

/// Version of the files in `users`.
const VERSION: u32 = 1;

/// Where volumes are.
#[derive(Clone, Debug)]
pub struct Config {
    /// Data directory.
    pub data_dir: PathBuf,
    /// Name of this node, which is also its `kubernetes.io/hostname`.
    pub node_name: String,
}

/// The volumes of this node. Cheap to clone.
#[derive(Clone)]
pub struct Volumes {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Config,
    pub client: Arc<dyn Client>,
    boot_id: String,
    /// One operation at a time on each volume.
    locks: Mutex<HashMap<PathBuf, Arc<tokio::sync::Mutex<()>>>>,
    /// A volume became free.
    pub freed: tokio::sync::Notify,
}

/// A record of `users`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    version: u32,
    kind: String,
    target: PathBuf,
    boot_id: String,
}

impl Volumes {
    /// Opens the directory, which is made when missing.
    pub fn open(config: Config, client: Arc<dyn Client>) -> Result<Self, VolumeError> {
        let root = config.data_dir.join("volumes");
        let mut builder = fs::DirBuilder::new();
        // QEMU's user must pass; nobody may look around.
        builder.recursive(true).mode(0o711);
        builder.create(&root).map_err(io(root.display()))?;
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").map_err(io("read the boot id"))?;
        let inner = Inner {
            config,
            client,
            boot_id: boot_id.trim().to_owned(),
            locks: Mutex::default(),
            freed: tokio::sync::Notify::new(),
        };
        Ok(Volumes { inner: Arc::new(inner) })
    }

    /// Path of the volume behind a PersistentVolume; `None` when this node did not make it.
    pub fn path_of(&self, pv: &serde_json::Value) -> Option<PathBuf> {
        volumeplan::is_ours(pv, &self.inner.config.node_name).map(PathBuf::from)
    }
}

impl Inner {
    pub(crate) fn root(&self) -> PathBuf {
        self.config.data_dir.join("volumes")
    }

    /// The volume at the path of a PersistentVolume. Objects are input: a path elsewhere is refused.
    pub(crate) fn volume(&self, path: &Path) -> Result<OnDisk, VolumeError> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let here = self.root().join(name) == path && is_name(name);
        if here && path.join("volume.img").is_file() {
            return Ok(OnDisk(path.to_owned()));
        }
        Err(VolumeError::NotOurs { path: path.to_owned() })
    }

    pub(crate) async fn lock(&self, path: &Path) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            // Those that nobody holds or waits for are of no more use.
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(path.to_owned()).or_default().clone()
        };
        lock.lock_owned().await
    }

    /// Makes a volume, or finds the one that was made before.
    pub(crate) fn make(&self, uid: &str, capacity: u64) -> Result<OnDisk, VolumeError> {
        let path = self.root().join(uid);
        if !is_name(uid) {
            return Err(VolumeError::NotOurs { path });
        }
        let volume = OnDisk(path);
        if volume.image().exists() {
            return Ok(volume);
        }
        let mut builder = fs::DirBuilder::new();
        builder.recursive(true).mode(0o711);
        builder.create(volume.users()).map_err(io(volume.0.display()))?;
        // Under its name only when it has its size.
        let new = volume.0.join("volume.new");
        let make = || -> std::io::Result<()> {
            let file = OpenOptions::new()
                .create(true)
                .truncate(true)
                .write(true)
                .mode(0o600)
                .open(&new)?;
            file.set_len(capacity)?;
            file.sync_all()?;
            fs::rename(&new, volume.image())?;
            File::open(&volume.0)?.sync_all()?;
            File::open(self.root())?.sync_all()
        };
        make().map_err(io(new.display()))?;
        Ok(volume)
    }

    /// Removes a volume and its data. Who uses it must have been asked before.
    pub(crate) fn remove(&self, path: &Path) -> Result<(), VolumeError> {
        match self.volume(path) {
            // First the name, so that what a crash leaves is no volume any more.
            Ok(volume) => fs::remove_file(volume.image()).map_err(io(volume.image().display()))?,
            Err(_) if path.parent() == Some(&self.root()) => {}
            Err(error) => return Err(error),
        }
        match fs::remove_dir_all(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path.display())(e)),
            _ => Ok(()),
        }
    }

    /// Bytes that can still be promised: what is free, less what volumes may still grow into.
    pub(crate) fn free(&self) -> Result<u64, VolumeError> {
        let root = self.root();
        let fs_info = rustix::fs::statvfs(&root).map_err(|e| io(root.display())(e.into()))?;
        let mut promised = 0u64;
        for entry in fs::read_dir(&root).map_err(io(root.display()))?.flatten() {
            if let Ok(meta) = fs::metadata(entry.path().join("volume.img")) {
                promised += meta.len().saturating_sub(meta.blocks() * 512);
            }
        }
        Ok((fs_info.f_bavail * fs_info.f_frsize).saturating_sub(promised))
    }

    /// Who uses a volume since this boot, with the targets.
    pub(crate) fn users(&self, volume: &OnDisk) -> Result<Vec<(User, PathBuf)>, VolumeError> {
        let directory = volume.users();
        let mut out = Vec::new();
        for entry in fs::read_dir(&directory).map_err(io(directory.display()))?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Some(pod_uid) = name.strip_suffix(".json") else {
                continue;
            };
            let path = entry.path();
            let bytes = fs::read(&path).map_err(io(path.display()))?;
            let record: Record = serde_json::from_slice(&bytes).map_err(|e| io(path.display())(e.into()))?;
            if record.version > VERSION {
                let why = std::io::Error::other("was written by a newer release");
                return Err(io(path.display())(why));
            }
            if record.boot_id == self.boot_id {
                let kind = match record.kind.as_str() {
                    "machine" => Use::Machine,
                    "block" => Use::Block,
                    _ => Use::Filesystem,
                };
                let pod_uid = pod_uid.to_owned();
                out.push((User { pod_uid, kind }, record.target));
            }
        }
        Ok(out)
    }

    /// Records a use, before it begins.
    pub(crate) fn record(&self, volume: &OnDisk, user: &User, target: &Path) -> Result<(), VolumeError> {
        let path = self.record_path(volume, &user.pod_uid)?;
        let record = Record {
            version: VERSION,
            kind: match user.kind {
                Use::Filesystem => "filesystem",
                Use::Block => "block",
                Use::Machine => "machine",
            }
            .to_owned(),
            target: target.to_owned(),
            boot_id: self.boot_id.clone(),
        };
        let write = || -> std::io::Result<()> {
            // No sync: after a reboot the record means nothing.
            let new = path.with_extension("new");
            File::create(&new)?.write_all(&serde_json::to_vec(&record)?)?;
            fs::rename(new, &path)
        };
        write().map_err(io(path.display()))
    }

    /// Removes the record of a use, after it has ended.
    pub(crate) fn forget(&self, volume: &OnDisk, pod_uid: &str) -> Result<(), VolumeError> {
        let path = self.record_path(volume, pod_uid)?;
        match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(io(path.display())(e)),
            _ => Ok(()),
        }
    }

    fn record_path(&self, volume: &OnDisk, pod_uid: &str) -> Result<PathBuf, VolumeError> {
        if !is_name(pod_uid) {
            return Err(VolumeError::NotOurs { path: pod_uid.into() });
        }
        Ok(volume.users().join(format!("{pod_uid}.json")))
    }
}

/// A volume's directory.
#[derive(Clone, Debug)]
pub(crate) struct OnDisk(pub PathBuf);

impl OnDisk {
    pub(crate) fn image(&self) -> PathBuf {
        self.0.join("volume.img")
    }

    pub(crate) fn users(&self) -> PathBuf {
        self.0.join("users")
    }

    /// Where its file system is mounted for all pods.
    pub(crate) fn staging(&self) -> PathBuf {
        self.0.join("mount")
    }

    /// There while the file system is being made: what is in the image is not worth keeping.
    pub(crate) fn formatting(&self) -> PathBuf {
        self.0.join("formatting")
    }

    pub(crate) fn name(&self) -> String {
        self.0.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// Names become paths: UIDs and nothing else.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
