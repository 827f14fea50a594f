//! The chain of authenticators: client certificate, bearer token, nobody.
//! Must not log or echo a credential.

use std::collections::HashMap;
use std::sync::Arc;

use http::HeaderMap;
use meta::Status;
use sha2::{Digest, Sha256};

use super::access::Access;
use crate::core::Core;
use crate::identity::{AUTHENTICATED, SERVICE_ACCOUNT, User};

/// Fixed tokens, by hash so that a lookup takes no longer for a near miss.
#[derive(Default)]
pub(crate) struct StaticTokens(HashMap<[u8; 32], Arc<User>>);

impl StaticTokens {
    /// From the settings.
    pub(crate) fn new(tokens: &[(String, User)]) -> Self {
        let entry = |(token, user): &(String, User)| (Sha256::digest(token.as_bytes()).into(), Arc::new(user.clone()));
        StaticTokens(tokens.iter().filter(|(t, _)| !t.is_empty()).map(entry).collect())
    }

    pub(crate) fn find(&self, token: &str) -> Option<Arc<User>> {
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        self.0.get(&hash).cloned()
    }
}

impl Core {
    /// Who sent a request. A credential that does not hold is refused, even if another would.
    pub fn authenticate(&self, certificate: Option<&Arc<User>>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        if let Some(user) = certificate {
            return Ok(user.clone());
        }
        let Some(header) = headers.get(http::header::AUTHORIZATION) else {
            return Ok(match bearer_protocol(headers) {
                Some(token) => self.token_user(&token)?,
                None => self.anonymous.clone(),
            });
        };
        let header = header.to_str().map_err(|_| Status::unauthorized())?;
        let (scheme, token) = header.split_once(' ').ok_or_else(Status::unauthorized)?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Status::unauthorized());
        }
        self.token_user(token.trim())
    }

    /// Whom a bearer token stands for.
    pub fn token_user(&self, token: &str) -> Result<Arc<User>, Status> {
        if let Some(user) = self.tokens.find(token) {
            return Ok(user);
        }
        let (user, _) = self.verify_service_token(token, &[]).ok_or_else(Status::unauthorized)?;
        Ok(Arc::new(user))
    }

    /// Takes another identity, if the headers ask for it and the caller may.
    pub fn impersonate(&self, user: Arc<User>, headers: &HeaderMap) -> Result<Arc<User>, Status> {
        let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let groups: Vec<&str> = headers
            .get_all("impersonate-group")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .collect();
        let (name, uid) = (text("impersonate-user"), text("impersonate-uid"));
        let extras = headers
            .iter()
            .filter(|(k, _)| k.as_str().starts_with("impersonate-extra-"));
        let extras: Vec<(String, String)> = extras
            .filter_map(|(k, v)| {
                Some((
                    k.as_str().strip_prefix("impersonate-extra-")?.to_owned(),
                    v.to_str().ok()?.to_owned(),
                ))
            })
            .collect();
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extras.is_empty() {
                return Ok(user);
            }
            return Err(Status::bad_request(
                "requested impersonation without impersonating a user: Impersonate-User must be set",
            ));
        }
        let may = |access: Access<'_>| {
            let verb = "impersonate";
            self.authorise(&user, &Access { verb, ..access })
        };
        let mut out = User {
            name: name.to_owned(),
            uid: uid.to_owned(),
            ..User::default()
        };
        match name.strip_prefix(SERVICE_ACCOUNT).and_then(|n| n.split_once(':')) {
            Some((namespace, account)) => {
                may(core("serviceaccounts", namespace, account))?;
                if groups.is_empty() {
                    out.groups = User::service_account(namespace, account).groups;
                }
            }
            None => may(core("users", "", name))?,
        }
        for group in groups {
            may(core("groups", "", group))?;
            out.groups.push(group.to_owned());
        }
        let group = "authentication.k8s.io";
        if !uid.is_empty() {
            may(Access {
                group,
                ..core("uids", "", uid)
            })?;
        }
        for (key, value) in extras {
            let subresource = key.as_str();
            may(Access {
                group,
                subresource,
                ..core("userextras", "", &value)
            })?;
            out.extra.entry(key).or_default().push(value);
        }
        if name != crate::identity::ANONYMOUS && !out.in_group(AUTHENTICATED) {
            out.groups.push(AUTHENTICATED.to_owned());
        }
        Ok(Arc::new(out))
    }
}

/// Access to something in the core group.
fn core<'a>(resource: &'a str, namespace: &'a str, name: &'a str) -> Access<'a> {
    Access {
        resource,
        namespace,
        name,
        ..Access::default()
    }
}

/// Browsers cannot set headers on WebSockets: they send the token as a subprotocol.
fn bearer_protocol(headers: &HeaderMap) -> Option<String> {
    use base64::Engine;
    let protocols = headers.get("sec-websocket-protocol")?.to_str().ok()?;
    let encoded = protocols
        .split(',')
        .find_map(|p| p.trim().strip_prefix("base64url.bearer.authorization.k8s.io."))?;
    let decoded = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(encoded).ok()?;
    String::from_utf8(decoded).ok()
}
