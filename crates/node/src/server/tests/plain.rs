//! Who may ask; numbers; the end of the server.

use http_body_util::BodyExt;
use hyper_util::rt::TokioExecutor;
use runtime::ContainerStats;
use tokio::io::AsyncReadExt;

use super::*;

#[tokio::test]
async fn only_the_api_server_and_administrators_may_ask() {
    let stand = running().await;
    assert_eq!(stand.get("/healthz").await, (200, "ok".into()));
    let node = ("system:node:other", "system:nodes");
    let refused = whole(stand.ask_as(node, Method::GET, "/healthz", &[]).await).await;
    let message = "Forbidden (user=system:node:other, verb=get, resource=nodes, subresource=proxy)";
    assert_eq!(refused, (403, message.into()));

    // With TLS 1.3 the client learns of the refusal when it first reads.
    let refused = match stand.connect(None, b"http/1.1").await {
        Ok(mut tls) => tls.read(&mut [0; 1]).await.is_err(),
        Err(_) => true,
    };
    assert!(refused);
    assert_eq!(stand.refusal("/nonsense").await.0, 404);
    assert_eq!(whole(stand.ask(Method::DELETE, "/pods", &[]).await).await.0, 404);
}

#[tokio::test]
async fn plain_requests_go_over_http2() {
    let stand = running().await;
    let tls = stand.connect(Some(("admin", "system:masters")), b"h2").await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tls))
        .await
        .unwrap();
    tokio::spawn(connection);
    let request = Request::get("https://n1/healthz").body(Empty::<Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "ok");
}

#[tokio::test]
async fn numbers_are_told_per_pod_and_node() {
    let runtime = FakeRuntime {
        stats: vec![ContainerStats {
            pod_uid: "uid-p".into(),
            name: "c".into(),
            timestamp: 1_700_000_100_000_000_000,
            cpu_usage: 1_500_000_000,
            memory_working_set: 4096,
        }],
        ..FakeRuntime::default()
    };
    *lock(&runtime.sandbox) = Some(sandbox("p", vec![attempt("c", 0, ContainerState::Running)]));
    let stand = stand(vec![pod("p", json!({})), pod("q", json!({}))], runtime, None).await;
    the_api_is_told(&stand).await;

    let (status, pods) = stand.get("/pods").await;
    let pods: Value = serde_json::from_str(&pods).unwrap();
    assert_eq!(
        (status, pods["items"][1]["metadata"]["name"].as_str()),
        (200, Some("q"))
    );

    let (status, summary) = stand.get("/stats/summary").await;
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert_eq!((status, summary["node"]["nodeName"].as_str()), (200, Some("n1")));
    assert_eq!(summary["pods"][0]["podRef"]["name"], "p");
    assert_eq!(
        summary["pods"][0]["containers"][0]["cpu"]["usageCoreNanoSeconds"],
        1_500_000_000
    );
    assert_eq!(summary["pods"][0]["memory"]["workingSetBytes"], 4096);
    assert!(summary["node"]["memory"]["workingSetBytes"].as_u64() > Some(0));

    let (status, metrics) = stand.get("/metrics/resource").await;
    assert_eq!(status, 200);
    for line in [
        "container_cpu_usage_seconds_total{container=\"c\",namespace=\"ns\",pod=\"p\"} 1.5 1700000100000",
        "container_memory_working_set_bytes{container=\"c\",namespace=\"ns\",pod=\"p\"} 4096 1700000100000",
        "container_start_time_seconds{container=\"c\",namespace=\"ns\",pod=\"p\"} 1700000000",
        "pod_memory_working_set_bytes{namespace=\"ns\",pod=\"p\"} 4096 1700000100000",
        "resource_scrape_error 0",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in {metrics}");
    }
    assert!(stand.get("/metrics").await.1.contains("kubelet_running_pods 2\n"));

    let (status, metrics) = stand.get("/metrics/cadvisor").await;
    assert_eq!(status, 200);
    let labels = "{container=\"c\",id=\"\",image=\"i\",name=\"c-0\",namespace=\"ns\",pod=\"p\"}";
    for line in [
        format!("container_cpu_usage_seconds_total{labels} 1.5 1700000100000"),
        format!("container_memory_working_set_bytes{labels} 4096 1700000100000"),
        "# TYPE container_network_receive_bytes_total counter".to_owned(),
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is not in {metrics}");
    }
    // Every line is one of the format.
    for line in metrics.lines().filter(|l| !l.starts_with("# ")) {
        let value = line.rsplit_once('}').map_or(line, |(_, rest)| rest);
        assert!(value.split(' ').skip(1).all(|n| n.parse::<f64>().is_ok()), "{line}");
    }
}

/// What `metrics.k8s.io` is made of.
async fn the_api_is_told(stand: &Stand) {
    let (status, usage) = stand.get("/stats/usage").await;
    let usage: Value = serde_json::from_str(&usage).unwrap();
    assert_eq!(status, 200);
    assert!(usage["node"]["memoryBytes"].as_u64() > Some(0), "{usage}");
    assert!(
        usage["node"]["windowNanoseconds"].as_u64() >= Some(1_000_000_000),
        "{usage}"
    );
    assert_eq!(usage["pods"].as_array().map(Vec::len), Some(1), "{usage}");
    let c = &usage["pods"][0]["containers"][0];
    assert_eq!((&c["name"], &c["memoryBytes"]), (&json!("c"), &json!(4096)));
    // Since its start, 100 seconds ago.
    assert_eq!(
        (&c["cpuNanocores"], &c["time"]),
        (&json!(15_000_000), &json!("2023-11-14T22:15:00Z"))
    );
}

#[tokio::test]
async fn the_server_ends_when_it_is_told_to() {
    let mut stand = running().await;
    // A connection that says nothing does not keep it.
    let _idle = stand
        .connect(Some(("admin", "system:masters")), b"http/1.1")
        .await
        .unwrap();
    stand.stop.cancel();
    let ended = tokio::time::timeout(LIMIT, &mut stand.served).await;
    ended.expect("the end in time").unwrap().unwrap();
}
