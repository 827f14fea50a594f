//! Resource quantities (`resource.Quantity`): a decimal number with a binary,
//! decimal or exponent suffix, kept exactly and printed canonically.

use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Sub};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A fixed-point number in units of 10^-9, with the suffix family it was written in.
///
/// Range: ±1.7e29, far past upstream's own ±9.2e18. Digits past nano are rounded up,
/// as upstream does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

const NANO: i128 = 1_000_000_000;

/// Why a text is not a quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct QuantityError;

impl Quantity {
    /// A whole number.
    pub fn from_int(n: i64) -> Self {
        Quantity {
            nano: i128::from(n) * NANO,
            format: Format::DecimalSi,
        }
    }

    /// Thousandths, as CPU shares are counted.
    pub fn from_millis(n: i64) -> Self {
        Quantity {
            nano: i128::from(n) * (NANO / 1000),
            format: Format::DecimalSi,
        }
    }

    /// Bytes, printed with binary suffixes.
    pub fn from_bytes(n: i64) -> Self {
        Quantity {
            nano: i128::from(n) * NANO,
            format: Format::BinarySi,
        }
    }

    /// The number rounded up to a whole one (upstream `Value`).
    pub fn value(&self) -> i64 {
        clamp(div_ceil(self.nano, NANO))
    }

    /// Thousandths, rounded up (upstream `MilliValue`).
    pub fn millis(&self) -> i64 {
        clamp(div_ceil(self.nano, NANO / 1000))
    }

    /// Whether the number is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether the number is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }
}

impl Add for Quantity {
    type Output = Self;

    /// The format of the left side is kept unless it is zero.
    fn add(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity {
            nano: self.nano.saturating_add(other.nano),
            format,
        }
    }
}

impl Sub for Quantity {
    type Output = Self;

    /// The format of the left side is kept unless it is zero.
    fn sub(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Quantity {
            nano: self.nano.saturating_sub(other.nano),
            format,
        }
    }
}

fn clamp(n: i128) -> i64 {
    n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Division rounded away from zero, as upstream rounds.
fn div_ceil(a: i128, b: i128) -> i128 {
    let q = a / b;
    match a % b {
        0 => q,
        r if r > 0 => q + 1,
        _ => q - 1,
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
            return Err(QuantityError);
        }
        let (format, scale) = parse_suffix(suffix)?;
        let nano = scaled(whole, fraction, scale).ok_or(QuantityError)?;
        Ok(Quantity {
            nano: if negative { -nano } else { nano },
            format,
        })
    }
}

enum Scale {
    Ten(i32),
    Two(u32),
}

fn parse_suffix(suffix: &str) -> Result<(Format, Scale), QuantityError> {
    let decimal = |e| Ok((Format::DecimalSi, Scale::Ten(e)));
    let binary = |e| Ok((Format::BinarySi, Scale::Two(e)));
    match suffix {
        "" => decimal(0),
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E']).ok_or(QuantityError)?;
            let exponent: i32 = exponent.parse().map_err(|_| QuantityError)?;
            if !(-30..=30).contains(&exponent) {
                return Err(QuantityError);
            }
            Ok((Format::DecimalExponent, Scale::Ten(exponent)))
        }
    }
}

/// The number in nano units, rounded up; `None` when it does not fit.
fn scaled(whole: &str, fraction: &str, scale: Scale) -> Option<i128> {
    let whole = whole.trim_start_matches('0');
    // More digits than fit are dropped from the fraction only after what nano can hold.
    if whole.len() > 28 {
        return None;
    }
    let kept = &fraction[..fraction.len().min(28 - whole.len())];
    let lost = fraction[kept.len()..].bytes().any(|b| b != b'0');
    let digits: i128 = format!("0{whole}{kept}").parse().ok()?;
    let (ten, two) = match scale {
        Scale::Ten(e) => (e, 0),
        Scale::Two(e) => (0, e),
    };
    let shift = ten + 9 - i32::try_from(kept.len()).ok()?;
    let shifted = digits.checked_mul(1i128.checked_shl(two)?)?;
    let nano = if shift >= 0 {
        shifted.checked_mul(10i128.checked_pow(shift.unsigned_abs())?)?
    } else {
        match 10i128.checked_pow(shift.unsigned_abs()) {
            Some(divisor) => div_ceil(shifted, divisor),
            None => i128::from(shifted != 0),
        }
    };
    Some(if lost && nano == 0 { 1 } else { nano })
}

impl fmt::Display for Quantity {
    /// The canonical form: no fraction, the largest suffix that loses nothing.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        // Binary suffixes need whole numbers of at least 1024; upstream falls back to decimal.
        let whole = self.nano % NANO == 0;
        if self.format == Format::BinarySi && whole && (self.nano / NANO).abs() >= 1024 {
            let mut n = self.nano / NANO;
            let mut i = 0;
            while n % 1024 == 0 && i < 6 {
                n /= 1024;
                i += 1;
            }
            return write!(f, "{n}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][i]);
        }
        let (mut n, mut exponent) = (self.nano, -9);
        while n % 1000 == 0 && exponent < 18 {
            n /= 1000;
            exponent += 3;
        }
        if self.format == Format::DecimalExponent && exponent != 0 {
            return write!(f, "{n}e{exponent}");
        }
        let suffix = match exponent {
            -9 => "n",
            -6 => "u",
            -3 => "m",
            0 => "",
            3 => "k",
            6 => "M",
            9 => "G",
            12 => "T",
            15 => "P",
            _ => "E",
        };
        write!(f, "{n}{suffix}")
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    /// A string, or a bare number as YAML authors write them.
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(d)? {
            serde_json::Value::String(s) => s,
            serde_json::Value::Number(n) => n.to_string(),
            _ => return Err(serde::de::Error::custom(QuantityError)),
        };
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(s: &str) -> Quantity {
        s.parse().unwrap_or_else(|_| panic!("{s}"))
    }

    #[test]
    fn canonical_forms() {
        for (text, canonical) in [
            ("0", "0"),
            ("1", "1"),
            ("1000", "1k"),
            ("1500", "1500"),
            ("0.5", "500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("512", "512"),
            ("1Ki", "1Ki"),
            ("1e3", "1e3"),
            ("100m", "100m"),
            ("0.1Mi", "104857600m"),
            ("-2", "-2"),
            (".5", "500m"),
            ("5.", "5"),
            ("1E", "1E"),
            ("12e6", "12e6"),
        ] {
            assert_eq!(q(text).to_string(), canonical, "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        assert_eq!(q("100m").value(), 1);
        assert_eq!(q("1500m").millis(), 1500);
        assert_eq!(q("1.0000000001").to_string(), "1000000001n");
        assert_eq!(q("2Gi").value(), 2 << 30);
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1Gi") + q("1Gi"), q("2Gi"));
    }

    #[test]
    fn junk_is_refused() {
        for text in [
            "", "-", ".", "1.2.3", "1KI", "abc", "1e", "1e99", "1 Gi", "Gi", "0x1", "1mm", "٣",
        ] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
        assert!("9".repeat(60).parse::<Quantity>().is_err());
    }
}
