//! Getting a container's image: pull policies, credentials, events.
//!
//! Must not decide when to try again: the worker's back-off does.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use base64::Engine;
use client::Client;
use k8s_openapi::api::core::v1::Pod;
use meta::Object;
use runtime::{ImageInfo, PodRuntime, RegistryAuth, RuntimeError};
use serde_json::Value;

use crate::events::{Events, Tone};
use crate::facts::{self, Source};

/// Why a container could not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StartError {
    /// CamelCase, for `state.waiting.reason`.
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

impl StartError {
    pub(crate) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        StartError {
            reason,
            message: message.into(),
        }
    }
}

/// What getting an image needs.
pub(crate) struct Request<'a> {
    pub client: &'a dyn Client,
    pub events: &'a Events,
    pub runtime: &'a dyn PodRuntime,
    pub object: &'a Object,
    pub pod: &'a Pod,
    /// Such as `spec.containers{name}`.
    pub path: &'a str,
    pub image: &'a str,
    pub policy: Option<&'a str>,
}

/// Sees to it that pods that want the same image at the same time pull it once.
#[derive(Default)]
pub(crate) struct Images {
    pulling: Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>,
}

impl Images {
    /// The image, pulled if the policy says so.
    pub(crate) async fn ensure(&self, r: &Request<'_>) -> Result<ImageInfo, StartError> {
        let image = with_tag(r.image).ok_or_else(|| {
            let why = format!(
                "Failed to apply default image tag {:?}: couldn't parse image name {:?}: invalid reference format",
                r.image, r.image
            );
            r.events.container(r.object, r.path, Tone::Warning, "InspectFailed", &why);
            r.events
                .container(r.object, r.path, Tone::Warning, "Failed", "Error: InvalidImageName");
            StartError::new("InvalidImageName", why)
        })?;
        let default = if image.ends_with(":latest") { "Always" } else { "IfNotPresent" };
        let policy = r.policy.filter(|p| !p.is_empty()).unwrap_or(default);
        if policy == "Always" {
            return self.pull(r, &image).await;
        }
        if let Some(info) = present(r, &image).await? {
            return Ok(info);
        }
        if policy == "Never" {
            let why = format!("Container image {:?} is not present with pull policy of Never", r.image);
            r.events
                .container(r.object, r.path, Tone::Warning, "ErrImageNeverPull", &why);
            return Err(StartError::new("ErrImageNeverPull", why));
        }
        let lock = self.lock(&image);
        let _held = lock.lock().await;
        // Somebody else may have pulled it in the meantime.
        match present(r, &image).await? {
            Some(info) => Ok(info),
            None => self.pull(r, &image).await,
        }
    }

    fn lock(&self, image: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut pulling = self.pulling.lock().unwrap_or_else(PoisonError::into_inner);
        pulling.retain(|_, lock| lock.strong_count() > 0);
        if let Some(lock) = pulling.get(image).and_then(Weak::upgrade) {
            return lock;
        }
        let lock = Arc::default();
        pulling.insert(image.to_owned(), Arc::downgrade(&lock));
        lock
    }

    async fn pull(&self, r: &Request<'_>, image: &str) -> Result<ImageInfo, StartError> {
        let say = |tone, reason, text: String| r.events.container(r.object, r.path, tone, reason, text);
        say(Tone::Normal, "Pulling", format!("Pulling image {:?}", r.image));
        let begun = Instant::now();
        let mut result = Err(RuntimeError::Failed("no credentials".into()));
        // The last try is without credentials; the first error with some is the one that tells more.
        let mut auths: Vec<Option<RegistryAuth>> = credentials(r, image).await.into_iter().map(Some).collect();
        if auths.is_empty() {
            auths.push(None);
        }
        for auth in &auths {
            result = r.runtime.pull_image(image, auth.as_ref()).await;
            if result.is_ok() {
                break;
            }
        }
        match result {
            Ok(reference) => {
                let took = begun.elapsed();
                let mut info = r.runtime.image_status(image).await.ok().flatten().unwrap_or_default();
                if info.id.is_empty() {
                    info.id = reference;
                }
                let text = format!(
                    "Successfully pulled image {:?} in {took:.3?} ({took:.3?} including waiting). Image size: {} bytes.",
                    r.image, info.size
                );
                say(Tone::Normal, "Pulled", text);
                Ok(info)
            }
            Err(e) => {
                let text = format!("Failed to pull image {:?}: {e}", r.image);
                say(Tone::Warning, "Failed", text);
                say(Tone::Warning, "Failed", "Error: ErrImagePull".into());
                Err(StartError::new("ErrImagePull", e.to_string()))
            }
        }
    }
}

async fn present(r: &Request<'_>, image: &str) -> Result<Option<ImageInfo>, StartError> {
    match r.runtime.image_status(image).await {
        Ok(Some(info)) => {
            let text = format!("Container image {:?} already present on machine", r.image);
            r.events.container(r.object, r.path, Tone::Normal, "Pulled", text);
            Ok(Some(info))
        }
        Ok(None) => Ok(None),
        Err(e) => {
            let why = format!("Failed to inspect image {:?}: {e}", r.image);
            r.events.container(r.object, r.path, Tone::Warning, "InspectFailed", &why);
            Err(StartError::new("ImageInspectError", why))
        }
    }
}

/// The name with `:latest` when it has neither tag nor digest; `None` when it is no name.
pub(crate) fn with_tag(image: &str) -> Option<String> {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    let last = name.rsplit('/').next()?;
    let (base, tag) = match last.split_once(':') {
        Some((base, tag)) => (base, Some(tag)),
        None => (last, None),
    };
    let lower = |s: &str| {
        let inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c);
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        s.chars().all(inside) && ends(s.chars().next()) && ends(s.chars().last())
    };
    let (domain, parts): (Option<&str>, Vec<&str>) = {
        let mut all: Vec<&str> = name.split('/').collect();
        all.pop();
        let first = all.first().copied().filter(|f| f.contains(['.', ':']) || *f == "localhost");
        (first, all.split_off(usize::from(first.is_some())))
    };
    let domain_fine = domain.is_none_or(|d| {
        d.chars()
            .all(|c| c.is_ascii_alphanumeric() || ".-:[]".contains(c))
    });
    let tag_fine = tag.is_none_or(|t| {
        let inside = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        !t.is_empty() && t.len() <= 128 && t.chars().all(inside) && !t.starts_with(['.', '-'])
    });
    let digest_fine = digest.is_none_or(|d| {
        let hex = |h: &str| h.len() >= 32 && h.chars().all(|c| c.is_ascii_hexdigit());
        d.split_once(':').is_some_and(|(_, h)| hex(h))
    });
    if !(domain_fine && tag_fine && digest_fine && lower(base) && parts.iter().all(|p| lower(p))) {
        return None;
    }
    Some(if tag.is_none() && digest.is_none() {
        format!("{image}:latest")
    } else {
        image.to_owned()
    })
}

/// Credentials in the pod's pull secrets that are for the image's registry.
async fn credentials(r: &Request<'_>, image: &str) -> Vec<RegistryAuth> {
    let spec = r.pod.spec.as_ref();
    let mut out = Vec::new();
    for secret in spec.iter().flat_map(|s| s.image_pull_secrets.iter().flatten()) {
        // A missing pull secret is no error: the image may be public.
        let read = facts::read(r.client, Source::Secret, r.object.namespace(), &secret.name).await;
        let Ok(Some(data)) = read else {
            let text = format!(
                "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                secret.name
            );
            r.events
                .pod(r.object, Tone::Warning, "FailedToRetrieveImagePullSecret", text);
            continue;
        };
        let json = |key: &str| data.get(key).and_then(|raw| serde_json::from_slice::<Value>(raw).ok());
        let servers = match json(".dockerconfigjson") {
            Some(config) => config["auths"].clone(),
            None => json(".dockercfg").unwrap_or_default(),
        };
        for (server, entry) in servers.as_object().into_iter().flatten() {
            if matches(server, image) {
                out.push(auth(server, entry));
            }
        }
    }
    out
}

fn auth(server: &str, entry: &Value) -> RegistryAuth {
    let text = |field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let mut auth = RegistryAuth {
        username: text("username"),
        password: text("password"),
        identity_token: text("identitytoken"),
        server_address: server.to_owned(),
        ..RegistryAuth::default()
    };
    if auth.username.is_empty() {
        let decoded = base64::engine::general_purpose::STANDARD.decode(text("auth"));
        let decoded = decoded.ok().and_then(|d| String::from_utf8(d).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|d| d.split_once(':')) {
            (auth.username, auth.password) = (user.to_owned(), password.to_owned());
        }
    }
    auth
}

/// Whether the server of a credential is the registry, or a part of it, that has the image.
fn matches(server: &str, image: &str) -> bool {
    let server = server
        .trim_start_matches("https://")
        .trim_start_matches("http://")
        .trim_end_matches('/');
    let server = server.strip_suffix("/v1").or(server.strip_suffix("/v2")).unwrap_or(server);
    let has_domain = image
        .split_once('/')
        .is_some_and(|(d, _)| d.contains(['.', ':']) || d == "localhost");
    let full = if has_domain { image.to_owned() } else { format!("docker.io/{image}") };
    let server = if server == "index.docker.io" { "docker.io" } else { server };
    let (want_host, want_path) = server.split_once('/').unwrap_or((server, ""));
    let (host, path) = full.split_once('/').unwrap_or((&full, ""));
    let host_fits = match want_host.strip_prefix("*.") {
        Some(rest) => host.split_once('.').is_some_and(|(_, tail)| tail == rest),
        None => host == want_host,
    };
    host_fits && path.starts_with(want_path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let rows = [
            ("nginx", Some("nginx:latest")),
            ("nginx:1.27", Some("nginx:1.27")),
            ("localhost:5000/a/b", Some("localhost:5000/a/b:latest")),
            ("registry.example.com/a/b:v1", Some("registry.example.com/a/b:v1")),
            ("Nginx", None),
            ("a b", None),
            ("", None),
            ("a:", None),
            ("a//b", None),
        ];
        for (image, expected) in rows {
            assert_eq!(with_tag(image).as_deref(), expected, "{image}");
        }
        let digest = format!("a@sha256:{}", "0".repeat(64));
        assert_eq!(with_tag(&digest), Some(digest));
    }

    #[test]
    fn credentials_are_for_their_registry() {
        assert!(matches("https://index.docker.io/v1/", "nginx:latest"));
        assert!(matches("registry.example.com", "registry.example.com/a:1"));
        assert!(matches("*.example.com", "registry.example.com/a:1"));
        assert!(matches("registry.example.com/team", "registry.example.com/team/a:1"));
        assert!(!matches("registry.example.com/team", "registry.example.com/other/a:1"));
        assert!(!matches("example.com", "registry.example.com/a:1"));
    }
}
