//! The binary: wires everything together. The only crate that knows all others.
fn main() {}
