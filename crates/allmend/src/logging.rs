//! The log on standard error. Must not carry secrets: those who log see to it.

use anyhow::{Result, anyhow};
use tracing_subscriber::EnvFilter;

use crate::cli::LogFormat;

/// Starts logging; `ALLMEND_LOG` (as `RUST_LOG` elsewhere) overrides the level.
pub fn start(format: LogFormat, verbose: u8) -> Result<()> {
    let level = match verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    };
    // Other people's libraries are quieter by a step.
    let default = format!("{level},h2=warn,hyper=warn,hyper_util=warn,rustls=warn,tonic=warn,tower=warn,netlink=warn");
    let filter = std::env::var("ALLMEND_LOG")
        .ok()
        .map_or_else(|| EnvFilter::try_new(&default), EnvFilter::try_new)
        .map_err(|e| anyhow!("ALLMEND_LOG is not a log filter: {e}"))?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => builder.json().try_init(),
        LogFormat::Pretty => builder
            .with_target(true)
            .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
            .try_init(),
    };
    started.map_err(|e| anyhow!("start logging: {e}"))
}
