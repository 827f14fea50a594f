//! Certificate authorities and the certificates they sign (ECDSA P-256).

use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use time::OffsetDateTime;

use crate::PkiError;
use crate::files::{read_if_there, write_private};

/// How long an authority's own certificate lasts.
const AUTHORITY_VALIDITY: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks of other machines may lag behind ours by so much.
const SKEW: Duration = Duration::from_secs(3600);

/// A certificate and its private key, PEM-encoded. The key is never printed.
#[derive(Clone)]
pub struct KeyPairPem {
    /// The certificate.
    pub certificate: String,
    /// The private key, PKCS#8.
    pub key: String,
}

/// What a certificate may be used for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// To serve.
    Server,
    /// To call.
    Client,
    /// Both: nodes serve and call.
    Both,
}

/// Whom a certificate names.
#[derive(Clone, Debug)]
pub struct CertSpec {
    /// Common name: the user's name for clients.
    pub common_name: String,
    /// Organisation: the user's group for clients; empty for none. One only, since
    /// rcgen keeps a single value per attribute type.
    pub organisation: String,
    /// DNS names and IP addresses that a server answers to.
    pub names: Vec<String>,
    /// What it may be used for.
    pub usage: Usage,
    /// How long it lasts.
    pub validity: Duration,
}

impl CertSpec {
    /// A client certificate for a user in a group (empty for none), valid for a year.
    pub fn client(user: &str, group: &str) -> Self {
        CertSpec {
            common_name: user.to_owned(),
            organisation: group.to_owned(),
            names: Vec::new(),
            usage: Usage::Client,
            validity: Duration::from_secs(365 * 86_400),
        }
    }

    /// A server certificate for names, valid for a year.
    pub fn server(common_name: &str, names: Vec<String>) -> Self {
        CertSpec {
            common_name: common_name.to_owned(),
            organisation: String::new(),
            names,
            usage: Usage::Server,
            validity: Duration::from_secs(365 * 86_400),
        }
    }
}

/// A certificate authority.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Reads `<directory>/<name>.crt` and `.key`, or makes and writes them.
    ///
    /// When only one of the two is there it is an error: a new key would orphan
    /// every certificate that the old one signed.
    pub fn load_or_create(directory: &Path, name: &str) -> Result<Self, PkiError> {
        let (crt, key) = (
            directory.join(format!("{name}.crt")),
            directory.join(format!("{name}.key")),
        );
        match (read_if_there(&crt)?, read_if_there(&key)?) {
            (Some(certificate), Some(key_pem)) => {
                let key_pair = KeyPair::from_pem(&key_pem).map_err(|_| PkiError::Damaged {
                    path: key.clone(),
                    what: "private key",
                })?;
                let issuer = Issuer::from_ca_cert_pem(&certificate, key_pair).map_err(|_| PkiError::Damaged {
                    path: crt.clone(),
                    what: "certificate",
                })?;
                Ok(Authority { certificate, issuer })
            }
            (None, None) => {
                let made = Self::create(name)?;
                // The key goes first: a certificate without a key is an error, the
                // other way round too, but a crash in between is repaired by hand once.
                write_private(&key, made.issuer.key().serialize_pem().as_bytes())?;
                write_private(&crt, made.certificate.as_bytes())?;
                Ok(made)
            }
            (Some(_), None) => Err(PkiError::Damaged {
                path: key,
                what: "private key",
            }),
            (None, Some(_)) => Err(PkiError::Damaged {
                path: crt,
                what: "certificate",
            }),
        }
    }

    fn create(name: &str) -> Result<Self, PkiError> {
        let fail = |source| PkiError::Make {
            subject: name.to_owned(),
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        let unique = crate::random_token(4);
        params.distinguished_name = subject(&format!("allmend-{name}-{unique}"), "");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![
            KeyUsagePurpose::DigitalSignature,
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
        ];
        set_validity(&mut params, AUTHORITY_VALIDITY);
        let certificate = params.self_signed(&key).map_err(fail)?.pem();
        Ok(Authority {
            certificate,
            issuer: Issuer::new(params, key),
        })
    }

    /// The authority's certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Makes a key and signs a certificate for it.
    pub fn issue(&self, spec: &CertSpec) -> Result<KeyPairPem, PkiError> {
        let fail = |source| PkiError::Make {
            subject: spec.common_name.clone(),
            source,
        };
        let key = KeyPair::generate().map_err(fail)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = subject(&spec.common_name, &spec.organisation);
        params.subject_alt_names = alt_names(&spec.names).map_err(fail)?;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = match spec.usage {
            Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Usage::Both => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
        };
        set_validity(&mut params, spec.validity);
        let certificate = params.signed_by(&key, &self.issuer).map_err(fail)?.pem();
        Ok(KeyPairPem {
            certificate,
            key: key.serialize_pem(),
        })
    }

    pub(crate) fn key(&self) -> &KeyPair {
        self.issuer.key()
    }

    /// Reads a certificate and key from `<directory>/<name>.{crt,key}` if they were signed by
    /// this authority for this spec and have more than a third of their life left; else issues anew.
    pub fn issue_file(&self, directory: &Path, name: &str, spec: &CertSpec) -> Result<KeyPairPem, PkiError> {
        let (crt, key) = (
            directory.join(format!("{name}.crt")),
            directory.join(format!("{name}.key")),
        );
        let known = directory.join(format!("{name}.for"));
        let want = self.fingerprint(spec);
        if let (Some(certificate), Some(key), Some(had)) =
            (read_if_there(&crt)?, read_if_there(&key)?, read_if_there(&known)?)
            && had == want
            && fresh(&certificate)
        {
            return Ok(KeyPairPem { certificate, key });
        }
        let pair = self.issue(spec)?;
        write_private(&key, pair.key.as_bytes())?;
        write_private(&crt, pair.certificate.as_bytes())?;
        // Written last: a crash before this line issues once more.
        write_private(&known, want.as_bytes())?;
        Ok(pair)
    }

    /// What a certificate on disk was made for; a change of any part makes a new one.
    fn fingerprint(&self, spec: &CertSpec) -> String {
        use sha2::Digest;
        let mut hash = sha2::Sha256::new();
        hash.update(self.certificate.as_bytes());
        hash.update(format!("{spec:?}").as_bytes());
        format!("{:x}", hash.finalize())
    }
}

pub(crate) fn subject(common_name: &str, organisation: &str) -> DistinguishedName {
    let mut dn = DistinguishedName::new();
    if !organisation.is_empty() {
        dn.push(DnType::OrganizationName, organisation);
    }
    dn.push(DnType::CommonName, common_name);
    dn
}

pub(crate) fn alt_names(names: &[String]) -> Result<Vec<SanType>, rcgen::Error> {
    names
        .iter()
        .map(|n| match n.parse::<IpAddr>() {
            Ok(ip) => Ok(SanType::IpAddress(ip)),
            Err(_) => Ok(SanType::DnsName(n.as_str().try_into()?)),
        })
        .collect()
}

fn set_validity(params: &mut CertificateParams, validity: Duration) {
    let now = OffsetDateTime::now_utc();
    params.not_before = now - SKEW;
    params.not_after = now + validity;
}

/// Whether more than a third of the certificate's life is left.
fn fresh(certificate_pem: &str) -> bool {
    certificate_life(certificate_pem)
        .is_some_and(|(begin, end)| end - OffsetDateTime::now_utc().unix_timestamp() > (end - begin) / 3)
}

/// When the first certificate of a PEM text begins and ends to hold, in seconds since 1970.
pub fn certificate_life(certificate_pem: &str) -> Option<(i64, i64)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    Some((validity.not_before.timestamp(), validity.not_after.timestamp()))
}

/// Common name, DNS names and addresses of the first certificate of a PEM text.
pub fn certificate_names(certificate_pem: &str) -> Option<(String, Vec<String>)> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes()).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let subject = certificate.subject();
    let common_name = subject.iter_common_name().find_map(|a| a.as_str().ok())?.to_owned();
    let extension = certificate.subject_alternative_name().ok()?;
    let names = extension
        .map(|e| crate::request::names(&e.value.general_names))
        .unwrap_or_default();
    Some((common_name, names))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_survives_a_restart_and_refuses_half_a_pair() {
        let dir = tempfile::tempdir().unwrap();
        let first = Authority::load_or_create(dir.path(), "server-ca").unwrap();
        let again = Authority::load_or_create(dir.path(), "server-ca").unwrap();
        assert_eq!(first.certificate(), again.certificate());
        std::fs::remove_file(dir.path().join("server-ca.key")).unwrap();
        let error = Authority::load_or_create(dir.path(), "server-ca").err().unwrap();
        assert!(error.to_string().contains("server-ca.key"), "{error}");
    }

    #[test]
    fn certificates_are_kept_until_their_names_change() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path(), "ca").unwrap();
        let spec = CertSpec::server("node", vec!["10.0.0.1".into(), "node".into()]);
        let one = ca.issue_file(dir.path(), "serving", &spec).unwrap();
        let two = ca.issue_file(dir.path(), "serving", &spec).unwrap();
        assert_eq!(one.certificate, two.certificate);
        let other = CertSpec::server("node", vec!["10.0.0.2".into()]);
        let three = ca.issue_file(dir.path(), "serving", &other).unwrap();
        assert_ne!(one.certificate, three.certificate);
    }

    #[test]
    fn keys_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        Authority::load_or_create(dir.path(), "ca").unwrap();
        let mode = std::fs::metadata(dir.path().join("ca.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
