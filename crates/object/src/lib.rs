//! The object machinery: everything the API does to objects of any kind,
//! driven by a structural schema.
//!
//! Must not know any kind, do I/O, read a clock, or panic on any input.

pub mod apply;
pub mod decode;
pub mod fieldset;
pub mod openapi;
pub mod patch;
pub mod schema;
pub mod shape;
