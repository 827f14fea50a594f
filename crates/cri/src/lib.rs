//! Containers through the Container Runtime Interface (CRI v1), and the
//! containerd instance that Allmend runs for itself.
//!
//! Must not decide anything about pods: it does what the node agent says and
//! tells what the runtime has.

mod channel;
mod config;
mod convert;
mod events;
mod archive;
mod image;
mod runtime;
mod supervisor;

pub use archive::{Archive, pause_archive};
pub use config::ContainerdConfig;
pub use runtime::CriRuntime;
pub use supervisor::{Containerd, SupervisorError};

/// containerd's namespace of everything that was made through CRI.
const NAMESPACE: &str = "k8s.io";
