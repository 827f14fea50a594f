//! `allmend agent`: this machine as a node of a server elsewhere.
//!
//! Must not hold logic: each part is a crate or a module of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use client::{Client, HttpClient};
use informer::Informers;
use kinds::resources::CONFIG_MAPS;
use pki::ServerIdentity;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use crate::cli::AgentFlags;
use crate::cluster::{self, Cluster};
use crate::enrol::{self, Place};
use crate::signing::Keeper;
use crate::{node, preflight, server};

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Labels in Kubernetes' own domains that a node may give itself.
const OWN_LABELS: [&str; 10] = [
    "kubernetes.io/hostname",
    "kubernetes.io/arch",
    "kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "node.kubernetes.io/instance-type",
    "beta.kubernetes.io/instance-type",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "node.kubernetes.io/windows-build",
];

/// Runs until a signal asks to stop.
pub fn run(flags: AgentFlags) -> Result<()> {
    preflight::data_dir(&flags.node.data_dir)?;
    preflight::node("")?;
    check_labels(&flags.node.node_label)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(async move {
        let stop = server::asked_to_stop();
        tokio::pin!(stop);
        let (node, keeper) = tokio::select! {
            started = start(&flags) => started?,
            // Nothing runs yet but what ran before.
            asked = &mut stop => return asked,
        };
        stop.await?;
        info!("stopping; workloads keep running");
        keeper.abort();
        node.stop().await;
        Ok(())
    })
}

async fn start(flags: &AgentFlags) -> Result<(node::Running, JoinHandle<()>)> {
    let begun = Instant::now();
    let name = node::name(&flags.node)?;
    let ip = server::node_ip(flags.node.node_ip);
    let place = Place::new(&flags.node.data_dir);
    let member = enrol::enrol(&flags.server, flags.node.token.as_deref(), &place, &name).await?;
    let cluster = cluster(&flags.server, &member.client).await?;
    let client: Arc<dyn Client> = member.client.clone();
    let keeper = Keeper {
        client: client.clone(),
        place,
        node: name.clone(),
        ip,
        calls: member.identity,
        serves: ServerIdentity::none(),
    };
    keeper.take_up()?;
    let setup = node::Setup {
        flags: flags.node.clone(),
        disabled: flags.disable.clone(),
        informers: Arc::new(Informers::new(client.clone())),
        client,
        cluster,
        serving: keeper.serves.clone(),
        labels: BTreeMap::new(),
        name,
        ip,
    };
    let node = node::start(setup).await?;
    let keeper = tokio::spawn(keeper.run());
    info!(
        server = flags.server,
        milliseconds = begun.elapsed().as_millis(),
        "everything started"
    );
    Ok((node, keeper))
}

/// What all nodes agree on; waits for a server that is away.
async fn cluster(server: &str, client: &HttpClient) -> Result<Cluster> {
    let mut pause = FIRST_PAUSE;
    loop {
        let status = match client.get(&CONFIG_MAPS, cluster::NAMESPACE, cluster::NAME).await {
            Ok(map) => return Cluster::read(&map),
            Err(status) => status,
        };
        if enrol::is_other_server(&status) {
            return Err(enrol::refused(server, &status));
        }
        if [401, 403].contains(&status.code) {
            return Err(anyhow!("{}", status.message)).context(
                "the server does not take this node's certificate: remove agent/tls from the data directory \
                 and start again with --token",
            );
        }
        warn!(
            server,
            error = status.message,
            "the server does not answer; trying again"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// What the server would refuse is said at once.
fn check_labels(labels: &[String]) -> Result<()> {
    for label in labels {
        let key = label.split('=').next().unwrap_or_default();
        let domain = key.split_once('/').map_or("", |(domain, _)| domain);
        let reserved = ["kubernetes.io", "k8s.io"]
            .iter()
            .any(|d| domain == *d || domain.ends_with(&format!(".{d}")));
        let allowed = OWN_LABELS.contains(&key) || ["kubelet.kubernetes.io", "node.kubernetes.io"].contains(&domain);
        if reserved && !allowed {
            bail!("--node-label {label}: a node may not give itself this label; use `kubectl label node`");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_kubernetes_are_for_administrators() {
        let check = |label: &str| check_labels(&[label.to_owned()]);
        for fine in [
            "a=b",
            "topology.kubernetes.io/zone=z",
            "node.kubernetes.io/x=y",
            "example.org/kubernetes.io=z",
        ] {
            check(fine).unwrap();
        }
        for wrong in [
            "node-role.kubernetes.io/control-plane=",
            "node-restriction.kubernetes.io/x=y",
            "a.k8s.io/x=",
        ] {
            let error = check(wrong).unwrap_err().to_string();
            assert!(error.contains("kubectl label node"), "{error}");
        }
    }
}
