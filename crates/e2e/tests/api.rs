//! The API by kubectl alone, on a server without a node.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::api_only;

const DEPLOYMENT: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web
  labels: {app: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - name: web
        image: example.org/web:1
        ports: [{containerPort: 80}]
"#;

#[test]
fn objects_are_applied_shown_changed_and_deleted() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    let created = kubectl.apply(DEPLOYMENT)?;
    ensure!(created.contains("deployment.apps/web created"), "{created}");
    let again = kubectl.apply(DEPLOYMENT)?;
    ensure!(again.contains("unchanged"), "{again}");

    let table = kubectl.ok(&["get", "deployments"])?;
    ensure!(
        table.starts_with("NAME") && table.contains("READY") && table.contains("0/2"),
        "{table}"
    );
    let wide = kubectl.ok(&["get", "deploy", "-o", "wide"])?;
    ensure!(wide.contains("example.org/web:1"), "{wide}");
    ensure!(kubectl.ok(&["get", "deploy", "-l", "app=web", "-o", "name"])?.trim() == "deployment.apps/web");
    ensure!(
        kubectl
            .ok(&["get", "deploy", "-l", "app!=web", "-o", "name"])?
            .is_empty()
    );

    let object = kubectl.json(&["get", "deploy", "web"])?;
    ensure!(
        object["spec"]["strategy"]["rollingUpdate"]["maxSurge"] == "25%",
        "defaults are filled in: {object}"
    );
    ensure!(object["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 30);
    ensure!(object["metadata"]["generation"] == 1);

    kubectl.ok(&["scale", "deploy", "web", "--replicas=3"])?;
    kubectl.ok(&["label", "deploy", "web", "tier=front"])?;
    kubectl.ok(&["annotate", "deploy", "web", "note=x"])?;
    kubectl.ok(&["set", "image", "deploy/web", "web=example.org/web:2"])?;
    kubectl.ok(&[
        "patch",
        "deploy",
        "web",
        "--type=json",
        "-p",
        r#"[{"op":"add","path":"/metadata/labels/a","value":"b"}]"#,
    ])?;
    kubectl.ok(&[
        "patch",
        "deploy",
        "web",
        "--type=merge",
        "-p",
        r#"{"metadata":{"labels":{"a":null}}}"#,
    ])?;
    let changed = kubectl.json(&["get", "deploy", "web"])?;
    ensure!(
        changed["spec"]["replicas"] == 3 && changed["metadata"]["labels"] == json!({"app": "web", "tier": "front"})
    );
    ensure!(
        changed["metadata"]["generation"] == 3,
        "labels do not count: {}",
        changed["metadata"]
    );

    let described = kubectl.ok(&["describe", "deploy", "web"])?;
    ensure!(
        described.contains("StrategyType:") && described.contains("RollingUpdate"),
        "{described}"
    );
    ensure!(kubectl.ok(&["delete", "deploy", "web"])?.contains("deleted"));
    let gone = kubectl.refused(&["get", "deploy", "web"], "")?;
    ensure!(
        gone.contains(r#"Error from server (NotFound): deployments.apps "web" not found"#),
        "{gone}"
    );
    Ok(())
}

#[test]
fn server_side_apply_owns_fields_and_reports_conflicts() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    kubectl.ok_with(
        &["apply", "--server-side", "--field-manager=one", "-f", "-"],
        DEPLOYMENT,
    )?;
    let other = DEPLOYMENT.replace("replicas: 2", "replicas: 5");
    let conflict = kubectl.refused(&["apply", "--server-side", "--field-manager=two", "-f", "-"], &other)?;
    ensure!(
        conflict.contains("conflict") && conflict.contains(".spec.replicas"),
        "{conflict}"
    );
    kubectl.ok_with(
        &[
            "apply",
            "--server-side",
            "--field-manager=two",
            "--force-conflicts",
            "-f",
            "-",
        ],
        &other,
    )?;
    let object = kubectl.json(&["get", "deploy", "web", "--show-managed-fields"])?;
    ensure!(object["spec"]["replicas"] == 5);
    let managers = object["metadata"]["managedFields"]
        .as_array()
        .cloned()
        .unwrap_or_default();
    // The controllers own what they wrote by updates.
    let applied: Vec<_> = managers
        .iter()
        .filter(|m| m["operation"] == "Apply")
        .map(|m| &m["manager"])
        .collect();
    ensure!(applied == ["one", "two"], "{managers:?}");
    Ok(())
}

#[test]
fn bad_manifests_are_refused_by_name_field_and_reason() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    for (manifest, words) in [
        (
            DEPLOYMENT.replace("replicas: 2", "replicaz: 2"),
            r#"unknown field "spec.replicaz""#,
        ),
        (
            DEPLOYMENT.replace("replicas: 2", "replicas: -1"),
            "spec.replicas: Invalid value: -1",
        ),
        (
            DEPLOYMENT.replace("name: web\n  labels", "name: Web_\n  labels"),
            "a lowercase RFC 1123 subdomain",
        ),
        (
            DEPLOYMENT.replace("labels: {app: web}\nspec", "labels: {app: 'no spaces!'}\nspec"),
            "metadata.labels: Invalid value",
        ),
        (
            DEPLOYMENT.replace("metadata: {labels: {app: web}}", "metadata: {labels: {app: other}}"),
            "`selector` does not match template `labels`",
        ),
        (
            DEPLOYMENT.replace("image: example.org/web:1", "imagePullPolicy: Always"),
            "spec.template.spec.containers[0].image: Required value",
        ),
    ] {
        let refusal = kubectl.refused(&["create", "-f", "-"], &manifest)?;
        ensure!(refusal.contains(words), "expected {words:?} in {refusal}");
    }
    let missing = kubectl.refused(&["create", "-n", "nowhere", "configmap", "a"], "")?;
    ensure!(missing.contains(r#"namespaces "nowhere" not found"#), "{missing}");
    Ok(())
}

#[test]
fn explain_discovery_and_diff_work() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    let explained = kubectl.ok(&["explain", "deployment.spec.strategy", "--recursive"])?;
    ensure!(
        explained.contains("maxUnavailable") && explained.contains("FIELDS"),
        "{explained}"
    );
    let resources = kubectl.ok(&["api-resources"])?;
    for kind in [
        "Deployment",
        "VirtualMachineInstance",
        "EndpointSlice",
        "ClusterRoleBinding",
    ] {
        ensure!(resources.contains(kind), "{kind} missing in {resources}");
    }
    ensure!(kubectl.ok(&["api-versions"])?.contains("apps/v1"));
    ensure!(kubectl.ok(&["version"])?.contains("Server Version: v1.36"));
    kubectl.apply(DEPLOYMENT)?;
    let diff = kubectl.run(&["diff", "-f", "-"], &DEPLOYMENT.replace("replicas: 2", "replicas: 4"))?;
    ensure!(
        diff.stdout.contains("+  replicas: 4") && diff.stdout.contains("-  replicas: 2"),
        "{diff:?}"
    );
    Ok(())
}

#[test]
fn identities_and_rbac() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    ensure!(kubectl.ok(&["auth", "whoami"])?.contains("system:masters"));
    kubectl.ok(&["create", "serviceaccount", "robot"])?;
    let token = kubectl.ok(&["create", "token", "robot"])?;
    let token = token.trim();
    let as_robot = |arguments: &[&str]| {
        let url = server.url();
        let mut all = vec![
            "--kubeconfig=/dev/null",
            "--insecure-skip-tls-verify",
            "--server",
            url.as_str(),
            "--token",
            token,
        ];
        all.extend(arguments);
        kubectl.run(&all, "")
    };
    let refused = as_robot(&["get", "pods"])?;
    let words = r#"User "system:serviceaccount:default:robot" cannot list resource "pods" in API group "" in the namespace "default""#;
    ensure!(!refused.ok && refused.stderr.contains(words), "{refused:?}");
    kubectl.ok(&["create", "role", "reader", "--verb=get,list", "--resource=pods"])?;
    kubectl.ok(&[
        "create",
        "rolebinding",
        "reader",
        "--role=reader",
        "--serviceaccount=default:robot",
    ])?;
    let allowed = as_robot(&["get", "pods"])?;
    ensure!(allowed.ok, "{allowed:?}");
    ensure!(!as_robot(&["delete", "pod", "x"])?.ok);
    ensure!(
        kubectl
            .run(
                &[
                    "auth",
                    "can-i",
                    "create",
                    "pods",
                    "--as=system:serviceaccount:default:robot"
                ],
                ""
            )?
            .stdout
            .trim()
            == "no"
    );
    Ok(())
}

#[test]
fn what_was_acknowledged_survives_kill_9() -> Result<()> {
    let mut server = api_only()?;
    let kubectl = server.kubectl();
    for round in 0..5 {
        let names: Vec<String> = (0..5).map(|i| format!("cm-{round}-{i}")).collect();
        for name in &names {
            kubectl.ok(&["create", "configmap", name, "--from-literal=a=b"])?;
        }
        server.kill()?;
        server.launch()?;
        for name in &names {
            kubectl.ok(&["get", "configmap", name])?;
        }
    }
    Ok(())
}
