//! What is passed through to nodes, against a node that answers what it was asked.

use std::sync::Arc;

use client::PatchType;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::fixture::{ADMIN, DEADLINE, Fixture, PODS, pod, start};

/// A node that echoes: the head of a plain request as its body, all bytes after an upgrade.
async fn node(f: &Fixture, name: &'static str) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(f.node_tls(name)));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.unwrap();
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    head.push(stream.read_u8().await.unwrap());
                }
                let text = String::from_utf8(head).unwrap();
                if text.to_lowercase().contains("upgrade: ") {
                    let answer = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n";
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let (mut read, mut write) = tokio::io::split(stream);
                    let _ = tokio::io::copy(&mut read, &mut write).await;
                } else {
                    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len());
                    stream.write_all(answer.as_bytes()).await.unwrap();
                    let _ = stream.shutdown().await;
                }
            });
        }
    });
    f.post("/api/v1/nodes", &json!({"metadata": {"name": name}})).await;
    let status = json!({"status": {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }});
    let patched = f
        .patch(&format!("/api/v1/nodes/{name}/status"), PatchType::Merge, &status)
        .await;
    assert_eq!(patched.code, 200, "{}", patched.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_and_streams_reach_the_node_without_credentials() {
    let f = start().await;
    node(&f, "n1").await;
    f.post(PODS, &pod("p")).await;
    let exec = format!("{PODS}/p/exec?command=ls&stdout=true");
    let early = f.get(&exec).await;
    assert_eq!(
        (early.code, early.message().as_str()),
        (400, "pod p does not have a host assigned")
    );
    f.post(
        &format!("{PODS}/p/binding"),
        &json!({"target": {"kind": "Node", "name": "n1"}}),
    )
    .await;
    let log = f.get(&format!("{PODS}/p/log?follow=true&tailLines=3")).await;
    let seen = String::from_utf8(log.body.to_vec()).unwrap();
    assert!(
        seen.starts_with("GET /containerLogs/default/p/c?follow=true&tailLines=3 HTTP/1.1"),
        "{seen}"
    );
    assert!(!seen.contains(ADMIN), "{seen}");
    let proxied = f.get("/api/v1/nodes/n1/proxy/stats/summary?x=1").await;
    assert!(String::from_utf8_lossy(&proxied.body).starts_with("GET /stats/summary?x=1 "));
    let mut stream = f.connect().await;
    let head = format!(
        "POST {exec} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\nconnection: Upgrade\r\nupgrade: SPDY/3.1\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(
            tokio::time::timeout(DEADLINE, stream.read_u8())
                .await
                .expect("no answer")
                .unwrap(),
        );
    }
    let answer = String::from_utf8(answer).unwrap().to_lowercase();
    assert!(
        answer.starts_with("http/1.1 101") && answer.contains("upgrade: spdy/3.1"),
        "{answer}"
    );
    let sent: Vec<u8> = (0..200_000u32).flat_map(u32::to_le_bytes).collect();
    let (mut read, mut write) = tokio::io::split(stream);
    let expected = sent.len();
    let writing = tokio::spawn(async move { write.write_all(&sent).await.map(|()| sent) });
    let mut back = vec![0; expected];
    tokio::time::timeout(DEADLINE, read.read_exact(&mut back))
        .await
        .expect("no echo")
        .unwrap();
    assert!(writing.await.unwrap().unwrap() == back);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_away_is_an_error_and_no_hang() {
    let f = start().await;
    f.post(PODS, &pod("p")).await;
    f.post(
        &format!("{PODS}/p/binding"),
        &json!({"target": {"kind": "Node", "name": "gone"}}),
    )
    .await;
    assert_eq!(f.get(&format!("{PODS}/p/log")).await.code, 404, "there is no such node");
    f.post("/api/v1/nodes", &json!({"metadata": {"name": "gone"}})).await;
    assert_eq!(f.get(&format!("{PODS}/p/log")).await.code, 503, "it has no address");
    let status = json!({"status": {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": 1}}}});
    f.patch("/api/v1/nodes/gone/status", PatchType::Merge, &status).await;
    let refused = f.get(&format!("{PODS}/p/log")).await;
    assert_eq!(refused.code, 502);
    assert!(
        refused.message().contains("error dialing backend 127.0.0.1:1"),
        "{}",
        refused.message()
    );
    let unknown = f.get(&format!("{PODS}/p/log?container=zzz")).await;
    assert_eq!(
        (unknown.code, unknown.message().as_str()),
        (400, "container zzz is not valid for pod p")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_are_started_and_stopped_by_their_subresources() {
    let f = start().await;
    let machines = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines";
    let machine = json!({"metadata": {"name": "vm"}, "spec": {"runStrategy": "Halted",
        "template": {"spec": {"domain": {"devices": {}, "memory": {"guest": "64Mi"}}}}}});
    let made = f.post(machines, &machine).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let actions = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachines/vm";
    let stopped = f.put(&format!("{actions}/stop"), &json!({})).await;
    assert_eq!(
        (stopped.code, stopped.message().contains("VM is not running")),
        (409, true)
    );
    assert_eq!(f.put(&format!("{actions}/start"), &json!({})).await.code, 202);
    let started = f.get(&format!("{machines}/vm")).await.json();
    assert_eq!(
        (&started["spec"]["runStrategy"], &started["metadata"]["generation"]),
        (&json!("Always"), &json!(2))
    );
    let early = f.put(&format!("{actions}/restart"), &json!({})).await;
    assert_eq!((early.code, early.message().contains("VM is not running")), (409, true));
    let instances = "/apis/kubevirt.io/v1/namespaces/default/virtualmachineinstances";
    let owner = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachine", "name": "vm", "controller": true,
        "uid": started["metadata"]["uid"]});
    let instance = json!({"apiVersion": "kubevirt.io/v1", "kind": "VirtualMachineInstance",
        "metadata": {"name": "vm", "ownerReferences": [owner]},
        "spec": {"terminationGracePeriodSeconds": 30, "domain": {"devices": {}, "memory": {"guest": "64Mi"}}}});
    let made = f.post(instances, &instance).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let phase = json!({"status": {"phase": "Running", "nodeName": "nowhere"}});
    f.patch(&format!("{instances}/vm/status"), PatchType::Merge, &phase)
        .await;
    let tried = f.put(&format!("{actions}/restart"), &json!({"dryRun": ["All"]})).await;
    assert_eq!(tried.code, 202, "{}", tried.message());
    let force = json!({"gracePeriodSeconds": 0});
    assert_eq!(f.put(&format!("{actions}/restart"), &force).await.code, 202);
    let restarted = f.get(&format!("{machines}/vm")).await.json();
    assert_eq!(restarted["status"]["stateChangeRequests"][1]["action"], "Start");
    let hurried = f.get(&format!("{instances}/vm")).await.json();
    assert_eq!(hurried["spec"]["terminationGracePeriodSeconds"], 1);
    let instance = "/apis/subresources.kubevirt.io/v1/namespaces/default/virtualmachineinstances/vm";
    assert_eq!(f.get(&format!("{instance}/bogus")).await.code, 404);
    let gone = instance.replace("/vm", "/other");
    assert_eq!(f.get(&format!("{gone}/console")).await.code, 404);
    for (method, path, code, words) in [
        ("put", format!("{actions}/migrate"), 500, "Cannot migrate VMI"),
        ("get", format!("{instance}/userlist"), 409, "guest agent"),
        ("put", format!("{instance}/unpause"), 409, "VMI is not paused"),
        ("get", format!("{instance}/vsock"), 400, "VSOCK is not attached"),
        ("get", format!("{instance}/usbredir"), 409, "USB Redirection"),
        (
            "get",
            format!("{instance}/sev/fetchcertchain"),
            400,
            "WorkloadEncryptionSEV",
        ),
        ("put", format!("{actions}/removevolume"), 400, "requires name"),
    ] {
        let answer = match method {
            "put" => f.put(&path, &json!({})).await,
            _ => f.get(&path).await,
        };
        let said = answer.message();
        assert!(
            answer.code == code && said.contains(words),
            "{path}: {} {said}",
            answer.code
        );
    }
    let add = json!({"name": "extra", "disk": {"disk": {"bus": "scsi"}},
        "volumeSource": {"persistentVolumeClaim": {"claimName": "more"}}});
    assert_eq!(f.put(&format!("{actions}/addvolume"), &add).await.code, 202);
    let both = [
        f.get(&format!("{machines}/vm")).await.json()["spec"]["template"]["spec"].clone(),
        f.get(&format!("{instances}/vm")).await.json()["spec"].clone(),
    ];
    for spec in both {
        assert_eq!(
            spec["volumes"][0]["persistentVolumeClaim"]["hotpluggable"], true,
            "{spec}"
        );
    }
    assert_eq!(f.put(&format!("{actions}/addvolume"), &add).await.code, 409);
    let expanded = f.get(&format!("{actions}/expand-spec")).await;
    assert_eq!(
        (expanded.code, &expanded.json()["kind"]),
        (200, &json!("VirtualMachine"))
    );
    let cancelled = f.put(&format!("{actions}/evacuate/cancel"), &json!({})).await;
    assert_eq!(cancelled.code, 409, "{}", cancelled.message());
    let group = f.get("/apis/subresources.kubevirt.io").await.json();
    assert_eq!(group["preferredVersion"]["version"], "v1");
    let version = f.get("/apis/subresources.kubevirt.io/v1/version").await.json();
    assert!(
        version["gitVersion"].as_str().is_some_and(|v| v.starts_with('v')),
        "{version}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn evictions_respect_the_budget() {
    let f = start().await;
    let mut one = pod("p");
    one["metadata"]["labels"] = json!({"app": "x"});
    f.post(PODS, &one).await;
    f.patch(
        &format!("{PODS}/p/status"),
        PatchType::Merge,
        &json!({"status": {"phase": "Running"}}),
    )
    .await;
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget =
        json!({"metadata": {"name": "b"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "x"}}}});
    assert_eq!(f.post(budgets, &budget).await.code, 201);
    let allow = |n: i64| json!({"status": {"observedGeneration": 1, "disruptionsAllowed": n, "desiredHealthy": 1, "currentHealthy": 1, "expectedPods": 1}});
    f.patch(&format!("{budgets}/b/status"), PatchType::Merge, &allow(0))
        .await;
    let eviction =
        json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p", "namespace": "default"}});
    let refused = f.post(&format!("{PODS}/p/eviction"), &eviction).await;
    assert_eq!(refused.code, 429, "{}", refused.message());
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "DisruptionBudget");
    f.patch(&format!("{budgets}/b/status"), PatchType::Merge, &allow(1))
        .await;
    assert_eq!(f.post(&format!("{PODS}/p/eviction"), &eviction).await.code, 201);
    let spent = f.get(&format!("{budgets}/b")).await.json();
    assert_eq!(spent["status"]["disruptionsAllowed"], 0);
}
