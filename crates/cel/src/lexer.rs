//! Characters to tokens. Literals stay text here; `literal` gives them values.

/// A token and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub kind: Lexeme,
    pub start: u32,
    pub end: u32,
}

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lexeme {
    End,
    Ident,
    Int,
    Uint,
    Double,
    String,
    Bytes,
    True,
    False,
    Null,
    In,
    /// An operator or bracket, by its text.
    Punct(&'static str),
    /// A character no token starts with.
    Unknown,
}

const TWO: [&str; 6] = ["==", "!=", "<=", ">=", "&&", "||"];
const ONE: [&str; 20] = [
    "<", ">", "+", "-", "*", "/", "%", "!", "?", ":", ".", ",", "(", ")", "[", "]", "{", "}", "=", "&",
];

/// Reads tokens off a source.
pub(crate) struct Lexer<'s> {
    source: &'s str,
    at: usize,
}

impl<'s> Lexer<'s> {
    pub fn new(source: &'s str) -> Self {
        Lexer { source, at: 0 }
    }

    fn rest(&self) -> &'s str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn skip_blank(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches(['\t', ' ', '\r', '\n', '\u{c}']);
            self.at += rest.len() - trimmed.len();
            if !trimmed.starts_with("//") {
                return;
            }
            self.at += trimmed.find('\n').unwrap_or(trimmed.len());
        }
    }

    pub fn next(&mut self) -> Token {
        self.skip_blank();
        let rest = self.rest();
        let (kind, length) = lex(rest);
        let start = self.at;
        self.at += length;
        Token {
            kind,
            start: u32::try_from(start).unwrap_or(u32::MAX),
            end: u32::try_from(self.at).unwrap_or(u32::MAX),
        }
    }
}

fn lex(rest: &str) -> (Lexeme, usize) {
    let Some(first) = rest.chars().next() else {
        return (Lexeme::End, 0);
    };
    if let Some(found) = quoted(rest) {
        return found;
    }
    if first.is_ascii_alphabetic() || first == '_' {
        let end = rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_')
            .unwrap_or(rest.len());
        let kind = match &rest[..end] {
            "true" => Lexeme::True,
            "false" => Lexeme::False,
            "null" => Lexeme::Null,
            "in" => Lexeme::In,
            _ => Lexeme::Ident,
        };
        return (kind, end);
    }
    let dotted_number = first == '.' && rest[1..].starts_with(|c: char| c.is_ascii_digit());
    if first.is_ascii_digit() || dotted_number {
        return number(rest);
    }
    if let Some(two) = TWO.iter().find(|p| rest.starts_with(**p)) {
        return (Lexeme::Punct(two), 2);
    }
    match ONE.iter().find(|p| rest.starts_with(**p)) {
        Some(&("=" | "&")) | None => (Lexeme::Unknown, first.len_utf8()),
        Some(one) => (Lexeme::Punct(one), 1),
    }
}

fn number(rest: &str) -> (Lexeme, usize) {
    let bytes = rest.as_bytes();
    let digits = |mut at: usize| {
        while bytes.get(at).is_some_and(u8::is_ascii_digit) {
            at += 1;
        }
        at
    };
    let unsigned = |at: usize, kind| match bytes.get(at) {
        Some(b'u' | b'U') => (Lexeme::Uint, at + 1),
        _ => (kind, at),
    };
    if rest.starts_with("0x") && bytes.get(2).is_some_and(u8::is_ascii_hexdigit) {
        let mut at = 2;
        while bytes.get(at).is_some_and(u8::is_ascii_hexdigit) {
            at += 1;
        }
        return unsigned(at, Lexeme::Int);
    }
    let mut at = digits(0);
    let mut double = false;
    if bytes.get(at) == Some(&b'.') && bytes.get(at + 1).is_some_and(u8::is_ascii_digit) {
        double = true;
        at = digits(at + 1);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        if bytes.get(at + 1 + sign).is_some_and(u8::is_ascii_digit) {
            double = true;
            at = digits(at + 1 + sign);
        }
    }
    if double {
        return (Lexeme::Double, at);
    }
    unsigned(at, Lexeme::Int)
}

/// A string or bytes literal with its prefix and quotes; `None` if there is none here.
fn quoted(rest: &str) -> Option<(Lexeme, usize)> {
    let prefix = rest.bytes().take(3).position(|b| b == b'"' || b == b'\'')?;
    let (kind, raw) = match rest.get(..prefix)?.to_ascii_lowercase().as_str() {
        "" => (Lexeme::String, false),
        "r" => (Lexeme::String, true),
        "b" => (Lexeme::Bytes, false),
        "br" | "rb" => (Lexeme::Bytes, true),
        _ => return None,
    };
    let body = &rest[prefix..];
    let quote = &body[..1];
    let triple = if quote == "'" { "'''" } else { "\"\"\"" };
    let (delimiter, lines) = if body.starts_with(triple) {
        (triple, true)
    } else {
        (quote, false)
    };
    let bytes = body.as_bytes();
    let mut at = delimiter.len();
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'\\' if !raw => at += 2,
            b'\n' | b'\r' if !lines => break,
            _ if bytes[at..].starts_with(delimiter.as_bytes()) => {
                return Some((kind, prefix + at + delimiter.len()));
            }
            _ => at += 1,
        }
    }
    // Unfinished: what is left of the line is no token.
    let end = rest.find('\n').unwrap_or(rest.len());
    Some((Lexeme::Unknown, end.max(1)))
}
