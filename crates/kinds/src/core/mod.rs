//! The core group.

mod accounts;
mod components;
mod config;
mod endpoints;
pub(crate) mod events;
mod limits;
mod namespace;
mod node;
mod pod;
mod service;
mod service_checks;
mod storage;
mod storage_checks;
mod workloads;

pub(crate) use storage_checks::check_claim_spec;

use crate::Declared;

/// Kinds of the core group.
pub(crate) fn kinds() -> Vec<Declared> {
    let mut out = vec![
        pod::kind(),
        service::kind(),
        namespace::kind(),
        node::kind(),
        config::config_map(),
        config::secret(),
        storage::claim(),
        storage::volume(),
    ];
    out.extend(accounts::kinds());
    out.push(endpoints::kind());
    out.extend(limits::kinds());
    out.extend(workloads::kinds());
    out.push(events::kind());
    out.extend(components::kinds());
    out
}

/// An ordinary kind of the core group, to be amended with `..`.
pub(crate) const fn core_kind(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> crate::plain::Names {
    crate::plain::Names {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
    }
}
