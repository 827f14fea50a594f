//! The node agent: the life of pods, from what the API wants to what the
//! runtimes have, and the node's own HTTPS server.
//!
//! Must not import the other agents: they are handed in as the ports of crate `runtime`.

mod config;
mod env;
mod facts;
mod life;
mod lookup;
mod plan;
mod pods;
mod probe;
mod sandbox;
mod server;
mod stats;

pub use config::{Config, NodeError, Ports};
pub use life::Node;
pub use lookup::{Found, Places, PodLookup};
pub use probe::{Kind as ProbeKind, Outcome as ProbeOutcome, Target as ProbeTarget, Watching, watch};
pub use server::{MachineControl, Server};
