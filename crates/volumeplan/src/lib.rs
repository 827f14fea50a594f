//! Decisions about volumes of this node: which claims get one, which volumes
//! go, which grow, and who may use one together with whom.
//!
//! Must not do I/O: objects and figures come in, decisions go out.

mod provision;
mod sharing;

pub use provision::{
    Mode, PROVISIONER, Provision, SELECTED_NODE, Volume, default_class, grow, is_ours, persistent_volume, provision,
    reclaim,
};
pub use sharing::{Conflict, Use, User, admit};
