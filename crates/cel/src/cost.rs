//! What a call costs when it is evaluated: upstream's units, from the sizes of its values.

use crate::decls::{Cost, Function};
use crate::value::{Opaque, Value};

/// Naming a variable or selecting a field.
pub(crate) const SELECT: u64 = 1;
/// Making a list.
pub(crate) const LIST: u64 = 10;
/// Making a map.
pub(crate) const MAP: u64 = 30;
/// Making an object.
pub(crate) const OBJECT: u64 = 40;

/// A tenth for every character, rounded up.
fn tenth(size: u64) -> u64 {
    size.div_ceil(10)
}

/// A pattern on a text: a tenth of the text times a quarter of the pattern.
fn pattern(text: u64, pattern: u64) -> u64 {
    tenth(text.saturating_add(1)).saturating_mul(pattern.div_ceil(4))
}

/// The cost of a selector of some length: parsing it, and making its requirements.
pub(crate) fn selector(length: u64) -> u64 {
    let requirements = length.div_ceil(2).saturating_mul(LIST + OBJECT);
    requirements.saturating_add(tenth(length)).saturating_add(LIST)
}

pub(crate) fn of_call(function: &Function, args: &[Value<'_>], result: &Value<'_>) -> u64 {
    let size = |i: usize| args.get(i).map_or(1, Value::size);
    match function.cost {
        Cost::Free => 0,
        Cost::Fixed(cost) => cost,
        Cost::Traverse(times) => tenth(size(0) * times),
        Cost::Selector => selector(size(1)),
        Cost::Join => tenth(result.size() * 2),
        Cost::Regex => pattern(size(0), size(1)),
        Cost::Affix | Cost::Format => tenth(size(0)),
        Cost::Contains => tenth(size(0)).saturating_mul(tenth(size(1))),
        Cost::ToString if !matches!(args, [Value::Bytes(_)]) => 1,
        Cost::ToBytes if !matches!(args, [Value::String(_)]) => 1,
        Cost::ToString | Cost::ToBytes => tenth(size(0)),
        Cost::In => match args {
            [_, list @ Value::List(_)] => list.size(),
            _ => 1,
        },
        Cost::Equal => match args {
            [Value::Opaque(_), _] => 1,
            _ => tenth(size(0).min(size(1))),
        },
        Cost::Order => match args {
            [Value::String(_) | Value::Bytes(_), _] => tenth(size(0).min(size(1))),
            _ => 1,
        },
        Cost::Add => match args {
            [Value::String(_) | Value::Bytes(_), _] => tenth(size(0) + size(1)),
            _ => 1,
        },
        Cost::Scan => args.first().map_or(1, traversal),
        Cost::Output => result.size().saturating_add(1 + LIST),
        Cost::Flatten => {
            let depth = match args.get(1) {
                Some(Value::Int(depth)) => u64::try_from(*depth).unwrap_or(0),
                _ => 1,
            };
            size(0).saturating_mul(depth).saturating_add(1 + LIST)
        }
        Cost::Compare => compared(args.first()),
        Cost::SortBy => compared(args.get(1)),
        Cost::Sets(factor) => size(0).saturating_mul(size(1)).saturating_mul(factor).saturating_add(1),
        Cost::Ip => match args {
            [Value::String(_)] => tenth(size(0)),
            _ => 1,
        },
        Cost::ContainsIp => tenth(2 * size(0)) + of_text(args),
        Cost::ContainsCidr => tenth(2 * size(0)) + tenth(size(0)) + 1 + of_text(args),
        Cost::Validate => match args.first() {
            Some(Value::Opaque(o)) if let Opaque::Format(f) = &**o => pattern(size(1), f.regex_size),
            _ => 1,
        },
    }
}

/// A text that has to be parsed first.
fn of_text(args: &[Value<'_>]) -> u64 {
    match args.get(1) {
        Some(text @ Value::String(_)) => tenth(text.size()),
        _ => 0,
    }
}

/// Every element with every other, twice; a little more for strings.
fn compared(list: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(list)) = list else { return 1 };
    let n = list.len() as u64;
    let square = n.saturating_mul(n);
    let text = matches!(list.get(0), Some(Ok(Value::String(_) | Value::Bytes(_))));
    let extra = if text { square / 10 } else { 0 };
    square.saturating_mul(2).saturating_add(extra + 1 + LIST)
}

/// Going through a value once, all of it.
fn traversal(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.as_str().len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => {
            let mut cost = 0u64;
            for item in list.iter() {
                cost = cost.saturating_add(item.as_ref().map_or(1, shallow));
            }
            cost
        }
        other => shallow(other),
    }
}

/// Elements that are containers count as many as they have: looking deeper could take forever
/// where values share their parts.
fn shallow(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.as_str().len() as u64 / 10,
        Value::Bytes(bytes) => bytes.len() as u64 / 10,
        Value::List(list) => list.len() as u64,
        Value::Map(map) => 2 * map.len() as u64,
        _ => 1,
    }
}
