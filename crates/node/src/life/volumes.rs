//! A pod's volumes: made before its containers, taken away after them.
//!
//! Every step can be repeated, and may follow a crash at any point of an
//! earlier one. Must not run containers.

mod content;
mod mounts;
pub(crate) mod subpath;
mod tokens;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use client::Client;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, Volume};
use kinds::resources::{CLAIMS, VOLUMES};
use meta::Object;
use runtime::{PodRuntime, PodVolumes, VolumeClaim, VolumeUse};
use serde_json::{Value, json};

use super::images::Images;
use crate::config::Config;
use crate::facts::Facts;

pub(crate) use mounts::{remove_tree, unmount_below};
pub(crate) use tokens::Tokens;

/// Version of `claims.json`.
const VERSION: u32 = 1;

/// Where a volume is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    /// Directory, file or device.
    pub path: PathBuf,
    /// Whether it is a block device.
    pub block: bool,
    /// Whether nobody may write.
    pub read_only: bool,
}

/// What the making of volumes came to.
#[derive(Debug, Default)]
pub(crate) struct Mounted {
    /// By name.
    pub places: BTreeMap<String, Place>,
    /// When tokens must be written again.
    pub refresh_at: Option<Timestamp>,
}

/// Makes and removes the volumes of one pod.
pub(crate) struct Volumes<'a> {
    pub config: &'a Config,
    pub client: &'a dyn Client,
    pub port: Option<&'a Arc<dyn PodVolumes>>,
    /// Mounts images and runs the pod.
    pub runtime: &'a Arc<dyn PodRuntime>,
    pub images: &'a Images,
    pub object: &'a Object,
    pub pod: &'a Pod,
    pub facts: &'a Facts<'a>,
    /// Whether the pod is a virtual machine: its claims are disks.
    pub machine: bool,
    pub tokens: &'a Tokens,
}

/// A problem with one volume, for people.
fn on(volume: &str) -> impl Fn(io::Error) -> String {
    move |e| format!("MountVolume.SetUp failed for volume \"{volume}\" : {e}")
}

impl Volumes<'_> {
    fn directory(&self) -> PathBuf {
        self.config.pod_dir(self.object.uid()).join("volumes")
    }

    fn claims_file(&self) -> PathBuf {
        self.config.pod_dir(self.object.uid()).join("claims.json")
    }

    fn fs_group(&self) -> Option<u32> {
        let context = self.pod.spec.as_ref()?.security_context.as_ref()?;
        u32::try_from(context.fs_group?).ok()
    }

    /// Makes all volumes, or writes those anew whose content may have changed.
    pub async fn mount(&self, now: Timestamp) -> Result<Mounted, String> {
        let root = self.directory();
        fs::create_dir_all(&root).map_err(|e| format!("make {}: {e}", root.display()))?;
        let mut mounted = Mounted::default();
        let volumes = || self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
        let mut claims = Vec::new();
        for volume in volumes().filter(|v| v.persistent_volume_claim.is_some() || v.ephemeral.is_some()) {
            claims.push((volume, self.claim(volume).await?));
        }
        if !claims.is_empty() {
            // Written down first: whatever happens next, it is known what to undo.
            let file = self.claims_file();
            self.remember(claims.iter().map(|(_, claim)| claim))
                .map_err(|e| format!("write {}: {e}", file.display()))?;
        }
        for (volume, claim) in &claims {
            let place = self.publish(volume, claim).await?;
            mounted.places.insert(volume.name.clone(), place);
        }
        for volume in volumes().filter(|v| v.persistent_volume_claim.is_none() && v.ephemeral.is_none()) {
            let place = self.make(volume, &root.join(&volume.name), now, &mut mounted).await?;
            mounted.places.insert(volume.name.clone(), place);
        }
        Ok(mounted)
    }

    async fn make(
        &self,
        volume: &Volume,
        directory: &Path,
        now: Timestamp,
        mounted: &mut Mounted,
    ) -> Result<Place, String> {
        let failed = on(&volume.name);
        let mut place = Place {
            path: directory.to_owned(),
            block: false,
            read_only: false,
        };
        if let Some(host) = &volume.host_path {
            place.path = mounts::host_path(&host.path, host.type_.as_deref().unwrap_or_default())?;
            return Ok(place);
        }
        if let Some(empty) = &volume.empty_dir {
            self.empty(empty, directory).map_err(&failed)?;
            return Ok(place);
        }
        fs::create_dir_all(directory).map_err(&failed)?;
        if let Some(image) = &volume.image {
            place.read_only = true;
            let there = mounts::mounts_below(directory).map_err(&failed)?;
            if there.iter().any(|m| m == directory) {
                return Ok(place);
            }
            let reference = image.reference.clone().unwrap_or_default();
            let policy = image.pull_policy.as_deref();
            let found = self
                .images
                .ensure(self.runtime, self.object, self.pod, &reference, policy, "");
            found.await.map_err(|f| f.message)?;
            let mount = self.runtime.mount_image(&reference, directory);
            mount.await.map_err(|e| failed(io::Error::other(e.to_string())))?;
        } else {
            let files = content::of(self, volume, now, &mut mounted.refresh_at).await?;
            super::files::write(directory, &files, self.fs_group(), now).map_err(&failed)?;
            place.read_only = true;
        }
        Ok(place)
    }

    /// An empty directory, made once: what the pod makes of it later stays.
    fn empty(&self, source: &EmptyDirVolumeSource, directory: &Path) -> io::Result<()> {
        if source.medium.as_deref() == Some("Memory") {
            fs::create_dir_all(directory)?;
            let limit = source.size_limit.as_ref().and_then(crate::pods::amount);
            if mounts::tmpfs(directory, limit.map(|q| q.value()))? {
                self.own(directory, 0o777)?;
            }
            return Ok(());
        }
        if directory.exists() {
            return Ok(());
        }
        // Seen only when it is complete, even if the agent ends in between.
        let fresh = directory.with_file_name(format!(
            "..new.{}",
            directory.file_name().unwrap_or_default().to_string_lossy()
        ));
        fs::create_dir_all(&fresh)?;
        self.own(&fresh, 0o777)?;
        fs::rename(fresh, directory)
    }

    fn own(&self, directory: &Path, mode: u32) -> io::Result<()> {
        let mut mode = mode;
        if let Some(group) = self.fs_group() {
            chown(directory, None, Some(group))?;
            mode |= 0o2770;
        }
        fs::set_permissions(directory, fs::Permissions::from_mode(mode))
    }

    /// The volume that a claim is bound to, and how the pod uses it.
    async fn claim(&self, volume: &Volume) -> Result<VolumeClaim, String> {
        let name = match &volume.persistent_volume_claim {
            Some(claim) => claim.claim_name.clone(),
            None => format!("{}-{}", self.object.name(), volume.name),
        };
        let claim = self.client.get(&CLAIMS, self.object.namespace(), &name).await;
        let claim =
            claim.map_err(|e| format!("error processing PVC {}/{name}: {}", self.object.namespace(), e.message))?;
        let value = claim.to_value();
        if value["status"]["phase"] != "Bound" {
            return Err(format!(
                "error processing PVC {}/{name}: PVC is not bound",
                self.object.namespace()
            ));
        }
        let pv = value["spec"]["volumeName"].as_str().unwrap_or_default();
        let pv = self.client.get(&VOLUMES, "", pv).await.map_err(|e| e.message)?;
        if pv.to_value()["spec"]["claimRef"]["uid"] != claim.uid() {
            let message = format!(
                "error processing PVC {}/{name}: PV {} is bound to another claim",
                self.object.namespace(),
                pv.name()
            );
            return Err(message);
        }
        let block = value["spec"]["volumeMode"] == "Block";
        let mounted_read_only = volume.persistent_volume_claim.as_ref().and_then(|c| c.read_only);
        let single = value["spec"]["accessModes"]
            .as_array()
            .is_some_and(|m| m.iter().any(|m| m == "ReadWriteOncePod"));
        let usage = match (self.machine, block) {
            (true, _) => VolumeUse::Machine,
            (false, true) => VolumeUse::Block,
            (false, false) => VolumeUse::Filesystem {
                target: self.directory().join(&volume.name),
                read_only: mounted_read_only.unwrap_or(false),
                fs_group: self.fs_group(),
            },
        };
        Ok(VolumeClaim {
            volume: pv,
            pod_uid: self.object.uid().to_owned(),
            single,
            usage,
        })
    }

    async fn publish(&self, volume: &Volume, claim: &VolumeClaim) -> Result<Place, String> {
        let failed = on(&volume.name);
        let port = self
            .port
            .ok_or_else(|| failed(io::Error::other("this node has no persistent volumes")))?;
        if let VolumeUse::Filesystem { target, .. } = &claim.usage {
            fs::create_dir_all(target).map_err(&failed)?;
        }
        let path = port
            .publish(claim)
            .await
            .map_err(|e| failed(io::Error::other(e.to_string())))?;
        let read_only = matches!(claim.usage, VolumeUse::Filesystem { read_only: true, .. });
        // A machine gets the file itself, also of a volume that others see as a device.
        let raw = claim.usage == VolumeUse::Machine && claim.volume.to_value()["spec"]["volumeMode"] == "Block";
        Ok(Place {
            block: claim.usage == VolumeUse::Block || raw || mounts::is_block(&path),
            path,
            read_only,
        })
    }

    fn remember<'c>(&self, claims: impl Iterator<Item = &'c VolumeClaim>) -> io::Result<()> {
        let list: Vec<Value> = claims.map(to_value).collect();
        let file = self.claims_file();
        let fresh = file.with_extension("new");
        fs::write(&fresh, json!({"version": VERSION, "claims": list}).to_string())?;
        fs::rename(fresh, file)
    }

    fn remembered(&self) -> Vec<VolumeClaim> {
        let text = fs::read(self.claims_file()).unwrap_or_default();
        let value: Value = serde_json::from_slice(&text).unwrap_or_default();
        let claims = value["claims"].as_array().into_iter().flatten();
        claims
            .filter_map(|v| from_value(v, self.object.uid(), &self.directory()))
            .collect()
    }

    /// Takes all volumes away, with what the pod left in those that were its own.
    pub async fn unmount(&self) -> Result<(), String> {
        // They hold the volumes that they are parts of.
        let parts = self.config.sub_paths(self.object.uid());
        let gone = unmount_below(&parts).and_then(|()| remove_tree(&parts));
        gone.map_err(|e| format!("unmount {}: {e}", parts.display()))?;
        for claim in self.remembered() {
            if let Some(port) = self.port {
                port.unpublish(&claim).await.map_err(|e| e.to_string())?;
            }
        }
        let root = self.directory();
        for volume in self.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
            if volume.image.is_some() {
                let target = root.join(&volume.name);
                self.runtime.unmount_image(&target).await.map_err(|e| e.to_string())?;
            }
        }
        unmount_below(&root).map_err(|e| format!("unmount {}: {e}", root.display()))?;
        remove_tree(&root).map_err(|e| format!("remove {}: {e}", root.display()))?;
        let _ = fs::remove_file(self.claims_file());
        Ok(())
    }
}

fn to_value(claim: &VolumeClaim) -> Value {
    let mut out = json!({"volume": claim.volume.to_value(), "single": claim.single});
    match &claim.usage {
        VolumeUse::Filesystem { target, .. } => {
            out["use"] = "Filesystem".into();
            out["name"] = target
                .file_name()
                .map(|n| n.to_string_lossy().into_owned())
                .unwrap_or_default()
                .into();
        }
        VolumeUse::Block => out["use"] = "Block".into(),
        VolumeUse::Machine => out["use"] = "Machine".into(),
    }
    out
}

fn from_value(value: &Value, pod_uid: &str, directory: &Path) -> Option<VolumeClaim> {
    let usage = match value["use"].as_str()? {
        "Block" => VolumeUse::Block,
        "Machine" => VolumeUse::Machine,
        _ => VolumeUse::Filesystem {
            target: directory.join(value["name"].as_str()?),
            read_only: false,
            fs_group: None,
        },
    };
    Some(VolumeClaim {
        volume: Arc::new(Object::from_value(value["volume"].clone()).ok()?),
        pod_uid: pod_uid.to_owned(),
        single: value["single"].as_bool().unwrap_or(false),
        usage,
    })
}
