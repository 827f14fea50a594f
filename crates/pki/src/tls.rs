//! TLS settings (rustls): what servers show, what clients trust.

use std::sync::{Arc, RwLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::{KeyPairPem, PkiError};

/// A server's certificate that can be replaced while it serves.
#[derive(Debug)]
pub struct ServerIdentity(RwLock<Option<Arc<CertifiedKey>>>);

impl ServerIdentity {
    /// Starts with a certificate and its key.
    pub fn new(pair: &KeyPairPem) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(ServerIdentity(RwLock::new(Some(Arc::new(certified(pair)?))))))
    }

    /// Starts with none: handshakes fail until there is one.
    pub fn none() -> Arc<Self> {
        Arc::new(ServerIdentity(RwLock::new(None)))
    }

    /// Shows another certificate from the next handshake on.
    pub fn replace(&self, pair: &KeyPairPem) -> Result<(), PkiError> {
        let key = Some(Arc::new(certified(pair)?));
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }
}

impl ResolvesServerCert for ServerIdentity {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone()
    }
}

/// A client's certificate that can be replaced while it calls.
#[derive(Debug)]
pub struct ClientIdentity(RwLock<Arc<CertifiedKey>>);

impl ClientIdentity {
    /// Starts with a certificate and its key.
    pub fn new(pair: &KeyPairPem) -> Result<Arc<Self>, PkiError> {
        Ok(Arc::new(ClientIdentity(RwLock::new(Arc::new(certified(pair)?)))))
    }

    /// Shows another certificate from the next handshake on.
    pub fn replace(&self, pair: &KeyPairPem) -> Result<(), PkiError> {
        let key = Arc::new(certified(pair)?);
        *self.0.write().unwrap_or_else(std::sync::PoisonError::into_inner) = key;
        Ok(())
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().unwrap_or_else(std::sync::PoisonError::into_inner).clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Settings of a client that trusts one authority and shows a certificate that may change.
pub fn client_config_with(authority_pem: &str, identity: Arc<ClientIdentity>) -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority_pem)?);
    Ok(builder.with_client_cert_resolver(identity))
}

/// Settings of a server. Clients may show a certificate of `client_authority`; with
/// `require_client` they must.
pub fn server_config(
    identity: Arc<ServerIdentity>,
    client_authority_pem: &str,
    require_client: bool,
    alpn: &[&[u8]],
) -> Result<ServerConfig, PkiError> {
    let roots = Arc::new(roots(client_authority_pem)?);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone());
    if !require_client {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier.build().map_err(|e| PkiError::Pem(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity);
    config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
    Ok(config)
}

/// Settings of a client that trusts one authority and may show a certificate.
pub fn client_config(authority_pem: &str, user: Option<&KeyPairPem>) -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots(authority_pem)?);
    Ok(match user {
        Some(pair) => builder.with_client_auth_cert(chain(&pair.certificate)?, private_key(&pair.key)?)?,
        None => builder.with_no_client_auth(),
    })
}

/// Settings of a client that believes every server. Only for fetching the authority's certificate,
/// which is then compared with what a token says; no credential may be sent this way.
pub fn client_config_at_first_sight() -> Result<ClientConfig, PkiError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(FirstSight(provider.clone()));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    Ok(builder.with_no_client_auth())
}

/// Believes every certificate, but checks that the server has its key.
#[derive(Debug)]
struct FirstSight(Arc<CryptoProvider>);

impl ServerCertVerifier for FirstSight {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Common name and organisations of a verified client certificate: user and groups.
pub fn peer_identity(certificate: &CertificateDer<'_>) -> Option<(String, Vec<String>)> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let user = parsed.subject().iter_common_name().find_map(text)?;
    let groups = parsed.subject().iter_organization().filter_map(text).collect();
    Some((user, groups))
}

fn roots(pem: &str) -> Result<RootCertStore, PkiError> {
    let mut store = RootCertStore::empty();
    for certificate in chain(pem)? {
        store.add(certificate)?;
    }
    Ok(store)
}

fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, PkiError> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| PkiError::Pem(e.to_string()))
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>, PkiError> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes()).map_err(|e| PkiError::Pem(e.to_string()))
}

fn certified(pair: &KeyPairPem) -> Result<CertifiedKey, PkiError> {
    let key = rustls::crypto::ring::sign::any_supported_type(&private_key(&pair.key)?)?;
    Ok(CertifiedKey::new(chain(&pair.certificate)?, key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Authority, CertSpec};

    #[test]
    fn a_client_certificate_names_its_user() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Authority::load_or_create(dir.path(), "client-ca").unwrap();
        let pair = ca.issue(&CertSpec::client("system:node:a", "system:nodes")).unwrap();
        let der = chain(&pair.certificate).unwrap().remove(0);
        assert_eq!(
            peer_identity(&der),
            Some(("system:node:a".into(), vec!["system:nodes".into()]))
        );
        let identity = ServerIdentity::new(&pair).unwrap();
        assert!(server_config(identity, ca.certificate(), false, &[b"h2"]).is_ok());
        assert!(client_config(ca.certificate(), Some(&pair)).is_ok());
    }
}
