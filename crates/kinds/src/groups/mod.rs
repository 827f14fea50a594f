//! Groups of one or two small kinds each.

mod certificates;
mod disruption;
mod leases;
mod priorities;
mod runtimes;

use crate::Declared;

/// The kinds of these groups.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![
        leases::kind(),
        priorities::kind(),
        disruption::kind(),
        runtimes::kind(),
        certificates::kind(),
    ]
}
