//! Runs control loops: queues keys as their inputs change, asks each
//! [`reconcile::Controller`] for its plan, and carries the plan out.
//!
//! Must not decide what to do: that is the plan. Never plans a key twice at the
//! same time, never plans on a cache that is older than its own last write, and
//! pauses longer and longer after failures.

mod act;
mod event;
mod garbage;
mod kinds;
mod queue;
mod run;
mod scheduling;

pub use event::Recorder;
pub use kinds::of_all_kinds;
pub use run::{Driver, run};
pub use scheduling::schedule;
