//! The cluster's authorities, certificates and tokens, made at first start
//! and renewed at each start. Must not judge identities.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use pki::{Authority, CertSpec, JoinToken, KeyPairPem, SigningKeys, Usage};

/// Where a server keeps what.
#[derive(Clone, Debug)]
pub struct ServerPaths {
    root: PathBuf,
}

impl ServerPaths {
    /// Below a data directory.
    pub fn new(data_dir: &Path) -> Self {
        ServerPaths {
            root: data_dir.join("server"),
        }
    }

    /// Keys and certificates.
    pub fn tls(&self) -> PathBuf {
        self.root.join("tls")
    }

    /// The embedded store.
    pub fn store(&self) -> PathBuf {
        self.root.join("db")
    }

    /// The keys of what is encrypted in the store.
    pub fn encryption(&self) -> PathBuf {
        self.root.join("encryption.yaml")
    }

    /// The join secret.
    pub fn token(&self) -> PathBuf {
        self.root.join("token")
    }

    /// The URL that the running server told last.
    pub fn url(&self) -> PathBuf {
        self.root.join("url")
    }
}

/// All that a server proves itself with.
pub struct ServerCredentials {
    /// Signs what servers show: the API server and the nodes.
    pub server_authority: Arc<Authority>,
    /// Signs what clients show.
    pub client_authority: Arc<Authority>,
    /// The API server's own certificate.
    pub serving: KeyPairPem,
    /// The certificate by which the API server calls nodes.
    pub node_client: KeyPairPem,
    /// The administrator's certificate.
    pub admin: KeyPairPem,
    /// Service-account token keys.
    pub signing: Arc<SigningKeys>,
    /// The secret with which machines join.
    pub join_secret: String,
}

/// Reads or makes everything. `names` are those that the serving certificate must carry.
pub fn open(paths: &ServerPaths, names: Vec<String>, token: Option<&str>) -> Result<ServerCredentials> {
    let tls = paths.tls();
    let server_authority = Arc::new(Authority::load_or_create(&tls, "server-ca")?);
    let client_authority = Arc::new(Authority::load_or_create(&tls, "client-ca")?);
    let serving = server_authority.issue_file(&tls, "serving", &CertSpec::server("allmend", names))?;
    let node_client = client_authority.issue_file(
        &tls,
        "node-client",
        &CertSpec::client("system:apiserver-node-client", "system:masters"),
    )?;
    let admin = client_authority.issue_file(&tls, "admin", &CertSpec::client("system:admin", "system:masters"))?;
    let signing = Arc::new(SigningKeys::load_or_create(&tls)?);
    let join_secret = keep_token(paths, token)?;
    Ok(ServerCredentials {
        server_authority,
        client_authority,
        serving,
        node_client,
        admin,
        signing,
        join_secret,
    })
}

/// Writes the join secret that was given, or makes one if there is none yet.
fn keep_token(paths: &ServerPaths, given: Option<&str>) -> Result<String> {
    let path = paths.token();
    let secret = match given {
        Some(given) => JoinToken::parse(given)?.secret,
        None if path.exists() => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            return Ok(text.trim().to_owned());
        }
        None => pki::random_token(16),
    };
    pki::write_private(&path, secret.as_bytes())?;
    Ok(secret)
}

/// A node's certificate: it serves, and it calls the API server.
pub fn node_certificates(
    credentials: &ServerCredentials,
    directory: &Path,
    node: &str,
    ip: IpAddr,
) -> Result<(KeyPairPem, KeyPairPem)> {
    let serving = CertSpec {
        usage: Usage::Server,
        ..CertSpec::server(
            &format!("system:node:{node}"),
            vec![node.to_owned(), ip.to_string(), "127.0.0.1".into()],
        )
    };
    let client = CertSpec::client(&format!("system:node:{node}"), "system:nodes");
    Ok((
        credentials
            .server_authority
            .issue_file(directory, "node-serving", &serving)?,
        credentials
            .client_authority
            .issue_file(directory, "node-client", &client)?,
    ))
}

/// The administrator's kubeconfig, from the files of a server that ran here.
pub fn admin_kubeconfig(data_dir: &Path, server: Option<&str>) -> Result<String> {
    let paths = ServerPaths::new(data_dir);
    let tls = paths.tls();
    let read = |name: &str| {
        let path = tls.join(name);
        std::fs::read_to_string(&path).with_context(|| {
            format!(
                "read {}: has a server been started with --data-dir {}, and are you root?",
                path.display(),
                data_dir.display()
            )
        })
    };
    let user = KeyPairPem {
        certificate: read("admin.crt")?,
        key: read("admin.key")?,
    };
    let url = match server {
        Some(url) => url.to_owned(),
        None => std::fs::read_to_string(paths.url())
            .with_context(|| format!("read {}: give --server", paths.url().display()))?
            .trim()
            .to_owned(),
    };
    let config = pki::kubeconfig("allmend", &url, &read("server-ca.crt")?, &user);
    serde_yaml_ng::to_string(&config).context("print the kubeconfig")
}

/// The token with which machines join.
pub fn join_token(data_dir: &Path) -> Result<String> {
    let paths = ServerPaths::new(data_dir);
    let path = paths.token();
    let secret = std::fs::read_to_string(&path).with_context(|| {
        format!(
            "read {}: has a server been started with --data-dir {}, and are you root?",
            path.display(),
            data_dir.display()
        )
    })?;
    let secret = secret.trim();
    if secret.is_empty() {
        bail!(
            "{} is empty: start the server with --token to set a new one",
            path.display()
        );
    }
    let authority =
        std::fs::read_to_string(paths.tls().join("server-ca.crt")).context("read the server's authority")?;
    Ok(JoinToken::new(&authority, secret).to_string())
}
