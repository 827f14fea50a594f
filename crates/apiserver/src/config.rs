//! What the API server is told at start. Must not read files or flags itself.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::identity::User;

/// Settings. `Config::default()` serves alone, without nodes and tokens.
#[derive(Clone)]
pub struct Config {
    /// Range of cluster IPs: address and prefix length.
    pub service_cidr: (std::net::Ipv4Addr, u8),
    /// Range of node ports, both ends included.
    pub node_ports: (u16, u16),
    /// `iss` of service-account tokens.
    pub issuer: String,
    /// Audience of tokens that name none.
    pub audience: String,
    /// Fixed bearer tokens and whom they stand for.
    pub tokens: Vec<(String, User)>,
    /// Signs and verifies service-account tokens.
    pub signer: Option<Arc<dyn TokenSigner>>,
    /// Mutual TLS to nodes, for logs, exec and the like.
    pub node_tls: Option<Arc<rustls::ClientConfig>>,
    /// Where the `kubernetes` Service leads.
    pub advertise: Option<SocketAddr>,
    /// Certificates that pods shall trust, PEM; published as `kube-root-ca.crt`.
    pub root_ca: String,
    /// Requests served at once, watches and streams not counted.
    pub max_in_flight: usize,
    /// Limit of a request that is no watch or stream.
    pub request_timeout: Duration,
    /// Greatest request body.
    pub max_body: usize,
    /// How long Events are kept.
    pub event_ttl: Duration,
    /// Printed by `/version`.
    pub git_version: String,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            service_cidr: (std::net::Ipv4Addr::new(10, 43, 0, 0), 16),
            node_ports: (30_000, 32_767),
            issuer: "https://kubernetes.default.svc.cluster.local".into(),
            audience: "https://kubernetes.default.svc.cluster.local".into(),
            tokens: Vec::new(),
            signer: None,
            node_tls: None,
            advertise: None,
            root_ca: String::new(),
            max_in_flight: 400,
            request_timeout: Duration::from_secs(60),
            max_body: 3 << 20,
            event_ttl: Duration::from_secs(3600),
            git_version: concat!("v1.36.0+allmend.", env!("CARGO_PKG_VERSION")).into(),
        }
    }
}

/// Signs and verifies service-account tokens. Must not judge claims.
pub trait TokenSigner: Send + Sync {
    /// Signs claims; `None` when that fails.
    fn sign(&self, claims: &Value) -> Option<String>;
    /// The claims of a token that this signer, or one before it, signed.
    fn verify(&self, token: &str) -> Option<Value>;
    /// The public keys as a JSON web key set.
    fn jwks(&self) -> Value;
}

impl TokenSigner for pki::SigningKeys {
    fn sign(&self, claims: &Value) -> Option<String> {
        pki::SigningKeys::sign(self, claims).ok()
    }

    fn verify(&self, token: &str) -> Option<Value> {
        pki::SigningKeys::verify(self, token).ok()
    }

    fn jwks(&self) -> Value {
        pki::SigningKeys::jwks(self)
    }
}
