//! What an expression can cost at most, before it is ever evaluated: upstream's estimate,
//! from the sizes that schemas declare. Approximate in two places: the result of `replace`
//! is bounded more loosely, and `optMap` is counted as it is evaluated here, once.

use crate::ast::{ACCUMULATOR, Bind, Expr, Fold, Kind, Literal};
use crate::check::{Checked, Meaning};
use crate::cost;
use crate::decls::{Cost, Function};
use crate::env::Env;
use crate::types::{Decl, Shape, Type};

/// A range of costs or sizes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CostEstimate {
    /// At least this.
    pub min: u64,
    /// At most this.
    pub max: u64,
}

type Range = CostEstimate;

const UNKNOWN: Range = Range { min: 0, max: u64::MAX };

impl CostEstimate {
    pub(crate) const fn exactly(n: u64) -> Self {
        Range { min: n, max: n }
    }

    fn each(self, other: Self, f: fn(u64, u64) -> u64) -> Self {
        Range {
            min: f(self.min, other.min),
            max: f(self.max, other.max),
        }
    }

    fn plus(self, other: Self) -> Self {
        self.each(other, u64::saturating_add)
    }

    /// The cost of doing this so many times.
    pub fn times(self, other: Self) -> Self {
        self.each(other, u64::saturating_mul)
    }

    fn or(self, other: Self) -> Self {
        Range {
            min: self.min.min(other.min),
            max: self.max.max(other.max),
        }
    }

    fn tenth(self) -> Self {
        let tenth = |n: u64| if n == u64::MAX { n } else { n.div_ceil(10) };
        Range {
            min: tenth(self.min),
            max: tenth(self.max),
        }
    }

    fn quarter(self) -> Self {
        let quarter = |n: u64| if n == u64::MAX { n } else { n.div_ceil(4) };
        Range {
            min: quarter(self.min),
            max: quarter(self.max),
        }
    }
}

/// Sizes of what is in a container.
#[derive(Clone, Copy, Debug)]
struct Entry {
    key: Range,
    value: Range,
}

/// Where a value comes from, if that is a declared place.
#[derive(Clone, Copy, Debug)]
enum Place<'e> {
    Nowhere,
    Declared(&'e Decl),
    Key,
}

/// What is known of a node.
#[derive(Clone, Copy, Debug)]
struct Known<'e> {
    cost: Range,
    size: Option<Range>,
    entry: Option<Entry>,
    place: Place<'e>,
}

struct Estimator<'e> {
    env: &'e Env,
    checked: &'e Checked,
    locals: Vec<(&'e str, Known<'e>)>,
}

/// The estimate of a checked tree.
pub(crate) fn estimate(env: &Env, checked: &Checked, expr: &Expr) -> CostEstimate {
    let mut estimator = Estimator {
        env,
        checked,
        locals: Vec::new(),
    };
    estimator.node(expr).cost
}

impl<'e> Place<'e> {
    fn size(self) -> Option<Range> {
        match self {
            Place::Nowhere => None,
            Place::Key => Some(Range::exactly(0)),
            Place::Declared(decl) => match decl.ty {
                // Upstream counts values of fixed size as nothing here.
                Type::Bool | Type::Int | Type::Uint | Type::Double | Type::Null | Type::Object(_) => {
                    Some(Range::exactly(0))
                }
                _ => decl.max.map(|max| Range { min: 0, max }),
            },
        }
    }

    fn values(self) -> Self {
        match self {
            Place::Declared(decl) => match &decl.shape {
                Shape::List(items, _) => Place::Declared(items),
                Shape::Map(values) => Place::Declared(values),
                _ => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    fn field(self, name: &str) -> Self {
        match self {
            Place::Declared(decl) => match &decl.shape {
                Shape::Object(object) => match object.fields.get(name) {
                    Some(field) => Place::Declared(&field.decl),
                    None => Place::Nowhere,
                },
                Shape::Map(values) => Place::Declared(values),
                _ => Place::Nowhere,
            },
            _ => Place::Nowhere,
        }
    }

    fn keys(self) -> Self {
        match self {
            Place::Declared(decl) if matches!(decl.shape, Shape::Map(_)) => Place::Key,
            _ => Place::Nowhere,
        }
    }
}

impl Known<'_> {
    fn size_or_unknown(&self) -> Range {
        self.size.unwrap_or(UNKNOWN)
    }
}

impl<'e> Estimator<'e> {
    fn ty(&self, expr: &Expr) -> &'e Type {
        const DYN: &Type = &Type::Dyn;
        self.checked.types.get(expr.id as usize).unwrap_or(DYN)
    }

    fn node(&mut self, expr: &'e Expr) -> Known<'e> {
        let mut known = self.known(expr);
        if known.size.is_none() {
            known.size = known.place.size();
        }
        if known.size.is_none() && self.ty(expr).is_scalar() {
            known.size = Some(Range::exactly(1));
        }
        known
    }

    fn known(&mut self, expr: &'e Expr) -> Known<'e> {
        let plain = |cost: u64| Known {
            cost: Range::exactly(cost),
            size: None,
            entry: None,
            place: Place::Nowhere,
        };
        if let Some(Meaning::Variable(name)) = self.checked.meanings.get(expr.id as usize) {
            let place = self
                .env
                .find(name)
                .map_or(Place::Nowhere, |(_, decl)| Place::Declared(decl));
            return Known {
                place,
                ..plain(cost::SELECT)
            };
        }
        match &expr.kind {
            Kind::Literal(literal) => Known {
                size: Some(Range::exactly(literal_size(literal))),
                ..plain(0)
            },
            Kind::Ident(name) => match self.locals.iter().rev().find(|(n, _)| n == name) {
                Some((_, local)) => Known {
                    cost: Range::exactly(cost::SELECT),
                    ..*local
                },
                None => plain(cost::SELECT),
            },
            Kind::Select {
                operand, field, test, ..
            } => {
                let of = self.node(operand);
                if *test {
                    return Known {
                        cost: of.cost,
                        ..plain(0)
                    };
                }
                let place = of.place.field(field);
                let cost = of.cost.plus(Range::exactly(cost::SELECT));
                Known {
                    cost,
                    place,
                    ..plain(0)
                }
            }
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args),
            Kind::List(items) => {
                let items: Vec<_> = items.iter().map(|(e, _)| self.node(e)).collect();
                let cost = sum(&items).plus(Range::exactly(cost::LIST));
                let entry = Entry {
                    key: Range::exactly(1),
                    value: union(&items),
                };
                Known {
                    size: Some(Range::exactly(items.len() as u64)),
                    entry: Some(entry),
                    cost,
                    ..plain(0)
                }
            }
            Kind::Map(entries) => {
                let keys: Vec<_> = entries.iter().map(|e| self.node(&e.key)).collect();
                let values: Vec<_> = entries.iter().map(|e| self.node(&e.value)).collect();
                let entry = Entry {
                    key: union(&keys),
                    value: union(&values),
                };
                Known {
                    size: Some(Range::exactly(entries.len() as u64)),
                    entry: Some(entry),
                    cost: sum(&keys).plus(sum(&values)).plus(Range::exactly(cost::MAP)),
                    ..plain(0)
                }
            }
            Kind::Struct { fields, .. } => {
                let fields: Vec<_> = fields.iter().map(|(_, e, _)| self.node(e)).collect();
                let cost = sum(&fields).plus(Range::exactly(cost::OBJECT));
                Known { cost, ..plain(0) }
            }
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => {
                let init = self.node(&bind.init);
                let body = self.within(bind, init);
                let cost = body.cost.plus(init.cost).plus(Range::exactly(cost::LIST));
                Known { cost, ..body }
            }
            Kind::OptMap { bind, .. } => {
                let init = self.node(&bind.init);
                let body = self.within(bind, Known { size: None, ..init });
                let taken = body.cost.plus(Range::exactly(cost::LIST + 2));
                let cost = init.cost.plus(Range { min: 0, ..taken });
                Known { cost, ..plain(0) }
            }
        }
    }

    fn within(&mut self, bind: &'e Bind, init: Known<'e>) -> Known<'e> {
        self.locals.push((&bind.var, init));
        let body = self.node(&bind.body);
        self.locals.pop();
        body
    }

    fn fold(&mut self, fold: &'e Fold) -> Known<'e> {
        let range = self.node(&fold.range);
        let init = self.node(&fold.init);
        let is_list = matches!(self.ty(&fold.range), Type::List(_));
        let local = |size: Option<Range>, place: Place<'e>| Known {
            cost: Range::default(),
            size: size.or(place.size()),
            entry: None,
            place,
        };
        let value = local(range.entry.map(|e| e.value), range.place.values());
        let key = local(range.entry.map(|e| e.key), range.place.keys());
        let mark = self.locals.len();
        self.locals.push((ACCUMULATOR, init));
        match &fold.var2 {
            Some(second) => {
                self.locals.push((&fold.var, key));
                self.locals.push((second, value));
            }
            None => self.locals.push((&fold.var, if is_list { value } else { key })),
        }
        let condition = self.node(&fold.condition);
        let step = self.node(&fold.step);
        self.locals.truncate(mark + 1);
        let result = self.node(&fold.result);
        self.locals.truncate(mark);
        let count = range.size_or_unknown();
        let cost = sum(&[range, init, result]).plus(count.times(condition.cost.plus(step.cost)));
        let (size, entry) = match &fold.init.kind {
            Kind::Literal(_) => (init.size, None),
            _ => (Some(count), step.entry),
        };
        Known {
            cost,
            size,
            entry,
            place: Place::Nowhere,
        }
    }

    fn call(&mut self, expr: &'e Expr, target: Option<&'e Expr>, args: &'e [Expr]) -> Known<'e> {
        let Some(Meaning::Function { function, namespaced }) = self.checked.meanings.get(expr.id as usize) else {
            return Known {
                cost: UNKNOWN,
                size: None,
                entry: None,
                place: Place::Nowhere,
            };
        };
        let exprs: Vec<&'e Expr> = target.filter(|_| !namespaced).into_iter().chain(args).collect();
        let known: Vec<Known<'e>> = exprs.iter().map(|e| self.node(e)).collect();
        let types: Vec<&Type> = exprs.iter().map(|e| self.ty(e)).collect();
        let all = sum(&known);
        let size = |i: usize| known.get(i).map_or(UNKNOWN, Known::size_or_unknown);
        let mut out = Known {
            cost: all,
            size: None,
            entry: None,
            place: Place::Nowhere,
        };
        match (function.name, known.as_slice()) {
            ("_&&_" | "_||_", [left, right]) => {
                out.cost = Range {
                    min: left.cost.min,
                    max: left.cost.plus(right.cost).max,
                };
            }
            ("_?_:_", [condition, yes, no]) => {
                out.cost = condition.cost.plus(yes.cost.or(no.cost));
                out.size = Some(size(1).or(size(2)));
                out.entry = both(yes.entry, no.entry);
            }
            ("_[_]" | "_[?_]", [of, _]) => {
                out.cost = all.plus(Range::exactly(cost::SELECT));
                out.size = of.entry.map(|e| e.value);
                out.place = of.place.values();
            }
            ("dyn", [of]) => {
                out = Known {
                    cost: of.cost.plus(Range::exactly(1)),
                    ..*of
                };
            }
            _ => {
                let (cost, result) = self.function(function, &known, &exprs, &types);
                out.cost = all.plus(cost);
                out.size = result;
                if let ("_+_", [left, right]) = (function.name, known.as_slice()) {
                    out.entry = both(left.entry, right.entry);
                }
            }
        }
        out
    }

    /// The cost of a call without its arguments, and the size of its result.
    fn function(
        &self,
        function: &Function,
        known: &[Known<'e>],
        exprs: &[&'e Expr],
        types: &[&Type],
    ) -> (Range, Option<Range>) {
        let size = |i: usize| known.get(i).map_or(UNKNOWN, Known::size_or_unknown);
        let first = types.first().copied().unwrap_or(&Type::Dyn);
        let is_text = |ty: &Type| matches!(ty, Type::String | Type::Bytes);
        let one = Range::exactly(1);
        let with_list = Range::exactly(1 + cost::LIST);
        let twice = |r: Range| r.plus(r);
        // A text that has to be parsed first.
        let parsed = match types.get(1) {
            Some(Type::String) => size(1).tenth(),
            Some(Type::Dyn) => Range {
                min: 0,
                ..size(1).tenth()
            },
            _ => Range::default(),
        };
        let address = Range { min: 4, max: 16 };
        match function.cost {
            // `or` and `orValue`; the operators were seen to before.
            Cost::Free => (one, None),
            Cost::Fixed(cost) => (Range::exactly(cost), None),
            Cost::Traverse(times) => {
                let cost = size(0).times(Range::exactly(times)).tenth();
                (cost, self.traversed(function.name, &size, exprs))
            }
            Cost::Selector => (
                Range {
                    min: cost::selector(0),
                    max: cost::selector(size(1).max),
                },
                None,
            ),
            Cost::Join => {
                let elements = self.elements(known, exprs);
                let separators = match size(0).max {
                    u64::MAX => UNKNOWN,
                    n => Range {
                        min: size(0).min.saturating_sub(1),
                        max: n.saturating_sub(1),
                    },
                };
                let separator = if exprs.len() > 1 { size(1) } else { Range::default() };
                let result = size(0).times(elements).plus(separator.times(separators));
                (result.tenth(), Some(result))
            }
            Cost::Regex => {
                let cost = size(0).plus(one).tenth().times(size(1).quarter());
                (
                    cost,
                    (function.name != "matches").then_some(Range { min: 0, ..size(0) }),
                )
            }
            Cost::Affix => (size(1).tenth(), None),
            Cost::Contains => (size(0).tenth().times(size(1).tenth()), None),
            Cost::ToString | Cost::ToBytes => match (function.cost, first) {
                (Cost::ToString, Type::Bytes) => (size(0).tenth(), Some(size(0))),
                (Cost::ToBytes, Type::String) => (size(0).tenth(), Some(size(0).times(Range { min: 1, max: 4 }))),
                (_, Type::Dyn) => (one.or(size(0).tenth()), None),
                _ => (one, None),
            },
            Cost::Format => (size(0).tenth(), None),
            Cost::In => match types.get(1) {
                Some(Type::List(_)) => (size(1), None),
                Some(Type::Map(..)) => (one, None),
                _ => (one.or(size(1)), None),
            },
            Cost::Equal if matches!(first, Type::Opaque(_)) => (one, None),
            Cost::Equal => (smaller(size(0), size(1)), None),
            Cost::Order if is_text(first) => (smaller(size(0), size(1)), None),
            Cost::Order if first.is_dyn() => (one.or(smaller(size(0), size(1))), None),
            Cost::Order => (one, None),
            Cost::Add => {
                let both = size(0).plus(size(1));
                match first {
                    ty if is_text(ty) => (both.tenth(), Some(both)),
                    Type::List(_) => (one, Some(both)),
                    Type::Dyn => (one.or(both.tenth()), Some(both)),
                    _ => (one, None),
                }
            }
            Cost::Scan => match first {
                Type::String => (size(0).tenth(), None),
                Type::List(of) if is_text(of) => (size(0).times(one.plus(self.elements(known, exprs).tenth())), None),
                Type::List(_) | Type::Dyn => (size(0), None),
                _ => (one, None),
            },
            Cost::Output => {
                let size = match exprs.first().map(|e| &e.kind) {
                    Some(Kind::Literal(Literal::Int(n))) => Range::exactly(u64::try_from(*n).unwrap_or(0)),
                    _ if function.name == "lists.range" => UNKNOWN,
                    _ => size(0),
                };
                (size.plus(with_list), Some(size))
            }
            Cost::Flatten => {
                let depth = match exprs.get(1).map(|e| &e.kind) {
                    Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).unwrap_or(0),
                    Some(_) => u64::MAX,
                    None => 1,
                };
                (size(0).times(Range::exactly(depth)).plus(with_list), Some(UNKNOWN))
            }
            Cost::Compare | Cost::SortBy => {
                let of = if function.cost == Cost::Compare {
                    size(0)
                } else {
                    size(1)
                };
                let pairs = of.times(of);
                let extra = match types.get(usize::from(function.cost == Cost::SortBy)) {
                    Some(Type::List(of)) if is_text(of) => pairs.tenth(),
                    _ => Range::default(),
                };
                (twice(pairs).plus(extra).plus(with_list), Some(size(0)))
            }
            Cost::Sets(factor) => (size(0).times(size(1)).times(Range::exactly(factor)).plus(one), None),
            Cost::Ip if matches!(first, Type::Opaque(_)) => (one, None),
            Cost::Ip => (size(0).tenth(), None),
            Cost::ContainsIp => (twice(address).tenth().plus(parsed), None),
            Cost::ContainsCidr => (
                twice(address).tenth().plus(address.tenth()).plus(one).plus(parsed),
                None,
            ),
            Cost::Validate => (size(1).tenth().times(Range::exactly(32)), None),
        }
    }

    /// The size of an element of the first argument.
    fn elements(&self, known: &[Known<'e>], exprs: &[&'e Expr]) -> Range {
        let Some((list, expr)) = known.first().zip(exprs.first()) else {
            return UNKNOWN;
        };
        let by_entry = list.entry.map(|e| e.value);
        let scalar = matches!(self.ty(expr), Type::List(of) if of.is_scalar());
        by_entry
            .or_else(|| list.place.values().size())
            .unwrap_or(if scalar { Range::exactly(1) } else { UNKNOWN })
    }

    /// The size of what a function makes that goes through a string.
    fn traversed(&self, name: &str, size: &dyn Fn(usize) -> Range, exprs: &[&'e Expr]) -> Option<Range> {
        match name {
            "lowerAscii" | "upperAscii" | "trim" | "url" | "jsonpatch.escapeKey" => Some(size(0)),
            "substring" => Some(Range { min: 0, ..size(0) }),
            "strings.quote" => Some(size(0).plus(size(0)).plus(Range::exactly(2))),
            "replace" => {
                let (text, from, to) = (size(0), size(1), size(2));
                let grows = from.min == 0 || to.max > from.min;
                let times = text.max.saturating_add(1).div_ceil(from.min.max(1));
                let max = if grows {
                    times.saturating_mul(to.max).saturating_add(text.max)
                } else {
                    text.max
                };
                Some(Range { min: 0, max })
            }
            "split" => {
                let limit = match exprs.get(2).map(|e| &e.kind) {
                    Some(Kind::Literal(Literal::Int(n))) => u64::try_from(*n).ok(),
                    _ => None,
                };
                let max = limit.unwrap_or(size(0).max);
                Some(Range { min: 0, max })
            }
            _ => None,
        }
    }
}

/// Comparing two values: as far as the smaller one goes.
fn smaller(a: Range, b: Range) -> Range {
    let max = a.max.min(b.max);
    Range {
        min: u64::from(max > 0),
        max,
    }
    .tenth()
}

fn sum(known: &[Known<'_>]) -> Range {
    known.iter().fold(Range::default(), |total, k| total.plus(k.cost))
}

fn union(known: &[Known<'_>]) -> Range {
    let sizes = known.iter().map(Known::size_or_unknown);
    sizes.reduce(Range::or).unwrap_or_default()
}

fn both(a: Option<Entry>, b: Option<Entry>) -> Option<Entry> {
    let (a, b) = a.zip(b)?;
    Some(Entry {
        key: a.key.or(b.key),
        value: a.value.or(b.value),
    })
}

fn literal_size(literal: &Literal) -> u64 {
    match literal {
        Literal::String(s) => s.chars().count() as u64,
        Literal::Bytes(b) => b.len() as u64,
        _ => 1,
    }
}
