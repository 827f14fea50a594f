//! Requests for certificates (PKCS#10): made for oneself, read and signed for others.
//!
//! Must not decide who gets what: it says what is asked, and signs what it is told to.
//! Certificates are put together here and not by rcgen, which keeps one value of a kind in a
//! subject: a user in two groups would lose one.

use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as B64;
use rand::RngCore;
use rcgen::{CertificateParams, KeyPair, SigningKey};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::FromDer;

use crate::PkiError;
use crate::ca::{Authority, alt_names, subject};
use crate::der;

/// What a request asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// Common name: the user's name for clients.
    pub common_name: String,
    /// Organisations: the user's groups for clients.
    pub organisations: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Mail addresses, URIs and other names that neither nodes nor users have.
    pub others: Vec<String>,
}

/// What a certificate may be used for, in Kubernetes' words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyPurpose {
    /// `digital signature`.
    DigitalSignature,
    /// `key encipherment`.
    KeyEncipherment,
    /// `client auth`.
    ClientAuth,
    /// `server auth`.
    ServerAuth,
}

/// Earlier than now by so much begins a certificate's life: clocks differ.
const BACKDATE: Duration = Duration::from_secs(300);

/// A new key, and a request for it: both PEM. `names` are DNS names and IP addresses.
pub fn new_request(common_name: &str, organisation: &str, names: &[String]) -> Result<(String, String), PkiError> {
    let key = KeyPair::generate().map_err(|source| make(common_name, source))?;
    let text = key.serialize_pem();
    Ok((text, request_for(&key, common_name, organisation, names)?))
}

/// A request for a key that is there already, PEM.
pub fn renew_request(
    key_pem: &str,
    common_name: &str,
    organisation: &str,
    names: &[String],
) -> Result<String, PkiError> {
    let key = KeyPair::from_pem(key_pem).map_err(|source| make(common_name, source))?;
    request_for(&key, common_name, organisation, names)
}

fn request_for(key: &KeyPair, common_name: &str, organisation: &str, names: &[String]) -> Result<String, PkiError> {
    let fail = |source| make(common_name, source);
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(common_name, organisation);
    params.subject_alt_names = alt_names(names).map_err(fail)?;
    let request = params.serialize_request(key).map_err(fail)?;
    request.pem().map_err(fail)
}

fn make(subject: &str, source: rcgen::Error) -> PkiError {
    PkiError::Make {
        subject: subject.to_owned(),
        source,
    }
}

/// Reads a request (PEM) and checks that whoever made it has the key.
pub fn read_request(pem: &str) -> Result<Request, PkiError> {
    let der = request_der(pem)?;
    let parsed = parse(&der)?;
    let info = &parsed.certification_request_info;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let mut out = Request {
        common_name: info.subject.iter_common_name().find_map(text).unwrap_or_default(),
        organisations: info.subject.iter_organization().filter_map(text).collect(),
        ..Request::default()
    };
    for extension in parsed.requested_extensions().into_iter().flatten() {
        let ParsedExtension::SubjectAlternativeName(names) = extension else {
            continue;
        };
        for name in &names.general_names {
            match name {
                GeneralName::DNSName(name) => out.dns_names.push((*name).to_owned()),
                GeneralName::IPAddress(bytes) => match address(bytes) {
                    Some(address) => out.addresses.push(address),
                    None => return Err(PkiError::Request("has an IP address that is none".to_owned())),
                },
                other => out.others.push(other.to_string()),
            }
        }
    }
    Ok(out)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
    four.or_else(|_| <[u8; 16]>::try_from(bytes).map(IpAddr::from)).ok()
}

/// DNS names and addresses as text.
pub(crate) fn names(all: &[GeneralName<'_>]) -> Vec<String> {
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|a| a.to_string()),
        _ => None,
    };
    all.iter().filter_map(text).collect()
}

fn request_der(pem: &str) -> Result<Vec<u8>, PkiError> {
    let (_, block) =
        x509_parser::pem::parse_x509_pem(pem.as_bytes()).map_err(|e| PkiError::Request(format!("is no PEM: {e}")))?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(PkiError::Request(
            "PEM block type must be CERTIFICATE REQUEST".to_owned(),
        ));
    }
    Ok(block.contents)
}

fn parse(der: &[u8]) -> Result<X509CertificationRequest<'_>, PkiError> {
    let (_, parsed) =
        X509CertificationRequest::from_der(der).map_err(|e| PkiError::Request(format!("cannot be read: {e}")))?;
    parsed
        .verify_signature()
        .map_err(|e| PkiError::Request(format!("is not signed by its key: {e}")))?;
    Ok(parsed)
}

impl Authority {
    /// Signs a request (PEM): subject, names and key are the request's, the rest is given. The
    /// certificate does not outlast the authority's own.
    pub fn sign_request(
        &self,
        request_pem: &str,
        purposes: &[KeyPurpose],
        validity: Duration,
    ) -> Result<String, PkiError> {
        let request = request_der(request_pem)?;
        let parsed = parse(&request)?;
        let info = &parsed.certification_request_info;
        let (_, own) = x509_parser::pem::parse_x509_pem(self.certificate().as_bytes())
            .map_err(|e| PkiError::Pem(e.to_string()))?;
        let own = own.parse_x509().map_err(|e| PkiError::Pem(e.to_string()))?;
        let begin = OffsetDateTime::now_utc() - BACKDATE;
        let end = (OffsetDateTime::now_utc() + validity).min(own.validity().not_after.to_datetime());
        let algorithm = der::algorithm(self.key().algorithm())
            .ok_or_else(|| PkiError::Request("cannot be signed with the authority's kind of key".to_owned()))?;
        let names = names_of(&parsed);
        let mut serial = [0u8; 16];
        rand::rng().fill_bytes(&mut serial);
        // A positive number, and none that begins with a zero.
        serial[0] = (serial[0] & 0x7f) | 0x40;
        let key_id = Sha256::digest(&own.public_key().subject_public_key.data);
        let signed = der::sequence(&[
            // Version 3.
            der::tagged(0xa0, &der::tagged(0x02, &[2])),
            der::tagged(0x02, &serial),
            algorithm.clone(),
            own.subject().as_raw().to_vec(),
            der::sequence(&[der::time(begin), der::time(end)]),
            info.subject.as_raw().to_vec(),
            info.subject_pki.raw.to_vec(),
            der::tagged(
                0xa3,
                &extensions(
                    purposes,
                    names.as_deref(),
                    info.subject.iter().next().is_none(),
                    &key_id,
                ),
            ),
        ]);
        let signature = self.key().sign(&signed).map_err(|source| make("a request", source))?;
        let certificate = der::sequence(&[signed, algorithm, der::bits(0, &signature)]);
        Ok(pem("CERTIFICATE", &certificate))
    }
}

/// The subject alternative names that are asked for, as they are.
fn names_of(request: &X509CertificationRequest<'_>) -> Option<Vec<u8>> {
    let attributes = request.certification_request_info.iter_attributes();
    let extensions = attributes.filter_map(|a| match a.parsed_attribute() {
        ParsedCriAttribute::ExtensionRequest(wanted) => Some(&wanted.extensions),
        _ => None,
    });
    let mut names = extensions.flatten().filter(|e| {
        matches!(
            e.parsed_extension(),
            ParsedExtension::SubjectAlternativeName(names) if !names.general_names.is_empty()
        )
    });
    names.next().map(|e| e.value.to_vec())
}

fn extensions(purposes: &[KeyPurpose], names: Option<&[u8]>, no_subject: bool, key_id: &[u8]) -> Vec<u8> {
    let mut bits = 0u8;
    let mut extended = Vec::new();
    for purpose in purposes {
        match purpose {
            KeyPurpose::DigitalSignature => bits |= 0x80,
            KeyPurpose::KeyEncipherment => bits |= 0x20,
            KeyPurpose::ServerAuth => extended.push(der::oid(&[0x2b, 6, 1, 5, 5, 7, 3, 1])),
            KeyPurpose::ClientAuth => extended.push(der::oid(&[0x2b, 6, 1, 5, 5, 7, 3, 2])),
        }
    }
    let extension = |id: u8, critical: bool, value: &[u8]| {
        let mut parts = vec![der::oid(&[0x55, 0x1d, id])];
        if critical {
            parts.push(der::tagged(0x01, &[0xff]));
        }
        parts.push(der::tagged(0x04, value));
        der::sequence(&parts)
    };
    let mut out = Vec::new();
    if bits != 0 {
        let unused = u8::try_from(bits.trailing_zeros()).unwrap_or(0);
        out.push(extension(0x0f, true, &der::bits(unused, &[bits])));
    }
    if !extended.is_empty() {
        out.push(extension(0x25, false, &der::sequence(&extended)));
    }
    // No authority.
    out.push(extension(0x13, true, &der::sequence(&[])));
    let key_id = der::sequence(&[der::tagged(0x80, &key_id[..20])]);
    out.push(extension(0x23, false, &key_id));
    if let Some(names) = names {
        out.push(extension(0x11, no_subject, names));
    }
    der::sequence(&out)
}

fn pem(label: &str, der: &[u8]) -> String {
    let text = B64.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = after;
    }
    out + &format!("-----END {label}-----\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use x509_parser::prelude::GeneralName;

    const NODE: [KeyPurpose; 2] = [KeyPurpose::DigitalSignature, KeyPurpose::ClientAuth];

    fn authority() -> (tempfile::TempDir, Authority) {
        let dir = tempfile::tempdir().unwrap();
        let authority = Authority::load_or_create(dir.path(), "ca").unwrap();
        (dir, authority)
    }

    #[test]
    fn a_request_is_read_and_signed_as_it_is() {
        let (_dir, ca) = authority();
        let names = ["n1".to_owned(), "10.0.0.7".to_owned(), "fd00::7".to_owned()];
        let (_, request) = new_request("system:node:n1", "system:nodes", &names).unwrap();
        let read = read_request(&request).unwrap();
        assert_eq!(read.common_name, "system:node:n1");
        assert_eq!(read.organisations, ["system:nodes"]);
        assert_eq!(read.dns_names, ["n1"]);
        assert_eq!(read.addresses.len(), 2);
        let year = Duration::from_secs(365 * 86_400);
        let purposes = [&NODE[..], &[KeyPurpose::KeyEncipherment, KeyPurpose::ServerAuth]].concat();
        let signed = ca.sign_request(&request, &purposes, year).unwrap();
        let (_, block) = x509_parser::pem::parse_x509_pem(signed.as_bytes()).unwrap();
        let certificate = block.parse_x509().unwrap();
        let (_, own) = x509_parser::pem::parse_x509_pem(ca.certificate().as_bytes()).unwrap();
        let own = own.parse_x509().unwrap();
        certificate.verify_signature(Some(own.public_key())).unwrap();
        assert_eq!(certificate.issuer().as_raw(), own.subject().as_raw());
        assert_eq!(certificate.subject().to_string(), "O=system:nodes, CN=system:node:n1");
        let usage = certificate.key_usage().unwrap().unwrap();
        assert!(usage.critical && usage.value.digital_signature() && usage.value.key_encipherment());
        assert!(!usage.value.key_cert_sign());
        let usage = certificate.extended_key_usage().unwrap().unwrap().value;
        assert!(usage.client_auth && usage.server_auth && !usage.any);
        assert!(!certificate.is_ca());
        let names = certificate.subject_alternative_name().unwrap().unwrap();
        assert_eq!(names.value.general_names[0], GeneralName::DNSName("n1"));
        assert!(certificate.validity().is_valid());
        let (name, names) = crate::certificate_names(&signed).unwrap();
        assert_eq!(name, "system:node:n1");
        assert_eq!(names, ["n1", "10.0.0.7", "fd00::7"]);
    }

    #[test]
    fn a_certificate_does_not_outlast_its_authority_and_lasts_no_longer_than_told() {
        let (_dir, ca) = authority();
        let (_, request) = new_request("ann", "", &[]).unwrap();
        let end = |validity: u64| {
            let signed = ca.sign_request(&request, &NODE, Duration::from_secs(validity)).unwrap();
            crate::certificate_life(&signed).unwrap().1
        };
        let now = OffsetDateTime::now_utc().unix_timestamp();
        assert!((end(600) - now - 600).abs() < 5);
        let (_, last) = crate::certificate_life(ca.certificate()).unwrap();
        assert_eq!(end(100 * 365 * 86_400), last);
    }

    #[test]
    fn rustls_takes_what_was_signed() {
        let (_dir, ca) = authority();
        let (key, request) = new_request("system:node:n1", "system:nodes", &["n1".to_owned()]).unwrap();
        let certificate = ca.sign_request(&request, &NODE, Duration::from_secs(3600)).unwrap();
        let pair = crate::KeyPairPem { certificate, key };
        assert!(crate::client_config(ca.certificate(), Some(&pair)).is_ok());
        assert!(crate::ServerIdentity::new(&pair).is_ok());
        let again = renew_request(&pair.key, "system:node:n1", "system:nodes", &[]).unwrap();
        assert_eq!(read_request(&again).unwrap().common_name, "system:node:n1");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        let (_dir, ca) = authority();
        let (key, request) = new_request("ann", "", &[]).unwrap();
        // A letter in the middle is another one: the signature no longer holds.
        let at = request.len() / 2;
        let other = if &request[at..=at] == "A" { "B" } else { "A" };
        let forged = format!("{}{other}{}", &request[..at], &request[at + 1..]);
        for junk in ["", "junk", &key, ca.certificate(), &forged] {
            assert!(read_request(junk).is_err(), "{junk}");
            assert!(ca.sign_request(junk, &NODE, Duration::from_secs(60)).is_err());
        }
    }
}
