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

    /// Whether two ranges have an address in common: then one of them is inside the other.
    pub fn overlaps(&self, other: &Cidr) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }

    /// Whether another range is inside this one.
    pub fn encloses(&self, other: &Cidr) -> bool {
        self.prefix <= other.prefix && self.contains(other.network)
    }

    /// The ranges of a prefix that this one consists of; none when the prefix is shorter, or no
    /// prefix at all.
    pub fn subnets(self, prefix: u8) -> impl Iterator<Item = Cidr> {
        let bits = prefix.checked_sub(self.prefix).filter(|_| prefix <= 32);
        let count = bits.map_or(0, |bits| 1_u64 << bits);
        let size = 1_u64.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        (0..count).filter_map(move |n| Cidr::new(self.nth(n * size)?, prefix).ok())
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

    #[test]
    fn ranges_consist_of_ranges() {
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        let texts = |cidr: &str, prefix| range(cidr).subnets(prefix).map(|c| c.to_string()).collect::<Vec<_>>();
        assert_eq!(texts("10.0.0.0/23", 24), ["10.0.0.0/24", "10.0.1.0/24"]);
        assert_eq!(texts("10.0.0.0/24", 24), ["10.0.0.0/24"]);
        assert_eq!(texts("0.0.0.0/0", 1), ["0.0.0.0/1", "128.0.0.0/1"]);
        assert!(texts("10.0.0.0/25", 24).is_empty() && texts("10.0.0.0/25", 33).is_empty());
        assert_eq!(range("0.0.0.0/0").subnets(32).take(3).count(), 3);
    }

    #[test]
    fn ranges_overlap_when_one_is_inside_the_other() {
        let range = |text: &str| text.parse::<Cidr>().unwrap();
        let (big, small, other) = (range("10.0.0.0/16"), range("10.0.3.0/24"), range("10.1.0.0/24"));
        assert!(big.overlaps(&small) && small.overlaps(&big) && small.overlaps(&small));
        assert!(!big.overlaps(&other) && !other.overlaps(&big));
        assert!(big.encloses(&small) && big.encloses(&big) && !small.encloses(&big) && !big.encloses(&other));
    }
}
