//! `allmend server`: what is started, in which order, and how it ends.
//!
//! Must not hold logic: each part is a crate.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use apiserver::{ApiServer, Config, User};
use controllers::CertificateController;
use reconcile::Controller;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::certifier::Keys;
use crate::cli::{Component, ServerFlags};
use crate::cluster::Cluster;
use crate::control::Control;
use crate::credentials::{self, ServerCredentials, ServerPaths};
use crate::{datastore, node, preflight};

/// Runs until a signal asks to stop.
pub fn run(flags: ServerFlags) -> Result<()> {
    preflight::data_dir(&flags.node.data_dir)?;
    if !flags.disable_agent {
        preflight::node(", or run only the API with --disable-agent")?;
    }
    let listener = preflight::listen(flags.bind_address, flags.https_listen_port)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("start the runtime")?;
    runtime.block_on(serve(flags, listener))
}

async fn serve(flags: ServerFlags, listener: std::net::TcpListener) -> Result<()> {
    let begun = Instant::now();
    let services = parse_cidr(&flags.service_cidr).context("--service-cidr")?;
    let port = listener.local_addr().context("read the listening address")?.port();
    let node_ip = node_ip(flags.node.node_ip);
    let paths = ServerPaths::new(&flags.node.data_dir);
    let names = certificate_names(&flags, services.0, node_ip);
    let credentials = credentials::open(&paths, names.clone(), flags.node.token.as_deref())?;

    let store = datastore::open(&flags.datastore, &paths).await?;
    let config = api_config(&flags, &credentials, services, SocketAddr::new(node_ip, port))?;
    let api = ApiServer::open(config, store).await?;

    let identity = pki::ServerIdentity::new(&credentials.serving)?;
    let authority = credentials.client_authority.certificate();
    let tls = pki::server_config(identity, authority, false, &[b"h2", b"http/1.1"])?;
    let listener = tokio::net::TcpListener::from_std(listener).context("use the listening socket")?;
    let stop = CancellationToken::new();
    let serving = tokio::spawn({
        let (api, stop) = (api.clone(), stop.clone());
        async move { api.serve(listener, Arc::new(tls), stop).await }
    });

    let url = format!("https://{}:{port}", reachable(flags.bind_address));
    write_kubeconfig(&flags, &paths, &credentials, &url)?;
    info!(%url, milliseconds = begun.elapsed().as_millis(), "ready");

    let (pods, prefix) = parse_cidr(&flags.cluster_cidr).context("--cluster-cidr")?;
    let pods = netplan::Cidr::new(pods, prefix).context("--cluster-cidr")?;
    let root_ca = credentials.server_authority.certificate();
    let shared = flags.datastore.shared();
    let cluster = cluster(&flags, &credentials, services)?;
    let more = more_controllers(&cluster, &credentials, &api, names);
    let control = Control::start(&api, root_ca, pods, &flags.disable, more, shared);
    let published = cluster.publish(control.informers.client().as_ref()).await;
    published.map_err(|e| anyhow::anyhow!("write the ConfigMap for nodes that join: {}", e.message))?;
    let node = if flags.disable_agent {
        None
    } else {
        let setup = node_setup(&flags, &credentials, &paths, &api, &control, cluster, node_ip)?;
        Some(node::start(setup).await?)
    };
    info!(
        milliseconds = begun.elapsed().as_millis(),
        node = node.is_some(),
        "everything started"
    );

    asked_to_stop().await?;
    info!("stopping; workloads keep running");
    if let Some(node) = node {
        node.stop().await;
    }
    control.stop().await;
    stop.cancel();
    serving.await.context("serve")?.context("serve")?;
    api.shut_down();
    Ok(())
}

fn node_setup(
    flags: &ServerFlags,
    credentials: &ServerCredentials,
    paths: &ServerPaths,
    api: &ApiServer,
    control: &Control,
    cluster: Cluster,
    ip: IpAddr,
) -> Result<node::Setup> {
    let name = node::name(&flags.node)?;
    let (serving, _) = credentials::node_certificates(credentials, &paths.tls(), &name, ip)?;
    Ok(node::Setup {
        flags: flags.node.clone(),
        disabled: flags.disable.clone(),
        client: api.client(User::master(&format!("system:node:{name}"))),
        informers: control.informers.clone(),
        cluster,
        serving: pki::ServerIdentity::new(&serving)?,
        labels: [("node-role.kubernetes.io/control-plane".to_owned(), "true".to_owned())].into(),
        name,
        ip,
    })
}

fn cluster(flags: &ServerFlags, credentials: &ServerCredentials, service_cidr: (Ipv4Addr, u8)) -> Result<Cluster> {
    let tenth = Ipv4Addr::from(u32::from(service_cidr.0) + 10);
    Ok(Cluster {
        cluster_cidr: parse_cidr(&flags.cluster_cidr).context("--cluster-cidr")?,
        service_cidr,
        cluster_dns: flags.cluster_dns.unwrap_or(IpAddr::V4(tenth)),
        cluster_domain: flags.cluster_domain.clone(),
        dns: !flags.disable.contains(&Component::Dns),
        client_authority: credentials.client_authority.certificate().to_owned(),
    })
}

/// The control loops that need more than the API.
fn more_controllers(
    cluster: &Cluster,
    credentials: &ServerCredentials,
    api: &ApiServer,
    names: Vec<String>,
) -> Vec<Arc<dyn Controller>> {
    let certifier = Arc::new(Keys {
        servers: credentials.server_authority.clone(),
        clients: credentials.client_authority.clone(),
        reserved: names.into_iter().collect(),
        core: api.core().clone(),
    });
    let mut more: Vec<Arc<dyn Controller>> = vec![Arc::new(CertificateController { certifier })];
    if cluster.dns {
        let address = cluster.cluster_dns;
        more.push(Arc::new(controllers::ClusterDns { address }));
    }
    more
}

/// Whom the secret stands for with which machines join: it may ask for a node's certificate.
fn bootstrapper() -> User {
    let groups = [
        "system:bootstrappers",
        "system:bootstrappers:allmend:default-node-token",
    ];
    User::new("system:bootstrap:allmend", &groups)
}

fn api_config(
    flags: &ServerFlags,
    credentials: &ServerCredentials,
    services: (Ipv4Addr, u8),
    advertise: SocketAddr,
) -> Result<Config> {
    let issuer = format!("https://kubernetes.default.svc.{}", flags.cluster_domain);
    let node_tls = pki::client_config(
        credentials.server_authority.certificate(),
        Some(&credentials.node_client),
    )?;
    Ok(Config {
        service_cidr: services,
        node_ports: parse_range(&flags.service_node_port_range).context("--service-node-port-range")?,
        audience: issuer.clone(),
        issuer,
        tokens: vec![(credentials.join_secret.clone(), bootstrapper())],
        signer: Some(credentials.signing.clone()),
        node_tls: Some(Arc::new(node_tls)),
        advertise: Some(advertise),
        root_ca: credentials.server_authority.certificate().to_owned(),
        ..Config::default()
    })
}

/// Every name by which the API may be called.
fn certificate_names(flags: &ServerFlags, services: Ipv4Addr, node_ip: IpAddr) -> Vec<String> {
    let first = Ipv4Addr::from(u32::from(services) + 1);
    let mut names: Vec<String> = [
        "localhost",
        "127.0.0.1",
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
    ]
    .map(str::to_owned)
    .into();
    names.push(format!("kubernetes.default.svc.{}", flags.cluster_domain));
    names.push(first.to_string());
    names.push(node_ip.to_string());
    if !flags.bind_address.is_unspecified() {
        names.push(flags.bind_address.to_string());
    }
    names.push(rustix::system::uname().nodename().to_string_lossy().to_lowercase());
    names.extend(flags.tls_san.iter().cloned());
    names.sort();
    names.dedup();
    names
}

/// The address by which others reach this machine: given, or that of the default route.
pub fn node_ip(given: Option<IpAddr>) -> IpAddr {
    if let Some(ip) = given {
        return ip;
    }
    // Connecting a datagram socket sends nothing: it only asks the routing table.
    let asked = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|s| {
        s.connect((Ipv4Addr::new(192, 0, 2, 1), 9))
            .and_then(|()| s.local_addr())
    });
    asked.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |a| a.ip())
}

/// Where this machine itself reaches a listener.
fn reachable(bind: IpAddr) -> IpAddr {
    if bind.is_unspecified() {
        IpAddr::V4(Ipv4Addr::LOCALHOST)
    } else {
        bind
    }
}

fn write_kubeconfig(
    flags: &ServerFlags,
    paths: &ServerPaths,
    credentials: &ServerCredentials,
    url: &str,
) -> Result<()> {
    pki::write_private(&paths.url(), url.as_bytes())?;
    let authority = credentials.server_authority.certificate();
    let config = pki::kubeconfig("allmend", url, authority, &credentials.admin);
    let text = serde_yaml_ng::to_string(&config).context("print the kubeconfig")?;
    let path = &flags.write_kubeconfig;
    let remedy = || {
        format!(
            "write the kubeconfig to {}: choose another place with --write-kubeconfig",
            path.display()
        )
    };
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(remedy)?;
    }
    replace_file(path, text.as_bytes(), flags.write_kubeconfig_mode).with_context(remedy)
}

/// Readers see the old file or the new one, never half of it.
fn replace_file(path: &Path, content: &[u8], mode: u32) -> std::io::Result<()> {
    use std::io::Write;
    // A device such as /dev/null is written, not replaced.
    if path.exists() && !path.is_file() {
        return std::fs::write(path, content);
    }
    let temporary = path.with_extension("new");
    let _ = std::fs::remove_file(&temporary);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&temporary)?;
    file.write_all(content)?;
    std::fs::rename(&temporary, path)
}

/// Waits for SIGTERM or SIGINT.
pub async fn asked_to_stop() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Reads an IPv4 range.
pub fn parse_cidr(text: &str) -> Result<(Ipv4Addr, u8)> {
    let parsed = text
        .split_once('/')
        .and_then(|(a, p)| Some((a.parse().ok()?, p.parse().ok()?)));
    match parsed {
        Some((address, prefix)) if (8..=30).contains(&prefix) => Ok((address, prefix)),
        _ => bail!("{text:?} is not an IPv4 range such as 10.43.0.0/16"),
    }
}

fn parse_range(text: &str) -> Result<(u16, u16)> {
    let parsed = text
        .split_once('-')
        .and_then(|(a, b)| Some((a.parse().ok()?, b.parse().ok()?)));
    match parsed {
        Some((from, to)) if from <= to && from > 0 => Ok((from, to)),
        _ => bail!("{text:?} is not a range of ports such as 30000-32767"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_checked() {
        assert_eq!(parse_cidr("10.43.0.0/16").unwrap(), (Ipv4Addr::new(10, 43, 0, 0), 16));
        assert_eq!(parse_range("30000-32767").unwrap(), (30_000, 32_767));
        for junk in ["", "10.43.0.0", "10.43.0.0/99", "x/16", "fd00::/64"] {
            assert!(parse_cidr(junk).is_err(), "{junk}");
        }
        for junk in ["", "5", "9-1", "0-9", "a-b"] {
            assert!(parse_range(junk).is_err(), "{junk}");
        }
    }

    #[test]
    fn files_are_replaced_whole_with_their_mode() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config");
        replace_file(&path, b"one", 0o600).unwrap();
        replace_file(&path, b"two", 0o640).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    }
}
