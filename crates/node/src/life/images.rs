//! Images of one pod's containers: present, pulled, or why not.
//!
//! Must not decide when to try again after a failure: it says so, the plan waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use client::Client;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::SECRETS;
use meta::Object;
use reconcile::EventKind;
use runtime::{PodRuntime, RegistryAuth, RuntimeError};
use serde_json::Value;

use super::events::Events;

/// First pause after a failed pull.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
/// Longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Why there is no image.
#[derive(Clone, Debug)]
pub(crate) struct NoImage {
    /// Such as `ErrImagePull`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// How long to wait before asking again.
    pub pause: Duration,
}

/// The images of one pod.
pub(crate) struct Images {
    client: Arc<dyn Client>,
    events: Events,
    failures: Mutex<HashMap<String, Failure>>,
}

#[derive(Clone)]
struct Failure {
    pause: Duration,
    until: Instant,
    message: String,
}

impl Images {
    /// None failed so far.
    pub fn new(client: Arc<dyn Client>, events: Events) -> Self {
        Images {
            client,
            events,
            failures: Mutex::default(),
        }
    }

    /// Makes an image present by policy. Gives what the runtime calls it.
    pub async fn ensure(
        &self,
        runtime: &Arc<dyn PodRuntime>,
        object: &Object,
        pod: &Pod,
        image: &str,
        policy: Option<&str>,
        field: &str,
    ) -> Result<String, NoImage> {
        let policy = policy.unwrap_or_else(|| default_policy(image));
        if image.is_empty() {
            return Err(invalid(image));
        }
        if policy != "Always"
            && let Ok(Some(found)) = runtime.image_status(image).await
        {
            let message = format!("Container image \"{image}\" already present on machine");
            self.events.say(object, field, EventKind::Normal, "Pulled", &message);
            return Ok(found.id);
        }
        if policy == "Never" {
            let message = format!("Container image \"{image}\" is not present with pull policy of Never");
            self.events
                .say(object, field, EventKind::Warning, "ErrImageNeverPull", &message);
            return Err(NoImage {
                reason: "ErrImageNeverPull",
                message,
                pause: FIRST_PAUSE,
            });
        }
        if let Some(failure) = self.failure(image)
            && failure.until > Instant::now()
        {
            let message = format!("Back-off pulling image \"{image}\"");
            self.events.say(object, field, EventKind::Normal, "BackOff", &message);
            return Err(NoImage {
                reason: "ImagePullBackOff",
                message: format!("{message}: ErrImagePull: {}", failure.message),
                pause: failure.until.saturating_duration_since(Instant::now()),
            });
        }
        self.pull(runtime, object, pod, image, field).await
    }

    async fn pull(
        &self,
        runtime: &Arc<dyn PodRuntime>,
        object: &Object,
        pod: &Pod,
        image: &str,
        field: &str,
    ) -> Result<String, NoImage> {
        let say = |kind, reason, message: &str| self.events.say(object, field, kind, reason, message);
        say(EventKind::Normal, "Pulling", &format!("Pulling image \"{image}\""));
        let begun = Instant::now();
        let mut pulled = None;
        for auth in self.credentials(object, pod, image).await {
            let result = runtime.pull_image(image, auth.as_ref()).await;
            let done = result.is_ok();
            pulled = Some(result);
            if done {
                break;
            }
        }
        match pulled.unwrap_or_else(|| Err(RuntimeError::Failed("no pull was tried".into()))) {
            Ok(id) => {
                self.lock().remove(image);
                let seconds = begun.elapsed().as_secs_f64();
                let message = format!("Successfully pulled image \"{image}\" in {seconds:.3}s");
                say(EventKind::Normal, "Pulled", &message);
                Ok(id)
            }
            Err(error) => {
                let text = error.to_string();
                say(
                    EventKind::Warning,
                    "Failed",
                    &format!("Failed to pull image \"{image}\": {text}"),
                );
                say(EventKind::Warning, "Failed", "Error: ErrImagePull");
                if text.contains("invalid reference format") {
                    return Err(invalid(image));
                }
                let old = self.failure(image).map(|f| f.pause);
                let pause = old.map_or(FIRST_PAUSE, |p| (p * 2).min(LONGEST_PAUSE));
                let failure = Failure {
                    pause,
                    until: Instant::now() + pause,
                    message: text.clone(),
                };
                self.lock().insert(image.to_owned(), failure);
                Err(NoImage {
                    reason: "ErrImagePull",
                    message: text,
                    // Asked again soon, it is told that pulling is backed off.
                    pause: Duration::from_secs(1),
                })
            }
        }
    }

    fn failure(&self, image: &str) -> Option<Failure> {
        self.lock().get(image).cloned()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Failure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What to try in turn: every secret that is meant for the registry; nothing, if there is none.
    async fn credentials(&self, object: &Object, pod: &Pod, image: &str) -> Vec<Option<RegistryAuth>> {
        let mut out = Vec::new();
        for reference in pod.spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
            let Ok(secret) = self.client.get(&SECRETS, object.namespace(), &reference.name).await else {
                continue;
            };
            out.extend(from_secret(&secret.to_value(), image).map(Some));
        }
        if out.is_empty() {
            out.push(None);
        }
        out
    }
}

/// A tag that may move is asked for each time.
fn default_policy(image: &str) -> &'static str {
    let last = image.rsplit('/').next().unwrap_or(image);
    let tagged = last.contains('@') || last.split_once(':').is_some_and(|(_, tag)| tag != "latest");
    if tagged { "IfNotPresent" } else { "Always" }
}

fn invalid(image: &str) -> NoImage {
    NoImage {
        reason: "InvalidImageName",
        message: format!(
            "Failed to apply default image tag \"{image}\": couldn't parse image name \"{image}\": invalid reference format"
        ),
        pause: LONGEST_PAUSE,
    }
}

/// The registry of an image reference.
fn registry(image: &str) -> &str {
    match image.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => "docker.io",
    }
}

fn from_secret(secret: &Value, image: &str) -> Option<RegistryAuth> {
    let data = &secret["data"];
    let (text, nested) = match (&data[".dockerconfigjson"], &data[".dockercfg"]) {
        (Value::String(s), _) => (s, true),
        (_, Value::String(s)) => (s, false),
        _ => return None,
    };
    let config: Value = serde_json::from_slice(&STANDARD.decode(text).ok()?).ok()?;
    let auths = if nested { &config["auths"] } else { &config };
    let registry = registry(image);
    let host = |server: &str| {
        let bare = server.trim_start_matches("https://").trim_start_matches("http://");
        let host = bare.split('/').next().unwrap_or(bare).to_owned();
        if host == "index.docker.io" {
            "docker.io".to_owned()
        } else {
            host
        }
    };
    let (server, auth) = auths.as_object()?.iter().find(|(server, _)| host(server) == registry)?;
    let field = |name: &str| auth[name].as_str().unwrap_or_default().to_owned();
    Some(RegistryAuth {
        username: field("username"),
        password: field("password"),
        auth: field("auth"),
        server_address: server.clone(),
        identity_token: field("identitytoken"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn policies_and_registries_follow_the_reference() {
        for (image, policy, registry) in [
            ("busybox", "Always", "docker.io"),
            ("busybox:latest", "Always", "docker.io"),
            ("farm.example/shop/web:1", "IfNotPresent", "farm.example"),
            ("localhost:5000/web", "Always", "localhost:5000"),
            ("library/x@sha256:00", "IfNotPresent", "docker.io"),
        ] {
            assert_eq!(
                (default_policy(image), super::registry(image)),
                (policy, registry),
                "{image}"
            );
        }
    }

    #[test]
    fn secrets_are_used_for_their_registry_only() {
        let config = json!({"auths": {"https://farm.example/v1/": {"username": "u", "password": "p"}}}).to_string();
        let secret = json!({"data": {".dockerconfigjson": STANDARD.encode(config)}});
        assert_eq!(from_secret(&secret, "farm.example/web:1").unwrap().username, "u");
        assert!(from_secret(&secret, "other.example/web:1").is_none());
    }
}
