//! CBOR to JSON values: request bodies. Takes what other encoders write too:
//! text strings, lengths that come last, times as tags; refuses what JSON
//! cannot say.
//!
//! Must not panic, recurse without bound or allocate by announced lengths.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use jiff::Timestamp;
use meta::{Status, time};
use serde_json::{Map, Number, Value};

/// Deepest nesting taken; that of the JSON reader.
const DEPTH: usize = 128;
/// "As base64url", "as base64", "as base16": how bytes are shown in JSON.
const LATER: std::ops::RangeInclusive<u64> = 21..=23;

fn bad(why: &str) -> Status {
    Status::bad_request(format!("the body is not valid CBOR: {why}"))
}

/// Decodes a document.
pub(crate) fn decode(body: &[u8]) -> Result<Value, Status> {
    let mut reader = Reader(body);
    let value = reader.value(None, DEPTH)?;
    if reader.0.is_empty() {
        return Ok(value);
    }
    Err(bad("something follows it"))
}

/// What is left to read.
struct Reader<'a>(&'a [u8]);

/// The first bytes of an item: its major type, and its number; none for an open length.
struct Head {
    major: u8,
    short: u8,
    number: Option<u64>,
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: u64) -> Result<&'a [u8], Status> {
        let n = usize::try_from(n).map_err(|_| bad("it is cut off"))?;
        let (taken, rest) = self.0.split_at_checked(n).ok_or_else(|| bad("it is cut off"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn head(&mut self) -> Result<Head, Status> {
        let first = self.take(1)?[0];
        let (major, short) = (first >> 5, first & 31);
        let number = match short {
            0..24 => Some(u64::from(short)),
            24..28 => {
                let bytes = self.take(1 << (short - 24))?;
                Some(bytes.iter().fold(0, |n, byte| n << 8 | u64::from(*byte)))
            }
            31 => None,
            _ => return Err(bad("a length is malformed")),
        };
        Ok(Head { major, short, number })
    }

    /// Whether what was begun without a length ends here.
    fn ends(&mut self) -> bool {
        let ends = self.0.first() == Some(&super::cbor::BREAK);
        if ends {
            self.0 = &self.0[1..];
        }
        ends
    }

    fn value(&mut self, later: Option<u64>, depth: usize) -> Result<Value, Status> {
        let depth = depth.checked_sub(1).ok_or_else(|| bad("it is nested too deep"))?;
        let head = self.head()?;
        match (head.major, head.number) {
            (0, Some(n)) => i64::try_from(n)
                .map(Value::from)
                .map_err(|_| bad("a number is too large")),
            (1, Some(n)) => i64::try_from(n)
                .map(|n| Value::from(!n))
                .map_err(|_| bad("a number is too large")),
            (2 | 3, _) => {
                let bytes = self.bytes(&head)?;
                string(head.major, bytes, later).map(Value::String)
            }
            (4, length) => {
                let mut list = Vec::new();
                while !self.over(length, list.len()) {
                    list.push(self.value(later, depth)?);
                }
                Ok(Value::Array(list))
            }
            (5, length) => {
                let mut map = Map::new();
                while !self.over(length, map.len()) {
                    let Value::String(name) = self.value(None, 1)? else {
                        return Err(bad("a key is no string"));
                    };
                    if map.insert(name, self.value(later, depth)?).is_some() {
                        return Err(bad("a key stands twice"));
                    }
                }
                Ok(Value::Object(map))
            }
            (6, Some(tag)) => self.tagged(tag, later, depth),
            (7, Some(n)) => simple(head.short, n),
            _ => Err(bad("an item is malformed")),
        }
    }

    fn over(&mut self, length: Option<u64>, so_far: usize) -> bool {
        match length {
            Some(n) => so_far as u64 >= n,
            None => self.ends(),
        }
    }

    fn bytes(&mut self, head: &Head) -> Result<Vec<u8>, Status> {
        if let Some(length) = head.number {
            return Ok(self.take(length)?.to_vec());
        }
        let mut out = Vec::new();
        while !self.ends() {
            let part = self.head()?;
            let Some(length) = part.number.filter(|_| part.major == head.major) else {
                return Err(bad("a part of a string is none"));
            };
            out.extend_from_slice(self.take(length)?);
        }
        Ok(out)
    }

    fn tagged(&mut self, tag: u64, later: Option<u64>, depth: usize) -> Result<Value, Status> {
        match tag {
            2 | 3 => Err(bad("a number is too large")),
            1 => {
                let value = self.value(None, depth)?;
                let at = match value.as_i64() {
                    Some(seconds) => Timestamp::from_second(seconds),
                    None => {
                        let nanos = value.as_f64().ok_or_else(|| bad("a time is no number"))? * 1e9;
                        Timestamp::from_nanosecond(nanos as i128)
                    }
                };
                let at = at.map_err(|_| bad("a time is out of range"))?;
                Ok(time::rfc3339(at).into())
            }
            tag if LATER.contains(&tag) => self.value(Some(tag), depth),
            // Tag 0 says a string is a time, 55799 that this is CBOR; others say nothing to JSON.
            _ => self.value(later, depth),
        }
    }
}

fn string(major: u8, bytes: Vec<u8>, later: Option<u64>) -> Result<String, Status> {
    match (major, later) {
        (2, Some(21)) => Ok(URL_SAFE.encode(bytes).trim_end_matches('=').to_owned()),
        (2, Some(22)) => Ok(STANDARD.encode(bytes)),
        (2, Some(_)) => Ok(bytes.iter().map(|b| format!("{b:02X}")).collect()),
        _ => String::from_utf8(bytes).map_err(|_| bad("a string is not UTF-8")),
    }
}

fn simple(short: u8, n: u64) -> Result<Value, Status> {
    let number = match short {
        20 => return Ok(Value::Bool(false)),
        21 => return Ok(Value::Bool(true)),
        22 => return Ok(Value::Null),
        25 => half(n as u16),
        26 => f64::from(f32::from_bits(n as u32)),
        27 => f64::from_bits(n),
        _ => return Err(bad("a simple value is unknown")),
    };
    Number::from_f64(number)
        .map(Value::Number)
        .ok_or_else(|| bad("a number is not finite"))
}

/// A number of sixteen bits: sign, five of exponent, ten of fraction.
fn half(bits: u16) -> f64 {
    let (exponent, fraction) = (i32::from(bits >> 10 & 31), f64::from(bits & 0x3ff));
    let size = match exponent {
        0 => fraction * 2f64.powi(-24),
        31 => f64::INFINITY,
        _ => (1024.0 + fraction) * 2f64.powi(exponent - 25),
    };
    if bits >> 15 == 1 { -size } else { size }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_others_write_is_read() {
        // {"a": [1, -2, 1.5, true, null]}, open lengths, text strings.
        let open = b"\xd9\xd9\xf7\xbf\x61a\x9f\x01\x21\xf9\x3e\x00\xf5\xf6\xff\xff";
        assert_eq!(decode(open).unwrap(), json!({"a": [1, -2, 1.5, true, null]}));
        assert_eq!(decode(b"\x5f\x41a\x42bc\xff").unwrap(), json!("abc"));
        // Bytes that are base64 in JSON, and a time as a number.
        assert_eq!(decode(b"\xd6\x43\x00\x01\x02").unwrap(), json!("AAEC"));
        assert_eq!(decode(b"\xc1\x00").unwrap(), json!("1970-01-01T00:00:00Z"));
        assert_eq!(decode(b"\xf9\x7b\xff").unwrap(), json!(65504.0));
    }

    #[test]
    fn what_json_cannot_say_is_refused() {
        let deep = [0x81; 200];
        for junk in [
            &b""[..],
            b"\x1b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\xf9\x7c\x00",
            b"\xf9\x7e\x00",
            b"\xf7",
            b"\xa2\x41a\x01\x41a\x02",
            b"\xa1\x01\x02",
            b"\x9b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x5b\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x41\xff",
            b"\x01\x01",
            b"\xc2\x41\x01",
            b"\xff",
            b"\x5f\x61a\xff",
            &deep,
        ] {
            assert!(decode(junk).is_err(), "{junk:x?}");
        }
    }
}
