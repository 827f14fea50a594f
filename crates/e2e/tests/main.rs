//! End-to-end tests: what a user does, with the tools that a user has.
//!
//! Must not use any crate of the product but `testkit`.

mod api;
mod clients;
mod cluster;
mod controllers;
mod custom;
mod datastore;
mod machines;
mod mishaps;
mod pods;
mod services;
mod shop;
mod streams;

use anyhow::Result;
use testkit::{Server, ServerOptions};

/// How long a pod may take to run here, under load from other tests.
const POD: std::time::Duration = std::time::Duration::from_secs(60);
/// How long a small machine may take to boot under emulation.
const MACHINE: std::time::Duration = std::time::Duration::from_secs(120);

/// A server with a node and the test images.
fn with_node() -> Result<Server> {
    let server = Server::start(ServerOptions::default())?;
    server.wait_node()?;
    server.import(&["busybox"])?;
    Ok(server)
}

/// A server without a node.
fn api_only() -> Result<Server> {
    Server::start(ServerOptions {
        api_only: true,
        ..ServerOptions::default()
    })
}

/// A pod that sleeps, with a shell for `exec`.
fn sleeper(name: &str) -> String {
    format!(
        r#"{{"apiVersion": "v1", "kind": "Pod", "metadata": {{"name": "{name}", "labels": {{"app": "{name}"}}}},
            "spec": {{"terminationGracePeriodSeconds": 1, "containers": [
              {{"name": "main", "image": "allmend.local/busybox:1", "command": ["sleep", "3600"]}}]}}}}"#
    )
}
