//! The server's side of SPDY/3.1 as far as port-forward uses it.
//! Must not know what the ports lead to.

mod frame;
mod headers;
mod port_forward;

pub use port_forward::serve_port_forward;
