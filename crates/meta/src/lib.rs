//! Values that every object shares: group/version/kind, the encoded object and
//! its header, `Status`, field errors, selectors, quantities, names, times.
//!
//! Must not do I/O, spawn, read a clock, or panic on any input.

mod gvk;
mod object;
mod status;

pub mod field;
pub mod names;
pub mod quantity;
pub mod selector;
pub mod time;

pub use gvk::{Gvk, Gvr, version_order};
pub use object::{DecodeError, Header, Object, OwnerReference};
pub use quantity::Quantity;
pub use selector::{FieldSelector, LabelSelector};
pub use status::{Cause, Reason, Status};
