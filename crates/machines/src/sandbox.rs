//! The sandbox of a machine: directory, network namespace, address, cgroup.
//!
//! The directory is written first and removed last, so that a crash at any point
//! leaves something that a list shows and a removal takes away.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use runtime::{ContainerStats, PodAddress, RuntimeError, SandboxConfig, SandboxStatus};
use sha2::{Digest, Sha256};

use crate::files::{MachineDir, SandboxFile};
use crate::pod_runtime::Inner;
use crate::{cgroup, failed, netns};

/// Label `kubevirt.io` of pods that bring a disk to a running machine.
const ATTACHMENT: &str = "hotplug-disk";
/// The same of pods that receive a machine's memory.
pub(crate) const DUMP: &str = "memory-dump";
/// Annotation of those: the name of the file.
pub(crate) const DUMP_FILE: &str = "machines.allmend.io/file";

/// Derived from pod and attempt, so that doing it again finds the same one; short, since the
/// paths of sockets end at 107 bytes.
fn id_of(pod_uid: &str, attempt: u32) -> String {
    let hash = Sha256::digest(format!("{pod_uid}/{attempt}"));
    let hex: String = hash.iter().take(8).map(|b| format!("{b:02x}")).collect();
    format!("vm-{hex}")
}

/// Whether an id is one of ours: ids become paths.
pub(crate) fn is_id(id: &str) -> bool {
    id.strip_prefix("vm-")
        .is_some_and(|h| h.len() == 16 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// Makes the sandbox, or finds it up.
pub(crate) async fn run(inner: &Inner, config: &SandboxConfig) -> Result<String, RuntimeError> {
    let label = config.pod.labels().get("kubevirt.io").map_or("", String::as_str);
    let attachment = matches!(label, ATTACHMENT | DUMP);
    if config.namespaces.host_network && !attachment {
        return Err(RuntimeError::Invalid {
            reason: "InvalidMachine".into(),
            message: format!("pod {}: a machine cannot use the host's network", config.pod.key()),
        });
    }
    let id = id_of(config.pod.uid(), config.attempt);
    let dir = inner.sandbox_dir(&id);
    check_length(&dir)?;
    if inner.sandbox(&id)?.is_some_and(|s| s.ready) {
        return Ok(id);
    }
    fs::create_dir_all(dir.path()).map_err(failed(dir.path().display()))?;
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).map_err(failed(dir.path().display()))?;
    let mut file = SandboxFile {
        pod_uid: config.pod.uid().to_owned(),
        pod_name: config.pod.name().to_owned(),
        pod_namespace: config.pod.namespace().to_owned(),
        attempt: config.attempt,
        created_at: crate::now(),
        boot_id: inner.boot_id.clone(),
        netns: inner.config.netns(&id),
        dns: config.dns.servers.clone(),
        search: config.dns.searches.clone(),
        log_directory: config.log_directory.clone(),
        labels: config.labels.clone(),
        annotations: config.annotations.clone(),
        instance: config.pod.controller().map(|o| o.uid.clone()).unwrap_or_default(),
        attachment,
        ..SandboxFile::default()
    };
    dir.write_sandbox(&file).map_err(failed("record the sandbox"))?;
    if attachment {
        // It runs nothing: neither network nor cgroup.
        inner.emit(&id, &file.pod_uid);
        return Ok(id);
    }
    match furnish(inner, config, &id, &mut file).await {
        Ok(()) => {
            inner.emit(&id, &file.pod_uid);
            Ok(id)
        }
        Err(error) => {
            if let Err(second) = remove(inner, &id).await {
                tracing::warn!(sandbox = id, error = %second, "cannot clean up a sandbox that failed");
            }
            Err(error)
        }
    }
}

async fn furnish(inner: &Inner, config: &SandboxConfig, id: &str, file: &mut SandboxFile) -> Result<(), RuntimeError> {
    let dir = inner.sandbox_dir(id);
    netns::create(&file.netns).map_err(failed("make the network namespace; machines need root"))?;
    let made = cgroup::create(&inner.hierarchy, &config.cgroup_parent, id).map_err(failed("make the cgroup"))?;
    (file.cgroups, file.made_cgroups) = (made.leaves, made.parents);
    dir.write_sandbox(file).map_err(failed("record the sandbox"))?;
    let address: PodAddress = inner.network.attach(id, &file.netns, &config.port_mappings).await?;
    (file.ip, file.mtu) = (address.ip.to_string(), address.mtu);
    dir.write_sandbox(file).map_err(failed("record the sandbox"))
}

fn check_length(dir: &MachineDir) -> Result<(), RuntimeError> {
    let longest = dir.join("00/run/serial.sock");
    let length = longest.as_os_str().len();
    if length <= 107 {
        return Ok(());
    }
    Err(RuntimeError::Invalid {
        reason: "InvalidDataDir".into(),
        message: format!(
            "{} has {length} bytes, sockets may have 107: choose a shorter --data-dir",
            longest.display()
        ),
    })
}

/// Stops the machine and gives the network back.
pub(crate) async fn stop(inner: &Inner, id: &str) -> Result<(), RuntimeError> {
    let dir = inner.sandbox_dir(id);
    if !is_id(id) || !dir.path().exists() {
        return Ok(());
    }
    for container in inner.container_ids(id)? {
        inner.stop(&container, Duration::ZERO).await?;
    }
    let found = dir.sandbox().map_err(failed("read sandbox.json"))?;
    let attachment = found.as_ref().is_some_and(|f| f.attachment);
    if !attachment {
        inner.network.detach(id).await?;
    }
    netns::remove(&inner.config.netns(id)).map_err(failed("remove the network namespace"))?;
    if let Some(mut file) = found
        && !file.stopped
    {
        file.stopped = true;
        dir.write_sandbox(&file).map_err(failed("record the sandbox"))?;
        inner.emit(id, &file.pod_uid);
    }
    Ok(())
}

/// Removes everything; the directory last.
pub(crate) async fn remove(inner: &Inner, id: &str) -> Result<(), RuntimeError> {
    stop(inner, id).await?;
    let dir = inner.sandbox_dir(id);
    if !is_id(id) || !dir.path().exists() {
        return Ok(());
    }
    for container in inner.container_ids(id)? {
        inner.remove(&container).await?;
    }
    let file = dir.sandbox().map_err(failed("read sandbox.json"))?.unwrap_or_default();
    cgroup::remove(&file.cgroups, &file.made_cgroups)
        .await
        .map_err(failed("remove the cgroup"))?;
    match fs::remove_dir_all(dir.path()) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed(dir.path().display())(e)),
        _ => {
            inner.emit(id, &file.pod_uid);
            Ok(())
        }
    }
}

impl Inner {
    pub(crate) fn sandbox_dir(&self, id: &str) -> MachineDir {
        MachineDir::new(self.config.machines().join(id))
    }

    /// Every sandbox. One that cannot be read is left out and named in the log: it must not
    /// hide the others.
    pub(crate) fn sandboxes(&self) -> Result<Vec<SandboxStatus>, RuntimeError> {
        let machines = self.config.machines();
        let mut out = Vec::new();
        for entry in fs::read_dir(&machines).map_err(failed(machines.display()))? {
            let name = entry.map_err(failed(machines.display()))?.file_name();
            let Some(id) = name.to_str().filter(|n| is_id(n)) else {
                continue;
            };
            match self.sandbox(id) {
                Ok(found) => out.extend(found),
                Err(error) => tracing::error!(sandbox = id, %error, "cannot read a machine's directory"),
            }
        }
        out.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(out)
    }

    pub(crate) fn sandbox(&self, id: &str) -> Result<Option<SandboxStatus>, RuntimeError> {
        if !is_id(id) {
            return Ok(None);
        }
        let dir = self.sandbox_dir(id);
        let Some(file) = dir.sandbox().map_err(failed(format!("sandbox {id}")))? else {
            return Ok(None);
        };
        let mut containers = Vec::new();
        for container in self.container_ids(id)? {
            containers.extend(self.container(&container, &file)?);
        }
        Ok(Some(SandboxStatus {
            id: id.to_owned(),
            ready: !file.stopped && (file.attachment || !file.ip.is_empty()) && file.boot_id == self.boot_id,
            ips: Some(file.ip).filter(|ip| !ip.is_empty()).into_iter().collect(),
            pod_uid: file.pod_uid,
            pod_name: file.pod_name,
            pod_namespace: file.pod_namespace,
            attempt: file.attempt,
            created_at: file.created_at,
            labels: file.labels,
            annotations: file.annotations,
            containers,
        }))
    }

    /// Ids of the containers of a sandbox, by attempt.
    pub(crate) fn container_ids(&self, sandbox_id: &str) -> Result<Vec<String>, RuntimeError> {
        let dir: PathBuf = self.sandbox_dir(sandbox_id).path().to_owned();
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(failed(dir.display())(e)),
        };
        let names = entries.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<u32>().ok());
        let mut attempts: Vec<u32> = names.collect();
        attempts.sort_unstable();
        Ok(attempts.into_iter().map(|a| format!("{sandbox_id}.{a}")).collect())
    }

    pub(crate) fn stats(&self) -> Result<Vec<ContainerStats>, RuntimeError> {
        let mut out = Vec::new();
        for sandbox in self.sandboxes()? {
            let running = |c: &&runtime::ContainerStatus| c.state == runtime::ContainerState::Running;
            let Some(container) = sandbox.containers.iter().find(running) else {
                continue;
            };
            let file = self.sandbox_dir(&sandbox.id).sandbox();
            let leaves = file.ok().flatten().unwrap_or_default().cgroups;
            let (cpu_usage, memory_working_set) = cgroup::usage(&leaves);
            out.push(ContainerStats {
                pod_uid: sandbox.pod_uid.clone(),
                name: container.name.clone(),
                timestamp: crate::now(),
                cpu_usage,
                memory_working_set,
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_stable_and_checked() {
        assert_eq!(id_of("u", 0), id_of("u", 0));
        assert_ne!(id_of("u", 0), id_of("u", 1));
        assert!(is_id(&id_of("u", 0)));
        assert!(!is_id("vm-../../etc/passwd0") && !is_id("") && !is_id("vm-"));
    }
}
