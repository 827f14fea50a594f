//! Identity and permission: authenticators, RBAC, the node authoriser, reviews.
//! Must not know HTTP beyond header values.

mod access;
mod authn;
mod bootstrap;
mod node;
mod policy;
mod rbac;
mod reviews;
mod tokens;

pub use access::Access;
pub(crate) use authn::StaticTokens;
pub use rbac::Rbac;
pub(crate) use rbac::{not_covered, rules_of_role};
