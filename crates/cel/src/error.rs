//! What can go wrong: while an expression is compiled, and while it is evaluated.
//! The wording is upstream's, because users read it in Statuses and search for it.

use std::fmt;

/// One finding of the parser or the checker, with its place in the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompileError {
    /// Line, from 1.
    pub line: u32,
    /// Column in code points, from 1.
    pub column: u32,
    /// What is wrong.
    pub message: String,
    snippet: String,
}

impl CompileError {
    /// A finding at a byte offset of `source`.
    pub(crate) fn new(source: &str, offset: u32, message: impl Into<String>) -> Self {
        let mut offset = (offset as usize).min(source.len());
        while !source.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &source[..offset];
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let end = source[offset..].find('\n').map_or(source.len(), |i| offset + i);
        let line = before.bytes().filter(|b| *b == b'\n').count();
        let column = source[start..offset].chars().count();
        CompileError {
            line: u32::try_from(line + 1).unwrap_or(u32::MAX),
            column: u32::try_from(column + 1).unwrap_or(u32::MAX),
            message: message.into(),
            snippet: source[start..end].to_owned(),
        }
    }
}

/// Longer lines are not shown below a message.
const LONGEST_SNIPPET: usize = 16_384;

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ERROR: <input>:{}:{}: {}", self.line, self.column, self.message)?;
        if self.snippet.len() > LONGEST_SNIPPET {
            return Ok(());
        }
        let snippet = self.snippet.replace('\t', " ");
        write!(f, "\n | {snippet}\n | ")?;
        let mut chars = snippet.chars();
        for _ in 1..self.column {
            match chars.next() {
                Some(c) if c.len_utf8() > 1 => f.write_str("\u{ff0e}")?,
                _ => f.write_str(".")?,
            }
        }
        match chars.next() {
            Some(c) if c.len_utf8() > 1 => f.write_str("\u{ff3e}"),
            _ => f.write_str("^"),
        }
    }
}

impl std::error::Error for CompileError {}

/// All findings as one text, as upstream shows them after `compilation failed: `.
pub fn describe(errors: &[CompileError]) -> String {
    errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// Why an evaluation ended without a value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.message)]
pub struct EvalError(Box<Inner>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Inner {
    kind: ErrorKind,
    message: String,
}

/// What sort of failure an [`EvalError`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The expression met a value it cannot work with; `true || error` is still true.
    Expression,
    /// This one evaluation cost more than an evaluation may.
    CostLimit,
    /// What the request may spend on all its expressions is used up.
    Budget,
}

impl EvalError {
    /// A failure of the expression itself.
    pub fn new(message: impl Into<String>) -> Self {
        EvalError(Box::new(Inner {
            kind: ErrorKind::Expression,
            message: message.into(),
        }))
    }

    pub(crate) fn no_such_overload() -> Self {
        EvalError::new("no such overload")
    }

    pub(crate) fn no_such_key(key: impl fmt::Display) -> Self {
        EvalError::new(format!("no such key: {key}"))
    }

    pub(crate) fn cost_limit() -> Self {
        EvalError(Box::new(Inner {
            kind: ErrorKind::CostLimit,
            message: "operation cancelled: actual cost limit exceeded".to_owned(),
        }))
    }

    pub(crate) fn budget() -> Self {
        EvalError(Box::new(Inner {
            kind: ErrorKind::Budget,
            message: "validation failed due to running out of cost budget, no further validation rules will be run"
                .to_owned(),
        }))
    }

    /// What sort of failure it is.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether `||`, `&&` and the comprehensions may swallow it.
    pub(crate) fn absorbable(&self) -> bool {
        self.0.kind == ErrorKind::Expression
    }
}
