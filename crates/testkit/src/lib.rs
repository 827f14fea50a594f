//! What end-to-end tests share: a server of their own, an unmodified kubectl,
//! and waiting for a condition with a deadline.
//!
//! Must not reach into the product: everything goes through the binary's flags
//! and the Kubernetes API, as a user would.

mod findings;
mod hosts;
mod kubectl;
mod server;

pub use hosts::{Host, Hosts};
pub use kubectl::{Kubectl, Ran};
pub use rustix::process::Signal;
pub use server::{Server, ServerOptions};

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// Asks again and again until the answer is something, or the deadline has passed.
/// The last refusal is in the error, and what the servers of this test have to say is printed.
pub fn until<T>(what: &str, deadline: Duration, mut ask: impl FnMut() -> Result<T, String>) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        match ask() {
            Ok(found) => return Ok(found),
            Err(last) if Instant::now() >= end => {
                findings::print();
                bail!("waited {} s for {what}; last seen: {last}", deadline.as_secs());
            }
            Err(_) => std::thread::sleep(Duration::from_millis(30)),
        }
    }
}
