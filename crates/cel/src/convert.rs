//! Conversions between types, and values as text.

use crate::error::EvalError;
use crate::meter::Meter;
use crate::ops;
use crate::time::{Timestamp, parse_duration, show_duration};
use crate::value::{Opaque, Text, Value};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

fn from(value: &Value<'_>, to: &str) -> EvalError {
    EvalError::new(format!("type conversion error from '{}' to '{to}'", value.type_name()))
}

/// `int(x)`
pub(crate) fn int<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(match value {
        Value::Int(n) => Value::Int(*n),
        Value::Uint(n) => Value::Int(i64::try_from(*n).map_err(|_| ops::overflow())?),
        // The bounds themselves are not exact as doubles; upstream refuses them.
        Value::Double(d) if *d > -9_223_372_036_854_775_808.0 && *d < 9_223_372_036_854_775_808.0 => {
            Value::Int(*d as i64)
        }
        Value::Double(_) => return Err(ops::overflow()),
        Value::String(text) => Value::Int(text.as_str().parse().map_err(|_| from(value, "int"))?),
        Value::Timestamp(t) => Value::Int(t.seconds()),
        Value::Duration(nanos) => Value::Int(*nanos),
        _ => return Err(from(value, "int")),
    })
}

/// `uint(x)`
pub(crate) fn uint<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(match value {
        Value::Uint(n) => Value::Uint(*n),
        Value::Int(n) => Value::Uint(u64::try_from(*n).map_err(|_| ops::unsigned_overflow())?),
        Value::Double(d) if *d >= 0.0 && *d < 18_446_744_073_709_551_616.0 => Value::Uint(*d as u64),
        Value::Double(_) => return Err(ops::unsigned_overflow()),
        Value::String(text) => {
            let text = text.as_str();
            let plain = !text.starts_with('+');
            Value::Uint(text.parse().ok().filter(|_| plain).ok_or_else(|| from(value, "uint"))?)
        }
        _ => return Err(from(value, "uint")),
    })
}

/// `double(x)`
pub(crate) fn double<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(match value {
        Value::Double(d) => Value::Double(*d),
        Value::Int(n) => Value::Double(*n as f64),
        Value::Uint(n) => Value::Double(*n as f64),
        Value::String(text) => Value::Double(text.as_str().parse().map_err(|_| from(value, "double"))?),
        _ => return Err(from(value, "double")),
    })
}

/// `bool(x)`
pub(crate) fn bool<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(match value {
        Value::Bool(b) => Value::Bool(*b),
        Value::String(text) => Value::Bool(match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "F" | "false" | "FALSE" | "False" => false,
            _ => return Err(from(value, "bool")),
        }),
        _ => return Err(from(value, "bool")),
    })
}

/// `string(x)`
pub(crate) fn string<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [value] = args else {
        return Err(EvalError::no_such_overload());
    };
    Ok(match value {
        Value::String(_) => value.clone(),
        Value::Bytes(bytes) => {
            let text = std::str::from_utf8(bytes);
            Value::string(text.map_err(|_| EvalError::new("invalid UTF-8 in bytes, cannot convert to string"))?)
        }
        Value::Bool(_)
        | Value::Int(_)
        | Value::Uint(_)
        | Value::Double(_)
        | Value::Duration(_)
        | Value::Timestamp(_) => Value::string(display(value)),
        Value::Opaque(opaque) if matches!(&**opaque, Opaque::Ip(_) | Opaque::Cidr(..)) => Value::string(display(value)),
        _ => return Err(from(value, "string")),
    })
}

/// `bytes(x)`
pub(crate) fn bytes<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [value @ Value::Bytes(_)] => Ok(value.clone()),
        [Value::String(text)] => Ok(Value::Bytes(text.as_str().as_bytes().into())),
        [value] => Err(from(value, "bytes")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `duration(x)`
pub(crate) fn duration<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [value @ Value::Duration(_)] => Ok(value.clone()),
        [Value::Int(nanos)] => Ok(Value::Duration(*nanos)),
        [value @ Value::String(text)] => Ok(Value::Duration(
            parse_duration(text.as_str()).ok_or_else(|| from(value, "google.protobuf.Duration"))?,
        )),
        [value] => Err(from(value, "google.protobuf.Duration")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `timestamp(x)`
pub(crate) fn timestamp<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [value @ Value::Timestamp(_)] => Ok(value.clone()),
        [Value::Int(seconds)] => ops::timestamp(*seconds).map(Value::Timestamp),
        [value @ Value::String(text)] => {
            let parsed = Timestamp::parse(text.as_str());
            Ok(Value::Timestamp(
                parsed.ok_or_else(|| from(value, "google.protobuf.Timestamp"))?,
            ))
        }
        [value] => Err(from(value, "google.protobuf.Timestamp")),
        _ => Err(EvalError::no_such_overload()),
    }
}

/// `dyn(x)`
pub(crate) fn dynamic<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    args.first().cloned().ok_or_else(EvalError::no_such_overload)
}

/// `type(x)`
pub(crate) fn type_of<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let value = args.first().ok_or_else(EvalError::no_such_overload)?;
    Ok(Value::Type(value.type_name().into()))
}

/// `size(x)`
pub(crate) fn size<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::no_such_overload()),
    }
}

/// A scalar as text.
pub(crate) fn display(value: &Value<'_>) -> String {
    match value {
        Value::Null => "null".to_owned(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Uint(n) => n.to_string(),
        Value::Double(d) => show_double(*d),
        Value::String(Text::Borrowed(s)) => (*s).to_owned(),
        Value::String(Text::Shared(s)) => s.to_string(),
        Value::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Duration(nanos) => show_duration(*nanos),
        Value::Timestamp(t) => t.to_string(),
        Value::Type(name) => name.to_string(),
        Value::Opaque(opaque) => match &**opaque {
            Opaque::Ip(ip) => ip.to_string(),
            Opaque::Cidr(ip, bits) => format!("{ip}/{bits}"),
            Opaque::Quantity(quantity) => quantity.to_string(),
            Opaque::Url(url) => url.source.clone(),
            Opaque::Semver(version) => version.to_string(),
            _ => opaque.kind().name().to_owned(),
        },
        Value::List(_) | Value::Map(_) | Value::Optional(_) => value.type_name().to_owned(),
    }
}

/// As Go prints doubles with `%g` and the fewest digits that say which one it is.
pub(crate) fn show_double(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..21).contains(&exponent) {
        return format!("{d}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}
