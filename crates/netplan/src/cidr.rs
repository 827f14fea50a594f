//! Ranges of IPv4 addresses.
//!
//! Must not know what they are for.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

/// A range such as `10.42.0.0/24`. Bits after the prefix are zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    network: Ipv4Addr,
    prefix: u8,
}

/// A text or a pair that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an IPv4 range such as 10.42.0.0/24")]
pub struct NotACidr(String);

impl Cidr {
    /// The range that an address is in; an error when the prefix is longer than 32.
    pub fn new(address: Ipv4Addr, prefix: u8) -> Result<Self, NotACidr> {
        if prefix > 32 {
            return Err(NotACidr(format!("{address}/{prefix}")));
        }
        let network = Ipv4Addr::from_bits(address.to_bits() & mask(prefix));
        Ok(Cidr { network, prefix })
    }

    /// First address.
    pub fn network(&self) -> Ipv4Addr {
        self.network
    }

    /// Number of fixed bits.
    pub fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is in the range.
    pub fn contains(&self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.network.to_bits()
    }

    /// Number of addresses.
    pub fn size(&self) -> u64 {
        1 << (32 - self.prefix)
    }

    /// The address at an offset; `None` when it is outside.
    pub fn nth(&self, offset: u64) -> Option<Ipv4Addr> {
        let offset = u32::try_from(offset).ok().filter(|n| u64::from(*n) < self.size())?;
        Some(Ipv4Addr::from_bits(self.network.to_bits() | offset))
    }

    /// Offset of an address in the range.
    pub fn offset(&self, address: Ipv4Addr) -> Option<u32> {
        self.contains(address).then(|| address.to_bits() & !mask(self.prefix))
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

impl FromStr for Cidr {
    type Err = NotACidr;

    fn from_str(text: &str) -> Result<Self, NotACidr> {
        let wrong = || NotACidr(text.to_owned());
        let (address, prefix) = text.trim().split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (
            address.parse().map_err(|_| wrong())?,
            prefix.parse().map_err(|_| wrong())?,
        );
        Cidr::new(address, prefix).map_err(|_| wrong())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_have_edges() {
        let range: Cidr = "10.42.7.9/24".parse().unwrap();
        assert_eq!(range.to_string(), "10.42.7.0/24");
        assert!(range.contains(Ipv4Addr::new(10, 42, 7, 255)) && !range.contains(Ipv4Addr::new(10, 42, 8, 0)));
        assert_eq!(range.nth(255), Some(Ipv4Addr::new(10, 42, 7, 255)));
        assert_eq!(range.nth(256), None);
        assert_eq!(range.offset(Ipv4Addr::new(10, 42, 7, 3)), Some(3));
        let all: Cidr = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains(Ipv4Addr::BROADCAST) && all.size() == 1 << 32);
        let one: Cidr = "1.2.3.4/32".parse().unwrap();
        assert!(one.size() == 1 && one.contains(Ipv4Addr::new(1, 2, 3, 4)));
        for junk in ["", "1.2.3.4", "1.2.3.4/33", "x/8", "::/0"] {
            assert!(junk.parse::<Cidr>().is_err(), "{junk}");
        }
    }
}
