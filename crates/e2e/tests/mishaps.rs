//! What goes wrong: bad flags, taken ports, processes killed.

use std::process::Command;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{Server, ServerOptions, until};

use crate::machines::{MICRO, boots, wait_page};
use crate::{POD, api_only, sleeper, with_node};

fn refused(arguments: &[&str]) -> Result<String> {
    let output = Command::new(Server::binary()).args(arguments).output()?;
    ensure!(!output.status.success(), "{arguments:?} succeeded");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_bad_start_is_one_line_with_the_remedy() -> Result<()> {
    let server = api_only()?;
    let port = server.url().rsplit(':').next().unwrap_or_default().to_owned();
    let dir = server.data_dir().with_file_name("other");
    let dir = dir.to_str().unwrap_or_default();
    let base = [
        "server",
        "--disable-agent",
        "--bind-address",
        "127.0.0.1",
        "--write-kubeconfig",
        "/dev/null",
    ];
    let with = |more: &[&str]| refused(&[&base[..], more].concat());

    let taken = with(&["--data-dir", dir, "--https-listen-port", &port])?;
    ensure!(
        taken.contains("cannot listen on") && taken.contains("--https-listen-port"),
        "{taken}"
    );
    ensure!(
        taken.lines().filter(|l| l.starts_with("allmend:")).count() == 1,
        "{taken}"
    );
    let unwritable = with(&["--data-dir", "/proc/nowhere", "--https-listen-port", "0"])?;
    ensure!(
        unwritable.contains("/proc/nowhere") && unwritable.contains("--data-dir"),
        "{unwritable}"
    );
    let unknown = with(&["--no-such-flag"])?;
    ensure!(unknown.contains("--no-such-flag"), "{unknown}");
    Ok(())
}

#[test]
fn containers_outlive_the_server_killed_at_random_moments() -> Result<()> {
    let mut server = with_node()?;
    let kubectl = server.kubectl();
    kubectl.apply(&sleeper("steady"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/steady"], POD)?;
    let id = |k: &testkit::Kubectl| -> Result<serde_json::Value> {
        Ok(k.json(&["get", "pod", "steady"])?["status"]["containerStatuses"][0]["containerID"].clone())
    };
    let before = id(&kubectl)?;
    for round in 0..5 {
        let name = format!("round-{round}");
        kubectl.apply(&sleeper(&name))?;
        // Killed while the new pod is on its way up.
        server.kill()?;
        server.launch()?;
        kubectl.wait(&["--for=condition=Ready", &format!("pod/{name}")], POD)?;
        kubectl.ok(&["delete", "pod", &name, "--wait=false"])?;
        server.kill()?;
        server.launch()?;
        kubectl.wait(&["--for=delete", &format!("pod/{name}")], POD)?;
    }
    ensure!(id(&kubectl)? == before, "the container is the same one");
    ensure!(kubectl.ok(&["exec", "steady", "--", "echo", "alive"])? == "alive\n");
    Ok(())
}

/// Numbers that look random, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Server (which is also the agent), containerd and the machine's supervisor are killed again and
/// again while objects are written: what was acknowledged is there, and nothing died with them.
#[test]
fn nothing_is_lost_when_any_process_is_killed_fifty_times() -> Result<()> {
    let mut server = with_node()?;
    server.import(&["micro-guest"])?;
    let kubectl = server.kubectl();
    kubectl.apply(MICRO)?;
    kubectl.apply(&sleeper("client"))?;
    kubectl.wait(&["--for=condition=Ready", "pod/client"], POD)?;
    let page = wait_page(&server)?;
    let state = |k: &testkit::Kubectl| -> Result<String> {
        let pod = k.json(&["get", "pod", "client"])?;
        let vmi = k.json(&["get", "vmi", "micro"])?;
        let status = &pod["status"]["containerStatuses"][0];
        Ok(format!(
            "{} {} {}",
            status["containerID"], status["restartCount"], vmi["metadata"]["uid"]
        ))
    };
    let before = state(&kubectl)?;
    let mut dice = Dice(20_260_101);
    let mut acknowledged = Vec::new();
    let mut killed = [0; 3];
    for round in 0..50 {
        let name = format!("note-{round}");
        let mut writing = kubectl.start(&["create", "configmap", &name, "--from-literal=round=1"])?;
        // Somewhere within the write, or after it.
        std::thread::sleep(Duration::from_millis(dice.below(150)));
        let victim = dice.below(3);
        let pids = match victim {
            0 => server.pid().into_iter().collect(),
            1 => server.processes("containerd"),
            _ => server.processes("machine-supervisor"),
        };
        killed[usize::try_from(victim)?] += pids.len();
        pids.into_iter().try_for_each(Server::kill_process)?;
        if victim == 0 {
            server.kill()?;
            server.launch()?;
        }
        if writing.wait()?.success() {
            acknowledged.push(name);
        }
    }
    ensure!(
        acknowledged.len() >= 20,
        "only {} writes got through",
        acknowledged.len()
    );
    let there = kubectl.ok(&["get", "configmaps", "-o", "name"])?;
    for name in &acknowledged {
        ensure!(
            there.contains(&format!("configmap/{name}\n")),
            "{name} was acknowledged and is gone"
        );
    }
    until("containerd and the supervisor to be back", POD, || {
        let alive = kubectl
            .ok(&["exec", "client", "--", "echo", "alive"])
            .map_err(|e| e.to_string())?;
        match (alive.as_str(), server.processes("machine-supervisor").len()) {
            ("alive\n", 1) => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })?;
    ensure!(
        boots(&wait_page(&server)?) == boots(&page),
        "the machine never went down"
    );
    let after = state(&kubectl)?;
    ensure!(after == before, "{before} then {after}");
    // Everything can still be taken away in the ordinary way, and leaves nothing.
    kubectl.ok(&["delete", "vm/micro", "pod/client", "pvc/micro-data", "--timeout=90s"])?;
    server.purge().context("purge")
}

#[test]
fn a_full_disk_refuses_writes_and_recovers() -> Result<()> {
    let server = Server::start(ServerOptions {
        api_only: true,
        disk_mib: Some(64),
        ..ServerOptions::default()
    })?;
    let kubectl = server.kubectl();
    let filler = server.data_dir().join("filler");
    std::fs::write(&filler, vec![0u8; 24 << 20])?;
    let large = "x".repeat(700 << 10);
    let create = |name: &str| {
        let map = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name},
            "data": {"large": large}});
        kubectl.run(&["create", "-f", "-"], &map.to_string())
    };
    let mut refused = None;
    for i in 0..200 {
        let ran = create(&format!("large-{i}"))?;
        if !ran.ok {
            refused = Some((i, ran.stderr));
            break;
        }
    }
    let (count, why) = refused.context("200 times 700 KiB fitted into 40 MiB")?;
    ensure!(why.contains("disk") || why.contains("space"), "{why}");
    let listed = kubectl.ok(&["get", "configmaps", "-o", "name"])?;
    ensure!(
        listed.matches("large-").count() == count,
        "what was acknowledged can be read: {listed}"
    );
    std::fs::remove_file(&filler)?;
    until("writes to be taken again", Duration::from_secs(30), || {
        let ran = create("after").map_err(|e| e.to_string())?;
        if ran.ok || ran.stderr.contains("AlreadyExists") {
            Ok(())
        } else {
            Err(ran.stderr)
        }
    })
}
