//! The storage.k8s.io group.

mod capacity;
mod classes;
mod csi;
mod nodes;

use meta::field::{ErrorList, Path};
use meta::names;

use crate::Declared;

/// API group.
const GROUP: &str = "storage.k8s.io";

/// The kinds of this group.
pub(crate) fn kinds() -> Vec<Declared> {
    let mut out = classes::kinds();
    out.extend(csi::kinds());
    out.extend(nodes::kinds());
    out.push(capacity::kind());
    out
}

/// Checks the name of a CSI driver.
fn check_driver(name: &str, at: &Path, errors: &mut ErrorList) {
    const LONGEST: usize = 63;
    if name.is_empty() {
        return errors.required(at, "");
    }
    if name.len() > LONGEST {
        errors.too_long(at, LONGEST);
    }
    for problem in names::dns1123_subdomain(&name.to_lowercase()) {
        errors.invalid(at, meta::field::quoted(name), problem);
    }
}
