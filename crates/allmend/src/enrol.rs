//! How a machine becomes a node: it trusts the server's authority by the token's fingerprint, asks
//! for a certificate with the token's secret, and from then on is known by that certificate.
//!
//! Must not send the secret to a server whose authority it has not checked.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use client::HttpClient;
use http::Method;
use meta::Status;
use pki::{ClientIdentity, JoinToken, KeyPairPem};
use tracing::{info, warn};

use crate::signing::{self, NODE_CLIENT};

/// How long a server that cannot be reached is waited for, by a machine that never was a node.
const PATIENCE: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Where a node keeps what it proves itself with.
#[derive(Clone, Debug)]
pub struct Place(PathBuf);

impl Place {
    /// Below a data directory.
    pub fn new(data_dir: &Path) -> Self {
        Place(data_dir.join("agent/tls"))
    }

    /// The authority of the server.
    fn authority(&self) -> PathBuf {
        self.0.join("server-ca.crt")
    }

    /// Certificate and key with which the node calls the server, in one file: never halves of two.
    pub fn client(&self) -> PathBuf {
        self.0.join("client.pem")
    }

    /// Certificate and key with which the node serves.
    pub fn serving(&self) -> PathBuf {
        self.0.join("serving.pem")
    }

    /// Reads a pair, if there is one that still holds.
    pub fn read(path: &Path) -> Option<KeyPairPem> {
        let text = std::fs::read_to_string(path).ok()?;
        let (_, end) = pki::certificate_life(&text)?;
        (end > jiff::Timestamp::now().as_second()).then(|| KeyPairPem {
            certificate: text.clone(),
            key: text,
        })
    }

    /// Writes a pair whole or not at all.
    pub fn write(path: &Path, pair: &KeyPairPem) -> Result<()> {
        let text = format!("{}{}", pair.certificate, pair.key);
        Ok(pki::write_private(path, text.as_bytes())?)
    }
}

/// A machine that is a node: it calls the server in the node's name.
pub struct Member {
    /// What it calls with; it can be replaced.
    pub identity: Arc<ClientIdentity>,
    /// Calls the server.
    pub client: Arc<HttpClient>,
}

impl Member {
    fn new(server: &str, authority: &str, pair: &KeyPairPem) -> Result<Self> {
        let identity = ClientIdentity::new(pair)?;
        let tls = pki::client_config_with(authority, identity.clone())?;
        let client = Arc::new(HttpClient::new(server, tls, None).context("--server")?);
        Ok(Member { identity, client })
    }
}

/// Whom a node's certificate names.
pub fn user(node: &str) -> String {
    format!("system:node:{node}")
}

/// Takes up the certificate of an earlier start, or joins with the token.
pub async fn enrol(server: &str, token: Option<&str>, place: &Place, node: &str) -> Result<Member> {
    let token = token.map(JoinToken::parse).transpose()?;
    let known = std::fs::read_to_string(place.authority()).ok();
    if let (Some(authority), Some(pair)) = (known, Place::read(&place.client())) {
        let name = pki::certificate_names(&pair.certificate).map(|(name, _)| name);
        if let Some(token) = &token
            && !token.trusts(&authority)
        {
            bail!(
                "this machine is a node of another cluster than the token's: `allmend purge` removes all of that one"
            );
        }
        if name.as_deref() == Some(&user(node)) {
            return Member::new(server, &authority, &pair);
        }
        info!(was = ?name, now = node, "the node has another name; joining anew");
    }
    let Some(token) = token else {
        bail!(
            "this machine is no node of {server} yet: give --token (or ALLMEND_TOKEN); \
             `allmend token` on the server prints it"
        );
    };
    join(server, &token, place, node).await
}

async fn join(server: &str, token: &JoinToken, place: &Place, node: &str) -> Result<Member> {
    let authority = authority(server).await?;
    if token.authority.is_empty() {
        warn!(
            server,
            "the token is a bare secret: the server is trusted at first sight; \
             the whole line that `allmend token` prints says which one to trust"
        );
    } else if !token.trusts(&authority) {
        bail!(
            "{server} is not the server that the token was made for: its authority has another fingerprint; \
             copy the token anew (`allmend token` on the server), and if it is the same, \
             somebody else answers at this address"
        );
    }
    let tls = pki::client_config(&authority, None)?;
    let client = HttpClient::new(server, tls, Some(&token.secret)).context("--token")?;
    let wanted = signing::Wanted {
        signer: NODE_CLIENT,
        common_name: user(node),
        names: Vec::new(),
    };
    let pair = match signing::obtain(&client, &wanted).await {
        Ok(pair) => pair,
        Err(signing::Failure::Denied(why)) => bail!("{server} does not let this machine join: {why}"),
        Err(signing::Failure::Refused(status)) => return Err(refused(server, &status)),
        Err(signing::Failure::Broken(error)) => return Err(error),
    };
    Place::write(&place.client(), &pair)?;
    // A certificate for names of another cluster is of no use.
    let _ = std::fs::remove_file(place.serving());
    pki::write_private(&place.authority(), authority.as_bytes())?;
    info!(server, node, "joined");
    Member::new(server, &authority, &pair)
}

/// The authority's certificate, from whoever answers.
async fn authority(server: &str) -> Result<String> {
    let client = HttpClient::new(server, pki::client_config_at_first_sight()?, None).context("--server")?;
    let begun = tokio::time::Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        match client.raw(Method::GET, "/cacerts", "", Bytes::new()).await {
            Ok((200, body)) if pki::certificate_life(&String::from_utf8_lossy(&body)).is_some() => {
                return Ok(String::from_utf8_lossy(&body).into_owned());
            }
            Ok((code, _)) => bail!("{server} answered {code} to /cacerts: is it the address of `allmend server`?"),
            Err(status) if begun.elapsed() > PATIENCE => {
                bail!(
                    "{server} cannot be reached: {}; is the server running, and does a firewall let its port in?",
                    status.message
                );
            }
            Err(status) => warn!(
                server,
                error = status.message,
                "the server is not there yet; trying again"
            ),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Why the server will not have this node, for people.
pub fn refused(server: &str, status: &Status) -> anyhow::Error {
    let why = &status.message;
    if status.code == 401 {
        return anyhow!(
            "{server} does not know the token's secret: copy it anew, `allmend token` on the server prints it"
        );
    }
    if why.contains("not valid for name") {
        return anyhow!("{why}: start the server with --tls-san and the name or address by which it is called here");
    }
    if why.contains("not valid yet") || why.contains("certificate expired") {
        return anyhow!("{why}: is the clock of this machine right?");
    }
    if is_other_server(status) {
        return anyhow!(
            "{server} is not of the cluster that this machine joined ({why}): check --server; \
             to join another cluster, run `allmend purge` first"
        );
    }
    anyhow!("{server}: {why}")
}

/// Whether trying again is in vain: the server is not the one that this machine joined.
pub fn is_other_server(status: &Status) -> bool {
    status.message.contains("invalid peer certificate")
}

#[cfg(test)]
mod tests;
