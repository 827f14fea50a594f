//! `/pods`, `/stats/…` and `/metrics…`. Must not read the host itself: that is `stats`.

mod cadvisor;
mod resource;
mod summary;
mod text;
mod usage;

use std::sync::Arc;

use http::{Response, StatusCode};
use serde_json::Value;

use super::Shared;
use super::answer::{Body, Refusal, document, typed};
use crate::stats::{Details, Groups, Interface, Measured, PodUse, Sampler, Snapshot, interfaces_of};

pub(super) use cadvisor::cadvisor_metrics;
pub(super) use resource::resource_metrics;
pub(super) use summary::summary;
pub(super) use text::probe_metrics;
pub(super) use usage::usage;

use text::{PROMETHEUS, Text};

/// Nanoseconds of one.
const SECOND: u64 = 1_000_000_000;

/// Where numbers come from.
pub(super) struct Stats {
    groups: Arc<Groups>,
    sampler: Sampler,
}

impl Default for Stats {
    fn default() -> Self {
        Stats {
            groups: Arc::new(Groups::detect()),
            sampler: Sampler::default(),
        }
    }
}

/// Looks at everything once.
async fn look(shared: &Shared) -> Result<Snapshot, Refusal> {
    let (groups, pods) = (shared.stats.groups.clone(), shared.lookup.pods());
    let root = shared.lookup.places().cgroup_root;
    let taken = blocking(move || Snapshot::take(&groups, &root, &pods)).await?;
    let mut snapshot = taken.map_err(|e| Refusal::internal(format!("read /proc: {e}")))?;
    let mut said = Vec::new();
    if snapshot.wants_more() {
        for runtime in shared.lookup.runtimes() {
            match runtime.stats().await {
                Ok(more) => said.extend(more),
                Err(error) => {
                    tracing::warn!(%error, "statistics of a runtime");
                    snapshot.failed = true;
                }
            }
        }
    }
    snapshot.complete(said);
    Ok(snapshot)
}

/// Looks once, for those who count themselves; rates of others may begin here.
async fn counters(shared: &Shared) -> Result<Snapshot, Refusal> {
    let snapshot = look(shared).await?;
    shared.stats.sampler.keep(&snapshot);
    Ok(snapshot)
}

/// What is used per second.
async fn measure(shared: &Shared) -> Result<Arc<Measured>, Refusal> {
    shared.stats.sampler.measure(|| look(shared)).await
}

/// Reading many files must not hold up others.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, Refusal> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|e| Refusal::internal(e.to_string()))
}

/// The interfaces of a pod that has its own; any of its processes sees them.
fn network(groups: &Groups, pod: &PodUse) -> Vec<Interface> {
    if pod.host_network {
        return Vec::new();
    }
    let children = groups.children(&pod.group).into_iter();
    let pids = children.flat_map(|c| groups.pids(&format!("{}/{c}", pod.group)));
    pids.take(8).find_map(interfaces_of).unwrap_or_default()
}

/// What groups say beyond processor and memory, by group.
fn details(groups: &Groups, pod: &PodUse) -> Vec<Details> {
    pod.containers
        .iter()
        .map(|c| match c.group.as_str() {
            "" => Details::default(),
            group => groups.details(group),
        })
        .collect()
}

fn node_name(shared: &Shared) -> String {
    let known = shared.lookup.places().node_name;
    if !known.is_empty() {
        return known;
    }
    let pods = shared.lookup.pods();
    let value = pods.first().map(|p| p.to_value());
    let name = value.and_then(|v| v.pointer("/spec/nodeName")?.as_str().map(str::to_owned));
    name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

fn rfc3339(nanoseconds: i64) -> Option<String> {
    let time = jiff::Timestamp::from_nanosecond(nanoseconds.into()).ok();
    time.filter(|_| nanoseconds > 0).map(meta::time::rfc3339)
}

/// All pods of the node.
pub(super) fn pods(shared: &Shared) -> Response<Body> {
    let mut list = br#"{"kind":"PodList","apiVersion":"v1","metadata":{},"items":["#.to_vec();
    for (i, pod) in shared.lookup.pods().iter().enumerate() {
        if i > 0 {
            list.push(b',');
        }
        list.extend_from_slice(pod.raw());
    }
    list.extend_from_slice(b"]}");
    typed(StatusCode::OK, "application/json", list)
}

/// `/metrics`.
pub(super) fn metrics(shared: &Shared) -> Response<Body> {
    let pods = shared.lookup.pods();
    let (mut running, mut containers) = (0_u32, 0_u32);
    for pod in &pods {
        let value = pod.to_value();
        running += u32::from(value.pointer("/status/phase").and_then(Value::as_str) == Some("Running"));
        let statuses = value.pointer("/status/containerStatuses").and_then(Value::as_array);
        let up = statuses
            .into_iter()
            .flatten()
            .filter(|s| s["state"]["running"].is_object());
        containers = containers.saturating_add(u32::try_from(up.count()).unwrap_or(u32::MAX));
    }
    let mut out = Text::default();
    out.family("kubelet_node_name", "gauge", "The node's name. The count is always 1.");
    out.sample(&format!("{{node={:?}}}", node_name(shared)), 1.0, 0);
    out.family(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    out.sample("", f64::from(running), 0);
    out.family(
        "kubelet_running_containers",
        "gauge",
        "Number of containers currently running",
    );
    out.sample("{container_state=\"running\"}", f64::from(containers), 0);
    out.family(
        "kubelet_desired_pods",
        "gauge",
        "The number of pods the kubelet is being instructed to run",
    );
    out.sample("", pods.len() as f64, 0);
    typed(StatusCode::OK, PROMETHEUS, out.text)
}
