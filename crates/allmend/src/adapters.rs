//! Fits agents to the ports of others: they know the ports, not each other.
//!
//! Must not hold logic beyond translation.

use std::path::PathBuf;
use std::time::Duration;

use async_trait::async_trait;
use machines::MachineRuntime;
use meta::Object;
use node::MachineControl;
use runtime::{PodVolumes, RuntimeError, VolumeClaim, VolumeUse};
use serde_json::Value;
use volumes::{Publication, VolumeError, Volumes};

/// Persistent volumes: our own, and those that are a path of this host.
pub struct VolumePort(pub Volumes);

enum Source {
    Ours(PathBuf),
    Path(PathBuf),
}

fn failed(error: VolumeError) -> RuntimeError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    RuntimeError::Failed(text)
}

impl VolumePort {
    fn source(&self, volume: &Object) -> Result<Source, RuntimeError> {
        let value = volume.to_value();
        if let Some(path) = self.0.path_of(&value) {
            return Ok(Source::Ours(path));
        }
        let spec = &value["spec"];
        let path = spec["local"]["path"]
            .as_str()
            .or_else(|| spec["hostPath"]["path"].as_str());
        match path {
            Some(path) => Ok(Source::Path(path.into())),
            None => Err(RuntimeError::Unsupported(format!(
                "PersistentVolume {}: a volume that is neither ours, local nor hostPath",
                volume.name()
            ))),
        }
    }
}

#[async_trait]
impl PodVolumes for VolumePort {
    async fn publish(&self, claim: &VolumeClaim) -> Result<PathBuf, RuntimeError> {
        let path = match self.source(&claim.volume)? {
            Source::Ours(path) => path,
            Source::Path(path) => return Ok(path),
        };
        let publication = Publication {
            volume: &path,
            pod_uid: &claim.pod_uid,
            single: claim.single,
        };
        match &claim.usage {
            VolumeUse::Filesystem {
                target,
                read_only,
                fs_group,
            } => {
                let mounted = self.0.mount(publication, target, *read_only, *fs_group).await;
                mounted.map(|()| target.clone()).map_err(failed)
            }
            VolumeUse::Block => self.0.attach_block(publication).await.map_err(failed),
            VolumeUse::Machine => self.0.attach_machine(publication).await.map_err(failed),
        }
    }

    async fn unpublish(&self, claim: &VolumeClaim) -> Result<(), RuntimeError> {
        let Ok(Source::Ours(path)) = self.source(&claim.volume) else {
            return Ok(());
        };
        let done = match &claim.usage {
            VolumeUse::Filesystem { target, .. } => self.0.unmount(&path, &claim.pod_uid, target).await,
            VolumeUse::Block => self.0.detach_block(&path, &claim.pod_uid).await,
            VolumeUse::Machine => self.0.detach_machine(&path, &claim.pod_uid).await,
        };
        done.map_err(failed)
    }
}

/// What reaches into running machines.
pub struct MachinePort(pub MachineRuntime);

#[async_trait]
impl MachineControl for MachinePort {
    async fn pause(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.0.pause(container_id).await
    }

    async fn unpause(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.0.unpause(container_id).await
    }

    async fn reset(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.0.reset(container_id).await
    }

    async fn soft_reboot(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.0.soft_reboot(container_id).await
    }

    async fn guest_info(&self, container_id: &str, what: &str) -> Result<Value, RuntimeError> {
        self.0.guest_info(container_id, what).await
    }

    async fn freeze(&self, container_id: &str, at_most: Duration) -> Result<(), RuntimeError> {
        self.0.freeze(container_id, at_most).await
    }

    async fn unfreeze(&self, container_id: &str) -> Result<(), RuntimeError> {
        self.0.unfreeze(container_id).await
    }

    async fn screenshot(&self, container_id: &str) -> Result<Vec<u8>, RuntimeError> {
        self.0.screenshot(container_id).await
    }
}
