//! Tokens of a pod's service account that are still good: writing other volumes
//! anew is no reason for new ones.
//!
//! Must not keep them anywhere but in memory.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;

/// Tokens by volume and path.
#[derive(Default)]
pub(crate) struct Tokens(Mutex<HashMap<(String, String), Token>>);

/// A token. Never printed.
#[derive(Clone)]
pub(crate) struct Token {
    pub text: String,
    /// When another is to be asked for.
    pub refresh_at: Timestamp,
}

impl Tokens {
    /// The token at hand, if it need not be replaced yet.
    pub fn get(&self, volume: &str, path: &str, now: Timestamp) -> Option<Token> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens.get(&(volume.to_owned(), path.to_owned()))?;
        (token.refresh_at > now).then(|| token.clone())
    }

    /// Keeps a new one.
    pub fn put(&self, volume: &str, path: &str, token: Token) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.insert((volume.to_owned(), path.to_owned()), token);
    }
}
