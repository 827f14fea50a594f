//! How many decisions a second: `cargo run --profile fast -p scheduler --example bench`.
//!
//! Must not be part of a test: its figures depend on the machine.

use std::sync::Arc;
use std::time::Instant;

use meta::Object;
use scheduler::{Cluster, Decision, schedule};
use serde_json::{Value, json};

const PODS: usize = 5000;

fn object(value: Value) -> Arc<Object> {
    match Object::from_value(value) {
        Ok(object) => Arc::new(object),
        Err(e) => unreachable!("{e}"),
    }
}

fn main() {
    println!(
        "{:>6} {:>12} {:>12} {:>12} {:>14}",
        "nodes", "pods", "plain/s", "spread/s", "anti-affine/s"
    );
    for nodes in [10, 100, 1000] {
        let pods = PODS.min(nodes * 100);
        let figures = [0, 1, 2].map(|kind| run(nodes, pods, kind));
        println!(
            "{nodes:>6} {pods:>12} {:>12} {:>12} {:>14}",
            figures[0], figures[1], figures[2]
        );
    }
}

fn run(nodes: usize, pods: usize, kind: u8) -> u64 {
    let mut cluster = Cluster::new();
    for i in 0..nodes {
        cluster.set_node(&node(i));
    }
    let pods: Vec<_> = (0..pods).map(|i| pod(i, nodes, kind)).collect();
    let start = Instant::now();
    let mut bound = 0;
    for (i, pod) in pods.iter().enumerate() {
        if let Decision::Bind { node, .. } = schedule(&cluster, pod, i as u64) {
            cluster.assume(pod, &node);
            bound += 1;
        }
    }
    assert_eq!(bound, pods.len(), "all fit");
    (pods.len() as f64 / start.elapsed().as_secs_f64()) as u64
}

fn node(i: usize) -> Arc<Object> {
    let name = format!("node-{i}");
    object(json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, "kubernetes.io/arch": "amd64",
            "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": format!("zone-{}", i % 3)}},
        "status": {"allocatable": {"cpu": "64", "memory": "256Gi", "pods": "110"}},
    }))
}

/// Pods of Deployments; of kind 1 spread over zones, of kind 2 apart from their like.
fn pod(i: usize, nodes: usize, kind: u8) -> Arc<Object> {
    let app = format!("app-{}", i / nodes.clamp(5, 50));
    let selector = json!({"matchLabels": {"app": app}});
    let mut spec = json!({"containers": [{"name": "c", "image": "registry.example/app:1",
        "resources": {"requests": {"cpu": "100m", "memory": "128Mi"}}}]});
    match kind {
        1 => {
            spec["topologySpreadConstraints"] = json!([{"maxSkew": 1, "topologyKey": "topology.kubernetes.io/zone",
                "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector}]);
        }
        2 => {
            let term = json!([{"labelSelector": selector, "topologyKey": "kubernetes.io/hostname"}]);
            spec["affinity"] = json!({"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": term}});
        }
        _ => {}
    }
    object(json!({
        "metadata": {"name": format!("pod-{i}"), "namespace": "default", "uid": format!("uid-{i}"),
            "labels": {"app": app, "pod-template-hash": "x"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": app, "uid": app,
                "controller": true}]},
        "spec": spec,
    }))
}
