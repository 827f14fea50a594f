//! Ranges of costs and sizes; nothing overflows, the end of the range is "no limit".

/// A range of costs or sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    /// At least this.
    pub min: u64,
    /// At most this.
    pub max: u64,
}

pub(crate) type Range = CostEstimate;

pub(crate) const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl CostEstimate {
    pub(crate) const fn exactly(n: u64) -> Self {
        Range { min: n, max: n }
    }

    pub(crate) fn each(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Range {
            min: f(self.min, other.min),
            max: f(self.max, other.max),
        }
    }

    pub(crate) fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// The cost of doing this so many times.
    pub fn times(self, other: Self) -> Self {
        self.each(other, u64::saturating_mul)
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Range {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    pub(crate) fn tenth(self) -> Self {
        let tenth = |n: u64| if n == u64::MAX { n } else { n.div_ceil(10) };
        Range {
            min: tenth(self.min),
            max: tenth(self.max),
        }
    }

    pub(crate) fn quarter(self) -> Self {
        let quarter = |n: u64| if n == u64::MAX { n } else { n.div_ceil(4) };
        Range {
            min: quarter(self.min),
            max: quarter(self.max),
        }
    }
}
