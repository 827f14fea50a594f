//! The checker: gives every node a type and every name a meaning, or says what is wrong.

use std::sync::Arc;

use crate::ast::{ACCUMULATOR, Bind, Expr, Fold, Kind, Literal};
use crate::decls::{Function, extension_of, function};
use crate::env::Env;
use crate::error::CompileError;
use crate::types::Type;
use crate::unify::{Variables, instantiate, less_specific};

/// More findings than this are not collected.
const MOST_ERRORS: usize = 100;

/// What a node refers to.
#[derive(Clone, Debug, Default)]
pub(crate) enum Meaning {
    /// Nothing: a literal, or a name of this expression.
    #[default]
    Plain,
    /// A declared variable.
    Variable(Arc<str>),
    /// A type, as a value.
    TypeName(Arc<str>),
    /// A function; `namespaced` if what stands before the dot is part of its name.
    Function {
        function: &'static Function,
        namespaced: bool,
    },
}

/// What the checker found, by node number.
#[derive(Debug)]
pub(crate) struct Checked {
    pub types: Vec<Type>,
    pub meanings: Vec<Meaning>,
}

struct Checker<'e> {
    env: &'e Env,
    source: &'e str,
    types: Vec<Type>,
    meanings: Vec<Meaning>,
    errors: Vec<CompileError>,
    variables: Variables,
    /// Within the arguments of `format`, whose literals may mix types.
    mixed: bool,
    /// Names of the expression itself, the innermost last.
    scopes: Vec<(String, Type)>,
}

/// Checks a tree.
pub(crate) fn check(env: &Env, source: &str, expr: &Expr, ids: u32) -> Result<Checked, Vec<CompileError>> {
    let mut checker = Checker {
        env,
        source,
        types: vec![Type::Dyn; ids as usize],
        meanings: vec![Meaning::Plain; ids as usize],
        errors: Vec::new(),
        variables: Variables::default(),
        mixed: false,
        scopes: Vec::new(),
    };
    checker.check(expr);
    if !checker.errors.is_empty() {
        checker.errors.sort_by_key(|e| (e.line, e.column));
        return Err(checker.errors);
    }
    let variables = checker.variables;
    let types = checker.types.iter().map(|t| variables.resolve(t, true)).collect();
    Ok(Checked {
        types,
        meanings: checker.meanings,
    })
}

impl Checker<'_> {
    fn error(&mut self, at: u32, message: String) {
        if self.errors.len() < MOST_ERRORS {
            self.errors.push(CompileError::new(self.source, at, message));
        }
    }

    fn set(&mut self, expr: &Expr, ty: Type) -> Type {
        if let Some(slot) = self.types.get_mut(expr.id as usize) {
            *slot = ty.clone();
        }
        ty
    }

    fn mean(&mut self, expr: &Expr, meaning: Meaning) {
        if let Some(slot) = self.meanings.get_mut(expr.id as usize) {
            *slot = meaning;
        }
    }

    fn check(&mut self, expr: &Expr) -> Type {
        let ty = match &expr.kind {
            Kind::Literal(literal) => of_literal(literal),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select {
                operand,
                field,
                test,
                optional,
            } => self.select(expr, operand, field, *test, *optional),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => {
                let (mut key, mut value) = (None, None);
                for entry in entries {
                    let found = self.check(&entry.key);
                    key = Some(self.join(&entry.key, key, found));
                    let found = self.element(&entry.value, entry.optional);
                    value = Some(self.join(&entry.value, value, found));
                }
                let key = key.unwrap_or_else(|| self.variables.fresh());
                let value = value.unwrap_or_else(|| self.variables.fresh());
                self.variables.resolve(&Type::map(key, value), false)
            }
            Kind::Struct { name, fields } => self.object(expr, name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Bind(bind) => {
                let ty = self.check(&bind.init);
                self.within(bind, ty)
            }
            Kind::OptMap { bind, flat } => self.opt_map(bind, *flat),
        };
        self.set(expr, ty)
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Type {
        if let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name) {
            return ty.clone();
        }
        if let Some(ty) = self.global(expr, name.trim_start_matches('.')) {
            return ty;
        }
        self.error(expr.at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    /// A declared variable or a type.
    fn global(&mut self, expr: &Expr, name: &str) -> Option<Type> {
        if let Some((name, decl)) = self.env.find(name) {
            let (name, ty) = (name.clone(), decl.ty.clone());
            self.mean(expr, Meaning::Variable(name));
            return Some(ty);
        }
        let ty = self.env.type_named(name)?;
        self.mean(expr, Meaning::TypeName(name.into()));
        Some(Type::Type(Arc::new(ty)))
    }

    fn is_local(&self, expr: &Expr) -> bool {
        let mut expr = expr;
        loop {
            match &expr.kind {
                Kind::Select { operand, .. } => expr = operand,
                Kind::Ident(name) => return self.scopes.iter().any(|(n, _)| n == name),
                _ => return false,
            }
        }
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool, optional: bool) -> Type {
        if !test
            && !optional
            && let Some(name) = expr.qualified_name()
            && !self.is_local(expr)
            && let Some(ty) = self.global(expr, name.trim_start_matches('.'))
        {
            return ty;
        }
        let of = self.check(operand);
        let of = self.variables.resolve(&of, false);
        let (of, was_optional) = match of {
            Type::Optional(of) => (Type::clone(&of), true),
            of => (of, false),
        };
        let result = match &of {
            Type::Map(_, value) => Type::clone(value),
            Type::Object(object) => match object.field(field) {
                Some(field) => field.decl.ty.clone(),
                None => {
                    self.error(expr.at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            Type::Param(_) => {
                self.variables.assign(&Type::Dyn, &of);
                Type::Dyn
            }
            of if of.is_dyn() => Type::Dyn,
            of => {
                self.error(expr.at, format!("type '{of}' does not support field selection"));
                Type::Dyn
            }
        };
        if test {
            Type::Bool
        } else if was_optional || optional {
            Type::optional(result)
        } else {
            result
        }
    }

    fn call(&mut self, expr: &Expr, name: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        let outer = std::mem::replace(&mut self.mixed, name == "format" && target.is_some());
        let mut given: Vec<Type> = args.iter().map(|a| self.check(a)).collect();
        self.mixed = outer;
        let Some(target) = target else {
            return self.resolve(expr, name.trim_start_matches('.'), false, false, &given, args);
        };
        if let Some(prefix) = target.qualified_name() {
            let full = format!("{prefix}.{name}");
            if self.known(full.trim_start_matches('.')).is_some() {
                return self.resolve(expr, full.trim_start_matches('.'), false, true, &given, args);
            }
        }
        let of = self.check(target);
        given.insert(0, of);
        self.resolve(expr, name, true, false, &given, args)
    }

    fn known(&self, name: &str) -> Option<&'static Function> {
        let function = function(name)?;
        extension_of(name).is_none_or(|e| self.env.has(e)).then_some(function)
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        name: &str,
        member: bool,
        namespaced: bool,
        given: &[Type],
        args: &[Expr],
    ) -> Type {
        let Some(function) = self.known(name) else {
            self.error(expr.at, format!("undeclared reference to '{name}' (in container '')"));
            return Type::Error;
        };
        self.mean(expr, Meaning::Function { function, namespaced });
        if matches!(name, "_&&_" | "_||_") {
            for (ty, arg) in given.iter().zip(args) {
                if !self.variables.assign(ty, &Type::Bool) {
                    let shown = self.variables.resolve(ty, true);
                    self.error(arg.at, format!("expected type 'bool' but found '{shown}'"));
                }
            }
            return Type::Bool;
        }
        let mut result: Option<Type> = None;
        for overload in function
            .overloads
            .iter()
            .filter(|o| o.member == member && o.args.len() == given.len())
        {
            let fresh: Vec<Type> = (0..overload.params).map(|_| self.variables.fresh()).collect();
            let wanted: Vec<Type> = overload.args.iter().map(|a| instantiate(a, &fresh)).collect();
            if !self.variables.assign_all(given, &wanted) {
                continue;
            }
            let found = self.variables.resolve(&instantiate(&overload.result, &fresh), false);
            result = Some(match result {
                Some(earlier) if earlier != found => Type::Dyn,
                _ => found,
            });
        }
        result.unwrap_or_else(|| {
            let shown: Vec<String> = given
                .iter()
                .map(|t| self.variables.resolve(t, true).to_string())
                .collect();
            let signature = match shown.split_first() {
                Some((of, rest)) if member => format!("{of}.({})", rest.join(", ")),
                _ => format!("({})", shown.join(", ")),
            };
            self.error(
                expr.at,
                format!("found no matching overload for '{name}' applied to '{signature}'"),
            );
            Type::Error
        })
    }

    /// An element's type; an optional one is unwrapped.
    fn element(&mut self, expr: &Expr, optional: bool) -> Type {
        let ty = self.check(expr);
        if !optional {
            return ty;
        }
        match self.variables.resolve(&ty, false) {
            Type::Optional(of) => Type::clone(&of),
            ty if ty.is_dyn() => ty,
            ty => {
                self.error(expr.at, format!("expected type 'optional_type({ty})' but found '{ty}'"));
                Type::Error
            }
        }
    }

    fn list(&mut self, items: &[(Expr, bool)]) -> Type {
        let mut of = None;
        for (item, optional) in items {
            let found = self.element(item, *optional);
            of = Some(self.join(item, of, found));
        }
        let of = of.unwrap_or_else(|| self.variables.fresh());
        self.variables.resolve(&Type::list(of), false)
    }

    /// The common type of the elements of a literal; Kubernetes wants there to be one.
    fn join(&mut self, expr: &Expr, earlier: Option<Type>, found: Type) -> Type {
        let Some(earlier) = earlier else { return found };
        if self.variables.assign(&earlier, &found) {
            return if less_specific(&earlier, &found) {
                earlier
            } else {
                found
            };
        }
        if self.mixed {
            return Type::Dyn;
        }
        let (earlier, found) = (
            self.variables.resolve(&earlier, true),
            self.variables.resolve(&found, true),
        );
        self.error(expr.at, format!("expected type '{earlier}' but found '{found}'"));
        Type::Error
    }

    fn object(&mut self, expr: &Expr, name: &str, fields: &[(String, Expr, bool)]) -> Type {
        let name = name.trim_start_matches('.');
        let object = self.env.object(name).cloned();
        if object.is_none() {
            let message = match self.env.type_named(name) {
                Some(_) => format!("'{name}' is not a message type"),
                None => format!("undeclared reference to '{name}' (in container '')"),
            };
            self.error(expr.at, message);
        }
        for (field, value, optional) in fields {
            let found = self.element(value, *optional);
            let Some(object) = &object else { continue };
            let Some(declared) = object.field(field) else {
                self.error(value.at, format!("undefined field '{field}'"));
                continue;
            };
            let wanted = &declared.decl.ty;
            if !self.variables.assign(wanted, &found) {
                let found = self.variables.resolve(&found, true);
                let message = format!("expected type of field '{field}' is '{wanted}' but provided type is '{found}'");
                self.error(value.at, message);
            }
        }
        object.map_or(Type::Error, Type::Object)
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.check(&fold.range);
        let range = self.variables.resolve(&range, false);
        let accumulator = self.check(&fold.init);
        let two = fold.var2.is_some();
        let (var, var2) = match &range {
            Type::List(of) if two => (Type::Int, Type::clone(of)),
            Type::List(of) => (Type::clone(of), Type::Error),
            Type::Map(key, value) => (Type::clone(key), Type::clone(value)),
            Type::Param(_) => {
                self.variables.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            range if range.is_dyn() => (Type::Dyn, Type::Dyn),
            range => {
                let message = "cannot be range of a comprehension (must be list, map, or dynamic)";
                self.error(fold.range.at, format!("expression of type '{range}' {message}"));
                (Type::Error, Type::Error)
            }
        };
        let mark = self.scopes.len();
        self.scopes.push((ACCUMULATOR.to_owned(), accumulator.clone()));
        self.scopes.push((fold.var.clone(), var));
        if let Some(name) = &fold.var2 {
            self.scopes.push((name.clone(), var2));
        }
        let condition = self.check(&fold.condition);
        self.want(&fold.condition, &Type::Bool, &condition);
        let step = self.check(&fold.step);
        self.want(&fold.step, &accumulator, &step);
        self.scopes.truncate(mark + 1);
        let result = self.check(&fold.result);
        self.scopes.truncate(mark);
        self.variables.resolve(&result, false)
    }

    fn want(&mut self, expr: &Expr, wanted: &Type, found: &Type) {
        if !self.variables.assign(wanted, found) {
            let (wanted, found) = (
                self.variables.resolve(wanted, true),
                self.variables.resolve(found, true),
            );
            self.error(expr.at, format!("expected type '{wanted}' but found '{found}'"));
        }
    }

    fn within(&mut self, bind: &Bind, ty: Type) -> Type {
        self.scopes.push((bind.var.clone(), ty));
        let result = self.check(&bind.body);
        self.scopes.pop();
        result
    }

    fn opt_map(&mut self, bind: &Bind, flat: bool) -> Type {
        let ty = self.check(&bind.init);
        let of = match self.variables.resolve(&ty, false) {
            Type::Optional(of) => Type::clone(&of),
            ty if ty.is_dyn() => Type::Dyn,
            ty => {
                let message = format!("found no matching overload for 'hasValue' applied to '{ty}.()'");
                self.error(bind.init.at, message);
                Type::Error
            }
        };
        let result = self.within(bind, of);
        if !flat {
            return Type::optional(result);
        }
        let fresh = Type::optional(self.variables.fresh());
        self.want(&bind.body, &fresh, &result);
        self.variables.resolve(&result, false)
    }
}

fn of_literal(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}
