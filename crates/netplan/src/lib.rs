//! Services, masquerading and pod addresses of a node, computed as values.
//!
//! Must not touch a socket, a file or a clock: `network` and `host` carry out what this says.

mod cidr;
mod diff;
pub mod ipam;
pub mod overlay;
mod ruleset;
mod service;
mod services;
mod stale;

pub use cidr::Cidr;
pub use diff::{Command, diff, replace};
pub use ruleset::{Chain, Ruleset, Set};
pub use service::{Endpoint, Protocol, Service, ServicePort, from_api};
pub use services::{HostPort, Node, rules};
pub use stale::Frontends;
