//! API times: RFC 3339 in UTC, whole seconds (`metav1.Time`) or microseconds
//! (`metav1.MicroTime`). Must not read a clock.

use jiff::Timestamp;

/// `2026-01-02T03:04:05Z`.
pub fn rfc3339(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2026-01-02T03:04:05.000006Z`.
pub fn rfc3339_micro(t: Timestamp) -> String {
    t.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// Parses what [`rfc3339`] and [`rfc3339_micro`] print, and offsets too.
pub fn parse(s: &str) -> Option<Timestamp> {
    s.parse().ok()
}

/// An age as `kubectl get` prints it: `5s`, `3m20s`, `4h`, `2d3h`, `400d`, `3y10d`.
pub fn human_duration(seconds: i64) -> String {
    let (s, m, h, d) = (seconds, seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        i64::MIN..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{s}s"),
        120..600 => pair(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => pair(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => pair(d, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{d}d"),
        63_072_000..252_288_000 => pair(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

fn pair(a: i64, au: &str, b: i64, bu: &str) -> String {
    if b == 0 {
        format!("{a}{au}")
    } else {
        format!("{a}{au}{b}{bu}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_as_kubectl_prints_them() {
        for (s, text) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (125, "2m5s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (8 * 3600 + 60, "8h"),
            (2 * 86_400 + 3600, "2d1h"),
            (8 * 86_400, "8d"),
            (730 * 86_400, "2y"),
        ] {
            assert_eq!(human_duration(s), text);
        }
    }

    #[test]
    fn times_round_trip() {
        let t = parse("2026-01-02T03:04:05Z").unwrap();
        assert_eq!(rfc3339(t), "2026-01-02T03:04:05Z");
        assert_eq!(rfc3339_micro(t), "2026-01-02T03:04:05.000000Z");
        assert_eq!(parse("yesterday"), None);
    }
}
