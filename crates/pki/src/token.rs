//! Tokens: random secrets, and the join token that carries the fingerprint of
//! the server's authority so that a new node trusts the right server.

use std::fmt;

use rand::RngCore;
use sha2::{Digest, Sha256};

use crate::PkiError;

/// `n` random bytes in hexadecimal.
pub fn random_token(n: usize) -> String {
    let mut bytes = vec![0u8; n];
    rand::rng().fill_bytes(&mut bytes);
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `A10<sha256 of the authority's certificate>::server:<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// SHA-256 of the authority's PEM certificate, hexadecimal; empty when the
    /// user gave a bare secret, and then the authority is trusted at first sight.
    pub authority: String,
    /// The shared secret.
    pub secret: String,
}

impl JoinToken {
    /// Binds a secret to an authority.
    pub fn new(authority_pem: &str, secret: &str) -> Self {
        JoinToken {
            authority: format!("{:x}", Sha256::digest(authority_pem.as_bytes())),
            secret: secret.to_owned(),
        }
    }

    /// Reads the printed form, or a bare secret.
    pub fn parse(text: &str) -> Result<Self, PkiError> {
        let text = text.trim();
        if text.is_empty() {
            return Err(PkiError::Token("is empty"));
        }
        let Some(rest) = text.strip_prefix("A10") else {
            return Ok(JoinToken {
                authority: String::new(),
                secret: text.to_owned(),
            });
        };
        let (authority, secret) = rest.split_once("::server:").ok_or(PkiError::Token("is cut off"))?;
        if authority.len() != 64 || secret.is_empty() {
            return Err(PkiError::Token("is cut off"));
        }
        Ok(JoinToken {
            authority: authority.to_owned(),
            secret: secret.to_owned(),
        })
    }

    /// Whether this is the authority that the token was made for.
    pub fn trusts(&self, authority_pem: &str) -> bool {
        self.authority.is_empty() || self.authority == format!("{:x}", Sha256::digest(authority_pem.as_bytes()))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "A10{}::server:{}", self.authority, self.secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn join_tokens_round_trip_and_name_their_authority() {
        let token = JoinToken::new("PEM", "s3cret");
        let read = JoinToken::parse(&format!(" {token}\n")).unwrap();
        assert!(read == token && read.trusts("PEM") && !read.trusts("OTHER"));
        assert!(JoinToken::parse("bare").unwrap().trusts("anything"));
        assert!(JoinToken::parse("A10abc").is_err() && JoinToken::parse("").is_err());
    }
}
