//! A container's spec to what the runtime is to make of it.
//!
//! Must not start anything; writes only the files that it mounts.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use meta::Object;
use runtime::{ContainerConfig, Device, Mount};
use serde_json::{Value, json};

use super::volumes::{Place, subpath};
use crate::config::Config;
use crate::env::Env;
use crate::facts::{self, Facts};
use crate::{pods, sandbox};

/// Where a container may leave its last words.
const TERMINATION_LOG: &str = "/dev/termination-log";
const HOSTS: &str = "/etc/hosts";

/// All that goes into a container.
pub(crate) struct Parts<'a> {
    pub config: &'a Config,
    pub object: &'a Object,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub attempt: u32,
    pub image_ref: String,
    pub places: &'a BTreeMap<String, Place>,
    pub facts: &'a Facts<'a>,
    /// Its variables, resolved.
    pub env: Env,
    /// Container whose processes an ephemeral one looks at.
    pub target_id: String,
}

/// The file in which a container's last words are found.
pub(crate) fn last_words(config: &Config, uid: &str, name: &str, attempt: u32) -> PathBuf {
    config
        .pod_dir(uid)
        .join("containers")
        .join(name)
        .join(attempt.to_string())
}

impl Parts<'_> {
    /// The container. The error is for people.
    pub fn build(&self) -> Result<ContainerConfig, String> {
        let c = self.container;
        let env = self.env.clone();
        let known: BTreeMap<&str, &str> = env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expand = |words: &Option<Vec<String>>| {
            let words = words.iter().flatten();
            words
                .map(|w| facts::expand(w, &|n| known.get(n).map(|v| (*v).to_owned())))
                .collect::<Vec<_>>()
        };
        let (mut mounts, devices) = (self.mounts(&known)?, self.devices()?);
        self.own_files(&mut mounts)
            .map_err(|e| format!("write the container's own files: {e}"))?;
        let mut labels = sandbox::labels(self.object);
        labels.insert("io.kubernetes.container.name".into(), c.name.clone());
        Ok(ContainerConfig {
            name: c.name.clone(),
            attempt: self.attempt,
            image: c.image.clone().unwrap_or_default(),
            image_ref: self.image_ref.clone(),
            command: expand(&c.command),
            args: expand(&c.args),
            working_dir: c.working_dir.clone().unwrap_or_default(),
            env,
            mounts,
            devices,
            log_path: format!("{}/{}.log", c.name, self.attempt),
            stdin: c.stdin.unwrap_or(false),
            stdin_once: c.stdin_once.unwrap_or(false),
            tty: c.tty.unwrap_or(false),
            resources: pods::resources(self.pod, c, self.facts.memory),
            security_context: self.security(),
            stop_signal: c
                .lifecycle
                .as_ref()
                .and_then(|l| l.stop_signal.clone())
                .unwrap_or_default(),
            target_id: self.target_id.clone(),
            annotations: BTreeMap::from([
                (
                    "io.kubernetes.container.restartCount".to_owned(),
                    self.attempt.to_string(),
                ),
                (
                    "io.kubernetes.container.terminationMessagePath".to_owned(),
                    self.words_path(),
                ),
            ]),
            labels,
        })
    }

    fn words_path(&self) -> String {
        let own = self
            .container
            .termination_message_path
            .clone()
            .filter(|p| !p.is_empty());
        own.unwrap_or_else(|| TERMINATION_LOG.into())
    }

    /// The pod's security context, overridden by the container's.
    fn security(&self) -> Value {
        let pod = self.pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
        let mut out = pod
            .and_then(|c| serde_json::to_value(c).ok())
            .unwrap_or_else(|| json!({}));
        let own = self
            .container
            .security_context
            .as_ref()
            .and_then(|c| serde_json::to_value(c).ok());
        for (k, v) in own.as_ref().and_then(Value::as_object).into_iter().flatten() {
            out[k] = v.clone();
        }
        // A group of files is, to processes, one more group.
        if let Some(group) = out["fsGroup"].as_i64() {
            let mut groups = out["supplementalGroups"].as_array().cloned().unwrap_or_default();
            groups.push(group.into());
            out["supplementalGroups"] = groups.into();
        }
        out
    }

    fn mounts(&self, env: &BTreeMap<&str, &str>) -> Result<Vec<Mount>, String> {
        let mut out = Vec::new();
        for (index, m) in self.container.volume_mounts.iter().flatten().enumerate() {
            let place = self.places.get(&m.name);
            let place =
                place.ok_or_else(|| format!("volume {:?} of the mount at {} is not there", m.name, m.mount_path))?;
            out.push(Mount {
                host_path: self.host_path((index, m), place, env)?,
                container_path: m.mount_path.clone(),
                read_only: m.read_only.unwrap_or(false) || place.read_only,
                propagation: m.mount_propagation.clone().unwrap_or_default(),
            });
        }
        Ok(out)
    }

    fn host_path(
        &self,
        (index, m): (usize, &VolumeMount),
        place: &Place,
        env: &BTreeMap<&str, &str>,
    ) -> Result<PathBuf, String> {
        let sub = match (&m.sub_path, &m.sub_path_expr) {
            (Some(path), _) if !path.is_empty() => path.clone(),
            (_, Some(text)) if !text.is_empty() => facts::expand(text, &|n| env.get(n).map(|v| (*v).to_owned())),
            _ => return Ok(place.path.clone()),
        };
        let name = format!("{}-{}-{index}", self.container.name, self.attempt);
        let at = self.config.sub_paths(self.object.uid()).join(&m.name).join(name);
        subpath::bind(&place.path, &sub, &at).map_err(|e| {
            format!(
                "failed to prepare subPath for volumeMount \"{}\" of container \"{}\": {e}",
                m.name, self.container.name
            )
        })?;
        Ok(at)
    }

    fn devices(&self) -> Result<Vec<Device>, String> {
        let devices = self.container.volume_devices.iter().flatten().map(|d| {
            let place = self.places.get(&d.name).filter(|p| p.block);
            let place = place.ok_or_else(|| format!("volume {:?} is not a block device", d.name))?;
            Ok(Device {
                host_path: place.path.clone(),
                container_path: d.device_path.clone(),
                permissions: if place.read_only { "r" } else { "rwm" }.into(),
            })
        });
        devices.collect()
    }

    /// `/etc/hosts`, and the file for last words.
    fn own_files(&self, mounts: &mut Vec<Mount>) -> io::Result<()> {
        let taken = |mounts: &[Mount], path: &str| mounts.iter().any(|m| m.container_path == path);
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        if !host_network && !taken(mounts, HOSTS) {
            let file = self.config.pod_dir(self.object.uid()).join("etc-hosts");
            let text = hosts(self.config, self.object, self.pod, &self.facts.pod_ips);
            if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
                fs::write(&file, text)?;
                fs::set_permissions(&file, fs::Permissions::from_mode(0o644))?;
            }
            mounts.push(Mount {
                host_path: file,
                container_path: HOSTS.into(),
                ..Mount::default()
            });
        }
        let words = last_words(self.config, self.object.uid(), &self.container.name, self.attempt);
        if let Some(parent) = words.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&words, b"")?;
        // Whoever the container runs as must be able to write.
        fs::set_permissions(&words, fs::Permissions::from_mode(0o666))?;
        if !taken(mounts, &self.words_path()) {
            mounts.push(Mount {
                host_path: words,
                container_path: self.words_path(),
                ..Mount::default()
            });
        }
        Ok(())
    }
}

/// The content of `/etc/hosts`.
fn hosts(config: &Config, object: &Object, pod: &Pod, ips: &[String]) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    let spec = pod.spec.clone().unwrap_or_default();
    let short = sandbox::short_name(object, &spec);
    let names = match sandbox::full_name(config, object, &spec) {
        Some(full) => format!("{full}\t{short}"),
        None => short,
    };
    for ip in ips {
        out += &format!("{ip}\t{names}\n");
    }
    for alias in spec.host_aliases.iter().flatten() {
        let names = alias.hostnames.clone().unwrap_or_default().join("\t");
        out += &format!("{}\t{names}\n", alias.ip);
    }
    out
}
