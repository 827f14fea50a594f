//! Tests of whole decisions; helpers that several of them share.

mod filters;
mod placement;
mod preemption;
mod volumes;

use std::sync::Arc;

use meta::Object;
use serde_json::{Value, json};

use crate::{Cluster, Decision, schedule};

fn object(value: Value) -> Arc<Object> {
    Arc::new(Object::from_value(value).unwrap())
}

/// A node of 4 CPUs, 8Gi and 10 pods, changed by a merge.
fn node(name: &str, change: Value) -> Arc<Object> {
    let mut value = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {},
        "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "10Gi", "pods": "10"}},
    });
    merge(&mut value, change);
    object(value)
}

/// A pod that asks for nothing, changed by a merge.
fn pod(name: &str, change: Value) -> Arc<Object> {
    let mut value = json!({
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}"), "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    });
    merge(&mut value, change);
    object(value)
}

fn asking(name: &str, requests: Value) -> Arc<Object> {
    pod(
        name,
        json!({"spec": {"containers": [{"name": "c", "resources": {"requests": requests}}]}}),
    )
}

fn cluster(nodes: &[Arc<Object>]) -> Cluster {
    let mut cluster = Cluster::new();
    for node in nodes {
        cluster.set_node(node);
    }
    cluster
}

fn bound(cluster: &Cluster, pod: &Object) -> String {
    match schedule(cluster, pod, 1) {
        Decision::Bind { node, .. } => node,
        other => panic!("{other:?}"),
    }
}

/// The message without what it says of preemption.
fn refused(cluster: &Cluster, pod: &Object) -> String {
    match schedule(cluster, pod, 1) {
        Decision::Wait { message, .. } => message.split(" preemption: ").next().unwrap_or_default().to_owned(),
        other => panic!("{other:?}"),
    }
}

fn merge(value: &mut Value, change: Value) {
    match (value, change) {
        (Value::Object(map), Value::Object(change)) => {
            for (k, v) in change {
                merge(map.entry(k).or_insert(Value::Null), v);
            }
        }
        (value, change) => *value = change,
    }
}
