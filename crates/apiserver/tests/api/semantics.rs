//! Reads and writes: revisions, selectors, finalizers, grace, patches, lists.

use client::PatchType;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{MAPS, PODS, config_map, pod, start};

#[tokio::test(flavor = "multi_thread")]
async fn objects_are_created_once_and_read_as_written() {
    let f = start().await;
    let made = f.post(MAPS, &config_map("a")).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let made = made.json();
    assert_eq!(made["data"]["k"], "v");
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());
    assert!(made["metadata"]["managedFields"].is_array());
    assert_eq!(f.get(&format!("{MAPS}/a")).await.json(), made);
    let again = f.post(MAPS, &config_map("a")).await;
    assert_eq!(
        (again.code, again.message().as_str()),
        (409, "configmaps \"a\" already exists")
    );
    let mut generated = config_map("");
    generated["metadata"] = json!({"generateName": "g-"});
    let name = f.post(MAPS, &generated).await.json()["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(name.starts_with("g-") && name.len() == 7, "{name}");
    let missing = f.get(&format!("{MAPS}/zzz")).await;
    assert_eq!(
        (missing.code, missing.message().as_str()),
        (404, "configmaps \"zzz\" not found")
    );
    let dry = f.post(&format!("{MAPS}?dryRun=All"), &config_map("dry")).await;
    assert_eq!(dry.code, 201);
    assert_eq!(f.get(&format!("{MAPS}/dry")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_objects_are_refused_with_the_place_of_the_fault() {
    let f = start().await;
    for (path, body, code, words) in [
        (
            MAPS,
            json!({"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "a"}}),
            400,
            "does not match the expected kind",
        ),
        (
            MAPS,
            json!({"kind": "ConfigMap", "apiVersion": "v2", "metadata": {"name": "a"}}),
            400,
            "does not match the expected API version",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "Bad_Name"}}),
            422,
            "metadata.name: Invalid value",
        ),
        (MAPS, json!({"metadata": {}}), 422, "name or generateName is required"),
        (
            MAPS,
            json!({"metadata": {"name": "a", "namespace": "other"}}),
            400,
            "does not match the namespace",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "a", "resourceVersion": "5"}}),
            400,
            "resourceVersion should not be set",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "a", "labels": {"a b": "c"}}}),
            422,
            "metadata.labels",
        ),
        (
            MAPS,
            json!({"metadata": {"name": "a"}, "data": {"k": 5}}),
            400,
            "cannot unmarshal number",
        ),
        (MAPS, json!([1]), 400, "must be an object"),
        (
            "/api/v1/namespaces/none/configmaps",
            json!({"metadata": {"name": "a"}}),
            404,
            "namespaces \"none\" not found",
        ),
        (
            PODS,
            json!({"metadata": {"name": "a"}, "spec": {"containers": []}}),
            422,
            "spec.containers: Required value",
        ),
    ] {
        let answer = f.post(path, &body).await;
        assert_eq!(answer.code, code, "{body}: {}", answer.message());
        assert!(answer.message().contains(words), "{body}: {}", answer.message());
    }
    let unknown = json!({"metadata": {"name": "a"}, "bogus": 1});
    let strict = f.post(&format!("{MAPS}?fieldValidation=Strict"), &unknown).await;
    assert_eq!(
        (strict.code, strict.message().as_str()),
        (400, "strict decoding error: unknown field \"bogus\"")
    );
    let warned = f.post(MAPS, &unknown).await;
    assert_eq!(warned.code, 201);
    assert_eq!(warned.headers["warning"], "299 - \"unknown field \\\"bogus\\\"\"");
    assert_eq!(warned.json()["bogus"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn updates_are_checked_against_the_revision_and_uid() {
    let f = start().await;
    let made = f.post(MAPS, &config_map("a")).await.json();
    let path = format!("{MAPS}/a");
    let same = f.put(&path, &made).await.json();
    assert_eq!(
        same["metadata"]["resourceVersion"], made["metadata"]["resourceVersion"],
        "no-op writes keep the revision"
    );
    let mut changed = made.clone();
    changed["data"]["k"] = "w".into();
    let second = f.put(&path, &changed).await;
    assert_eq!(second.code, 200);
    let stale = f.put(&path, &changed).await;
    assert_eq!(stale.code, 409);
    assert!(stale.message().contains("the object has been modified"));
    let mut other = second.json();
    other["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    assert!(
        f.put(&path, &other)
            .await
            .message()
            .contains("Precondition failed: UID")
    );
    let unconditional = f.put(&path, &config_map("a")).await;
    assert_eq!(unconditional.json()["data"]["k"], "v");
    let renamed = f.put(&path, &config_map("b")).await;
    assert_eq!(renamed.code, 400);
    assert_eq!(f.put(&format!("{MAPS}/nope"), &config_map("nope")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_patches_apply_and_races_are_retried() {
    let f = start().await;
    f.post(MAPS, &config_map("a")).await;
    let path = format!("{MAPS}/a");
    let merged = f
        .patch(&path, PatchType::Merge, &json!({"data": {"k": null, "m": "1"}}))
        .await
        .json();
    assert_eq!(merged["data"], json!({"m": "1"}));
    let jsoned = f
        .patch(
            &path,
            PatchType::Json,
            &json!([{"op": "replace", "path": "/data/m", "value": "2"}]),
        )
        .await
        .json();
    assert_eq!(jsoned["data"]["m"], "2");
    let strategic = f
        .patch(
            &path,
            PatchType::Strategic,
            &json!({"metadata": {"labels": {"n": "1"}}}),
        )
        .await
        .json();
    assert_eq!(strategic["metadata"]["labels"], json!({"app": "x", "n": "1"}));
    let failed = f
        .patch(
            &path,
            PatchType::Json,
            &json!([{"op": "test", "path": "/data/m", "value": "9"}]),
        )
        .await;
    assert_eq!(failed.code, 422);
    let pinned = json!({"metadata": {"resourceVersion": "1"}, "data": {"m": "3"}});
    assert_eq!(f.patch(&path, PatchType::Merge, &pinned).await.code, 409);
    let writers = (0..12).map(|i| {
        let (f, path) = (&f, &path);
        async move {
            f.patch(path, PatchType::Merge, &json!({"data": {format!("w{i}"): "x"}}))
                .await
                .code
        }
    });
    let codes = futures::future::join_all(writers).await;
    assert!(codes.iter().all(|c| *c == 200 || *c == 409), "{codes:?}");
    let present = f.get(&path).await.json();
    let written = (0..12).filter(|i| present["data"][format!("w{i}")] == "x").count();
    assert_eq!(
        written,
        codes.iter().filter(|c| **c == 200).count(),
        "what was acknowledged is there"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn server_side_apply_owns_fields() {
    let f = start().await;
    let apply = |manager: &str, force: bool, data: Value| {
        let path = format!("{MAPS}/a?fieldManager={manager}&force={force}");
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": data});
        let f = &f;
        async move { f.patch(&path, PatchType::Apply, &body).await }
    };
    assert_eq!(apply("one", false, json!({"x": "1", "y": "1"})).await.code, 201);
    let conflict = apply("two", false, json!({"x": "2"})).await;
    assert_eq!(conflict.code, 409);
    assert!(
        conflict.message().contains("conflict with \"one\": .data.x"),
        "{}",
        conflict.message()
    );
    assert_eq!(
        conflict.json()["details"]["causes"][0]["reason"],
        "FieldManagerConflict"
    );
    assert_eq!(apply("two", true, json!({"x": "2"})).await.json()["data"]["x"], "2");
    let dropped = apply("one", false, json!({})).await.json();
    assert_eq!(dropped["data"], json!({"x": "2"}), "y had no other owner");
    let nobody = f.patch(&format!("{MAPS}/a"), PatchType::Apply, &config_map("a")).await;
    assert_eq!(nobody.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_and_graces_run() {
    let f = start().await;
    let mut held = config_map("a");
    held["metadata"]["finalizers"] = json!(["example.org/hold"]);
    f.post(MAPS, &held).await;
    let path = format!("{MAPS}/a");
    let marked = f.delete(&path, &json!({})).await.json();
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    let more = json!({"metadata": {"finalizers": ["example.org/hold", "example.org/more"]}});
    assert_eq!(f.patch(&path, PatchType::Merge, &more).await.code, 422);
    assert_eq!(
        f.patch(&path, PatchType::Merge, &json!({"metadata": {"finalizers": null}}))
            .await
            .code,
        200
    );
    assert_eq!(f.get(&path).await.code, 404);
    for (policy, finalizer) in [("Foreground", "foregroundDeletion"), ("Orphan", "orphan")] {
        f.post(MAPS, &config_map("p")).await;
        let marked = f
            .delete(&format!("{MAPS}/p"), &json!({"propagationPolicy": policy}))
            .await
            .json();
        assert_eq!(marked["metadata"]["finalizers"], json!([finalizer]));
        f.patch(
            &format!("{MAPS}/p"),
            PatchType::Merge,
            &json!({"metadata": {"finalizers": null}}),
        )
        .await;
    }
    f.post(PODS, &pod("p")).await;
    f.post(
        &format!("{PODS}/p/binding"),
        &json!({"target": {"kind": "Node", "name": "n"}}),
    )
    .await;
    let marked = f.delete(&format!("{PODS}/p"), &json!({})).await.json();
    assert_eq!(marked["metadata"]["deletionGracePeriodSeconds"], 30);
    let shorter = f
        .delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 5}))
        .await
        .json();
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 5);
    f.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(f.get(&format!("{PODS}/p")).await.code, 404);
    let wrong = json!({"preconditions": {"uid": "x"}});
    f.post(MAPS, &config_map("u")).await;
    assert_eq!(f.delete(&format!("{MAPS}/u"), &wrong).await.code, 409);
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_spec_are_written_apart() {
    let f = start().await;
    let mut wanted = pod("p");
    wanted["status"] = json!({"phase": "Running"});
    let made = f.post(PODS, &wanted).await.json();
    assert_eq!(made["status"]["phase"], "Pending");
    let path = format!("{PODS}/p/status");
    let patched = f
        .patch(
            &path,
            PatchType::Merge,
            &json!({"status": {"phase": "Running"}, "spec": {"nodeName": "x"}}),
        )
        .await
        .json();
    assert_eq!(
        (patched["status"]["phase"].as_str(), &patched["spec"]["nodeName"]),
        (Some("Running"), &Value::Null)
    );
    let bound = f
        .post(
            &format!("{PODS}/p/binding"),
            &json!({"target": {"kind": "Node", "name": "n1"}}),
        )
        .await;
    assert_eq!(bound.code, 201);
    let twice = f
        .post(
            &format!("{PODS}/p/binding"),
            &json!({"target": {"kind": "Node", "name": "n2"}}),
        )
        .await;
    assert_eq!(twice.code, 409);
    assert!(twice.message().contains("already assigned to node \"n1\""));
    let on_node = f.get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.json();
    assert_eq!(on_node["items"].as_array().unwrap().len(), 1);
    let unknown = f.get("/api/v1/pods?fieldSelector=spec.bogus%3D1").await;
    assert_eq!(unknown.code, 400);
    assert!(unknown.message().contains("field label not supported: spec.bogus"));
}

#[tokio::test(flavor = "multi_thread")]
async fn generations_and_scale() {
    let f = start().await;
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let template = json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 2,
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let made = f.post(deployments, &deployment).await.json();
    assert_eq!(made["metadata"]["generation"], 1, "{made}");
    let path = format!("{deployments}/d");
    let labelled = f
        .patch(&path, PatchType::Merge, &json!({"metadata": {"labels": {"x": "y"}}}))
        .await
        .json();
    assert_eq!(labelled["metadata"]["generation"], 1);
    let scaled = f
        .patch(
            &format!("{path}/scale"),
            PatchType::Merge,
            &json!({"spec": {"replicas": 5}}),
        )
        .await
        .json();
    assert_eq!(
        (&scaled["spec"]["replicas"], &scaled["status"]["selector"]),
        (&json!(5), &json!("a=b"))
    );
    assert_eq!(f.get(&path).await.json()["metadata"]["generation"], 2);
    let negative = f
        .patch(
            &format!("{path}/scale"),
            PatchType::Merge,
            &json!({"spec": {"replicas": -1}}),
        )
        .await;
    assert_eq!(negative.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_page_at_one_revision() {
    let f = start().await;
    for i in 0..25 {
        f.post(MAPS, &config_map(&format!("m{i:02}"))).await;
    }
    let first = f.get(&format!("{MAPS}?limit=10&labelSelector=app%3Dx")).await.json();
    assert_eq!(first["items"].as_array().unwrap().len(), 10);
    let revision = first["metadata"]["resourceVersion"].clone();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    f.delete(&format!("{MAPS}/m15"), &json!({})).await;
    f.post(MAPS, &config_map("m15a")).await;
    let second = f
        .get(&format!("{MAPS}?limit=100&labelSelector=app%3Dx&continue={token}"))
        .await
        .json();
    let names: Vec<&str> = second["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| i["metadata"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        (names.len(), names.contains(&"m15"), names.contains(&"m15a")),
        (15, true, false)
    );
    assert_eq!(second["metadata"]["resourceVersion"], revision);
    let exact = f
        .get(&format!(
            "{MAPS}?labelSelector=app%3Dx&resourceVersionMatch=Exact&resourceVersion={}",
            revision.as_str().unwrap()
        ))
        .await;
    assert_eq!(exact.json()["items"].as_array().unwrap().len(), 25);
    let counted = f.get(&format!("{MAPS}?limit=10")).await.json();
    assert_eq!(
        counted["metadata"]["remainingItemCount"], 16,
        "the 25 and the root certificate, less ten"
    );
    for (query, code) in [
        ("resourceVersion=99999999", 504),
        ("resourceVersion=x", 400),
        ("continue=junk", 400),
        ("resourceVersionMatch=Exact", 422),
        ("resourceVersionMatch=Exact&resourceVersion=0", 422),
        ("limit=x", 400),
        ("labelSelector=a%3Db%3Dc", 400),
        ("resourceVersion=1&resourceVersionMatch=NotOlderThan", 200),
        ("resourceVersion=0&limit=3", 200),
    ] {
        assert_eq!(f.get(&format!("{MAPS}?{query}")).await.code, code, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forms_of_answer() {
    let f = start().await;
    f.post(MAPS, &config_map("a")).await;
    let path = format!("{MAPS}?labelSelector=app%3Dx");
    let table = f
        .call(
            Method::GET,
            &path,
            &[(
                "accept",
                "application/json;as=Table;v=v1;g=meta.k8s.io,application/json",
            )],
            "",
        )
        .await
        .json();
    assert_eq!(table["kind"], "Table");
    assert_eq!(table["rows"][0]["cells"][0], "a");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = f
        .call(
            Method::GET,
            &path,
            &[(
                "accept",
                "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
            )],
            "",
        )
        .await
        .json();
    assert_eq!(
        (&partial["kind"], &partial["items"][0]["data"]),
        (&json!("PartialObjectMetadataList"), &Value::Null)
    );
    let yaml = f
        .call(Method::GET, &format!("{MAPS}/a"), &[("accept", "application/yaml")], "")
        .await;
    assert!(String::from_utf8_lossy(&yaml.body).contains("kind: ConfigMap"));
    let fallback = f
        .call(
            Method::GET,
            &path,
            &[("accept", "text/html,application/json;q=0.5")],
            "",
        )
        .await;
    assert_eq!(fallback.headers["content-type"], "application/json");
    assert_eq!(
        f.call(Method::GET, &path, &[("accept", "text/html")], "").await.code,
        406
    );
    let odd = f.call(Method::POST, MAPS, &[("content-type", "text/plain")], "x").await;
    assert_eq!(odd.code, 415);
    let from_yaml = "metadata:\n  name: y\ndata:\n  a: b\n";
    assert_eq!(
        f.call(Method::POST, MAPS, &[("content-type", "application/yaml")], from_yaml)
            .await
            .code,
        201
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn services_get_addresses_of_their_own() {
    let f = start().await;
    let services = "/api/v1/namespaces/default/services";
    let service = |name: &str, spec: Value| json!({"metadata": {"name": name}, "spec": spec});
    let ports = json!([{"port": 80}]);
    let first = f.post(services, &service("a", json!({"ports": ports}))).await.json();
    let ip = first["spec"]["clusterIP"].as_str().unwrap().to_owned();
    assert!(ip.starts_with("10.43."), "{first}");
    let taken = f
        .post(services, &service("b", json!({"ports": ports, "clusterIP": ip})))
        .await;
    assert_eq!(taken.code, 422);
    assert!(
        taken.message().contains("provided IP is already allocated"),
        "{}",
        taken.message()
    );
    let outside = f
        .post(
            services,
            &service("b", json!({"ports": ports, "clusterIP": "192.0.2.1"})),
        )
        .await;
    assert_eq!(outside.code, 422);
    let headless = f
        .post(services, &service("h", json!({"ports": ports, "clusterIP": "None"})))
        .await
        .json();
    assert_eq!(headless["spec"]["clusterIPs"], json!(["None"]));
    let node = f
        .post(services, &service("n", json!({"type": "NodePort", "ports": ports})))
        .await
        .json();
    let port = node["spec"]["ports"][0]["nodePort"].as_i64().unwrap();
    assert!((30_000..=32_767).contains(&port));
    let again = f
        .post(
            services,
            &service(
                "m",
                json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": port}]}),
            ),
        )
        .await;
    assert!(
        again.message().contains("provided port is already allocated"),
        "{}",
        again.message()
    );
    f.delete(&format!("{services}/a"), &json!({})).await;
    let back = f.post(services, &service("a", json!({"ports": ports}))).await.json();
    assert_eq!(
        back["spec"]["clusterIP"],
        ip.as_str(),
        "a Service made anew gets its old address"
    );
    let many = (0..20).map(|i| {
        let (f, body) = (&f, service(&format!("s{i}"), json!({"ports": [{"port": 80}]})));
        async move { f.post(services, &body).await }
    });
    let made = futures::future::join_all(many).await;
    let ips: std::collections::HashSet<String> =
        made.iter().map(|a| a.json()["spec"]["clusterIP"].to_string()).collect();
    assert_eq!(ips.len(), 20);
    let kubernetes = f.get(&format!("{services}/kubernetes")).await.json();
    assert_eq!(kubernetes["spec"]["clusterIP"], "10.43.0.1");
}

#[tokio::test(flavor = "multi_thread")]
async fn namespaces_end_when_they_are_finalized() {
    let f = start().await;
    f.post("/api/v1/namespaces", &json!({"metadata": {"name": "n"}})).await;
    let marked = f.delete("/api/v1/namespaces/n", &json!({})).await.json();
    assert_eq!(marked["status"]["phase"], "Terminating", "{marked}");
    let refused = f.post("/api/v1/namespaces/n/configmaps", &config_map("a")).await;
    assert_eq!(refused.code, 403);
    assert!(refused.message().contains("because it is being terminated"));
    assert_eq!(refused.json()["details"]["causes"][0]["reason"], "NamespaceTerminating");
    let mut done = marked;
    done["spec"]["finalizers"] = json!([]);
    assert_eq!(f.put("/api/v1/namespaces/n/finalize", &done).await.code, 200);
    assert_eq!(f.get("/api/v1/namespaces/n").await.code, 404);
    assert_eq!(f.delete("/api/v1/namespaces/kube-system", &json!({})).await.code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_restart() {
    let f = start().await;
    for i in 0..50 {
        assert_eq!(f.post(MAPS, &config_map(&format!("m{i}"))).await.code, 201);
    }
    let before = f.get(&format!("{MAPS}/m7")).await.json();
    assert!(f.path().join("db").exists());
    let again = f.reopen().await;
    let client = again.client(apiserver::User::master("test"));
    let gvr = meta::Gvr::of("", "v1", "configmaps");
    let after = client.get(&gvr, "default", "m7").await.unwrap();
    assert_eq!(after.to_full_value(), before);
    again.shut_down();
}

#[tokio::test(flavor = "multi_thread")]
async fn deletecollection_takes_what_is_selected() {
    let f = start().await;
    for i in 0..5 {
        f.post(MAPS, &config_map(&format!("m{i}"))).await;
    }
    let mut other = config_map("other");
    other["metadata"]["labels"] = json!({"app": "y"});
    f.post(MAPS, &other).await;
    let gone = f
        .call(Method::DELETE, &format!("{MAPS}?labelSelector=app%3Dx"), &[], "")
        .await
        .json();
    assert_eq!(gone["items"].as_array().unwrap().len(), 5);
    assert_eq!(f.get(&format!("{MAPS}/other")).await.code, 200);
    assert_eq!(f.get(&format!("{MAPS}/m1")).await.code, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn quotas_and_limits_hold_also_under_a_race() {
    let f = start().await;
    let base = "/api/v1/namespaces/default";
    let range = json!({"metadata": {"name": "l"}, "spec": {"limits": [{"type": "Container",
        "defaultRequest": {"cpu": "100m"}, "default": {"cpu": "200m"}, "max": {"cpu": "1"}}]}});
    assert_eq!(f.post(&format!("{base}/limitranges"), &range).await.code, 201);
    let quota = json!({"metadata": {"name": "q"}, "spec": {"hard": {"pods": "3", "requests.cpu": "1"}}});
    assert_eq!(f.post(&format!("{base}/resourcequotas"), &quota).await.code, 201);
    let made = f.post(PODS, &pod("a")).await.json();
    assert_eq!(
        made["spec"]["containers"][0]["resources"],
        json!({"limits": {"cpu": "200m"}, "requests": {"cpu": "100m"}})
    );
    let mut big = pod("big");
    big["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "2"}});
    let refused = f.post(PODS, &big).await;
    assert!(
        refused
            .message()
            .contains("maximum cpu usage per Container is 1, but limit is 2"),
        "{}",
        refused.message()
    );
    let racers = (0..8).map(|i| {
        let (f, body) = (&f, pod(&format!("r{i}")));
        async move { f.post(PODS, &body).await }
    });
    let answers = futures::future::join_all(racers).await;
    assert_eq!(answers.iter().filter(|a| a.code == 201).count(), 2);
    let refused = answers.iter().find(|a| a.code == 403).unwrap().message();
    assert!(
        refused.contains("exceeded quota: q, requested: pods=1, used: pods=3, limited: pods=3"),
        "{refused}"
    );
}
