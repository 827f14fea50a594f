//! The default roles and bindings, as facts: upstream's bootstrap policy, with
//! our own groups added. One line per rule: verbs, groups, resources.

use serde_json::{Value, json};

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

/// One rule: verbs; groups (`""` is core, written `core`); resources.
type Rule = (&'static str, &'static str, &'static str);

/// Workloads that `view` reads and `edit` writes, by group.
const WORKLOADS: [(&str, &str); 10] = [
    (
        "core",
        "configmaps endpoints persistentvolumeclaims pods replicationcontrollers replicationcontrollers/scale \
              serviceaccounts services",
    ),
    (
        "apps",
        "daemonsets deployments deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs jobs"),
    (
        "extensions",
        "daemonsets deployments deployments/scale ingresses networkpolicies replicasets replicasets/scale",
    ),
    ("policy", "poddisruptionbudgets"),
    ("networking.k8s.io", "ingresses networkpolicies"),
    (
        "kubevirt.io",
        "virtualmachines virtualmachineinstances virtualmachineinstancereplicasets \
                     virtualmachineinstancemigrations virtualmachineinstancepresets",
    ),
    ("cdi.kubevirt.io", "datavolumes datasources dataimportcrons"),
    (
        "snapshot.kubevirt.io",
        "virtualmachinesnapshots virtualmachinesnapshotcontents virtualmachinerestores",
    ),
];

const STATUS: &str = "bindings events limitranges namespaces/status pods/log pods/status \
                      replicationcontrollers/status resourcequotas resourcequotas/status namespaces \
                      persistentvolumeclaims/status services/status";

/// Labels of a role.
type Labels = &'static [(&'static str, &'static str)];

/// `(name, labels, rules)`.
type Role = (&'static str, Labels, Vec<Rule>);

fn roles() -> Vec<Role> {
    const TO_ADMIN: &[(&str, &str)] = &[("rbac.authorization.k8s.io/aggregate-to-admin", "true")];
    const TO_EDIT: &[(&str, &str)] = &[("rbac.authorization.k8s.io/aggregate-to-edit", "true")];
    const TO_VIEW: &[(&str, &str)] = &[("rbac.authorization.k8s.io/aggregate-to-view", "true")];
    let mut view: Vec<Rule> = WORKLOADS
        .iter()
        .map(|(group, resources)| (READ, *group, *resources))
        .collect();
    view.push((READ, "core", STATUS));
    view.push((
        READ,
        "apps",
        "controllerrevisions daemonsets/status deployments/status replicasets/status statefulsets/status",
    ));
    view.push((READ, "discovery.k8s.io", "endpointslices"));
    view.push((
        "get",
        "subresources.kubevirt.io",
        "virtualmachineinstances/guestosinfo virtualmachineinstances/filesystemlist virtualmachineinstances/userlist \
         virtualmachineinstances/objectgraph virtualmachines/objectgraph virtualmachines/expand-spec",
    ));
    view.push(("update", "subresources.kubevirt.io", "expand-vm-spec"));
    let mut edit: Vec<Rule> = WORKLOADS
        .iter()
        .map(|(group, resources)| (WRITE, *group, *resources))
        .collect();
    edit.push((
        READ,
        "core",
        "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
    ));
    edit.push((
        WRITE,
        "core",
        "pods/attach pods/exec pods/portforward pods/proxy secrets services/proxy",
    ));
    edit.push(("impersonate", "core", "serviceaccounts"));
    edit.push(("create", "core", "pods/eviction serviceaccounts/token"));
    edit.push((WRITE, "core", "events"));
    edit.push((WRITE, "apps", "deployments/rollback"));
    edit.push((ALL, "coordination.k8s.io", "leases"));
    edit.push(("get update", "subresources.kubevirt.io", MACHINE_PARTS));
    let admin: Vec<Rule> = vec![
        ("create", "authorization.k8s.io", "localsubjectaccessreviews"),
        (ALL, "rbac.authorization.k8s.io", "rolebindings roles"),
    ];
    let mut out: Vec<Role> = vec![
        ("cluster-admin", &[], vec![("*", "*", "*"), ("*", "", "*")]),
        ("system:aggregate-to-admin", TO_ADMIN, admin),
        ("system:aggregate-to-edit", TO_EDIT, edit),
        ("system:aggregate-to-view", TO_VIEW, view),
        (
            "system:discovery",
            &[],
            vec![(
                "get",
                "",
                "/api /api/* /apis /apis/* /healthz /livez /openapi /openapi/* /readyz /version /version/",
            )],
        ),
        (
            "kubevirt.io:default",
            &[],
            vec![("get list", "subresources.kubevirt.io", "version guestfs healthz")],
        ),
        (
            "system:public-info-viewer",
            &[],
            vec![("get", "", "/healthz /livez /readyz /version /version/")],
        ),
        (
            "system:monitoring",
            &[],
            vec![(
                "get",
                "",
                "/healthz /healthz/* /livez /livez/* /metrics /metrics/slis /readyz /readyz/*",
            )],
        ),
        (
            "system:basic-user",
            &[],
            vec![
                (
                    "create",
                    "authorization.k8s.io",
                    "selfsubjectaccessreviews selfsubjectrulesreviews",
                ),
                ("create", "authentication.k8s.io", "selfsubjectreviews"),
            ],
        ),
        (
            "system:service-account-issuer-discovery",
            &[],
            vec![(
                "get",
                "",
                "/.well-known/openid-configuration /.well-known/openid-configuration/ /openid/v1/jwks /openid/v1/jwks/",
            )],
        ),
        (
            "system:auth-delegator",
            &[],
            vec![
                ("create", "authentication.k8s.io", "tokenreviews"),
                ("create", "authorization.k8s.io", "subjectaccessreviews"),
            ],
        ),
        (
            "system:kubelet-api-admin",
            &[],
            vec![
                (READ, "core", "nodes"),
                ("proxy", "core", "nodes"),
                ("*", "core", "nodes/log nodes/metrics nodes/proxy nodes/stats"),
            ],
        ),
        (
            "system:persistent-volume-provisioner",
            &[],
            vec![
                ("create delete get list watch", "core", "persistentvolumes"),
                ("get list update watch", "core", "persistentvolumeclaims"),
                (READ, "storage.k8s.io", "storageclasses"),
                (READ, "core", "events"),
                ("create patch update", "core", "events"),
            ],
        ),
        (
            "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
            &[],
            vec![("create", "certificates.k8s.io", "certificatesigningrequests/nodeclient")],
        ),
        (
            "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
            &[],
            vec![(
                "create",
                "certificates.k8s.io",
                "certificatesigningrequests/selfnodeclient",
            )],
        ),
        (
            "system:node-bootstrapper",
            &[],
            vec![(
                "create get list watch",
                "certificates.k8s.io",
                "certificatesigningrequests",
            )],
        ),
        ("system:node", &[], node()),
        ("allmend:node", &[], local_storage()),
        (
            "system:node-proxier",
            &[],
            vec![
                ("list watch", "core", "services endpoints"),
                (READ, "core", "nodes"),
                ("create patch update", "core events.k8s.io", "events"),
                ("list watch", "discovery.k8s.io", "endpointslices"),
                ("list watch", "networking.k8s.io", "servicecidrs networkpolicies"),
            ],
        ),
        (
            "system:kube-dns",
            &[],
            vec![
                ("list watch", "core", "endpoints services namespaces pods"),
                ("list watch", "discovery.k8s.io", "endpointslices"),
            ],
        ),
    ];
    // Controllers and scheduler run in this process under one role each would buy nothing.
    out.push(("system:kube-controller-manager", &[], vec![("*", "*", "*")]));
    out.push((
        "system:kube-scheduler",
        &[],
        vec![
            ("create patch update", "core events.k8s.io", "events"),
            ("create get list update watch", "coordination.k8s.io", "leases"),
            (
                READ,
                "core",
                "nodes namespaces persistentvolumeclaims persistentvolumes replicationcontrollers services",
            ),
            ("delete get list watch", "core", "pods"),
            ("create", "core", "bindings pods/binding"),
            (
                "patch update",
                "core",
                "pods/status persistentvolumes persistentvolumeclaims",
            ),
            (READ, "apps", "replicasets statefulsets"),
            (READ, "policy", "poddisruptionbudgets"),
            (
                READ,
                "storage.k8s.io",
                "csidrivers csinodes csistoragecapacities storageclasses volumeattachments",
            ),
            (READ, "resource.k8s.io", "deviceclasses resourceclaims resourceslices"),
        ],
    ));
    out
}

const MACHINE_PARTS: &str = "virtualmachineinstances/addvolume virtualmachineinstances/console \
    virtualmachineinstances/filesystemlist virtualmachineinstances/freeze virtualmachineinstances/guestosinfo \
    virtualmachineinstances/pause virtualmachineinstances/portforward virtualmachineinstances/removevolume \
    virtualmachineinstances/reset virtualmachineinstances/softreboot virtualmachineinstances/unfreeze virtualmachineinstances/unpause \
    virtualmachineinstances/usbredir virtualmachineinstances/userlist virtualmachineinstances/vnc \
    virtualmachineinstances/vsock virtualmachineinstances/evacuate virtualmachineinstances/objectgraph \
    virtualmachines/expand-spec virtualmachines/evacuate virtualmachines/objectgraph virtualmachines/memorydump \
    virtualmachines/removememorydump virtualmachines/addvolume virtualmachines/migrate virtualmachines/portforward virtualmachines/removevolume \
    virtualmachines/restart virtualmachines/start virtualmachines/stop";

/// What nodes need beyond what the node authoriser grants for their own pods. To read `secrets`,
/// `configmaps`, `pods` and machines is not here on purpose.
fn node() -> Vec<Rule> {
    vec![
        ("create", "authentication.k8s.io", "tokenreviews"),
        (
            "create",
            "authorization.k8s.io",
            "localsubjectaccessreviews subjectaccessreviews",
        ),
        (READ, "core", "services namespaces endpoints"),
        (READ, "discovery.k8s.io", "endpointslices"),
        ("create get list watch", "core", "nodes"),
        ("patch update", "core", "nodes nodes/status"),
        ("create patch update", "core events.k8s.io", "events"),
        ("create delete", "core", "pods"),
        ("patch update", "core", "pods/status"),
        ("create", "core", "pods/eviction"),
        (READ, "core", "persistentvolumes"),
        ("get", "core", "persistentvolumeclaims"),
        (
            "patch update",
            "core",
            "persistentvolumeclaims/status persistentvolumes/status",
        ),
        (
            READ,
            "storage.k8s.io",
            "volumeattachments csidrivers csinodes storageclasses",
        ),
        ("create delete patch update", "storage.k8s.io", "csinodes"),
        (
            "create get list watch",
            "certificates.k8s.io",
            "certificatesigningrequests",
        ),
        (READ, "node.k8s.io", "runtimeclasses"),
        (READ, "networking.k8s.io", "networkpolicies servicecidrs"),
        ("patch update", "kubevirt.io", "virtualmachineinstances/status"),
    ]
}

/// What a node's part of the storage class `local` needs: it sees claims, and makes, grows and
/// removes volumes that are on this node (NodeRestriction holds it to that).
fn local_storage() -> Vec<Rule> {
    vec![
        ("list watch", "core", "persistentvolumeclaims"),
        ("create delete patch", "core", "persistentvolumes"),
        ("create", "storage.k8s.io", "storageclasses"),
    ]
}

/// Name, the aggregation labels that it collects, its own labels.
type Aggregated = (&'static str, &'static [&'static str], Labels);

/// Roles that are made of others by label.
const AGGREGATED: [Aggregated; 3] = [
    (
        "admin",
        &["aggregate-to-admin", "aggregate-to-edit", "aggregate-to-view"],
        &[],
    ),
    (
        "edit",
        &["aggregate-to-edit", "aggregate-to-view"],
        &[("rbac.authorization.k8s.io/aggregate-to-admin", "true")],
    ),
    (
        "view",
        &["aggregate-to-view"],
        &[("rbac.authorization.k8s.io/aggregate-to-edit", "true")],
    ),
];

/// Cluster role bindings: name, role, groups, users.
const BINDINGS: [(&str, &str, &[&str], &[&str]); 16] = [
    ("cluster-admin", "cluster-admin", &["system:masters"], &[]),
    ("system:monitoring", "system:monitoring", &["system:monitoring"], &[]),
    ("system:discovery", "system:discovery", &["system:authenticated"], &[]),
    (
        "kubevirt.io:default",
        "kubevirt.io:default",
        &["system:authenticated"],
        &[],
    ),
    ("system:basic-user", "system:basic-user", &["system:authenticated"], &[]),
    (
        "system:public-info-viewer",
        "system:public-info-viewer",
        &["system:authenticated", "system:unauthenticated"],
        &[],
    ),
    (
        "system:service-account-issuer-discovery",
        "system:service-account-issuer-discovery",
        &["system:serviceaccounts"],
        &[],
    ),
    (
        "system:node-proxier",
        "system:node-proxier",
        &["system:nodes"],
        &["system:kube-proxy"],
    ),
    ("system:node", "system:node", &["system:nodes"], &[]),
    ("allmend:node", "allmend:node", &["system:nodes"], &[]),
    (
        "allmend:node-bootstrapper",
        "system:node-bootstrapper",
        &["system:bootstrappers:allmend:default-node-token"],
        &[],
    ),
    (
        "allmend:node-autoapprove-bootstrap",
        "system:certificates.k8s.io:certificatesigningrequests:nodeclient",
        &["system:bootstrappers:allmend:default-node-token"],
        &[],
    ),
    (
        "allmend:node-autoapprove-certificate-rotation",
        "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient",
        &["system:nodes"],
        &[],
    ),
    (
        "system:kube-dns",
        "system:kube-dns",
        &[],
        &["system:serviceaccount:kube-system:kube-dns"],
    ),
    (
        "system:kube-controller-manager",
        "system:kube-controller-manager",
        &[],
        &["system:kube-controller-manager"],
    ),
    (
        "system:kube-scheduler",
        "system:kube-scheduler",
        &[],
        &["system:kube-scheduler"],
    ),
];

fn words(list: &str) -> Vec<&str> {
    list.split_whitespace()
        .map(|w| if w == "core" { "" } else { w })
        .collect()
}

fn rule((verbs, groups, resources): Rule) -> Value {
    let verbs = words(verbs);
    if groups.is_empty() {
        return json!({"verbs": verbs, "nonResourceURLs": words(resources)});
    }
    json!({"verbs": verbs, "apiGroups": words(groups), "resources": words(resources)})
}

fn object(kind: &str, name: &str, labels: &[(&str, &str)]) -> Value {
    let mut out = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
            "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"},
        },
    });
    for (key, value) in labels {
        out["metadata"]["labels"][*key] = (*value).into();
    }
    out
}

/// The default cluster roles. Aggregated ones come with their rules, so that they hold before the
/// aggregation controller has run.
pub(super) fn cluster_roles() -> Vec<Value> {
    let roles = roles();
    let mut out = Vec::new();
    for (name, labels, rules) in &roles {
        let mut role = object("ClusterRole", name, labels);
        role["rules"] = rules.iter().copied().map(rule).collect();
        out.push(role);
    }
    for (name, includes, labels) in AGGREGATED {
        let mut role = object("ClusterRole", name, labels);
        let label = |i: &str| format!("rbac.authorization.k8s.io/{i}");
        role["aggregationRule"] = json!({"clusterRoleSelectors":
            [{"matchLabels": {label(includes[0]): "true"}}]});
        let parts = roles
            .iter()
            .filter(|(n, ..)| includes.iter().any(|i| n.strip_prefix("system:") == Some(*i)));
        role["rules"] = parts
            .flat_map(|(_, _, rules)| rules.iter().copied().map(rule))
            .collect();
        out.push(role);
    }
    out
}

/// The default cluster role bindings.
pub(super) fn cluster_role_bindings() -> Vec<Value> {
    let subject = |kind: &str, name: &str| json!({"apiGroup": "rbac.authorization.k8s.io", "kind": kind, "name": name});
    BINDINGS
        .iter()
        .map(|(name, role, groups, users)| {
            let mut binding = object("ClusterRoleBinding", name, &[]);
            binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role});
            let groups = groups.iter().map(|g| subject("Group", g));
            binding["subjects"] = groups.chain(users.iter().map(|u| subject("User", u))).collect();
            binding
        })
        .collect()
}
