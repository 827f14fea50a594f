//! SPDY and WebSocket stream protocols of exec, attach and port-forward.
//!
//! Must not know of pods or runtimes: it turns one kind of stream into another.

mod websocket;

pub use websocket::{Offer, bridge, protocol};
