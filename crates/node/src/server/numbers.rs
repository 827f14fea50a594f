//! `/pods`, `/stats/summary` and the metrics. Must not keep history beyond one sample.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};

use http::{Response, StatusCode};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use runtime::ContainerStats;
use serde_json::{Value, json};

use super::Shared;
use super::answer::{Body, Refusal, document, typed};

/// The kernel's clock ticks per second in `/proc/stat`, part of its ABI.
const TICKS: u64 = 100;
const SECOND: u64 = 1_000_000_000;
/// The media type of Prometheus' text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

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

/// Use of the processors by everything, as last seen: nanoseconds, and when.
#[derive(Default)]
pub(super) struct Rates(Mutex<HashMap<String, Sample>>);

/// When, how much, and how fast since the sample before.
type Sample = (i64, u64, Option<u64>);

impl Rates {
    /// Nanoseconds of processor time per second since the sample before this one.
    fn add(&self, key: &str, at: i64, cpu: u64) -> Option<u64> {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = match samples.get(key) {
            // The same sample again says what it said.
            Some((then, _, rate)) if *then == at => *rate,
            Some((then, before, _)) if *then < at && *before <= cpu => {
                let used = u128::from(cpu - before) * u128::from(SECOND);
                u64::try_from(used / u128::from(at.abs_diff(*then))).ok()
            }
            _ => None,
        };
        samples.insert(key.to_owned(), (at, cpu, rate));
        rate
    }

    fn keep(&self, wanted: impl Fn(&str) -> bool) {
        let mut samples = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        samples.retain(|key, _| wanted(key));
    }
}

/// One pod's use.
struct Used {
    namespace: String,
    name: String,
    uid: String,
    started: Option<String>,
    containers: Vec<(ContainerStats, i64)>,
}

impl Used {
    fn cpu(&self) -> u64 {
        self.containers.iter().map(|(c, _)| c.cpu_usage).sum()
    }

    fn memory(&self) -> u64 {
        self.containers.iter().map(|(c, _)| c.memory_working_set).sum()
    }

    fn time(&self) -> i64 {
        self.containers.iter().map(|(c, _)| c.timestamp).max().unwrap_or(0)
    }
}

/// What the pods use, and whether a runtime could not tell.
async fn used(shared: &Shared) -> (Vec<Used>, bool) {
    let (mut stats, mut failed) = (Vec::new(), false);
    let mut starts = HashMap::new();
    for runtime in shared.lookup.runtimes() {
        match runtime.stats().await {
            Ok(more) => stats.extend(more),
            Err(error) => {
                tracing::warn!(%error, "statistics of a runtime");
                failed = true;
            }
        }
        for sandbox in runtime.list().await.unwrap_or_default() {
            for container in sandbox.containers {
                let start = starts.entry((sandbox.pod_uid.clone(), container.name)).or_insert(0);
                *start = container.started_at.max(*start);
            }
        }
    }
    let mut by_pod: BTreeMap<String, Vec<(ContainerStats, i64)>> = BTreeMap::new();
    for one in stats {
        let key = (one.pod_uid.clone(), one.name.clone());
        let start = starts.get(&key).copied().unwrap_or(0);
        by_pod.entry(key.0).or_default().push((one, start));
    }
    let mut out = Vec::new();
    for pod in shared.lookup.pods() {
        let Some(containers) = by_pod.remove(pod.uid()) else {
            continue;
        };
        let started = pod
            .view::<Pod>()
            .ok()
            .and_then(|p| p.status.as_ref()?.start_time.clone());
        out.push(Used {
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            uid: pod.uid().to_owned(),
            started: started.map(|t| meta::time::rfc3339(t.0)),
            containers,
        });
    }
    (out, failed)
}

/// `/stats/summary`.
pub(super) async fn summary(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let (pods, _) = used(shared).await;
    let wanted: std::collections::HashSet<&str> = pods.iter().map(|p| p.uid.as_str()).collect();
    let of = |key: &str| key.split('/').next().unwrap_or_default().to_owned();
    shared
        .rates
        .keep(|key| key.is_empty() || wanted.contains(of(key).as_str()));
    let numbers = |key: &str, at: i64, cpu: u64, memory: u64| {
        let mut cpu_stats = json!({"time": rfc3339(at), "usageCoreNanoSeconds": cpu});
        if let Some(rate) = shared.rates.add(key, at, cpu) {
            cpu_stats["usageNanoCores"] = rate.into();
        }
        (cpu_stats, json!({"time": rfc3339(at), "workingSetBytes": memory}))
    };
    let pods = pods.iter().map(|pod| {
        let containers = pod.containers.iter().map(|(c, started)| {
            let key = format!("{}/{}", pod.uid, c.name);
            let (cpu, memory) = numbers(&key, c.timestamp, c.cpu_usage, c.memory_working_set);
            json!({"name": c.name, "startTime": rfc3339(*started), "cpu": cpu, "memory": memory})
        });
        let containers: Vec<Value> = containers.collect();
        let (cpu, memory) = numbers(&pod.uid, pod.time(), pod.cpu(), pod.memory());
        json!({
            "podRef": {"name": pod.name, "namespace": pod.namespace, "uid": pod.uid},
            "startTime": pod.started, "containers": containers, "cpu": cpu, "memory": memory,
        })
    });
    let pods: Vec<Value> = pods.collect();
    let host = host()
        .await
        .map_err(|e| Refusal::internal(format!("read /proc: {e}")))?;
    let (cpu, mut memory) = numbers("", host.time, host.cpu, host.working_set);
    memory["availableBytes"] = host.available.into();
    let node = json!({
        "nodeName": node_name(shared), "startTime": rfc3339(host.started), "cpu": cpu, "memory": memory,
    });
    Ok(document(&json!({"node": node, "pods": pods})))
}

/// `/metrics/resource`.
pub(super) async fn resource_metrics(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let (pods, failed) = used(shared).await;
    let host = host()
        .await
        .map_err(|e| Refusal::internal(format!("read /proc: {e}")))?;
    let mut out = Text::default();
    container_metrics(&mut out, &pods);
    let pod_labels = |p: &Used| format!("{{namespace={:?},pod={:?}}}", p.namespace, p.name);
    out.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    out.sample("", seconds(host.cpu), host.time);
    out.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    out.sample("", host.working_set as f64, host.time);
    out.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for p in &pods {
        out.sample(&pod_labels(p), seconds(p.cpu()), p.time());
    }
    out.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
    );
    for p in &pods {
        out.sample(&pod_labels(p), p.memory() as f64, p.time());
    }
    out.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("", f64::from(u8::from(failed)), 0);
    Ok(typed(StatusCode::OK, PROMETHEUS, out.text))
}

fn container_metrics(out: &mut Text, pods: &[Used]) {
    let containers = || pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
    let labels = |p: &Used, c: &ContainerStats| {
        format!(
            "{{container={:?},namespace={:?},pod={:?}}}",
            c.name, p.namespace, p.name
        )
    };

    out.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for (p, (c, _)) in containers() {
        out.sample(&labels(p, c), seconds(c.cpu_usage), c.timestamp);
    }
    out.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for (p, (c, _)) in containers() {
        out.sample(&labels(p, c), c.memory_working_set as f64, c.timestamp);
    }
    out.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for (p, (c, started)) in containers().filter(|(_, (_, started))| *started > 0) {
        out.sample(&labels(p, c), seconds(started.unsigned_abs()), 0);
    }
}

/// `/metrics`.
pub(super) fn metrics(shared: &Shared) -> Response<Body> {
    let pods = shared.lookup.pods();
    let running = pods.iter().filter(|pod| {
        let value = pod.to_value();
        value.pointer("/status/phase").and_then(Value::as_str) == Some("Running")
    });
    let mut out = Text::default();
    out.family(
        "kubelet_running_pods",
        "gauge",
        "Number of pods that have a running pod sandbox",
    );
    out.sample("", running.count() as f64, 0);
    out.family(
        "kubelet_desired_pods",
        "gauge",
        "The number of pods the kubelet is being instructed to run",
    );
    out.sample("", pods.len() as f64, 0);
    typed(StatusCode::OK, PROMETHEUS, out.text)
}

/// Prometheus' text format.
#[derive(Default)]
struct Text {
    text: String,
    family: &'static str,
}

impl Text {
    fn family(&mut self, name: &'static str, kind: &str, help: &str) {
        self.family = name;
        // Writing to a string cannot fail.
        let _ = writeln!(self.text, "# HELP {name} [STABLE] {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, labels: &str, value: f64, at: i64) {
        let _ = write!(self.text, "{}{labels} {value}", self.family);
        if at > 0 {
            let _ = write!(self.text, " {}", at / 1_000_000);
        }
        self.text.push('\n');
    }
}

/// The host as a whole.
struct Host {
    time: i64,
    started: i64,
    cpu: u64,
    working_set: u64,
    available: u64,
}

async fn host() -> std::io::Result<Host> {
    let stat = tokio::fs::read_to_string("/proc/stat").await?;
    let memory = tokio::fs::read_to_string("/proc/meminfo").await?;
    let time = i64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX);
    Ok(parse_host(&stat, &memory, time))
}

fn parse_host(stat: &str, memory: &str, time: i64) -> Host {
    let line = |name: &str| stat.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
    let ticks = line("cpu ").split_whitespace().map(|n| n.parse().unwrap_or(0_u64));
    // user, nice, system, (idle, iowait,) irq, softirq, steal; guest time is in user's.
    let busy = ticks.enumerate().filter(|(i, _)| matches!(i, 0..=2 | 5..=7));
    let busy: u64 = busy.map(|(_, n)| n).fold(0, u64::saturating_add);
    let started: i64 = line("btime ").trim().parse().unwrap_or(0);
    let bytes = |name: &str| {
        let line = memory.lines().find_map(|l| l.strip_prefix(name)).unwrap_or_default();
        let kib: u64 = line.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
        kib.saturating_mul(1024)
    };
    let available = bytes("MemAvailable:");
    Host {
        time,
        started: started.saturating_mul(1_000_000_000),
        cpu: busy.saturating_mul(SECOND / TICKS),
        working_set: bytes("MemTotal:").saturating_sub(available),
        available,
    }
}

fn node_name(shared: &Shared) -> String {
    let pods = shared.lookup.pods();
    let value = pods.first().map(|p| p.to_value());
    let name = value.and_then(|v| v.pointer("/spec/nodeName")?.as_str().map(str::to_owned));
    name.unwrap_or_else(|| rustix::system::uname().nodename().to_string_lossy().into_owned())
}

fn seconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / SECOND as f64
}

fn rfc3339(nanoseconds: i64) -> Option<String> {
    let time = Timestamp::from_nanosecond(nanoseconds.into()).ok();
    time.filter(|_| nanoseconds > 0).map(meta::time::rfc3339)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_read() {
        let stat = "cpu  100 1 50 9999 77 3 4 5 0 0\ncpu0 1 1 1 1\nbtime 1700000000\n";
        let memory = "MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  400 kB\n";
        let host = parse_host(stat, memory, 1);
        assert_eq!(host.cpu, 163 * 10_000_000);
        assert_eq!((host.working_set, host.available), (600 * 1024, 400 * 1024));
        assert_eq!(rfc3339(host.started).as_deref(), Some("2023-11-14T22:13:20Z"));
        parse_host("", "", 0);
    }

    #[test]
    fn a_rate_needs_two_samples() {
        let rates = Rates::default();
        assert_eq!(rates.add("a", 1_000_000_000, 5), None);
        assert_eq!(rates.add("a", 3_000_000_000, 1_000_000_005), Some(500_000_000));
        assert_eq!(rates.add("a", 3_000_000_000, 1_000_000_005), Some(500_000_000));
        // Started anew.
        assert_eq!(rates.add("a", 4_000_000_000, 1), None);
    }
}
