//! Clients that mean ill, or do not know better: each gets a proper answer,
//! and the server goes on serving others.

use http::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fixture::{ADMIN, DEADLINE, MAPS, PODS, config_map, start, start_with};

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_cannot_be_read() {
    let f = start().await;
    let headers = [("content-type", "application/json")];
    let deep = "[".repeat(100_000);
    let nested = format!("{}1{}", "{\"a\":".repeat(5000), "}".repeat(5000));
    for body in [
        "",
        "{",
        "null",
        "3",
        "\"x\"",
        "{\"metadata\":[]}",
        "{\"metadata\":{\"name\":3}}",
        "\u{0}",
        &deep,
        &nested,
    ] {
        let answer = f.call(Method::POST, MAPS, &headers, body.to_owned()).await;
        assert!(
            (400..500).contains(&answer.code),
            "{}: {}",
            &body[..body.len().min(20)],
            answer.code
        );
        assert_eq!(answer.json()["kind"], "Status");
    }
    let huge = vec![b'x'; (3 << 20) + 1];
    let answer = f.call(Method::POST, MAPS, &headers, huge).await;
    assert_eq!(
        (answer.code, answer.json()["reason"].as_str()),
        (413, Some("RequestEntityTooLarge"))
    );
    let bomb = "a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\nf: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\ng: &g [*f,*f,*f,*f,*f,*f,*f,*f,*f]\nh: &h [*g,*g,*g,*g,*g,*g,*g,*g,*g]\n";
    let answer = f
        .call(Method::POST, MAPS, &[("content-type", "application/yaml")], bomb)
        .await;
    assert!((400..500).contains(&answer.code), "{}", answer.code);
    let proto = f
        .call(
            Method::POST,
            MAPS,
            &[("content-type", "application/vnd.kubernetes.protobuf")],
            "k8s\0junk",
        )
        .await;
    assert_eq!(proto.code, 400);
    assert_eq!(f.post(MAPS, &config_map("fine")).await.code, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn paths_that_try_tricks() {
    let f = start().await;
    for path in [
        "/api/v1/namespaces/default/pods/%2e%2e/secrets",
        "/api/v1/namespaces/default/pods/..",
        "/api/v1/namespaces/default%2Fpods",
        "/apis//v1/pods",
        "/apis/nope/v1/things",
        "/api/v2/pods",
        "/api/v1/namespaces/default/nodes",
        "/api/v1/pods/a",
        "/api/v1/namespaces/default/pods/a/bogus",
        "/api/v1/namespaces/default/pods/a/status/more",
        "/static/../etc/passwd",
        "/openapi/v3/apis/nope/v1",
        "/%00",
    ] {
        let answer = f.get(path).await;
        assert!(matches!(answer.code, 400 | 404), "{path}: {}", answer.code);
        assert_eq!(answer.json()["kind"], "Status", "{path}");
    }
    assert_eq!(f.call(Method::POST, "/api/v1/pods", &[], "{}").await.code, 405);
    assert_eq!(f.call(Method::OPTIONS, PODS, &[], "").await.code, 405);
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_that_are_too_long_or_never_end() {
    let f = start().await;
    let mut stream = f.connect().await;
    let head = format!(
        "GET {MAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\r\n",
        "x".repeat(200_000)
    );
    // The server may close before all is written.
    let _ = stream.write_all(head.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("not closed");
    let text = String::from_utf8_lossy(&answer);
    assert!(
        text.is_empty() || text.starts_with("HTTP/1.1 431") || text.starts_with("HTTP/1.1 4"),
        "{text}"
    );
    let mut smuggled = f.connect().await;
    let twice = format!(
        "POST {MAPS} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\ncontent-length: 2\r\ncontent-length: 30\r\n\r\n{{}}GET /api HTTP/1.1\r\n\r\n"
    );
    let _ = smuggled.write_all(twice.as_bytes()).await;
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(DEADLINE, smuggled.read_to_end(&mut answer))
        .await
        .expect("not closed");
    assert!(
        !String::from_utf8_lossy(&answer).contains("HTTP/1.1 2"),
        "{}",
        String::from_utf8_lossy(&answer)
    );
    assert_eq!(f.get(MAPS).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_is_turned_away_with_a_time_to_come_back() {
    let f = start_with(|c| c.max_in_flight = 0).await;
    let answer = f.get(MAPS).await;
    assert_eq!(
        (answer.code, answer.headers["retry-after"].as_bytes()),
        (429, &b"1"[..])
    );
    assert_eq!(f.get("/readyz").await.code, 200, "health is not limited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_stops_reading_holds_up_nobody() {
    let f = start().await;
    let mut stalled = f.connect_narrow().await;
    let head = format!("GET {MAPS}?watch=1 HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n\r\n");
    stalled.write_all(head.as_bytes()).await.unwrap();
    let client = f.client();
    let gvr = meta::Gvr::of("", "v1", "configmaps");
    let mut map = config_map("big");
    client
        .create(
            &gvr,
            "default",
            ("", ""),
            client::Body::from_value(&map),
            &Default::default(),
        )
        .await
        .unwrap();
    for i in 0..1600 {
        map["data"] = json!({"k": format!("{i}{}", "x".repeat(20_000))});
        let body = client::Body::from_value(&map);
        client
            .update(&gvr, "default", ("big", ""), body, &Default::default())
            .await
            .unwrap();
    }
    let metrics = String::from_utf8(f.get("/metrics").await.body.to_vec()).unwrap();
    let cut = metrics.contains("apiserver_terminated_watchers_total{resource=\"configmaps\"} 1");
    let watchers: Vec<&str> = metrics.lines().filter(|l| l.contains("watchers")).collect();
    assert!(cut, "not cut off: {watchers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn documents_of_discovery() {
    let f = start().await;
    let groups = f.get("/apis").await.json();
    assert!(groups["groups"].as_array().unwrap().iter().any(|g| g["name"] == "apps"));
    let accept = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
    let aggregated = f.call(Method::GET, "/apis", &[("accept", accept)], "").await;
    assert!(
        aggregated.headers["content-type"]
            .to_str()
            .unwrap()
            .contains("as=APIGroupDiscoveryList")
    );
    let etag = aggregated.headers["etag"].to_str().unwrap().to_owned();
    assert_eq!(
        f.call(
            Method::GET,
            "/apis",
            &[("accept", accept), ("if-none-match", &etag)],
            ""
        )
        .await
        .code,
        304
    );
    let index = f.get("/openapi/v3").await.json();
    for (path, url) in index["paths"].as_object().unwrap() {
        let document = f.get(url["serverRelativeURL"].as_str().unwrap()).await.json();
        assert!(!document["paths"].as_object().unwrap().is_empty(), "{path}");
        for reference in references(&document) {
            assert!(
                document.pointer(reference.trim_start_matches('#')).is_some(),
                "{path}: {reference}"
            );
        }
    }
    let v2 = f.get("/openapi/v2").await.json();
    assert_eq!(v2["swagger"], "2.0");
    assert_eq!(f.get("/version").await.json()["minor"], "36");
}

fn references(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Array(items) => items.iter().flat_map(references).collect(),
        serde_json::Value::Object(map) => {
            let own = map.get("$ref").and_then(|r| r.as_str()).map(str::to_owned);
            own.into_iter().chain(map.values().flat_map(references)).collect()
        }
        _ => Vec::new(),
    }
}
