//! Answers and bodies in protobuf, CBOR and YAML, as generated types read them.

use std::io::Read;

use http::Method;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use k8s_pb::api::core::v1 as core;
use k8s_pb::apimachinery::pkg::apis::meta::v1 as pbmeta;
use k8s_pb::apimachinery::pkg::runtime::Unknown;
use prost::Message;
use serde_json::{Value, json};

use crate::fixture::{Answer, DEADLINE, Fixture, MAPS, PODS, config_map, pod, start};

const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";
const CBOR: &str = "application/cbor";

async fn get(f: &Fixture, path: &str, accept: &str) -> Answer {
    f.call(Method::GET, path, &[("accept", accept)], "").await
}

fn kind_of(answer: &Answer) -> &str {
    answer.headers["content-type"].to_str().unwrap()
}

/// The object in an envelope, and what the envelope says it is.
fn unwrap<T: Message + Default>(body: &[u8]) -> (String, T) {
    let unknown = Unknown::decode(body.strip_prefix(b"k8s\0").unwrap()).unwrap();
    let meta = unknown.type_meta.unwrap();
    let what = format!("{}/{}", meta.api_version.unwrap(), meta.kind.unwrap());
    (what, T::decode(&*unknown.raw.unwrap()).unwrap())
}

fn wrap(api_version: &str, kind: &str, message: &impl Message) -> Vec<u8> {
    let unknown = Unknown {
        type_meta: Some(k8s_pb::apimachinery::pkg::runtime::TypeMeta {
            api_version: Some(api_version.into()),
            kind: Some(kind.into()),
        }),
        raw: Some(message.encode_to_vec()),
        ..Unknown::default()
    };
    [b"k8s\0".to_vec(), unknown.encode_to_vec()].concat()
}

#[tokio::test]
async fn objects_and_lists_are_answered_in_protobuf() {
    let f = start().await;
    let mut given = pod("a");
    given["spec"]["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": 1024}});
    given["spec"]["containers"][0]["livenessProbe"] =
        json!({"httpGet": {"port": "web", "path": "/"}, "periodSeconds": 7});
    given["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}]);
    assert_eq!(f.post(PODS, &given).await.code, 201);
    let accept = "application/vnd.kubernetes.protobuf,application/json";
    let answer = get(&f, &format!("{PODS}/a"), accept).await;
    assert_eq!((answer.code, kind_of(&answer)), (200, PROTOBUF));
    let (what, read): (_, core::Pod) = unwrap(&answer.body);
    assert_eq!(what, "v1/Pod");
    let plain = f.get(&format!("{PODS}/a")).await.json();
    let meta = read.metadata.unwrap();
    assert_eq!(meta.uid.as_deref(), plain["metadata"]["uid"].as_str());
    assert_eq!(
        meta.resource_version.as_deref(),
        plain["metadata"]["resourceVersion"].as_str()
    );
    let managed = &meta.managed_fields[0];
    let fields: Value = serde_json::from_slice(managed.fields_v1.as_ref().unwrap().raw()).unwrap();
    assert_eq!(fields, plain["metadata"]["managedFields"][0]["fieldsV1"]);
    let spec = read.spec.unwrap();
    let probe = spec.containers[0].liveness_probe.as_ref().unwrap();
    let port = probe
        .handler
        .as_ref()
        .unwrap()
        .http_get
        .as_ref()
        .unwrap()
        .port
        .as_ref()
        .unwrap();
    assert_eq!((probe.period_seconds, port.str_val.as_deref()), (Some(7), Some("web")));
    let requests = &spec.containers[0].resources.as_ref().unwrap().requests;
    assert_eq!(requests["memory"].string.as_deref(), Some("1024"));
    assert!(spec.volumes[0].volume_source.as_ref().unwrap().empty_dir.is_some());

    let answer = get(&f, PODS, accept).await;
    let (what, list): (_, core::PodList) = unwrap(&answer.body);
    assert_eq!((what.as_str(), list.items.len()), ("v1/PodList", 1));
    assert!(list.metadata.unwrap().resource_version.unwrap().parse::<u64>().unwrap() > 0);

    let partial = format!("{PROTOBUF};as=PartialObjectMetadataList;g=meta.k8s.io;v=v1");
    let (what, list): (_, pbmeta::PartialObjectMetadataList) = unwrap(&get(&f, PODS, &partial).await.body);
    assert_eq!(what, "meta.k8s.io/v1/PartialObjectMetadataList");
    assert_eq!(list.items[0].metadata.as_ref().unwrap().name.as_deref(), Some("a"));
}

#[tokio::test]
async fn writes_are_taken_and_answered_in_protobuf() {
    let f = start().await;
    let map = core::ConfigMap {
        metadata: Some(pbmeta::ObjectMeta {
            name: Some("m".into()),
            namespace: Some(String::new()),
            generation: Some(0),
            ..pbmeta::ObjectMeta::default()
        }),
        data: [("k".to_owned(), "v".to_owned())].into(),
        binary_data: [("b".to_owned(), vec![0, 1, 2])].into(),
        ..core::ConfigMap::default()
    };
    let headers = [("content-type", PROTOBUF), ("accept", PROTOBUF)];
    let body = wrap("v1", "ConfigMap", &map);
    let answer = f.call(Method::POST, MAPS, &headers, body.clone()).await;
    assert_eq!((answer.code, kind_of(&answer)), (201, PROTOBUF));
    let (_, read): (_, core::ConfigMap) = unwrap(&answer.body);
    assert_eq!((&read.data, &read.binary_data), (&map.data, &map.binary_data));
    let plain = f.get(&format!("{MAPS}/m")).await.json();
    assert_eq!(plain["binaryData"]["b"], "AAEC");

    let again = f.call(Method::POST, MAPS, &headers, body).await;
    let (what, status): (_, pbmeta::Status) = unwrap(&again.body);
    assert_eq!((again.code, what.as_str()), (409, "v1/Status"));
    assert_eq!(
        (status.code, status.reason.as_deref()),
        (Some(409), Some("AlreadyExists"))
    );

    let options = pbmeta::DeleteOptions {
        propagation_policy: Some("Background".into()),
        ..pbmeta::DeleteOptions::default()
    };
    let path = format!("{MAPS}/m");
    let gone = f
        .call(
            Method::DELETE,
            &path,
            &headers,
            wrap("apps/v1", "DeleteOptions", &options),
        )
        .await;
    let (what, status): (_, pbmeta::Status) = unwrap(&gone.body);
    assert_eq!(
        (what.as_str(), status.status.as_deref()),
        ("v1/Status", Some("Success"))
    );
    let junk = f.call(Method::POST, MAPS, &headers, b"k8s\0\xff\xff".to_vec()).await;
    assert_eq!(junk.code, 400);
}

#[tokio::test]
async fn what_is_accepted_is_negotiated() {
    let f = start().await;
    f.post(PODS, &pod("a")).await;
    let path = format!("{PODS}/a");
    let table = format!("{PROTOBUF};as=Table;g=meta.k8s.io;v=v1");
    let refused = get(&f, &path, &table).await;
    assert_eq!(refused.code, 406);
    let (_, status): (_, pbmeta::Status) = unwrap(&refused.body);
    assert!(
        status
            .message
            .unwrap()
            .starts_with("only the following media types are accepted: application/json")
    );
    let refused = get(&f, &path, "text/html").await;
    assert_eq!(
        (refused.code, refused.json()["reason"].clone()),
        (406, json!("NotAcceptable"))
    );
    assert_eq!(get(&f, &format!("{PODS}?watch=1"), "application/yaml").await.code, 406);
    let answer = get(
        &f,
        &path,
        &format!("{PROTOBUF};q=0.4, application/yaml;q=0.6, text/html"),
    )
    .await;
    assert_eq!(kind_of(&answer), "application/yaml");
    let read: Value = serde_yaml_ng::from_slice(&answer.body).unwrap();
    assert_eq!(read["metadata"]["name"], "a");
    let rows = get(&f, PODS, &format!("{CBOR};as=Table;g=meta.k8s.io;v=v1")).await;
    assert_eq!((rows.code, kind_of(&rows)), (200, CBOR));
    // Machines are custom resources to a client: they have no messages.
    let machines = "/apis/kubevirt.io/v1/namespaces/default/virtualmachines";
    let answer = get(&f, machines, &format!("{PROTOBUF},application/json")).await;
    assert_eq!((answer.code, kind_of(&answer)), (200, "application/json"));
    assert_eq!(get(&f, machines, PROTOBUF).await.code, 406);
}

/// Reads a stream until `take` has what it wants.
async fn read_until<T>(body: &mut Incoming, mut take: impl FnMut(&[u8]) -> Option<T>) -> T {
    let mut so_far = Vec::new();
    tokio::time::timeout(DEADLINE, async {
        loop {
            so_far.extend_from_slice(&body.frame().await.unwrap().unwrap().into_data().unwrap());
            if let Some(taken) = take(&so_far) {
                return taken;
            }
        }
    })
    .await
    .unwrap()
}

async fn watch(f: &Fixture, query: &str, accept: &str) -> http::Response<Incoming> {
    let request = http::Request::get(format!("{MAPS}?watch=1{query}"))
        .header("host", "localhost")
        .header("accept", accept)
        .header("authorization", format!("Bearer {}", crate::fixture::ADMIN));
    f.send(request.body(http_body_util::Full::default()).unwrap()).await
}

fn frames(mut bytes: &[u8]) -> Vec<pbmeta::WatchEvent> {
    let mut out = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*length) as usize;
        let Some((frame, rest)) = rest.split_at_checked(length) else {
            break;
        };
        out.push(pbmeta::WatchEvent::decode(frame).unwrap());
        bytes = rest;
    }
    out
}

#[tokio::test]
async fn watches_are_frames() {
    let f = start().await;
    f.post(MAPS, &config_map("a")).await;
    f.post(MAPS, &config_map("b")).await;
    let query = "&labelSelector=app&allowWatchBookmarks=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan";
    let response = watch(&f, query, "application/vnd.kubernetes.protobuf, application/json").await;
    assert_eq!(
        response.headers()["content-type"],
        "application/vnd.kubernetes.protobuf;stream=watch"
    );
    let mut body = response.into_body();
    let events = read_until(&mut body, |b| Some(frames(b)).filter(|e| e.len() >= 3)).await;
    let kinds: Vec<&str> = events.iter().map(|e| e.r#type()).collect();
    assert_eq!(kinds, ["ADDED", "ADDED", "BOOKMARK"]);
    let object = |e: &pbmeta::WatchEvent| unwrap::<core::ConfigMap>(e.object.as_ref().unwrap().raw()).1;
    assert_eq!(object(&events[1]).data["k"], "v");
    let mark = object(&events[2]).metadata.unwrap();
    assert_eq!(mark.annotations["k8s.io/initial-events-end"], "true");
    f.delete(&format!("{MAPS}/a"), &json!({})).await;
    let events = read_until(&mut body, |b| Some(frames(b)).filter(|e| !e.is_empty())).await;
    assert_eq!(events[0].r#type(), "DELETED");

    let response = watch(&f, "&resourceVersion=1", PROTOBUF).await;
    let mut body = response.into_body();
    let events = read_until(&mut body, |b| Some(frames(b)).filter(|e| !e.is_empty())).await;
    assert!(matches!(events[0].r#type(), "ERROR" | "ADDED"));
    let seq = watch(&f, "", "application/cbor-seq").await;
    assert_eq!(seq.headers()["content-type"], "application/cbor-seq");
    let first = read_until(&mut seq.into_body(), |b| (b.len() > 60).then(|| b.to_vec())).await;
    // Tag, map of two, "type": "ADDED", "object", tag.
    assert!(
        first.starts_with(b"\xd9\xd9\xf7\xa2\x44type\x45ADDED\x46object\xd9\xd9\xf7"),
        "{first:x?}"
    );
}

#[tokio::test]
async fn cbor_is_taken_and_answered() {
    let f = start().await;
    // {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "binaryData": {"b": 22(bytes)}}
    let body = b"\xd9\xd9\xf7\xa4\x4aapiVersion\x42v1\x44kind\x49ConfigMap\x48metadata\xa1\x44name\x41c\x4abinaryData\xa1\x41b\xd6\x43\x00\x01\x02";
    let headers = [("content-type", CBOR), ("accept", CBOR)];
    let answer = f.call(Method::POST, MAPS, &headers, body.to_vec()).await;
    assert_eq!((answer.code, kind_of(&answer)), (201, CBOR));
    assert!(answer.body.starts_with(b"\xd9\xd9\xf7"));
    assert_eq!(f.get(&format!("{MAPS}/c")).await.json()["binaryData"]["b"], "AAEC");
    // What is answered is taken back.
    let put = f.call(Method::PUT, &format!("{MAPS}/c"), &headers, answer.body).await;
    assert_eq!(put.code, 200);
    let patch = b"\xa4\x6aapiVersion\x62v1\x64kind\x69ConfigMap\x68metadata\xa1\x64name\x61c\x64data\xa1\x61k\x61w";
    let headers = [
        ("content-type", "application/apply-patch+cbor"),
        ("accept", "application/json"),
    ];
    let path = format!("{MAPS}/c?fieldManager=me");
    let answer = f.call(Method::PATCH, &path, &headers, patch.to_vec()).await;
    assert_eq!((answer.code, answer.json()["data"]["k"].clone()), (200, json!("w")));
    let list = get(&f, MAPS, CBOR).await;
    assert_eq!((list.code, list.body.last()), (200, Some(&0xff)));
    let junk = f
        .call(Method::POST, MAPS, &[("content-type", CBOR)], b"\xff".to_vec())
        .await;
    assert_eq!(junk.code, 400);
}

#[tokio::test]
async fn large_lists_say_their_length_and_are_compressed() {
    let f = start().await;
    let mut given = config_map("x");
    given["data"]["k"] = "some text that is repeated, ".repeat(40).into();
    for n in 0..300 {
        given["metadata"]["name"] = format!("m{n:03}").into();
        f.post(MAPS, &given).await;
    }
    let plain = get(&f, &format!("{MAPS}?labelSelector=app"), PROTOBUF).await;
    let (_, list): (_, core::ConfigMapList) = unwrap(&plain.body);
    assert_eq!(list.items.len(), 300);
    let names: Vec<_> = list.items.iter().map(|i| i.metadata.as_ref().unwrap().name()).collect();
    assert!(names.is_sorted() && names[7] == "m007");
    for accept in [PROTOBUF, CBOR, "application/json"] {
        let plain = get(&f, MAPS, accept).await;
        let headers = [("accept", accept), ("accept-encoding", "gzip")];
        let packed = f.call(Method::GET, MAPS, &headers, "").await;
        assert_eq!(
            (kind_of(&packed), &packed.headers["content-encoding"]),
            (accept, &"gzip".parse().unwrap())
        );
        let mut out = Vec::new();
        flate2::read::GzDecoder::new(&*packed.body)
            .read_to_end(&mut out)
            .unwrap();
        assert!(out == plain.body && packed.body.len() < out.len() / 4, "{accept}");
    }
    let page = get(&f, &format!("{MAPS}?limit=120&labelSelector=app%3Dx"), PROTOBUF).await;
    let (_, list): (_, core::ConfigMapList) = unwrap(&page.body);
    assert_eq!(list.items.len(), 120);
    let token = list.metadata.unwrap().r#continue.unwrap();
    let page = get(
        &f,
        &format!("{MAPS}?limit=500&labelSelector=app%3Dx&continue={token}"),
        PROTOBUF,
    )
    .await;
    assert_eq!(unwrap::<core::ConfigMapList>(&page.body).1.items.len(), 180);
}

#[tokio::test]
async fn discovery_is_answered_in_protobuf_too() {
    let f = start().await;
    let answer = get(&f, "/apis/apps/v1", PROTOBUF).await;
    assert_eq!(kind_of(&answer), PROTOBUF);
    let (what, list): (_, pbmeta::APIResourceList) = unwrap(&answer.body);
    assert_eq!((what.as_str(), list.group_version()), ("v1/APIResourceList", "apps/v1"));
    let found = list.resources.iter().find(|r| r.name() == "deployments").unwrap();
    assert!(found.verbs.as_ref().unwrap().items.contains(&"watch".to_owned()) && found.namespaced());
    let (_, groups): (_, pbmeta::APIGroupList) = unwrap(&get(&f, "/apis", PROTOBUF).await.body);
    assert!(groups.groups.iter().any(|g| g.name() == "apps"));
    assert_eq!(kind_of(&get(&f, "/version", PROTOBUF).await), "application/json");
}

#[tokio::test]
async fn openapi_is_answered_in_the_messages_of_older_clients() {
    let f = start().await;
    let accept = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
    let answer = get(&f, "/openapi/v2", accept).await;
    assert_eq!(
        kind_of(&answer),
        "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
    );
    let pod = b"io.k8s.api.core.v1.PodSpec";
    assert!(answer.body.windows(pod.len()).any(|w| w == pod));
    let etag = answer.headers["etag"].to_str().unwrap();
    let headers = [("accept", accept), ("if-none-match", etag)];
    let again = f.call(Method::GET, "/openapi/v2", &headers, "").await;
    assert_eq!((again.code, again.body.len()), (304, 0));
    let json = get(&f, "/openapi/v2", "application/json").await;
    assert!(json.json()["definitions"].is_object() && json.headers["etag"] != etag);
}
