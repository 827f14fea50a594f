//! Claims, volumes and classes.

use super::*;

fn using(name: &str, claim: &str) -> Arc<Object> {
    let volumes = json!([{"name": "v", "persistentVolumeClaim": {"claimName": claim}}]);
    pod(name, json!({"spec": {"volumes": volumes}}))
}

fn claim(name: &str, change: Value) -> Arc<Object> {
    let mut value = json!({"metadata": {"name": name, "namespace": "default", "uid": format!("c-{name}")},
        "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "wait",
            "resources": {"requests": {"storage": "1Gi"}}}});
    merge(&mut value, change);
    object(value)
}

fn class(name: &str, provisioner: &str, mode: &str) -> Arc<Object> {
    object(
        json!({"metadata": {"name": name}, "provisioner": provisioner, "volumeBindingMode": mode,
        "allowedTopologies": [{"matchLabelExpressions": [{"key": "kubernetes.io/hostname", "values": ["a", "b"]}]}]}),
    )
}

fn volume(name: &str, node: &str, change: Value) -> Arc<Object> {
    let term = json!({"matchExpressions": [{"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]});
    let mut value = json!({"metadata": {"name": name}, "spec": {"capacity": {"storage": "2Gi"},
        "accessModes": ["ReadWriteOnce"], "storageClassName": "wait",
        "nodeAffinity": {"required": {"nodeSelectorTerms": [term]}}}});
    merge(&mut value, change);
    object(value)
}

fn three() -> Cluster {
    cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))])
}

#[test]
fn claims_have_to_be_there_and_bound() {
    let mut c = three();
    let tail = " preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.";
    let Decision::Wait { message, preempt } = schedule(&c, &using("p", "data"), 0) else {
        panic!("bound");
    };
    assert_eq!(
        message,
        format!("0/3 nodes are available: persistentvolumeclaim \"data\" not found.{tail}")
    );
    assert_eq!(preempt, None);
    c.set_claim(&claim("data", json!({})));
    assert_eq!(
        refused(&c, &using("p", "data")),
        "0/3 nodes are available: pod has unbound immediate PersistentVolumeClaims."
    );
    c.set_claim(&claim(
        "data",
        json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}),
    ));
    assert_eq!(
        refused(&c, &using("p", "data")),
        "0/3 nodes are available: persistentvolumeclaim \"data\" is being deleted."
    );
}

#[test]
fn a_bound_volume_says_where() {
    let mut c = three();
    c.set_claim(&claim(
        "data",
        json!({"spec": {"volumeName": "pv"}, "status": {"phase": "Bound"}}),
    ));
    assert_eq!(
        refused(&c, &using("p", "data")),
        "0/3 nodes are available: 3 node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)."
    );
    c.set_volume(&volume("pv", "b", json!({})));
    assert_eq!(bound(&c, &using("p", "data")), "b");
    c.remove_node("b");
    assert_eq!(
        refused(&c, &using("p", "data")),
        "0/2 nodes are available: 2 node(s) didn't match PersistentVolume's node affinity."
    );
}

#[test]
fn a_waiting_claim_is_told_of_the_node() {
    let mut c = three();
    c.set_class(&class("wait", "example.com/p", "WaitForFirstConsumer"));
    c.set_claim(&claim("data", json!({})));
    let Decision::Bind { node, select_claims } = schedule(&c, &using("p", "data"), 3) else {
        panic!("refused");
    };
    assert!(node == "a" || node == "b");
    assert_eq!(select_claims, ["data"]);
    let told = json!({"metadata": {"annotations": {"volume.kubernetes.io/selected-node": "b"}}});
    c.set_claim(&claim("data", told));
    assert_eq!(
        schedule(&c, &using("p", "data"), 3),
        Decision::Bind {
            node: "b".into(),
            select_claims: Vec::new()
        }
    );
}

#[test]
fn volumes_made_by_people_are_found() {
    let mut c = three();
    c.set_class(&class("wait", "kubernetes.io/no-provisioner", "WaitForFirstConsumer"));
    c.set_claim(&claim("data", json!({})));
    let message = "0/3 nodes are available: 3 node(s) didn't find available persistent volumes to bind.";
    assert_eq!(refused(&c, &using("p", "data")), message);
    c.set_volume(&volume("small", "b", json!({"spec": {"capacity": {"storage": "1Mi"}}})));
    c.set_volume(&volume(
        "taken",
        "b",
        json!({"spec": {"claimRef": {"namespace": "x", "name": "y"}}}),
    ));
    assert_eq!(refused(&c, &using("p", "data")), message);
    c.set_volume(&volume("fits", "c", json!({})));
    assert_eq!(bound(&c, &using("p", "data")), "c");
}

#[test]
fn one_pod_at_a_time() {
    let mut c = three();
    c.set_claim(&claim(
        "data",
        json!({"spec": {"volumeName": "pv", "accessModes": ["ReadWriteOncePod"]},
        "status": {"phase": "Bound"}}),
    ));
    c.set_volume(&volume("pv", "b", json!({})));
    c.assume(&using("p", "data"), "b");
    let why = refused(&c, &using("q", "data"));
    assert_eq!(
        why,
        "0/3 nodes are available: 3 node has pod using PersistentVolumeClaim with the same name and \
         ReadWriteOncePod access mode."
    );
    c.remove_pod("uid-p");
    assert_eq!(bound(&c, &using("q", "data")), "b");
}
