//! Tokens to a tree, by recursive descent. Two limits make every later walk of the
//! tree safe on an ordinary stack: how deep a source may nest, and how tall the
//! tree may become once macros are expanded.

use std::sync::Arc;

use crate::ast::{Entry, Expr, Kind, Literal};
use crate::error::CompileError;
use crate::lexer::{Lexeme, Lexer, Token};
use crate::literal;

/// Sources with more code points are refused.
pub const MAX_SOURCE: usize = 100_000;
/// Deeper nesting is refused.
pub const MAX_DEPTH: u16 = 250;

const STARTERS: &str =
    "{'[', '{', '(', '.', '-', '!', 'true', 'false', 'null', NUM_FLOAT, NUM_INT, NUM_UINT, STRING, BYTES, IDENTIFIER}";

const RESERVED: [&str; 17] = [
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

/// Which macros beyond the standard ones are known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Macros {
    pub bind: bool,
}

/// A parsed source: the tree and how many node numbers it uses.
#[derive(Clone, Debug)]
pub struct Parsed {
    /// The root.
    pub expr: Expr,
    /// Every node's number is below this.
    pub ids: u32,
}

pub(crate) type Fail = (u32, String);

pub(crate) struct Parser<'s> {
    source: &'s str,
    lexer: Lexer<'s>,
    token: Token,
    depth: u16,
    next_id: u32,
    pub macros: Macros,
}

/// The tree of a source.
pub(crate) fn parse(source: &str, macros: Macros) -> Result<Parsed, CompileError> {
    let size = source.chars().take(MAX_SOURCE + 1).count();
    if size > MAX_SOURCE {
        let size = source.chars().count();
        let message = format!("expression code point size exceeds limit: size: {size}, limit {MAX_SOURCE}");
        return Err(CompileError::new("", 0, message));
    }
    let mut lexer = Lexer::new(source);
    let token = lexer.next();
    let mut parser = Parser {
        source,
        lexer,
        token,
        depth: 0,
        next_id: 0,
        macros,
    };
    let parsed = parser.expr().and_then(|expr| {
        if parser.token.kind == Lexeme::End {
            Ok(expr)
        } else {
            Err(parser.unexpected("<EOF>"))
        }
    });
    match parsed {
        Ok(expr) => Ok(Parsed {
            expr,
            ids: parser.next_id,
        }),
        Err((at, message)) => Err(CompileError::new(source, at, message)),
    }
}

impl Parser<'_> {
    pub fn node(&mut self, at: u32, kind: Kind) -> Result<Expr, Fail> {
        let height = kind.depth() + 1;
        if height > MAX_DEPTH {
            return Err(too_deep(at));
        }
        let id = self.next_id;
        self.next_id += 1;
        Ok(Expr { id, at, height, kind })
    }

    pub fn call(&mut self, at: u32, function: &str, args: Vec<Expr>) -> Result<Expr, Fail> {
        let kind = Kind::Call {
            function: function.to_owned(),
            target: None,
            args,
        };
        self.node(at, kind)
    }

    fn text(&self, token: Token) -> &str {
        self.source
            .get(token.start as usize..token.end as usize)
            .unwrap_or_default()
    }

    fn bump(&mut self) -> Token {
        std::mem::replace(&mut self.token, self.lexer.next())
    }

    fn at(&self, punct: &str) -> bool {
        matches!(self.token.kind, Lexeme::Punct(p) if p == punct)
    }

    fn eat(&mut self, punct: &str) -> Option<Token> {
        if self.at(punct) { Some(self.bump()) } else { None }
    }

    fn expect(&mut self, punct: &'static str) -> Result<Token, Fail> {
        match self.eat(punct) {
            Some(token) => Ok(token),
            None => Err(self.unexpected(&format!("'{punct}'"))),
        }
    }

    fn unexpected(&self, expected: &str) -> Fail {
        let found = match self.token.kind {
            Lexeme::End => "<EOF>",
            Lexeme::Unknown => {
                let text = self.text(self.token);
                return (
                    self.token.start,
                    format!("Syntax error: token recognition error at: '{text}'"),
                );
            }
            _ => self.text(self.token),
        };
        (
            self.token.start,
            format!("Syntax error: mismatched input '{found}' expecting {expected}"),
        )
    }

    fn expr(&mut self) -> Result<Expr, Fail> {
        if self.depth >= MAX_DEPTH {
            return Err(too_deep(self.token.start));
        }
        self.depth += 1;
        let result = self.ternary();
        self.depth -= 1;
        result
    }

    fn ternary(&mut self) -> Result<Expr, Fail> {
        let condition = self.binary(0)?;
        let Some(question) = self.eat("?") else {
            return Ok(condition);
        };
        let yes = self.binary(0)?;
        self.expect(":")?;
        let no = self.expr()?;
        self.call(question.start, "_?_:_", vec![condition, yes, no])
    }

    /// Operators of at least this strength, left to right.
    fn binary(&mut self, least: u8) -> Result<Expr, Fail> {
        let mut left = self.unary()?;
        while let Some((strength, function)) = operator(self.token.kind) {
            if strength < least {
                break;
            }
            if strength <= 1 {
                left = self.logical(left, strength, function)?;
                continue;
            }
            let token = self.bump();
            let right = self.binary(strength + 1)?;
            left = self.call(token.start, function, vec![left, right])?;
        }
        Ok(left)
    }

    /// A chain of one logical operator, as a balanced tree: chains may be long.
    fn logical(&mut self, first: Expr, strength: u8, function: &'static str) -> Result<Expr, Fail> {
        let mut terms = vec![first];
        let mut places = Vec::new();
        while operator(self.token.kind).is_some_and(|(s, _)| s == strength) {
            places.push(self.bump().start);
            terms.push(self.binary(strength + 1)?);
        }
        while terms.len() > 1 {
            let mut halved = Vec::with_capacity(terms.len().div_ceil(2));
            let mut between = Vec::with_capacity(places.len() / 2);
            let mut terms_left = terms.into_iter();
            let mut places_left = places.into_iter();
            while let Some(left) = terms_left.next() {
                let Some(right) = terms_left.next() else {
                    halved.push(left);
                    break;
                };
                let at = places_left.next().unwrap_or(left.at);
                halved.push(self.call(at, function, vec![left, right])?);
                between.extend(places_left.next());
            }
            (terms, places) = (halved, between);
        }
        terms.pop().ok_or_else(|| too_deep(self.token.start))
    }

    fn unary(&mut self) -> Result<Expr, Fail> {
        for (punct, function) in [("!", "!_"), ("-", "-_")] {
            let Some(first) = self.eat(punct) else { continue };
            let (mut count, mut last) = (1u32, first);
            while let Some(token) = self.eat(punct) {
                (count, last) = (count + 1, token);
            }
            // The sign right before a number belongs to it, or the smallest int could not be written.
            let number = matches!(self.token.kind, Lexeme::Int | Lexeme::Double);
            let operand = if punct == "-" && number {
                count -= 1;
                let literal = self.number(Some(last.start))?;
                self.members(literal)?
            } else {
                self.member()?
            };
            return if count % 2 == 0 {
                Ok(operand)
            } else {
                self.call(first.start, function, vec![operand])
            };
        }
        self.member()
    }

    fn member(&mut self) -> Result<Expr, Fail> {
        let primary = self.primary()?;
        self.members(primary)
    }

    fn members(&mut self, mut expr: Expr) -> Result<Expr, Fail> {
        loop {
            if let Some(dot) = self.eat(".") {
                let optional = self.eat("?").is_some();
                if !matches!(self.token.kind, Lexeme::Ident) {
                    return Err(self.unexpected("IDENTIFIER"));
                }
                let name = self.bump();
                let name = self.text(name).to_owned();
                if !optional && let Some(open) = self.eat("(") {
                    let args = self.arguments(")")?;
                    expr = self.member_call(open.start, name, expr, args)?;
                } else {
                    let kind = Kind::Select {
                        operand: Box::new(expr),
                        field: name,
                        test: false,
                        optional,
                    };
                    expr = self.node(dot.start, kind)?;
                }
            } else if let Some(open) = self.eat("[") {
                let optional = self.eat("?").is_some();
                let index = self.expr()?;
                self.expect("]")?;
                let function = if optional { "_[?_]" } else { "_[_]" };
                expr = self.call(open.start, function, vec![expr, index])?;
            } else if self.at("{")
                && let Some(name) = expr.qualified_name()
            {
                let open = self.bump();
                let fields = self.fields()?;
                expr = self.node(open.start, Kind::Struct { name, fields })?;
            } else {
                return Ok(expr);
            }
        }
    }

    fn primary(&mut self) -> Result<Expr, Fail> {
        let token = self.token;
        match token.kind {
            Lexeme::Int | Lexeme::Uint | Lexeme::Double => self.number(None),
            Lexeme::True | Lexeme::False => {
                self.bump();
                self.literal(token, Literal::Bool(token.kind == Lexeme::True))
            }
            Lexeme::Null => {
                self.bump();
                self.literal(token, Literal::Null)
            }
            Lexeme::String => {
                let value = literal::string(self.text(token)).map_err(|e| (token.start, e.to_owned()))?;
                self.bump();
                self.literal(token, Literal::String(Arc::from(value)))
            }
            Lexeme::Bytes => {
                let value = literal::bytes(self.text(token)).map_err(|e| (token.start, e.to_owned()))?;
                self.bump();
                self.literal(token, Literal::Bytes(Arc::from(value)))
            }
            Lexeme::Punct("(") => {
                self.bump();
                let expr = self.expr()?;
                self.expect(")")?;
                Ok(expr)
            }
            Lexeme::Punct("[") => self.list(),
            Lexeme::Punct("{") => self.map(),
            Lexeme::Punct(".") | Lexeme::Ident => self.name(),
            _ => Err(self.unexpected(STARTERS)),
        }
    }

    fn literal(&mut self, token: Token, literal: Literal) -> Result<Expr, Fail> {
        self.node(token.start, Kind::Literal(literal))
    }

    fn name(&mut self) -> Result<Expr, Fail> {
        let start = self.token.start;
        let dot = self.eat(".").is_some();
        if self.token.kind != Lexeme::Ident {
            return Err(self.unexpected("IDENTIFIER"));
        }
        let token = self.bump();
        let name = self.text(token).to_owned();
        if RESERVED.contains(&name.as_str()) {
            return Err((token.start, format!("Syntax error: reserved identifier: {name}")));
        }
        let full = if dot { format!(".{name}") } else { name };
        if let Some(open) = self.eat("(") {
            let args = self.arguments(")")?;
            return self.global_call(open.start, full, args);
        }
        self.node(start, Kind::Ident(full))
    }

    fn arguments(&mut self, close: &'static str) -> Result<Vec<Expr>, Fail> {
        let mut args = Vec::new();
        if self.eat(close).is_some() {
            return Ok(args);
        }
        loop {
            args.push(self.expr()?);
            if self.eat(close).is_some() {
                return Ok(args);
            }
            self.expect(",")?;
        }
    }

    fn list(&mut self) -> Result<Expr, Fail> {
        let open = self.bump();
        let mut items = Vec::new();
        while self.eat("]").is_none() {
            let optional = self.eat("?").is_some();
            items.push((self.expr()?, optional));
            if !self.at("]") {
                self.expect(",")?;
            }
        }
        self.node(open.start, Kind::List(items))
    }

    fn map(&mut self) -> Result<Expr, Fail> {
        let open = self.bump();
        let mut entries = Vec::new();
        while self.eat("}").is_none() {
            let optional = self.eat("?").is_some();
            let key = self.expr()?;
            self.expect(":")?;
            let value = self.expr()?;
            entries.push(Entry { key, value, optional });
            if !self.at("}") {
                self.expect(",")?;
            }
        }
        self.node(open.start, Kind::Map(entries))
    }

    fn fields(&mut self) -> Result<Vec<(String, Expr, bool)>, Fail> {
        let mut fields = Vec::new();
        while self.eat("}").is_none() {
            let optional = self.eat("?").is_some();
            if self.token.kind != Lexeme::Ident {
                return Err(self.unexpected("IDENTIFIER"));
            }
            let name = self.bump();
            let name = self.text(name).to_owned();
            self.expect(":")?;
            fields.push((name, self.expr()?, optional));
            if !self.at("}") {
                self.expect(",")?;
            }
        }
        Ok(fields)
    }

    fn number(&mut self, sign: Option<u32>) -> Result<Expr, Fail> {
        let token = self.bump();
        let at = sign.unwrap_or(token.start);
        let text = self.text(token);
        let minus = if sign.is_some() { "-" } else { "" };
        let literal = match token.kind {
            Lexeme::Double => {
                let value: Result<f64, _> = format!("{minus}{text}").parse();
                let value = value.ok().filter(|v| v.is_finite());
                Literal::Double(value.ok_or_else(|| (at, "invalid double literal".to_owned()))?)
            }
            Lexeme::Uint => {
                let digits = text.trim_end_matches(['u', 'U']);
                let value = match digits.strip_prefix("0x") {
                    Some(hex) => u64::from_str_radix(hex, 16),
                    None => digits.parse(),
                };
                Literal::Uint(value.map_err(|_| (at, "invalid uint literal".to_owned()))?)
            }
            _ => {
                let value = match text.strip_prefix("0x") {
                    Some(hex) => i64::from_str_radix(&format!("{minus}{hex}"), 16),
                    None => format!("{minus}{text}").parse(),
                };
                Literal::Int(value.map_err(|_| (at, "invalid int literal".to_owned()))?)
            }
        };
        self.node(at, Kind::Literal(literal))
    }
}

/// How strongly an operator binds, and its function.
fn operator(kind: Lexeme) -> Option<(u8, &'static str)> {
    let punct = match kind {
        Lexeme::In => return Some((2, "@in")),
        Lexeme::Punct(punct) => punct,
        _ => return None,
    };
    Some(match punct {
        "||" => (0, "_||_"),
        "&&" => (1, "_&&_"),
        "==" => (2, "_==_"),
        "!=" => (2, "_!=_"),
        "<" => (2, "_<_"),
        "<=" => (2, "_<=_"),
        ">" => (2, "_>_"),
        ">=" => (2, "_>=_"),
        "+" => (3, "_+_"),
        "-" => (3, "_-_"),
        "*" => (4, "_*_"),
        "/" => (4, "_/_"),
        "%" => (4, "_%_"),
        _ => return None,
    })
}

fn too_deep(at: u32) -> Fail {
    (at, format!("expression recursion limit exceeded: {MAX_DEPTH}"))
}
