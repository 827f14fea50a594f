//! Messages that are something else than objects in JSON: written from it.
//! Must not panic on any input.

use jiff::Timestamp;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeSeed, Error, MapAccess, SeqAccess};

use super::encode::{Fields, Text};
use super::table::{Field, Special, Type, table};
use super::write::{close, key, number, open, text};

/// `Quantity`.
pub(super) fn quantity(out: &mut Vec<u8>, field: u32, value: &str) {
    key(out, field, 2);
    let at = open(out);
    text(out, 1, value.as_bytes());
    close(out, at);
}

/// `IntOrString` that is a number.
pub(super) fn int(out: &mut Vec<u8>, field: u32, value: i64) {
    key(out, field, 2);
    let at = open(out);
    number(out, 1, 0);
    number(out, 2, value);
    text(out, 3, b"");
    close(out, at);
}

/// `IntOrString` that is a string.
pub(super) fn string(out: &mut Vec<u8>, field: u32, value: &str) {
    key(out, field, 2);
    let at = open(out);
    number(out, 1, 1);
    number(out, 2, 0);
    text(out, 3, value.as_bytes());
    close(out, at);
}

/// `Time` and `MicroTime`.
pub(super) fn time(out: &mut Vec<u8>, field: u32, value: &str) -> Result<(), jiff::Error> {
    let (seconds, nanos) = match plain_time(value.as_bytes()) {
        Some(seconds) => (seconds, 0),
        None => {
            let at: Timestamp = value.parse()?;
            let (seconds, nanos) = (at.as_second(), i64::from(at.subsec_nanosecond()));
            // Before 1970 a fraction counts down there, and up here.
            if nanos < 0 {
                (seconds - 1, nanos + 1_000_000_000)
            } else {
                (seconds, nanos)
            }
        }
    };
    key(out, field, 2);
    let open = open(out);
    number(out, 1, seconds);
    number(out, 2, nanos);
    close(out, open);
    Ok(())
}

/// Seconds of a time that is written as nearly all are: `2026-03-04T05:06:07Z`. Objects are full of
/// them, and a general parser would take a tenth of the time that it takes to write an object.
fn plain_time(text: &[u8]) -> Option<i64> {
    let [
        y1,
        y2,
        y3,
        y4,
        b'-',
        m1,
        m2,
        b'-',
        d1,
        d2,
        b'T',
        h1,
        h2,
        b':',
        i1,
        i2,
        b':',
        s1,
        s2,
        b'Z',
    ] = *text
    else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0i64, |n, d| d.is_ascii_digit().then(|| n * 10 + i64::from(d - b'0')))
    };
    let (year, month, day) = (number(&[y1, y2, y3, y4])?, number(&[m1, m2])?, number(&[d1, d2])?);
    let (hour, minute, second) = (number(&[h1, h2])?, number(&[i1, i2])?, number(&[s1, s2])?);
    // Days that not every month has, and leap seconds, are left to the parser.
    if !(1..=12).contains(&month) || !(1..=28).contains(&day) || hour > 23 || minute > 59 || second > 59 || year < 1 {
        return None;
    }
    // Years begin in March, so that the day that comes and goes is their last.
    let year = if month > 2 { year } else { year - 1 };
    let days_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + days_of_year - 719_468;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

/// `Duration`; one that is none is nothing.
pub(super) fn duration(out: &mut Vec<u8>, field: u32, value: &str) {
    let Some(nanos) = parse_duration(value) else {
        return;
    };
    key(out, field, 2);
    let at = open(out);
    number(out, 1, nanos);
    close(out, at);
}

/// Go's durations: `1h2m3.5s`.
fn parse_duration(value: &str) -> Option<i64> {
    let (mut rest, negative) = match value.strip_prefix('-') {
        Some(rest) => (rest, true),
        None => (value, false),
    };
    let mut total = 0.0;
    while rest != "0" && !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "h" => 3.6e12,
                "m" => 6e10,
                "s" => 1e9,
                "ms" => 1e6,
                "us" | "µs" => 1e3,
                "ns" => 1.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    let total = total.round() as i64;
    Some(if negative { -total } else { total })
}

/// `JSONSchemaPropsOrBool` that is a boolean.
pub(super) fn allows(out: &mut Vec<u8>, field: u32, value: bool) {
    key(out, field, 2);
    let at = open(out);
    number(out, 1, i64::from(value));
    close(out, at);
}

/// An item of a list that was null: the zero value.
pub(super) fn empty(out: &mut Vec<u8>, field: &Field) {
    match field.kind {
        Type::Bool | Type::Int => number(out, field.number, 0),
        Type::Double => {
            key(out, field.number, 1);
            out.extend_from_slice(&[0; 8]);
        }
        _ => text(out, field.number, b""),
    }
}

/// A message that may hold a schema, where it does.
pub(super) fn schema<'de, A: MapAccess<'de>>(
    out: &mut Vec<u8>,
    field: Field,
    special: Special,
    map: A,
) -> Result<(), A::Error> {
    let number_of_schema = match special {
        Special::SchemaOrBool => 2,
        Special::SchemaOrArray | Special::SchemaOrTexts => 1,
        _ => return Err(A::Error::custom(format_args!("{}: unexpected object", field.name))),
    };
    key(out, field.number, 2);
    let at = open(out);
    if special == Special::SchemaOrBool {
        number(out, 1, 1);
    }
    key(out, number_of_schema, 2);
    let inner = open(out);
    let fields = Fields {
        message: table().get(table().schema),
        out,
        managed: None,
    };
    fields.deserialize(MapAccessDeserializer::new(map))?;
    close(out, inner);
    close(out, at);
    Ok(())
}

/// A message that may hold a list, where it does.
pub(super) fn list<'de, A: SeqAccess<'de>>(
    out: &mut Vec<u8>,
    field: Field,
    special: Special,
    mut seq: A,
) -> Result<(), A::Error> {
    key(out, field.number, 2);
    let at = open(out);
    match special {
        Special::Texts | Special::SchemaOrTexts => {
            let inner = if special == Special::Texts { 1 } else { 2 };
            while let Some(item) = seq.next_element_seed(Text)? {
                text(out, inner, item.as_bytes());
            }
        }
        Special::SchemaOrArray => while seq.next_element_seed(Item(out))?.is_some() {},
        _ => return Err(A::Error::custom(format_args!("{}: unexpected list", field.name))),
    }
    close(out, at);
    Ok(())
}

/// A schema in a list of them.
struct Item<'o>(&'o mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Item<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        key(self.0, 2, 2);
        let at = open(self.0);
        let fields = Fields {
            message: table().get(table().schema),
            out: self.0,
            managed: None,
        };
        fields.deserialize(d)?;
        close(self.0, at);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{parse_duration, plain_time};

    #[test]
    fn plain_times_are_read_as_the_parser_reads_them() {
        let mut at = jiff::Timestamp::from_second(-60_000_000_000).unwrap();
        for _ in 0..30_000 {
            let text = meta::time::rfc3339(at);
            if let Some(seconds) = plain_time(text.as_bytes()) {
                assert_eq!(seconds, at.as_second(), "{text}");
            }
            at += jiff::SignedDuration::from_secs(7_654_321);
        }
        assert_eq!(plain_time(b"1970-01-01T00:00:00Z"), Some(0));
        for odd in [
            "2026-03-04T05:06:60Z",
            "2026-13-04T05:06:07Z",
            "2026-03-04T05:06:07+",
            "",
            "2026-03-0aT05:06:07Z",
        ] {
            assert_eq!(plain_time(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn durations_are_read_as_go_prints_them() {
        assert_eq!(parse_duration("1h2m3.5s"), Some(3_723_500_000_000));
        assert_eq!(parse_duration("-5ms"), Some(-5_000_000));
        assert_eq!(parse_duration("0s"), Some(0));
        assert_eq!(parse_duration("soon"), None);
    }
}
