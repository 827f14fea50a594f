//! Keys, and what they make of a value. It knows no store.
//!
//! The form is that of Kubernetes: `k8s:enc:<provider>:v1:<name of the key>:` and then, for
//! `aesgcm`, 12 bytes of nonce, cipher text and tag; for `secretbox` 24 bytes of nonce and the box.

use aes_gcm::aead::{Aead, AeadCore, KeyInit, OsRng, Payload};
use aes_gcm::{Aes128Gcm, Aes256Gcm};
use bytes::Bytes;
use crypto_secretbox::XSalsa20Poly1305;
use std::fmt;

/// What every encrypted value begins with. No object in JSON does.
pub const PREFIX: &[u8] = b"k8s:enc:";

/// A secret for a new key.
pub fn random_secret() -> [u8; 32] {
    Aes256Gcm::generate_key(OsRng).into()
}

/// How a key encrypts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AES in Galois counter mode, 128 or 256 bits. The value is bound to its key in the store:
    /// what is copied to another place can't be read there. Nonces are random, so a key should
    /// not serve for more than some billions of writes.
    AesGcm,
    /// XSalsa20 and Poly1305. It cannot bind a value to its place, but its nonces never run out.
    Secretbox,
}

impl Algorithm {
    /// As it is called in values and configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::AesGcm => "aesgcm",
            Self::Secretbox => "secretbox",
        }
    }
}

/// A key with its name.
#[derive(Clone)]
pub struct Key {
    algorithm: Algorithm,
    name: String,
    cipher: Cipher,
}

#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
    Salsa(Box<XSalsa20Poly1305>),
}

impl fmt::Debug for Key {
    /// Without the secret.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} key {:?}", self.algorithm.name(), self.name)
    }
}

impl Key {
    /// A key from its secret; else what is wrong with it.
    ///
    /// # Errors
    /// In words, for the name's or the secret's form.
    pub fn new(algorithm: Algorithm, name: &str, secret: &[u8]) -> Result<Self, String> {
        if name.is_empty() || name.contains(':') || name.len() > 64 {
            return Err(format!(
                "{name:?} can't be the name of a key: it must be short, without colons"
            ));
        }
        let made = match algorithm {
            Algorithm::AesGcm if secret.len() == 16 => {
                Aes128Gcm::new_from_slice(secret).map(|c| Cipher::Aes128(Box::new(c)))
            }
            Algorithm::AesGcm => Aes256Gcm::new_from_slice(secret).map(|c| Cipher::Aes256(Box::new(c))),
            Algorithm::Secretbox => XSalsa20Poly1305::new_from_slice(secret).map(|c| Cipher::Salsa(Box::new(c))),
        };
        let sizes = match algorithm {
            Algorithm::AesGcm => "16 or 32",
            Algorithm::Secretbox => "32",
        };
        match made {
            Ok(cipher) => Ok(Self {
                algorithm,
                name: name.to_owned(),
                cipher,
            }),
            Err(_) => Err(format!("key {name:?} has {} bytes, and needs {sizes}", secret.len())),
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn head(&self) -> Vec<u8> {
        format!("k8s:enc:{}:v1:{}:", self.algorithm.name(), self.name).into_bytes()
    }

    /// Whether a value says that this key has encrypted it, and that is the present one.
    pub fn made(&self, value: &[u8]) -> bool {
        value.starts_with(&self.head())
    }

    /// Encrypts a value for a place in the store; `None` if it is beyond all sizes.
    pub fn seal(&self, place: &[u8], plain: &[u8]) -> Option<Bytes> {
        let mut out = self.head();
        let bound = Payload { msg: plain, aad: place };
        let (nonce, sealed) = match &self.cipher {
            Cipher::Aes128(c) => {
                let nonce = Aes128Gcm::generate_nonce(&mut OsRng);
                (nonce.to_vec(), c.encrypt(&nonce, bound))
            }
            Cipher::Aes256(c) => {
                let nonce = Aes256Gcm::generate_nonce(&mut OsRng);
                (nonce.to_vec(), c.encrypt(&nonce, bound))
            }
            Cipher::Salsa(c) => {
                let nonce = XSalsa20Poly1305::generate_nonce(&mut OsRng);
                (nonce.to_vec(), c.encrypt(&nonce, plain))
            }
        };
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed.ok()?);
        Some(out.into())
    }

    /// Decrypts what follows the head; `None` if it is of another key, or not what was written.
    fn open(&self, place: &[u8], body: &[u8]) -> Option<Bytes> {
        let size = match self.algorithm {
            Algorithm::AesGcm => 12,
            Algorithm::Secretbox => 24,
        };
        let (nonce, msg) = body.split_at_checked(size)?;
        let bound = Payload { msg, aad: place };
        let plain = match &self.cipher {
            Cipher::Aes128(c) => c.decrypt(nonce.into(), bound),
            Cipher::Aes256(c) => c.decrypt(nonce.into(), bound),
            Cipher::Salsa(c) => c.decrypt(nonce.into(), msg),
        };
        plain.ok().map(Into::into)
    }
}

/// Decrypts a value with whichever of the keys it names; else what is wrong, in words.
pub(super) fn open<'k>(keys: impl Iterator<Item = &'k Key>, place: &[u8], value: &[u8]) -> Result<Bytes, String> {
    let mut named = false;
    for key in keys {
        let head = key.head();
        if let Some(body) = value.strip_prefix(&head[..]) {
            named = true;
            if let Some(plain) = key.open(place, body) {
                return Ok(plain);
            }
        }
    }
    let of = description(value);
    Err(if named {
        format!("it is encrypted with {of}, but that key does not fit: the key was changed, or the object is damaged")
    } else {
        format!("it is encrypted with {of}, which is not among the keys of this server")
    })
}

/// Provider and key as the head of a value names them.
fn description(value: &[u8]) -> String {
    let head = String::from_utf8_lossy(&value[..value.len().min(128)]);
    let mut parts = head.split(':').skip(2);
    let (provider, _version, name) = (parts.next(), parts.next(), parts.next());
    format!("{} key {:?}", provider.unwrap_or_default(), name.unwrap_or_default())
}
