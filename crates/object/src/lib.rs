//! The object machinery: everything the API does to objects of any kind,
//! driven by a structural schema.
//!
//! Must not know any kind, do I/O, read a clock, or panic on any input.

pub mod rules;
pub mod schema;

pub mod decode;
pub mod openapi;
pub mod shape;

pub mod patch;

pub mod apply;
pub mod fieldset;

pub mod jsonpath;
pub mod table;

mod trail;
