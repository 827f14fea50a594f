//! The server as its clients see it: over HTTPS, and in process.

#[path = "api/custom.rs"]
mod custom;
#[path = "api/fixture.rs"]
mod fixture;
#[path = "api/hostile.rs"]
mod hostile;
#[path = "api/identity.rs"]
mod identity;
#[path = "api/semantics.rs"]
mod semantics;
#[path = "api/streams.rs"]
mod streams;
#[path = "api/watches.rs"]
mod watches;
#[path = "api/wire.rs"]
mod wire;
