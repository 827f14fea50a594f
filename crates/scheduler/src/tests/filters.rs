//! One test per filter: who is let through, and what the others are told.

use super::*;

fn one(change: Value) -> Cluster {
    cluster(&[node("n", change)])
}

#[test]
fn without_nodes_there_is_nothing_to_say() {
    assert_eq!(
        refused(&Cluster::new(), &pod("a", json!({}))),
        "no nodes available to schedule pods"
    );
}

#[test]
fn unschedulable_nodes_take_only_those_who_tolerate_it() {
    let c = one(json!({"spec": {"unschedulable": true}}));
    assert_eq!(
        refused(&c, &pod("a", json!({}))),
        "0/1 nodes are available: 1 node(s) were unschedulable."
    );
    let tolerant =
        json!({"spec": {"tolerations": [{"key": "node.kubernetes.io/unschedulable", "operator": "Exists"}]}});
    assert_eq!(bound(&c, &pod("a", tolerant)), "n");
}

#[test]
fn a_requested_node_is_the_only_one() {
    let c = one(json!({}));
    assert_eq!(
        refused(&c, &pod("a", json!({"spec": {"nodeName": "other"}}))),
        "0/1 nodes are available: 1 node(s) didn't match the requested node name."
    );
}

#[test]
fn taints_keep_away() {
    let c = one(
        json!({"spec": {"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"},
        {"key": "soft", "effect": "PreferNoSchedule"}]}}),
    );
    let message = "0/1 nodes are available: 1 node(s) had untolerated taint(s).";
    let with = |t: Value| pod("a", json!({"spec": {"tolerations": [t]}}));
    assert_eq!(refused(&c, &pod("a", json!({}))), message);
    assert_eq!(refused(&c, &with(json!({"key": "k", "value": "x"}))), message);
    assert_eq!(
        refused(&c, &with(json!({"key": "k", "value": "v", "effect": "NoExecute"}))),
        message
    );
    assert_eq!(bound(&c, &with(json!({"key": "k", "value": "v"}))), "n");
    assert_eq!(bound(&c, &with(json!({"operator": "Exists"}))), "n");
}

#[test]
fn node_selectors_and_affinity() {
    let c = one(json!({"metadata": {"labels": {"disk": "ssd", "cores": "8"}}}));
    let message = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";
    assert_eq!(
        bound(&c, &pod("a", json!({"spec": {"nodeSelector": {"disk": "ssd"}}}))),
        "n"
    );
    assert_eq!(
        refused(&c, &pod("a", json!({"spec": {"nodeSelector": {"disk": "hdd"}}}))),
        message
    );
    let required = |terms: Value| {
        let terms = json!({"nodeSelectorTerms": terms});
        let affinity = json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}});
        pod("a", json!({"spec": {"affinity": affinity}}))
    };
    for (key, operator, values, fits) in [
        ("disk", "In", json!(["ssd", "nvme"]), true),
        ("disk", "NotIn", json!(["ssd"]), false),
        ("missing", "NotIn", json!(["ssd"]), true),
        ("disk", "Exists", json!([]), true),
        ("disk", "DoesNotExist", json!([]), false),
        ("cores", "Gt", json!(["7"]), true),
        ("cores", "Lt", json!(["8"]), false),
        ("cores", "Bogus", json!(["8"]), false),
    ] {
        let pod = required(json!([{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]));
        let decision = schedule(&c, &pod, 0);
        assert_eq!(
            matches!(decision, Decision::Bind { .. }),
            fits,
            "{key} {operator} {values}: {decision:?}"
        );
    }
    assert_eq!(refused(&c, &required(json!([{}]))), message);
}

#[test]
fn a_field_names_the_only_node() {
    let c = cluster(&[node("a", json!({})), node("b", json!({})), node("c", json!({}))]);
    let on = |name: &str, requests: Value| {
        let term = json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]});
        let terms = json!({"nodeSelectorTerms": [term]});
        pod(
            "p",
            json!({"spec": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": terms}},
                "containers": [{"name": "c", "resources": {"requests": requests}}]}}),
        )
    };
    assert_eq!(bound(&c, &on("b", json!({}))), "b");
    assert_eq!(
        refused(&c, &on("b", json!({"cpu": "5"}))),
        "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]."
    );
}

#[test]
fn host_ports_collide() {
    let mut c = one(json!({}));
    let with = |name: &str, port: Value| {
        let ports = json!({"containers": [{"name": "c", "ports": [port]}]});
        pod(name, json!({"spec": ports}))
    };
    c.assume(&with("a", json!({"hostPort": 80, "hostIP": "10.0.0.1"})), "n");
    let message = "0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.";
    assert_eq!(refused(&c, &with("b", json!({"hostPort": 80}))), message);
    assert_eq!(
        bound(&c, &with("b", json!({"hostPort": 80, "hostIP": "10.0.0.2"}))),
        "n"
    );
    assert_eq!(bound(&c, &with("b", json!({"hostPort": 80, "protocol": "UDP"}))), "n");
}

#[test]
fn resources_have_to_suffice() {
    let mut c = one(json!({"status": {"allocatable": {"pods": "2", "example.com/gpu": "1"}}}));
    assert_eq!(
        refused(
            &c,
            &asking("a", json!({"cpu": "4001m", "memory": "9Gi", "example.com/gpu": "2"}))
        ),
        "0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient example.com/gpu, 1 Insufficient memory."
    );
    c.assume(&asking("a", json!({"cpu": "3", "example.com/gpu": 1})), "n");
    assert_eq!(
        refused(&c, &asking("b", json!({"cpu": "1100m"}))),
        "0/1 nodes are available: 1 Insufficient cpu."
    );
    assert_eq!(bound(&c, &asking("b", json!({"cpu": "1"}))), "n");
    c.assume(&pod("b", json!({})), "n");
    assert_eq!(
        refused(&c, &pod("c", json!({}))),
        "0/1 nodes are available: 1 Too many pods."
    );
}

#[test]
fn pods_keep_apart_and_together() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    let term = |app: &str| {
        json!({"requiredDuringSchedulingIgnoredDuringExecution":
            [{"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": "kubernetes.io/hostname"}]})
    };
    let apart = |name: &str| pod(name, json!({"spec": {"affinity": {"podAntiAffinity": term("web")}}}));
    let near = |name: &str, app: &str| pod(name, json!({"spec": {"affinity": {"podAffinity": term(app)}}}));
    assert_eq!(
        refused(&c, &near("x", "web")),
        "0/2 nodes are available: 2 node(s) didn't match pod affinity rules."
    );
    // The first of a group may start it.
    bound(&c, &near("web", "web"));
    c.assume(&pod("web", json!({})), "a");
    assert_eq!(bound(&c, &near("x", "web")), "a");
    assert_eq!(bound(&c, &apart("x")), "b");
    c.assume(&apart("x"), "b");
    assert_eq!(
        refused(
            &c,
            &pod(
                "web2",
                json!({"metadata": {"labels": {"app": "web"}},
            "spec": {"nodeSelector": {"kubernetes.io/hostname": "b"}}})
            )
        ),
        "0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, \
         1 node(s) didn't satisfy existing pods anti-affinity rules."
    );
    c.remove_node("b");
    assert_eq!(
        refused(&c, &apart("y")),
        "0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules."
    );
}

#[test]
fn namespaces_are_chosen_by_label() {
    let mut c = cluster(&[node("a", json!({})), node("b", json!({}))]);
    c.set_namespace(&object(json!({"metadata": {"name": "other", "labels": {"team": "x"}}})));
    c.assume(&pod("web", json!({"metadata": {"namespace": "other"}})), "a");
    let near = |spaces: Value| {
        let term = json!({"labelSelector": {"matchLabels": {"app": "web"}}, "namespaceSelector": spaces,
            "topologyKey": "kubernetes.io/hostname"});
        let affinity = json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}});
        pod("x", json!({"spec": {"affinity": affinity}}))
    };
    assert_eq!(bound(&c, &near(json!({"matchLabels": {"team": "x"}}))), "a");
    assert_eq!(bound(&c, &near(json!({}))), "a");
    refused(&c, &near(json!({"matchLabels": {"team": "y"}})));
    refused(&c, &near(Value::Null));
}

#[test]
fn hard_spread_is_kept() {
    let zone = |name: &str, zone: &str| node(name, json!({"metadata": {"labels": {"zone": zone}}}));
    let mut c = cluster(&[zone("a", "1"), zone("b", "1"), zone("c", "2"), node("d", json!({}))]);
    let spread = |name: &str, min: Value| {
        let constraint = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule",
            "minDomains": min, "labelSelector": {"matchLabels": {"g": "x"}}});
        pod(
            name,
            json!({"metadata": {"labels": {"g": "x"}}, "spec": {"topologySpreadConstraints": [constraint]}}),
        )
    };
    c.assume(&spread("1", Value::Null), "a");
    assert_eq!(bound(&c, &spread("2", Value::Null)), "c");
    c.assume(&spread("2", Value::Null), "c");
    bound(&c, &spread("3", json!(2)));
    assert_eq!(
        refused(&c, &spread("3", json!(3))),
        "0/4 nodes are available: 1 node(s) didn't match pod topology spread constraints (missing required label), \
         3 node(s) didn't match pod topology spread constraints."
    );
}
