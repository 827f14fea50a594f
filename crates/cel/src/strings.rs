//! Functions of strings: the standard ones, the strings extension and regular expressions.
//! Places are counted in code points.

use crate::error::EvalError;
use crate::meter::Meter;
use crate::value::{Text, Value};

type Result<'a> = std::result::Result<Value<'a>, EvalError>;

macro_rules! no {
    () => {
        Err(EvalError::no_such_overload())
    };
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// The octet at which the code point of an index starts; the length has one too.
fn offset(text: &str, index: i64) -> Option<usize> {
    let index = usize::try_from(index).ok()?;
    let starts = text.char_indices().map(|(at, _)| at);
    starts.chain([text.len()]).nth(index)
}

/// The index of the code point that starts at an octet.
fn index_of_offset(text: &str, at: usize) -> Value<'static> {
    Value::Int(i64::try_from(text[..at].chars().count()).unwrap_or(i64::MAX))
}

/// Part of a string, without copying where it is borrowed.
fn part<'a>(text: &Text<'a>, from: usize, to: usize) -> Value<'a> {
    match text {
        Text::Borrowed(s) => Value::String(Text::Borrowed(s.get(from..to).unwrap_or_default())),
        Text::Shared(s) => Value::string(s.get(from..to).unwrap_or_default()),
    }
}

pub(crate) fn contains<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.as_str().contains(b.as_str()))),
        _ => no!(),
    }
}

pub(crate) fn starts_with<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.as_str().starts_with(b.as_str()))),
        _ => no!(),
    }
}

pub(crate) fn ends_with<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(a.as_str().ends_with(b.as_str()))),
        _ => no!(),
    }
}

pub(crate) fn matches<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(a), Value::String(b)] => Ok(Value::Bool(meter.regex(b.as_str())?.is_match(a.as_str()))),
        _ => no!(),
    }
}

pub(crate) fn find<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    let [Value::String(text), Value::String(pattern)] = args else {
        return no!();
    };
    let found = meter.regex(pattern.as_str())?.find(text.as_str()).map(|m| m.range());
    let range = found.unwrap_or(0..0);
    Ok(part(text, range.start, range.end))
}

pub(crate) fn find_all<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    let (text, pattern, limit) = match args {
        [Value::String(text), Value::String(pattern)] => (text, pattern, -1),
        [Value::String(text), Value::String(pattern), Value::Int(limit)] => (text, pattern, *limit),
        _ => return no!(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let regex = meter.regex(pattern.as_str())?;
    let found = regex.find_iter(text.as_str()).take(limit);
    Ok(Value::list(found.map(|m| part(text, m.start(), m.end())).collect()))
}

pub(crate) fn char_at<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::String(text), Value::Int(index)] = args else {
        return no!();
    };
    let at = offset(text.as_str(), *index).ok_or_else(|| out_of_range(*index))?;
    let length = text.as_str()[at..].chars().next().map_or(0, char::len_utf8);
    Ok(part(text, at, at + length))
}

pub(crate) fn index_of<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (text, what, start) = match args {
        [Value::String(text), Value::String(what)] => (text.as_str(), what, 0),
        [Value::String(text), Value::String(what), Value::Int(start)] => (text.as_str(), what, *start),
        _ => return no!(),
    };
    let start = offset(text, start).ok_or_else(|| out_of_range(start))?;
    match text[start..].find(what.as_str()) {
        Some(at) => Ok(index_of_offset(text, start + at)),
        None => Ok(Value::Int(-1)),
    }
}

pub(crate) fn last_index_of<'a>(args: &[Value<'a>]) -> Result<'a> {
    let (text, what, end) = match args {
        [Value::String(text), Value::String(what)] => (text.as_str(), what.as_str(), text.as_str().len()),
        [Value::String(text), Value::String(what), Value::Int(last)] => {
            let start = offset(text.as_str(), *last).ok_or_else(|| out_of_range(*last))?;
            let end = start.saturating_add(what.as_str().len()).min(text.as_str().len());
            (text.as_str(), what.as_str(), end)
        }
        _ => return no!(),
    };
    // The limit may fall into a character that could not match anyway.
    let mut end = end;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match text[..end].rfind(what) {
        Some(at) => Ok(index_of_offset(text, at)),
        None => Ok(Value::Int(-1)),
    }
}

pub(crate) fn lower_ascii<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(text.as_str().to_ascii_lowercase())),
        _ => no!(),
    }
}

pub(crate) fn upper_ascii<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(text.as_str().to_ascii_uppercase())),
        _ => no!(),
    }
}

pub(crate) fn trim<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::String(text)] = args else { return no!() };
    let s = text.as_str();
    let start = s.len() - s.trim_start().len();
    Ok(part(text, start, start + s.trim().len()))
}

pub(crate) fn substring<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let (text, from, to) = match args {
        [Value::String(text), Value::Int(from)] => (text, *from, None),
        [Value::String(text), Value::Int(from), Value::Int(to)] => (text, *from, Some(*to)),
        _ => return no!(),
    };
    if let Some(to) = to.filter(|to| from > *to) {
        return Err(EvalError::new(format!(
            "invalid substring range. start: {from}, end: {to}"
        )));
    }
    let s = text.as_str();
    let start = offset(s, from).ok_or_else(|| out_of_range(from))?;
    let end = match to {
        Some(to) => offset(s, to).ok_or_else(|| out_of_range(to))?,
        None => s.len(),
    };
    Ok(part(text, start, end))
}

pub(crate) fn replace<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    let (text, from, to, limit) = match args {
        [Value::String(text), Value::String(from), Value::String(to)] => (text, from, to, -1),
        [
            Value::String(text),
            Value::String(from),
            Value::String(to),
            Value::Int(n),
        ] => (text, from, to, *n),
        _ => return no!(),
    };
    let (text, from, to) = (text.as_str(), from.as_str(), to.as_str());
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    // The result may be as large as the product of the parts: count before it is made.
    let count = text.matches(from).take(limit).count();
    meter.work((text.len() as u64 / 64).saturating_add((count as u64).saturating_mul(to.len() as u64) / 4))?;
    Ok(Value::string(text.replacen(from, to, limit)))
}

pub(crate) fn split<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(n)] => (text, separator, *n),
        _ => return no!(),
    };
    if limit == 0 {
        return Ok(Value::list(Vec::new()));
    }
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let (s, separator) = (text.as_str(), separator.as_str());
    meter.work(s.len() as u64 / 16)?;
    let mut items = Vec::new();
    let mut start = 0;
    while items.len() + 1 < limit {
        let rest = &s[start..];
        // Nothing separates every character from the next.
        let (end, next) = if separator.is_empty() {
            match rest.chars().next().map(char::len_utf8).filter(|n| *n < rest.len()) {
                Some(length) => (start + length, start + length),
                None => break,
            }
        } else {
            match rest.find(separator) {
                Some(at) => (start + at, start + at + separator.len()),
                None => break,
            }
        };
        items.push(part(text, start, end));
        start = next;
    }
    if !(separator.is_empty() && s.is_empty()) {
        items.push(part(text, start, s.len()));
    }
    Ok(Value::list(items))
}

pub(crate) fn join<'a>(args: &[Value<'a>], meter: &mut Meter) -> Result<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, separator.as_str()),
        _ => return no!(),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let item = item?;
        let text = item.as_str().ok_or_else(EvalError::no_such_overload)?;
        meter.work(1 + (text.len() + separator.len()) as u64 / 4)?;
        if i > 0 {
            out.push_str(separator);
        }
        out.push_str(text);
    }
    Ok(Value::string(out))
}

/// `strings.quote(x)`: the string as a literal.
pub(crate) fn quote<'a>(args: &[Value<'a>], _: &mut Meter) -> Result<'a> {
    let [Value::String(text)] = args else { return no!() };
    let mut out = String::from("\"");
    for c in text.as_str().chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    Ok(Value::string(out))
}
