//! The networking.k8s.io and discovery.k8s.io groups.

mod addresses;
mod ingress;
mod ingress_checks;
mod policy;
mod slices;

pub(crate) use slices::{check_special, is_server};

use crate::Declared;

/// API group.
const GROUP: &str = "networking.k8s.io";

/// The kinds of these groups.
pub(crate) fn kinds() -> Vec<Declared> {
    let mut out = vec![slices::kind(), policy::kind()];
    out.extend(ingress::kinds());
    out.extend(addresses::kinds());
    out
}
