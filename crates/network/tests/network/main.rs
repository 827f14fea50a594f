//! The network of a node, in a network namespace that each test makes for itself: nothing of the
//! host's own links and rules is touched. Needs root.

mod api;
mod cni;
mod hosts;
mod kernel;
mod node;
mod pods;
mod services;
