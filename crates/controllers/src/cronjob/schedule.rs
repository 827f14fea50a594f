//! Cron schedules: five fields, names, ranges, steps, `@hourly` and its like, `@every`.
//!
//! Must not read a clock. A time that a change of the clocks skips is skipped.

use jiff::civil::{DateTime, Weekday};
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Span, Timestamp, ToSpan};

/// See the module.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Schedule {
    /// At matching minutes.
    Fields(Fields),
    /// At a distance from the last time.
    Every(SignedDuration),
}

/// A bit for each number that matches.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fields {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Whether days of the month or of the week are unrestricted: if not, one of them suffices.
    any_day: bool,
}

const MONTHS: [&str; 12] = [
    "jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec",
];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// A schedule without a time in so many years never comes.
const YEARS: i16 = 5;

impl Schedule {
    /// Reads a schedule.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if let Some(text) = text.strip_prefix("@every ") {
            return duration(text.trim()).map(Schedule::Every);
        }
        let text = match text {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            text => text,
        };
        let parts: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = parts.as_slice() else {
            return None;
        };
        let (days, any_day) = field(days, 1, 31, &[])?;
        let (weekdays, any_weekday) = field(weekdays, 0, 7, &WEEKDAYS)?;
        Some(Schedule::Fields(Fields {
            minutes: field(minutes, 0, 59, &[])?.0,
            hours: field(hours, 0, 23, &[])?.0,
            days,
            months: field(months, 1, 12, &MONTHS)?.0,
            // Sunday is 0 and 7.
            weekdays: weekdays | (weekdays >> 7),
            any_day: any_day || any_weekday,
        }))
    }

    /// The first time after `after`.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        match self {
            Schedule::Every(every) => after.checked_add(*every).ok(),
            Schedule::Fields(fields) => fields.next(after, zone),
        }
    }

    /// The last time after `since` that is not after `now`.
    pub fn last(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        if let Schedule::Every(every) = self {
            let times = now.duration_since(since).as_secs() / every.as_secs().max(1);
            let whole = i32::try_from(times).ok().filter(|t| *t > 0)?;
            return since.checked_add(every.checked_mul(whole)?).ok();
        }
        // From ever further back, so that a long pause does not cost a step for each missed time.
        let mut back = SignedDuration::from_mins(2);
        loop {
            let from = now.checked_sub(back).map_or(since, |t| t.max(since));
            let mut found = self.next(from, zone).filter(|t| *t <= now);
            if let Some(mut last) = found {
                while let Some(next) = self.next(last, zone).filter(|t| *t <= now) {
                    last = next;
                }
                found = Some(last);
            }
            if found.is_some() || from <= since {
                return found;
            }
            back = back.checked_mul(2)?;
        }
    }

    /// How many times there are after `since` and not after `now`, at most `most`.
    pub fn count(&self, since: Timestamp, now: Timestamp, zone: &TimeZone, most: usize) -> usize {
        let first = self.next(since, zone);
        let times = std::iter::successors(first, |t| self.next(*t, zone));
        times.take_while(|t| *t <= now).take(most).count()
    }
}

impl Fields {
    fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let local = zone.to_datetime(after);
        let minute = local.date().at(local.hour(), local.minute(), 0, 0);
        let mut time = minute.checked_add(1.minute()).ok()?;
        let end = time.checked_add(Span::new().years(YEARS)).ok()?;
        while time <= end {
            if let Some(later) = self.skip(time) {
                time = later?;
                continue;
            }
            let ambiguous = zone.to_ambiguous_zoned(time);
            // In a gap there is no such time; of two, the first that is still to come.
            if !matches!(ambiguous.offset(), AmbiguousOffset::Gap { .. }) {
                let both = [ambiguous.clone().earlier(), ambiguous.later()];
                let found = both.into_iter().flatten().map(|z| z.timestamp()).find(|t| *t > after);
                if found.is_some() {
                    return found;
                }
            }
            time = time.checked_add(1.minute()).ok()?;
        }
        None
    }

    /// Where to go on from a time that does not match.
    fn skip(&self, time: DateTime) -> Option<Option<DateTime>> {
        let has = |set: u64, n: i8| n >= 0 && set >> n & 1 == 1;
        if !has(self.months, time.month()) {
            let first = time.date().first_of_month().at(0, 0, 0, 0);
            return Some(first.checked_add(1.month()).ok());
        }
        if !self.is_day(time) {
            return Some(time.date().at(0, 0, 0, 0).checked_add(1.day()).ok());
        }
        if !has(self.hours, time.hour()) {
            return Some(time.date().at(time.hour(), 0, 0, 0).checked_add(1.hour()).ok());
        }
        (!has(self.minutes, time.minute())).then(|| time.checked_add(1.minute()).ok())
    }

    fn is_day(&self, time: DateTime) -> bool {
        let weekday: Weekday = time.weekday();
        let day = self.days >> time.day() & 1 == 1;
        let weekday = self.weekdays >> weekday.to_sunday_zero_offset() & 1 == 1;
        if self.any_day { day && weekday } else { day || weekday }
    }
}

/// The numbers of a field, and whether it is unrestricted.
fn field(text: &str, min: u32, max: u32, names: &[&str]) -> Option<(u64, bool)> {
    let (mut set, mut any) = (0, false);
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => (range, Some(step.parse::<u32>().ok().filter(|s| *s > 0)?)),
            None => (part, None),
        };
        let number = |text: &str| -> Option<u32> {
            let lower = text.to_ascii_lowercase();
            let named = names.iter().position(|n| *n == lower);
            let number = match named.and_then(|i| u32::try_from(i).ok()) {
                Some(i) => i + min,
                None => text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))?,
            };
            (min..=max).contains(&number).then_some(number)
        };
        let (first, last) = match range.split_once('-') {
            _ if range == "*" || range == "?" => {
                any |= step.is_none_or(|s| s == 1);
                // A week has seven days, whichever number Sunday has.
                (min, if max == 7 { 6 } else { max })
            }
            Some((first, last)) => (number(first)?, number(last)?),
            None if step.is_some() => (number(range)?, if max == 7 { 6 } else { max }),
            None => (number(range)?, number(range)?),
        };
        if first > last {
            return None;
        }
        for n in (first..=last).step_by(usize::try_from(step.unwrap_or(1)).ok()?) {
            set |= 1 << n;
        }
    }
    Some((set, any))
}

/// `1h30m`, in whole seconds and one at least.
fn duration(text: &str) -> Option<SignedDuration> {
    let (mut total, mut number) = (0i64, String::new());
    for c in text.chars() {
        if c.is_ascii_digit() {
            number.push(c);
            continue;
        }
        let unit = match c {
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(unit)?)?;
        number.clear();
    }
    (number.is_empty() && total > 0).then(|| SignedDuration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(text: &str, after: &str, zone: &TimeZone) -> String {
        let after: Timestamp = after.parse().unwrap();
        let found = Schedule::parse(text).unwrap().next(after, zone);
        found.map_or_else(|| "never".to_owned(), |t| t.to_string())
    }

    #[test]
    fn times_are_found() {
        // 2026-01-01 is a Thursday.
        let after = "2026-01-01T10:20:30Z";
        for (text, want) in [
            ("* * * * *", "2026-01-01T10:21:00Z"),
            ("*/15 * * * *", "2026-01-01T10:30:00Z"),
            ("5/20 * * * *", "2026-01-01T10:25:00Z"),
            ("0 9-17/4 * * *", "2026-01-01T13:00:00Z"),
            ("30 8 * * mon-Fri", "2026-01-02T08:30:00Z"),
            ("0 0 * * 7", "2026-01-04T00:00:00Z"),
            ("0 0 29 2 *", "2028-02-29T00:00:00Z"),
            ("0 0 31 2 ?", "never"),
            // Either day suffices when both are restricted.
            ("0 0 13 * FRI", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * FRI", "2026-01-02T00:00:00Z"),
            ("0 12 1 jan,JUL *", "2026-01-01T12:00:00Z"),
            ("@hourly", "2026-01-01T11:00:00Z"),
            ("@weekly", "2026-01-04T00:00:00Z"),
            ("@yearly", "2027-01-01T00:00:00Z"),
            ("@every 1h30m", "2026-01-01T11:50:30Z"),
        ] {
            assert_eq!(next(text, after, &TimeZone::UTC), want, "{text}");
        }
    }

    #[test]
    fn junk_is_refused() {
        for text in [
            "",
            "* * * *",
            "* * * * * *",
            "60 * * * *",
            "* 24 * * *",
            "* * 0 * *",
            "5-1 * * * *",
            "*/0 * * * *",
            "a * * * *",
            "@never",
            "@every x",
            "@every 5",
            "+5 * * * *",
            "1, * * * *",
        ] {
            assert_eq!(Schedule::parse(text), None, "{text}");
        }
    }

    #[test]
    fn clocks_that_change_are_followed() {
        // A zone given by its rules, so that no data base is needed.
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").unwrap();
        // On 29 March 2:30 does not exist.
        assert_eq!(
            next("30 2 * * *", "2026-03-28T12:00:00Z", &berlin),
            "2026-03-30T00:30:00Z"
        );
        assert_eq!(
            next("0 12 * * *", "2026-03-28T12:00:00Z", &berlin),
            "2026-03-29T10:00:00Z"
        );
        // On 25 October 2:30 comes twice.
        assert_eq!(
            next("30 2 * * *", "2026-10-24T12:00:00Z", &berlin),
            "2026-10-25T00:30:00Z"
        );
        assert_eq!(
            next("30 2 * * *", "2026-10-25T00:30:00Z", &berlin),
            "2026-10-26T01:30:00Z"
        );
    }

    #[test]
    fn the_last_time_is_found_however_long_ago() {
        let at = |t: &str| t.parse::<Timestamp>().unwrap();
        let (since, now) = (at("2020-01-01T00:00:00Z"), at("2026-01-01T10:20:30Z"));
        for (text, want) in [
            ("* * * * *", Some("2026-01-01T10:20:00Z")),
            ("0 0 1 3 *", Some("2025-03-01T00:00:00Z")),
            ("0 0 31 2 *", None),
            ("@every 1h", Some("2026-01-01T10:00:00Z")),
        ] {
            let schedule = Schedule::parse(text).unwrap();
            assert_eq!(schedule.last(since, now, &TimeZone::UTC), want.map(at), "{text}");
        }
        let every_minute = Schedule::parse("* * * * *").unwrap();
        assert_eq!(every_minute.count(since, now, &TimeZone::UTC, 101), 101);
        assert_eq!(every_minute.last(now, now, &TimeZone::UTC), None);
    }
}
