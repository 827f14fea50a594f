//! The steps of a plan, carried out. Each can be repeated after a crash.
//!
//! Must not remember anything: the worker does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{DeleteOptions, Preconditions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, LifecycleHandler, Pod};
use kinds::resources::PODS;
use meta::Object;
use reconcile::EventKind;
use runtime::{ContainerConfig, PodRuntime, RuntimeError, SandboxStatus};
use tokio_util::sync::CancellationToken;

use super::container::Parts;
use super::images::Images;
use super::volumes::{Mounted, Tokens, Volumes};
use super::{Shared, withdrawal};
use crate::facts::Facts;
use crate::plan::Step;
use crate::probe::Target;
use crate::{env, pods, sandbox};

/// Time that a container has to stop when its hook has used up the rest.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// Why a step was given up.
const GOING: &str = "the pod is being deleted";

/// A step that has ended.
pub(super) struct Done {
    pub step: Step,
    pub outcome: Outcome,
}

/// How it ended.
pub(super) enum Outcome {
    Ok,
    Mounted(Mounted),
    /// There is a new sandbox, with this id.
    Sandbox(String),
    Failed(Why),
}

/// Why a step failed.
pub(super) struct Why {
    /// CamelCase, as the status shows it.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// When to try again; the worker's own pauses if `None`.
    pub pause: Option<Duration>,
}

fn why(reason: &'static str, message: impl Into<String>) -> Why {
    Why {
        reason,
        message: message.into(),
        pause: None,
    }
}

/// What steps need.
pub(super) struct Steps {
    pub shared: Arc<Shared>,
    pub object: Arc<Object>,
    pub pod: Arc<Pod>,
    pub runtime: Arc<dyn PodRuntime>,
    pub machine: bool,
    /// The newest.
    pub sandbox: Option<SandboxStatus>,
    pub mounted: Arc<Mounted>,
    pub images: Arc<Images>,
    pub exists: bool,
    /// Ended when the pod must go.
    pub cancel: CancellationToken,
    pub tokens: Arc<Tokens>,
}

impl Steps {
    /// Carries a step out.
    pub async fn run(&self, step: &Step, now: Timestamp) -> Outcome {
        let result = match step {
            Step::Mount => return self.mount(now).await,
            Step::Unmount => {
                let facts = self.facts();
                self.volumes(&facts)
                    .unmount()
                    .await
                    .map_err(|e| why("FailedUnMount", e))
            }
            Step::RunSandbox { attempt } => return self.run_sandbox(*attempt).await,
            Step::Start { name, attempt, remove } => self.start(name, *attempt, remove).await,
            Step::Kill {
                name,
                id,
                grace,
                message,
            } => self.kill(name, id, *grace, message).await,
            Step::StopSandbox { id } => self
                .runtime
                .stop_sandbox(id)
                .await
                .map_err(|e| why("FailedKillPod", e.to_string())),
            Step::RemoveSandbox { id } => self
                .runtime
                .remove_sandbox(id)
                .await
                .map_err(|e| why("FailedKillPod", e.to_string())),
            Step::Finish => self.finish().await,
        };
        match result {
            Ok(()) => Outcome::Ok,
            Err(why) => Outcome::Failed(why),
        }
    }

    fn facts(&self) -> Facts<'_> {
        let host_network = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        let host_ip = self.shared.config.node_ip.to_string();
        let ips = self.sandbox.as_ref().map(|s| s.ips.clone()).unwrap_or_default();
        Facts {
            object: &self.object,
            pod: &self.pod,
            pod_ips: if host_network { vec![host_ip.clone()] } else { ips },
            host_ips: vec![host_ip],
            cpu: self.shared.capacity.0,
            memory: self.shared.capacity.1,
        }
    }

    fn volumes<'a>(&'a self, facts: &'a Facts<'a>) -> Volumes<'a> {
        Volumes {
            config: &self.shared.config,
            client: self.shared.client.as_ref(),
            port: self.shared.ports.volumes.as_ref(),
            runtime: &self.shared.ports.containers,
            images: &self.images,
            object: &self.object,
            pod: &self.pod,
            facts,
            // What receives a dump is a pod of the machine runtime, with files.
            machine: self.machine
                && self
                    .object
                    .labels()
                    .get("kubevirt.io")
                    .is_none_or(|l| l != "memory-dump"),
            tokens: &self.tokens,
        }
    }

    async fn mount(&self, now: Timestamp) -> Outcome {
        let facts = self.facts();
        let volumes = self.volumes(&facts);
        let mounted = tokio::select! {
            mounted = volumes.mount(now) => mounted,
            () = self.cancel.cancelled() => Err(GOING.into()),
        };
        match mounted {
            Ok(mounted) => Outcome::Mounted(mounted),
            Err(message) => Outcome::Failed(why("FailedMount", message)),
        }
    }

    async fn run_sandbox(&self, attempt: u32) -> Outcome {
        if self.machine && self.shared.ports.machines.is_none() {
            let message = "this node cannot run virtual machines; schedule the pod on another";
            return Outcome::Failed(why("FailedCreatePodSandBox", message));
        }
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let config = sandbox::config(&self.shared.config, &self.object, &self.pod, attempt, &resolv);
        if let Err(e) = std::fs::create_dir_all(&config.log_directory) {
            return Outcome::Failed(why(
                "FailedCreatePodSandBox",
                format!("make {}: {e}", config.log_directory.display()),
            ));
        }
        match self.runtime.run_sandbox(&config).await {
            Ok(id) => Outcome::Sandbox(id),
            Err(e) => Outcome::Failed(why("FailedCreatePodSandBox", e.to_string())),
        }
    }

    fn say(&self, name: &str, kind: EventKind, reason: &str, message: &str) {
        self.shared
            .events
            .say(&self.object, &self.field(name), kind, reason, message);
    }

    fn field(&self, name: &str) -> String {
        pods::field(&self.pod, name)
    }

    async fn start(&self, name: &str, attempt: u32, remove: &[String]) -> Result<(), Why> {
        let sandbox = self
            .sandbox
            .as_ref()
            .ok_or_else(|| why("CreateContainerError", "the pod has no sandbox"))?;
        let found = pods::all(&self.pod).find(|(c, _)| c.name == name);
        let (container, _) =
            found.ok_or_else(|| why("CreateContainerError", format!("the pod has no container {name}")))?;
        for id in remove {
            let removed = self.runtime.remove_container(id).await;
            removed.map_err(|e| why("CreateContainerError", e.to_string()))?;
        }
        let image_ref = tokio::select! {
            image = self.image(&container) => image?,
            () = self.cancel.cancelled() => return Err(why("ContainerCannotRun", GOING)),
        };
        let facts = self.facts();
        let config_error = |e: String| {
            self.say(name, EventKind::Warning, "Failed", &format!("Error: {e}"));
            why("CreateContainerConfigError", e)
        };
        let env = env::environment(self.shared.client.as_ref(), &self.shared.services, &facts, &container);
        let parts = Parts {
            config: &self.shared.config,
            object: &self.object,
            pod: &self.pod,
            container: &container,
            attempt,
            image_ref,
            places: &self.mounted.places,
            facts: &facts,
            env: env.await.map_err(config_error)?,
            target_id: self.target(name),
        };
        let config = parts.build().map_err(config_error)?;
        self.non_root(name, &config).await.map_err(config_error)?;
        if self.cancel.is_cancelled() {
            return Err(why("ContainerCannotRun", GOING));
        }
        let resolv = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        let sandbox_config = sandbox::config(&self.shared.config, &self.object, &self.pod, sandbox.attempt, &resolv);
        let created = self
            .runtime
            .create_container(&sandbox.id, &sandbox_config, &config)
            .await;
        let id = created.map_err(|e| {
            self.say(name, EventKind::Warning, "Failed", &format!("Error: {e}"));
            reason_of(&e, "CreateContainerError")
        })?;
        self.say(
            name,
            EventKind::Normal,
            "Created",
            &format!("Created container: {name}"),
        );
        self.runtime.start_container(&id).await.map_err(|e| {
            self.say(name, EventKind::Warning, "Failed", &format!("Error: {e}"));
            reason_of(&e, "RunContainerError")
        })?;
        self.say(name, EventKind::Normal, "Started", &format!("Started container {name}"));
        self.post_start(&container, &id).await
    }

    /// Refuses to run as root what must not.
    async fn non_root(&self, name: &str, config: &ContainerConfig) -> Result<(), String> {
        let security = &config.security_context;
        if security["runAsNonRoot"] != true {
            return Ok(());
        }
        let o = &self.object;
        let place = format!(
            "(pod: \"{}_{}({})\", container: {name})",
            o.name(),
            o.namespace(),
            o.uid()
        );
        match security["runAsUser"].as_i64() {
            Some(0) => return Err(format!("container's runAsUser breaks non-root policy {place}")),
            Some(_) => return Ok(()),
            None => {}
        }
        let image = self
            .runtime
            .image_status(&config.image)
            .await
            .map_err(|e| e.to_string())?;
        let image = image.unwrap_or_default();
        match (image.uid, image.username.as_str()) {
            (Some(0), _) | (None, "") => Err(format!("container has runAsNonRoot and image will run as root {place}")),
            (Some(_), _) => Ok(()),
            (None, user) => Err(format!(
                "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root {place}"
            )),
        }
    }

    async fn image(&self, c: &Container) -> Result<String, Why> {
        let image = c.image.clone().unwrap_or_default();
        let field = self.field(&c.name);
        let policy = c.image_pull_policy.as_deref();
        let found = self
            .images
            .ensure(&self.runtime, &self.object, &self.pod, &image, policy, &field);
        found.await.map_err(|n| Why {
            reason: n.reason,
            message: n.message,
            pause: Some(n.pause),
        })
    }

    /// The container whose processes an ephemeral container shall see.
    fn target(&self, name: &str) -> String {
        let ephemeral = self
            .pod
            .spec
            .iter()
            .flat_map(|s| s.ephemeral_containers.iter().flatten());
        let wanted = ephemeral
            .filter(|e| e.name == name)
            .find_map(|e| e.target_container_name.clone());
        let wanted = wanted.filter(|w| !w.is_empty());
        let sandboxes: Vec<SandboxStatus> = self.sandbox.iter().cloned().collect();
        wanted
            .and_then(|w| crate::plan::latest(&sandboxes, &w).map(|c| c.id.clone()))
            .unwrap_or_default()
    }

    async fn post_start(&self, c: &Container, id: &str) -> Result<(), Why> {
        let Some(hook) = c.lifecycle.as_ref().and_then(|l| l.post_start.as_ref()) else {
            return Ok(());
        };
        let ran = tokio::select! {
            ran = self.hook(hook, c, id, Duration::from_secs(3600)) => ran,
            () = self.cancel.cancelled() => Ok(()),
        };
        let Err(message) = ran else {
            return Ok(());
        };
        self.say(&c.name, EventKind::Warning, "FailedPostStartHook", &message);
        self.say(&c.name, EventKind::Normal, "Killing", "FailedPostStartHook");
        let grace = Duration::from_secs(u64::try_from(pods::grace(&self.pod)).unwrap_or(0));
        let _ = self.runtime.stop_container(id, grace).await;
        Err(why("PostStartHookError", message))
    }

    async fn hook(&self, hook: &LifecycleHandler, c: &Container, id: &str, limit: Duration) -> Result<(), String> {
        if let Some(exec) = &hook.exec {
            let command = exec.command.clone().unwrap_or_default();
            let ran = self
                .runtime
                .exec_sync(id, &command, limit)
                .await
                .map_err(|e| e.to_string())?;
            return match ran.exit_code {
                0 => Ok(()),
                code => Err(format!(
                    "command '{}' exited with {code}: {}",
                    command.join(" "),
                    String::from_utf8_lossy(&ran.stderr)
                )),
            };
        }
        if let Some(sleep) = &hook.sleep {
            tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0)).min(limit)).await;
            return Ok(());
        }
        if let Some(get) = &hook.http_get {
            return crate::probe::get_once(get, c, &self.target_of(c, id), limit).await;
        }
        Ok(())
    }

    fn target_of(&self, c: &Container, id: &str) -> Target {
        super::target(c, id, self.own_ip(), &self.shared.config, &self.runtime)
    }

    /// The pod's own address; `None` with the host's network.
    fn own_ip(&self) -> Option<&String> {
        let host = self.pod.spec.as_ref().and_then(|s| s.host_network) == Some(true);
        self.sandbox.as_ref()?.ips.first().filter(|_| !host)
    }

    async fn kill(&self, name: &str, id: &str, grace: i64, message: &str) -> Result<(), Why> {
        self.say(name, EventKind::Normal, "Killing", message);
        let grace = Duration::from_secs(u64::try_from(grace).unwrap_or(0));
        let begun = Instant::now();
        let going = self.pod.metadata.deletion_timestamp.is_some() && self.exists;
        if going && !grace.is_zero() {
            withdrawal::endpoint_left(&self.shared, &self.object, self.own_ip()).await;
        }
        let container = pods::all(&self.pod).find(|(c, _)| c.name == name).map(|(c, _)| c);
        let hook = container.as_ref().and_then(|c| c.lifecycle.as_ref()?.pre_stop.clone());
        if let (Some(hook), Some(container), false) = (hook, container, grace.is_zero()) {
            let ran = tokio::time::timeout(grace, self.hook(&hook, &container, id, grace)).await;
            let failed =
                ran.unwrap_or_else(|_| Err(format!("preStop hook did not complete in {} seconds", grace.as_secs())));
            if let Err(message) = failed {
                self.say(name, EventKind::Warning, "FailedPreStopHook", &message);
            }
        }
        let left = if grace.is_zero() {
            grace
        } else {
            grace.saturating_sub(begun.elapsed()).max(LEAST_GRACE)
        };
        match self.runtime.stop_container(id, left).await {
            Ok(()) | Err(RuntimeError::NotFound(_)) => Ok(()),
            Err(e) => Err(why("FailedKillPod", format!("error killing pod: {e}"))),
        }
    }

    /// Deletes the API object for good.
    async fn finish(&self) -> Result<(), Why> {
        let options = DeleteOptions {
            grace_period_seconds: Some(0),
            preconditions: Preconditions {
                uid: self.object.uid().to_owned(),
                ..Preconditions::default()
            },
            ..DeleteOptions::default()
        };
        let (namespace, name) = (self.object.namespace(), self.object.name());
        match self.shared.client.delete(&PODS, namespace, name, &options).await {
            Ok(_) => Ok(()),
            Err(e) if e.is_not_found() || e.is_conflict() => Ok(()),
            Err(e) => Err(why("FailedDelete", e.message)),
        }
    }
}

/// A runtime's own reason, where it gives one.
fn reason_of(error: &RuntimeError, otherwise: &'static str) -> Why {
    let reason = match error {
        RuntimeError::Invalid { reason, .. } if reason == "FailedMount" => "FailedMount",
        RuntimeError::Invalid { reason, .. } if reason == "ErrImagePull" => "ErrImagePull",
        _ => otherwise,
    };
    why(reason, error.to_string())
}
