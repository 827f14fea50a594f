//! The status of a pod, written when the API's differs.
//!
//! Must not decide what it is.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use client::ClientExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kinds::resources::PODS;
use runtime::ContainerState;
use serde_json::{Map, Value, json};
use tracing::{debug, warn};

use super::super::{container, status};
use super::Worker;
use crate::pods;

/// Largest last words (upstream: 4096 bytes).
const WORDS_MAX: u64 = 4096;
/// Largest end of the log that stands in for last words (upstream: 2048 bytes).
const LOG_WORDS_MAX: u64 = 2048;

impl Worker {
    pub(super) async fn write_status(&mut self, now: Timestamp) {
        if !self.exists || self.memory.finished {
            return;
        }
        self.read_words();
        let host_ip = self.shared.config.node_ip.to_string();
        let new = status::status(&status::Facts {
            now,
            pod: &self.pod,
            sandboxes: &self.sandboxes,
            memory: &self.memory,
            runtime: &self.runtime_name,
            host_ip: &host_ip,
            words: &self.words,
        });
        let changed = differences(&self.object.to_value()["status"], &new);
        self.retry_status = false;
        if changed.is_empty() || changed == self.refused {
            return;
        }
        let patch = json!({"metadata": {"uid": self.object.uid()}, "status": changed});
        let (namespace, name) = (self.object.namespace(), self.object.name());
        let client = &self.shared.client;
        match client.merge_patch(&PODS, namespace, name, "status", &patch).await {
            Ok(object) => {
                self.refused = differences(&object.to_value()["status"], &new);
                // The answer is what the watch will bring; with it the next look starts even.
                if object.resource_version() > self.object.resource_version()
                    && let Ok(pod) = object.view::<Pod>()
                {
                    self.object = object;
                    self.pod = pod;
                }
            }
            Err(e) if e.is_not_found() || e.is_conflict() => debug!(error = %e.message, "the pod is gone or another"),
            Err(e) => {
                warn!(namespace = self.object.namespace(), name = self.object.name(), error = %e.message, "status not written; trying again");
                self.retry_status = true;
            }
        }
    }

    /// Last words of containers that have ended.
    pub(super) fn read_words(&mut self) {
        for c in self.sandboxes.iter().flat_map(|s| &s.containers) {
            if c.state != ContainerState::Exited || self.words.contains_key(&c.id) {
                continue;
            }
            let file = container::last_words(&self.shared.config, self.object.uid(), &c.name, c.attempt);
            let mut text = tail(&file, WORDS_MAX);
            let spec = pods::all(&self.pod).find(|(s, _)| s.name == c.name).map(|(s, _)| s);
            let fallback = spec.and_then(|s| s.termination_message_policy).as_deref() == Some("FallbackToLogsOnError");
            if text.is_empty() && fallback && c.exit_code != 0 {
                text = plain_log(&tail(&c.log_path, LOG_WORDS_MAX * 2), LOG_WORDS_MAX);
            }
            self.words.insert(c.id.clone(), text);
        }
    }
}

/// Fields of a status that are not yet as they should be.
fn differences(old: &Value, new: &Value) -> Map<String, Value> {
    let fields = new.as_object().into_iter().flatten();
    let differ = fields.filter(|(field, value)| old.get(field).unwrap_or(&Value::Null) != *value);
    differ.map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// The end of a file, as text.
fn tail(path: &Path, most: u64) -> String {
    let Ok(mut file) = fs::File::open(path) else {
        return String::new();
    };
    let length = file.metadata().map_or(0, |m| m.len());
    let mut bytes = Vec::new();
    let read = file.seek(SeekFrom::Start(length.saturating_sub(most)));
    if read.and_then(|_| file.take(most).read_to_end(&mut bytes)).is_err() {
        return String::new();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What was printed, without the times and tags of the log's lines.
fn plain_log(text: &str, most: u64) -> String {
    let lines = text.lines().filter_map(|l| l.splitn(4, ' ').nth(3));
    let plain = lines.collect::<Vec<_>>().join("\n");
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let start = plain.len().saturating_sub(most);
    let start = (start..plain.len())
        .find(|i| plain.is_char_boundary(*i))
        .unwrap_or(plain.len());
    plain[start..].to_owned()
}
