//! containerd's `config.toml` as a value.
//!
//! Must not touch the host: `supervisor` writes what this renders.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// How our own containerd is set up.
#[derive(Clone, Debug)]
pub struct ContainerdConfig {
    /// The program; `containerd` is searched in `PATH`.
    pub program: PathBuf,
    /// `ctr`, used to import and to mount images.
    pub ctr: PathBuf,
    /// What must survive a reboot: images and snapshots.
    pub root: PathBuf,
    /// What need not survive a reboot: sockets and bundles of running containers.
    pub state: PathBuf,
    /// Image of the pause container, which must be present or pullable.
    pub sandbox_image: String,
    /// Where CNI plugins are.
    pub cni_bin_dir: PathBuf,
    /// Where the CNI network is described.
    pub cni_conf_dir: PathBuf,
    /// Directory of `<registry>/hosts.toml`.
    pub registry_dir: PathBuf,
    /// Without CAP_SYS_RESOURCE `oom_score_adj` cannot be lowered, and runc fails when asked to.
    pub restrict_oom_score_adj: bool,
    /// Snapshotter.
    pub snapshotter: String,
}

/// Plugins that a node does not need; those of absent file systems would only print warnings,
/// `opt` would write to `/opt/containerd`.
const DISABLED: &[&str] = &[
    "io.containerd.internal.v1.opt",
    "io.containerd.internal.v1.restart",
    "io.containerd.internal.v1.tracing",
    "io.containerd.snapshotter.v1.aufs",
    "io.containerd.snapshotter.v1.btrfs",
    "io.containerd.snapshotter.v1.devmapper",
    "io.containerd.snapshotter.v1.zfs",
    "io.containerd.tracing.processor.v1.otlp",
];

impl ContainerdConfig {
    /// An instance whose files are all under `data_dir`.
    pub fn new(data_dir: &Path) -> Self {
        ContainerdConfig {
            program: "containerd".into(),
            ctr: "ctr".into(),
            root: data_dir.join("containerd"),
            state: data_dir.join("run/containerd"),
            sandbox_image: "allmend.local/pause:1".into(),
            cni_bin_dir: data_dir.join("cni/bin"),
            cni_conf_dir: data_dir.join("cni/net.d"),
            registry_dir: data_dir.join("registries"),
            restrict_oom_score_adj: true,
            snapshotter: "overlayfs".into(),
        }
    }

    /// The gRPC socket.
    pub fn socket(&self) -> PathBuf {
        self.state.join("containerd.sock")
    }

    /// Everything the instance prints.
    pub fn log(&self) -> PathBuf {
        self.root.join("containerd.log")
    }

    /// The file.
    pub fn render(&self) -> String {
        let config = self.value();
        // A tree of strings, numbers and booleans always has a TOML form.
        toml::to_string(&config).unwrap_or_default()
    }

    fn value(&self) -> Value {
        let runc = json!({"runtime_type": "io.containerd.runc.v2", "options": {"SystemdCgroup": false}});
        let cri = json!({
            "sandbox_image": self.sandbox_image,
            "restrict_oom_score_adj": self.restrict_oom_score_adj,
            "disable_tcp_service": true,
            "stream_server_address": "127.0.0.1",
            "stream_server_port": "0",
            "stream_idle_timeout": "4h0m0s",
            "enable_unprivileged_ports": true,
            "enable_unprivileged_icmp": true,
            "max_container_log_line_size": 16384,
            "tolerate_missing_hugetlb_controller": true,
            "disable_hugetlb_controller": true,
            "cni": {"bin_dir": self.cni_bin_dir, "conf_dir": self.cni_conf_dir, "max_conf_num": 1},
            "containerd": {
                "snapshotter": self.snapshotter,
                "default_runtime_name": "runc",
                "runtimes": {"runc": runc},
            },
            "registry": {"config_path": self.registry_dir},
        });
        json!({
            "version": 2,
            "root": self.root,
            "state": self.state,
            "oom_score": 0,
            "disabled_plugins": DISABLED,
            "grpc": {"address": self.socket(), "max_recv_message_size": 16777216, "max_send_message_size": 16777216},
            "plugins": {"io.containerd.grpc.v1.cri": cri},
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_is_under_the_data_directory() {
        let text = ContainerdConfig::new(Path::new("/d")).render();
        let parsed: toml::Value = toml::from_str(&text).unwrap();
        assert_eq!(parsed["root"].as_str(), Some("/d/containerd"));
        assert_eq!(parsed["grpc"]["address"].as_str(), Some("/d/run/containerd/containerd.sock"));
        let cri = &parsed["plugins"]["io.containerd.grpc.v1.cri"];
        assert_eq!(cri["restrict_oom_score_adj"].as_bool(), Some(true));
        assert_eq!(cri["stream_server_address"].as_str(), Some("127.0.0.1"));
        assert_eq!(
            cri["containerd"]["runtimes"]["runc"]["options"]["SystemdCgroup"].as_bool(),
            Some(false)
        );
        assert_eq!(cri["cni"]["conf_dir"].as_str(), Some("/d/cni/net.d"));
    }
}
