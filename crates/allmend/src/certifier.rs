//! What the control loop of certificates cannot do itself: read requests, ask for permissions,
//! sign with the authorities' keys.
//!
//! Must not decide: that is the control loop's.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Core, User};
use controllers::certificates::{Asked, Certifier, Issuer};
use pki::{Authority, KeyPurpose};

/// The keys of a cluster, and who may have something signed.
pub struct Keys {
    /// Signs what servers show.
    pub servers: Arc<Authority>,
    /// Signs what clients show.
    pub clients: Arc<Authority>,
    /// Names and addresses of the API server.
    pub reserved: BTreeSet<String>,
    /// Knows permissions.
    pub core: Arc<Core>,
}

impl Certifier for Keys {
    fn read(&self, request: &str) -> Result<Asked, String> {
        let read = pki::read_request(request).map_err(|e| e.to_string())?;
        Ok(Asked {
            common_name: read.common_name,
            organisations: read.organisations,
            dns_names: read.dns_names,
            addresses: read.addresses,
            others: read.others,
        })
    }

    fn may(&self, user: &str, groups: &[String], kind: &str) -> bool {
        let user = User {
            name: user.to_owned(),
            groups: groups.to_vec(),
            ..User::default()
        };
        self.core.allows(
            &user,
            "create",
            "certificates.k8s.io",
            "certificatesigningrequests",
            kind,
        )
    }

    fn is_reserved(&self, name: &str) -> bool {
        self.reserved.contains(name)
    }

    fn sign(&self, issuer: Issuer, request: &str, usages: &[String], life: Duration) -> Result<String, String> {
        let purposes: Vec<KeyPurpose> = usages.iter().filter_map(|u| purpose(u)).collect();
        let authority = match issuer {
            Issuer::Clients => &self.clients,
            Issuer::Servers => &self.servers,
        };
        authority
            .sign_request(request, &purposes, life)
            .map_err(|e| e.to_string())
    }
}

fn purpose(usage: &str) -> Option<KeyPurpose> {
    Some(match usage {
        "digital signature" => KeyPurpose::DigitalSignature,
        "key encipherment" => KeyPurpose::KeyEncipherment,
        "client auth" => KeyPurpose::ClientAuth,
        "server auth" => KeyPurpose::ServerAuth,
        _ => return None,
    })
}
