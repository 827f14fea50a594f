//! Counters under upstream's names, as Prometheus text. Must not label by
//! anything that clients can choose freely.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::Method;

/// Upper bounds of latency buckets, in milliseconds.
const BUCKETS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 1000, 60_000];

/// What is counted of requests.
#[derive(Default)]
pub struct Metrics(Mutex<BTreeMap<Series, Counts>>);

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Series {
    verb: &'static str,
    resource: String,
    code: u16,
}

#[derive(Default)]
struct Counts {
    requests: u64,
    micros: u64,
    buckets: [u64; BUCKETS.len()],
}

/// Distinct series kept; paths of unknown resources must not fill the memory.
const MOST: usize = 2000;

impl Metrics {
    /// Counts a request.
    pub(crate) fn count(&self, method: &Method, label: (&'static str, String), code: u16, took: Duration) {
        let verb = match label.0 {
            "" if *method == Method::GET => "GET",
            "" => "OTHER",
            verb => verb,
        };
        let mut series = Series {
            verb,
            resource: label.1,
            code,
        };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if code == 404 || (all.len() >= MOST && !all.contains_key(&series)) {
            series.resource.clear();
        }
        let counts = all.entry(series).or_default();
        counts.requests += 1;
        counts.micros += u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        for (bucket, bound) in counts.buckets.iter_mut().zip(BUCKETS) {
            *bucket += u64::from(ms < bound);
        }
    }

    /// Prometheus text.
    pub(crate) fn text(&self, gauges: &[(String, u64)]) -> String {
        let mut out = String::new();
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        out.push_str("# TYPE apiserver_request_total counter\n");
        for (s, c) in all.iter() {
            let _ = writeln!(
                out,
                "apiserver_request_total{{verb=\"{}\",resource=\"{}\",code=\"{}\"}} {}",
                s.verb.to_uppercase(),
                s.resource,
                s.code,
                c.requests
            );
        }
        out.push_str("# TYPE apiserver_request_duration_seconds histogram\n");
        for (s, c) in all.iter().filter(|(s, _)| s.verb != "watch") {
            let labels = format!(
                "verb=\"{}\",resource=\"{}\",code=\"{}\"",
                s.verb.to_uppercase(),
                s.resource,
                s.code
            );
            for (n, bound) in c.buckets.iter().zip(BUCKETS) {
                let seconds = bound as f64 / 1000.0;
                let _ = writeln!(
                    out,
                    "apiserver_request_duration_seconds_bucket{{{labels},le=\"{seconds}\"}} {n}"
                );
            }
            let name = "apiserver_request_duration_seconds";
            let _ = writeln!(out, "{name}_bucket{{{labels},le=\"+Inf\"}} {}", c.requests);
            let _ = writeln!(out, "{name}_sum{{{labels}}} {}", c.micros as f64 / 1e6);
            let _ = writeln!(out, "{name}_count{{{labels}}} {}", c.requests);
        }
        for (name, value) in gauges {
            let _ = writeln!(out, "{name} {value}");
        }
        out
    }
}
