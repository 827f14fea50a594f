//! Volumes in use: a pod's file system or block device, a machine's disk file.
//!
//! Every call can be repeated, and may follow a crash at any point of an
//! earlier one. The file of a volume has one kind of user at a time.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use rustix::fs::FlockOperation;
use volumeplan::{Use, User, admit};

use crate::store::{Inner, OnDisk, Volumes};
use crate::{VolumeError, io, tools};

/// How long the kernel may take to end a loop device whose mount has gone.
const LOOP_GOES: Duration = Duration::from_secs(2);

/// A use of a volume by a pod.
#[derive(Clone, Copy, Debug)]
pub struct Publication<'a> {
    /// `spec.local.path` of the PersistentVolume.
    pub volume: &'a Path,
    /// UID of the pod.
    pub pod_uid: &'a str,
    /// Whether the claim is ReadWriteOncePod.
    pub single: bool,
}

impl Volumes {
    /// Mounts a volume's file system at `target`, an existing directory. All pods of the node
    /// share one mount of it. An empty volume is formatted first.
    pub async fn mount(
        &self,
        p: Publication<'_>,
        target: &Path,
        read_only: bool,
        fs_group: Option<u32>,
    ) -> Result<(), VolumeError> {
        let inner = &self.inner;
        let _one = inner.lock(p.volume).await;
        let volume = inner.volume(p.volume)?;
        let new = inner.claim(&volume, &p, Use::Filesystem, target)?;
        let mounted = inner.mount_claimed(&volume, target, read_only, fs_group).await;
        inner.settle(&volume, &p, new, mounted)
    }

    /// Undoes [`Volumes::mount`]; the file system goes with its last user.
    pub async fn unmount(&self, volume: &Path, pod_uid: &str, target: &Path) -> Result<(), VolumeError> {
        let _one = self.inner.lock(volume).await;
        let Ok(volume) = self.inner.volume(volume) else {
            return Ok(());
        };
        let staging = volume.staging();
        let device = device_of(&staging)?;
        while device.is_some() && device_of(target)? == device {
            umount2(target, MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|e| io(format!("unmount {}", target.display()))(e.into()))?;
        }
        self.inner.forget(&volume, pod_uid)?;
        let others = tools::mounts()?;
        let others = others
            .iter()
            .filter(|m| Some(&m.device) == device.as_ref() && m.target != staging);
        if device.is_some() && others.count() == 0 {
            umount2(&staging, MntFlags::UMOUNT_NOFOLLOW)
                .map_err(|e| io(format!("unmount {}", staging.display()))(e.into()))?;
        }
        self.inner.freed.notify_one();
        Ok(())
    }

    /// The volume as a block device; all pods of the node share it.
    pub async fn attach_block(&self, p: Publication<'_>) -> Result<PathBuf, VolumeError> {
        let inner = &self.inner;
        let _one = inner.lock(p.volume).await;
        let volume = inner.volume(p.volume)?;
        let image = volume.image();
        let present = inner.users(&volume)?.iter().any(|(u, _)| u.kind == Use::Block);
        let new = inner.claim(&volume, &p, Use::Block, Path::new(""))?;
        let attached = async {
            if present && let Some(device) = tools::loops_of(&image).await?.into_iter().next() {
                return Ok(device);
            }
            inner.must_be_closed(&volume).await?;
            tools::attach_loop(&image).await
        };
        let attached = attached.await;
        inner.settle(&volume, &p, new, attached)
    }

    /// Undoes [`Volumes::attach_block`]; the device goes with its last user.
    pub async fn detach_block(&self, volume: &Path, pod_uid: &str) -> Result<(), VolumeError> {
        let _one = self.inner.lock(volume).await;
        let Ok(volume) = self.inner.volume(volume) else {
            return Ok(());
        };
        self.inner.forget(&volume, pod_uid)?;
        if self.inner.users(&volume)?.is_empty() && device_of(&volume.staging())?.is_none() {
            for device in tools::loops_of(&volume.image()).await? {
                tools::detach_loop(&device).await?;
            }
        }
        self.inner.freed.notify_one();
        Ok(())
    }

    /// The volume's own file, for a machine, which has it alone; QEMU locks it too.
    pub async fn attach_machine(&self, p: Publication<'_>) -> Result<PathBuf, VolumeError> {
        let inner = &self.inner;
        let _one = inner.lock(p.volume).await;
        let volume = inner.volume(p.volume)?;
        let new = inner.claim(&volume, &p, Use::Machine, Path::new(""))?;
        let closed = if new {
            inner.must_be_closed(&volume).await
        } else {
            Ok(())
        };
        inner.settle(&volume, &p, new, closed)?;
        Ok(volume.image())
    }

    /// Undoes [`Volumes::attach_machine`].
    pub async fn detach_machine(&self, volume: &Path, pod_uid: &str) -> Result<(), VolumeError> {
        let _one = self.inner.lock(volume).await;
        if let Ok(volume) = self.inner.volume(volume) {
            self.inner.forget(&volume, pod_uid)?;
            // QEMU's user was given the file; the next user may be a pod.
            let image = volume.image();
            std::os::unix::fs::chown(&image, Some(0), Some(0)).map_err(io(image.display()))?;
        }
        self.inner.freed.notify_one();
        Ok(())
    }
}

impl Inner {
    async fn mount_claimed(
        &self,
        volume: &OnDisk,
        target: &Path,
        read_only: bool,
        fs_group: Option<u32>,
    ) -> Result<(), VolumeError> {
        let staging = volume.staging();
        if device_of(&staging)?.is_none() {
            // Not ours, or left by an agent that died: then it has our records, and is unused.
            self.must_be_closed(volume).await?;
            stage(volume).await?;
        }
        if let Some(group) = fs_group
            && fs::metadata(&staging).map_err(io(staging.display()))?.gid() != group
        {
            tools::give_to_group(&staging, group).await?;
        }
        if device_of(target)? == device_of(&staging)? {
            return Ok(());
        }
        bind(&staging, target, read_only).map_err(io(format!("mount volume {} at {}", volume.name(), target.display())))
    }

    /// A use that did not come about must not keep others away.
    fn settle<T>(
        &self,
        volume: &OnDisk,
        p: &Publication<'_>,
        new: bool,
        result: Result<T, VolumeError>,
    ) -> Result<T, VolumeError> {
        if new && result.is_err() {
            self.forget(volume, p.pod_uid)?;
        }
        result
    }

    /// Admits a use and records it; whether it is a new one.
    fn claim(&self, volume: &OnDisk, p: &Publication<'_>, kind: Use, target: &Path) -> Result<bool, VolumeError> {
        let present: Vec<User> = self.users(volume)?.into_iter().map(|(u, _)| u).collect();
        let user = User {
            pod_uid: p.pod_uid.to_owned(),
            kind,
        };
        admit(&volume.name(), &present, &user, p.single)?;
        self.record(volume, &user, target)?;
        Ok(!present.contains(&user))
    }

    /// Whether nothing at all uses a volume: no record, mount, loop device or lock.
    pub(crate) async fn is_free(&self, volume: &OnDisk) -> Result<bool, VolumeError> {
        let unused = self.users(volume)?.is_empty() && device_of(&volume.staging())?.is_none();
        Ok(unused && self.must_be_closed(volume).await.is_ok())
    }

    /// Records may be lost with the data directory's past; the kernel knows who has the file.
    async fn must_be_closed(&self, volume: &OnDisk) -> Result<(), VolumeError> {
        let image = volume.image();
        let busy = |by: String| VolumeError::Busy {
            volume: volume.name(),
            by,
        };
        let deadline = tokio::time::Instant::now() + LOOP_GOES;
        while let Some(device) = tools::loops_of(&image).await?.first() {
            if tokio::time::Instant::now() > deadline {
                return Err(busy(device.display().to_string()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // QEMU holds read locks on bytes of the files it has open; a write lock on all conflicts.
        let file = File::options()
            .read(true)
            .write(true)
            .open(&image)
            .map_err(io(image.display()))?;
        match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(()),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => Err(busy("a virtual machine".into())),
            Err(e) => Err(io(image.display())(e.into())),
        }
    }
}

/// Formats or checks a volume, and mounts it for all pods.
async fn stage(volume: &OnDisk) -> Result<(), VolumeError> {
    let (image, staging) = (volume.image(), volume.staging());
    let content = content(&image).map_err(io(image.display()))?;
    match content {
        _ if volume.formatting().exists() => format(volume).await?,
        Content::Empty => format(volume).await?,
        Content::Ext4 => tools::check_filesystem(&image).await?,
        Content::Other => {
            return Err(VolumeError::Unmountable {
                volume: volume.name(),
                why: "holds data that is no ext4, such as a machine's disk: it is not mounted, lest it be destroyed; \
                      use it with a machine or make another claim"
                    .into(),
            });
        }
    }
    fs::create_dir_all(&staging).map_err(io(staging.display()))?;
    if smaller_than_file(&image).map_err(io(image.display()))? {
        tools::grow_unmounted(&image).await?;
    }
    tools::mount_image(&image, &staging).await
}

/// Whether an image's ext4 ends before the image does.
fn smaller_than_file(image: &Path) -> std::io::Result<bool> {
    let mut file = File::open(image)?;
    let mut superblock = [0u8; 32];
    file.seek(SeekFrom::Start(1024))?;
    file.read_exact(&mut superblock)?;
    let word = |at: usize| {
        u32::from_le_bytes([
            superblock[at],
            superblock[at + 1],
            superblock[at + 2],
            superblock[at + 3],
        ])
    };
    // s_blocks_count and s_log_block_size; sizes beyond 32 bits of blocks (16 TiB) grow when asked to.
    let block = 1024u64 << word(24).min(6);
    Ok(u64::from(word(4)) * block + block <= file.metadata()?.len())
}

async fn format(volume: &OnDisk) -> Result<(), VolumeError> {
    let mark = volume.formatting();
    File::create(&mark).map_err(io(mark.display()))?;
    tools::make_filesystem(&volume.image()).await?;
    fs::remove_file(&mark).map_err(io(mark.display()))
}

enum Content {
    Empty,
    Ext4,
    Other,
}

/// What is in an image. Empty is only what has no data at all.
fn content(image: &Path) -> std::io::Result<Content> {
    let mut file = File::open(image)?;
    let mut magic = [0u8; 2];
    file.seek(SeekFrom::Start(1024 + 56))?;
    file.read_exact(&mut magic)?;
    if magic == [0x53, 0xEF] {
        return Ok(Content::Ext4);
    }
    // The first data after the beginning: none in a file that nobody has written to.
    match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)) {
        Err(rustix::io::Errno::NXIO) => Ok(Content::Empty),
        Ok(_) => Ok(Content::Other),
        Err(e) => Err(e.into()),
    }
}

/// `major:minor` of what is mounted exactly at a path.
fn device_of(target: &Path) -> Result<Option<String>, VolumeError> {
    // The mount table has real paths.
    let Ok(real) = target.canonicalize() else {
        return Ok(None);
    };
    let mounts = tools::mounts()?;
    Ok(mounts.into_iter().rev().find(|m| m.target == real).map(|m| m.device))
}

fn bind(from: &Path, to: &Path, read_only: bool) -> std::io::Result<()> {
    let none: Option<&str> = None;
    mount(Some(from), to, none, MsFlags::MS_BIND, none)?;
    if read_only {
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        if let Err(e) = mount(none, to, none, flags, none) {
            // Writable is not what was asked for.
            umount2(to, MntFlags::MNT_DETACH)?;
            return Err(e.into());
        }
    }
    Ok(())
}
