//! Several hosts: machines join, run pods, lose each other and find each other again.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Hosts, Kubectl, Signal, until};

use crate::{POD, api_only};

/// How long a node may take to be there and Ready.
const JOIN: Duration = Duration::from_secs(60);

/// A pod on a node, that says its name on port 8080.
fn pod(name: &str, node: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "web"}}}},
            "spec": {{"nodeName": "{node}", "terminationGracePeriodSeconds": 1, "containers": [
              {{"name": "main", "image": "allmend.local/busybox:1", "command": ["sh", "-c",
                "echo {name} > /index.html; echo up; exec httpd -f -p 8080 -h /"]}}]}}}}"#
    )
}

fn wait_ready(kubectl: &Kubectl, node: &str) -> Result<()> {
    until(&format!("node {node} to be Ready"), JOIN, || {
        let ran = kubectl
            .run(&["get", "node", node, "--no-headers"], "")
            .map_err(|e| e.to_string())?;
        if ran.stdout.split_whitespace().nth(1) == Some("Ready") {
            Ok(())
        } else {
            Err(ran.stdout + &ran.stderr)
        }
    })
}

fn container(kubectl: &Kubectl, pod: &str) -> Result<String> {
    let object = kubectl.json(&["get", "pod", pod])?;
    let status = &object["status"]["containerStatuses"][0];
    Ok(format!("{} {}", status["containerID"], status["restartCount"]))
}

fn fetch(kubectl: &Kubectl, from: &str, what: &str) -> Result<String> {
    let page = until("an answer", POD, || {
        let ran = kubectl
            .run(&["exec", from, "--", "timeout", "5", "wget", "-q", "-O", "-", what], "")
            .map_err(|e| e.to_string())?;
        if ran.ok { Ok(ran.stdout) } else { Err(ran.stderr) }
    })?;
    Ok(page.trim().to_owned())
}

/// A server on the first host and agents on the others, with the test images wherever pods run.
fn cluster(names: &[&str], flags: &[&str]) -> Result<Hosts> {
    let mut hosts = Hosts::new(names)?;
    hosts.host(0).serve(flags)?;
    let (url, token) = (hosts.url(), hosts.token()?);
    for n in 1..names.len() {
        hosts.host(n).join(&url, &token, &[])?;
    }
    let kubectl = hosts.kubectl();
    let first = usize::from(flags.contains(&"--disable-agent"));
    for (n, node) in names.iter().enumerate().skip(first) {
        wait_ready(&kubectl, node).with_context(|| hosts.logs())?;
        hosts.host(n).import(&["busybox"])?;
    }
    Ok(hosts)
}

#[test]
fn machines_join_and_their_pods_reach_each_other() -> Result<()> {
    let mut hosts = cluster(&["s", "a"], &[])?;
    let result = pods_on_two_nodes(&mut hosts);
    result.with_context(|| hosts.logs())
}

fn pods_on_two_nodes(hosts: &mut Hosts) -> Result<()> {
    let kubectl = hosts.kubectl();
    for node in ["a", "s"] {
        kubectl.apply(&pod(&format!("on-{node}"), node))?;
    }
    for node in ["a", "s"] {
        kubectl.wait(&["--for=condition=Ready", &format!("pod/on-{node}")], POD)?;
        let name = format!("on-{node}");
        ensure!(kubectl.ok(&["logs", &name])? == "up\n");
        ensure!(kubectl.ok(&["exec", &name, "--", "cat", "/index.html"])?.trim() == name);
    }
    kubectl.apply(
        r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8080}]}}"#,
    )?;
    let s = kubectl.json(&["get", "pod", "on-s"])?;
    let s = s["status"]["podIP"].as_str().context("podIP")?;
    ensure!(fetch(&kubectl, "on-a", &format!("http://{s}:8080/index.html"))? == "on-s");
    // By the cluster's DNS on the asking node, and the Service's rules.
    for from in ["on-a", "on-s"] {
        let page = fetch(&kubectl, from, "http://web.default.svc.cluster.local/index.html")?;
        ensure!(page == "on-a" || page == "on-s", "{page}");
    }
    nodes_see_their_own(hosts, &kubectl)?;
    a_certificate_is_kept(hosts, &kubectl)
}

/// What a node's own credentials are good for.
fn nodes_see_their_own(hosts: &mut Hosts, kubectl: &Kubectl) -> Result<()> {
    let uses = |name: &str, node: &str| {
        format!(
            r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}"}},
            "spec": {{"nodeName": "{node}", "containers": [{{"name": "main", "image": "allmend.local/busybox:1",
              "command": ["sleep", "3600"], "envFrom": [{{"secretRef": {{"name": "{name}"}}}}]}}]}}}}"#
        )
    };
    for node in ["a", "s"] {
        let name = format!("word-{node}");
        kubectl.ok(&["create", "secret", "generic", &name, "--from-literal=word=s3cret"])?;
        kubectl.apply(&uses(&name, node))?;
        kubectl.wait(&["--for=condition=Ready", &format!("pod/{name}")], POD)?;
    }
    let tls = hosts.host(1).data_dir().join("agent/tls");
    let path = |name: &str| tls.join(name).to_string_lossy().into_owned();
    let url = hosts.url();
    let flags = [
        format!("--server={url}"),
        format!("--certificate-authority={}", path("server-ca.crt")),
        format!("--client-certificate={}", path("client.pem")),
        format!("--client-key={}", path("client.pem")),
        "--kubeconfig=/dev/null".to_owned(),
    ];
    let as_a = |arguments: &[&str]| {
        let mut all: Vec<&str> = flags.iter().map(String::as_str).collect();
        all.extend(arguments);
        kubectl.run(&all, "")
    };
    let who = as_a(&["auth", "whoami", "-o", "jsonpath={.status.userInfo.username}"])?;
    ensure!(who.stdout == "system:node:a", "{who:?}");
    ensure!(as_a(&["get", "secret", "word-a"])?.ok);
    ensure!(as_a(&["get", "configmap", "allmend-cluster", "-n", "kube-system"])?.ok);
    let own = as_a(&["get", "pods", "-A", "--field-selector=spec.nodeName=a", "-o", "name"])?;
    ensure!(
        own.ok && own.stdout.contains("word-a") && !own.stdout.contains("word-s"),
        "{own:?}"
    );
    for forbidden in [
        &["get", "secret", "word-s"][..],
        &["get", "pods", "-A"],
        &["get", "pods", "-A", "--field-selector=spec.nodeName=s"],
        &["get", "pod", "word-s"],
        &["get", "vmis", "-A"],
        &["get", "secrets", "-A"],
        &["get", "configmap", "kube-root-ca.crt", "-n", "kube-public"],
        &["delete", "pod", "word-s"],
        &["delete", "node", "s"],
        &["label", "node", "s", "x=y"],
        &["label", "node", "a", "node-role.kubernetes.io/control-plane=true"],
        &["taint", "node", "a", "x=y:NoSchedule"],
        &["create", "serviceaccount", "x"],
        &["create", "token", "default", "-n", "kube-system"],
        &["get", "lease", "s", "-n", "kube-node-lease"],
    ] {
        let ran = as_a(forbidden)?;
        ensure!(!ran.ok && ran.stderr.contains("orbidden"), "{forbidden:?}: {ran:?}");
    }
    Ok(())
}

/// A restart needs no token, keeps the certificate, and finds the pods as they were.
fn a_certificate_is_kept(hosts: &mut Hosts, kubectl: &Kubectl) -> Result<()> {
    let (url, before) = (hosts.url(), container(kubectl, "on-a")?);
    let file = hosts.host(1).data_dir().join("agent/tls/client.pem");
    let certificate = std::fs::read(&file)?;
    ensure!(hosts.host(1).end(Signal::TERM)?, "TERM ends it in order");
    hosts.host(1).join(&url, "", &["--node-label", "again=yes"])?;
    until("the label of the second start", JOIN, || {
        let node = kubectl.json(&["get", "node", "a"]).map_err(|e| e.to_string())?;
        let label = node["metadata"]["labels"]["again"].clone();
        if label == "yes" { Ok(()) } else { Err(node.to_string()) }
    })?;
    wait_ready(kubectl, "a")?;
    ensure!(std::fs::read(&file)? == certificate);
    ensure!(container(kubectl, "on-a")? == before);
    ensure!(kubectl.ok(&["exec", "on-a", "--", "echo", "alive"])? == "alive\n");
    Ok(())
}

#[test]
fn agents_and_server_lose_each_other_and_nothing_stops() -> Result<()> {
    let mut hosts = cluster(&["s", "a", "b"], &["--disable-agent"])?;
    let result = losses(&mut hosts);
    result.with_context(|| hosts.logs())
}

fn losses(hosts: &mut Hosts) -> Result<()> {
    let kubectl = hosts.kubectl();
    for node in ["a", "b"] {
        kubectl.apply(&pod(&format!("on-{node}"), node))?;
    }
    kubectl.wait(&["--for=condition=Ready", "pod/on-a", "pod/on-b"], POD)?;
    let (a, b) = (container(&kubectl, "on-a")?, container(&kubectl, "on-b")?);
    let address = kubectl.json(&["get", "pod", "on-a"])?["status"]["podIP"].clone();
    let page = format!("http://{}:8080/index.html", address.as_str().context("podIP")?);

    // An agent dies: its container does not, others still reach it, and it is taken up again.
    hosts.host(1).end(Signal::KILL)?;
    ensure!(fetch(&kubectl, "on-b", &page)? == "on-a");
    let url = hosts.url();
    hosts.host(1).join(&url, "", &[])?;
    until("exec by the new agent", JOIN, || {
        let ran = kubectl.run(&["exec", "on-a", "--", "echo", "alive"], "");
        let ran = ran.map_err(|e| e.to_string())?;
        if ran.ok { Ok(()) } else { Err(ran.stderr) }
    })?;
    ensure!(container(&kubectl, "on-a")? == a);

    // The server is away for some seconds; an agent starts meanwhile and waits for it.
    ensure!(hosts.host(0).end(Signal::TERM)?);
    hosts.host(1).end(Signal::TERM)?;
    hosts.host(1).join(&url, "", &[])?;
    let log = hosts.host(1).log();
    until("the agent to say that it waits", JOIN, || {
        let text = std::fs::read_to_string(&log).map_err(|e| e.to_string())?;
        if text.contains("the server does not answer") {
            Ok(())
        } else {
            Err(text)
        }
    })?;
    ensure!(
        hosts.host(1).end(Signal::TERM)?,
        "one that waits ends when it is asked to"
    );
    hosts.host(1).join(&url, "", &[])?;
    hosts.host(0).serve(&["--disable-agent"])?;
    // Both agents are back when they do what the server wants of them.
    for node in ["a", "b"] {
        kubectl.apply(&pod(&format!("later-{node}"), node))?;
        kubectl.wait(&["--for=condition=Ready", &format!("pod/later-{node}")], POD)?;
    }
    ensure!(container(&kubectl, "on-a")? == a && container(&kubectl, "on-b")? == b);
    ensure!(fetch(&kubectl, "on-b", &page)? == "on-a");

    // A node that is taken out: agent ended, Node deleted; its pods go, and the machine may join again.
    ensure!(hosts.host(2).end(Signal::TERM)?);
    hosts.host(2).allmend(&["purge", "--yes"])?;
    let token = hosts.token()?;
    let taken = hosts
        .host(2)
        .try_allmend(&["agent", "--server", &url, "--token", &token, "--node-name", "b"])?;
    let said = String::from_utf8_lossy(&taken.stderr).into_owned();
    ensure!(
        !taken.status.success() && said.contains("delete node b first"),
        "{said}"
    );
    kubectl.ok(&["delete", "node", "b"])?;
    hosts.host(2).join(&url, &token, &[])?;
    wait_ready(&kubectl, "b")
}

#[test]
fn joining_fails_with_one_line_and_the_remedy() -> Result<()> {
    let mut hosts = Hosts::new(&["s", "a"])?;
    hosts.host(0).serve(&["--disable-agent"])?;
    let (url, token) = (hosts.url(), hosts.token()?);
    let agent = |flags: &[&str]| -> Result<String> {
        let mut all = vec!["agent"];
        all.extend(flags);
        let output = hosts.host(1).try_allmend(&all)?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(!output.status.success(), "{flags:?} succeeded");
        let lines: Vec<&str> = said.lines().filter(|l| l.starts_with("allmend:")).collect();
        ensure!(lines.len() == 1, "{said}");
        Ok(lines[0].to_owned())
    };
    let mut agent = agent;
    let none = agent(&["--server", &url])?;
    ensure!(none.contains("--token") && none.contains("allmend token"), "{none}");
    let secret = token.rsplit(':').next().context("secret")?.to_owned();
    let wrong = agent(&["--server", &url, "--token", "0123456789abcdef"])?;
    ensure!(wrong.contains("secret") && wrong.contains("allmend token"), "{wrong}");
    let other = format!("A10{}::server:{secret}", "0".repeat(64));
    let other = agent(&["--server", &url, "--token", &other])?;
    ensure!(
        other.contains("fingerprint") && other.contains("allmend token"),
        "{other}"
    );
    let cut = agent(&["--server", &url, "--token", &token[..40]])?;
    ensure!(cut.contains("cut off"), "{cut}");
    let plain = agent(&["--server", "http://192.0.2.1:6443", "--token", &token])?;
    ensure!(plain.contains("https://"), "{plain}");
    let label = agent(&[
        "--server",
        &url,
        "--token",
        &token,
        "--node-label",
        "node-role.kubernetes.io/x=",
    ])?;
    ensure!(label.contains("--node-label"), "{label}");
    // A name that is taken, be it by a node that never came.
    let kubectl = hosts.kubectl();
    kubectl.apply(r#"{"apiVersion": "v1", "kind": "Node", "metadata": {"name": "taken"}}"#)?;
    let taken = [&["--server", &url, "--token", &token, "--node-name"][..], &["taken"]].concat();
    let mut said = hosts.host(1).try_allmend(&[&["agent"][..], &taken].concat())?.stderr;
    let said = String::from_utf8(std::mem::take(&mut said))?;
    ensure!(said.contains("delete node taken first"), "{said}");
    Ok(())
}

#[test]
fn a_user_gets_a_certificate_that_an_administrator_approved() -> Result<()> {
    let server = api_only()?;
    let kubectl = server.kubectl();
    let files = tempfile::tempdir()?;
    let (key, request) = (files.path().join("ann.key"), files.path().join("ann.csr"));
    let mut openssl = std::process::Command::new("openssl");
    openssl.args([
        "req",
        "-new",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-subj",
        "/O=farmers/O=cooks/CN=ann",
    ]);
    let made = openssl.arg("-keyout").arg(&key).arg("-out").arg(&request).output()?;
    ensure!(made.status.success(), "{made:?}");
    let create = |name: &str, request: &str, usages: &str| {
        let object = format!(
            r#"{{"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
            "metadata": {{"name": "{name}"}}, "spec": {{"request": "{request}", "usages": [{usages}],
            "username": "system:admin-of-all", "expirationSeconds": 3600, "signerName": "kubernetes.io/kube-apiserver-client"}}}}"#
        );
        kubectl.run(&["create", "-f", "-"], &object)
    };
    let mut base64 = std::process::Command::new("base64");
    let encoded = String::from_utf8(base64.arg("-w0").arg(&request).output()?.stdout)?;
    ensure!(create("ann", &encoded, r#""client auth""#)?.ok);
    let row = kubectl.ok(&["get", "csr", "ann", "--no-headers"])?;
    ensure!(
        row.contains("Pending") && row.contains("system:admin") && !row.contains("of-all"),
        "{row}"
    );
    kubectl.ok(&["certificate", "approve", "ann"])?;
    let certificate = until("the certificate", POD, || {
        let object = kubectl.json(&["get", "csr", "ann"]).map_err(|e| e.to_string())?;
        let found = object["status"]["certificate"].as_str().map(str::to_owned);
        found.ok_or_else(|| object["status"].to_string())
    })?;
    let crt = files.path().join("ann.crt");
    let mut decode = program("base64", &["-d"]);
    std::fs::write(&crt, run_with(&mut decode, &certificate)?)?;
    let config = |part: &[&str]| kubectl.ok(&[&["config"][..], part].concat());
    let path = |p: &std::path::Path| p.to_string_lossy().into_owned();
    config(&[
        "set-credentials",
        "ann",
        &format!("--client-certificate={}", path(&crt)),
        &format!("--client-key={}", path(&key)),
    ])?;
    let who = kubectl.json(&["auth", "whoami", "--user=ann"])?;
    let info = &who["status"]["userInfo"];
    let groups = info["groups"].to_string();
    ensure!(
        info["username"] == "ann" && groups.contains("farmers") && groups.contains("cooks"),
        "{who}"
    );
    ensure!(
        kubectl
            .refused(&["get", "nodes", "--user=ann"], "")?
            .contains("Forbidden")
    );

    // Usages that the signer does not give: approved all the same, it can only fail.
    ensure!(create("serves", &encoded, r#""client auth", "server auth""#)?.ok);
    kubectl.ok(&["certificate", "approve", "serves"])?;
    kubectl.wait(&["--for=condition=Failed", "csr/serves"], POD)?;
    let junk = create("junk", "anVuaw==", r#""client auth""#)?;
    ensure!(!junk.ok && junk.stderr.contains("spec.request"), "{junk:?}");
    kubectl.ok(&["delete", "csr", "ann"])?;
    ensure!(create("ann", &encoded, r#""client auth""#)?.ok);
    kubectl.ok(&["certificate", "deny", "ann"])?;
    ensure!(kubectl.ok(&["get", "csr", "ann", "--no-headers"])?.contains("Denied"));
    Ok(())
}

fn program(program: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    command
}

fn run_with(command: &mut std::process::Command, input: &str) -> Result<Vec<u8>> {
    use std::io::Write;
    use std::process::Stdio;
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().context("stdin")?.write_all(input.as_bytes())?;
    Ok(child.wait_with_output()?.stdout)
}
