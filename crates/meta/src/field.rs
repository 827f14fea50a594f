//! Field errors: where in an object something is wrong, and how it is said
//! (apimachinery `field.Error`; clients match on the wording).
//!
//! Must not know any kind.

use std::fmt;

use crate::status::Cause;

/// A path into an object, such as `spec.containers[0].name` or `data[key]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Path(String);

impl Path {
    /// The path of a top-level field.
    pub fn new(name: &str) -> Self {
        Path(name.to_owned())
    }

    /// The root, whose children are top-level fields.
    pub fn root() -> Self {
        Path::default()
    }

    /// `self.name`.
    pub fn child(&self, name: &str) -> Self {
        if self.0.is_empty() {
            Path(name.to_owned())
        } else {
            Path(format!("{}.{name}", self.0))
        }
    }

    /// `self[i]`.
    pub fn index(&self, i: usize) -> Self {
        Path(format!("{}[{i}]", self.0))
    }

    /// `self[key]`.
    pub fn key(&self, key: &str) -> Self {
        Path(format!("{}[{key}]", self.0))
    }

    /// The printed form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "<nil>" } else { &self.0 })
    }
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the API's own")]
pub enum ErrorKind {
    NotFound,
    Required,
    Duplicate,
    Invalid,
    NotSupported,
    Forbidden,
    TooLong,
    TooMany,
    TooFew,
    Internal,
    TypeInvalid,
}

impl ErrorKind {
    /// The `reason` of the cause on the wire.
    pub fn reason(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "FieldValueNotFound",
            ErrorKind::Required => "FieldValueRequired",
            ErrorKind::Duplicate => "FieldValueDuplicate",
            ErrorKind::Invalid => "FieldValueInvalid",
            ErrorKind::NotSupported => "FieldValueNotSupported",
            ErrorKind::Forbidden => "FieldValueForbidden",
            ErrorKind::TooLong => "FieldValueTooLong",
            ErrorKind::TooMany => "FieldValueTooMany",
            ErrorKind::TooFew => "FieldValueTooFew",
            ErrorKind::Internal => "InternalError",
            ErrorKind::TypeInvalid => "FieldValueTypeInvalid",
        }
    }

    fn words(self) -> &'static str {
        match self {
            ErrorKind::NotFound => "Not found",
            ErrorKind::Required => "Required value",
            ErrorKind::Duplicate => "Duplicate value",
            ErrorKind::Invalid | ErrorKind::TypeInvalid => "Invalid value",
            ErrorKind::NotSupported => "Unsupported value",
            ErrorKind::Forbidden => "Forbidden",
            ErrorKind::TooLong => "Too long",
            ErrorKind::TooMany => "Too many",
            ErrorKind::TooFew => "Too few",
            ErrorKind::Internal => "Internal error",
        }
    }
}

/// One thing wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// What is wrong.
    pub kind: ErrorKind,
    /// Where.
    pub path: Path,
    /// The offending value, already printed (strings quoted); empty when none is shown.
    pub value: String,
    /// More words; may be empty.
    pub detail: String,
}

impl FieldError {
    /// The cause's message: everything but the path.
    pub fn body(&self) -> String {
        let mut s = self.kind.words().to_owned();
        if !self.value.is_empty() {
            s.push_str(": ");
            s.push_str(&self.value);
        }
        if !self.detail.is_empty() {
            s.push_str(": ");
            s.push_str(&self.detail);
        }
        s
    }
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.body())
    }
}

/// All that is wrong with an object, in the order found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ErrorList(pub Vec<FieldError>);

impl ErrorList {
    /// Nothing wrong so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is wrong.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an error of any kind; `value` is printed as JSON prints it.
    pub fn add(&mut self, kind: ErrorKind, path: &Path, value: impl fmt::Display, detail: impl Into<String>) {
        self.0.push(FieldError {
            kind,
            path: path.clone(),
            value: value.to_string(),
            detail: detail.into(),
        });
    }

    /// `path: Required value: detail`.
    pub fn required(&mut self, path: &Path, detail: &str) {
        self.add(ErrorKind::Required, path, "", detail);
    }

    /// `path: Invalid value: value: detail`. Give strings through [`quoted`].
    pub fn invalid(&mut self, path: &Path, value: impl fmt::Display, detail: impl Into<String>) {
        self.add(ErrorKind::Invalid, path, value, detail);
    }

    /// `path: Duplicate value: value`.
    pub fn duplicate(&mut self, path: &Path, value: impl fmt::Display) {
        self.add(ErrorKind::Duplicate, path, value, "");
    }

    /// `path: Forbidden: detail`.
    pub fn forbidden(&mut self, path: &Path, detail: impl Into<String>) {
        self.add(ErrorKind::Forbidden, path, "", detail);
    }

    /// `path: Not found: value`.
    pub fn not_found(&mut self, path: &Path, value: impl fmt::Display) {
        self.add(ErrorKind::NotFound, path, value, "");
    }

    /// `path: Unsupported value: "x": supported values: "a", "b"`.
    pub fn not_supported(&mut self, path: &Path, value: &str, supported: &[&str]) {
        let list = supported.iter().map(|s| quoted(s)).collect::<Vec<_>>().join(", ");
        self.add(
            ErrorKind::NotSupported,
            path,
            quoted(value),
            format!("supported values: {list}"),
        );
    }

    /// `path: Too long: may not be more than max bytes`.
    pub fn too_long(&mut self, path: &Path, max: usize) {
        self.add(
            ErrorKind::TooLong,
            path,
            "",
            format!("may not be more than {max} bytes"),
        );
    }

    /// `path: Too many: n: must have at most max items`.
    pub fn too_many(&mut self, path: &Path, n: usize, max: usize) {
        self.add(ErrorKind::TooMany, path, n, format!("must have at most {max} items"));
    }

    /// Takes over all errors of another list.
    pub fn extend(&mut self, other: ErrorList) {
        self.0.extend(other.0);
    }

    /// The causes of a `Status`.
    pub fn causes(&self) -> Vec<Cause> {
        self.0
            .iter()
            .map(|e| Cause {
                reason: e.kind.reason().into(),
                message: e.body(),
                field: e.path.to_string(),
            })
            .collect()
    }
}

impl fmt::Display for ErrorList {
    /// One error as itself, several as `[a, b]`, repeated ones once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut seen: Vec<String> = Vec::new();
        for e in &self.0 {
            let s = e.to_string();
            if !seen.contains(&s) {
                seen.push(s);
            }
        }
        match seen.as_slice() {
            [one] => f.write_str(one),
            many => write!(f, "[{}]", many.join(", ")),
        }
    }
}

/// A string as field errors print it: in double quotes, with Go's escapes.
pub fn quoted(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_read_as_upstream_prints_them() {
        let mut list = ErrorList::new();
        let spec = Path::new("spec");
        list.invalid(&spec.child("replicas"), -1, "must be greater than or equal to 0");
        assert_eq!(
            list.to_string(),
            "spec.replicas: Invalid value: -1: must be greater than or equal to 0"
        );
        list.required(&spec.child("containers").index(0).child("name"), "");
        list.not_supported(&spec.child("type"), "X", &["A", "B"]);
        assert_eq!(
            list.to_string(),
            "[spec.replicas: Invalid value: -1: must be greater than or equal to 0, \
             spec.containers[0].name: Required value, \
             spec.type: Unsupported value: \"X\": supported values: \"A\", \"B\"]"
        );
        assert_eq!(list.causes()[1].reason, "FieldValueRequired");
    }
}
