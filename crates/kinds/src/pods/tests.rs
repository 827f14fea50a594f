//! Pods that are right, and what is said of those that are not.

use meta::field::{ErrorList, Path};
use serde_json::{Value, json};

use super::{check_update, default_pod, validate_spec};
use crate::check::expect;

fn pod() -> Value {
    let mut spec = json!({
        "containers": [{"name": "a", "image": "i", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        "initContainers": [{"name": "b", "image": "i"}],
        "volumes": [{"name": "v", "emptyDir": {}}],
    });
    default_pod(&mut spec);
    spec
}

fn check(spec: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    validate_spec(spec, &Path::new("spec"), true, &mut errors);
    errors
}

fn table(cases: &[(&str, Value, &str)]) {
    for (field, value, words) in cases {
        let mut spec = pod();
        match field.strip_prefix("c.") {
            Some(field) => spec["containers"][0][field] = value.clone(),
            None => spec[*field] = value.clone(),
        }
        expect(&check(&spec), words);
    }
}

#[test]
fn a_pod_that_is_right() {
    let errors = check(&pod());
    assert!(errors.is_empty(), "{errors}");
    let mut full = pod();
    full["tolerations"] = json!([{"operator": "Exists"}, {"key": "a", "effect": "NoExecute", "tolerationSeconds": 1}]);
    full["affinity"] = json!({
        "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]}]}},
        "podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
            {"weight": 1, "podAffinityTerm": {"topologyKey": "kubernetes.io/hostname", "labelSelector": {}}}]},
    });
    full["containers"][0]["env"] =
        json!([{"name": "N", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.labels['a']"}}}]);
    full["containers"][0]["resources"] =
        json!({"limits": {"cpu": "1", "example.com/gpu": "1"}, "requests": {"cpu": "500m", "example.com/gpu": "1"}});
    full["dnsPolicy"] = "None".into();
    full["dnsConfig"] = json!({"nameservers": ["10.0.0.1"], "searches": ["a.b."]});
    let errors = check(&full);
    assert!(errors.is_empty(), "{errors}");
}

#[test]
fn the_whole() {
    table(&[
        ("containers", json!([]), "spec.containers: Required value"),
        (
            "restartPolicy",
            json!("No"),
            "spec.restartPolicy: Unsupported value: \"No\": supported values: \"Always\", \"OnFailure\", \"Never\"",
        ),
        (
            "dnsPolicy",
            json!("None"),
            "spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None",
        ),
        (
            "activeDeadlineSeconds",
            json!(0),
            "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
        ),
        (
            "hostname",
            json!("a.b"),
            "spec.hostname: Invalid value: \"a.b\": must not contain dots",
        ),
        (
            "nodeSelector",
            json!({"a": "b c"}),
            "spec.nodeSelector: Invalid value: \"b c\": a valid label must",
        ),
        (
            "serviceAccountName",
            json!("A"),
            "spec.serviceAccountName: Invalid value: \"A\": a lowercase RFC 1123 subdomain",
        ),
        (
            "imagePullSecrets",
            json!([{}]),
            "spec.imagePullSecrets[0].name: Required value",
        ),
        (
            "hostAliases",
            json!([{"ip": "x"}]),
            "spec.hostAliases.ip: Invalid value: \"x\": must be a valid IP address",
        ),
        ("priorityClassName", json!("A"), "spec.priorityClassName: Invalid value"),
        (
            "preemptionPolicy",
            json!("X"),
            "spec.preemptionPolicy: Unsupported value: \"X\": supported values: \"Never\", \"PreemptLowerPriority\"",
        ),
        (
            "os",
            json!({"name": "plan9"}),
            "spec.os.name: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\"",
        ),
        (
            "schedulingGates",
            json!([{"name": "a"}, {"name": "a"}]),
            "spec.schedulingGates[1]: Duplicate value: \"a\"",
        ),
        (
            "securityContext",
            json!({"fsGroup": -1}),
            "spec.securityContext.fsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
        ),
        (
            "securityContext",
            json!({"seccompProfile": {"type": "Localhost"}}),
            "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
        ),
        (
            "securityContext",
            json!({"sysctls": [{"name": "A"}]}),
            "spec.securityContext.sysctls[0].name: Invalid value: \"A\": must have at most 253 characters",
        ),
    ]);
}

#[test]
fn places() {
    table(&[
        (
            "tolerations",
            json!([{"value": "a"}]),
            "spec.tolerations[0].operator: Invalid value: \"\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
        ),
        (
            "tolerations",
            json!([{"key": "a", "operator": "Exists", "value": "b"}]),
            "value must be empty when `operator` is 'Exists'",
        ),
        (
            "tolerations",
            json!([{"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}]),
            "effect must be 'NoExecute' when `tolerationSeconds` is set",
        ),
        (
            "affinity",
            json!({"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {}}}),
            "nodeSelectorTerms: Required value: must have at least one node selector term",
        ),
        (
            "affinity",
            json!({"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0}]}}),
            "weight: Invalid value: 0: must be in the range 1-100",
        ),
        (
            "affinity",
            json!({"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{}]}}),
            "spec.affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
        ),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 0, "topologyKey": "z", "whenUnsatisfiable": "No"}]),
            "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
        ),
        (
            "topologySpreadConstraints",
            json!([{"maxSkew": 1, "topologyKey": "z", "whenUnsatisfiable": "No"}]),
            "whenUnsatisfiable: Unsupported value: \"No\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
        ),
    ]);
}

#[test]
fn volumes() {
    table(&[
        (
            "volumes",
            json!([]),
            "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
        ),
        (
            "volumes",
            json!([{"name": "v"}]),
            "spec.volumes[0]: Required value: must specify a volume type",
        ),
        (
            "volumes",
            json!([{"name": "v", "emptyDir": {}, "hostPath": {"path": "/a"}}]),
            "spec.volumes[0].hostPath: Forbidden: may not specify more than 1 volume type",
        ),
        (
            "volumes",
            json!([{"name": "v", "hostPath": {"path": "/a/../b"}}]),
            "spec.volumes[0].hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
        ),
        (
            "volumes",
            json!([{"name": "v", "secret": {}}]),
            "spec.volumes[0].secret.secretName: Required value",
        ),
        (
            "volumes",
            json!([{"name": "v", "configMap": {"name": "c", "defaultMode": 4096}}]),
            "defaultMode: Invalid value: 4096: must be a number between 0 and 0777 (octal), both inclusive",
        ),
        (
            "volumes",
            json!([{"name": "v", "configMap": {"name": "c", "items": [{"key": "k", "path": "/p"}]}}]),
            "items[0].path: Invalid value: \"/p\": must be a relative path",
        ),
        (
            "volumes",
            json!([{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 1}}]}}]),
            "may not specify a duration less than 10 minutes",
        ),
        (
            "volumes",
            json!([{"name": "v", "persistentVolumeClaim": {}}]),
            "persistentVolumeClaim.claimName: Required value",
        ),
    ]);
}

#[test]
fn containers() {
    table(&[
        (
            "c.name",
            json!("A"),
            "spec.containers[0].name: Invalid value: \"A\": a lowercase RFC 1123 label",
        ),
        (
            "c.name",
            json!("b"),
            "spec.initContainers[0].name: Duplicate value: \"b\"",
        ),
        ("c.image", json!(""), "spec.containers[0].image: Required value"),
        ("c.image", json!(" i"), "must not have leading or trailing whitespace"),
        (
            "c.imagePullPolicy",
            json!("Now"),
            "spec.containers[0].imagePullPolicy: Unsupported value: \"Now\": supported values: \"Always\", \"IfNotPresent\", \"Never\"",
        ),
        (
            "c.ports",
            json!([{"containerPort": 70000, "protocol": "TCP"}]),
            "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
        ),
        (
            "c.ports",
            json!([{"containerPort": 80, "protocol": "TCP", "name": "a--b"}]),
            "must not contain consecutive hyphens",
        ),
        (
            "c.ports",
            json!([{"containerPort": 80, "hostPort": 80, "protocol": "TCP"}, {"containerPort": 81, "hostPort": 80, "protocol": "TCP"}]),
            "spec.containers[0].ports[1].hostPort: Duplicate value: \"TCP//80\"",
        ),
        (
            "c.env",
            json!([{"name": "a=b"}]),
            "spec.containers[0].env[0].name: Invalid value: \"a=b\"",
        ),
        (
            "c.env",
            json!([{"name": "a", "value": "x", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]),
            "env[0].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
        ),
        (
            "c.env",
            json!([{"name": "a", "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": "spec.x"}}}]),
            "error converting fieldPath: field label not supported: spec.x",
        ),
        (
            "c.envFrom",
            json!([{}]),
            "must specify one of: `configMapRef` or `secretRef`",
        ),
        (
            "c.resources",
            json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}),
            "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
        ),
        (
            "c.resources",
            json!({"limits": {"disk": "1"}}),
            "spec.containers[0].resources.limits[disk]: Invalid value: \"disk\": must be a standard resource for containers",
        ),
        (
            "c.resources",
            json!({"requests": {"example.com/gpu": "1"}}),
            "Limit must be set for non overcommitable resources",
        ),
        (
            "c.resources",
            json!({"limits": {"memory": "-1"}}),
            "must be greater than or equal to 0",
        ),
        (
            "c.livenessProbe",
            json!({}),
            "spec.containers[0].livenessProbe: Required value: must specify a handler type",
        ),
        (
            "c.livenessProbe",
            json!({"exec": {"command": ["a"]}, "successThreshold": 2}),
            "successThreshold: Invalid value: 2: must be 1",
        ),
        (
            "c.readinessProbe",
            json!({"httpGet": {"path": "/", "port": 0, "scheme": "HTTP"}}),
            "readinessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "c.readinessProbe",
            json!({"tcpSocket": {"port": 1}, "exec": {"command": ["a"]}}),
            "tcpSocket: Forbidden: may not specify more than 1 handler type",
        ),
        (
            "c.lifecycle",
            json!({"preStop": {"sleep": {"seconds": 31}}}),
            "must be non-negative and less than terminationGracePeriodSeconds (30)",
        ),
        (
            "c.securityContext",
            json!({"privileged": true, "allowPrivilegeEscalation": false}),
            "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
        ),
        (
            "c.volumeMounts",
            json!([{"name": "v", "mountPath": "/v", "subPath": "../a"}]),
            "volumeMounts[0].subPath: Invalid value: \"../a\": must not contain '..'",
        ),
        (
            "c.volumeMounts",
            json!([{"name": "v", "mountPath": "/v"}, {"name": "v", "mountPath": "/v"}]),
            "volumeMounts[1].mountPath: Invalid value: \"/v\": must be unique",
        ),
        (
            "c.volumeMounts",
            json!([{"name": "v", "mountPath": "/v", "mountPropagation": "Bidirectional"}]),
            "Bidirectional mount propagation is available only to privileged containers",
        ),
        (
            "c.resizePolicy",
            json!([{"resourceName": "disk", "restartPolicy": "NotRequired"}]),
            "resourceName: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
        ),
    ]);
}

#[test]
fn other_containers() {
    table(&[
        (
            "initContainers",
            json!([{"name": "b", "image": "i", "livenessProbe": {}}]),
            "spec.initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (
            "ephemeralContainers",
            json!([{"name": "e", "image": "i", "ports": [{"containerPort": 1}]}]),
            "spec.ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
        ),
        (
            "ephemeralContainers",
            json!([{"name": "e", "image": "i", "targetContainerName": "x"}]),
            "spec.ephemeralContainers[0].targetContainerName: Not found: \"x\"",
        ),
    ]);
}

#[test]
fn changes() {
    let mut old = pod();
    old["tolerations"] = json!([{"key": "a", "operator": "Exists"}]);
    let check = |edit: &dyn Fn(&mut Value)| {
        let mut new = old.clone();
        edit(&mut new);
        let mut errors = ErrorList::new();
        check_update(&json!({"spec": new}), &json!({"spec": old}), &mut errors);
        errors
    };
    assert!(check(&|p| p["containers"][0]["image"] = "j".into()).is_empty());
    assert!(check(&|p| p["activeDeadlineSeconds"] = 5.into()).is_empty());
    expect(
        &check(&|p| p["containers"][0]["command"] = json!(["sh"])),
        "spec: Forbidden: pod updates may not change fields other than",
    );
    expect(
        &check(&|p| p["initContainers"] = json!([])),
        "spec.initContainers: Forbidden: pod updates may not add or remove containers",
    );
    expect(
        &check(&|p| p["tolerations"] = json!([])),
        "existing toleration can not be modified except its tolerationSeconds",
    );
    expect(
        &check(&|p| p["schedulingGates"] = json!([{"name": "g"}])),
        "only deletion is allowed, but found new scheduling gate 'g'",
    );
    expect(
        &check(&|p| p["terminationGracePeriodSeconds"] = 5.into()),
        "pod updates may not change fields",
    );
}
