//! A checked tree as what is evaluated: names become places, functions become pointers,
//! constant patterns and conversions are made once.

use std::sync::Arc;

use regex::Regex;

use crate::ast::{ACCUMULATOR, Bind, Expr, Fold, Kind, Literal};
use crate::check::{Checked, Meaning};
use crate::cost;
use crate::decls::Function;
use crate::env::Env;
use crate::error::CompileError;
use crate::meter::Budget;
use crate::regexp;
use crate::types::{Decl, Type};
use crate::value::{Map, OwnedMap, Text, Value};

/// What is evaluated.
#[derive(Debug)]
pub(crate) enum Node {
    Const(Value<'static>),
    /// A conversion of a constant, with what it costs each time.
    Made(Box<(Value<'static>, u64)>),
    Var(u16),
    Local(u16),
    Select(Box<Node>, Box<str>),
    Has(Box<Node>, Box<str>),
    OptSelect(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    OptIndex(Box<[Node; 2]>),
    And(Box<[Node; 2]>),
    Or(Box<[Node; 2]>),
    Cond(Box<[Node; 3]>),
    /// `a.or(b)`, `a.orValue(b)`
    OrElse(Box<[Node; 2]>, bool),
    Call(&'static Function, Box<[Node]>),
    /// `text.matches(constant)`
    Matches(Box<(Node, Regex, u64)>),
    NotStrictlyFalse(Box<Node>),
    /// `sum()` where the list is not of ints: its zero.
    Sum(Box<(Node, Value<'static>)>),
    List(Box<[(Node, bool)]>),
    Map(Box<[(Node, Node, bool)]>),
    Object(Box<ObjectNode>),
    Fold(Box<FoldNode>),
    Bind(Box<(u16, Node, Node)>),
    OptMap(Box<(u16, Node, Node, bool)>),
    /// `accumulator + [element]`
    Append(u16, Box<Node>),
    /// `cel.@mapInsert(accumulator, ...)`
    Insert(u16, Box<[Node]>),
}

/// `Name{field: value}`
#[derive(Debug)]
pub(crate) struct ObjectNode {
    pub name: Arc<str>,
    /// Name, value, whether optional.
    pub fields: Vec<(Value<'static>, Node, bool)>,
}

/// A comprehension.
#[derive(Debug)]
pub(crate) struct FoldNode {
    pub range: Node,
    pub accumulator: u16,
    pub var: u16,
    pub var2: Option<u16>,
    pub init: Node,
    /// `None` where it is always true.
    pub condition: Option<Node>,
    pub step: Node,
    pub result: Node,
}

/// A variable the expression uses.
#[derive(Debug)]
pub(crate) struct Used {
    pub name: Arc<str>,
    pub decl: Arc<Decl>,
}

pub(crate) struct Planner<'p> {
    pub env: &'p Env,
    pub source: &'p str,
    pub checked: &'p Checked,
    pub used: Vec<Used>,
    pub slots: u16,
    scopes: Vec<(String, u16)>,
}

type Result<T> = std::result::Result<T, CompileError>;

impl<'p> Planner<'p> {
    pub fn new(env: &'p Env, source: &'p str, checked: &'p Checked) -> Self {
        Planner {
            env,
            source,
            checked,
            used: Vec::new(),
            slots: 0,
            scopes: Vec::new(),
        }
    }

    fn error(&self, at: u32, message: &str) -> CompileError {
        CompileError::new(self.source, at, message)
    }

    /// A place for a name of the expression; places are used again where scopes do not overlap.
    fn open(&mut self, name: &str) -> u16 {
        let slot = u16::try_from(self.scopes.len()).unwrap_or(u16::MAX);
        self.scopes.push((name.to_owned(), slot));
        self.slots = self.slots.max(slot.saturating_add(1));
        slot
    }

    fn local(&self, name: &str) -> Option<u16> {
        self.scopes.iter().rev().find(|(n, _)| n == name).map(|(_, slot)| *slot)
    }

    pub fn plan(&mut self, expr: &Expr) -> Result<Node> {
        match self.checked.meanings.get(expr.id as usize) {
            Some(Meaning::Variable(name)) => return self.variable(expr, name),
            Some(Meaning::TypeName(name)) => return Ok(Node::Const(Value::Type(name.clone()))),
            _ => {}
        }
        Ok(match &expr.kind {
            Kind::Literal(literal) => Node::Const(constant(literal)),
            Kind::Ident(name) => {
                let slot = self.local(name);
                Node::Local(slot.ok_or_else(|| self.error(expr.at, &format!("undeclared reference to '{name}'")))?)
            }
            Kind::Select {
                operand,
                field,
                test,
                optional,
            } => {
                let operand = Box::new(self.plan(operand)?);
                let field = field.as_str().into();
                match (test, optional) {
                    (true, _) => Node::Has(operand, field),
                    (_, true) => Node::OptSelect(operand, field),
                    _ => Node::Select(operand, field),
                }
            }
            Kind::Call { target, args, .. } => self.call(expr, target.as_deref(), args)?,
            Kind::List(items) => self.list(items)?,
            Kind::Map(entries) => {
                let mut out = Vec::with_capacity(entries.len());
                for e in entries {
                    out.push((self.plan(&e.key)?, self.plan(&e.value)?, e.optional));
                }
                constant_map(out)
            }
            Kind::Struct { name, fields } => {
                let mut out = Vec::with_capacity(fields.len());
                for (field, value, optional) in fields {
                    out.push((Value::string(field.as_str()), self.plan(value)?, *optional));
                }
                Node::Object(Box::new(ObjectNode {
                    name: name.trim_start_matches('.').into(),
                    fields: out,
                }))
            }
            Kind::Fold(fold) => self.fold(fold)?,
            Kind::Bind(bind) => {
                let (slot, init, body) = self.bind(bind)?;
                Node::Bind(Box::new((slot, init, body)))
            }
            Kind::OptMap { bind, flat } => {
                let (slot, init, body) = self.bind(bind)?;
                Node::OptMap(Box::new((slot, init, body, *flat)))
            }
        })
    }

    fn variable(&mut self, expr: &Expr, name: &Arc<str>) -> Result<Node> {
        let index = match self.used.iter().position(|u| u.name == *name) {
            Some(index) => index,
            None => {
                let Some((name, decl)) = self.env.find(name) else {
                    return Err(self.error(expr.at, &format!("undeclared reference to '{name}' (in container '')")));
                };
                self.used.push(Used {
                    name: name.clone(),
                    decl: decl.clone(),
                });
                self.used.len() - 1
            }
        };
        u16::try_from(index)
            .map(Node::Var)
            .map_err(|_| self.error(expr.at, "too many variables"))
    }

    fn bind(&mut self, bind: &Bind) -> Result<(u16, Node, Node)> {
        let init = self.plan(&bind.init)?;
        let slot = self.open(&bind.var);
        let body = self.plan(&bind.body);
        self.scopes.pop();
        Ok((slot, init, body?))
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Result<Node> {
        let mut out = Vec::with_capacity(items.len());
        for (item, optional) in items {
            out.push((self.plan(item)?, *optional));
        }
        let constants: Option<Vec<Value<'static>>> = out
            .iter()
            .map(|(node, optional)| match node {
                Node::Const(value) if !optional => Some(value.clone()),
                _ => None,
            })
            .collect();
        // Making an empty list is part of every map and filter, whose cost has to be as estimated.
        Ok(match constants {
            Some(values) if !values.is_empty() => Node::Const(Value::list(values)),
            _ => Node::List(out.into()),
        })
    }

    fn fold(&mut self, fold: &Fold) -> Result<Node> {
        let range = self.plan(&fold.range)?;
        let init = self.plan(&fold.init)?;
        let mark = self.scopes.len();
        let accumulator = self.open(ACCUMULATOR);
        let var = self.open(&fold.var);
        let var2 = fold.var2.as_ref().map(|name| self.open(name));
        let condition = match &fold.condition.kind {
            Kind::Literal(Literal::Bool(true)) => None,
            _ => Some(self.plan(&fold.condition)?),
        };
        let step = self.step(&fold.step)?;
        self.scopes.truncate(mark + 1);
        let result = self.plan(&fold.result)?;
        self.scopes.truncate(mark);
        Ok(Node::Fold(Box::new(FoldNode {
            range,
            accumulator,
            var,
            var2,
            init,
            condition,
            step,
            result,
        })))
    }

    /// A step; what grows the accumulator does so in place.
    fn step(&mut self, expr: &Expr) -> Result<Node> {
        let Kind::Call { function, args, .. } = &expr.kind else {
            return self.plan(expr);
        };
        let is_accumulator = |e: &Expr| matches!(&e.kind, Kind::Ident(n) if n == ACCUMULATOR);
        match (function.as_str(), args.as_slice()) {
            ("_?_:_", [condition, then, otherwise]) if is_accumulator(otherwise) => {
                let nodes = [self.plan(condition)?, self.step(then)?, self.plan(otherwise)?];
                Ok(Node::Cond(Box::new(nodes)))
            }
            ("_+_", [accumulator, added]) if is_accumulator(accumulator) => {
                match (&added.kind, self.local(ACCUMULATOR)) {
                    (Kind::List(items), Some(slot)) if let [(item, false)] = items.as_slice() => {
                        Ok(Node::Append(slot, Box::new(self.plan(item)?)))
                    }
                    _ => self.plan(expr),
                }
            }
            ("cel.@mapInsert", [accumulator, rest @ ..]) if is_accumulator(accumulator) => {
                let rest = rest.iter().map(|e| self.plan(e)).collect::<Result<Vec<_>>>()?;
                match self.local(ACCUMULATOR) {
                    Some(slot) => Ok(Node::Insert(slot, rest.into())),
                    None => self.plan(expr),
                }
            }
            _ => self.plan(expr),
        }
    }

    fn call(&mut self, expr: &Expr, target: Option<&Expr>, args: &[Expr]) -> Result<Node> {
        let Some(Meaning::Function { function, namespaced }) = self.checked.meanings.get(expr.id as usize) else {
            return Err(self.error(expr.at, "undeclared reference"));
        };
        let (function, namespaced) = (*function, *namespaced);
        let mut nodes = Vec::with_capacity(args.len() + 1);
        for arg in target.filter(|_| !namespaced).into_iter().chain(args) {
            nodes.push(self.plan(arg)?);
        }
        let nodes = match special(function.name, nodes) {
            Ok(node) => return Ok(node),
            Err(nodes) => nodes,
        };
        if let (true, Some(Node::Const(Value::String(pattern)))) =
            (matches!(function.name, "matches" | "find" | "findAll"), nodes.get(1))
        {
            let at = args.last().map_or(expr.at, |a| a.at);
            let regex = regexp::compile(pattern.as_str())
                .map_err(|e| self.error(at, &format!("invalid {} argument: {e}", function.name)))?;
            let quarter = (pattern.as_str().chars().count() as u64).div_ceil(4);
            if function.name == "matches"
                && let Some(text) = nodes.into_iter().next()
            {
                return Ok(Node::Matches(Box::new((text, regex, quarter))));
            }
            return self.call_again(function, target.filter(|_| !namespaced), args);
        }
        if let [Node::Const(constant)] = nodes.as_slice()
            && let Some(node) = self.conversion(args.first().unwrap_or(expr), function, constant)?
        {
            return Ok(node);
        }
        let zero = match (function.name, self.checked.types.get(expr.id as usize)) {
            ("sum", Some(Type::Double)) => Some(Value::Double(0.0)),
            ("sum", Some(Type::Uint)) => Some(Value::Uint(0)),
            ("sum", Some(Type::Duration)) => Some(Value::Duration(0)),
            _ => None,
        };
        let call = Node::Call(function, nodes.into());
        Ok(match zero {
            Some(zero) => Node::Sum(Box::new((call, zero))),
            None => call,
        })
    }

    fn call_again(&mut self, function: &'static Function, target: Option<&Expr>, args: &[Expr]) -> Result<Node> {
        let nodes = target
            .into_iter()
            .chain(args)
            .map(|e| self.plan(e))
            .collect::<Result<Vec<_>>>()?;
        Ok(Node::Call(function, nodes.into()))
    }

    /// A conversion of a constant is made once; one that fails is refused where upstream does.
    fn conversion(&self, expr: &Expr, function: &'static Function, constant: &Value<'static>) -> Result<Option<Node>> {
        let strict = matches!(function.name, "duration" | "timestamp");
        let known = matches!(function.name, "quantity" | "ip" | "cidr" | "semver" | "url");
        let literal = matches!(constant, Value::String(_)) || (strict && matches!(constant, Value::Int(_)));
        if !(strict || known) || !literal {
            return Ok(None);
        }
        let args = [constant.clone()];
        match (function.run)(&args, &mut Budget::default().meter()) {
            Ok(value) => {
                let cost = cost::of_call(function, &args, &value);
                Ok(Some(Node::Made(Box::new((value, cost)))))
            }
            Err(_) if strict => Err(self.error(expr.at, &format!("invalid {} argument", function.name))),
            Err(_) => Ok(None),
        }
    }
}

/// Calls whose arguments are not all evaluated, or not all the same way.
fn special(name: &str, nodes: Vec<Node>) -> std::result::Result<Node, Vec<Node>> {
    Ok(match name {
        "_&&_" => Node::And(exactly(nodes)?),
        "_||_" => Node::Or(exactly(nodes)?),
        "_[_]" => Node::Index(exactly(nodes)?),
        "_[?_]" => Node::OptIndex(exactly(nodes)?),
        "or" => Node::OrElse(exactly(nodes)?, false),
        "orValue" => Node::OrElse(exactly(nodes)?, true),
        "_?_:_" => Node::Cond(exactly(nodes)?),
        "@not_strictly_false" => {
            let [node] = *exactly::<1>(nodes)?;
            Node::NotStrictlyFalse(Box::new(node))
        }
        _ => return Err(nodes),
    })
}

fn exactly<const N: usize>(nodes: Vec<Node>) -> std::result::Result<Box<[Node; N]>, Vec<Node>> {
    <[Node; N]>::try_from(nodes).map(Box::new)
}

fn constant(literal: &Literal) -> Value<'static> {
    match literal {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(n) => Value::Int(*n),
        Literal::Uint(n) => Value::Uint(*n),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(s) => Value::String(Text::Shared(s.clone())),
        Literal::Bytes(b) => Value::Bytes(b.clone()),
    }
}

fn constant_map(entries: Vec<(Node, Node, bool)>) -> Node {
    let mut map = OwnedMap::default();
    for (key, value, optional) in &entries {
        let made = match (key, value, optional) {
            (Node::Const(key), Node::Const(value), false) => map.insert(key.clone(), value.clone()),
            _ => return Node::Map(entries.into()),
        };
        // Two equal keys are an error of every evaluation, not of compiling.
        if made.is_err() {
            return Node::Map(entries.into());
        }
    }
    if entries.is_empty() {
        return Node::Map(entries.into());
    }
    Node::Const(Value::Map(Map::Owned(Arc::new(map))))
}
