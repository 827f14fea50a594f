//! What it costs to write a typical pod as JSON, protobuf and CBOR: time and
//! bytes for one object. JSON is what is kept, so that its cost is a copy.
//!
//! `cargo run --profile fast -p apiserver --example wire`

#[expect(dead_code, reason = "the server's own modules, of which this uses a part")]
#[path = "../src/wire/mod.rs"]
mod wire;

use std::hint::black_box;
use std::time::Instant;

use meta::Object;
use serde_json::{Value, json};

const ROUNDS: u32 = 20_000;

fn container(name: &str) -> Value {
    json!({
        "name": name, "image": "registry.example/shop/web:1.2.3", "imagePullPolicy": "IfNotPresent",
        "command": ["/bin/web", "--listen=:8080"],
        "env": [
            {"name": "DB_HOST", "value": "db.default.svc"},
            {"name": "DB_PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}},
            {"name": "NODE", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.nodeName"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
        "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
        "livenessProbe": {"httpGet": {"path": "/healthz", "port": "http", "scheme": "HTTP"}, "periodSeconds": 10,
            "timeoutSeconds": 1, "successThreshold": 1, "failureThreshold": 3},
        "volumeMounts": [{"name": "token", "readOnly": true, "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}],
        "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
    })
}

fn pod() -> Value {
    let condition = |kind: &str| json!({"type": kind, "status": "True", "lastProbeTime": null, "lastTransitionTime": "2026-03-04T05:06:07Z"});
    let status = |name: &str| {
        json!({"name": name, "image": "registry.example/shop/web:1.2.3", "imageID": "sha256:0123456789abcdef",
        "containerID": "containerd://0123456789abcdef0123456789abcdef", "ready": true, "started": true, "restartCount": 0,
        "state": {"running": {"startedAt": "2026-03-04T05:06:09Z"}}, "lastState": {}})
    };
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {
            "name": "web-5d9c7b8f6d-x2x4z", "generateName": "web-5d9c7b8f6d-", "namespace": "default",
            "uid": "3f0c1d9e-9c1b-4d52-8a52-1f6a3a0f4b11", "resourceVersion": "12345", "generation": 1,
            "creationTimestamp": "2026-03-04T05:06:07Z",
            "labels": {"app": "web", "pod-template-hash": "5d9c7b8f6d"},
            "annotations": {"example.com/rev": "7"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-5d9c7b8f6d",
                "uid": "0a1b2c3d-0000-4000-8000-000000000000", "controller": true, "blockOwnerDeletion": true}],
            "managedFields": [
                {"manager": "controllers", "operation": "Update", "apiVersion": "v1", "time": "2026-03-04T05:06:07Z",
                 "fieldsType": "FieldsV1", "fieldsV1": {"f:metadata": {"f:labels": {"f:app": {}}, "f:ownerReferences": {".": {}}},
                    "f:spec": {"f:containers": {"k:{\"name\":\"web\"}": {".": {}, "f:image": {}, "f:env": {}, "f:ports": {}}}}}},
                {"manager": "node", "operation": "Update", "apiVersion": "v1", "time": "2026-03-04T05:06:09Z",
                 "fieldsType": "FieldsV1", "subresource": "status", "fieldsV1": {"f:status": {"f:phase": {}, "f:podIP": {}}}},
            ],
        },
        "spec": {
            "containers": [container("web"), container("side")],
            "volumes": [{"name": "token", "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}]}}],
            "restartPolicy": "Always", "terminationGracePeriodSeconds": 30, "dnsPolicy": "ClusterFirst",
            "serviceAccountName": "default", "serviceAccount": "default", "nodeName": "node-1", "securityContext": {},
            "schedulerName": "default-scheduler", "enableServiceLinks": true, "priority": 0,
            "tolerations": [{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}],
        },
        "status": {
            "phase": "Running", "hostIP": "10.0.0.1", "podIP": "10.42.0.17", "podIPs": [{"ip": "10.42.0.17"}],
            "startTime": "2026-03-04T05:06:07Z", "qosClass": "Burstable",
            "conditions": [condition("Initialized"), condition("Ready"), condition("ContainersReady"), condition("PodScheduled")],
            "containerStatuses": [status("web"), status("side")],
        },
    })
}

fn measure(name: &str, mut write: impl FnMut(&mut Vec<u8>)) {
    let mut out = Vec::new();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        out.clear();
        write(black_box(&mut out));
    }
    let nanos = start.elapsed().as_nanos() / u128::from(ROUNDS);
    println!("{name:<22} {nanos:>8} ns/object {:>8} bytes", out.len());
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let value = pod();
    let full = value.to_string();
    let object = Object::from_value(value)?;
    let message = wire::table::table().find("core.v1.pod").ok_or("no message for pods")?;
    measure("JSON, copied", |out| out.extend_from_slice(full.as_bytes()));
    measure("JSON, parsed", |out| {
        black_box(serde_json::from_str::<Value>(&full).ok());
        out.extend_from_slice(full.as_bytes());
    });
    measure("protobuf", |out| {
        let _ = wire::encode::body(out, "v1", "Pod", |out| wire::encode::object(out, message, &object));
    });
    let mut protobuf = Vec::new();
    wire::encode::body(&mut protobuf, "v1", "Pod", |out| {
        wire::encode::object(out, message, &object)
    })?;
    measure("protobuf, read", |out| {
        black_box(wire::protobuf::decode(&protobuf).ok());
        out.extend_from_slice(&protobuf);
    });
    measure("CBOR", |out| {
        let _ = wire::cbor::document(out, full.as_bytes());
    });
    let mut cbor = Vec::new();
    wire::cbor::document(&mut cbor, full.as_bytes())?;
    measure("CBOR, read", |out| {
        black_box(wire::uncbor::decode(&cbor).ok());
        out.extend_from_slice(&cbor);
    });
    Ok(())
}
