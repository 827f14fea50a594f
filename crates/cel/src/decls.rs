//! The table of functions: names, signatures, costs and what runs. Signatures are read
//! from text once; operators are functions with upstream's names for them.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use crate::error::EvalError;
use crate::meter::Meter;
use crate::table::TABLE;
use crate::types::{Opaque, Type};
use crate::value::Value;

/// What runs when a function is called.
pub(crate) type Run = for<'a, 'b> fn(&'b [Value<'a>], &'b mut Meter) -> Result<Value<'a>, EvalError>;

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    pub name: &'static str,
    pub overloads: Vec<Overload>,
    pub cost: Cost,
    pub run: Run,
}

/// One signature of a function.
#[derive(Debug)]
pub(crate) struct Overload {
    /// The first argument stands before the dot.
    pub member: bool,
    pub args: Vec<Type>,
    pub result: Type,
    /// How many type variables there are.
    pub params: u32,
}

/// How a call is charged; the formulas are in `cost` and `estimate`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cost {
    /// Nothing beyond the arguments.
    Free,
    Fixed(u64),
    /// Going through the first argument that many times.
    Traverse(u64),
    Selector,
    Join,
    Regex,
    Affix,
    Contains,
    ToString,
    ToBytes,
    Format,
    In,
    Equal,
    Order,
    Add,
    Scan,
    Output,
    Flatten,
    Compare,
    SortBy,
    Sets(u64),
    Ip,
    ContainsIp,
    ContainsCidr,
    Validate,
}

/// Functions that are known only where the caller turns them on.
pub(crate) fn extension_of(name: &str) -> Option<crate::env::Extension> {
    match name.split_once('.')?.0 {
        "math" => Some(crate::env::Extension::Math),
        "base64" => Some(crate::env::Extension::Encoders),
        _ => None,
    }
}

/// The function of a name.
pub(crate) fn function(name: &str) -> Option<&'static Function> {
    static FUNCTIONS: OnceLock<HashMap<&'static str, Function>> = OnceLock::new();
    let read = || {
        let entry = |(name, signatures, cost, run): &(&'static str, &'static str, Cost, Run)| {
            let function = Function {
                name,
                overloads: overloads(signatures),
                cost: *cost,
                run: *run,
            };
            (*name, function)
        };
        TABLE.iter().map(entry).collect()
    };
    FUNCTIONS.get_or_init(read).get(name)
}

/// Types `$` stands for: those with an order.
const ORDERED: [&str; 8] = ["int", "uint", "double", "bool", "dur", "time", "string", "bytes"];
/// Types `#` stands for: those with a sum.
const SUMMED: [&str; 4] = ["int", "uint", "double", "dur"];

fn overloads(signatures: &str) -> Vec<Overload> {
    let mut out = Vec::new();
    for signature in signatures.split_ascii_whitespace() {
        if signature.contains('$') {
            out.extend(ORDERED.iter().filter_map(|t| overload(&signature.replace('$', t))));
        } else if signature.contains('#') {
            out.extend(SUMMED.iter().filter_map(|t| overload(&signature.replace('#', t))));
        } else {
            out.extend(overload(signature));
        }
    }
    out
}

/// Reads `target.(arg,arg):result` or `(arg):result`; `A` and `B` are variables.
fn overload(signature: &str) -> Option<Overload> {
    let mut reader = Reader { rest: signature };
    let mut args = Vec::new();
    let member = !signature.starts_with('(');
    if member {
        args.push(reader.ty()?);
        reader.eat(".")?;
    }
    reader.eat("(")?;
    while reader.eat(")").is_none() {
        args.push(reader.ty()?);
        let _comma = reader.eat(",");
    }
    reader.eat(":")?;
    let result = reader.ty()?;
    let params = if signature.contains('B') {
        2
    } else {
        u32::from(signature.contains('A'))
    };
    Some(Overload {
        member,
        args,
        result,
        params,
    })
}

struct Reader<'s> {
    rest: &'s str,
}

impl Reader<'_> {
    fn eat(&mut self, text: &str) -> Option<()> {
        self.rest = self.rest.strip_prefix(text)?;
        Some(())
    }

    fn ty(&mut self) -> Option<Type> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric())
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(match word {
            "list" => Type::list(self.one()?),
            "opt" => Type::optional(self.one()?),
            "map" => {
                self.eat("(")?;
                let key = self.ty()?;
                self.eat(",")?;
                let value = self.ty()?;
                self.eat(")")?;
                Type::map(key, value)
            }
            "A" => Type::Param(0),
            "B" => Type::Param(1),
            "dyn" => Type::Dyn,
            "bool" => Type::Bool,
            "int" => Type::Int,
            "uint" => Type::Uint,
            "double" => Type::Double,
            "string" => Type::String,
            "bytes" => Type::Bytes,
            "dur" => Type::Duration,
            "time" => Type::Timestamp,
            "type" => Type::Type(Arc::new(Type::Dyn)),
            "quantity" => Type::Opaque(Opaque::Quantity),
            "ip" => Type::Opaque(Opaque::Ip),
            "cidr" => Type::Opaque(Opaque::Cidr),
            "url" => Type::Opaque(Opaque::Url),
            "semver" => Type::Opaque(Opaque::Semver),
            "format" => Type::Opaque(Opaque::Format),
            "authorizer" => Type::Opaque(Opaque::Authorizer),
            "path" => Type::Opaque(Opaque::PathCheck),
            "group" => Type::Opaque(Opaque::GroupCheck),
            "resource" => Type::Opaque(Opaque::ResourceCheck),
            "decision" => Type::Opaque(Opaque::Decision),
            _ => return None,
        })
    }

    fn one(&mut self) -> Option<Type> {
        self.eat("(")?;
        let inner = self.ty()?;
        self.eat(")")?;
        Some(inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signature_can_be_read() {
        for (name, signatures, ..) in TABLE {
            let expected: usize = signatures
                .split_ascii_whitespace()
                .map(|s| {
                    if s.contains('$') {
                        8
                    } else if s.contains('#') {
                        4
                    } else {
                        1
                    }
                })
                .sum();
            assert_eq!(function(name).map(|f| f.overloads.len()), Some(expected), "{name}");
        }
    }
}
