//! The admissionregistration.k8s.io group: webhooks and policies that judge requests.

mod client;
mod policies;
mod policy_checks;
mod rules;
mod webhooks;

pub(crate) use client::{check_service, check_url};

use crate::Declared;

/// API group.
const GROUP: &str = "admissionregistration.k8s.io";

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    let mut out = webhooks::kinds();
    out.extend(policies::kinds());
    out
}
