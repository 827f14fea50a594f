//! Kubeconfig files: where the server is, whom to trust, who one is.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use serde_json::{Value, json};

use crate::KeyPairPem;

/// A kubeconfig with one cluster, one user and one context, all called `name`.
/// JSON is YAML: every reader of kubeconfig files takes it.
pub fn kubeconfig(name: &str, server: &str, authority_pem: &str, user: &KeyPairPem) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": name, "cluster": {
            "server": server,
            "certificate-authority-data": B64.encode(authority_pem),
        }}],
        "users": [{"name": name, "user": {
            "client-certificate-data": B64.encode(&user.certificate),
            "client-key-data": B64.encode(&user.key),
        }}],
        "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
        "current-context": name,
        "preferences": {},
    })
}
