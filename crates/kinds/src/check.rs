//! Checks that many kinds share, with upstream's words. Must not know any kind.

use std::net::IpAddr;

use meta::Quantity;
use meta::field::{ErrorList, Path, quoted};
use meta::names;
use serde_json::Value;

use crate::edit::{items, text};

/// What negative numbers are answered.
pub(crate) const NOT_NEGATIVE: &str = "must be greater than or equal to 0";
/// What changed fields are answered.
pub(crate) const IMMUTABLE: &str = "field is immutable";
/// What ports out of range are answered.
pub(crate) const PORT_RANGE: &str = "must be between 1 and 65535, inclusive";

/// A value as field errors print it.
pub(crate) fn show(value: &Value) -> String {
    match value {
        Value::String(s) => quoted(s),
        other => other.to_string(),
    }
}

/// Whether a field is there and not null.
pub(crate) fn has(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|v| !v.is_null())
}

/// Whether a list or map field has anything in it.
pub(crate) fn any(object: &Value, field: &str) -> bool {
    match object.get(field) {
        Some(Value::Array(a)) => !a.is_empty(),
        Some(Value::Object(m)) => !m.is_empty(),
        _ => false,
    }
}

/// Fields that must not be negative.
pub(crate) fn not_negative(object: &Value, fields: &[&str], path: &Path, errors: &mut ErrorList) {
    for field in fields {
        if let Some(n) = object.get(field).and_then(Value::as_i64).filter(|n| *n < 0) {
            errors.invalid(&path.child(field), n, NOT_NEGATIVE);
        }
    }
}

/// A text that is one of some, if it is there.
pub(crate) fn one_of(object: &Value, field: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    let value = text(object, field);
    if !value.is_empty() && !allowed.contains(&value) {
        errors.not_supported(&path.child(field), value, allowed);
    }
}

/// A text that must be there and be one of some.
pub(crate) fn must_be_one_of(object: &Value, field: &str, allowed: &[&str], path: &Path, errors: &mut ErrorList) {
    let value = text(object, field);
    if value.is_empty() {
        errors.required(&path.child(field), "");
    } else {
        one_of(object, field, allowed, path, errors);
    }
}

/// A text that must be there; whether it is.
pub(crate) fn required(object: &Value, field: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let missing = text(object, field).is_empty();
    if missing {
        errors.required(&path.child(field), "");
    }
    !missing
}

/// A text that must be as `check` says, such as a name of [`meta::names`].
pub(crate) fn named(value: &str, check: fn(&str) -> Vec<String>, path: &Path, errors: &mut ErrorList) {
    for message in check(value) {
        errors.invalid(path, quoted(value), message);
    }
}

/// A required text that must be as `check` says.
pub(crate) fn required_name(
    object: &Value,
    field: &str,
    check: fn(&str) -> Vec<String>,
    path: &Path,
    errors: &mut ErrorList,
) {
    if required(object, field, path, errors) {
        named(text(object, field), check, &path.child(field), errors);
    }
}

/// A field that must not change.
pub(crate) fn immutable(new: &Value, old: &Value, path: &Path, errors: &mut ErrorList) {
    if new != old {
        errors.invalid(path, show(new), IMMUTABLE);
    }
}

/// Labels, or a map that is compared with labels.
pub(crate) fn labels(map: &Value, path: &Path, errors: &mut ErrorList) {
    for (key, value) in map.as_object().into_iter().flatten() {
        named(key, names::qualified_name, path, errors);
        named(value.as_str().unwrap_or_default(), names::label_value, path, errors);
    }
}

/// Annotations; upstream counts keys and values together.
pub(crate) fn annotations(map: &Value, path: &Path, errors: &mut ErrorList) {
    const MAX_BYTES: usize = 256 * 1024;
    let mut bytes = 0;
    for (key, value) in map.as_object().into_iter().flatten() {
        named(&key.to_lowercase(), names::qualified_name, path, errors);
        bytes += key.len() + value.as_str().map_or(0, str::len);
    }
    if bytes > MAX_BYTES {
        errors.too_long(path, MAX_BYTES);
    }
}

/// A label selector in its object form; null is fine.
pub(crate) fn label_selector(selector: &Value, path: &Path, errors: &mut ErrorList) {
    labels(&selector["matchLabels"], &path.child("matchLabels"), errors);
    for (i, term) in items(selector, "matchExpressions").enumerate() {
        requirement(term, &path.child("matchExpressions").index(i), errors);
    }
}

fn requirement(term: &Value, at: &Path, errors: &mut ErrorList) {
    let values = at.child("values");
    match text(term, "operator") {
        "In" | "NotIn" if !any(term, "values") => {
            errors.required(&values, "must be specified when `operator` is 'In' or 'NotIn'");
        }
        "Exists" | "DoesNotExist" if any(term, "values") => {
            errors.forbidden(
                &values,
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            );
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => errors.invalid(&at.child("operator"), quoted(other), "not a valid selector operator"),
    }
    named(text(term, "key"), names::qualified_name, &at.child("key"), errors);
    for (i, value) in items(term, "values").enumerate() {
        let value = value.as_str().unwrap_or_default();
        named(value, names::label_value, &values.index(i), errors);
    }
}

/// What is wrong with the name of a port.
pub(crate) fn port_name(name: &str) -> Vec<String> {
    let mut out = Vec::new();
    let mut add = |wrong: bool, words: &str| {
        if wrong {
            out.push(words.to_owned());
        }
    };
    let fine = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    add(name.len() > 15, "must be no more than 15 characters");
    add(
        name.is_empty() || !name.bytes().all(fine),
        "must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
    );
    add(
        !name.bytes().any(|b| b.is_ascii_lowercase()),
        "must contain at least one letter (a-z)",
    );
    add(name.contains("--"), "must not contain consecutive hyphens");
    add(
        name.starts_with('-') || name.ends_with('-'),
        "must not begin or end with a hyphen",
    );
    out
}

/// A port by number or by name.
pub(crate) fn port(value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::String(name) => named(name, port_name, path, errors),
        other => {
            let n = other.as_i64().unwrap_or(0);
            if !(1..=65_535).contains(&n) {
                errors.invalid(path, n, PORT_RANGE);
            }
        }
    }
}

/// An address.
pub(crate) fn ip(value: &str, path: &Path, errors: &mut ErrorList) -> Option<IpAddr> {
    let parsed = value.parse::<IpAddr>().ok();
    if parsed.is_none() {
        errors.invalid(
            path,
            quoted(value),
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    parsed
}

/// The address and the length of a network's prefix; `None` when it is no network.
pub(crate) fn parse_cidr(value: &str) -> Option<(IpAddr, u8)> {
    let (address, length) = value.split_once('/')?;
    let (address, bits) = (address.parse::<IpAddr>().ok()?, length.parse::<u8>().ok()?);
    let most = if address.is_ipv4() { 32 } else { 128 };
    // `+8` and `08` are numbers to Rust, but not to Go.
    (bits <= most && bits.to_string() == length).then_some((address, bits))
}

/// A network.
pub(crate) fn cidr(value: &str, path: &Path, errors: &mut ErrorList) -> Option<(IpAddr, u8)> {
    let parsed = parse_cidr(value);
    if parsed.is_none() {
        errors.invalid(
            path,
            quoted(value),
            "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
        );
    }
    parsed
}

/// The first address of a network.
pub(crate) fn network(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits.min(32))).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits.min(128))).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// Whether an address lies in a network.
pub(crate) fn contains((address, bits): (IpAddr, u8), inner: IpAddr) -> bool {
    address.is_ipv4() == inner.is_ipv4() && network(address, bits) == network(inner, bits)
}

/// A quantity as a client may write it: a text or a number.
pub(crate) fn quantity(value: &Value) -> Option<Quantity> {
    match value {
        Value::String(s) => s.parse().ok(),
        Value::Number(n) => n.to_string().parse().ok(),
        _ => None,
    }
}

/// A number, or a percentage of something.
pub(crate) fn amount(value: &Value, path: &Path, errors: &mut ErrorList) {
    match value {
        Value::Null => {}
        Value::String(s) => {
            let digits = s.strip_suffix('%').unwrap_or_default();
            if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
                errors.invalid(
                    path,
                    quoted(s),
                    "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', \
                     regex used for validation is '[0-9]+%')",
                );
            }
        }
        other => match other.as_i64() {
            Some(n) if n < 0 => errors.invalid(path, n, NOT_NEGATIVE),
            Some(_) => {}
            None => errors.invalid(path, other, "must be an integer or percentage (e.g '5%')"),
        },
    }
}

/// The number before the `%`, if it is a percentage.
pub(crate) fn percent(value: &Value) -> Option<i64> {
    value.as_str()?.strip_suffix('%')?.parse().ok()
}

/// A percentage may not be more than everything.
pub(crate) fn not_over_100(value: &Value, path: &Path, errors: &mut ErrorList) {
    if percent(value).is_some_and(|n| n > 100) {
        errors.invalid(path, show(value), "must not be greater than 100%");
    }
}

/// A text in tests: all errors, joined.
#[cfg(test)]
pub(crate) fn expect(errors: &ErrorList, words: &str) {
    let all = errors.to_string();
    assert!(all.contains(words), "{words}\n  is not in\n{all}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn ports_by_name_and_number() {
        for (value, words) in [
            (json!(0), "p: Invalid value: 0: must be between 1 and 65535, inclusive"),
            (json!("x--y"), "must not contain consecutive hyphens"),
            (json!("123"), "must contain at least one letter (a-z)"),
            (json!("-a"), "must not begin or end with a hyphen"),
            (json!("a123456789012345"), "must be no more than 15 characters"),
        ] {
            let mut errors = ErrorList::new();
            port(&value, &Path::new("p"), &mut errors);
            expect(&errors, words);
        }
        let mut errors = ErrorList::new();
        port(&json!("http"), &Path::new("p"), &mut errors);
        port(&json!(80), &Path::new("p"), &mut errors);
        assert!(errors.is_empty());
    }

    #[test]
    fn networks_and_selectors() {
        assert!(parse_cidr("10.0.0.0/8").is_some() && parse_cidr("fd00::/64").is_some());
        assert!(
            ["10.0.0.0", "10.0.0.0/33", "10.0.0.0/+8", "x/8"]
                .iter()
                .all(|c| parse_cidr(c).is_none())
        );
        let mut errors = ErrorList::new();
        label_selector(
            &json!({"matchLabels": {"a b": "c"}, "matchExpressions": [{"key": "k", "operator": "In"}]}),
            &Path::new("s"),
            &mut errors,
        );
        expect(
            &errors,
            "s.matchLabels: Invalid value: \"a b\": name part must consist of",
        );
        expect(
            &errors,
            "s.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
        );
    }
}
