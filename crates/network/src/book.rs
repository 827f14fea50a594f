//! Which sandboxes are on the network, kept in a file that is written before anyone is answered.
//!
//! Must not touch links or rules.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use netplan::ipam::{Ipam, Saved};
use netplan::{Cidr, HostPort, Protocol};
use runtime::PortMapping;
use serde::{Deserialize, Serialize};

use crate::NetworkError;

/// Form of the file.
const VERSION: u32 = 1;

/// The sandboxes of this node.
pub(crate) struct Book {
    path: PathBuf,
    ipam: Ipam,
    pods: BTreeMap<String, Pod>,
}

/// A sandbox on the network.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Pod {
    /// Its network namespace.
    pub netns: PathBuf,
    /// Its host ports.
    pub host_ports: Vec<Mapping>,
}

/// A host port, in the words of CNI's capability `portMappings`; containerd begins them in
/// upper case, which plugins in Go do not notice.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Mapping {
    #[serde(alias = "HostPort")]
    pub host_port: u16,
    #[serde(alias = "ContainerPort")]
    pub container_port: u16,
    #[serde(alias = "Protocol", skip_serializing_if = "String::is_empty")]
    pub protocol: String,
    #[serde(rename = "hostIP", alias = "HostIP", skip_serializing_if = "String::is_empty")]
    pub host_ip: String,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    version: u32,
    addresses: Saved,
    pods: BTreeMap<String, Pod>,
}

impl Book {
    /// The book as it was last written; an empty one when there is none. One that cannot be read
    /// is put aside: the links that are there tell nothing of sandboxes, so nobody could repair it.
    pub(crate) fn open(path: PathBuf, range: Cidr) -> Result<Self, NetworkError> {
        let file = match read(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let aside = path.with_extension("json.unreadable");
                tracing::warn!(%error, path = %path.display(), aside = %aside.display(), "starting without known sandboxes");
                fs::rename(&path, &aside).map_err(NetworkError::host("put the unreadable state aside"))?;
                None
            }
            Err(error) => return Err(NetworkError::host("read the network's state")(error)),
        };
        let Some(file) = file else {
            let (ipam, pods) = (Ipam::new(range), BTreeMap::new());
            return Ok(Book { path, ipam, pods });
        };
        let ipam = Ipam::restore(range, file.addresses).map_err(|e| NetworkError::Config(e.to_string()))?;
        let mut pods = file.pods;
        pods.retain(|sandbox, _| ipam.get(sandbox).is_some());
        Ok(Book { path, ipam, pods })
    }

    /// Gives a sandbox an address, or the one it has. True when it is a new one.
    pub(crate) fn add(&mut self, sandbox: &str, pod: Pod) -> Result<(Ipv4Addr, bool), NetworkError> {
        let is_new = self.ipam.get(sandbox).is_none();
        let address = self.ipam.allocate(sandbox)?;
        if self.pods.insert(sandbox.to_owned(), pod.clone()) != Some(pod)
            && let Err(error) = self.save()
        {
            if is_new {
                self.forget(sandbox);
            }
            return Err(error);
        }
        Ok((address, is_new))
    }

    /// Takes a sandbox's address back.
    pub(crate) fn remove(&mut self, sandbox: &str) -> Result<(), NetworkError> {
        if self.ipam.get(sandbox).is_none() {
            return Ok(());
        }
        self.forget(sandbox);
        self.save()
    }

    /// A sandbox and its address.
    pub(crate) fn get(&self, sandbox: &str) -> Option<(Ipv4Addr, &Pod)> {
        Some((self.ipam.get(sandbox)?, self.pods.get(sandbox)?))
    }

    /// All sandboxes with their addresses.
    pub(crate) fn all(&self) -> Vec<(String, Ipv4Addr, Pod)> {
        let pod = |sandbox: &str| self.pods.get(sandbox).cloned().unwrap_or_default();
        self.ipam
            .iter()
            .map(|(s, address)| (s.to_owned(), address, pod(s)))
            .collect()
    }

    /// All host ports.
    pub(crate) fn host_ports(&self) -> Vec<HostPort> {
        let ports = self
            .ipam
            .iter()
            .filter_map(|(sandbox, address)| Some((address, self.pods.get(sandbox)?)));
        ports
            .flat_map(|(address, pod)| pod.host_ports.iter().filter_map(move |m| m.at(address)))
            .collect()
    }

    fn forget(&mut self, sandbox: &str) {
        self.ipam.release(sandbox);
        self.pods.remove(sandbox);
    }

    fn save(&self) -> Result<(), NetworkError> {
        let file = File {
            version: VERSION,
            addresses: self.ipam.save(),
            pods: self.pods.clone(),
        };
        let failed = NetworkError::host("write the network's state");
        let bytes = match serde_json::to_vec(&file) {
            Ok(bytes) => bytes,
            Err(error) => return Err(failed(error.into())),
        };
        write_atomically(&self.path, &bytes).map_err(failed)
    }
}

impl Mapping {
    /// `None` when nothing is to be mapped.
    fn at(&self, pod: Ipv4Addr) -> Option<HostPort> {
        let host_ip = self.host_ip.parse().ok().filter(|ip: &Ipv4Addr| !ip.is_unspecified());
        // An address of IPv6 has no place in the table.
        let other_family = host_ip.is_none()
            && self
                .host_ip
                .parse::<std::net::Ipv6Addr>()
                .is_ok_and(|ip| !ip.is_unspecified());
        if self.host_port == 0 || self.container_port == 0 || other_family {
            return None;
        }
        Some(HostPort {
            protocol: Protocol::parse(&self.protocol)?,
            host_ip,
            host_port: self.host_port,
            pod,
            pod_port: self.container_port,
        })
    }
}

impl From<&PortMapping> for Mapping {
    fn from(port: &PortMapping) -> Self {
        Mapping {
            host_port: port.host_port,
            container_port: port.container_port,
            protocol: port.protocol.clone(),
            host_ip: port.host_ip.clone(),
        }
    }
}

fn read(path: &Path) -> io::Result<Option<File>> {
    let bytes = match fs::read(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let invalid = |message: String| io::Error::new(io::ErrorKind::InvalidData, message);
    let file: File = serde_json::from_slice(&bytes).map_err(|e| invalid(e.to_string()))?;
    if file.version != VERSION {
        return Err(invalid(format!(
            "form {}, this program reads form {VERSION}",
            file.version
        )));
    }
    Ok(Some(file))
}

/// Writes a file so that readers see the old one or the new one. Not synced: what it describes
/// does not survive the machine either.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    fs::write(&fresh, bytes)?;
    fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sandboxes_survive_and_junk_is_put_aside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent/network.json");
        let range: Cidr = "10.42.0.0/24".parse().unwrap();
        let mut book = Book::open(path.clone(), range).unwrap();
        let pod = Pod {
            netns: "/n/a".into(),
            host_ports: vec![Mapping {
                host_port: 80,
                container_port: 8080,
                ..Mapping::default()
            }],
        };
        let (address, is_new) = book.add("a", pod.clone()).unwrap();
        assert!(is_new);
        let mut book = Book::open(path.clone(), range).unwrap();
        assert_eq!(book.add("a", pod.clone()).unwrap(), (address, false));
        assert_eq!(book.host_ports()[0].pod, address);
        book.remove("a").unwrap();
        book.remove("a").unwrap();
        assert!(Book::open(path.clone(), range).unwrap().all().is_empty());
        for junk in ["", "{\"version\": 7}"] {
            fs::write(&path, junk).unwrap();
            assert!(Book::open(path.clone(), range).unwrap().all().is_empty());
            assert!(!path.exists());
        }
    }

    #[test]
    fn only_what_can_be_mapped_is() {
        let mapping = |host_ip: &str, protocol: &str| Mapping {
            host_port: 80,
            container_port: 8080,
            protocol: protocol.into(),
            host_ip: host_ip.into(),
        };
        let at = |m: Mapping| m.at(Ipv4Addr::new(10, 42, 0, 2));
        assert_eq!(at(mapping("0.0.0.0", "udp")).unwrap().host_ip, None);
        assert_eq!(at(mapping("::", "TCP")).unwrap().host_ip, None);
        assert!(at(mapping("127.0.0.1", "")).unwrap().host_ip.is_some());
        assert!(at(mapping("fd00::1", "TCP")).is_none() && at(mapping("", "ICMP")).is_none());
    }
}
