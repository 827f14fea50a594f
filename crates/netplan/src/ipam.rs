//! Which sandbox has which address of the node's range.
//!
//! Must not know what a sandbox is, nor where its own state is kept.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::Cidr;

/// The addresses of a node. The first of the range is the gateway, the network's own address
/// and the broadcast address are never given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ipam {
    range: Cidr,
    given: BTreeMap<String, Ipv4Addr>,
    /// The address given last: the search goes on behind it, so that an address rests as long as
    /// possible before it has a new owner.
    last: Option<Ipv4Addr>,
}

/// What must be kept of an [`Ipam`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Saved {
    /// Form of this value; [`VERSION`].
    pub version: u32,
    /// Address by sandbox.
    pub given: BTreeMap<String, Ipv4Addr>,
    /// The address given last.
    pub last: Option<Ipv4Addr>,
}

/// The form that [`Ipam::save`] writes.
pub const VERSION: u32 = 1;

/// What is wrong with a request or a saved state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IpamError {
    /// No address is free.
    #[error("all pod addresses of {0} are in use")]
    Exhausted(Cidr),
    /// Written by another version.
    #[error("addresses saved in form {found}, this program reads form {VERSION}")]
    Version {
        /// Its form.
        found: u32,
    },
}

impl Ipam {
    /// A range of which nothing is given.
    pub fn new(range: Cidr) -> Self {
        Ipam {
            range,
            given: BTreeMap::new(),
            last: None,
        }
    }

    /// What was saved. Addresses outside the range, or with two owners, are left out: they are
    /// in nobody's use after the range has been changed.
    pub fn restore(range: Cidr, saved: Saved) -> Result<Self, IpamError> {
        if saved.version != VERSION {
            return Err(IpamError::Version { found: saved.version });
        }
        let mut ipam = Ipam::new(range);
        let mut seen = BTreeSet::new();
        ipam.last = saved.last;
        for (sandbox, address) in saved.given {
            if ipam.is_usable(address) && seen.insert(address) {
                ipam.given.insert(sandbox, address);
            }
        }
        Ok(ipam)
    }

    /// What must be kept.
    pub fn save(&self) -> Saved {
        Saved {
            version: VERSION,
            given: self.given.clone(),
            last: self.last,
        }
    }

    /// The gateway of the range.
    pub fn gateway(&self) -> Option<Ipv4Addr> {
        self.range.nth(1)
    }

    /// The sandbox's address; a free one when it has none yet.
    pub fn allocate(&mut self, sandbox: &str) -> Result<Ipv4Addr, IpamError> {
        if let Some(address) = self.given.get(sandbox) {
            return Ok(*address);
        }
        let used: BTreeSet<Ipv4Addr> = self.given.values().copied().collect();
        let size = self.range.size();
        let from = self
            .last
            .and_then(|l| self.range.offset(l))
            .map_or(0, |o| u64::from(o) + 1);
        let address = (0..size)
            .filter_map(|step| self.range.nth((from + step) % size))
            .find(|a| self.is_usable(*a) && !used.contains(a))
            .ok_or(IpamError::Exhausted(self.range))?;
        self.given.insert(sandbox.to_owned(), address);
        self.last = Some(address);
        Ok(address)
    }

    /// Takes the sandbox's address back; returns it when there was one.
    pub fn release(&mut self, sandbox: &str) -> Option<Ipv4Addr> {
        self.given.remove(sandbox)
    }

    /// The sandbox's address.
    pub fn get(&self, sandbox: &str) -> Option<Ipv4Addr> {
        self.given.get(sandbox).copied()
    }

    /// Sandboxes and their addresses.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Ipv4Addr)> {
        self.given.iter().map(|(sandbox, address)| (sandbox.as_str(), *address))
    }

    fn is_usable(&self, address: Ipv4Addr) -> bool {
        let last = self.range.size() - 1;
        self.range.offset(address).is_some_and(|o| o > 1 && u64::from(o) < last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn range(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    #[test]
    fn addresses_rest_before_they_are_given_again() {
        let mut ipam = Ipam::new(range("10.42.0.0/29"));
        let give = |ipam: &mut Ipam, s: &str| ipam.allocate(s).map(|a| a.octets()[3]);
        assert_eq!(give(&mut ipam, "a"), Ok(2));
        assert_eq!(give(&mut ipam, "a"), Ok(2));
        assert_eq!(give(&mut ipam, "b"), Ok(3));
        assert_eq!(ipam.release("b"), Some(Ipv4Addr::new(10, 42, 0, 3)));
        assert_eq!(ipam.release("b"), None);
        for (sandbox, address) in [("c", 4), ("d", 5), ("e", 6), ("f", 3)] {
            assert_eq!(give(&mut ipam, sandbox), Ok(address));
        }
        let error = ipam.allocate("g").unwrap_err();
        assert_eq!(error.to_string(), "all pod addresses of 10.42.0.0/29 are in use");
        assert_eq!(ipam.gateway(), Some(Ipv4Addr::new(10, 42, 0, 1)));
    }

    #[test]
    fn another_form_or_range_is_noticed() {
        let mut ipam = Ipam::new(range("10.42.0.0/24"));
        ipam.allocate("a").unwrap();
        let saved = ipam.save();
        assert_eq!(Ipam::restore(range("10.42.0.0/24"), saved.clone()), Ok(ipam));
        assert_eq!(
            Ipam::restore(range("10.99.0.0/24"), saved.clone())
                .unwrap()
                .iter()
                .count(),
            0
        );
        let newer = Saved { version: 2, ..saved };
        assert_eq!(
            Ipam::restore(range("10.42.0.0/24"), newer),
            Err(IpamError::Version { found: 2 })
        );
    }

    proptest! {
        #[test]
        fn no_two_owners_and_nothing_is_lost_by_saving(steps in prop::collection::vec((0..12u8, any::<bool>()), 0..60)) {
            let mut ipam = Ipam::new(range("10.0.0.0/28"));
            for (sandbox, give) in steps {
                let name = sandbox.to_string();
                if give {
                    let had = ipam.get(&name);
                    if let Ok(address) = ipam.allocate(&name) {
                        prop_assert!(had.is_none_or(|h| h == address));
                        prop_assert!((2..15).contains(&address.octets()[3]));
                    }
                } else {
                    ipam.release(&name);
                }
                let owners: BTreeSet<_> = ipam.iter().map(|(_, a)| a).collect();
                prop_assert_eq!(owners.len(), ipam.iter().count());
                let text = serde_json::to_string(&ipam.save()).unwrap();
                let again = Ipam::restore(range("10.0.0.0/28"), serde_json::from_str(&text).unwrap());
                prop_assert_eq!(again.as_ref(), Ok(&ipam));
            }
        }
    }
}
