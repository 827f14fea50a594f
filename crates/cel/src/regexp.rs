//! Regular expressions of RE2's dialect on the `regex` crate: linear time, bounded
//! size. Where the dialects differ, the pattern is rewritten.

use regex::{Regex, RegexBuilder};

/// A compiled pattern may take this much memory.
const SIZE_LIMIT: usize = 1 << 20;

/// Compiles a pattern.
pub(crate) fn compile(pattern: &str) -> Result<Regex, String> {
    if let Some(found) = nested_repetition(pattern) {
        return Err(format!("invalid nested repetition operator: `{found}`"));
    }
    RegexBuilder::new(&translate(pattern))
        .size_limit(SIZE_LIMIT)
        .dfa_size_limit(SIZE_LIMIT)
        .nest_limit(100)
        .build()
        .map_err(|e| match e {
            regex::Error::CompiledTooBig(limit) => format!("expression exceeds size limit of {limit} bytes"),
            // The last line of the crate's message says what is wrong; the others draw it.
            other => other
                .to_string()
                .lines()
                .last()
                .unwrap_or_default()
                .trim_start_matches("error: ")
                .to_owned(),
        })
}

/// In RE2, `\d`, `\w`, `\s` and `\b` are of ASCII; `[` in a class and `{` without numbers are themselves;
/// classes have no set operations.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len());
    let mut rest = pattern;
    let mut class = false;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        match c {
            '\\' => {
                let Some(next) = rest[1..].chars().next() else {
                    out.push('\\');
                    break;
                };
                taken += next.len_utf8();
                match (next, class) {
                    ('Q', false) => {
                        let body = &rest[2..];
                        let end = body.find("\\E").unwrap_or(body.len());
                        out.push_str(&regex::escape(&body[..end]));
                        taken = (2 + end + 2).min(rest.len());
                    }
                    ('d', false) => out.push_str("[0-9]"),
                    ('w', false) => out.push_str("[0-9A-Za-z_]"),
                    ('s', false) => out.push_str(r"[\t\n\f\r ]"),
                    ('d', true) => out.push_str("0-9"),
                    ('w', true) => out.push_str("0-9A-Za-z_"),
                    ('s', true) => out.push_str(r"\t\n\f\r "),
                    ('D', _) => out.push_str("[^0-9]"),
                    ('W', _) => out.push_str("[^0-9A-Za-z_]"),
                    ('S', _) => out.push_str(r"[^\t\n\f\r ]"),
                    ('b' | 'B', false) => out.push_str(&format!(r"(?-u:\{next})")),
                    ('<' | '>', _) => out.push(next),
                    _ => out.push_str(&rest[..taken]),
                }
            }
            '[' if !class => {
                class = true;
                out.push('[');
                // Right after the bracket, ^ negates and ] is itself.
                if rest[taken..].starts_with('^') {
                    out.push('^');
                    taken += 1;
                }
                if rest[taken..].starts_with(']') {
                    out.push_str(r"\]");
                    taken += 1;
                }
            }
            '[' if rest.starts_with("[:") && rest.contains(":]") => {
                let end = rest.find(":]").map_or(taken, |i| i + 2);
                out.push_str(&rest[..end]);
                taken = end;
            }
            '[' => out.push_str(r"\["),
            ']' => {
                class = false;
                out.push(']');
            }
            '&' | '~' if class => {
                out.push('\\');
                out.push(c);
            }
            '-' if class && rest.starts_with("--") => {
                out.push_str(r"-\-");
                taken = 2;
            }
            '{' if !class && !is_repetition(rest) => out.push_str(r"\{"),
            _ => out.push(c),
        }
        rest = &rest[taken..];
    }
    out
}

/// RE2 refuses `a**` and its like, which would be possessive elsewhere.
fn nested_repetition(pattern: &str) -> Option<&str> {
    let mut rest = pattern;
    let mut class = false;
    let mut repeated: Option<&str> = None;
    while let Some(c) = rest.chars().next() {
        let mut taken = c.len_utf8();
        let mut operator = None;
        match c {
            '\\' if rest.starts_with("\\Q") => taken = rest.find("\\E").map_or(rest.len(), |i| i + 2),
            '\\' => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            '[' if !class => {
                class = true;
                taken += usize::from(rest[1..].starts_with('^'));
                taken += usize::from(rest[taken..].starts_with(']'));
            }
            ']' => class = false,
            '*' | '+' | '?' if !class => operator = Some(1),
            '{' if !class && is_repetition(rest) => operator = rest.find('}').map(|i| i + 1),
            _ => {}
        }
        if let Some(mut length) = operator {
            length += usize::from(rest[length..].starts_with('?'));
            taken = length;
            if let Some(start) = repeated {
                let end = start.len() - rest.len() + length;
                return start.get(..end);
            }
            repeated = Some(rest);
        } else {
            repeated = None;
        }
        rest = &rest[taken..];
    }
    None
}

/// `{2}`, `{2,}`, `{2,3}`
fn is_repetition(rest: &str) -> bool {
    let Some(end) = rest.find('}') else { return false };
    let inner = &rest[1..end];
    let (low, high) = inner.split_once(',').unwrap_or((inner, ""));
    let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    !low.is_empty() && number(low) && number(high)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_dialect_is_re2s() {
        let cases = [
            (r"^\d+$", "12", true),
            (r"^\d+$", "٣", false),
            (r"^[\d.]+$", "1.2", true),
            (r"^[[a]+$", "[a", true),
            (r"a{", "a{", true),
            (r"^a{2}$", "aa", true),
            (r"^[a&&b]+$", "&", true),
            (r"^\Qa.b\E$", "a.b", true),
            (r"^\Qa.b\E$", "axb", false),
            (r"^[]a]$", "]", true),
            (r"^[[:alpha:]_]+$", "a_b", true),
            (r"\bfoo\b", "a foo b", true),
            (r"^\pL$", "ä", true),
        ];
        for (pattern, text, expected) in cases {
            assert_eq!(compile(pattern).map(|r| r.is_match(text)), Ok(expected), "{pattern}");
        }
        assert_eq!(
            compile("x++").err().as_deref(),
            Some("invalid nested repetition operator: `++`")
        );
        assert!(compile("x{2}*").is_err() && compile("x*?+").is_err() && compile("(x+)+[+*]+").is_ok());
        assert!(compile("(").is_err());
        assert!(compile("((a{1000}){1000}){1000}").is_err());
        assert!(compile("\\").is_err());
    }
}
