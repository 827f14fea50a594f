//! Pods in real containers.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::until;

use crate::{POD, sleeper, with_node};

#[test]
fn a_pod_runs_and_can_be_looked_into() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(
        r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: green, page.html: "<h1>hello</h1>"}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {word: s3cret}
---
apiVersion: v1
kind: Pod
metadata: {name: full, labels: {app: full}}
spec:
  terminationGracePeriodSeconds: 2
  initContainers:
  - name: first
    image: allmend.local/busybox:1
    command: [sh, -c, "echo prepared > /work/file"]
    volumeMounts: [{name: work, mountPath: /work}]
  containers:
  - name: web
    image: allmend.local/busybox:1
    command: [sh, -c, "echo started; exec httpd -f -p 8080 -h /www"]
    env:
    - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
    - {name: WORD, valueFrom: {secretKeyRef: {name: password, key: word}}}
    - {name: ME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: BOTH, value: "$(ME)-$(COLOUR)"}
    readinessProbe: {httpGet: {path: /page.html, port: 8080}, periodSeconds: 1}
    resources: {requests: {cpu: 10m, memory: 16Mi}, limits: {memory: 64Mi}}
    volumeMounts:
    - {name: work, mountPath: /work}
    - {name: www, mountPath: /www}
  - name: side
    image: allmend.local/busybox:1
    command: [sleep, "3600"]
  volumes:
  - {name: work, emptyDir: {}}
  - {name: www, configMap: {name: settings}}
"#,
    )?;
    kubectl.wait(&["--for=condition=Ready", "pod/full"], POD)?;
    let row = kubectl.ok(&["get", "pod", "full", "--no-headers"])?;
    ensure!(
        row.split_whitespace().collect::<Vec<_>>()[1..4] == ["2/2", "Running", "0"],
        "{row}"
    );

    ensure!(kubectl.ok(&["logs", "full", "-c", "web"])? == "started\n");
    let env = kubectl.ok(&[
        "exec",
        "full",
        "-c",
        "web",
        "--",
        "sh",
        "-c",
        "echo $COLOUR $WORD $BOTH; cat /work/file",
    ])?;
    ensure!(env == "green s3cret full-green\nprepared\n", "{env}");
    let echoed = kubectl.ok_with(&["exec", "-i", "full", "-c", "side", "--", "cat"], "through stdin\n")?;
    ensure!(echoed == "through stdin\n", "{echoed}");
    let failed = kubectl.run(&["exec", "full", "-c", "side", "--", "sh", "-c", "exit 7"], "")?;
    ensure!(!failed.ok && failed.stderr.contains("exit code 7"), "{failed:?}");

    let mut forward = kubectl.start(&["port-forward", "pod/full", ":8080"])?;
    let mut line = String::new();
    // Held to the end: kubectl dies of a pipe that nobody reads.
    let mut said = BufReader::new(forward.stdout.take().context("stdout")?);
    said.read_line(&mut line)?;
    let port: u16 = line
        .split("127.0.0.1:")
        .nth(1)
        .and_then(|r| r.split(' ').next())
        .context(line.clone())?
        .parse()?;
    let mut page = String::new();
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.write_all(b"GET /page.html HTTP/1.0\r\n\r\n")?;
    // The server in the pod closes hard: what came before that is what counts.
    let _ = stream.read_to_string(&mut page);
    forward.kill()?;
    forward.wait()?;
    ensure!(page.contains("<h1>hello</h1>"), "{page}");

    kubectl.ok(&["delete", "pod", "full"])?;
    ensure!(kubectl.refused(&["get", "pod", "full"], "")?.contains("NotFound"));
    Ok(())
}

#[test]
fn a_missing_image_is_named_and_backed_off() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(&sleeper("lost").replace("allmend.local/busybox:1", "127.0.0.1:1/none/such:9"))?;
    until("ImagePullBackOff", POD, || {
        let row = kubectl
            .ok(&["get", "pod", "lost", "--no-headers"])
            .map_err(|e| e.to_string())?;
        if row.contains("ImagePullBackOff") {
            Ok(())
        } else {
            Err(row)
        }
    })?;
    let events = kubectl.ok(&["get", "events", "--field-selector=involvedObject.name=lost"])?;
    ensure!(
        events.contains("Failed to pull image") && events.contains("Back-off pulling image"),
        "{events}"
    );
    kubectl.ok(&["delete", "pod", "lost", "--timeout=30s"])?;
    Ok(())
}

/// A registry on loopback; it ends with the test.
struct Registry {
    child: std::process::Child,
    address: String,
    _files: tempfile::TempDir,
}

impl Registry {
    fn start() -> Result<Self> {
        let files = tempfile::tempdir()?;
        let address = {
            let free = std::net::TcpListener::bind("127.0.0.1:0")?;
            free.local_addr()?.to_string()
        };
        let config = files.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            files.path().join("data").display()
        );
        std::fs::write(&config, text)?;
        let child = std::process::Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .context("start docker-registry")?;
        let registry = Registry {
            child,
            address,
            _files: files,
        };
        until("the registry", POD, || {
            TcpStream::connect(&registry.address).map_err(|e| e.to_string())
        })?;
        Ok(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn an_image_is_pulled_from_a_registry() -> Result<()> {
    let server = with_node()?;
    let registry = Registry::start()?;
    let image = format!("{}/farm/tools:1", registry.address);
    let socket = server.data_dir().join("run/containerd/containerd.sock");
    let ctr = |arguments: &[&str]| -> Result<()> {
        let mut command = std::process::Command::new("ctr");
        let output = command
            .arg("-a")
            .arg(&socket)
            .args(["-n", "k8s.io", "images"])
            .args(arguments)
            .output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    ctr(&["tag", "allmend.local/busybox:1", &image])?;
    ctr(&["push", "--plain-http", &image])?;
    ctr(&["rm", &image])?;
    let kubectl = server.kubectl();
    kubectl.apply(&sleeper("pulled").replace("allmend.local/busybox:1", &image))?;
    kubectl.wait(&["--for=condition=Ready", "pod/pulled"], POD)?;
    let events = kubectl.ok(&["get", "events", "--field-selector=involvedObject.name=pulled"])?;
    ensure!(events.contains("Successfully pulled image"), "{events}");
    Ok(())
}

#[test]
fn a_failing_container_is_restarted_with_back_off() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(&sleeper("crash").replace(r#"["sleep", "3600"]"#, r#"["sh", "-c", "echo try; exit 3"]"#))?;
    until("CrashLoopBackOff", POD, || {
        let row = kubectl
            .ok(&["get", "pod", "crash", "--no-headers"])
            .map_err(|e| e.to_string())?;
        if row.contains("CrashLoopBackOff") {
            Ok(())
        } else {
            Err(row)
        }
    })?;
    let pod = kubectl.json(&["get", "pod", "crash"])?;
    let status = &pod["status"]["containerStatuses"][0];
    ensure!(status["lastState"]["terminated"]["exitCode"] == 3, "{status}");
    ensure!(status["restartCount"].as_i64() >= Some(1), "{status}");
    ensure!(kubectl.ok(&["logs", "crash", "--previous"])? == "try\n");
    Ok(())
}

#[test]
fn a_deployment_rolls_out_and_back() -> Result<()> {
    let server = with_node()?;
    let kubectl = server.kubectl();
    let manifest = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: roll}
spec:
  replicas: 3
  selector: {matchLabels: {app: roll}}
  template:
    metadata: {labels: {app: roll}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: "allmend.local/busybox:1", command: [sleep, "3600"], env: [{name: V, value: "1"}]}
"#;
    kubectl.apply(manifest)?;
    kubectl.ok(&["rollout", "status", "deploy/roll", "--timeout=60s"])?;
    kubectl.ok(&["set", "env", "deploy/roll", "V=2"])?;
    kubectl.ok(&["rollout", "status", "deploy/roll", "--timeout=60s"])?;
    ensure!(kubectl.ok(&["rollout", "history", "deploy/roll"])?.contains('2'));
    kubectl.ok(&["rollout", "undo", "deploy/roll"])?;
    kubectl.ok(&["rollout", "status", "deploy/roll", "--timeout=60s"])?;
    let object = kubectl.json(&["get", "deploy", "roll"])?;
    ensure!(object["spec"]["template"]["spec"]["containers"][0]["env"][0]["value"] == "1");
    ensure!(object["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "3");
    kubectl.ok(&["delete", "deploy", "roll"])?;
    until("its pods to be gone", Duration::from_secs(30), || {
        let left = kubectl.ok(&["get", "pods", "-o", "name"]).map_err(|e| e.to_string())?;
        if left.is_empty() { Ok(()) } else { Err(left) }
    })
}
