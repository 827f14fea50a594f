//! The binary: reads flags, wires everything together, handles signals.
//!
//! The only crate that knows all others; must not hold any logic of theirs.

mod adapters;
mod agent;
mod certifier;
mod cli;
mod cluster;
mod config_file;
mod control;
mod credentials;
mod datastore;
mod enrol;
mod image;
mod leader;
mod logging;
mod names;
mod node;
mod preflight;
mod purge;
mod server;
mod signing;
mod subnet;

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // containerd calls this program under other names, to put pods on the network.
    if std::env::args_os()
        .next()
        .is_some_and(|name| network::cni::is_plugin(&name))
    {
        return ExitCode::from(u8::try_from(network::cni_main()).unwrap_or(1));
    }
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes in order: what failed first, why last.
            eprintln!("allmend: {error:#}");
            ExitCode::FAILURE
        }
    }
}
