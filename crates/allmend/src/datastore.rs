//! Which store a server uses: the embedded engine or an etcd, and how it is opened.
//!
//! Must not hold logic of a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use store::etcd::{Etcd, Tls};
use store::sealed::{self, Rules, Sealed};
use store::{Embedded, Outcome, Stamp, Store, Txn};

use crate::credentials::ServerPaths;

mod encryption;
pub mod verbs;

/// How long etcd may take for a request: shorter than what clients wait for an answer.
const ETCD_PATIENCE: Duration = Duration::from_secs(8);
/// Where the probe of the keys lies. Not below `/registry/`, where only objects are.
const PROBE: &[u8] = b"/allmend/encryption";
/// The authorities that the system trusts, where no other is given.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Flags on the store.
#[derive(Args, Clone, Debug, Default)]
pub struct DatastoreFlags {
    /// Where state is kept: empty for the embedded store, or a comma-separated list of etcd URLs.
    #[arg(long, env = "ALLMEND_DATASTORE_ENDPOINT", default_value = "")]
    pub datastore_endpoint: String,
    /// Authorities that signed etcd's certificates, PEM; those of the system unless given.
    #[arg(long, env = "ALLMEND_DATASTORE_CAFILE", value_name = "FILE")]
    pub datastore_cafile: Option<PathBuf>,
    /// Certificate to show to etcd, PEM.
    #[arg(
        long,
        env = "ALLMEND_DATASTORE_CERTFILE",
        value_name = "FILE",
        requires = "datastore_keyfile"
    )]
    pub datastore_certfile: Option<PathBuf>,
    /// Key of that certificate, PEM.
    #[arg(
        long,
        env = "ALLMEND_DATASTORE_KEYFILE",
        value_name = "FILE",
        requires = "datastore_certfile"
    )]
    pub datastore_keyfile: Option<PathBuf>,
    /// What is encrypted in the store, and with which keys: an EncryptionConfiguration. Unless given,
    /// Secrets are, with a key made at first start in server/encryption.yaml of the data directory.
    #[arg(long, env = "ALLMEND_ENCRYPTION_CONFIG", value_name = "FILE")]
    pub encryption_config: Option<PathBuf>,
}

impl DatastoreFlags {
    /// Whether other servers may use the same store.
    pub fn shared(&self) -> bool {
        !self.datastore_endpoint.trim().is_empty()
    }

    /// How to reach the etcd at `endpoints`, a list as in the flag.
    pub fn etcd(&self, endpoints: &str) -> Result<store::etcd::Options> {
        let urls = endpoints.split(',').map(str::trim).filter(|url| !url.is_empty());
        let mut options = store::etcd::Options::new(urls);
        options.timeout = ETCD_PATIENCE;
        options.stamp = stamp();
        let secure = options.endpoints.iter().any(|url| url.starts_with("https://"));
        let given = self.datastore_cafile.is_some() || self.datastore_certfile.is_some();
        if secure || given {
            let default = Path::new(SYSTEM_AUTHORITIES);
            let ca = self.datastore_cafile.as_deref().unwrap_or(default);
            let ca = pem(ca, "CERTIFICATE").context("--datastore-cafile")?;
            let identity = match (&self.datastore_certfile, &self.datastore_keyfile) {
                (Some(certificate), Some(key)) => Some((
                    pem(certificate, "CERTIFICATE").context("--datastore-certfile")?,
                    pem(key, "PRIVATE KEY").context("--datastore-keyfile")?,
                )),
                _ => None,
            };
            options.tls = Some(Tls { ca, identity });
        }
        Ok(options)
    }
}

/// A PEM file that has a block of the kind.
fn pem(path: &Path, kind: &str) -> Result<Vec<u8>> {
    let content = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
    if !String::from_utf8_lossy(&content).contains(&format!("{kind}-----")) {
        bail!("{} has no {kind} in PEM form", path.display());
    }
    Ok(content)
}

/// A store as it lies, and the rules by which it is read.
pub struct Opened {
    /// With cipher text in it.
    pub raw: Arc<dyn Store>,
    /// What is encrypted, and how.
    pub rules: Rules,
}

impl Opened {
    /// The store as the API server sees it.
    pub fn plain(&self) -> Arc<dyn Store> {
        Arc::new(Sealed::new(self.raw.clone(), self.rules.clone(), apiserver::stamp()))
    }
}

/// How every store is opened: cipher text is stamped after it was decrypted.
fn stamp() -> Stamp {
    sealed::around(apiserver::stamp())
}

/// Opens the store of a server.
pub async fn open(flags: &DatastoreFlags, paths: &ServerPaths) -> Result<Arc<dyn Store>> {
    Ok(open_raw(flags, paths).await?.plain())
}

/// The same, as it lies.
pub async fn open_raw(flags: &DatastoreFlags, paths: &ServerPaths) -> Result<Opened> {
    let raw: Arc<dyn Store> = if flags.shared() {
        let options = flags.etcd(&flags.datastore_endpoint)?;
        Arc::new(Etcd::connect(options).await.context("--datastore-endpoint")?)
    } else {
        let options = store::embedded::Options::new(paths.store()).stamp(stamp());
        let store = Embedded::open(options);
        Arc::new(store.with_context(|| format!("open the store in {}", paths.store().display()))?)
    };
    let rules = rules(flags, paths, &*raw).await?;
    Ok(Opened { raw, rules })
}

/// The rules of encryption: given, kept, or made now. They must fit to the store.
///
/// The store has a probe of them, for two reasons: an absent file must not be made anew for a store
/// that is encrypted already, and a second server on the same etcd must have the same keys.
async fn rules(flags: &DatastoreFlags, paths: &ServerPaths, store: &dyn Store) -> Result<Rules> {
    let path = flags.encryption_config.clone().unwrap_or_else(|| paths.encryption());
    let probe = store.get(PROBE).await.context("read the store")?;
    let rules = match &probe {
        None if flags.encryption_config.is_none() && !path.exists() => encryption::make(&path)?,
        Some(_) if !path.exists() => bail!(
            "{} is missing, but the store is encrypted: put the file back, or copy it from another server of this store",
            path.display()
        ),
        _ => encryption::read(&path)?,
    };
    if let Some(probe) = &probe {
        if let Err(store::Error::Unreadable { why, .. }) = rules.open(PROBE, &probe.value) {
            bail!(
                "{} does not fit to the store: {why}; use the file with which the store was written",
                path.display()
            );
        }
        if rules.is_own_probe(&probe.value) {
            return Ok(rules);
        }
    }
    let txn = match (rules.probe(PROBE), &probe) {
        (None, None) => return Ok(rules),
        (None, Some(probe)) => Txn::remove(PROBE, probe.mod_revision),
        (Some(own), Some(probe)) => Txn::update(PROBE, probe.mod_revision, own),
        (Some(own), None) => Txn::create(PROBE, own),
    };
    match store.commit(txn).await.context("write to the store")? {
        Outcome::Committed(_) => Ok(rules),
        // Another server was quicker: look at what it wrote.
        Outcome::CompareFailed { .. } => Box::pin(self::rules(flags, paths, store)).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_looked_at_before_anything_is_sent() {
        let dir = tempfile::tempdir().unwrap();
        let junk = dir.path().join("junk");
        std::fs::write(&junk, "junk").unwrap();
        let flags = DatastoreFlags {
            datastore_cafile: Some(junk),
            ..DatastoreFlags::default()
        };
        let error = format!("{:#}", flags.etcd("https://a:1").unwrap_err());
        assert!(
            error.contains("--datastore-cafile") && error.contains("no CERTIFICATE"),
            "{error}"
        );
        let flags = DatastoreFlags::default();
        assert_eq!(
            flags.etcd("http://a:1, http://b:1,").unwrap().endpoints,
            ["http://a:1", "http://b:1"]
        );
        assert!(!flags.shared());
    }
}
