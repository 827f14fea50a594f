//! Services, names and storage of pods.

use anyhow::{Result, ensure};
use testkit::until;

use crate::{POD, sleeper, with_node};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: main
        image: allmend.local/busybox:1
        command: [sh, -c, "mkdir /w; hostname > /w/index.html; exec httpd -f -p 8080 -h /w"]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Service
metadata: {name: headless}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
"#;

#[test]
fn services_are_reached_by_name_address_and_node_port() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(WEB)?;
    kubectl.apply(&sleeper("client"))?;
    kubectl.ok(&["rollout", "status", "deploy/web", "--timeout=60s"])?;
    kubectl.wait(&["--for=condition=Ready", "pod/client"], POD)?;
    let fetch = |url: &str| kubectl.ok(&["exec", "client", "--", "timeout", "5", "wget", "-q", "-O", "-", url]);
    let mut seen = std::collections::BTreeSet::new();
    until("answers from both pods by name", POD, || {
        seen.insert(fetch("http://web/").map_err(|e| e.to_string())?);
        if seen.len() == 2 {
            Ok(())
        } else {
            Err(format!("{seen:?}"))
        }
    })?;
    ensure!(fetch("http://web.default.svc.cluster.local/").is_ok());
    let service = kubectl.json(&["get", "service", "web"])?;
    let address = service["spec"]["clusterIP"].as_str().unwrap_or_default();
    let port = &service["spec"]["ports"][0]["nodePort"];
    ensure!(fetch(&format!("http://{address}/")).is_ok());
    let node = kubectl.json(&["get", "nodes"])?;
    let ip = node["items"][0]["status"]["addresses"][0]["address"]
        .as_str()
        .unwrap_or_default()
        .to_owned();
    ensure!(fetch(&format!("http://{ip}:{port}/")).is_ok());
    let names = kubectl.ok(&["exec", "client", "--", "nslookup", "headless.default.svc.cluster.local"])?;
    ensure!(names.matches("10.142.").count() >= 2, "{names}");
    kubectl.ok(&["scale", "deploy/web", "--replicas=0"])?;
    until("a service without pods to refuse", POD, || {
        match fetch(&format!("http://{address}/")) {
            Err(e) if e.to_string().contains("refused") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
}

#[test]
fn a_claim_keeps_its_data_from_pod_to_pod() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: data}
spec: {accessModes: [ReadWriteOnce], resources: {requests: {storage: 64Mi}}}
"#,
    )?;
    let pod = |name: &str| {
        sleeper(name)
            .replace(
                r#""command": ["sleep", "3600"]}"#,
                r#""command": ["sleep", "3600"], "volumeMounts": [{"name": "d", "mountPath": "/data"}]}"#,
            )
            .replace(
                r#""containers""#,
                r#""volumes": [{"name": "d", "persistentVolumeClaim": {"claimName": "data"}}], "containers""#,
            )
    };
    kubectl.apply(&pod("one"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/one"], POD)?;
    kubectl.ok(&["exec", "one", "--", "sh", "-c", "echo kept > /data/file && sync"])?;
    ensure!(kubectl.ok(&["get", "pvc", "data", "--no-headers"])?.contains("Bound"));
    kubectl.ok(&["delete", "pod", "one"])?;
    kubectl.apply(&pod("two"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/two"], POD)?;
    ensure!(kubectl.ok(&["exec", "two", "--", "cat", "/data/file"])? == "kept\n");
    let full = kubectl.run(
        &[
            "exec",
            "two",
            "--",
            "dd",
            "if=/dev/zero",
            "of=/data/big",
            "bs=1M",
            "count=200",
        ],
        "",
    )?;
    ensure!(
        !full.ok && full.stderr.contains("No space left"),
        "capacity is enforced: {full:?}"
    );
    kubectl.ok(&["delete", "pod", "two"])?;
    kubectl.ok(&["delete", "pvc", "data", "--timeout=30s"])?;
    until("the volume to be deleted", POD, || {
        let left = kubectl.ok(&["get", "pv", "-o", "name"]).map_err(|e| e.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}
