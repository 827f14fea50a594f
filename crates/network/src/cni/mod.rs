//! CNI (spec 1.0): containerd runs this very program under the name of a plugin; the plugin
//! hands its request to the agent and prints the answer.
//!
//! The plugin must not touch the host itself, but for the loopback link that containerd asks for.

mod plugin;
pub(crate) mod server;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::book::Mapping;

pub use plugin::{Environment, cni_main, run};

/// The names under which the program is a plugin: ours, and the one that containerd wants for
/// the loopback link.
pub const PLUGINS: [&str; 2] = ["allmend-cni", "loopback"];

/// Whether the program is run as a plugin, by the name it is run under.
pub fn is_plugin(program: &OsStr) -> bool {
    Path::new(program)
        .file_name()
        .is_some_and(|name| PLUGINS.iter().any(|p| name == *p))
}

/// What the plugin asks of the agent: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Request {
    pub command: Verb,
    pub container_id: String,
    pub netns: PathBuf,
    #[serde(default)]
    pub port_mappings: Vec<Mapping>,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Verb {
    Add,
    Del,
    Check,
}

/// What the agent answers: one line of JSON.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Answer {
    /// Why it was not done.
    pub error: Option<Failure>,
    /// After ADD.
    pub address: Option<Address>,
}

/// A sandbox's place on the network.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Address {
    pub address: std::net::Ipv4Addr,
    pub gateway: std::net::Ipv4Addr,
    pub host_link: String,
    pub mac: String,
}

/// An error of CNI.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Failure {
    pub code: u32,
    pub msg: String,
}

/// Codes of the specification that are used here.
pub(crate) mod code {
    pub const INCOMPATIBLE_VERSION: u32 = 1;
    pub const UNKNOWN_CONTAINER: u32 = 3;
    pub const INVALID_ENVIRONMENT: u32 = 4;
    pub const IO: u32 = 5;
    pub const DECODE: u32 = 6;
    pub const INVALID_CONFIGURATION: u32 = 7;
    pub const TRY_AGAIN: u32 = 11;
    /// From 100 on they are the plugin's own.
    pub const FAILED: u32 = 100;
}
