//! The API server: REST, watch, discovery, authentication, authorisation,
//! admission. One engine serves all kinds; what differs between them is said
//! by their schema and strategy.
//!
//! Must not know the store's engine, the host, or any agent.

mod api;

mod admission;
mod auth;
mod cache;
mod config;
mod core;
mod custom;
mod discovery;
mod identity;
mod inprocess;
mod machinery;
mod projection;
mod registry;
mod resource;
mod server;
mod subresources;
mod wire;

pub use crate::core::Core;
pub use admission::{Admission, Attributes, Operation};
pub use api::{ApiServer, OpenError};
pub use cache::codec::{decode as decode_stored, stamp};
pub use config::{Config, TokenSigner};
pub use identity::User;
pub use resource::{Catalog, Resource};
