//! String formats of OpenAPI. Must not know more of them than it can check truly:
//! an unknown format passes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Whether a string is of a format.
pub(crate) fn matches(format: &str, s: &str) -> bool {
    match format {
        "byte" => bad_base64(s).is_none(),
        "date" => s.parse::<jiff::civil::Date>().is_ok() && s.len() == 10,
        "date-time" | "datetime" => meta::time::parse(s).is_some(),
        "ipv4" => s.parse::<Ipv4Addr>().is_ok(),
        "ipv6" => s.parse::<Ipv6Addr>().is_ok(),
        "cidr" => is_cidr(s),
        "email" => is_email(s),
        "hostname" => meta::names::dns1123_subdomain(&s.to_ascii_lowercase()).is_empty(),
        "uri" => is_uri(s),
        "mac" => is_mac(s),
        "uuid" => is_uuid(s, None),
        "uuid3" => is_uuid(s, Some(b'3')),
        "uuid4" => is_uuid(s, Some(b'4')),
        "uuid5" => is_uuid(s, Some(b'5')),
        "duration" => is_duration(s),
        "hexcolor" => {
            let digits = s.strip_prefix('#').unwrap_or(s);
            matches!(digits.len(), 3 | 6) && digits.bytes().all(|b| b.is_ascii_hexdigit())
        }
        "k8s-short-name" => meta::names::dns1123_label(s).is_empty(),
        "k8s-long-name" => meta::names::dns1123_subdomain(s).is_empty(),
        _ => true,
    }
}

/// Where base64 breaks; `None` when it is good.
pub(crate) fn bad_base64(s: &str) -> Option<usize> {
    match STANDARD.decode(s) {
        Ok(_) => None,
        Err(base64::DecodeError::InvalidByte(at, _) | base64::DecodeError::InvalidLastSymbol(at, _)) => Some(at),
        Err(_) => Some(s.len()),
    }
}

fn is_cidr(s: &str) -> bool {
    let Some((address, bits)) = s.split_once('/') else {
        return false;
    };
    let most = match address.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.bytes().all(|b| b.is_ascii_digit()) && bits.parse::<u16>().is_ok_and(|b| b <= most)
}

fn is_email(s: &str) -> bool {
    let Some((local, domain)) = s.rsplit_once('@') else {
        return false;
    };
    !local.is_empty() && !domain.is_empty() && !s.contains(char::is_whitespace) && !local.contains('@')
}

fn is_uri(s: &str) -> bool {
    if s.starts_with('/') {
        return !s.contains(char::is_whitespace);
    }
    let Some((scheme, rest)) = s.split_once(':') else {
        return false;
    };
    let plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'-' | b'.');
    scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.bytes().all(plain)
        && !rest.is_empty()
        && !rest.contains(char::is_whitespace)
}

fn is_mac(s: &str) -> bool {
    let separator = if s.contains(':') { ':' } else { '-' };
    let parts: Vec<&str> = s.split(separator).collect();
    matches!(parts.len(), 6 | 8 | 20)
        && parts
            .iter()
            .all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(s: &str, version: Option<u8>) -> bool {
    let hex: Vec<u8> = s.bytes().filter(|b| *b != b'-').collect();
    let dashes_right = matches!(s.len(), 32)
        || s.bytes()
            .enumerate()
            .all(|(i, b)| (b == b'-') == [8, 13, 18, 23].contains(&i));
    hex.len() == 32
        && hex.iter().all(u8::is_ascii_hexdigit)
        && dashes_right
        && version.is_none_or(|v| hex.get(12) == Some(&v))
}

/// Go's `time.ParseDuration`: `1h30m`, `-1.5s`, `0`.
fn is_duration(s: &str) -> bool {
    let mut rest = s.strip_prefix(['+', '-']).unwrap_or(s);
    if rest == "0" {
        return true;
    }
    if rest.is_empty() {
        return false;
    }
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let (number, after) = rest.split_at(digits);
        if number.parse::<f64>().is_err() {
            return false;
        }
        let units = ["ns", "us", "µs", "μs", "ms", "s", "m", "h"];
        // "ms" before "m": the longest unit that fits.
        let unit = units.iter().filter(|u| after.starts_with(**u)).max_by_key(|u| u.len());
        match unit.and_then(|unit| after.strip_prefix(unit)) {
            Some(after) => rest = after,
            None => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn formats_tell_good_from_bad() {
        for (format, good, bad) in [
            ("byte", "aGk=", "a*"),
            ("date", "2026-01-02", "2026-13-02"),
            ("date-time", "2026-01-02T03:04:05Z", "yesterday"),
            ("ipv4", "10.0.0.1", "10.0.0.256"),
            ("ipv6", "::1", "10.0.0.1"),
            ("cidr", "10.0.0.0/8", "10.0.0.0/33"),
            ("email", "a@example.org", "example.org"),
            ("hostname", "a.example.org", "a_b"),
            ("uri", "https://example.org/x", "no uri"),
            ("mac", "52:54:00:12:34:56", "52:54:00"),
            ("uuid", "123e4567-e89b-12d3-a456-426614174000", "123e4567"),
            (
                "uuid4",
                "123e4567-e89b-42d3-a456-426614174000",
                "123e4567-e89b-12d3-a456-426614174000",
            ),
            ("duration", "1h30m0.5s", "1 hour"),
            ("hexcolor", "#ff00aa", "#ggg"),
        ] {
            assert!(matches(format, good), "{format} takes {good}");
            assert!(!matches(format, bad), "{format} refuses {bad}");
        }
        assert!(matches("anything", "else"));
    }
}
