//! Functions of moments, optionals, the authorizer, and the opt-in extensions math and base64.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::authorizer::{Question, ResourceCheck, Subject};
use crate::error::EvalError;
use crate::formats;
use crate::meter::Meter;
use crate::ops;
use crate::time::{Civil, SECOND};
use crate::value::{Opaque, Value};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

macro_rules! no {
    () => {
        Err(EvalError::no_such_overload())
    };
}

/// A part of a moment, in UTC or the zone given.
pub(crate) fn moment<'a>(args: &[Value<'a>], part: fn(Civil) -> i64) -> Result<'a> {
    let (moment, zone) = match args {
        [Value::Timestamp(moment)] => (moment, None),
        [Value::Timestamp(moment), Value::String(zone)] => (moment, Some(zone.as_str())),
        _ => return no!(),
    };
    moment.civil(zone).map(|c| Value::Int(part(c))).map_err(EvalError::new)
}

/// A part of a moment, or a whole duration in a unit.
pub(crate) fn clock<'a>(args: &[Value<'a>], unit: i64, part: fn(Civil) -> i64) -> Result<'a> {
    match args {
        [Value::Duration(nanos)] => Ok(Value::Int(ops::parts(*nanos, unit))),
        _ => moment(args, part),
    }
}

pub(crate) fn milliseconds<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        // Upstream: all of a duration's, those of a moment's second.
        [Value::Duration(nanos)] => Ok(Value::Int(nanos / (SECOND / 1000))),
        [Value::Timestamp(t), ..] => Ok(Value::Int(i64::from(t.nanos()) / (SECOND / 1000))),
        _ => no!(),
    }
}

// Optionals.

pub(crate) fn optional_of<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    args.first()
        .cloned()
        .map(Value::some)
        .ok_or_else(EvalError::no_such_overload)
}

pub(crate) fn optional_of_non_zero<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let value = args.first().ok_or_else(EvalError::no_such_overload)?;
    let zero = match value {
        Value::Null | Value::Bool(false) | Value::Int(0) | Value::Uint(0) | Value::Duration(0) => true,
        Value::Double(d) => *d == 0.0,
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => value.size() == 0,
        Value::Optional(None) => true,
        Value::Timestamp(t) => t.is_zero(),
        _ => false,
    };
    Ok(Value::Optional((!zero).then(|| Arc::new(value.clone()))))
}

pub(crate) fn optional_none<'a>(_: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Optional(None))
}

pub(crate) fn has_value<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no!(),
    }
}

pub(crate) fn value<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::Optional(Some(value))] => Ok(Value::clone(value)),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => no!(),
    }
}

pub(crate) fn unwrap<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::List(list)] = args else { return no!() };
    let mut out = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(None) => {}
            Value::Optional(Some(value)) => out.push(Value::clone(&value)),
            _ => return no!(),
        }
    }
    Ok(Value::list(out))
}

// The authorizer.

fn receiver<'v, 'a>(args: &'v [Value<'a>]) -> std::result::Result<(&'v Opaque<'a>, Arc<str>), EvalError> {
    match args {
        [Value::Opaque(opaque), rest @ ..] => {
            let text = rest.first().and_then(Value::as_str).unwrap_or_default();
            Ok((opaque, text.into()))
        }
        _ => no!(),
    }
}

pub(crate) fn path<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match receiver(args)? {
        (_, path) if path.is_empty() => Err(EvalError::new("path must not be empty")),
        (Opaque::Authorizer(by, subject), path) => Ok(Value::opaque(Opaque::PathCheck(*by, subject.clone(), path))),
        _ => no!(),
    }
}

pub(crate) fn group<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match receiver(args)? {
        (Opaque::Authorizer(by, subject), group) => Ok(Value::opaque(Opaque::GroupCheck(*by, subject.clone(), group))),
        _ => no!(),
    }
}

pub(crate) fn service_account<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::Opaque(opaque), Value::String(namespace), Value::String(name)] = args else {
        return no!();
    };
    let Opaque::Authorizer(by, _) = &**opaque else {
        return no!();
    };
    let (namespace, name) = (namespace.as_str(), name.as_str());
    let findings = meta::names::dns1123_subdomain(name);
    if !findings.is_empty() {
        return Err(EvalError::new(format!(
            "Invalid service account name: {}",
            findings.join(", ")
        )));
    }
    let findings = meta::names::dns1123_label(namespace);
    if !findings.is_empty() {
        return Err(EvalError::new(format!(
            "Invalid service account namespace: {}",
            findings.join(", ")
        )));
    }
    let subject = Subject::ServiceAccount(namespace.into(), name.into());
    Ok(Value::opaque(Opaque::Authorizer(*by, subject)))
}

pub(crate) fn resource<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (Opaque::GroupCheck(by, subject, group), resource) = receiver(args)? else {
        return no!();
    };
    let check = ResourceCheck {
        group: group.to_string(),
        resource: resource.to_string(),
        ..ResourceCheck::default()
    };
    Ok(Value::opaque(Opaque::ResourceCheck(*by, subject.clone(), check)))
}

pub(crate) fn narrow<'a>(args: &[Value<'a>], field: fn(&mut ResourceCheck) -> &mut String) -> Result<'a> {
    let (Opaque::ResourceCheck(by, subject, check), text) = receiver(args)? else {
        return no!();
    };
    let mut check = check.clone();
    *field(&mut check) = text.to_string();
    Ok(Value::opaque(Opaque::ResourceCheck(*by, subject.clone(), check)))
}

pub(crate) fn check<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let decision = match receiver(args)? {
        (Opaque::PathCheck(by, subject, path), verb) => by.authorize(subject, &verb, Question::Path(path)),
        (Opaque::ResourceCheck(by, subject, check), verb) => by.authorize(subject, &verb, Question::Resource(check)),
        _ => return no!(),
    };
    Ok(Value::opaque(Opaque::Decision(decision)))
}

pub(crate) fn decision<'a>(args: &[Value<'a>], part: fn(&crate::authorizer::Decision) -> Value<'static>) -> Result<'a> {
    match receiver(args)? {
        (Opaque::Decision(decision), _) => Ok(part(decision)),
        _ => no!(),
    }
}

// Base64 and math: not in upstream's base environment; callers turn them on.

pub(crate) fn base64_encode<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::Bytes(bytes)] => Ok(Value::string(formats::to_base64(bytes))),
        _ => no!(),
    }
}

pub(crate) fn base64_decode<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::String(text)] = args else { return no!() };
    let bytes = formats::base64(text.as_str()).ok_or_else(|| EvalError::new("illegal base64 data"))?;
    Ok(Value::Bytes(bytes.into()))
}

pub(crate) fn greatest<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    extreme(args, Ordering::Greater)
}

pub(crate) fn least<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    extreme(args, Ordering::Less)
}

fn extreme<'a>(args: &[Value<'a>], better: Ordering) -> Result<'a> {
    let items = match args {
        [Value::List(list)] => list.to_vec()?,
        _ => args.to_vec(),
    };
    let mut items = items.into_iter();
    let mut best = items
        .next()
        .ok_or_else(|| EvalError::new("math function called on empty list"))?;
    for item in items {
        if ops::numbers(&item, &best) == Some(better) {
            best = item;
        }
    }
    Ok(best)
}

pub(crate) fn rounded<'a>(args: &[Value<'a>], round: fn(f64) -> f64) -> Result<'a> {
    match args {
        [Value::Double(d)] => Ok(Value::Double(round(*d))),
        _ => no!(),
    }
}

pub(crate) fn abs<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::Int(n)] => Ok(Value::Int(n.checked_abs().ok_or_else(ops::overflow)?)),
        [Value::Uint(n)] => Ok(Value::Uint(*n)),
        [Value::Double(d)] => Ok(Value::Double(d.abs())),
        _ => no!(),
    }
}

/// `@not_strictly_false(x)`; errors do not get here, they count as true.
pub(crate) fn not_strictly_false<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    Ok(Value::Bool(!matches!(args, [Value::Bool(false)])))
}
