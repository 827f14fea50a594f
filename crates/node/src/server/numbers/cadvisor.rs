//! `/metrics/cadvisor`: the names that dashboards ask for most. Must not wait: these are counters.

use http::{Response, StatusCode};

use super::text::{PROMETHEUS, Text};
use super::{blocking, counters, details, network, seconds};
use crate::server::Shared;
use crate::server::answer::{Body, Refusal, typed};
use crate::stats::{ContainerUse, Details, Host, Interface, PodUse, Snapshot, Usage, interfaces};

/// One thing that is counted: the host, a pod or a container.
struct Row {
    labels: String,
    usage: Usage,
    details: Option<Details>,
    started: i64,
}

/// Name, kind, what it is, and its value.
type Family<T> = (&'static str, &'static str, &'static str, fn(&T) -> Option<f64>);

/// `/metrics/cadvisor`.
pub(crate) async fn cadvisor_metrics(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let snapshot = counters(shared).await?;
    let groups = shared.stats.groups.clone();
    let read = move || {
        let of = |p: &PodUse| (details(&groups, p), network(&groups, p));
        let more: Vec<_> = snapshot.pods.iter().map(of).collect();
        (snapshot, more, interfaces())
    };
    let (snapshot, more, own) = blocking(read).await?;
    let Snapshot { host, pods, failed } = snapshot;
    let mut rows = vec![row_of_host(&host)];
    let mut links = vec![(host_labels(), host.at, own)];
    for (pod, (details, network)) in pods.into_iter().zip(more) {
        links.push((pod_labels(&pod), pod.usage.at, network));
        rows.push(Row {
            labels: pod_labels(&pod),
            usage: pod.usage.clone(),
            details: None,
            started: pod.started,
        });
        rows.extend(pod.containers.iter().zip(details).map(|(c, details)| Row {
            labels: container_labels(&pod, c),
            usage: c.usage.clone(),
            details: Some(details),
            started: c.started,
        }));
    }
    let mut out = Text::default();
    for (name, kind, help, value) in USES {
        out.plain(name, kind, help);
        for row in &rows {
            if let Some(value) = value(row) {
                out.sample(&format!("{{{}}}", row.labels), value, row.usage.at);
            }
        }
    }
    faults(&mut out, &rows);
    networks(&mut out, &links);
    machine(&mut out, &host, failed);
    Ok(typed(StatusCode::OK, PROMETHEUS, out.text))
}

fn host_labels() -> String {
    r#"container="",id="/",image="",name="",namespace="",pod="""#.to_owned()
}

fn pod_labels(p: &PodUse) -> String {
    let (id, namespace, pod) = (&p.group, &p.namespace, &p.name);
    format!(r#"container="",id={id:?},image="",name="",namespace={namespace:?},pod={pod:?}"#)
}

fn container_labels(p: &PodUse, c: &ContainerUse) -> String {
    let (namespace, pod) = (&p.namespace, &p.name);
    let (container, id, image, name) = (&c.name, &c.group, &c.image, &c.id);
    format!("container={container:?},id={id:?},image={image:?},name={name:?},namespace={namespace:?},pod={pod:?}")
}

fn row_of_host(host: &Host) -> Row {
    let mut usage = Usage {
        at: host.at,
        cpu: host.cpu,
        ..Usage::default()
    };
    usage.memory.usage = host.usage;
    usage.memory.working_set = host.working_set;
    usage.memory.rss = host.rss;
    usage.memory.swap = host.swap;
    Row {
        labels: host_labels(),
        usage,
        details: None,
        started: host.started,
    }
}

fn of(row: &Row, value: fn(&Details) -> u64) -> Option<f64> {
    row.details.as_ref().map(|d| value(d) as f64)
}

fn throttled(row: &Row, value: fn(&Details) -> f64) -> Option<f64> {
    row.details.as_ref().filter(|d| d.periods > 0).map(value)
}

const COUNTER: &str = "counter";
const GAUGE: &str = "gauge";

#[rustfmt::skip]
const USES: [Family<Row>; 24] = [
    ("container_cpu_usage_seconds_total", COUNTER, "Cumulative cpu time consumed in seconds.",
        |r| Some(seconds(r.usage.cpu))),
    ("container_cpu_user_seconds_total", COUNTER, "Cumulative user cpu time consumed in seconds.",
        |r| r.details.as_ref().map(|d| seconds(d.user))),
    ("container_cpu_system_seconds_total", COUNTER, "Cumulative system cpu time consumed in seconds.",
        |r| r.details.as_ref().map(|d| seconds(d.system))),
    ("container_cpu_cfs_periods_total", COUNTER, "Number of elapsed enforcement period intervals.",
        |r| throttled(r, |d| d.periods as f64)),
    ("container_cpu_cfs_throttled_periods_total", COUNTER, "Number of throttled period intervals.",
        |r| throttled(r, |d| d.throttled as f64)),
    ("container_cpu_cfs_throttled_seconds_total", COUNTER, "Total time duration the container has been throttled.",
        |r| throttled(r, |d| seconds(d.throttled_time))),
    ("container_memory_usage_bytes", GAUGE, "Current memory usage in bytes, including all memory regardless of when it was accessed",
        |r| Some(r.usage.memory.usage as f64)),
    ("container_memory_working_set_bytes", GAUGE, "Current working set in bytes.",
        |r| Some(r.usage.memory.working_set as f64)),
    ("container_memory_rss", GAUGE, "Size of RSS in bytes.", |r| Some(r.usage.memory.rss as f64)),
    ("container_memory_cache", GAUGE, "Number of bytes of page cache memory.",
        |r| Some(r.usage.memory.cache as f64)),
    ("container_memory_mapped_file", GAUGE, "Size of memory mapped files in bytes.",
        |r| Some(r.usage.memory.mapped as f64)),
    ("container_memory_swap", GAUGE, "Container swap usage in bytes.", |r| Some(r.usage.memory.swap as f64)),
    ("container_memory_failcnt", COUNTER, "Number of memory usage hits limits", |r| of(r, |d| d.memory_failures)),
    ("container_processes", GAUGE, "Number of processes running inside the container.",
        |r| of(r, |d| d.processes)),
    ("container_threads", GAUGE, "Number of threads running inside the container", |r| of(r, |d| d.threads)),
    ("container_fs_reads_bytes_total", COUNTER, "Cumulative count of bytes read", |r| of(r, |d| d.read_bytes)),
    ("container_fs_writes_bytes_total", COUNTER, "Cumulative count of bytes written",
        |r| of(r, |d| d.written_bytes)),
    ("container_fs_reads_total", COUNTER, "Cumulative count of reads completed", |r| of(r, |d| d.reads)),
    ("container_fs_writes_total", COUNTER, "Cumulative count of writes completed", |r| of(r, |d| d.writes)),
    ("container_start_time_seconds", GAUGE, "Start time of the container since unix epoch in seconds.",
        |r| (r.started > 0).then(|| seconds(r.started.unsigned_abs()))),
    ("container_last_seen", GAUGE, "Last time a container was seen by the exporter",
        |r| Some((r.usage.at / 1_000_000_000) as f64)),
    ("container_spec_memory_limit_bytes", GAUGE, "Memory limit for the container.",
        |r| r.details.as_ref().map(|_| r.usage.memory.limit.unwrap_or(0) as f64)),
    ("container_spec_cpu_period", GAUGE, "CPU period of the container.",
        |r| of(r, |d| d.period).filter(|p| *p > 0.0)),
    ("container_spec_cpu_quota", GAUGE, "CPU quota of the container.",
        |r| r.details.as_ref()?.quota.map(|q| q as f64)),
];

#[rustfmt::skip]
const NETWORK: [Family<Interface>; 8] = [
    ("container_network_receive_bytes_total", COUNTER, "Cumulative count of bytes received",
        |i| Some(i.rx_bytes as f64)),
    ("container_network_receive_packets_total", COUNTER, "Cumulative count of packets received",
        |i| Some(i.rx_packets as f64)),
    ("container_network_receive_errors_total", COUNTER, "Cumulative count of errors encountered while receiving",
        |i| Some(i.rx_errors as f64)),
    ("container_network_receive_packets_dropped_total", COUNTER, "Cumulative count of packets dropped while receiving",
        |i| Some(i.rx_dropped as f64)),
    ("container_network_transmit_bytes_total", COUNTER, "Cumulative count of bytes transmitted",
        |i| Some(i.tx_bytes as f64)),
    ("container_network_transmit_packets_total", COUNTER, "Cumulative count of packets transmitted",
        |i| Some(i.tx_packets as f64)),
    ("container_network_transmit_errors_total", COUNTER, "Cumulative count of errors encountered while transmitting",
        |i| Some(i.tx_errors as f64)),
    ("container_network_transmit_packets_dropped_total", COUNTER, "Cumulative count of packets dropped while transmitting",
        |i| Some(i.tx_dropped as f64)),
];

fn faults(out: &mut Text, rows: &[Row]) {
    out.plain(
        "container_memory_failures_total",
        COUNTER,
        "Cumulative count of memory allocation failures.",
    );
    for row in rows.iter().filter(|r| r.details.is_some()) {
        let m = &row.usage.memory;
        for (kind, value) in [("pgfault", m.faults), ("pgmajfault", m.major_faults)] {
            let labels = format!("{{{},failure_type={kind:?},scope=\"hierarchy\"}}", row.labels);
            out.sample(&labels, value as f64, row.usage.at);
        }
    }
}

fn networks(out: &mut Text, links: &[(String, i64, Vec<Interface>)]) {
    for (name, kind, help, value) in NETWORK {
        out.plain(name, kind, help);
        for (labels, at, interfaces) in links {
            for i in interfaces {
                let labels = format!("{{{labels},interface={:?}}}", i.name);
                out.sample(&labels, value(i).unwrap_or(0.0), *at);
            }
        }
    }
}

fn machine(out: &mut Text, host: &Host, failed: bool) {
    out.plain("machine_cpu_cores", GAUGE, "Number of logical CPU cores.");
    out.sample("", host.processors as f64, host.at);
    out.plain(
        "machine_memory_bytes",
        GAUGE,
        "Amount of memory installed on the machine.",
    );
    out.sample("", host.total as f64, host.at);
    out.plain(
        "container_scrape_error",
        GAUGE,
        "1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.sample("", f64::from(u8::from(failed)), 0);
}
