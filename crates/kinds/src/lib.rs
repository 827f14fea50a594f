//! The registry of built-in kinds: one file per kind. A kind is a schema plus
//! a strategy; discovery, OpenAPI, tables, storage and RBAC names are read off
//! the registry, so that adding a kind is one file and one line.
//!
//! Must not do I/O or read a clock; must not panic on any object.

mod kind;

pub use kind::{Cell, Column, Context, Kind, ScalePaths, Scope, Strategy, Subresource};
