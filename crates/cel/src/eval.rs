//! The evaluator: walks the plan, counts the cost, and stops where it is too high.

use std::sync::Arc;

use crate::activation::Activation;
use crate::convert::display;
use crate::cost;
use crate::decls::Function;
use crate::error::EvalError;
use crate::lists;
use crate::meter::Meter;
use crate::ops;
use crate::plan::{FoldNode, Node, Used};
use crate::value::{List, Map, OwnedList, OwnedMap, Value};

type Result<T> = std::result::Result<T, EvalError>;

/// One evaluation.
pub(crate) struct Machine<'a, 'm> {
    pub used: &'a [Used],
    pub activation: &'m Activation<'a>,
    /// Names of the expression; an accumulator may be an error that is swallowed later.
    pub slots: Vec<Result<Value<'a>>>,
    pub meter: Meter,
}

impl<'a> Machine<'a, '_> {
    pub fn eval(&mut self, node: &'a Node) -> Result<Value<'a>> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Made(made) => {
                self.meter.charge(made.1)?;
                Ok(made.0.clone())
            }
            Node::Var(index) => self.variable(*index),
            Node::Local(slot) => {
                self.meter.charge(cost::SELECT)?;
                self.slot(*slot)
            }
            Node::Select(operand, field) => {
                let operand = self.eval(operand)?;
                self.meter.charge(cost::SELECT)?;
                select(&operand, field)
            }
            Node::Has(operand, field) => {
                let operand = self.eval(operand)?;
                Ok(Value::Bool(opt_select(&operand, field)?.is_some()))
            }
            Node::OptSelect(operand, field) => {
                let operand = self.eval(operand)?;
                self.meter.charge(cost::SELECT)?;
                Ok(Value::Optional(opt_select(&operand, field)?.map(Arc::new)))
            }
            Node::And(sides) => self.logical(sides, false),
            Node::Or(sides) => self.logical(sides, true),
            Node::Cond(parts) => {
                let [condition, yes, no] = &**parts;
                match self.eval(condition)? {
                    Value::Bool(true) => self.eval(yes),
                    Value::Bool(false) => self.eval(no),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::Call(function, args) => self.apply(function, args),
            Node::NotStrictlyFalse(inner) => {
                let inner = self.eval(inner);
                self.meter.charge(1)?;
                match inner {
                    Err(e) if !e.absorbable() => Err(e),
                    inner => Ok(Value::Bool(!matches!(inner, Ok(Value::Bool(false))))),
                }
            }
            Node::Matches(matches) => {
                let (text, regex, quarter) = &**matches;
                let text = self.eval(text)?;
                let Value::String(chars) = &text else {
                    return Err(EvalError::no_such_overload());
                };
                let cost = (text.size() + 1).div_ceil(10).saturating_mul(*quarter);
                self.meter.charge(cost)?;
                Ok(Value::Bool(regex.is_match(chars.as_str())))
            }
            Node::Fold(fold) => self.fold(fold),
            Node::Append(slot, item) => self.append(*slot, item),
            Node::Insert(slot, args) => self.insert(*slot, args),
            other => self.rest(other),
        }
    }

    /// The rarer nodes: apart, so that the frame of the others stays small.
    fn rest(&mut self, node: &'a Node) -> Result<Value<'a>> {
        match node {
            Node::Index(sides) => self.index(sides),
            Node::OptIndex(sides) => self.opt_index(sides),
            Node::OrElse(sides, value) => {
                let [first, second] = &**sides;
                match self.eval(first)? {
                    Value::Optional(None) => self.eval(second),
                    Value::Optional(Some(inner)) if *value => Ok(Value::clone(&inner)),
                    some @ Value::Optional(_) => Ok(some),
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            Node::Sum(sum) => match self.eval(&sum.0)? {
                Value::Int(0) => Ok(sum.1.clone()),
                other => Ok(other),
            },
            Node::Bind(bind) => {
                let (slot, init, body) = &**bind;
                let value = self.eval(init);
                self.meter.charge(cost::LIST)?;
                self.within(*slot, value, body)
            }
            Node::OptMap(map) => {
                let (slot, init, body, flat) = &**map;
                match self.eval(init)? {
                    Value::Optional(None) => Ok(Value::Optional(None)),
                    Value::Optional(Some(inner)) => {
                        self.meter.charge(cost::LIST + 2)?;
                        let value = self.within(*slot, Ok(Value::clone(&inner)), body)?;
                        Ok(if *flat { value } else { Value::some(value) })
                    }
                    _ => Err(EvalError::no_such_overload()),
                }
            }
            other => self.made(other),
        }
    }

    /// Lists, maps and objects that the expression makes.
    fn made(&mut self, node: &'a Node) -> Result<Value<'a>> {
        match node {
            Node::List(items) => {
                let mut out = Vec::with_capacity(items.len());
                for (item, optional) in items {
                    let value = self.eval(item)?;
                    out.extend(present(value, *optional)?);
                }
                self.meter.charge(cost::LIST)?;
                Ok(Value::list(out))
            }
            Node::Map(entries) => {
                let mut out = OwnedMap::default();
                for (key, value, optional) in entries {
                    let (key, value) = (self.eval(key)?, self.eval(value)?);
                    if let Some(value) = present(value, *optional)? {
                        out.insert(key, value)?;
                    }
                }
                self.meter.charge(cost::MAP)?;
                Ok(Value::Map(Map::Owned(Arc::new(out))))
            }
            Node::Object(object) => {
                let mut out = OwnedMap::default();
                for (field, value, optional) in &object.fields {
                    let value = self.eval(value)?;
                    if let Some(value) = present(value, *optional)? {
                        out.insert(field.clone(), value)?;
                    }
                }
                out.type_name = Some(object.name.clone());
                self.meter.charge(cost::OBJECT)?;
                Ok(Value::Map(Map::Owned(Arc::new(out))))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn index(&mut self, sides: &'a [Node; 2]) -> Result<Value<'a>> {
        let [operand, index] = sides;
        let (operand, index) = (self.eval(operand)?, self.eval(index)?);
        self.meter.charge(cost::SELECT)?;
        if let Value::Optional(inner) = &operand {
            return match inner {
                None => Ok(Value::Optional(None)),
                Some(inner) => Ok(Value::Optional(find(inner, &index)?.map(Arc::new))),
            };
        }
        find(&operand, &index)?.ok_or_else(|| match operand {
            Value::List(_) => EvalError::new(format!("index out of bounds: {}", display(&index))),
            _ => EvalError::no_such_key(display(&index)),
        })
    }

    fn opt_index(&mut self, sides: &'a [Node; 2]) -> Result<Value<'a>> {
        let [operand, index] = sides;
        let (operand, index) = (self.eval(operand)?, self.eval(index)?);
        self.meter.charge(cost::SELECT)?;
        let found = match &operand {
            Value::Optional(None) => None,
            Value::Optional(Some(inner)) => find(inner, &index)?,
            operand => find(operand, &index)?,
        };
        Ok(Value::Optional(found.map(Arc::new)))
    }

    fn variable(&mut self, index: u16) -> Result<Value<'a>> {
        self.meter.charge(cost::SELECT)?;
        match self.used.get(usize::from(index)) {
            Some(used) => self.activation.find(&used.name, &used.decl),
            None => Err(EvalError::new("no such variable")),
        }
    }

    fn slot(&self, slot: u16) -> Result<Value<'a>> {
        match self.slots.get(usize::from(slot)) {
            Some(value) => value.clone(),
            None => Err(EvalError::new("no such variable")),
        }
    }

    fn put(&mut self, slot: u16, value: Result<Value<'a>>) -> Result<()> {
        if let Err(e) = &value
            && !e.absorbable()
        {
            return Err(e.clone());
        }
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            *place = value;
        }
        Ok(())
    }

    fn within(&mut self, slot: u16, value: Result<Value<'a>>, body: &'a Node) -> Result<Value<'a>> {
        self.put(slot, value)?;
        let result = self.eval(body);
        self.put(slot, Ok(Value::Null))?;
        result
    }

    /// Evaluates the arguments, few of them without allocating, and calls.
    fn apply(&mut self, function: &'static Function, args: &'a [Node]) -> Result<Value<'a>> {
        match args {
            [a] => {
                let args = [self.eval(a)?];
                self.call(function, &args)
            }
            [a, b] => {
                let args = [self.eval(a)?, self.eval(b)?];
                self.call(function, &args)
            }
            args => {
                let args = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>>>()?;
                self.call(function, &args)
            }
        }
    }

    fn call(&mut self, function: &'static Function, args: &[Value<'a>]) -> Result<Value<'a>> {
        let result = (function.run)(args, &mut self.meter)?;
        self.meter.charge(cost::of_call(function, args, &result))?;
        Ok(result)
    }

    /// `&&` and `||`: the side that decides wins, even over an error of the other side.
    fn logical(&mut self, sides: &'a [Node; 2], decides: bool) -> Result<Value<'a>> {
        let mut failure = None;
        for side in sides {
            match self.eval(side) {
                Ok(Value::Bool(b)) if b == decides => return Ok(Value::Bool(decides)),
                Ok(Value::Bool(_)) => {}
                Ok(_) => failure = failure.or_else(|| Some(EvalError::no_such_overload())),
                Err(e) if !e.absorbable() => return Err(e),
                Err(e) => failure = failure.or(Some(e)),
            }
        }
        match failure {
            Some(e) => Err(e),
            None => Ok(Value::Bool(!decides)),
        }
    }

    fn fold(&mut self, fold: &'a FoldNode) -> Result<Value<'a>> {
        let range = self.eval(&fold.range)?;
        let init = self.eval(&fold.init);
        self.put(fold.accumulator, init)?;
        match &range {
            Value::List(list) => {
                for i in 0..list.len() {
                    let Some(item) = list.get(i) else { break };
                    let index = || Ok(Value::Int(i64::try_from(i).unwrap_or(i64::MAX)));
                    let more = match fold.var2 {
                        Some(_) => self.step(fold, index(), Some(item))?,
                        None => self.step(fold, item, None)?,
                    };
                    if !more {
                        break;
                    }
                }
            }
            Value::Map(map) => {
                for entry in map.entries() {
                    let (key, value) = entry?;
                    if !self.step(fold, Ok(key), Some(Ok(value)))? {
                        break;
                    }
                }
            }
            _ => return Err(EvalError::no_such_overload()),
        }
        let result = self.eval(&fold.result);
        self.put(fold.accumulator, Ok(Value::Null))?;
        result
    }

    /// One element; whether to go on.
    fn step(
        &mut self,
        fold: &'a FoldNode,
        first: Result<Value<'a>>,
        second: Option<Result<Value<'a>>>,
    ) -> Result<bool> {
        if let Some(condition) = &fold.condition {
            match self.eval(condition)? {
                Value::Bool(true) => {}
                Value::Bool(false) => return Ok(false),
                _ => return Err(EvalError::no_such_overload()),
            }
        }
        self.put(fold.var, first)?;
        if let (Some(slot), Some(second)) = (fold.var2, second) {
            self.put(slot, second)?;
        }
        let next = self.eval(&fold.step);
        // Where nothing can make an error good again, going on would only cost.
        if fold.condition.is_none() && next.is_err() {
            return next.map(|_| false);
        }
        self.put(fold.accumulator, next)?;
        Ok(true)
    }

    fn take(&mut self, slot: u16) -> Result<Value<'a>> {
        match self.slots.get_mut(usize::from(slot)) {
            Some(place) => std::mem::replace(place, Ok(Value::Null)),
            None => Err(EvalError::new("no such variable")),
        }
    }

    fn append(&mut self, slot: u16, item: &'a Node) -> Result<Value<'a>> {
        let item = self.eval(item)?;
        self.meter.charge(cost::SELECT + cost::LIST + 1)?;
        let Value::List(list) = self.take(slot)? else {
            return Err(EvalError::no_such_overload());
        };
        let mut list = match list {
            List::Owned(list) => list,
            json @ List::Json(..) => Arc::new(OwnedList {
                items: json.to_vec()?,
                semantics: None,
            }),
        };
        Arc::make_mut(&mut list).items.push(item);
        Ok(Value::List(List::Owned(list)))
    }

    fn insert(&mut self, slot: u16, args: &'a [Node]) -> Result<Value<'a>> {
        let args = args.iter().map(|a| self.eval(a)).collect::<Result<Vec<_>>>()?;
        self.meter.charge(cost::SELECT + 1)?;
        let Value::Map(Map::Owned(mut map)) = self.take(slot)? else {
            return Err(EvalError::no_such_overload());
        };
        for (key, value) in lists::inserted(&args)? {
            Arc::make_mut(&mut map).insert(key, value)?;
        }
        Ok(Value::Map(Map::Owned(map)))
    }
}

fn present<'a>(value: Value<'a>, optional: bool) -> Result<Option<Value<'a>>> {
    match value {
        value if !optional => Ok(Some(value)),
        Value::Optional(inner) => Ok(inner.map(|v| Value::clone(&v))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn select<'a>(operand: &Value<'a>, field: &str) -> Result<Value<'a>> {
    match operand {
        Value::Map(map) => map.field(field).unwrap_or_else(|| Err(EvalError::no_such_key(field))),
        Value::Optional(_) => Ok(Value::Optional(opt_select(operand, field)?.map(Arc::new))),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn opt_select<'a>(operand: &Value<'a>, field: &str) -> Result<Option<Value<'a>>> {
    match operand {
        Value::Map(map) => map.field(field).transpose(),
        Value::Optional(Some(inner)) => opt_select(inner, field),
        Value::Optional(None) => Ok(None),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn find<'a>(operand: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>> {
    match operand {
        Value::List(list) => match usize::try_from(ops::place(index)?) {
            Ok(index) => list.get(index).transpose(),
            Err(_) => Ok(None),
        },
        Value::Map(map) => map.get(index).transpose(),
        _ => Err(EvalError::no_such_overload()),
    }
}
