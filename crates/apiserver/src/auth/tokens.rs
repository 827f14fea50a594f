//! Service-account tokens: making them (TokenRequest) and judging them. A token
//! is as good as the objects it is bound to. Must not log a token.

use meta::{Status, time};
use serde_json::{Value, json};

use crate::core::Core;
use crate::identity::User;
use crate::registry::{Call, Target};
use crate::resource::object_key;

/// Lifetime of a token that asks for none, and the shortest.
const DEFAULT_SECONDS: i64 = 3600;
const SHORTEST_SECONDS: i64 = 600;
const LONGEST_SECONDS: i64 = 1 << 32;

impl Core {
    /// The user and audiences of a service-account token, if it holds now.
    /// With `audiences` empty, the server's own must be among the token's.
    pub fn verify_service_token(&self, token: &str, audiences: &[String]) -> Option<(User, Vec<String>)> {
        // Junk is cheap to tell from a token.
        if token.len() > 16 << 10 || token.bytes().filter(|b| *b == b'.').count() != 2 {
            return None;
        }
        let claims = self.config.signer.as_ref()?.verify(token)?;
        let now = jiff::Timestamp::now().as_second();
        if claims["iss"] != self.config.issuer.as_str()
            || claims["exp"].as_i64()? <= now
            || claims["nbf"].as_i64()? > now + 60
        {
            return None;
        }
        let has: Vec<String> = claims["aud"]
            .as_array()?
            .iter()
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        let own = [self.config.audience.clone()];
        let wanted = if audiences.is_empty() { &own[..] } else { audiences };
        let matching: Vec<String> = wanted.iter().filter(|a| has.contains(a)).cloned().collect();
        if matching.is_empty() {
            return None;
        }
        let bound = &claims["kubernetes.io"];
        let namespace = bound["namespace"].as_str()?;
        let account = &bound["serviceaccount"];
        if !self.is_alive("serviceaccounts", namespace, account) {
            return None;
        }
        for (field, plural) in [("pod", "pods"), ("secret", "secrets")] {
            if bound.get(field).is_some() && !self.is_alive(plural, namespace, &bound[field]) {
                return None;
            }
        }
        let mut user = User::service_account(namespace, account["name"].as_str()?);
        user.uid = account["uid"].as_str()?.to_owned();
        let mut extra = |key: &str, value: &Value| {
            if let Some(value) = value.as_str() {
                user.extra
                    .insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        extra("pod-name", &bound["pod"]["name"]);
        extra("pod-uid", &bound["pod"]["uid"]);
        extra("node-name", &bound["node"]["name"]);
        extra("node-uid", &bound["node"]["uid"]);
        let id = claims["jti"]
            .as_str()
            .map(|j| json!(format!("JTI={j}")))
            .unwrap_or_default();
        extra("credential-id", &id);
        Some((user, matching))
    }

    fn is_alive(&self, plural: &str, namespace: &str, reference: &Value) -> bool {
        let (Some(name), Some(uid)) = (reference["name"].as_str(), reference["uid"].as_str()) else {
            return false;
        };
        let item = self
            .catalog
            .find("", plural)
            .and_then(|r| r.cache.get(&object_key(namespace, name)));
        item.is_some_and(|i| i.object.uid() == uid)
    }

    /// POST of `serviceaccounts/token`.
    pub(crate) fn request_token(&self, call: &Call, target: Target<'_>, mut request: Value) -> Result<Value, Status> {
        let account = self.current(target)?;
        let signer = self
            .config
            .signer
            .as_ref()
            .ok_or_else(|| Status::unavailable("no token signer is configured"))?;
        let spec = &request["spec"];
        let mut audiences: Vec<&str> = spec["audiences"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect();
        if audiences.is_empty() {
            audiences.push(&self.config.audience);
        }
        let seconds = spec["expirationSeconds"].as_i64().unwrap_or(DEFAULT_SECONDS);
        if !(SHORTEST_SECONDS..=LONGEST_SECONDS).contains(&seconds) {
            let mut errors = meta::field::ErrorList::new();
            let path = meta::field::Path::new("spec").child("expirationSeconds");
            let why = if seconds < SHORTEST_SECONDS {
                "may not specify a duration less than 10 minutes"
            } else {
                "may not specify a duration larger than 2^32 seconds"
            };
            errors.invalid(&path, seconds, why);
            return Err(Status::invalid(
                "authentication.k8s.io",
                "TokenRequest",
                target.name,
                &errors,
            ));
        }
        let mut bound = json!({
            "namespace": target.namespace,
            "serviceaccount": {"name": account.name(), "uid": account.uid()},
        });
        self.bind_token(target, &spec["boundObjectRef"], &mut bound)?;
        if let Some(node) = call.user.as_node()
            && bound["node"]["name"] != node
        {
            return Err(target.forbidden("node requested token not bound to a pod on it"));
        }
        let now = call.now.as_second();
        let expires = now + seconds;
        let claims = json!({
            "iss": self.config.issuer,
            "sub": format!("system:serviceaccount:{}:{}", target.namespace, account.name()),
            "aud": audiences, "iat": now, "nbf": now, "exp": expires,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
        });
        let token = signer
            .sign(&claims)
            .ok_or_else(|| Status::internal("the token could not be signed"))?;
        let expires = jiff::Timestamp::from_second(expires)
            .map(time::rfc3339)
            .unwrap_or_default();
        request["spec"]["audiences"] = json!(audiences);
        request["spec"]["expirationSeconds"] = seconds.into();
        request["status"] = json!({"token": token, "expirationTimestamp": expires});
        request["kind"] = "TokenRequest".into();
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["metadata"] = json!({
            "name": account.name(), "namespace": target.namespace,
            "creationTimestamp": time::rfc3339(call.now),
        });
        Ok(request)
    }

    fn bind_token(&self, target: Target<'_>, reference: &Value, bound: &mut Value) -> Result<(), Status> {
        let Some(name) = reference["name"].as_str() else {
            return Ok(());
        };
        let (field, plural, namespace) = match reference["kind"].as_str() {
            Some("Pod") => ("pod", "pods", target.namespace),
            Some("Secret") => ("secret", "secrets", target.namespace),
            Some("Node") => ("node", "nodes", ""),
            other => {
                return Err(Status::bad_request(format!(
                    "cannot bind token to object of type {}",
                    other.unwrap_or_default()
                )));
            }
        };
        let resource = self.catalog.find("", plural).ok_or_else(Status::no_such_path)?;
        let object = self.current(Target::of(resource, namespace, name))?;
        if let Some(uid) = reference["uid"].as_str().filter(|u| !u.is_empty())
            && uid != object.uid()
        {
            return Err(target.conflict(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. \
                 The object might have been deleted and then recreated"
            )));
        }
        if field == "pod" {
            let pod = object.to_value();
            let account = pod
                .pointer("/spec/serviceAccountName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if account != target.name {
                return Err(Status::bad_request(format!(
                    "cannot bind token for serviceaccount \"{}\" to pod running with different serviceaccount name.",
                    target.name
                )));
            }
            let node = pod
                .pointer("/spec/nodeName")
                .and_then(Value::as_str)
                .unwrap_or_default();
            if !node.is_empty() {
                bound["node"] = json!({"name": node});
                let nodes = self.catalog.find("", "nodes");
                if let Some(node) = nodes.and_then(|r| r.cache.get(node)) {
                    bound["node"]["uid"] = node.object.uid().into();
                }
            }
        }
        bound[field] = json!({"name": object.name(), "uid": object.uid()});
        Ok(())
    }
}
