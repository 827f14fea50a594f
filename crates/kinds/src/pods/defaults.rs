//! Defaults of a PodSpec. Idempotent.

use serde_json::{Value, json};

use crate::edit::{default, default_text, items, items_mut, object, text};

/// Defaults of `spec.template` of a workload.
pub(crate) fn default_template(parent: &mut Value) {
    if let Some(template) = object(parent, "template")
        && let Some(spec) = object(template, "spec")
    {
        default_spec(spec);
    }
}

/// Defaults of a pod's own spec, which has some that templates have not.
pub(crate) fn default_pod(spec: &mut Value) {
    default_spec(spec);
    default(spec, "enableServiceLinks", true);
    let on_host = spec.get("hostNetwork").and_then(Value::as_bool).unwrap_or(false);
    for list in ["initContainers", "containers"] {
        for container in items_mut(spec, list) {
            default_requests(container);
            for port in items_mut(container, "ports") {
                if on_host && let Some(number) = port.get("containerPort").cloned() {
                    default(port, "hostPort", number);
                }
            }
        }
    }
    if spec.get("resources").is_some_and(Value::is_object) {
        default_requests(spec);
    }
}

/// Defaults of a PodSpec.
pub(crate) fn default_spec(spec: &mut Value) {
    default_text(spec, "restartPolicy", "Always");
    default_text(spec, "dnsPolicy", "ClusterFirst");
    default_text(spec, "schedulerName", "default-scheduler");
    default(spec, "terminationGracePeriodSeconds", 30);
    default(spec, "securityContext", json!({}));
    mirror_service_account(spec);
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        items_mut(spec, list).for_each(default_container);
    }
    for volume in items_mut(spec, "volumes") {
        default_volume(volume);
    }
}

/// `serviceAccountName` and its old name say the same.
fn mirror_service_account(spec: &mut Value) {
    let new = text(spec, "serviceAccountName").to_owned();
    let old = text(spec, "serviceAccount").to_owned();
    match (new.is_empty(), old.is_empty()) {
        (false, _) => crate::edit::set(spec, "serviceAccount", new),
        (true, false) => crate::edit::set(spec, "serviceAccountName", old),
        (true, true) => {}
    }
}

fn default_container(container: &mut Value) {
    default_text(container, "terminationMessagePath", "/dev/termination-log");
    default_text(container, "terminationMessagePolicy", "File");
    let image = text(container, "image").to_owned();
    let latest = !image.is_empty() && is_latest(&image);
    default_text(
        container,
        "imagePullPolicy",
        if latest { "Always" } else { "IfNotPresent" },
    );
    default(container, "resources", json!({}));
    for port in items_mut(container, "ports") {
        default_text(port, "protocol", "TCP");
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = container.get_mut(probe).filter(|p| p.is_object()) {
            default_probe(probe);
        }
    }
    for hook in ["postStart", "preStop"] {
        if let Some(get) = container.pointer_mut(&format!("/lifecycle/{hook}/httpGet")) {
            default_http_get(get);
        }
    }
    for variable in items_mut(container, "env") {
        if let Some(field) = variable.pointer_mut("/valueFrom/fieldRef") {
            default_text(field, "apiVersion", "v1");
        }
    }
}

/// What has a limit and no request requests its limit.
fn default_requests(container: &mut Value) {
    let Some(limits) = container
        .pointer("/resources/limits")
        .and_then(Value::as_object)
        .cloned()
    else {
        return;
    };
    if let Some(resources) = object(container, "resources")
        && let Some(requests) = object(resources, "requests")
    {
        for (name, amount) in limits {
            default(requests, &name, amount);
        }
    }
}

fn default_probe(probe: &mut Value) {
    for (field, value) in [
        ("timeoutSeconds", 1),
        ("periodSeconds", 10),
        ("successThreshold", 1),
        ("failureThreshold", 3),
    ] {
        // Zero is what an unset number decodes to upstream.
        if probe.get(field).and_then(Value::as_i64).unwrap_or(0) == 0 {
            crate::edit::set(probe, field, value);
        }
    }
    if let Some(get) = probe.get_mut("httpGet").filter(|g| g.is_object()) {
        default_http_get(get);
    }
    if let Some(grpc) = probe.get_mut("grpc").filter(|g| g.is_object()) {
        default(grpc, "service", "");
    }
}

fn default_http_get(get: &mut Value) {
    default_text(get, "path", "/");
    default_text(get, "scheme", "HTTP");
}

fn default_volume(volume: &mut Value) {
    let sources = volume.as_object().map_or(0, |v| v.len());
    if sources == 1 && volume.get("name").is_some() {
        default(volume, "emptyDir", json!({}));
    }
    for kind in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = volume.get_mut(kind).filter(|s| s.is_object()) {
            default(source, "defaultMode", 420);
        }
    }
    for item in items_mut(volume.get_mut("downwardAPI").unwrap_or(&mut Value::Null), "items") {
        default_field_ref(item);
    }
    for source in items_mut(volume.get_mut("projected").unwrap_or(&mut Value::Null), "sources") {
        if let Some(token) = source.get_mut("serviceAccountToken").filter(|t| t.is_object()) {
            default(token, "expirationSeconds", 3600);
        }
        for item in items_mut(source.get_mut("downwardAPI").unwrap_or(&mut Value::Null), "items") {
            default_field_ref(item);
        }
    }
    if let Some(claim) = volume.pointer_mut("/ephemeral/volumeClaimTemplate/spec") {
        default_text(claim, "volumeMode", "Filesystem");
    }
    if let Some(path) = volume.get_mut("hostPath").filter(|p| p.is_object()) {
        default(path, "type", "");
    }
    if let Some(image) = volume.get_mut("image").filter(|p| p.is_object()) {
        let reference = text(image, "reference").to_owned();
        default_text(
            image,
            "pullPolicy",
            if is_latest(&reference) {
                "Always"
            } else {
                "IfNotPresent"
            },
        );
    }
}

fn default_field_ref(item: &mut Value) {
    if let Some(field) = item.get_mut("fieldRef").filter(|f| f.is_object()) {
        default_text(field, "apiVersion", "v1");
    }
}

/// Whether an image reference means `:latest`.
fn is_latest(image: &str) -> bool {
    if image.contains('@') {
        return false;
    }
    match image.rsplit('/').next().and_then(|last| last.split_once(':')) {
        Some((_, tag)) => tag == "latest",
        None => true,
    }
}

/// Quality-of-service class of a PodSpec (`status.qosClass`).
pub(crate) fn qos_class(spec: &Value) -> &'static str {
    let (mut any, mut guaranteed) = (false, true);
    let all = items(spec, "containers").chain(items(spec, "initContainers"));
    for container in all {
        for resource in ["cpu", "memory"] {
            let amount = |kind: &str| {
                let text = container
                    .pointer(&format!("/resources/{kind}/{resource}"))
                    .and_then(Value::as_str)?;
                text.parse::<meta::Quantity>().ok().filter(|q| !q.is_zero())
            };
            let (request, limit) = (amount("requests"), amount("limits"));
            any |= request.is_some() || limit.is_some();
            guaranteed &= limit.is_some() && request.is_none_or(|r| Some(r) == limit);
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_pod_is_filled_in() {
        let mut spec = json!({"containers": [{
            "name": "a", "image": "busybox", "ports": [{"containerPort": 80}],
            "resources": {"limits": {"memory": "1Gi"}},
            "readinessProbe": {"httpGet": {"port": 80}},
        }], "volumes": [{"name": "v"}, {"name": "s", "secret": {"secretName": "x"}}]});
        default_pod(&mut spec);
        let c = &spec["containers"][0];
        assert_eq!(c["imagePullPolicy"], "Always");
        assert_eq!(c["resources"]["requests"]["memory"], "1Gi");
        assert_eq!(c["ports"][0]["protocol"], "TCP");
        assert_eq!(c["readinessProbe"]["failureThreshold"], 3);
        assert_eq!(c["readinessProbe"]["httpGet"]["scheme"], "HTTP");
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["volumes"][0]["emptyDir"], json!({}));
        assert_eq!(spec["volumes"][1]["secret"]["defaultMode"], 420);
    }

    #[test]
    fn pull_policy_follows_the_tag() {
        for (image, latest) in [
            ("a", true),
            ("a:latest", true),
            ("a:1", false),
            ("host:5000/a", true),
            ("host:5000/a:1", false),
            ("a@sha256:0", false),
        ] {
            assert_eq!(is_latest(image), latest, "{image}");
        }
    }

    #[test]
    fn qos() {
        let pod = |r: Value| json!({"containers": [{"resources": r}]});
        assert_eq!(qos_class(&pod(json!({}))), "BestEffort");
        assert_eq!(qos_class(&pod(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&pod(json!({"requests": both, "limits": both}))), "Guaranteed");
    }
}
