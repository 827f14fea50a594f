//! `Status`: the error of every API call, with the codes and reasons that
//! clients match on (apimachinery `metav1.Status`).
//!
//! Must not be made from anything secret: its message reaches clients.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::field::ErrorList;

/// The machine-readable reason of a failed call (`metav1.StatusReason`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the API's own and say it all")]
pub enum Reason {
    Unauthorized,
    Forbidden,
    NotFound,
    AlreadyExists,
    Conflict,
    Gone,
    Invalid,
    ServerTimeout,
    StoreReadError,
    Timeout,
    TooManyRequests,
    BadRequest,
    MethodNotAllowed,
    NotAcceptable,
    RequestEntityTooLarge,
    UnsupportedMediaType,
    InternalError,
    Expired,
    ServiceUnavailable,
    #[serde(untagged)]
    Other(String),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Other(s) => f.write_str(s),
            known => write!(f, "{known:?}"),
        }
    }
}

/// One cause inside `details.causes`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cause {
    /// Such as `FieldValueInvalid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Path of the field, such as `spec.replicas`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub field: String,
}

/// A failed call: what clients see, and the error type of everything that speaks to the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// HTTP status code.
    pub code: u16,
    /// Machine-readable reason.
    pub reason: Reason,
    /// For people: names the object, the field and the remedy.
    pub message: String,
    /// `details.name`.
    pub name: String,
    /// `details.group`.
    pub group: String,
    /// `details.kind`: the resource or kind that the call was about.
    pub kind: String,
    /// `details.uid`.
    pub uid: String,
    /// `details.causes`.
    pub causes: Vec<Cause>,
    /// `details.retryAfterSeconds`; 0 when absent.
    pub retry_after_seconds: u32,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

impl Status {
    /// A status without details.
    pub fn new(code: u16, reason: Reason, message: impl Into<String>) -> Self {
        Status {
            code,
            reason,
            message: message.into(),
            name: String::new(),
            group: String::new(),
            kind: String::new(),
            uid: String::new(),
            causes: Vec::new(),
            retry_after_seconds: 0,
        }
    }

    /// Adds `details.group`, `details.kind` (a resource or kind) and `details.name`.
    pub fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.group = group.to_owned();
        self.kind = kind.to_owned();
        self.name = name.to_owned();
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let gr = group_resource(group, resource);
        Self::new(404, Reason::NotFound, format!("{gr} \"{name}\" not found")).about(group, resource, name)
    }

    /// 404 for a path that no handler serves.
    pub fn no_such_path() -> Self {
        Self::new(
            404,
            Reason::NotFound,
            "the server could not find the requested resource",
        )
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let gr = group_resource(group, resource);
        Self::new(409, Reason::AlreadyExists, format!("{gr} \"{name}\" already exists")).about(group, resource, name)
    }

    /// 409: a precondition or an optimistic write failed.
    pub fn conflict(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let gr = group_resource(group, resource);
        let message = format!("Operation cannot be fulfilled on {gr} \"{name}\": {why}");
        Self::new(409, Reason::Conflict, message).about(group, resource, name)
    }

    /// The conflict of a stale resourceVersion.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 403: `pods "x" is forbidden: ...`.
    pub fn forbidden(group: &str, resource: &str, name: &str, why: impl fmt::Display) -> Self {
        let gr = group_resource(group, resource);
        let message = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{gr} is forbidden: {why}"),
            (false, false) => format!("{gr} \"{name}\" is forbidden: {why}"),
        };
        Self::new(403, Reason::Forbidden, message).about(group, resource, name)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, Reason::Unauthorized, "Unauthorized")
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, Reason::BadRequest, message)
    }

    /// 422: `Pod "x" is invalid: ...` with a cause for each field error.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &ErrorList) -> Self {
        let gk = group_kind(group, kind);
        let message = format!("{gk} \"{name}\" is invalid: {errors}");
        let mut status = Self::new(422, Reason::Invalid, message).about(group, kind, name);
        status.causes = errors.causes();
        status
    }

    /// 405.
    pub fn method_not_allowed(group: &str, resource: &str, verb: &str) -> Self {
        let gr = group_resource(group, resource);
        let message = format!("{verb} is not supported on resources of kind \"{gr}\"");
        Self::new(405, Reason::MethodNotAllowed, message).about(group, resource, "")
    }

    /// 410 with reason `Expired`: a resourceVersion or continue token too old.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, Reason::Expired, message)
    }

    /// 500.
    pub fn internal(why: impl fmt::Display) -> Self {
        let mut status = Self::new(500, Reason::InternalError, format!("Internal error occurred: {why}"));
        status.causes = vec![Cause {
            message: why.to_string(),
            ..Cause::default()
        }];
        status
    }

    /// 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, Reason::ServiceUnavailable, message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(504, Reason::Timeout, message)
    }

    /// 429 with `Retry-After`.
    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut status = Self::new(429, Reason::TooManyRequests, message);
        status.retry_after_seconds = retry_after_seconds;
        status
    }

    /// Whether the object was not there.
    pub fn is_not_found(&self) -> bool {
        self.reason == Reason::NotFound
    }

    /// Whether an optimistic write lost a race.
    pub fn is_conflict(&self) -> bool {
        self.reason == Reason::Conflict
    }

    /// Whether the object was there already.
    pub fn is_already_exists(&self) -> bool {
        self.reason == Reason::AlreadyExists
    }

    /// Whether a list or watch must start anew (410).
    pub fn is_expired(&self) -> bool {
        self.code == 410
    }

    /// The wire form.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(&WireStatus::from(self)).unwrap_or_default()
    }

    /// From the wire form; `None` when the bytes are not a `Status`.
    pub fn from_json(raw: &[u8]) -> Option<Self> {
        let wire: WireStatus = serde_json::from_slice(raw).ok()?;
        if wire.kind != "Status" {
            return None;
        }
        let details = wire.details.unwrap_or_default();
        Some(Status {
            code: wire.code,
            reason: wire.reason.unwrap_or(Reason::Other(String::new())),
            message: wire.message,
            name: details.name,
            group: details.group,
            kind: details.kind,
            uid: details.uid,
            causes: details.causes,
            retry_after_seconds: details.retry_after_seconds,
        })
    }
}

fn group_resource(group: &str, resource: &str) -> String {
    if group.is_empty() {
        resource.to_owned()
    } else {
        format!("{resource}.{group}")
    }
}

fn group_kind(group: &str, kind: &str) -> String {
    group_resource(group, kind)
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct WireStatus {
    kind: String,
    #[serde(rename = "apiVersion", default)]
    api_version: String,
    #[serde(default)]
    metadata: serde_json::Map<String, serde_json::Value>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    #[serde(skip_serializing_if = "Option::is_none")]
    details: Option<WireDetails>,
    #[serde(default)]
    code: u16,
}

#[derive(Serialize, Deserialize, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
struct WireDetails {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    kind: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
    #[serde(skip_serializing_if = "is_zero")]
    retry_after_seconds: u32,
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl From<&Status> for WireStatus {
    fn from(s: &Status) -> Self {
        let details = WireDetails {
            name: s.name.clone(),
            group: s.group.clone(),
            kind: s.kind.clone(),
            uid: s.uid.clone(),
            causes: s.causes.clone(),
            retry_after_seconds: s.retry_after_seconds,
        };
        WireStatus {
            kind: "Status".into(),
            api_version: "v1".into(),
            metadata: serde_json::Map::new(),
            status: "Failure".into(),
            message: s.message.clone(),
            reason: Some(s.reason.clone()),
            details: (details != WireDetails::default()).then_some(details),
            code: s.code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wire_form_round_trips() {
        let status = Status::not_found("apps", "deployments", "web");
        assert_eq!(status.message, "deployments.apps \"web\" not found");
        assert_eq!(Status::from_json(&status.to_json()), Some(status));
        let odd = Status::new(418, Reason::Other("Teapot".into()), "short and stout");
        assert_eq!(Status::from_json(&odd.to_json()), Some(odd));
    }

    #[test]
    fn other_kinds_are_not_a_status() {
        assert_eq!(Status::from_json(br#"{"kind":"Pod"}"#), None);
        assert_eq!(Status::from_json(b"junk"), None);
    }
}
