//! `/metrics/resource`: the few numbers that autoscalers and `kubectl top` need. Must not
//! wait: these are counters.

use http::{Response, StatusCode};

use super::text::{PROMETHEUS, Text};
use super::{counters, seconds};
use crate::server::Shared;
use crate::server::answer::{Body, Refusal, typed};
use crate::stats::{ContainerUse, Host, PodUse, Snapshot};

/// `/metrics/resource`.
pub(crate) async fn resource_metrics(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let Snapshot { host, pods, failed } = counters(shared).await?;
    let mut out = Text::default();
    of_containers(&mut out, &pods);
    of_node(&mut out, &host);
    of_pods(&mut out, &pods);
    out.family(
        "resource_scrape_error",
        "gauge",
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("", f64::from(u8::from(failed)), 0);
    Ok(typed(StatusCode::OK, PROMETHEUS, out.text))
}

fn of_containers(out: &mut Text, pods: &[PodUse]) {
    let containers = || pods.iter().flat_map(|p| p.containers.iter().map(move |c| (p, c)));
    let labels = |p: &PodUse, c: &ContainerUse| {
        let (namespace, pod) = (&p.namespace, &p.name);
        format!("{{container={:?},namespace={namespace:?},pod={pod:?}}}", c.name)
    };
    out.family(
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the container in core-seconds",
    );
    for (p, c) in containers() {
        out.sample(&labels(p, c), seconds(c.usage.cpu), c.usage.at);
    }
    out.family(
        "container_memory_working_set_bytes",
        "gauge",
        "Current working set of the container in bytes",
    );
    for (p, c) in containers() {
        out.sample(&labels(p, c), c.usage.memory.working_set as f64, c.usage.at);
    }
    out.family(
        "container_start_time_seconds",
        "gauge",
        "Start time of the container since unix epoch in seconds",
    );
    for (p, c) in containers().filter(|(_, c)| c.started > 0) {
        out.sample(&labels(p, c), seconds(c.started.unsigned_abs()), 0);
    }
    out.plain(
        "container_swap_usage_bytes",
        "gauge",
        "Current amount of the container swap usage in bytes",
    );
    for (p, c) in containers() {
        out.sample(&labels(p, c), c.usage.memory.swap as f64, c.usage.at);
    }
}

fn of_node(out: &mut Text, host: &Host) {
    out.family(
        "node_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the node in core-seconds",
    );
    out.sample("", seconds(host.cpu), host.at);
    out.family(
        "node_memory_working_set_bytes",
        "gauge",
        "Current working set of the node in bytes",
    );
    out.sample("", host.working_set as f64, host.at);
    out.plain(
        "node_swap_usage_bytes",
        "gauge",
        "Current swap usage of the node in bytes",
    );
    out.sample("", host.swap as f64, host.at);
}

fn of_pods(out: &mut Text, pods: &[PodUse]) {
    let labels = |p: &PodUse| format!("{{namespace={:?},pod={:?}}}", p.namespace, p.name);
    out.family(
        "pod_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed by the pod in core-seconds",
    );
    for p in pods {
        out.sample(&labels(p), seconds(p.usage.cpu), p.usage.at);
    }
    out.family(
        "pod_memory_working_set_bytes",
        "gauge",
        "Current working set of the pod in bytes",
    );
    for p in pods {
        out.sample(&labels(p), p.usage.memory.working_set as f64, p.usage.at);
    }
    out.plain(
        "pod_swap_usage_bytes",
        "gauge",
        "Current amount of the pod swap usage in bytes",
    );
    for p in pods {
        out.sample(&labels(p), p.usage.memory.swap as f64, p.usage.at);
    }
}
