//! SPDY and WebSocket stream protocols of exec, attach and port-forward.
//!
//! Must not know of pods or runtimes: it turns one kind of stream into another.

mod spdy;
mod websocket;

pub use spdy::{Channels, bridge_channels, serve_port_forward};
pub use websocket::{Offer, bridge, protocol};
