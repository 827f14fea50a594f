//! Builds, tests and runs Allmend on one machine: `cargo xtask VERB`.
//!
//! Must not depend on any crate of the product: it prepares the machine on
//! which they are compiled.

mod deps;
mod images;
mod run;
mod test;
mod tidy;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
usage: cargo xtask VERB

  up      build, start a server with a node here, and run the example on it
  down    stop that server; workloads keep running. --purge removes everything
  test    install what the tests need and run all of them, unit to end to end
  tidy    check the floors, the file headers and the rules of the house
  deps    install the Debian packages that building and running need
  build   build the release binary
  images  build the images of tests and example: all, or those named
";

fn main() -> ExitCode {
    match dispatch() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("up") => up::up(),
        Some("down") => up::down(arguments.iter().any(|a| a == "--purge")),
        Some("test") => test::run(),
        Some("tidy") => tidy::run(),
        Some("deps") => deps::install(deps::TEST),
        Some("build") => build(),
        Some("images") => {
            deps::install(deps::TEST)?;
            images::build(&arguments[1..].iter().map(String::as_str).collect::<Vec<_>>())
        }
        _ => bail!("{USAGE}"),
    }
}

/// Builds the release binary.
fn build() -> Result<()> {
    deps::install(deps::BUILD)?;
    run::cargo(&["build", "--release", "--package", "allmend"])
}

/// The root of the checkout.
fn root() -> PathBuf {
    let mut path = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    path.pop();
    path
}

/// A program of the release build.
fn released(name: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    // Relative to where cargo is run, which is the checkout.
    root().join(target).join("release").join(name)
}

/// Where downloads and built images are kept between runs.
fn cache() -> PathBuf {
    if let Some(given) = std::env::var_os("ALLMEND_CACHE") {
        return given.into();
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let base = base.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")));
    base.unwrap_or_else(|| PathBuf::from("/var/cache")).join("allmend")
}
