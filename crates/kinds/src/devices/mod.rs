//! The resource.k8s.io group: devices that pods claim.

mod claims;
mod configuration;
mod requests;
mod slices;

use crate::Declared;

/// API group.
const GROUP: &str = "resource.k8s.io";

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    let mut out = claims::kinds();
    out.push(slices::kind());
    out
}
