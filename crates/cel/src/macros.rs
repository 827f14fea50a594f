//! Calls that are not calls: `has`, the comprehensions, `cel.bind`, `optMap`. They
//! become trees here, of upstream's shape, because the cost of an expression is
//! counted on the expanded tree.

use crate::ast::{ACCUMULATOR, Bind, Expr, Fold, Kind, Literal};
use crate::parser::{Fail, Parser};

const NOT_A_NAME: &str = "argument must be a simple name";

/// What a comprehension macro accumulates.
struct Shape {
    init: Kind,
    condition: Condition,
    result_is_one: bool,
}

#[derive(Clone, Copy)]
enum Condition {
    Always,
    WhileTrue,
    WhileFalse,
}

impl Parser<'_> {
    /// `name(args)`
    pub fn global_call(&mut self, at: u32, name: String, mut args: Vec<Expr>) -> Result<Expr, Fail> {
        if name == "has" && args.len() == 1 {
            return match args.pop().map(|arg| arg.kind) {
                Some(Kind::Select {
                    operand,
                    field,
                    optional: false,
                    test: false,
                }) => {
                    let kind = Kind::Select {
                        operand,
                        field,
                        test: true,
                        optional: false,
                    };
                    self.node(at, kind)
                }
                _ => Err((at, "invalid argument to has() macro".to_owned())),
            };
        }
        let kind = Kind::Call {
            function: name,
            target: None,
            args,
        };
        self.node(at, kind)
    }

    /// `target.name(args)`
    pub fn member_call(&mut self, at: u32, name: String, target: Expr, args: Vec<Expr>) -> Result<Expr, Fail> {
        match (name.as_str(), args.len()) {
            ("all" | "exists" | "existsOne" | "exists_one" | "filter", 2)
            | ("all" | "exists" | "existsOne" | "exists_one", 3)
            | ("map", 2 | 3)
            | ("transformList" | "transformMap" | "transformMapEntry", 3 | 4) => {
                self.comprehension(at, &name, target, args)
            }
            ("optMap" | "optFlatMap", 2) => {
                let flat = name == "optFlatMap";
                let bind = Box::new(self.bind_of(
                    target,
                    args,
                    &format!("{name}() variable name must be a simple identifier"),
                )?);
                self.node(at, Kind::OptMap { bind, flat })
            }
            ("sortBy", 2) => self.sort_by(at, target, args),
            ("bind", 3) if self.macros.bind && matches!(&target.kind, Kind::Ident(n) if n == "cel") => {
                let mut args = args.into_iter();
                let (var, Some(init)) = (args.next(), args.next()) else {
                    return Err((at, NOT_A_NAME.to_owned()));
                };
                let rest = var.into_iter().chain(args).collect();
                let bind = self.bind_of(init, rest, "cel.bind() variable names must be simple identifiers")?;
                self.node(at, Kind::Bind(Box::new(bind)))
            }
            _ => {
                let kind = Kind::Call {
                    function: name,
                    target: Some(Box::new(target)),
                    args,
                };
                self.node(at, kind)
            }
        }
    }

    fn bind_of(&mut self, init: Expr, args: Vec<Expr>, message: &str) -> Result<Bind, Fail> {
        let at = args.first().map_or(init.at, |a| a.at);
        match <[Expr; 2]>::try_from(args) {
            Ok([var, body]) => Ok(Bind {
                var: simple_name(var, message)?,
                init,
                body,
            }),
            Err(_) => Err((at, message.to_owned())),
        }
    }

    fn comprehension(&mut self, at: u32, name: &str, target: Expr, args: Vec<Expr>) -> Result<Expr, Fail> {
        let two = match name {
            "map" | "filter" => false,
            "all" | "exists" | "existsOne" | "exists_one" => args.len() == 3,
            _ => true,
        };
        let mut args = args.into_iter();
        let missing = || (at, NOT_A_NAME.to_owned());
        let var = simple_name(args.next().ok_or_else(missing)?, NOT_A_NAME)?;
        let var2 = match two {
            true => Some(simple_name(args.next().ok_or_else(missing)?, NOT_A_NAME)?),
            false => None,
        };
        if var2.as_deref() == Some(var.as_str()) {
            return Err((at, format!("duplicate variable name: {var}")));
        }
        let first = args.next().ok_or_else(missing)?;
        let (filter, body) = match args.next() {
            Some(body) => (Some(first), body),
            None => (None, first),
        };
        let shape = shape_of(name);
        let mut step = self.step(at, name, &var, body)?;
        if let Some(filter) = filter {
            step = self.when(at, filter, step)?;
        }
        self.fold(at, target, (var, var2), shape, step)
    }

    /// What one element does to the accumulator.
    fn step(&mut self, at: u32, name: &str, var: &str, body: Expr) -> Result<Expr, Fail> {
        let accumulator = self.accumulator(at)?;
        match name {
            "all" => self.call(at, "_&&_", vec![accumulator, body]),
            "exists" => self.call(at, "_||_", vec![accumulator, body]),
            "existsOne" | "exists_one" => {
                let one = self.node(at, Kind::Literal(Literal::Int(1)))?;
                let sum = self.call(at, "_+_", vec![accumulator, one])?;
                self.when(at, body, sum)
            }
            "filter" => {
                let element = self.node(at, Kind::Ident(var.to_owned()))?;
                let list = self.node(at, Kind::List(vec![(element, false)]))?;
                let sum = self.call(at, "_+_", vec![accumulator, list])?;
                self.when(at, body, sum)
            }
            "transformMap" => {
                let key = self.node(at, Kind::Ident(var.to_owned()))?;
                self.call(at, "cel.@mapInsert", vec![accumulator, key, body])
            }
            "transformMapEntry" => {
                if !matches!(body.kind, Kind::Map(_)) {
                    let message = "transformMapEntry() transform must be a map literal with one entry";
                    return Err((body.at, message.to_owned()));
                }
                self.call(at, "cel.@mapInsert", vec![accumulator, body])
            }
            _ => {
                let list = self.node(at, Kind::List(vec![(body, false)]))?;
                self.call(at, "_+_", vec![accumulator, list])
            }
        }
    }

    fn fold(
        &mut self,
        at: u32,
        range: Expr,
        (var, var2): (String, Option<String>),
        shape: Shape,
        step: Expr,
    ) -> Result<Expr, Fail> {
        let condition = match shape.condition {
            Condition::Always => self.node(at, Kind::Literal(Literal::Bool(true)))?,
            Condition::WhileTrue => {
                let accumulator = self.accumulator(at)?;
                self.call(at, "@not_strictly_false", vec![accumulator])?
            }
            Condition::WhileFalse => {
                let accumulator = self.accumulator(at)?;
                let not = self.call(at, "!_", vec![accumulator])?;
                self.call(at, "@not_strictly_false", vec![not])?
            }
        };
        let mut result = self.accumulator(at)?;
        if shape.result_is_one {
            let one = self.node(at, Kind::Literal(Literal::Int(1)))?;
            result = self.call(at, "_==_", vec![result, one])?;
        }
        let init = self.node(at, shape.init)?;
        let fold = Fold {
            range,
            var,
            var2,
            init,
            condition,
            step,
            result,
        };
        self.node(at, Kind::Fold(Box::new(fold)))
    }

    /// `condition ? then : accumulator`
    fn when(&mut self, at: u32, condition: Expr, then: Expr) -> Result<Expr, Fail> {
        let accumulator = self.accumulator(at)?;
        self.call(at, "_?_:_", vec![condition, then, accumulator])
    }

    fn accumulator(&mut self, at: u32) -> Result<Expr, Fail> {
        self.node(at, Kind::Ident(ACCUMULATOR.to_owned()))
    }

    /// `list.sortBy(e, key)`: the list, sorted by a second list that holds the keys.
    fn sort_by(&mut self, at: u32, target: Expr, args: Vec<Expr>) -> Result<Expr, Fail> {
        const INPUT: &str = "@sortBy";
        let input = self.node(at, Kind::Ident(INPUT.to_owned()))?;
        let keys = self.comprehension(at, "map", input, args)?;
        let input = self.node(at, Kind::Ident(INPUT.to_owned()))?;
        let body = Kind::Call {
            function: "@sortByAssociatedKeys".to_owned(),
            target: Some(Box::new(input)),
            args: vec![keys],
        };
        let bind = Bind {
            var: INPUT.to_owned(),
            init: target,
            body: self.node(at, body)?,
        };
        self.node(at, Kind::Bind(Box::new(bind)))
    }
}

fn shape_of(name: &str) -> Shape {
    let (init, condition) = match name {
        "all" => (Kind::Literal(Literal::Bool(true)), Condition::WhileTrue),
        "exists" => (Kind::Literal(Literal::Bool(false)), Condition::WhileFalse),
        "existsOne" | "exists_one" => (Kind::Literal(Literal::Int(0)), Condition::Always),
        "transformMap" | "transformMapEntry" => (Kind::Map(Vec::new()), Condition::Always),
        _ => (Kind::List(Vec::new()), Condition::Always),
    };
    Shape {
        init,
        condition,
        result_is_one: matches!(name, "existsOne" | "exists_one"),
    }
}

fn simple_name(expr: Expr, message: &str) -> Result<String, Fail> {
    match expr.kind {
        Kind::Ident(name) if !name.starts_with('.') => Ok(name),
        _ => Err((expr.at, message.to_owned())),
    }
}
