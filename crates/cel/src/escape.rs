//! Property names as identifiers, and back: Kubernetes' rules for names that the
//! language could not spell (`x-y`, `a.b`) or has taken (`namespace`).

const RESERVED: [&str; 21] = [
    "true",
    "false",
    "null",
    "in",
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

const ESCAPES: [(&str, &str); 4] = [("__", "underscores"), (".", "dot"), ("-", "dash"), ("/", "slash")];

/// The identifier for a property; `None` if there is none for it.
pub fn escape(name: &str) -> Option<String> {
    if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    if RESERVED.contains(&name) {
        return Some(format!("__{name}__"));
    }
    let mut out = String::with_capacity(name.len());
    let mut rest = name;
    while let Some(c) = rest.chars().next() {
        if let Some((from, to)) = ESCAPES.iter().find(|(from, _)| rest.starts_with(from)) {
            out.push_str("__");
            out.push_str(to);
            out.push_str("__");
            rest = &rest[from.len()..];
        } else if c.is_ascii_alphanumeric() || c == '_' {
            out.push(c);
            rest = &rest[1..];
        } else {
            return None;
        }
    }
    Some(out)
}

/// The identifier for a word that is reserved.
pub(crate) fn reserved(name: &str) -> Option<String> {
    RESERVED.contains(&name).then(|| format!("__{name}__"))
}

/// The property an identifier stands for; `None` if it has an escape that does not exist.
pub fn unescape(identifier: &str) -> Option<String> {
    let mut out = String::with_capacity(identifier.len());
    let mut rest = identifier;
    while let Some(at) = rest.find("__") {
        let inner = &rest[at + 2..];
        let Some(end) = inner.find("__").filter(|end| *end > 0 && !inner[..*end].contains('_')) else {
            // Not an escape: the two underscores are themselves.
            out.push_str(&rest[..at + 1]);
            rest = &rest[at + 1..];
            continue;
        };
        out.push_str(&rest[..at]);
        let word = &inner[..end];
        match ESCAPES.iter().find(|(_, to)| *to == word) {
            Some((from, _)) => out.push_str(from),
            None if RESERVED.contains(&word) && identifier.len() == word.len() + 4 => out.push_str(word),
            None => return None,
        }
        rest = &inner[end + 2..];
    }
    out.push_str(rest);
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_found_again() {
        let cases = [
            ("plain", "plain"),
            ("namespace", "__namespace__"),
            ("a.b-c/d", "a__dot__b__dash__c__slash__d"),
            ("x__y", "x__underscores__y"),
            ("_x", "_x"),
            ("a_b", "a_b"),
            ("___", "__underscores___"),
        ];
        for (name, identifier) in cases {
            assert_eq!(escape(name).as_deref(), Some(identifier));
            assert_eq!(unescape(identifier).as_deref(), Some(name), "{identifier}");
        }
        assert_eq!(escape("1a"), None);
        assert_eq!(escape("a$"), None);
        assert_eq!(escape("ä"), None);
        assert_eq!(unescape("__what__"), None);
    }
}
