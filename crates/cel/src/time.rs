//! Moments and durations: reading them, printing them, and the parts of a moment in a zone.

use std::cmp::Ordering;
use std::fmt;

/// A moment between the years 1 and 9999.
#[derive(Clone, Copy, Debug)]
pub struct Timestamp {
    /// Seconds since 1970.
    seconds: i64,
    /// Nanoseconds after them.
    nanos: u32,
    /// Minutes east of UTC it was written with; it is shown with them, and is the same moment without.
    offset: i16,
}

impl PartialEq for Timestamp {
    fn eq(&self, other: &Self) -> bool {
        (self.seconds, self.nanos) == (other.seconds, other.nanos)
    }
}

impl Eq for Timestamp {}

impl PartialOrd for Timestamp {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Timestamp {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.seconds, self.nanos).cmp(&(other.seconds, other.nanos))
    }
}

const FIRST: i64 = -62_135_596_800;
const LAST: i64 = 253_402_300_799;
const DAY: i64 = 86_400;
/// Nanoseconds of a second.
pub(crate) const SECOND: i64 = 1_000_000_000;

/// A moment's parts in some zone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Civil {
    pub year: i64,
    /// From 1.
    pub month: i64,
    /// From 1.
    pub day: i64,
    pub hour: i64,
    pub minute: i64,
    pub second: i64,
    /// Sunday is 0.
    pub weekday: i64,
    /// From 0.
    pub year_day: i64,
}

impl Timestamp {
    /// A moment; `None` outside of the years 1 to 9999.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        let valid = (FIRST..=LAST).contains(&seconds) && i64::from(nanos) < SECOND;
        let offset = 0;
        valid.then_some(Timestamp { seconds, nanos, offset })
    }

    /// Seconds since 1970.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after them.
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Reads RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let field = |from: usize, to: usize| digits(bytes.get(from..to)?);
        let is = |at: usize, set: &[u8]| bytes.get(at).is_some_and(|b| set.contains(b));
        if !(is(4, b"-") && is(7, b"-") && is(10, b"Tt") && is(13, b":") && is(16, b":")) {
            return None;
        }
        let days = date(field(0, 4)?, field(5, 7)?, field(8, 10)?)?;
        let (hour, minute, second) = (field(11, 13)?, field(14, 16)?, field(17, 19)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let mut at = 19;
        let mut nanos = 0i64;
        if is(at, b".") {
            let start = at + 1;
            at = start;
            while bytes.get(at).is_some_and(u8::is_ascii_digit) {
                at += 1;
            }
            let kept = &bytes[start..at.min(start + 9)];
            nanos = digits(kept)? * 10i64.pow(u32::try_from(9 - kept.len()).ok()?);
        }
        let offset = match bytes.get(at)? {
            b'Z' | b'z' if bytes.len() == at + 1 => 0,
            sign @ (b'+' | b'-') if bytes.len() == at + 6 && is(at + 3, b":") => {
                let (hours, minutes) = (field(at + 1, at + 3)?, field(at + 4, at + 6)?);
                if hours > 23 || minutes > 59 {
                    return None;
                }
                let offset = hours * 3600 + minutes * 60;
                if *sign == b'-' { -offset } else { offset }
            }
            _ => return None,
        };
        let seconds = days * DAY + hour * 3600 + minute * 60 + second - offset;
        let parsed = Timestamp::new(seconds, u32::try_from(nanos).ok()?)?;
        let offset = i16::try_from(offset / 60).ok()?;
        Some(Timestamp { offset, ..parsed })
    }

    /// Whether it is the first moment there is, which stands for none.
    pub(crate) fn is_zero(self) -> bool {
        self.seconds == FIRST && self.nanos == 0
    }

    /// Reads a date alone.
    pub fn parse_date(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
            return None;
        }
        let days = date(digits(&bytes[..4])?, digits(&bytes[5..7])?, digits(&bytes[8..])?)?;
        Timestamp::new(days * DAY, 0)
    }

    /// The moment that many nanoseconds later.
    pub(crate) fn plus(self, nanos: i64) -> Option<Self> {
        let total = i128::from(self.seconds) * i128::from(SECOND) + i128::from(self.nanos) + i128::from(nanos);
        let seconds = i64::try_from(total.div_euclid(i128::from(SECOND))).ok()?;
        let later = Timestamp::new(seconds, u32::try_from(total.rem_euclid(i128::from(SECOND))).ok()?)?;
        let offset = self.offset;
        Some(Timestamp { offset, ..later })
    }

    /// Nanoseconds since another moment.
    pub(crate) fn since(self, other: Self) -> Option<i64> {
        let seconds = i128::from(self.seconds) - i128::from(other.seconds);
        i64::try_from(seconds * i128::from(SECOND) + i128::from(self.nanos) - i128::from(other.nanos)).ok()
    }

    /// Its parts in a zone: a name, or an offset such as `+02:00`.
    pub(crate) fn civil(self, zone: Option<&str>) -> Result<Civil, String> {
        let offset = match zone {
            None | Some("" | "UTC") => 0,
            Some(zone) => self.offset(zone)?,
        };
        Ok(civil(self.seconds + offset))
    }

    fn offset(self, zone: &str) -> Result<i64, String> {
        let unknown = || format!("unknown time zone {zone}");
        if let Some((hours, minutes)) = zone.split_once(':') {
            let negative = hours.starts_with('-');
            let hours = hours.strip_prefix(['+', '-']).unwrap_or(hours);
            let hours = digits(hours.as_bytes()).filter(|h| *h < 24).ok_or_else(unknown)?;
            let minutes = digits(minutes.as_bytes()).filter(|m| *m < 60).ok_or_else(unknown)?;
            let offset = hours * 3600 + minutes * 60;
            return Ok(if negative { -offset } else { offset });
        }
        let zone = jiff::tz::TimeZone::get(zone).map_err(|_| unknown())?;
        let moment = jiff::Timestamp::from_second(self.seconds).map_err(|e| e.to_string())?;
        Ok(i64::from(zone.to_offset(moment).seconds()))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let c = civil(self.seconds + i64::from(self.offset) * 60);
        write!(f, "{:04}-{:02}-{:02}T", c.year, c.month, c.day)?;
        write!(f, "{:02}:{:02}:{:02}", c.hour, c.minute, c.second)?;
        if self.nanos > 0 {
            let fraction = format!("{:09}", self.nanos);
            write!(f, ".{}", fraction.trim_end_matches('0'))?;
        }
        if self.offset == 0 {
            return f.write_str("Z");
        }
        let minutes = self.offset.unsigned_abs();
        let sign = if self.offset < 0 { '-' } else { '+' };
        write!(f, "{sign}{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

fn digits(bytes: &[u8]) -> Option<i64> {
    if bytes.is_empty() || bytes.len() > 18 || !bytes.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// Days since 1970 of a date that exists.
fn date(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        1..=12 => 31,
        _ => return None,
    };
    (1..=longest).contains(&day).then(|| days_of(year, month, day))
}

/// Days since 1970; years start in March here, so that the odd day is the last one.
fn days_of(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil(seconds: i64) -> Civil {
    let days = seconds.div_euclid(DAY);
    let rest = seconds.rem_euclid(DAY);
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let of_era = shifted.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Civil {
        year,
        month,
        day: of_year - (153 * shifted_month + 2) / 5 + 1,
        hour: rest / 3600,
        minute: rest / 60 % 60,
        second: rest % 60,
        weekday: (days + 4).rem_euclid(7),
        year_day: days - days_of(year, 1, 1),
    }
}

/// Reads a duration such as `1h2m3.5s`.
pub(crate) fn parse_duration(text: &str) -> Option<i64> {
    let (negative, mut rest) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0i128;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let end = after
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(after.len());
        let (unit, after) = after.split_at(end);
        let nanos = match unit {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => SECOND,
            "m" => 60 * SECOND,
            "h" => 3600 * SECOND,
            _ => return None,
        };
        total = total.checked_add(scaled(number, nanos)?)?;
        rest = after;
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

fn scaled(number: &str, unit: i64) -> Option<i128> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        digits(whole.as_bytes())?.into()
    };
    let kept = &fraction[..fraction.len().min(15)];
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let part: i128 = if kept.is_empty() {
        0
    } else {
        digits(kept.as_bytes())?.into()
    };
    let unit = i128::from(unit);
    Some(whole * unit + part * unit / 10i128.pow(u32::try_from(kept.len()).ok()?))
}

/// Reads a duration as schemas of format `duration` allow it: also `3 days`, `2w`.
pub(crate) fn parse_schema_duration(text: &str) -> Option<i64> {
    if let Some(nanos) = parse_duration(text) {
        return Some(nanos);
    }
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit())?;
    let number = digits(&text.as_bytes()[..end])?;
    let nanos = match text[end..].trim() {
        "ns" | "nano" | "nanos" | "nanosecond" | "nanoseconds" => 1,
        "us" | "µs" | "micro" | "micros" | "microsecond" | "microseconds" => 1_000,
        "ms" | "milli" | "millis" | "millisecond" | "milliseconds" => 1_000_000,
        "s" | "sec" | "secs" | "second" | "seconds" => SECOND,
        "m" | "min" | "mins" | "minute" | "minutes" => 60 * SECOND,
        "h" | "hr" | "hour" | "hours" => 3600 * SECOND,
        "d" | "day" | "days" => DAY * SECOND,
        "w" | "week" | "weeks" | "wk" => 7 * DAY * SECOND,
        _ => return None,
    };
    number.checked_mul(nanos)
}

/// A duration in seconds, as `string()` shows it.
pub(crate) fn show_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (seconds, rest) = (nanos / SECOND.unsigned_abs(), nanos % SECOND.unsigned_abs());
    if rest == 0 {
        return format!("{sign}{seconds}s");
    }
    let fraction = format!("{rest:09}");
    format!("{sign}{seconds}.{}s", fraction.trim_end_matches('0'))
}
