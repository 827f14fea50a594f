//! Equality, order and arithmetic, with the errors upstream has for them.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::error::EvalError;
use crate::meter::Meter;
use crate::time::{SECOND, Timestamp};
use crate::types::Semantics;
use crate::value::{List, Map, Opaque, OwnedList, Value};

type Result<T> = std::result::Result<T, EvalError>;

const OVERFLOW: &str = "integer overflow";

/// Whether two values are equal; values of different types are not, except numbers.
pub(crate) fn equal(a: &Value<'_>, b: &Value<'_>, meter: &mut Meter) -> Result<bool> {
    meter.work(1)?;
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Int(a), Value::Int(b)) => a == b,
        (Value::String(a), Value::String(b)) => {
            meter.work(a.as_str().len() as u64 / 64)?;
            a.as_str() == b.as_str()
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            meter.work(a.len() as u64 / 64)?;
            a == b
        }
        (Value::Duration(a), Value::Duration(b)) => a == b,
        (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::List(a), Value::List(b)) => lists_equal(a, b, meter)?,
        (Value::Map(a), Value::Map(b)) => maps_equal(a, b, meter)?,
        (Value::Optional(a), Value::Optional(b)) => match (a, b) {
            (None, None) => true,
            (Some(a), Some(b)) => equal(a, b, meter)?,
            _ => false,
        },
        (Value::Opaque(a), Value::Opaque(b)) => opaques_equal(a, b)?,
        _ => numbers(a, b) == Some(Ordering::Equal),
    })
}

fn opaques_equal(a: &Opaque<'_>, b: &Opaque<'_>) -> Result<bool> {
    Ok(match (a, b) {
        (Opaque::Quantity(a), Opaque::Quantity(b)) => a.cmp(b) == Ordering::Equal,
        (Opaque::Ip(a), Opaque::Ip(b)) => a == b,
        (Opaque::Cidr(a, n), Opaque::Cidr(b, m)) => (a, n) == (b, m),
        (Opaque::Url(a), Opaque::Url(b)) => a.source == b.source,
        (Opaque::Semver(a), Opaque::Semver(b)) => a.compare(b) == Ordering::Equal,
        (Opaque::Format(a), Opaque::Format(b)) => a == b,
        (Opaque::Decision(a), Opaque::Decision(b)) => a == b,
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn lists_equal(a: &List<'_>, b: &List<'_>, meter: &mut Meter) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    // The left side decides; a literal on the left leaves it to the right.
    let semantics = a.semantics().filter(|s| **s != Semantics::Atomic).or(b.semantics());
    match semantics {
        None | Some(Semantics::Atomic) => {
            for (x, y) in a.iter().zip(b.iter()) {
                if !equal(&x?, &y?, meter)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Some(semantics) => unordered_equal(a, b, semantics, meter),
    }
}

fn unordered_equal(a: &List<'_>, b: &List<'_>, semantics: &Semantics, meter: &mut Meter) -> Result<bool> {
    let (a, b) = (a.to_vec()?, b.to_vec()?);
    let mut used = vec![false; b.len()];
    for x in &a {
        let mut found = false;
        for (y, used) in b.iter().zip(&mut used) {
            if !*used && same_element(x, y, semantics, meter)? {
                found = equal(x, y, meter)?;
                *used = found;
                break;
            }
        }
        if !found {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two elements stand for the same thing in a set or map list.
fn same_element(a: &Value<'_>, b: &Value<'_>, semantics: &Semantics, meter: &mut Meter) -> Result<bool> {
    let Semantics::Map(keys) = semantics else {
        return equal(a, b, meter);
    };
    let (Value::Map(a), Value::Map(b)) = (a, b) else {
        return Ok(false);
    };
    for key in keys {
        if let (Map::Object(a, _), Map::Object(b, _)) = (a, b) {
            if a.get(&**key) != b.get(&**key) {
                return Ok(false);
            }
            continue;
        }
        let name = crate::escape(key);
        let name = name.as_deref().unwrap_or(key);
        let same = match (a.field(name).transpose()?, b.field(name).transpose()?) {
            (None, None) => true,
            (Some(a), Some(b)) => equal(&a, &b, meter)?,
            _ => false,
        };
        if !same {
            return Ok(false);
        }
    }
    Ok(true)
}

fn maps_equal(a: &Map<'_>, b: &Map<'_>, meter: &mut Meter) -> Result<bool> {
    if a.len() != b.len() {
        return Ok(false);
    }
    if let (Map::Object(a, object), Map::Object(b, _)) = (a, b) {
        // What the schema does not declare, or rules cannot name, counts as it is.
        let declared = |name: &str| object.fields.values().any(|f| *f.json == *name);
        for (name, value) in a.iter().filter(|(name, _)| !declared(name)) {
            meter.work(16)?;
            if b.get(name) != Some(value) {
                return Ok(false);
            }
        }
    }
    for entry in a.entries() {
        let (key, value) = entry?;
        let Some(other) = b.get(&key) else {
            return Ok(false);
        };
        if !equal(&value, &other?, meter)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Numbers of any types by their order; NaN has none.
pub(crate) fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Ordering> {
    match (a, b) {
        (Value::Int(a), Value::Int(b)) => Some(a.cmp(b)),
        (Value::Uint(a), Value::Uint(b)) => Some(a.cmp(b)),
        (Value::Double(a), Value::Double(b)) => a.partial_cmp(b),
        (Value::Int(a), Value::Uint(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Uint(a), Value::Int(b)) => Some(i128::from(*a).cmp(&i128::from(*b))),
        (Value::Int(a), Value::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Value::Uint(a), Value::Double(b)) => whole_to_double(i128::from(*a), *b),
        (Value::Double(a), Value::Int(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        (Value::Double(a), Value::Uint(b)) => whole_to_double(i128::from(*b), *a).map(Ordering::reverse),
        _ => None,
    }
}

/// As upstream: the whole number is rounded to the nearest double, so neighbours of large ones are equal.
fn whole_to_double(whole: i128, double: f64) -> Option<Ordering> {
    (whole as f64).partial_cmp(&double)
}

/// The order of two values; `None` if one is NaN.
pub(crate) fn compare(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>> {
    Ok(Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::String(a), Value::String(b)) => a.as_str().cmp(b.as_str()),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) => a.cmp(b),
        (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        _ if is_number(a) && is_number(b) => return Ok(numbers(a, b)),
        _ => return Err(EvalError::no_such_overload()),
    }))
}

fn is_number(value: &Value<'_>) -> bool {
    matches!(value, Value::Int(_) | Value::Uint(_) | Value::Double(_))
}

/// `a + b`
pub(crate) fn add<'a>(a: &Value<'a>, b: &Value<'a>, meter: &mut Meter) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or_else(unsigned_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => Value::string([a.as_str(), b.as_str()].concat()),
        (Value::Bytes(a), Value::Bytes(b)) => Value::Bytes([&a[..], &b[..]].concat().into()),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or_else(duration_overflow)?),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            Value::Timestamp(t.plus(*d).ok_or_else(timestamp_overflow)?)
        }
        (Value::List(a), Value::List(b)) => join(a, b, meter)?,
        _ => return Err(EvalError::no_such_overload()),
    })
}

fn join<'a>(a: &List<'a>, b: &List<'a>, meter: &mut Meter) -> Result<Value<'a>> {
    let semantics = a.semantics().filter(|s| **s != Semantics::Atomic);
    meter.work(4 * (a.len() + b.len()) as u64)?;
    let mut items = a.to_vec()?;
    match semantics {
        None => items.extend(b.to_vec()?),
        Some(semantics) => {
            for new in b.iter() {
                let new = new?;
                let mut place = None;
                for (i, old) in items.iter().enumerate() {
                    if same_element(old, &new, semantics, meter)? {
                        place = Some(i);
                        break;
                    }
                }
                match place.and_then(|i| items.get_mut(i)) {
                    Some(old) => *old = new,
                    None => items.push(new),
                }
            }
        }
    }
    Ok(Value::List(List::Owned(Arc::new(OwnedList { items, semantics }))))
}

/// `a - b`
pub(crate) fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or_else(unsigned_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or_else(duration_overflow)?),
        (Value::Timestamp(a), Value::Duration(b)) => {
            let earlier = b.checked_neg().and_then(|b| a.plus(b));
            Value::Timestamp(earlier.ok_or_else(timestamp_overflow)?)
        }
        (Value::Timestamp(a), Value::Timestamp(b)) => Value::Duration(a.since(*b).ok_or_else(duration_overflow)?),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `a * b`
pub(crate) fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(*b).ok_or_else(unsigned_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `a / b`
pub(crate) fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("division by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_div(*b).ok_or_else(unsigned_overflow)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `a % b`
pub(crate) fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> Result<Value<'a>> {
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new("modulus by zero"));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or_else(overflow)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_rem(*b).ok_or_else(unsigned_overflow)?),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `-a`
pub(crate) fn negate<'a>(a: &Value<'a>) -> Result<Value<'a>> {
    Ok(match a {
        Value::Int(a) => Value::Int(a.checked_neg().ok_or_else(overflow)?),
        Value::Double(a) => Value::Double(-a),
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// `a in b`
pub(crate) fn contained(a: &Value<'_>, b: &Value<'_>, meter: &mut Meter) -> Result<bool> {
    match b {
        Value::List(list) => {
            for item in list.iter() {
                if equal(a, &item?, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Value::Map(map) => Ok(map.get(a).is_some()),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// The place an index points at.
pub(crate) fn place(index: &Value<'_>) -> Result<i64> {
    Ok(match index {
        Value::Int(i) => *i,
        Value::Uint(i) => i64::try_from(*i).unwrap_or(i64::MAX),
        Value::Double(d) if d.fract() == 0.0 => *d as i64,
        _ => return Err(EvalError::no_such_overload()),
    })
}

/// A moment as a number of seconds.
pub(crate) fn timestamp(seconds: i64) -> Result<Timestamp> {
    Timestamp::new(seconds, 0).ok_or_else(timestamp_overflow)
}

/// Whole parts of a duration.
pub(crate) fn parts(nanos: i64, unit: i64) -> i64 {
    nanos / (unit * SECOND)
}

pub(crate) fn overflow() -> EvalError {
    EvalError::new(OVERFLOW)
}

pub(crate) fn unsigned_overflow() -> EvalError {
    EvalError::new("unsigned integer overflow")
}

fn duration_overflow() -> EvalError {
    EvalError::new("duration overflow")
}

fn timestamp_overflow() -> EvalError {
    EvalError::new("timestamp overflow")
}
