//! Who may do what: certificates, tokens, RBAC, nodes, impersonation, reviews.

use http::Method;
use serde_json::{Value, json};

use crate::fixture::{Fixture, MAPS, PODS, config_map, pod, start};

const RBAC: &str = "/apis/rbac.authorization.k8s.io/v1";

async fn role_for(f: &Fixture, user: &str, verbs: &[&str], resources: &[&str]) {
    let role = json!({"metadata": {"name": user}, "rules": [{"apiGroups": ["", "rbac.authorization.k8s.io"], "resources": resources, "verbs": verbs}]});
    let made = f.post(&format!("{RBAC}/namespaces/default/roles"), &role).await;
    assert_eq!(made.code, 201, "{}", made.message());
    let binding = json!({"metadata": {"name": user},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": user},
        "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user}]});
    let made = f
        .post(&format!("{RBAC}/namespaces/default/rolebindings"), &binding)
        .await;
    assert_eq!(made.code, 201, "{}", made.message());
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_gets_what_no_rule_grants() {
    let f = start().await;
    let refused = f.get_as("bob-token", PODS).await;
    assert_eq!(
        (refused.code, refused.message().as_str()),
        (
            403,
            "pods is forbidden: User \"bob\" cannot list resource \"pods\" in API group \"\" in the namespace \"default\""
        )
    );
    assert_eq!(
        f.get_as("bob-token", "/metrics").await.message(),
        "forbidden: User \"bob\" cannot get path \"/metrics\""
    );
    role_for(&f, "bob", &["get", "list"], &["pods"]).await;
    assert_eq!(f.get_as("bob-token", PODS).await.code, 200);
    assert_eq!(f.get_as("bob-token", &format!("{PODS}/x/log")).await.code, 403);
    assert_eq!(f.get_as("bob-token", "/api/v1/pods").await.code, 403);
    assert_eq!(
        f.get_as("bob-token", "/api/v1/namespaces/kube-system/pods").await.code,
        403
    );
    f.call(
        Method::DELETE,
        &format!("{RBAC}/namespaces/default/rolebindings/bob"),
        &[],
        "",
    )
    .await;
    assert_eq!(
        f.get_as("bob-token", PODS).await.code,
        403,
        "a removed binding counts at once"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_do_not_hold_are_refused() {
    let f = start().await;
    for header in [
        "Bearer nonsense",
        "Bearer a.b.c",
        "Bearer ",
        "Basic YTpi",
        "nonsense",
        "Bearer eyJhbGciOiJub25lIn0.e30.",
    ] {
        let answer = f.call(Method::GET, PODS, &[("authorization", header)], "").await;
        assert_eq!(answer.code, 401, "{header}");
    }
    let nobody = f.call(Method::GET, PODS, &[("authorization", "")], "").await;
    assert_eq!(nobody.code, 403);
    assert!(nobody.message().contains("User \"system:anonymous\""));
    for open in ["/healthz", "/livez", "/readyz", "/version"] {
        assert_eq!(
            f.call(Method::GET, open, &[("authorization", "")], "").await.code,
            200,
            "{open}"
        );
    }
    assert_eq!(f.get_with_certificate("root", "system:masters", PODS).await.code, 200);
    assert_eq!(f.get_with_certificate("carol", "farmers", PODS).await.code, 403);
}

#[tokio::test(flavor = "multi_thread")]
async fn service_account_tokens_live_as_long_as_what_they_are_bound_to() {
    let f = start().await;
    f.post(PODS, &pod("p")).await;
    let request = |bound: Value| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound, "expirationSeconds": 600}});
    let path = "/api/v1/namespaces/default/serviceaccounts/default/token";
    let answer = f
        .post(path, &request(json!({"kind": "Pod", "apiVersion": "v1", "name": "p"})))
        .await;
    assert_eq!(answer.code, 201, "{}", answer.message());
    let token = answer.json()["status"]["token"].as_str().unwrap().to_owned();
    let me = f
        .call(
            Method::POST,
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &[
                ("authorization", &format!("Bearer {token}")),
                ("content-type", "application/json"),
            ],
            "{}",
        )
        .await
        .json();
    assert_eq!(
        me["status"]["userInfo"]["username"],
        "system:serviceaccount:default:default"
    );
    assert_eq!(
        me["status"]["userInfo"]["extra"]["authentication.kubernetes.io/pod-name"],
        json!(["p"])
    );
    let review = |token: &str| json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}});
    let path_of_review = "/apis/authentication.k8s.io/v1/tokenreviews";
    assert_eq!(
        f.post(path_of_review, &review(&token)).await.json()["status"]["authenticated"],
        true
    );
    assert_eq!(
        f.post(path_of_review, &review("junk")).await.json()["status"]["authenticated"],
        false
    );
    f.delete(&format!("{PODS}/p"), &json!({"gracePeriodSeconds": 0})).await;
    assert_eq!(f.get_as(&token, PODS).await.code, 401, "the pod is gone");
    let other = f
        .post(path, &json!({"spec": {"audiences": ["elsewhere"]}}))
        .await
        .json();
    assert_eq!(
        f.get_as(other["status"]["token"].as_str().unwrap(), PODS).await.code,
        401,
        "meant for somebody else"
    );
    assert_eq!(f.post(path, &json!({"spec": {"expirationSeconds": 5}})).await.code, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_sees_what_its_pods_name_and_no_more() {
    let f = start().await;
    for (name, node, secret) in [("a", "n1", "s1"), ("b", "n2", "s2")] {
        let mut pod = pod(name);
        pod["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": secret}}]);
        f.post(PODS, &pod).await;
        f.post(
            &format!("{PODS}/{name}/binding"),
            &json!({"target": {"kind": "Node", "name": node}}),
        )
        .await;
        f.post(
            "/api/v1/namespaces/default/secrets",
            &json!({"metadata": {"name": secret}}),
        )
        .await;
    }
    let get = |path: &'static str| f.get_with_certificate("system:node:n1", "system:nodes", path);
    assert_eq!(get("/api/v1/namespaces/default/secrets/s1").await.code, 200);
    assert_eq!(get("/api/v1/namespaces/default/secrets/s2").await.code, 403);
    assert_eq!(get("/api/v1/namespaces/default/secrets").await.code, 403);
    assert_eq!(get("/api/v1/pods?fieldSelector=spec.nodeName%3Dn1").await.code, 200);
    assert_eq!(get("/api/v1/nodes/n1").await.code, 404);
    let node = apiserver::User::new("system:node:n1", &["system:nodes"]);
    let client = f.server.client(node);
    let pods = meta::Gvr::of("", "v1", "pods");
    let status = client::Body::from_value(&json!({"status": {"phase": "Running"}}));
    let patch = |name: &'static str| {
        client.patch(
            &pods,
            "default",
            (name, "status"),
            client::PatchType::Merge,
            status.clone(),
            Box::leak(Box::default()),
        )
    };
    assert!(patch("a").await.is_ok());
    let refused = patch("b").await.unwrap_err();
    assert!(
        refused
            .message
            .contains("can only update pods with spec.nodeName set to itself"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_grants_what_they_do_not_hold() {
    let f = start().await;
    role_for(
        &f,
        "bob",
        &["get", "list", "create", "update", "patch"],
        &["pods", "roles", "rolebindings"],
    )
    .await;
    let auth = [
        ("authorization", "Bearer bob-token"),
        ("content-type", "application/json"),
    ];
    let role = |resource: &str| {
        json!({"metadata": {"generateName": "r"}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": ["get"]}]}).to_string()
    };
    let roles = format!("{RBAC}/namespaces/default/roles");
    assert_eq!(f.call(Method::POST, &roles, &auth, role("pods")).await.code, 201);
    let refused = f.call(Method::POST, &roles, &auth, role("secrets")).await;
    assert_eq!(refused.code, 403);
    assert!(
        refused
            .message()
            .contains("is attempting to grant RBAC permissions not currently held"),
        "{}",
        refused.message()
    );
    let binding = json!({"metadata": {"name": "up"}, "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"},
        "subjects": [{"kind": "User", "name": "bob", "apiGroup": "rbac.authorization.k8s.io"}]}).to_string();
    assert_eq!(
        f.call(
            Method::POST,
            &format!("{RBAC}/namespaces/default/rolebindings"),
            &auth,
            binding
        )
        .await
        .code,
        403
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn impersonation_needs_permission() {
    let f = start().await;
    let as_bob = [("impersonate-user", "bob")];
    assert!(
        f.call(Method::GET, PODS, &as_bob, "")
            .await
            .message()
            .contains("User \"bob\"")
    );
    let sneaky = [
        ("authorization", "Bearer bob-token"),
        ("impersonate-user", "admin"),
        ("impersonate-group", "system:masters"),
    ];
    assert_eq!(f.call(Method::GET, PODS, &sneaky, "").await.code, 403);
    assert_eq!(
        f.call(Method::GET, PODS, &[("impersonate-group", "x")], "").await.code,
        400
    );
    let review = json!({"spec": {"resourceAttributes": {"verb": "list", "resource": "pods", "namespace": "default"}}})
        .to_string();
    let headers = [("impersonate-user", "bob"), ("content-type", "application/json")];
    let answer = f
        .call(
            Method::POST,
            "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews",
            &headers,
            review,
        )
        .await;
    assert_eq!((answer.code, &answer.json()["status"]["allowed"]), (201, &json!(false)));
    assert_eq!(f.post(MAPS, &config_map("x")).await.code, 201);
}
