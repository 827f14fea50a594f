//! Functions of lists and sets.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::EvalError;
use crate::meter::Meter;
use crate::ops;
use crate::strings;
use crate::value::{List, Value};

type Result<T> = std::result::Result<T, EvalError>;

macro_rules! no {
    () => {
        Err(EvalError::no_such_overload())
    };
}

fn int(n: usize) -> Value<'static> {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

pub(crate) fn is_sorted<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let items = list.to_vec()?;
    for pair in items.windows(2) {
        if let [a, b] = pair
            && ops::compare(a, b)? == Some(Ordering::Greater)
        {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

pub(crate) fn sum<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let mut items = list.iter();
    // The zero of an empty list is of the element's type, which the planner knows; int serves all.
    let Some(first) = items.next() else {
        return Ok(Value::Int(0));
    };
    let mut total = first?;
    if !matches!(
        total,
        Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::Duration(_)
    ) {
        return no!();
    }
    for item in items {
        total = ops::add(&total, &item?, meter)?;
    }
    Ok(total)
}

pub(crate) fn min<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    extreme(args, "min", Ordering::Less)
}

pub(crate) fn max<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    extreme(args, "max", Ordering::Greater)
}

fn extreme<'a>(args: &[Value<'a>], name: &str, better: Ordering) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let mut items = list.iter();
    let mut best = items
        .next()
        .ok_or_else(|| EvalError::new(format!("{name} called on empty list")))??;
    for item in items {
        let item = item?;
        if ops::compare(&item, &best)? == Some(better) {
            best = item;
        }
    }
    Ok(best)
}

pub(crate) fn index_of<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list), wanted] = args else {
        return strings::index_of(args);
    };
    for (i, item) in list.iter().enumerate() {
        if ops::equal(&item?, wanted, meter)? {
            return Ok(int(i));
        }
    }
    Ok(Value::Int(-1))
}

pub(crate) fn last_index_of<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list), wanted] = args else {
        return strings::last_index_of(args);
    };
    for i in (0..list.len()).rev() {
        if let Some(item) = list.get(i)
            && ops::equal(&item?, wanted, meter)?
        {
            return Ok(int(i));
        }
    }
    Ok(Value::Int(-1))
}

pub(crate) fn includes<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    match args {
        [Value::List(list), wanted] => {
            for item in list.iter() {
                if ops::equal(&item?, wanted, meter)? {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        [single, wanted] => Ok(Value::Bool(ops::equal(single, wanted, meter)?)),
        _ => no!(),
    }
}

pub(crate) fn slice<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else {
        return no!();
    };
    let fail = |what: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {what}")));
    if *start < 0 || *end < 0 {
        return fail("negative indexes not supported".to_owned());
    }
    if start > end {
        return fail("start index must be less than or equal to end index".to_owned());
    }
    let (from, to) = (
        usize::try_from(*start).unwrap_or(usize::MAX),
        usize::try_from(*end).unwrap_or(usize::MAX),
    );
    if to > list.len() {
        return fail(format!("list is length {}", list.len()));
    }
    let items = (from..to).filter_map(|i| list.get(i)).collect::<Result<Vec<_>>>()?;
    Ok(Value::list(items))
}

pub(crate) fn flatten<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no!(),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(&mut out, list, depth, meter)?;
    Ok(Value::list(out))
}

fn flatten_into<'a>(out: &mut Vec<Value<'a>>, list: &List<'a>, depth: i64, meter: &mut Meter) -> Result<()> {
    for item in list.iter() {
        meter.work(1)?;
        match item? {
            Value::List(inner) if depth > 0 => flatten_into(out, &inner, depth - 1, meter)?,
            item => out.push(item),
        }
    }
    Ok(())
}

pub(crate) fn range<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::Int(n)] = args else { return no!() };
    meter.afford(u64::try_from(*n).unwrap_or(0))?;
    Ok(Value::list((0..*n).map(Value::Int).collect()))
}

pub(crate) fn reverse<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let mut items = list.to_vec()?;
    items.reverse();
    Ok(Value::list(items))
}

pub(crate) fn distinct<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let mut out: Vec<Value<'a>> = Vec::new();
    'items: for item in list.iter() {
        let item = item?;
        for seen in &out {
            if ops::equal(seen, &item, meter)? {
                continue 'items;
            }
        }
        out.push(item);
    }
    Ok(Value::list(out))
}

pub(crate) fn sort<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let keys = list.to_vec()?;
    sorted(keys.clone(), &keys, meter)
}

pub(crate) fn sort_by_keys<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list), Value::List(keys)] = args else {
        return no!();
    };
    sorted(list.to_vec()?, &keys.to_vec()?, meter)
}

fn sorted<'a>(items: Vec<Value<'a>>, keys: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    if items.len() != keys.len() {
        return Err(EvalError::new("sort keys must match the list"));
    }
    meter.work(items.len() as u64)?;
    if let Some(first) = keys.first() {
        for key in keys {
            if key.type_name() != first.type_name() {
                return Err(EvalError::new("list elements must have the same type"));
            }
            if ops::compare(first, key).is_err() {
                return Err(EvalError::new("list elements must be comparable"));
            }
        }
    }
    let mut pairs: Vec<(Value<'a>, &Value<'a>)> = items.into_iter().zip(keys).collect();
    pairs.sort_by(|(_, a), (_, b)| total_order(a, b));
    Ok(Value::list(pairs.into_iter().map(|(item, _)| item).collect()))
}

/// A sort needs an answer for NaN too: it comes first.
fn total_order(a: &Value<'_>, b: &Value<'_>) -> Ordering {
    match ops::compare(a, b) {
        Ok(Some(order)) => order,
        _ => {
            let nan = |v: &Value<'_>| matches!(v, Value::Double(d) if d.is_nan());
            nan(b).cmp(&nan(a))
        }
    }
}

pub(crate) fn first<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    Ok(Value::Optional(list.get(0).transpose()?.map(Arc::new)))
}

pub(crate) fn last<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(list)] = args else { return no!() };
    let last = list.len().checked_sub(1).and_then(|i| list.get(i));
    Ok(Value::Optional(last.transpose()?.map(Arc::new)))
}

pub(crate) fn sets_contains<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(a), Value::List(b)] = args else {
        return no!();
    };
    all_in(b, a, meter).map(Value::Bool)
}

pub(crate) fn sets_equivalent<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(a), Value::List(b)] = args else {
        return no!();
    };
    Ok(Value::Bool(all_in(a, b, meter)? && all_in(b, a, meter)?))
}

pub(crate) fn sets_intersects<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::List(a), set @ Value::List(_)] = args else {
        return no!();
    };
    for item in a.iter() {
        if ops::contained(&item?, set, meter)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn all_in(items: &List<'_>, list: &List<'_>, meter: &mut Meter) -> Result<bool> {
    let list = Value::List(list.clone());
    for item in items.iter() {
        if !ops::contained(&item?, &list, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// What `cel.@mapInsert` adds: a key and a value, or the entries of a map.
pub(crate) fn inserted<'a>(args: &[Value<'a>]) -> Result<Vec<(Value<'a>, Value<'a>)>> {
    match args {
        [key, value] => Ok(vec![(key.clone(), value.clone())]),
        [Value::Map(new)] => new.entries().collect(),
        _ => no!(),
    }
}
