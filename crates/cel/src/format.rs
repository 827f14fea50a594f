//! `string.format(list)`: the clauses `%s %d %f %e %b %o %x %X` and `%%`, with precision.

use crate::convert::{display, show_double};
use crate::error::EvalError;
use crate::meter::Meter;
use crate::value::Value;

type Result<T> = std::result::Result<T, EvalError>;

/// Longest precision of a clause.
const MAX_PRECISION: usize = 1000;

pub(crate) fn format<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<Value<'a>> {
    let [Value::String(template), Value::List(values)] = args else {
        return Err(EvalError::no_such_overload());
    };
    let mut out = String::new();
    let mut used = 0;
    let mut rest = template.as_str();
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let (precision, after) = precision(rest)?;
        let verb = after.chars().next().ok_or_else(|| fail("unexpected end of string"))?;
        rest = &after[verb.len_utf8()..];
        let Some(value) = values.get(used) else {
            return Err(fail(&format!("index {used} out of range")));
        };
        used += 1;
        clause(&mut out, verb, precision, &value?, meter)?;
    }
    out.push_str(rest);
    Ok(Value::string(out))
}

fn fail(what: &str) -> EvalError {
    EvalError::new(format!("error during formatting: {what}"))
}

fn precision(rest: &str) -> Result<(Option<usize>, &str)> {
    let Some(after) = rest.strip_prefix('.') else {
        return Ok((None, rest));
    };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let number: usize = after[..end]
        .parse()
        .map_err(|_| fail("error while converting precision to integer"))?;
    if number > MAX_PRECISION {
        return Err(fail(&format!("precision is larger than {MAX_PRECISION}")));
    }
    Ok((Some(number), &after[end..]))
}

fn clause(out: &mut String, verb: char, precision: Option<usize>, value: &Value<'_>, meter: &mut Meter) -> Result<()> {
    match verb {
        's' => return text(out, value, meter),
        'd' => match value {
            Value::Int(_) | Value::Uint(_) => out.push_str(&display(value)),
            Value::Double(d) if !d.is_finite() => out.push_str(&special(*d)),
            _ => return Err(wrong("decimal clause can only be used on integers", value)),
        },
        'f' => match number(value) {
            Some(d) if d.is_finite() => out.push_str(&format!("{d:.*}", precision.unwrap_or(6))),
            Some(d) => out.push_str(&special(d)),
            None => return Err(wrong("fixed-point clause can only be used on doubles", value)),
        },
        'e' => match number(value) {
            Some(d) if d.is_finite() => out.push_str(&scientific(d, precision.unwrap_or(6))),
            Some(d) => out.push_str(&special(d)),
            None => return Err(wrong("scientific clause can only be used on doubles", value)),
        },
        'b' => match value {
            Value::Bool(b) => out.push(if *b { '1' } else { '0' }),
            _ => radix(out, value, 'b', "only integers and bools can be formatted as binary")?,
        },
        'o' => radix(out, value, 'o', "octal clause can only be used on integers")?,
        'x' | 'X' => match value {
            Value::String(s) => hex(out, s.as_str().as_bytes(), verb == 'X'),
            Value::Bytes(b) => hex(out, b, verb == 'X'),
            _ => radix(
                out,
                value,
                verb,
                "only integers, byte buffers, and strings can be formatted as hex",
            )?,
        },
        _ => return Err(fail(&format!("unrecognized formatting clause \"{verb}\""))),
    }
    meter.work(1)
}

fn wrong(what: &str, value: &Value<'_>) -> EvalError {
    fail(&format!("{what}, was given {}", value.type_name()))
}

fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::Int(n) => Some(*n as f64),
        Value::Uint(n) => Some(*n as f64),
        _ => None,
    }
}

fn special(d: f64) -> String {
    if d.is_nan() {
        "NaN".to_owned()
    } else if d > 0.0 {
        "Infinity".to_owned()
    } else {
        "-Infinity".to_owned()
    }
}

fn scientific(d: f64, precision: usize) -> String {
    let shown = format!("{d:.precision$e}");
    let (mantissa, exponent) = shown.split_once('e').unwrap_or((&shown, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    // As Kubernetes' version of the library prints it.
    let digits = format!("{:02}", exponent.abs());
    let raised = digits
        .chars()
        .filter_map(|c| "⁰¹²³⁴⁵⁶⁷⁸⁹".chars().nth(c.to_digit(10)? as usize));
    let sign = if exponent < 0 { "⁻" } else { "" };
    format!("{mantissa}×10{sign}{}", raised.collect::<String>())
}

fn radix(out: &mut String, value: &Value<'_>, verb: char, message: &str) -> Result<()> {
    let (negative, n) = match value {
        Value::Int(n) => (*n < 0, n.unsigned_abs()),
        Value::Uint(n) => (false, *n),
        _ => return Err(wrong(message, value)),
    };
    if negative {
        out.push('-');
    }
    out.push_str(&match verb {
        'b' => format!("{n:b}"),
        'o' => format!("{n:o}"),
        'x' => format!("{n:x}"),
        _ => format!("{n:X}"),
    });
    Ok(())
}

fn hex(out: &mut String, bytes: &[u8], upper: bool) {
    for byte in bytes {
        out.push_str(&if upper {
            format!("{byte:02X}")
        } else {
            format!("{byte:02x}")
        });
    }
}

fn text(out: &mut String, value: &Value<'_>, meter: &mut Meter) -> Result<()> {
    meter.work(1 + out.len() as u64 / 1024)?;
    match value {
        Value::List(list) => {
            out.push('[');
            for (i, item) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                text(out, &item?, meter)?;
            }
            out.push(']');
        }
        Value::Map(map) => {
            let mut entries = map.entries().collect::<Result<Vec<_>>>()?;
            entries.sort_by_key(|(key, _)| display(key));
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                if i > 0 {
                    out.push_str(", ");
                }
                text(out, key, meter)?;
                out.push_str(": ");
                text(out, value, meter)?;
            }
            out.push('}');
        }
        Value::Double(d) if !d.is_finite() => out.push_str(&special(*d)),
        Value::Double(d) => out.push_str(&show_double(*d)),
        Value::Optional(_) => {
            return Err(wrong(
                "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps",
                value,
            ));
        }
        _ => {
            let shown = display(value);
            meter.work(shown.len() as u64 / 4)?;
            out.push_str(&shown);
        }
    }
    Ok(())
}
