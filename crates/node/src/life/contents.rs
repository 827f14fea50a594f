//! Changes of the ConfigMaps and Secrets that volumes show. A node may only see
//! those that its pods name, so each is watched by name, once for all pods.
//!
//! Must not read their content.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use client::Client;
use informer::{Informer, Informers};
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::facts::Source;

/// Namespace and name of one.
type Key = (Source, String, String);

/// All that are watched.
#[derive(Default)]
pub(super) struct Contents(Mutex<HashMap<Key, Weak<Content>>>);

/// One that is watched, as long as somebody holds it.
struct Content {
    informer: Arc<Informer>,
    /// Dropped, the watch ends.
    _informers: Informers,
}

impl Contents {
    fn get(&self, client: &Arc<dyn Client>, key: Key) -> Arc<Content> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, content| content.strong_count() > 0);
        if let Some(content) = all.get(&key).and_then(Weak::upgrade) {
            return content;
        }
        let informers = Informers::new(client.clone());
        let selector = format!("metadata.name={}", key.2);
        let content = Arc::new(Content {
            informer: informers.scoped(key.0.gvr(), &key.1, "", &selector),
            _informers: informers,
        });
        all.insert(key, Arc::downgrade(&content));
        content
    }

    /// Tells of changes to what the volumes of a pod show, until the result is dropped.
    pub(super) fn follow(
        &self,
        client: &Arc<dyn Client>,
        namespace: &str,
        pod: &Pod,
        changed: &mpsc::Sender<()>,
    ) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        for (source, name) in named(pod) {
            let content = self.get(client, (source, namespace.to_owned(), name));
            let changed = changed.clone();
            tasks.spawn(async move {
                content.informer.synced().await;
                let mut changes = content.informer.subscribe();
                // The volume may have been written from what was there before. Here and below:
                // when the channel is full, there is word already.
                let _ = changed.try_send(());
                while changes.next().await.is_some() {
                    let _ = changed.try_send(());
                }
            });
        }
        tasks
    }
}

/// What the volumes of a pod show.
fn named(pod: &Pod) -> BTreeSet<(Source, String)> {
    let mut out = BTreeSet::new();
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        out.extend(volume.config_map.iter().map(|c| (Source::ConfigMap, c.name.clone())));
        let secret = volume.secret.as_ref().and_then(|s| s.secret_name.clone());
        out.extend(secret.map(|name| (Source::Secret, name)));
        for part in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            out.extend(part.config_map.iter().map(|c| (Source::ConfigMap, c.name.clone())));
            out.extend(part.secret.iter().map(|s| (Source::Secret, s.name.clone())));
        }
    }
    out
}
