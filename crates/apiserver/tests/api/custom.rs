//! Custom resources: from a definition to objects that are served like any
//! other, in several versions, until the definition goes.

use std::time::Duration;

use client::PatchType;
use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, start};

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
const NAME: &str = "crontabs.stable.example.com";
const TABS: &str = "/apis/stable.example.com/v1/namespaces/default/crontabs";

fn version(name: &str, storage: bool) -> Value {
    json!({"name": name, "served": true, "storage": storage,
        "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector"}},
        "selectableFields": [{"jsonPath": ".spec.cronSpec"}],
        "additionalPrinterColumns": [{"name": "Spec", "type": "string", "jsonPath": ".spec.cronSpec"}],
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {
            "spec": {"type": "object", "required": ["cronSpec"], "properties": {
                "cronSpec": {"type": "string", "pattern": "^(\\S+ ){4}\\S+$"},
                "image": {"type": "string"},
                "replicas": {"type": "integer", "minimum": 1, "maximum": 10, "default": 1}}},
            "status": {"type": "object", "properties": {"replicas": {"type": "integer"}, "selector": {"type": "string"}}}}}}})
}

fn definition(versions: Vec<Value>) -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": NAME},
        "spec": {"group": "stable.example.com", "scope": "Namespaced", "versions": versions,
            "names": {"plural": "crontabs", "kind": "CronTab", "shortNames": ["ct"], "categories": ["all"]}}})
}

fn tab(name: &str) -> Value {
    json!({"apiVersion": "stable.example.com/v1", "kind": "CronTab", "metadata": {"name": name},
        "spec": {"cronSpec": "* * * * 5", "image": "x", "junk": 1}})
}

/// Waits until the answer to a GET is as wanted.
async fn until(f: &Fixture, path: &str, wanted: impl Fn(u16, &Value) -> bool) -> Value {
    let looked = async {
        loop {
            let answer = f.get(path).await;
            let body = if answer.code == 404 { Value::Null } else { answer.json() };
            if wanted(answer.code, &body) {
                return body;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), looked)
        .await
        .expect("in time")
}

fn holds(crd: &Value, condition: &str, status: &str) -> bool {
    let conditions = crd["status"]["conditions"].as_array();
    conditions.is_some_and(|c| c.iter().any(|c| c["type"] == condition && c["status"] == status))
}

async fn define(f: &Fixture, versions: Vec<Value>) {
    let made = f.post(CRDS, &definition(versions)).await;
    assert_eq!(made.code, 201, "{}", made.message());
    until(f, &format!("{CRDS}/{NAME}"), |_, crd| holds(crd, "Established", "True")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_defined_kind_is_served_like_any_other() {
    let f = start().await;
    assert_eq!(f.get(TABS).await.code, 404);
    define(&f, vec![version("v1", true)]).await;
    let crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    assert_eq!(crd["status"]["acceptedNames"]["listKind"], "CronTabList");
    assert_eq!(crd["status"]["storedVersions"], json!(["v1"]));
    assert!(holds(&crd, "NamesAccepted", "True"));
    let made = f.post(TABS, &tab("a")).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let made = made.json();
    assert_eq!(
        made["spec"],
        json!({"cronSpec": "* * * * 5", "image": "x", "replicas": 1})
    );
    assert_eq!(made["metadata"]["generation"], 1);
    let mut bad = tab("bad");
    bad["spec"]["replicas"] = 11.into();
    bad["spec"]["cronSpec"] = "x".into();
    let refused = f.post(TABS, &bad).await;
    assert_eq!(refused.code, 422);
    let message = refused.message();
    assert!(
        message.contains("spec.replicas: Invalid value: 11: spec.replicas in body should be less than or equal to 10"),
        "{message}"
    );
    assert!(message.contains("spec.cronSpec in body should match"), "{message}");
    let strict = f.post(&format!("{TABS}?fieldValidation=Strict"), &tab("strict")).await;
    assert!(
        strict.code == 400 && strict.message().contains("unknown field \"spec.junk\""),
        "{}",
        strict.message()
    );
    // Status and scale.
    let status = f
        .patch(
            &format!("{TABS}/a/status"),
            PatchType::Merge,
            &json!({"status": {"replicas": 4, "selector": "a=b"}}),
        )
        .await;
    assert_eq!(status.code, 200, "{}", status.message());
    let scale = f.get(&format!("{TABS}/a/scale")).await.json();
    assert_eq!(
        (
            &scale["spec"]["replicas"],
            &scale["status"]["replicas"],
            &scale["status"]["selector"]
        ),
        (&json!(1), &json!(4), &json!("a=b"))
    );
    let scaled = f
        .patch(
            &format!("{TABS}/a/scale"),
            PatchType::Merge,
            &json!({"spec": {"replicas": 3}}),
        )
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.message());
    let after = f.get(&format!("{TABS}/a")).await.json();
    assert_eq!(
        (&after["spec"]["replicas"], &after["metadata"]["generation"]),
        (&json!(3), &json!(2))
    );
    // Apply, selectable fields, tables, discovery, OpenAPI.
    let mut applied = tab("b");
    applied["spec"] = json!({"cronSpec": "0 0 0 0 0"});
    let done = f
        .patch(&format!("{TABS}/b?fieldManager=me"), PatchType::Apply, &applied)
        .await;
    assert_eq!(done.code, 201, "{}", done.message());
    let strategic = f
        .patch(&format!("{TABS}/b"), PatchType::Strategic, &json!({"spec": {}}))
        .await;
    assert_eq!(strategic.code, 415);
    let found = f
        .get(&format!("{TABS}?fieldSelector=spec.cronSpec%3D0%200%200%200%200"))
        .await
        .json();
    assert_eq!(
        (found["kind"].as_str(), found["items"].as_array().map(Vec::len)),
        (Some("CronTabList"), Some(1))
    );
    let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
    let table = f.call(Method::GET, TABS, &accept, "").await.json();
    assert_eq!(table["rows"][0]["cells"], json!(["a", "* * * * 5"]));
    let listed = f.get("/apis/stable.example.com/v1").await.json();
    assert_eq!(listed["resources"][0]["shortNames"], json!(["ct"]));
    assert_eq!(
        f.get("/apis/stable.example.com").await.json()["preferredVersion"]["version"],
        "v1"
    );
    let schemas = f.get("/openapi/v3/apis/stable.example.com/v1").await.json();
    let spec = &schemas["components"]["schemas"]["com.example.stable.v1.CronTab"]["properties"]["spec"];
    assert_eq!(spec["properties"]["replicas"]["maximum"], 10.0, "{spec}");
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_show_the_same_objects() {
    let f = start().await;
    define(&f, vec![version("v1beta1", false), version("v1", true)]).await;
    let beta = TABS.replace("/v1/", "/v1beta1/");
    assert_eq!(f.post(TABS, &tab("a")).await.code, 201);
    let seen = f.get(&format!("{beta}/a")).await.json();
    assert_eq!(
        (&seen["apiVersion"], &seen["spec"]["image"]),
        (&json!("stable.example.com/v1beta1"), &json!("x"))
    );
    let mut made = tab("b");
    made["apiVersion"] = "stable.example.com/v1beta1".into();
    let made = f.post(&beta, &made).await;
    assert_eq!(
        (made.code, &made.json()["apiVersion"]),
        (201, &json!("stable.example.com/v1beta1")),
        "{}",
        made.message()
    );
    let list = f.get(TABS).await.json();
    let versions: Vec<&Value> = list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|i| &i["apiVersion"])
        .collect();
    assert_eq!(versions, ["stable.example.com/v1", "stable.example.com/v1"]);
    let changed = f
        .patch(
            &format!("{beta}/b"),
            PatchType::Merge,
            &json!({"spec": {"replicas": 7}}),
        )
        .await;
    assert_eq!((changed.code, &changed.json()["spec"]["replicas"]), (200, &json!(7)));
    assert_eq!(f.get(&format!("{TABS}/b")).await.json()["spec"]["replicas"], 7);
    assert_eq!(f.get(&beta).await.json()["items"].as_array().unwrap().len(), 2);
    assert_eq!(f.delete(&format!("{beta}/a"), &json!({})).await.code, 200);
    assert_eq!(f.get(&format!("{TABS}/a")).await.code, 404);
    // A version that is served no more is gone; the objects are not.
    let mut crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    crd["spec"]["versions"][0]["served"] = false.into();
    assert_eq!(f.put(&format!("{CRDS}/{NAME}"), &crd).await.code, 200);
    until(&f, &beta, |code, _| code == 404).await;
    assert_eq!(f.get(&format!("{TABS}/b")).await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_schema_counts_at_once_and_after_a_restart() {
    let f = start().await;
    define(&f, vec![version("v1", true)]).await;
    assert_eq!(f.post(TABS, &tab("a")).await.code, 201);
    let mut crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]["properties"]["color"] =
        json!({"type": "string", "default": "red"});
    assert_eq!(f.put(&format!("{CRDS}/{NAME}"), &crd).await.code, 200);
    until(&f, &format!("/openapi/v3/apis/stable.example.com/v1"), |_, doc| {
        doc.to_string().contains("\"color\"")
    })
    .await;
    let made = f.post(TABS, &tab("b")).await.json();
    assert_eq!(made["spec"]["color"], "red");
    let again = f.reopen().await;
    let client = again.client(apiserver::User::master("test"));
    let gvr = meta::Gvr::of("stable.example.com", "v1", "crontabs");
    let list = client
        .list(&gvr, "default", &client::ListOptions::default())
        .await
        .unwrap();
    assert_eq!(list.items.len(), 2);
    again.shut_down();
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_taken_are_refused_until_they_are_free() {
    let f = start().await;
    define(&f, vec![version("v1", true)]).await;
    let mut second = definition(vec![version("v1", true)]);
    second["metadata"]["name"] = "others.stable.example.com".into();
    second["spec"]["names"] = json!({"plural": "others", "kind": "Other", "shortNames": ["ct"]});
    assert_eq!(f.post(CRDS, &second).await.code, 201);
    let path = format!("{CRDS}/others.stable.example.com");
    let crd = until(&f, &path, |_, crd| holds(crd, "NamesAccepted", "False")).await;
    assert!(holds(&crd, "Established", "False"));
    assert_eq!(f.get("/apis/stable.example.com/v1/others").await.code, 404);
    assert_eq!(f.delete(&format!("{CRDS}/{NAME}"), &json!({})).await.code, 200);
    until(&f, &path, |_, crd| holds(crd, "Established", "True")).await;
    assert_eq!(f.get("/apis/stable.example.com/v1/others").await.code, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_definition_takes_its_objects_along() {
    let f = start().await;
    define(&f, vec![version("v1", true)]).await;
    let mut held = tab("held");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    assert_eq!(f.post(TABS, &held).await.code, 201);
    assert_eq!(f.post(TABS, &tab("free")).await.code, 201);
    assert_eq!(f.delete(&format!("{CRDS}/{NAME}"), &json!({})).await.code, 200);
    until(&f, &format!("{TABS}/free"), |code, _| code == 404).await;
    let crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    assert!(holds(&crd, "Terminating", "True"), "{}", crd["status"]);
    let patch = json!({"metadata": {"finalizers": []}});
    assert_eq!(
        f.patch(&format!("{TABS}/held"), PatchType::Merge, &patch).await.code,
        200
    );
    until(&f, &format!("{CRDS}/{NAME}"), |code, _| code == 404).await;
    until(&f, TABS, |code, _| code == 404).await;
    // The same again finds nothing of what was.
    define(&f, vec![version("v1", true)]).await;
    assert_eq!(f.get(TABS).await.json()["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_hold_and_what_was_wrong_before_may_stay() {
    let f = start().await;
    let mut loose = version("v1", true);
    let spec = "/schema/openAPIV3Schema/properties/spec";
    loose.pointer_mut(spec).unwrap()["properties"]["cronSpec"] = json!({"type": "string"});
    define(&f, vec![loose.clone()]).await;
    let mut old = tab("old");
    old["spec"]["cronSpec"] = "whenever".into();
    assert_eq!(f.post(TABS, &old).await.code, 201);
    let mut crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    let strict = crd["spec"]["versions"][0].pointer_mut(spec).unwrap();
    strict["properties"]["cronSpec"] = json!({"type": "string", "maxLength": 100, "pattern": "^(\\S+ ){4}\\S+$"});
    strict["properties"]["image"] = json!({"type": "string", "maxLength": 100});
    strict["x-kubernetes-validations"] = json!([
        {"rule": "self.replicas <= 5 || has(self.image)", "message": "many replicas need an image"},
        {"rule": "!has(oldSelf.image) || has(self.image)", "messageExpression": "'image ' + oldSelf.image + ' must stay'"},
    ]);
    let put = f.put(&format!("{CRDS}/{NAME}"), &crd).await;
    assert_eq!(put.code, 200, "{}", put.message());
    until(&f, "/openapi/v3/apis/stable.example.com/v1", |_, doc| {
        doc.to_string().contains("many replicas")
    })
    .await;
    let scaled = f
        .patch(
            &format!("{TABS}/old"),
            PatchType::Merge,
            &json!({"spec": {"replicas": 3}}),
        )
        .await;
    assert_eq!(scaled.code, 200, "{}", scaled.message());
    let worse = f
        .patch(
            &format!("{TABS}/old"),
            PatchType::Merge,
            &json!({"spec": {"cronSpec": "never"}}),
        )
        .await;
    assert_eq!(worse.code, 422);
    let mut many = tab("many");
    many["spec"] = json!({"cronSpec": "* * * * *", "replicas": 7});
    let refused = f.post(TABS, &many).await;
    assert!(
        refused.code == 422
            && refused
                .message()
                .contains("spec: Invalid value: \"object\": many replicas need an image"),
        "{}",
        refused.message()
    );
    let gone = f
        .patch(
            &format!("{TABS}/old"),
            PatchType::Merge,
            &json!({"spec": {"image": null}}),
        )
        .await;
    assert!(gone.message().contains("image x must stay"), "{}", gone.message());
    // A rule that does not compile is refused with its definition.
    let mut crd = f.get(&format!("{CRDS}/{NAME}")).await.json();
    crd["spec"]["versions"][0].pointer_mut(spec).unwrap()["x-kubernetes-validations"] =
        json!([{"rule": "self.nothing == 1"}]);
    let refused = f.put(&format!("{CRDS}/{NAME}"), &crd).await;
    assert!(
        refused.code == 422 && refused.message().contains("undefined field 'nothing'"),
        "{}",
        refused.message()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn built_in_kinds_have_second_versions_too() {
    let f = start().await;
    let scaler = json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "h"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 5,
            "targetCPUUtilizationPercentage": 70}});
    let v1 = "/apis/autoscaling/v1/namespaces/default/horizontalpodautoscalers";
    let made = f.post(v1, &scaler).await;
    assert_eq!(made.code, 201, "{}", made.message());
    assert_eq!(made.json()["spec"]["targetCPUUtilizationPercentage"], 70);
    let seen = f.get(&format!("{}/h", v1.replace("/v1/", "/v2/"))).await.json();
    assert_eq!(
        seen["spec"]["metrics"][0]["resource"]["target"]["averageUtilization"],
        70
    );
    assert_eq!(
        f.get("/apis/autoscaling").await.json()["preferredVersion"]["version"],
        "v2"
    );
    let event = json!({"apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "e"},
        "eventTime": "2026-01-01T00:00:00.000000Z", "reportingController": "example.com/me", "reportingInstance": "me-1",
        "action": "Test", "reason": "Because", "type": "Normal", "note": "a note",
        "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}});
    let events = "/apis/events.k8s.io/v1/namespaces/default/events";
    let made = f.post(events, &event).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let core = f.get("/api/v1/namespaces/default/events/e").await.json();
    assert_eq!(
        (&core["message"], &core["involvedObject"]["name"]),
        (&json!("a note"), &json!("p"))
    );
    let selected = f
        .get(&format!("{events}?fieldSelector=regarding.name%3Dp"))
        .await
        .json();
    assert_eq!(
        (selected["kind"].as_str(), selected["items"].as_array().map(Vec::len)),
        (Some("EventList"), Some(1))
    );
    assert_eq!(f.delete(&format!("{events}/e"), &json!({})).await.code, 200);
    assert_eq!(f.get("/api/v1/namespaces/default/events/e").await.code, 404);
}
