//! Which store a server uses: the embedded engine or an etcd, and how it is opened.
//!
//! Must not hold logic of a store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use store::etcd::{Etcd, Tls};
use store::{Embedded, Store};

use crate::credentials::ServerPaths;

/// How long etcd may take for a request: shorter than what clients wait for an answer.
const ETCD_PATIENCE: Duration = Duration::from_secs(8);
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
        options.stamp = apiserver::stamp();
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

/// Opens the store of a server.
pub async fn open(flags: &DatastoreFlags, paths: &ServerPaths) -> Result<Arc<dyn Store>> {
    if flags.shared() {
        let options = flags.etcd(&flags.datastore_endpoint)?;
        let store = Etcd::connect(options).await.context("--datastore-endpoint")?;
        return Ok(Arc::new(store));
    }
    let options = store::embedded::Options::new(paths.store()).stamp(apiserver::stamp());
    let store = Embedded::open(options).with_context(|| format!("open the store in {}", paths.store().display()))?;
    Ok(Arc::new(store))
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
