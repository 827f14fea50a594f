//! The supervisor alone, for this crate's tests: the product calls the same
//! function from its one binary. Usage: `machine-supervisor machine-supervisor DIR`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let Some(directory) = std::env::args_os().nth(2) else {
        eprintln!("usage: machine-supervisor machine-supervisor DIR");
        return ExitCode::from(2);
    };
    match machines::supervise(directory.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
