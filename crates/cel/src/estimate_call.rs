//! The estimate of one call, without its arguments: upstream's formulas on ranges of sizes.

use crate::cost;
use crate::decls::{Cost, Function};
use crate::range::{Range, UNKNOWN};
use crate::types::Type;

/// What is known of a call.
pub(crate) struct Call<'c> {
    pub function: &'static Function,
    /// Of the arguments, the target first.
    pub types: Vec<&'c Type>,
    pub sizes: Vec<Range>,
    /// Those that are constant ints.
    pub constants: Vec<Option<i64>>,
    /// The size of an element of the first argument.
    pub element: Range,
}

/// A cost, and the size of the result where that is known.
type Estimate = (Range, Option<Range>);

const ONE: Range = Range::exactly(1);
const NEW_LIST: Range = Range::exactly(1 + cost::LIST);

impl Call<'_> {
    fn size(&self, index: usize) -> Range {
        self.sizes.get(index).copied().unwrap_or(UNKNOWN)
    }

    fn ty(&self, index: usize) -> &Type {
        self.types.get(index).copied().unwrap_or(&Type::Dyn)
    }

    fn constant(&self, index: usize) -> Option<u64> {
        let constant = self.constants.get(index).copied().flatten()?;
        Some(u64::try_from(constant).unwrap_or(0))
    }

    pub fn estimate(&self) -> Estimate {
        match self.function.cost {
            // `or` and `orValue`; the operators were seen to before.
            Cost::Free => (ONE, None),
            Cost::Fixed(cost) => (Range::exactly(cost), None),
            Cost::Equal if matches!(self.ty(0), Type::Opaque(_)) => (ONE, None),
            Cost::Equal => (self.smaller(), None),
            Cost::Order => match self.ty(0) {
                ty if is_text(ty) => (self.smaller(), None),
                ty if ty.is_dyn() => (ONE.or(self.smaller()), None),
                _ => (ONE, None),
            },
            Cost::Add => {
                let both = self.size(0).plus(self.size(1));
                match self.ty(0) {
                    ty if is_text(ty) => (both.tenth(), Some(both)),
                    Type::List(_) => (ONE, Some(both)),
                    Type::Dyn => (ONE.or(both.tenth()), Some(both)),
                    _ => (ONE, None),
                }
            }
            Cost::In => match self.ty(1) {
                Type::List(_) => (self.size(1), None),
                Type::Map(..) => (ONE, None),
                _ => (ONE.or(self.size(1)), None),
            },
            Cost::Scan | Cost::Output | Cost::Flatten | Cost::Compare | Cost::SortBy | Cost::Sets(_) => self.of_lists(),
            Cost::Ip if matches!(self.ty(0), Type::Opaque(_)) => (ONE, None),
            Cost::Ip => (self.size(0).tenth(), None),
            Cost::ContainsIp => (ADDRESS.plus(ADDRESS).tenth().plus(self.parsed()), None),
            Cost::ContainsCidr => {
                let masked = ADDRESS.tenth().plus(ONE);
                (ADDRESS.plus(ADDRESS).tenth().plus(masked).plus(self.parsed()), None)
            }
            Cost::Validate => (self.size(1).tenth().times(Range::exactly(32)), None),
            _ => self.of_strings(),
        }
    }

    fn of_lists(&self) -> Estimate {
        let size = self.size(0);
        match self.function.cost {
            Cost::Scan => match self.ty(0) {
                Type::String => (size.tenth(), None),
                Type::List(of) if is_text(of) => (size.times(ONE.plus(self.element.tenth())), None),
                Type::List(_) | Type::Dyn => (size, None),
                _ => (ONE, None),
            },
            Cost::Output => {
                let size = match self.function.name {
                    "lists.range" => self.constant(0).map_or(UNKNOWN, Range::exactly),
                    _ => size,
                };
                (size.plus(NEW_LIST), Some(size))
            }
            Cost::Flatten => {
                let depth = if self.types.len() > 1 {
                    self.constant(1).unwrap_or(u64::MAX)
                } else {
                    1
                };
                (size.times(Range::exactly(depth)).plus(NEW_LIST), None)
            }
            Cost::Sets(factor) => {
                let pairs = size.times(self.size(1));
                (pairs.times(Range::exactly(factor)).plus(ONE), None)
            }
            cost => {
                let keys = usize::from(cost == Cost::SortBy);
                let pairs = self.size(keys).times(self.size(keys));
                let extra = match self.ty(keys) {
                    Type::List(of) if is_text(of) => pairs.tenth(),
                    _ => Range::default(),
                };
                (pairs.plus(pairs).plus(extra).plus(NEW_LIST), Some(size))
            }
        }
    }

    fn of_strings(&self) -> Estimate {
        let size = self.size(0);
        match (self.function.cost, self.ty(0)) {
            (Cost::Traverse(times), _) => (size.times(Range::exactly(times)).tenth(), self.made()),
            (Cost::Selector, _) => {
                let (min, max) = (cost::selector(0), cost::selector(self.size(1).max));
                (Range { min, max }, None)
            }
            (Cost::Join, _) => {
                let less_one = |n: u64| if n == u64::MAX { n } else { n.saturating_sub(1) };
                let (min, max) = (less_one(size.min), less_one(size.max));
                let separator = if self.types.len() > 1 {
                    self.size(1)
                } else {
                    Range::default()
                };
                let result = size.times(self.element).plus(separator.times(Range { min, max }));
                (result.tenth(), Some(result))
            }
            (Cost::Regex, _) => {
                let cost = size.plus(ONE).tenth().times(self.size(1).quarter());
                let found = Range { min: 0, ..size };
                (cost, (self.function.name != "matches").then_some(found))
            }
            (Cost::Affix, _) => (self.size(1).tenth(), None),
            (Cost::Contains, _) => (size.tenth().times(self.size(1).tenth()), None),
            (Cost::ToString, Type::Bytes) => (size.tenth(), Some(size)),
            (Cost::ToBytes, Type::String) => (size.tenth(), Some(size.times(Range { min: 1, max: 4 }))),
            (Cost::ToString | Cost::ToBytes, Type::Dyn) => (ONE.or(size.tenth()), None),
            (Cost::Format, _) => (size.tenth(), None),
            _ => (ONE, None),
        }
    }

    /// The size of what is made by going through a string.
    fn made(&self) -> Option<Range> {
        let size = self.size(0);
        match self.function.name {
            "lowerAscii" | "upperAscii" | "trim" | "url" | "jsonpatch.escapeKey" => Some(size),
            "substring" => Some(Range { min: 0, ..size }),
            "strings.quote" => Some(size.plus(size).plus(Range::exactly(2))),
            "replace" => {
                let (from, to) = (self.size(1), self.size(2));
                let grows = from.min == 0 || to.max > from.min;
                let times = size.max.saturating_add(1).div_ceil(from.min.max(1));
                let more = if grows { times.saturating_mul(to.max) } else { 0 };
                let max = more.saturating_add(size.max);
                Some(Range { min: 0, max })
            }
            "split" => {
                let max = self
                    .constants
                    .get(2)
                    .copied()
                    .flatten()
                    .and_then(|n| u64::try_from(n).ok());
                let max = max.unwrap_or(size.max);
                Some(Range { min: 0, max })
            }
            _ => None,
        }
    }

    /// Comparing two values: as far as the smaller one goes.
    fn smaller(&self) -> Range {
        let max = self.size(0).max.min(self.size(1).max);
        let min = u64::from(max > 0);
        Range { min, max }.tenth()
    }

    /// What it costs that the second argument may have to be parsed first.
    fn parsed(&self) -> Range {
        let cost = self.size(1).tenth();
        match self.ty(1) {
            Type::String => cost,
            Type::Dyn => Range { min: 0, ..cost },
            _ => Range::default(),
        }
    }
}

/// The octets of an address.
const ADDRESS: Range = Range { min: 4, max: 16 };

fn is_text(ty: &Type) -> bool {
    matches!(ty, Type::String | Type::Bytes)
}
