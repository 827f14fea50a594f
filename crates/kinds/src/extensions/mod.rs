//! Extensions of the API: APIService, and what CustomResourceDefinitions must hold to.

mod definition;
mod properties;
mod services;
mod structural;
#[cfg(test)]
mod tests;

pub(crate) use definition::{check_create, check_status, check_update};
pub use properties::check_schema;

use crate::Declared;

/// The kinds of these groups.
pub(crate) fn kinds() -> Vec<Declared> {
    vec![services::kind()]
}
