//! What an expression can cost at most, before it is ever evaluated: upstream's estimate,
//! from the sizes that schemas declare. Approximate in two places: the result of `replace`
//! is bounded more loosely, and `optMap` is counted as it is evaluated here, once.

use crate::ast::{ACCUMULATOR, Bind, Expr, Fold, Kind, Literal};
use crate::check::{Checked, Meaning};
use crate::cost;
use crate::env::Env;
use crate::estimate_call::Call;
use crate::range::{CostEstimate, Range, UNKNOWN};
use crate::types::{Decl, Shape, Type};

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
                Shape::Object(object) => match object.field(name) {
                    Some(field) => Place::Declared(&field.decl),
                    None => Place::Nowhere,
                },
                // Upstream knows the sizes of `map[key]`, not those of `map.key`.
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
            Kind::List(_) | Kind::Map(_) | Kind::Struct { .. } => self.made(expr),
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

    /// Lists, maps and objects that the expression makes.
    fn made(&mut self, expr: &'e Expr) -> Known<'e> {
        match &expr.kind {
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
            _ => plain(0),
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
                let call = Call {
                    function,
                    sizes: known.iter().map(Known::size_or_unknown).collect(),
                    constants: exprs.iter().map(|e| constant(e)).collect(),
                    element: self.element(&known, &exprs),
                    types,
                };
                let (cost, result) = call.estimate();
                out.cost = all.plus(cost);
                out.size = result;
                if let ("_+_", [left, right]) = (function.name, known.as_slice()) {
                    out.entry = both(left.entry, right.entry);
                }
            }
        }
        out
    }

    /// The size of an element of the first argument.
    fn element(&self, known: &[Known<'e>], exprs: &[&'e Expr]) -> Range {
        let Some((list, expr)) = known.first().zip(exprs.first()) else {
            return UNKNOWN;
        };
        let scalar = matches!(self.ty(expr), Type::List(of) if of.is_scalar());
        let by_entry = list.entry.map(|e| e.value);
        let by_place = || list.place.values().size();
        by_entry
            .or_else(by_place)
            .unwrap_or(if scalar { Range::exactly(1) } else { UNKNOWN })
    }
}

/// A cost, and nothing else known.
fn plain<'e>(cost: u64) -> Known<'e> {
    Known {
        cost: Range::exactly(cost),
        size: None,
        entry: None,
        place: Place::Nowhere,
    }
}

fn constant(expr: &Expr) -> Option<i64> {
    match &expr.kind {
        Kind::Literal(Literal::Int(n)) => Some(*n),
        _ => None,
    }
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
