//! Removes all that the network of a data directory left on the host.
//!
//! Must not run beside an agent of the same directory.

use std::fs;
use std::io;
use std::path::Path;

use host::link::Links;
use host::{netns, nft};

use crate::plumb::Plumber;
use crate::{Config, NetworkError};

/// Removes links, rules, network namespaces below the data directory, and CNI files. What is
/// not there is no error. The data directory's other files stay.
pub fn purge(config: &Config) -> Result<(), NetworkError> {
    let node = config.node()?;
    nft::delete_table("ip", &config.table).map_err(|source| NetworkError::Rules {
        table: config.table.clone(),
        source,
    })?;
    let plumber = Plumber::new(&config.bridge, config.mtu, &node);
    remove_links(config, &plumber).map_err(NetworkError::host("remove the links"))?;
    remove_namespaces(&config.data_dir).map_err(NetworkError::host("remove the network namespaces"))?;
    let files = [config.socket(), config.conflist(), config.state()];
    let plugins = crate::cni::PLUGINS.map(|name| config.plugins().join(name));
    for file in files.iter().chain(&plugins) {
        remove_file(file).map_err(NetworkError::host("remove the network's files"))?;
    }
    Ok(())
}

fn remove_links(config: &Config, plumber: &Plumber) -> io::Result<()> {
    let mut links = Links::open()?;
    for link in plumber.host_links()? {
        links.delete(&link)?;
    }
    links.delete(&config.overlay)?;
    links.delete(&config.bridge)
}

fn remove_namespaces(data_dir: &Path) -> io::Result<()> {
    // The kernel names mounts by their real path.
    let below = match fs::canonicalize(data_dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    netns::mounted_below(&below)?
        .iter()
        .try_for_each(|path| netns::remove(path))
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
