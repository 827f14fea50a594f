//! `/stats/usage`: what `metrics.k8s.io` asks of a node, with the time over which each rate was
//! measured, which upstream's documents leave out. Must not say more than that.

use http::Response;
use serde_json::{Value, json};

use super::{measure, rfc3339};
use crate::server::Shared;
use crate::server::answer::{Body, Refusal, document};
use crate::stats::Rate;

/// `/stats/usage`.
pub(crate) async fn usage(shared: &Shared) -> Result<Response<Body>, Refusal> {
    let measured = measure(shared).await?;
    let host = &measured.snapshot.host;
    let node = measured.host_rate().map(|rate| one(host.at, rate, host.working_set));
    let pods = measured.snapshot.pods.iter().filter_map(|pod| {
        let mut containers = Vec::new();
        for c in &pod.containers {
            // A pod is told whole or not at all: half of it would look like a lot less.
            let rate = measured.rate(c.key(), c.started, (c.usage.at, c.usage.cpu))?;
            let mut value = one(c.usage.at, rate, c.usage.memory.working_set);
            value["name"] = c.name.as_str().into();
            containers.push(value);
        }
        Some(json!({"namespace": pod.namespace, "name": pod.name, "uid": pod.uid, "containers": containers}))
    });
    let pods: Vec<Value> = pods.collect();
    Ok(document(&json!({"node": node, "pods": pods})))
}

fn one(at: i64, rate: Rate, memory: u64) -> Value {
    json!({"time": rfc3339(at), "windowNanoseconds": rate.window,
        "cpuNanocores": rate.nanocores, "memoryBytes": memory})
}
