//! The syntax tree: what the parser makes of a source once macros are expanded.
//! It knows nothing of types; each node has a number under which the checker
//! keeps what it finds.

use std::sync::Arc;

/// A node of the tree.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Unique within one source.
    pub id: u32,
    /// Byte offset in the source: of the operator, of the parenthesis of a call, or where a literal starts.
    pub at: u32,
    /// Levels below this node and itself; everything that walks the tree relies on it being bounded.
    pub height: u16,
    /// What it is.
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// A literal.
    Literal(Literal),
    /// A name, with a leading dot where the source has one.
    Ident(String),
    /// `operand.field`; a presence test when `test`; `operand.?field` when `optional`.
    Select {
        /// Left of the dot.
        operand: Box<Expr>,
        /// Right of the dot.
        field: String,
        /// Came from `has(...)`.
        test: bool,
        /// `.?`
        optional: bool,
    },
    /// A function or operator; operators carry upstream's names (`_+_`).
    Call {
        /// Name of the function.
        function: String,
        /// What it was called on.
        target: Option<Box<Expr>>,
        /// In the parentheses.
        args: Vec<Expr>,
    },
    /// `[a, ?b]`; the flag is for optional elements.
    List(Vec<(Expr, bool)>),
    /// `{k: v, ?k: v}`
    Map(Vec<Entry>),
    /// `Name{field: value}`
    Struct {
        /// The type, dots included.
        name: String,
        /// Field, value, whether optional.
        fields: Vec<(String, Expr, bool)>,
    },
    /// A comprehension.
    Fold(Box<Fold>),
    /// `cel.bind(name, value, body)`
    Bind(Box<Bind>),
    /// `target.optMap(name, body)`, or `optFlatMap` when `flat`.
    OptMap {
        /// The optional, the name and the body.
        bind: Box<Bind>,
        /// Whether the body is an optional itself.
        flat: bool,
    },
}

/// A constant of the source.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// `null`
    Null,
    /// `true`, `false`
    Bool(bool),
    /// `1`
    Int(i64),
    /// `1u`
    Uint(u64),
    /// `1.0`
    Double(f64),
    /// `"a"`
    String(Arc<str>),
    /// `b"a"`
    Bytes(Arc<[u8]>),
}

/// An entry of a map literal.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Left of the colon.
    pub key: Expr,
    /// Right of it.
    pub value: Expr,
    /// Whether absent values leave the entry out.
    pub optional: bool,
}

/// A comprehension: `result` after `step` was applied to every element while `condition` held.
#[derive(Clone, Debug, PartialEq)]
pub struct Fold {
    /// What is walked through.
    pub range: Expr,
    /// Element or key; index or key when there are two.
    pub var: String,
    /// Element or value.
    pub var2: Option<String>,
    /// First value of the accumulator.
    pub init: Expr,
    /// Asked before each step.
    pub condition: Expr,
    /// Next value of the accumulator.
    pub step: Expr,
    /// Value of the whole.
    pub result: Expr,
}

/// A name for a value within a body.
#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    /// The name.
    pub var: String,
    /// Its value.
    pub init: Expr,
    /// Where it is known.
    pub body: Expr,
}

/// The name of every accumulator; no source can spell it.
pub const ACCUMULATOR: &str = "@result";

impl Expr {
    /// The dotted name this node spells, if it is nothing but names and dots.
    pub fn qualified_name(&self) -> Option<String> {
        match &self.kind {
            Kind::Ident(name) => Some(name.clone()),
            Kind::Select {
                operand,
                field,
                test: false,
                optional: false,
            } => {
                let mut name = operand.qualified_name()?;
                name.push('.');
                name.push_str(field);
                Some(name)
            }
            _ => None,
        }
    }
}

impl Kind {
    /// Levels below a node of this kind.
    pub(crate) fn depth(&self) -> u16 {
        let tallest = |exprs: &mut dyn Iterator<Item = &Expr>| exprs.map(|e| e.height).max().unwrap_or(0);
        match self {
            Kind::Literal(_) | Kind::Ident(_) => 0,
            Kind::Select { operand, .. } => operand.height,
            Kind::Call { target, args, .. } => tallest(&mut target.as_deref().into_iter().chain(args)),
            Kind::List(items) => tallest(&mut items.iter().map(|(e, _)| e)),
            Kind::Map(entries) => tallest(&mut entries.iter().flat_map(|e| [&e.key, &e.value])),
            Kind::Struct { fields, .. } => tallest(&mut fields.iter().map(|(_, e, _)| e)),
            Kind::Fold(f) => tallest(&mut [&f.range, &f.init, &f.condition, &f.step, &f.result].into_iter()),
            Kind::Bind(b) | Kind::OptMap { bind: b, .. } => tallest(&mut [&b.init, &b.body].into_iter()),
        }
    }
}
