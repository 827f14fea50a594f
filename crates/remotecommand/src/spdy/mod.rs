//! SPDY/3.1 as far as it is used: the server's side for port-forward, the client's for exec and
//! attach. Must not know what the streams lead to.

mod channels;
mod frame;
mod headers;
mod port_forward;

pub use channels::{Channels, bridge_channels};
pub use port_forward::serve_port_forward;
