//! Names on the host that belong to one data directory, so that several servers
//! can live on one machine, and each is taken away without touching another.

use std::path::Path;

use crate::cli::DEFAULT_DATA_DIR;

/// What a data directory's server calls its things.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostNames {
    /// Cgroup below which pods are.
    pub cgroup: String,
    /// Link that holds the gateway's address.
    pub bridge: String,
    /// VXLAN device to other nodes' pods.
    pub overlay: String,
    /// nftables table.
    pub table: String,
}

impl HostNames {
    /// Plain ones for the default directory, others with a number that follows from the path.
    pub fn of(data_dir: &Path) -> Self {
        if data_dir == Path::new(DEFAULT_DATA_DIR) {
            return HostNames {
                cgroup: "allmend".into(),
                bridge: "alm0".into(),
                overlay: "almv0".into(),
                table: "allmend".into(),
            };
        }
        // FNV-1a: the same on every start and in every version.
        let hash = data_dir
            .to_string_lossy()
            .bytes()
            .fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
        HostNames {
            cgroup: format!("allmend-{hash:08x}"),
            bridge: format!("al{:06x}", hash >> 8),
            overlay: format!("av{:06x}", hash >> 8),
            table: format!("allmend-{hash:08x}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_directory_has_names_of_its_own() {
        let (a, b) = (HostNames::of(Path::new("/a")), HostNames::of(Path::new("/b")));
        assert_ne!(a, b);
        assert!(a.bridge.len() <= 9);
        assert_eq!(HostNames::of(Path::new(DEFAULT_DATA_DIR)).bridge, "alm0");
    }
}
