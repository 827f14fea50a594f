//! What goes wrong: bad flags, taken ports, processes killed.

use std::process::Command;

use anyhow::{Result, ensure};
use testkit::Server;

use crate::api_only;
use crate::{POD, sleeper, with_node};

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
