//! Certificates, signing keys, tokens and kubeconfig files of a cluster.
//!
//! Must not decide who may do what: it proves identity, `apiserver` judges it.
//! Private keys are written with mode 0600 and never printed.

mod ca;
mod der;
mod files;
mod jwt;
mod kubeconfig;
mod request;
mod tls;
mod token;

pub use ca::{Authority, CertSpec, KeyPairPem, Usage, certificate_life, certificate_names};
pub use files::write_private;
pub use jwt::{JwtError, SigningKeys};
pub use kubeconfig::kubeconfig;
pub use request::{KeyPurpose, Request, new_request, read_request, renew_request};
pub use tls::{
    ClientIdentity, ServerIdentity, client_config, client_config_at_first_sight, client_config_with, peer_identity,
    server_config,
};
pub use token::{JoinToken, random_token};

use std::path::PathBuf;

/// What went wrong with a key, a certificate or its file.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file could not be read or written.
    #[error("{action} {}", path.display())]
    File {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file does not hold what it should; restore it from a backup or remove it to make a new one.
    #[error("{} does not hold a valid {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// A certificate could not be made.
    #[error("make certificate for {subject}")]
    Make {
        /// Its common name.
        subject: String,
        /// Why.
        #[source]
        source: rcgen::Error,
    },
    /// A request for a certificate is none, or cannot be signed.
    #[error("the request {0}")]
    Request(String),
    /// TLS settings were refused.
    #[error("TLS settings")]
    Tls(#[from] rustls::Error),
    /// PEM text could not be read.
    #[error("not valid PEM: {0}")]
    Pem(String),
    /// A token does not have the expected form.
    #[error("join token {0}; copy the whole line that `allmend token` prints on the server")]
    Token(&'static str),
}
