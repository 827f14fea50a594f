//! Builds, tests and runs Allmend on one machine.
fn main() {}
