//! Other people's clients, unmodified: helm and the Python client, which
//! `cargo xtask test` installs.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use testkit::Server;

/// Runs one of the installed programs against a server; what it printed, all of it.
fn run(server: &Server, program: &str, arguments: &[&str]) -> Result<String> {
    let place = std::env::var_os("ALLMEND_CLIENTS").context("ALLMEND_CLIENTS is not set: run cargo xtask test")?;
    let home = server.data_dir().join("home");
    let output = Command::new(PathBuf::from(place).join(program))
        .args(arguments)
        .env("KUBECONFIG", server.kubeconfig())
        .env("HOME", home)
        .output()
        .with_context(|| format!("run {program}"))?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {text}", arguments.join(" "));
    Ok(text)
}

fn file(name: &str) -> String {
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients").join(name);
    place.to_string_lossy().into_owned()
}

#[test]
fn helm_installs_upgrades_rolls_back_and_uninstalls() -> Result<()> {
    let server = crate::api_only()?;
    let kubectl = server.kubectl();
    let chart = file("chart");
    let colour = || kubectl.ok(&["get", "shirt", "one", "-o", "jsonpath={.spec.colour}"]);
    let installed = run(&server, "helm", &["install", "one", &chart, "--wait"])?;
    ensure!(installed.contains("STATUS: deployed"), "{installed}");
    ensure!(colour()? == "red", "installed with its custom kind");
    run(
        &server,
        "helm",
        &["upgrade", "one", &chart, "--set", "colour=blue", "--wait", "--atomic"],
    )?;
    ensure!(colour()? == "blue", "upgraded");
    let before = kubectl.json(&["get", "configmap", "one-before"])?;
    ensure!(before["data"]["revision"] == "2", "the hook ran again: {before}");
    run(&server, "helm", &["rollback", "one", "1", "--wait"])?;
    ensure!(colour()? == "red", "rolled back");
    let history = run(&server, "helm", &["history", "one"])?;
    ensure!(history.contains("Rollback to 1"), "{history}");
    run(&server, "helm", &["uninstall", "one", "--wait"])?;
    let left = kubectl.ok(&["get", "shirts,configmaps", "-o", "name"])?;
    ensure!(!left.contains("one-config") && !left.contains("shirt"), "{left}");
    Ok(())
}

#[test]
fn the_python_client_finds_nothing_strange() -> Result<()> {
    let server = crate::api_only()?;
    let kubeconfig = server.kubeconfig().to_string_lossy().into_owned();
    let said = run(&server, "python3", &[&file("client.py"), &kubeconfig])?;
    ensure!(said.trim_end().ends_with("done"), "{said}");
    Ok(())
}
