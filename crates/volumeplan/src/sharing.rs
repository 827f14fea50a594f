//! Who may use one volume at the same time. Two writers that do not know of each
//! other destroy a file system, so in doubt the answer is no.

/// How a volume is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Mounted into a pod: all pods of the node share one mount.
    Filesystem,
    /// As a block device in a pod: all share one device, and know it.
    Block,
    /// By a virtual machine, which has the file for itself.
    Machine,
}

/// A pod that uses a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    /// UID of the pod.
    pub pod_uid: String,
    /// How.
    pub kind: Use,
}

/// Why a volume cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("volume {volume} is in use by pod {pod_uid} {how}; stop that pod first")]
pub struct Conflict {
    /// The volume.
    pub volume: String,
    /// UID of the pod that has it.
    pub pod_uid: String,
    how: &'static str,
}

/// Whether `new` may use the volume beside those who do. `single` is for ReadWriteOncePod.
pub fn admit(volume: &str, present: &[User], new: &User, single: bool) -> Result<(), Conflict> {
    let others = present
        .iter()
        .filter(|u| u.pod_uid != new.pod_uid || u.kind != new.kind);
    for other in others {
        let together = other.kind == new.kind && new.kind != Use::Machine && !single;
        if !together {
            return Err(Conflict {
                volume: volume.to_owned(),
                pod_uid: other.pod_uid.clone(),
                how: match other.kind {
                    Use::Filesystem => "as a file system",
                    Use::Block => "as a block device",
                    Use::Machine => "as the disk of a virtual machine",
                },
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_pods_share_and_only_in_the_same_way() {
        use Use::{Block, Filesystem, Machine};
        for (present, new, single, admitted) in [
            (Filesystem, Filesystem, false, true),
            (Block, Block, false, true),
            (Filesystem, Filesystem, true, false),
            (Filesystem, Machine, false, false),
            (Machine, Filesystem, false, false),
            (Machine, Machine, false, false),
            (Block, Machine, false, false),
            (Filesystem, Block, false, false),
        ] {
            let user = |pod: &str, kind| User {
                pod_uid: pod.into(),
                kind,
            };
            let result = admit("v", &[user("a", present)], &user("b", new), single);
            assert_eq!(result.is_ok(), admitted, "{present:?} {new:?} {single}");
            // The same user again is no conflict.
            admit("v", &[user("a", present)], &user("a", present), single).unwrap();
        }
    }
}
