//! The binary: reads flags, wires everything together, handles signals.
//!
//! The only crate that knows all others; must not hold any logic of theirs.

mod cli;
mod config_file;
mod control;
mod credentials;
mod logging;
mod preflight;
mod purge;
mod server;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes in order: what failed first, why last.
            eprintln!("allmend: {error:#}");
            ExitCode::FAILURE
        }
    }
}
