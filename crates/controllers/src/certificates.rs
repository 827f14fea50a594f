//! Requests for certificates: which are approved without a person, which are signed, which are
//! refused for good, and when they are forgotten.
//!
//! Must not hold keys: who does is handed in, and does as it is told.

mod judge;

pub use judge::{Asked, Issuer, Verdict, judge};

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use kinds::resources::{CERTIFICATE_REQUESTS, NODES};
use meta::Object;
use reconcile::{Controller, Input, Key, Plan, View};
use serde_json::json;

/// How long a decided request is kept, and one that nobody decided, seconds.
const KEEP_DECIDED: i64 = 3600;
const KEEP_PENDING: i64 = 86_400;
/// How long certificates last unless less is asked for: a year.
const LONGEST: i64 = 365 * 86_400;

/// What the control loop itself cannot do: read a request, know permissions, use keys.
pub trait Certifier: Send + Sync {
    /// What a request (PEM) asks for; an error when it is none.
    fn read(&self, request: &str) -> Result<Asked, String>;
    /// Whether a user may create `certificatesigningrequests/<kind>`.
    fn may(&self, user: &str, groups: &[String], kind: &str) -> bool;
    /// Whether a name or an address belongs to the API server.
    fn is_reserved(&self, name: &str) -> bool;
    /// Signs a request (PEM): the certificate, PEM.
    fn sign(&self, issuer: Issuer, request: &str, usages: &[String], life: Duration) -> Result<String, String>;
}

/// See the module.
pub struct CertificateController {
    /// Who reads, knows and signs.
    pub certifier: Arc<dyn Certifier>,
}

impl Controller for CertificateController {
    fn name(&self) -> &'static str {
        "certificate-controller"
    }

    fn inputs(&self) -> Vec<Input> {
        let nodes = Input {
            gvr: NODES,
            // A node that reports its addresses may have asked before they were seen here.
            keys: |node, view| {
                let user = format!("system:node:{}", node.name());
                let requests = view.list(&CERTIFICATE_REQUESTS, "");
                let own = requests.iter().filter(|r| {
                    let typed = r.view::<CertificateSigningRequest>().ok();
                    typed.is_some_and(|t| t.spec.username.as_deref() == Some(&user) && is_new(&t))
                });
                own.map(|r| Key::of(r)).collect()
            },
        };
        vec![Input::primary(CERTIFICATE_REQUESTS), nodes]
    }

    fn plan(&self, now: Timestamp, key: &Key, view: &dyn View) -> Plan {
        let mut plan = Plan::nothing();
        let Some(object) = view.get(&CERTIFICATE_REQUESTS, "", &key.name) else {
            return plan;
        };
        let Ok(request) = object.view::<CertificateSigningRequest>() else {
            return plan;
        };
        let left = keep_until(&request, &object, now);
        if left <= 0 {
            plan.delete(&CERTIFICATE_REQUESTS, &object);
            return plan;
        }
        plan.again(Duration::from_secs(u64::try_from(left).unwrap_or(1)));
        let pem = String::from_utf8_lossy(&request.spec.request.0).into_owned();
        let asked = self.certifier.read(&pem);
        let verdict = judge(&request, asked.as_ref(), view, self.certifier.as_ref());
        match verdict {
            Verdict::Wait => {}
            Verdict::Approve(message) => decide(&mut plan, &object, now, "Approved", "AutoApproved", &message),
            Verdict::Deny(reason, message) => decide(&mut plan, &object, now, "Denied", reason, &message),
            Verdict::Fail(message) => fail(&mut plan, &object, now, &message),
            Verdict::Sign(issuer) => {
                let wanted = request.spec.expiration_seconds.map_or(LONGEST, i64::from);
                let life = Duration::from_secs(u64::try_from(wanted.clamp(600, LONGEST)).unwrap_or(600));
                let usages = request.spec.usages.clone().unwrap_or_default();
                match self.certifier.sign(issuer, &pem, &usages, life) {
                    Ok(certificate) => {
                        let text = k8s_openapi::ByteString(certificate.into_bytes());
                        let patch = json!({"status": {"certificate": text}});
                        plan.patch_status(&CERTIFICATE_REQUESTS, &object, patch);
                    }
                    Err(why) => fail(&mut plan, &object, now, &why),
                }
            }
        }
        plan
    }
}

/// Whether nobody has decided yet.
fn is_new(request: &CertificateSigningRequest) -> bool {
    let status = request.status.as_ref();
    status.is_none_or(|s| s.conditions.as_deref().unwrap_or_default().is_empty())
}

fn condition(now: Timestamp, kind: &str, reason: &str, message: &str) -> serde_json::Value {
    let now = meta::time::rfc3339(now);
    json!({"type": kind, "status": "True", "reason": reason, "message": message,
        "lastUpdateTime": now, "lastTransitionTime": now})
}

fn with_condition(object: &Object, condition: serde_json::Value) -> serde_json::Value {
    let mut all = object.to_value()["status"]["conditions"].take();
    match all.as_array_mut() {
        Some(list) => list.push(condition),
        None => all = json!([condition]),
    }
    json!({"status": {"conditions": all}})
}

fn decide(plan: &mut Plan, object: &Object, now: Timestamp, kind: &str, reason: &str, message: &str) {
    let patch = with_condition(object, condition(now, kind, reason, message));
    plan.patch_subresource(&CERTIFICATE_REQUESTS, object, "approval", patch);
}

fn fail(plan: &mut Plan, object: &Object, now: Timestamp, why: &str) {
    let patch = with_condition(object, condition(now, "Failed", "SignerValidationFailure", why));
    plan.patch_status(&CERTIFICATE_REQUESTS, object, patch);
}

/// Seconds until a request is forgotten.
fn keep_until(request: &CertificateSigningRequest, object: &Object, now: Timestamp) -> i64 {
    let created = object.header().creation_timestamp.as_deref();
    let created = created.and_then(meta::time::parse).unwrap_or(now);
    let conditions = request.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let decided = conditions
        .map(|c| c.last_update_time.as_ref().map_or(created, |t| t.0))
        .max();
    let (since, keep) = match decided {
        Some(at) => (at, KEEP_DECIDED),
        None => (created, KEEP_PENDING),
    };
    (SignedDuration::from_secs(keep) - now.duration_since(since)).as_secs()
}

#[cfg(test)]
mod tests;
