//! Local volumes: one sparse raw file each, of exactly the volume's size, the
//! same file for pods (by a loop device) and for machines (as it is).
//!
//! ```text
//! <data>/volumes/<uid>/volume.img       the volume
//! <data>/volumes/<uid>/users/<pod uid>  who uses it, and how
//! <data>/volumes/<uid>/mount            its file system, while pods use it
//! ```
//!
//! The disk and the kernel are the truth: mounts, loop devices and these files
//! say who uses what, so an agent that was killed knows it again. Must not
//! decide: that is `volumeplan`. Must not know what runs in pods.

mod provisioner;
mod publish;
mod store;
mod tools;

pub use publish::Publication;
pub use store::{Config, Volumes};

use std::path::PathBuf;

/// What went wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// The path is not one of this node's volumes.
    #[error("{} is not a volume of this node; its data directory may have been moved or removed", path.display())]
    NotOurs {
        /// The path.
        path: PathBuf,
    },
    /// Another use excludes this one.
    #[error(transparent)]
    InUse(#[from] volumeplan::Conflict),
    /// A process that is none of our pods has the volume.
    #[error("volume {volume} is open in {by}; end that first")]
    Busy {
        /// The volume.
        volume: String,
        /// What holds it.
        by: String,
    },
    /// What is in the volume cannot be mounted, and formatting it would destroy it.
    #[error("volume {volume} {why}")]
    Unmountable {
        /// The volume.
        volume: String,
        /// What is wrong, and the remedy.
        why: String,
    },
    /// A program failed.
    #[error("{program}: {message}")]
    Program {
        /// The program.
        program: &'static str,
        /// Its words.
        message: String,
    },
    /// An operation on the host failed.
    #[error("{what}")]
    Io {
        /// Operation and path.
        what: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

fn io(what: impl std::fmt::Display) -> impl FnOnce(std::io::Error) -> VolumeError {
    move |source| VolumeError::Io {
        what: what.to_string(),
        source,
    }
}
