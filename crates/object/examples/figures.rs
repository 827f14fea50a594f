//! How long the machinery takes on a typical Pod and ConfigMap, one figure a line:
//! `cargo run --release -p object --example figures`.

use std::hint::black_box;
use std::time::{Duration, Instant};

use object::apply::{Managers, Writer, apply, track};
use object::schema::Schema;
use serde_json::{Value, json};

/// How long each figure is measured.
const BUDGET: Duration = Duration::from_millis(300);

fn measure(name: &str, mut work: impl FnMut()) {
    let (start, mut rounds) = (Instant::now(), 0_u32);
    while start.elapsed() < BUDGET {
        (0..100).for_each(|_| work());
        rounds += 100;
    }
    let each = start.elapsed() / rounds;
    println!(
        "{name}: {} ns, {:.0} a second",
        each.as_nanos(),
        1.0 / each.as_secs_f64()
    );
}

/// As much of a Pod's schema as the sample uses, written as a custom resource's would be.
fn schema() -> Schema {
    let keyed = |key: &[&str], items: Value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": key, "items": items});
    let text = || json!({"type": "string"});
    let texts = || json!({"type": "object", "additionalProperties": {"type": "string"}});
    let container = json!({"type": "object", "properties": {
        "name": text(), "image": text(), "imagePullPolicy": text(),
        "args": {"type": "array", "items": text()},
        "env": keyed(&["name"], json!({"type": "object", "properties": {"name": text(), "value": text()}})),
        "ports": keyed(&["containerPort", "protocol"], json!({"type": "object", "properties": {
            "containerPort": {"type": "integer", "format": "int32"},
            "protocol": {"type": "string", "default": "TCP"}}})),
        "resources": {"type": "object", "properties": {"requests": texts(), "limits": texts()}},
        "volumeMounts": keyed(&["mountPath"], json!({"type": "object", "properties": {"name": text(), "mountPath": text()}})),
    }});
    let spec = json!({"type": "object", "properties": {
        "containers": keyed(&["name"], container),
        "restartPolicy": {"type": "string", "default": "Always"},
        "serviceAccountName": text(), "nodeName": text(),
        "volumes": keyed(&["name"], json!({"type": "object", "properties": {
            "name": text(), "configMap": {"type": "object", "properties": {"name": text()}}}})),
    }});
    let root = json!({"type": "object", "properties": {"spec": spec, "data": texts()}});
    object::openapi::from_crd(&root).unwrap_or_default()
}

fn pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": "web-7d4f", "namespace": "shop", "labels": {"app": "web", "pod-template-hash": "7d4f"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web", "uid": "1", "controller": true}]},
        "spec": {"containers": [{"name": "web", "image": "registry.example/web:1", "args": ["--port", "80"],
            "env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}],
            "ports": [{"containerPort": 80}], "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            "volumeMounts": [{"name": "config", "mountPath": "/etc/web"}]}],
            "volumes": [{"name": "config", "configMap": {"name": "web"}}]},
    })
}

fn config_map() -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "web", "namespace": "shop"},
        "data": {"title": "Farm shop", "colour": "green", "motd": "Fresh eggs today"}})
}

fn main() {
    let schema = schema();
    let writer = Writer {
        name: "kubectl",
        api_version: "v1",
        subresource: "",
        time: "2026-01-02T03:04:05Z",
        has_status: true,
    };
    for (name, object) in [("pod", pod()), ("configmap", config_map())] {
        let bytes = object.to_string();
        let mut changed = object.clone();
        changed["metadata"]["labels"]["app"] = "other".into();
        let mut managers = Managers::default();
        track(&schema, None, &object, &mut managers, &writer);
        let encoded = managers.encode().unwrap_or_default();
        measure(&format!("{name} decode"), || {
            drop(black_box(object::decode::json(bytes.as_bytes())))
        });
        measure(&format!("{name} prune, default, validate"), || {
            let mut value = object.clone();
            object::shape::prune(&schema, &mut value);
            object::shape::apply_defaults(&schema, &mut value);
            drop(black_box(object::shape::validate(&schema, &value)));
        });
        measure(&format!("{name} track create"), || {
            let mut m = Managers::default();
            track(&schema, None, &object, &mut m, &writer);
            drop(black_box(m.encode()));
        });
        measure(&format!("{name} track update"), || {
            let mut m = Managers::decode(&encoded);
            track(&schema, Some(&object), &changed, &mut m, &writer);
            drop(black_box(m.encode()));
        });
        measure(&format!("{name} track update without change"), || {
            let mut m = Managers::decode(&encoded);
            track(&schema, Some(&object), &object, &mut m, &writer);
            drop(black_box(m.encode()));
        });
        measure(&format!("{name} apply"), || {
            let mut m = Managers::decode(&encoded);
            drop(black_box(apply(
                &schema,
                Some(&object),
                &changed,
                &mut m,
                &writer,
                true,
            )));
            drop(black_box(m.encode()));
        });
    }
}
