//! Certificates by the CertificateSigningRequest API: asked for, waited for, and renewed in time.
//!
//! Must not decide who gets one, and must not keep keys anywhere but where it is told.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use client::{Client, ClientExt};
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kinds::resources::{CERTIFICATE_REQUESTS, NODES};
use meta::Status;
use pki::{ClientIdentity, KeyPairPem, ServerIdentity};
use serde_json::json;
use tracing::{info, warn};

use crate::enrol::Place;

/// Signs what nodes show to the server.
pub const NODE_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
/// Signs what nodes show to those who call them.
pub const NODE_SERVING: &str = "kubernetes.io/kubelet-serving";

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// After so long it is said what is waited for.
const SAY: Duration = Duration::from_secs(10);
/// Pauses between attempts to renew.
const RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(300);
/// Clocks jump: it is looked at least so often whether a certificate is due.
const LOOK: Duration = Duration::from_secs(1800);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Who signs.
    pub signer: &'static str,
    /// Whom it names.
    pub common_name: String,
    /// DNS names and addresses.
    pub names: Vec<String>,
}

/// Why there is no certificate.
#[derive(Debug)]
pub enum Failure {
    /// Somebody decided against it.
    Denied(String),
    /// The server refused a call.
    Refused(Status),
    /// Something here does not work.
    Broken(anyhow::Error),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Denied(why) => write!(f, "denied: {why}"),
            Failure::Refused(status) => f.write_str(&status.message),
            Failure::Broken(error) => write!(f, "{error:#}"),
        }
    }
}

/// Asks for a certificate with a new key, and waits until it is there or denied.
pub async fn obtain(client: &dyn Client, wanted: &Wanted) -> Result<KeyPairPem, Failure> {
    let made = pki::new_request(&wanted.common_name, "system:nodes", &wanted.names);
    let (key, request) = made.map_err(|e| Failure::Broken(e.into()))?;
    let purpose = if wanted.signer == NODE_SERVING {
        "server auth"
    } else {
        "client auth"
    };
    let object = json!({"apiVersion": "certificates.k8s.io/v1", "kind": "CertificateSigningRequest",
        "metadata": {"generateName": "csr-"},
        "spec": {"signerName": wanted.signer, "request": ByteString(request.into_bytes()),
            "usages": ["digital signature", purpose]}});
    let made = client.create_object(&CERTIFICATE_REQUESTS, "", &object).await;
    let name = made.map_err(Failure::Refused)?.name().to_owned();
    let begun = tokio::time::Instant::now();
    let (mut pause, mut said) = (FIRST_PAUSE, false);
    loop {
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
        match client.get(&CERTIFICATE_REQUESTS, "", &name).await {
            Ok(object) => {
                let typed = object.view::<CertificateSigningRequest>();
                let typed = typed.context("read the request").map_err(Failure::Broken)?;
                if let Some(certificate) = answer(&typed)? {
                    return Ok(KeyPairPem { certificate, key });
                }
            }
            // The server may start again meanwhile.
            Err(status) if status.code >= 500 => {
                warn!(request = name, error = status.message, "ask for the certificate")
            }
            Err(status) => return Err(Failure::Refused(status)),
        }
        if begun.elapsed() > SAY && !said {
            said = true;
            warn!(
                request = name,
                "nobody has decided about this node's certificate yet; `kubectl certificate approve {name}` does"
            );
        }
    }
}

/// The certificate, if it is there yet.
fn answer(request: &CertificateSigningRequest) -> Result<Option<String>, Failure> {
    let Some(status) = &request.status else {
        return Ok(None);
    };
    for condition in status.conditions.iter().flatten() {
        if ["Denied", "Failed"].contains(&condition.type_.as_str()) {
            let message = condition.message.clone().unwrap_or_default();
            return Err(Failure::Denied(message));
        }
    }
    let Some(bytes) = status.certificate.as_ref().filter(|c| !c.0.is_empty()) else {
        return Ok(None);
    };
    let text = String::from_utf8(bytes.0.clone());
    text.map(Some)
        .map_err(|_| Failure::Broken(anyhow!("the certificate is no PEM")))
}

/// When a certificate is to be renewed, seconds since 1970: after 70 to 90 % of its life. Which it is
/// follows from the certificate, so that it is the same after a restart, and not all nodes come at once.
fn due(certificate: &str) -> i64 {
    let Some((begin, end)) = pki::certificate_life(certificate) else {
        return 0;
    };
    let hash = certificate
        .bytes()
        .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let thousandths = 700 + i64::from(hash % 200);
    begin + (end - begin) * thousandths / 1000
}

/// Keeps a node's certificates from running out.
pub struct Keeper {
    /// The server.
    pub client: Arc<dyn Client>,
    /// Where they are kept.
    pub place: Place,
    /// Name of the node.
    pub node: String,
    /// Its address.
    pub ip: std::net::IpAddr,
    /// What it calls with.
    pub calls: Arc<ClientIdentity>,
    /// What it serves with.
    pub serves: Arc<ServerIdentity>,
}

impl Keeper {
    /// Takes up the serving certificate of an earlier start, if it is for the same names.
    pub fn take_up(&self) -> Result<()> {
        if let Some(pair) = self.serving() {
            self.serves.replace(&pair)?;
        }
        Ok(())
    }

    /// Renews for ever; dropped, it ends.
    pub async fn run(self) {
        let mut pause = RETRY;
        loop {
            match self.turn().await {
                Ok(wait) => {
                    pause = RETRY;
                    tokio::time::sleep(wait).await;
                }
                Err(failure) => {
                    warn!(error = %failure, "a certificate of this node was not renewed; trying again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    fn names(&self) -> Vec<String> {
        vec![self.node.clone(), self.ip.to_string()]
    }

    /// The serving certificate, if it is for the present names; or for the name alone, where the
    /// server would not have the address in it.
    fn serving(&self) -> Option<KeyPairPem> {
        let pair = Place::read(&self.place.serving())?;
        let (_, names) = pki::certificate_names(&pair.certificate)?;
        (names == self.names() || names == self.names()[..1]).then_some(pair)
    }

    /// Renews what is due; how long nothing will be.
    async fn turn(&self) -> Result<Duration, Failure> {
        let now = Timestamp::now().as_second();
        let mut next = i64::MAX;
        let at = Place::read(&self.place.client()).map_or(0, |p| due(&p.certificate));
        if at <= now {
            let pair = obtain(self.client.as_ref(), &self.wanted(NODE_CLIENT, Vec::new())).await?;
            keep(&self.place.client(), &pair)?;
            self.calls.replace(&pair).map_err(|e| Failure::Broken(e.into()))?;
            next = next.min(due(&pair.certificate));
        } else {
            next = next.min(at);
        }
        let at = self.serving().map_or(0, |p| due(&p.certificate));
        if at <= now {
            self.reported().await?;
            let pair = match self.ask_to_serve(self.names()).await {
                // Another machine, or the server itself, is known by the address.
                Err(Failure::Denied(why)) => {
                    warn!(why, "the node's certificate is for its name alone");
                    self.ask_to_serve(vec![self.node.clone()]).await?
                }
                other => other?,
            };
            keep(&self.place.serving(), &pair)?;
            self.serves.replace(&pair).map_err(|e| Failure::Broken(e.into()))?;
            next = next.min(due(&pair.certificate));
        } else {
            next = next.min(at);
        }
        let left = u64::try_from(next - now).unwrap_or(0);
        Ok(Duration::from_secs(left).min(LOOK))
    }

    fn wanted(&self, signer: &'static str, names: Vec<String>) -> Wanted {
        Wanted {
            signer,
            common_name: crate::enrol::user(&self.node),
            names,
        }
    }

    async fn ask_to_serve(&self, names: Vec<String>) -> Result<KeyPairPem, Failure> {
        obtain(self.client.as_ref(), &self.wanted(NODE_SERVING, names)).await
    }

    /// Waits until the Node has the address: the server signs no other.
    async fn reported(&self) -> Result<(), Failure> {
        let (ip, mut pause) = (self.ip.to_string(), FIRST_PAUSE);
        loop {
            match self.client.get(&NODES, "", &self.node).await {
                Ok(node) => {
                    let value = node.to_value();
                    let all = value.pointer("/status/addresses").and_then(|a| a.as_array());
                    if all.into_iter().flatten().any(|a| a["address"] == ip.as_str()) {
                        return Ok(());
                    }
                }
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(Failure::Refused(status)),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }
}

fn keep(path: &Path, pair: &KeyPairPem) -> Result<(), Failure> {
    Place::write(path, pair).map_err(Failure::Broken)?;
    info!(path = %path.display(), "this node has a new certificate");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_due_between_seventy_and_ninety_percent_of_their_life() {
        let dir = tempfile::tempdir().unwrap();
        let ca = pki::Authority::load_or_create(dir.path(), "ca").unwrap();
        let mut all = Vec::new();
        for _ in 0..8 {
            let pair = ca.issue(&pki::CertSpec::client("n", "")).unwrap();
            let (begin, end) = pki::certificate_life(&pair.certificate).unwrap();
            let at = due(&pair.certificate);
            assert_eq!(at, due(&pair.certificate));
            assert!((70..90).contains(&((at - begin) * 100 / (end - begin))));
            all.push(at - begin);
        }
        all.dedup();
        assert!(all.len() > 1, "not all at once");
        assert_eq!(due("junk"), 0);
    }

    #[test]
    fn the_answer_to_a_request() {
        let ask = |status: serde_json::Value| {
            let object = json!({"metadata": {}, "spec": {"request": "", "signerName": "s"}, "status": status});
            answer(&serde_json::from_value(object).unwrap())
        };
        assert!(matches!(ask(json!({})), Ok(None)));
        let condition = |kind: &str| json!({"conditions": [{"type": kind, "status": "True", "message": "why"}]});
        assert!(matches!(ask(condition("Approved")), Ok(None)));
        for kind in ["Denied", "Failed"] {
            assert!(matches!(ask(condition(kind)), Err(Failure::Denied(why)) if why == "why"));
        }
        let certificate = json!({"certificate": ByteString(b"PEM".to_vec())});
        assert!(matches!(ask(certificate), Ok(Some(pem)) if pem == "PEM"));
    }
}
