//! The node's HTTPS server: logs, streams into containers and machines, and numbers.
//! Must not change pods.

#[cfg(test)]
pub(crate) mod fake;
