//! JSON web tokens signed with ES256 (RFC 7515, 7518, 7519): the form of
//! service-account tokens. One algorithm only, so none can be confused.
//!
//! Must not judge claims: it proves who signed, `apiserver` checks the rest.

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rcgen::KeyPair;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::PkiError;
use crate::files::{read_if_there, write_private};

/// Why a token was not accepted. Says nothing about its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwtError {
    /// Not three base64url parts of JSON, or another algorithm.
    #[error("not a token that this cluster signs")]
    Malformed,
    /// The key is not ours.
    #[error("signed by an unknown key")]
    UnknownKey,
    /// The signature does not fit.
    #[error("the signature does not fit")]
    BadSignature,
}

/// The keys that sign service-account tokens: the first signs, all verify.
pub struct SigningKeys {
    keys: Vec<Key>,
    random: SystemRandom,
}

struct Key {
    id: String,
    pair: EcdsaKeyPair,
}

impl SigningKeys {
    /// Reads `<directory>/service.key`, or makes and writes it. Keys named
    /// `service-*.key` beside it (put there by a rotation) go on verifying.
    pub fn load_or_create(directory: &Path) -> Result<Self, PkiError> {
        let path = directory.join("service.key");
        let pem = match read_if_there(&path)? {
            Some(pem) => pem,
            None => {
                let made = KeyPair::generate().map_err(|source| PkiError::Make {
                    subject: "service account key".into(),
                    source,
                })?;
                let pem = made.serialize_pem();
                write_private(&path, pem.as_bytes())?;
                pem
            }
        };
        let mut keys = vec![parse_key(&path, &pem)?];
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("service-") && name.ends_with(".key") {
                let pem = read_if_there(&entry.path())?.unwrap_or_default();
                keys.push(parse_key(&entry.path(), &pem)?);
            }
        }
        Ok(SigningKeys {
            keys,
            random: SystemRandom::new(),
        })
    }

    /// Signs claims.
    pub fn sign(&self, claims: &Value) -> Result<String, JwtError> {
        let key = &self.keys[0];
        let header = json!({"alg": "ES256", "kid": key.id, "typ": "JWT"});
        let input = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = key
            .pair
            .sign(&self.random, input.as_bytes())
            .map_err(|_| JwtError::BadSignature)?;
        Ok(format!("{input}.{}", B64.encode(signature)))
    }

    /// The claims of a token that one of the keys signed.
    pub fn verify(&self, token: &str) -> Result<Value, JwtError> {
        let (input, signature) = token.rsplit_once('.').ok_or(JwtError::Malformed)?;
        let (header, claims) = input.split_once('.').ok_or(JwtError::Malformed)?;
        let header = decode_json(header)?;
        if header["alg"] != "ES256" {
            return Err(JwtError::Malformed);
        }
        let kid = header["kid"].as_str().ok_or(JwtError::Malformed)?;
        let key = self.keys.iter().find(|k| k.id == kid).ok_or(JwtError::UnknownKey)?;
        let signature = B64.decode(signature).map_err(|_| JwtError::Malformed)?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key.pair.public_key().as_ref())
            .verify(input.as_bytes(), &signature)
            .map_err(|_| JwtError::BadSignature)?;
        decode_json(claims)
    }

    /// The public keys as a JSON web key set (RFC 7517), for OIDC discovery.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .map(|k| {
                // Uncompressed point: 0x04, X, Y of 32 bytes each.
                let point = k.pair.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": k.id,
                    "x": B64.encode(&point[1..33]), "y": B64.encode(&point[33..65]),
                })
            })
            .collect();
        json!({"keys": keys})
    }
}

fn parse_key(path: &Path, pem: &str) -> Result<Key, PkiError> {
    let damaged = || PkiError::Damaged {
        path: path.to_owned(),
        what: "private key",
    };
    let der = KeyPair::from_pem(pem).map_err(|_| damaged())?.serialize_der();
    let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &der, &SystemRandom::new())
        .map_err(|_| damaged())?;
    let id = B64.encode(Sha256::digest(pair.public_key().as_ref()));
    Ok(Key { id, pair })
}

fn decode_json(part: &str) -> Result<Value, JwtError> {
    let bytes = B64.decode(part).map_err(|_| JwtError::Malformed)?;
    serde_json::from_slice(&bytes).map_err(|_| JwtError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_verify_across_restarts_and_rotation() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SigningKeys::load_or_create(dir.path()).unwrap();
        let token = keys.sign(&json!({"sub": "system:serviceaccount:a:b"})).unwrap();
        std::fs::rename(dir.path().join("service.key"), dir.path().join("service-1.key")).unwrap();
        let rotated = SigningKeys::load_or_create(dir.path()).unwrap();
        assert_eq!(rotated.verify(&token).unwrap()["sub"], "system:serviceaccount:a:b");
        assert_eq!(rotated.jwks()["keys"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn forged_tokens_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let keys = SigningKeys::load_or_create(dir.path()).unwrap();
        let token = keys.sign(&json!({"sub": "a"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let other = B64.encode(json!({"sub": "root"}).to_string());
        let forged = format!("{}.{other}.{}", parts[0], parts[2]);
        assert_eq!(keys.verify(&forged), Err(JwtError::BadSignature));
        let none = B64.encode(json!({"alg": "none"}).to_string());
        assert_eq!(keys.verify(&format!("{none}.{other}.")), Err(JwtError::Malformed));
        let elsewhere = tempfile::tempdir().unwrap();
        let strangers = SigningKeys::load_or_create(elsewhere.path()).unwrap();
        assert_eq!(strangers.verify(&token), Err(JwtError::UnknownKey));
        for junk in ["", ".", "..", "a.b.c", "💥.💥.💥"] {
            assert!(keys.verify(junk).is_err());
        }
    }
}
