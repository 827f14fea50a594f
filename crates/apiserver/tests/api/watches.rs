//! Watches: order, selection, resumption, bookmarks, initial events, slow readers.

use client::{EventStream, ListOptions, WatchEvent};
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::fixture::{ADMIN, DEADLINE, Fixture, MAPS, config_map, start};

const GVR: meta::Gvr = meta::Gvr::of("", "v1", "configmaps");

struct Lines {
    body: Incoming,
    rest: Vec<u8>,
}

impl Lines {
    async fn open(f: &Fixture, path: &str) -> Lines {
        let request = Request::get(path)
            .header("host", "localhost")
            .header("authorization", format!("Bearer {ADMIN}"))
            .body(Full::default())
            .unwrap();
        let response = f.send(request).await;
        assert_eq!(response.status(), 200, "{path}");
        Lines {
            body: response.into_body(),
            rest: Vec::new(),
        }
    }

    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(at) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=at).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = tokio::time::timeout(DEADLINE, self.body.frame())
                .await
                .expect("no event in time")?;
            self.rest.extend_from_slice(frame.ok()?.data_ref()?);
        }
    }

    async fn expect(&mut self, kind: &str, name: &str) -> Value {
        let event = self.next().await.expect("the watch ended");
        assert_eq!(
            (event["type"].as_str(), event["object"]["metadata"]["name"].as_str()),
            (Some(kind), Some(name)),
            "{event}"
        );
        event
    }
}

async fn revision(f: &Fixture) -> String {
    let list = f.get(&format!("{MAPS}?limit=1")).await.json();
    list["metadata"]["resourceVersion"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn events_come_in_order_and_with_their_revision() {
    let f = start().await;
    let from = revision(&f).await;
    let mut watch = Lines::open(&f, &format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    f.post(MAPS, &config_map("a")).await;
    f.patch(
        &format!("{MAPS}/a"),
        client::PatchType::Merge,
        &json!({"data": {"k": "2"}}),
    )
    .await;
    f.delete(&format!("{MAPS}/a"), &json!({})).await;
    let added = watch.expect("ADDED", "a").await;
    let modified = watch.expect("MODIFIED", "a").await;
    let deleted = watch.expect("DELETED", "a").await;
    let rv = |e: &Value| {
        e["object"]["metadata"]["resourceVersion"]
            .as_str()
            .unwrap()
            .parse::<u64>()
            .unwrap()
    };
    assert!(rv(&added) < rv(&modified) && rv(&modified) < rv(&deleted));
    assert_eq!(deleted["object"]["data"]["k"], "2");
    assert!(added["object"]["metadata"]["managedFields"].is_array());
    // Resumed after the first, the second comes next.
    let mut resumed = Lines::open(&f, &format!("{MAPS}?watch=1&resourceVersion={}", rv(&added))).await;
    resumed.expect("MODIFIED", "a").await;
    resumed.expect("DELETED", "a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn leaving_the_selection_is_a_deletion() {
    let f = start().await;
    let from = revision(&f).await;
    let mut watch = Lines::open(
        &f,
        &format!("{MAPS}?watch=1&resourceVersion={from}&labelSelector=app%3Dx"),
    )
    .await;
    f.post(MAPS, &config_map("a")).await;
    let patch = |app: &'static str| {
        f.patch(
            "/api/v1/namespaces/default/configmaps/a",
            client::PatchType::Merge,
            Box::leak(Box::new(json!({"metadata": {"labels": {"app": app}}}))),
        )
    };
    patch("y").await;
    patch("z").await;
    let last = patch("x").await.json();
    watch.expect("ADDED", "a").await;
    let left = watch.expect("DELETED", "a").await;
    assert_eq!(
        left["object"]["metadata"]["labels"]["app"], "x",
        "the state that was selected"
    );
    let back = watch.expect("ADDED", "a").await;
    assert_eq!(
        back["object"]["metadata"]["resourceVersion"],
        last["metadata"]["resourceVersion"]
    );
    let mut one = Lines::open(
        &f,
        &format!("{MAPS}?watch=1&resourceVersion={from}&fieldSelector=metadata.name%3Db"),
    )
    .await;
    f.post(MAPS, &config_map("b")).await;
    one.expect("ADDED", "b").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn initial_events_end_with_a_marked_bookmark() {
    let f = start().await;
    for i in 0..600 {
        f.client()
            .create(
                &GVR,
                "default",
                ("", ""),
                client::Body::from_value(&config_map(&format!("m{i:03}"))),
                &Default::default(),
            )
            .await
            .unwrap();
    }
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=app%3Dx&timeoutSeconds=1";
    let mut watch = Lines::open(&f, &format!("{MAPS}?{query}")).await;
    for i in 0..600 {
        watch.expect("ADDED", &format!("m{i:03}")).await;
    }
    let mark = watch.next().await.unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"],
        "true"
    );
    let last = watch.next().await.unwrap();
    assert_eq!(last["type"], "BOOKMARK", "one more at the end of the time-out");
    assert!(watch.next().await.is_none());
    let old = Lines::open(&f, &format!("{MAPS}?watch=1&timeoutSeconds=1&labelSelector=app%3Dx"))
        .await
        .next()
        .await
        .unwrap();
    assert_eq!(old["type"], "ADDED", "the older way: state first, without a mark");
    let bad = f.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await;
    assert_eq!(bad.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn history_that_is_gone_is_said_to_be_gone() {
    let f = start().await;
    let from = revision(&f).await;
    let client = f.client();
    for i in 0..2100 {
        let mut map = config_map("a");
        map["data"]["k"] = json!(i.to_string());
        if i == 0 {
            client
                .create(
                    &GVR,
                    "default",
                    ("", ""),
                    client::Body::from_value(&map),
                    &Default::default(),
                )
                .await
                .unwrap();
        } else {
            client
                .update(
                    &GVR,
                    "default",
                    ("a", ""),
                    client::Body::from_value(&map),
                    &Default::default(),
                )
                .await
                .unwrap();
        }
    }
    let mut watch = Lines::open(&f, &format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let error = watch.next().await.unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"], &error["object"]["reason"]),
        (&json!("ERROR"), &json!(410), &json!("Expired"))
    );
    let options = ListOptions {
        resource_version: from,
        ..ListOptions::default()
    };
    let first = client
        .watch(&GVR, "default", &options)
        .await
        .unwrap()
        .next()
        .await
        .unwrap();
    assert!(first.unwrap_err().is_expired());
}

async fn next(stream: &mut EventStream) -> WatchEvent {
    tokio::time::timeout(DEADLINE, stream.next())
        .await
        .expect("no event in time")
        .expect("ended")
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn watchers_in_the_process_share_the_very_objects() {
    let f = start().await;
    let client = f.client();
    let options = ListOptions {
        send_initial_events: true,
        label_selector: "app=x".into(),
        ..ListOptions::default()
    };
    let mut one = client.watch(&GVR, "", &options).await.unwrap();
    let mut two = client.watch(&GVR, "", &options).await.unwrap();
    assert!(matches!(
        next(&mut one).await,
        WatchEvent::Bookmark {
            initial_events_end: true,
            ..
        }
    ));
    assert!(matches!(
        next(&mut two).await,
        WatchEvent::Bookmark {
            initial_events_end: true,
            ..
        }
    ));
    let made = client
        .create(
            &GVR,
            "default",
            ("", ""),
            client::Body::from_value(&config_map("a")),
            &Default::default(),
        )
        .await
        .unwrap();
    match (next(&mut one).await, next(&mut two).await) {
        (WatchEvent::Added(x), WatchEvent::Added(y)) => {
            assert!(std::sync::Arc::ptr_eq(&x, &y) && std::sync::Arc::ptr_eq(&x, &made));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_does_not_keep_up_is_cut_off() {
    let f = start().await;
    let client = f.client();
    let options = ListOptions {
        send_initial_events: true,
        label_selector: "app=x".into(),
        ..ListOptions::default()
    };
    let mut slow = client.watch(&GVR, "", &options).await.unwrap();
    let body = client::Body::from_value(&config_map("a"));
    client
        .create(&GVR, "default", ("", ""), body, &Default::default())
        .await
        .unwrap();
    for i in 0..1500 {
        let patch = client::Body::from_value(&json!({"data": {"k": i.to_string()}}));
        client
            .patch(
                &GVR,
                "default",
                ("a", ""),
                client::PatchType::Merge,
                patch,
                &Default::default(),
            )
            .await
            .unwrap();
    }
    let mut seen = 0;
    while tokio::time::timeout(DEADLINE, slow.next())
        .await
        .expect("not cut off")
        .is_some()
    {
        seen += 1;
    }
    assert!(seen < 1500, "{seen}");
}
