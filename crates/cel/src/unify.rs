//! Type variables: what they stand for so far, and whether one type can be given where
//! another is wanted. Assignments can be undone, because overloads are tried.

use std::collections::HashMap;

use crate::types::Type;

/// Types with more parts are not reasoned about: they become `dyn`. Values can be made to
/// share their parts, so their types would grow exponentially.
const LARGEST: u32 = 400;

/// What type variables stand for.
#[derive(Debug, Default)]
pub(crate) struct Variables {
    bound: HashMap<u32, Type>,
    undo: Vec<(u32, Option<Type>)>,
    next: u32,
}

impl Variables {
    /// A variable nobody has used.
    pub fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Param(self.next + 1000)
    }

    /// Whether a value of each of `given` can be used as `wanted`; if not, nothing is bound.
    pub fn assign_all(&mut self, given: &[Type], wanted: &[Type]) -> bool {
        let mark = self.undo.len();
        if given.len() == wanted.len() && given.iter().zip(wanted).all(|(g, w)| self.assignable(g, w)) {
            return true;
        }
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some((n, Some(old))) => self.bound.insert(n, old),
                Some((n, None)) => self.bound.remove(&n),
                None => None,
            };
        }
        false
    }

    /// Whether the types agree; if not, nothing is bound.
    pub fn assign(&mut self, a: &Type, b: &Type) -> bool {
        self.assign_all(std::slice::from_ref(a), std::slice::from_ref(b))
    }

    fn bind(&mut self, n: u32, ty: Type) {
        let old = self.bound.insert(n, ty);
        self.undo.push((n, old));
    }

    fn assignable(&mut self, a: &Type, b: &Type) -> bool {
        if let Type::Param(n) = b {
            let (valid, known) = self.substitution(a, *n);
            if valid {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Param(n) = a {
            return self.substitution(b, *n).0;
        }
        if a.is_dyn() || b.is_dyn() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => self.assignable(a, b),
            (Type::Map(k, v), Type::Map(l, w)) => self.assignable(k, l) && self.assignable(v, w),
            _ => a == b,
        }
    }

    /// Whether a type can be what a variable stands for, and whether the variable stood for something.
    fn substitution(&mut self, ty: &Type, n: u32) -> (bool, bool) {
        if *ty == Type::Param(n) {
            return (true, true);
        }
        if let Some(known) = self.bound.get(&n).cloned() {
            if *ty == known {
                return (true, true);
            }
            if self.assignable(ty, &known) {
                let general = if less_specific(ty, &known) { ty.clone() } else { known };
                if !self.occurs(n, &general) {
                    self.bind(n, general);
                }
                return (true, true);
            }
            return (false, true);
        }
        if self.occurs(n, ty) {
            return (false, false);
        }
        self.bind(n, ty.clone());
        (true, false)
    }

    fn occurs(&self, n: u32, ty: &Type) -> bool {
        match ty {
            Type::Param(m) if *m == n => true,
            Type::Param(m) => self.bound.get(m).is_some_and(|known| self.occurs(n, known)),
            Type::List(of) | Type::Optional(of) | Type::Type(of) => self.occurs(n, of),
            Type::Map(key, value) => self.occurs(n, key) || self.occurs(n, value),
            _ => false,
        }
    }

    /// The type with what its variables stand for; with `close`, free ones become `dyn`.
    pub fn resolve(&self, ty: &Type, close: bool) -> Type {
        let mut left = LARGEST;
        self.resolved(ty, close, &mut left).unwrap_or(Type::Dyn)
    }

    fn resolved(&self, ty: &Type, close: bool, left: &mut u32) -> Option<Type> {
        *left = left.checked_sub(1)?;
        Some(match ty {
            Type::Param(n) => match self.bound.get(n) {
                Some(known) => self.resolved(known, close, left)?,
                None if close => Type::Dyn,
                None => ty.clone(),
            },
            Type::List(of) => Type::list(self.resolved(of, close, left)?),
            Type::Optional(of) => Type::optional(self.resolved(of, close, left)?),
            Type::Type(of) => Type::Type(self.resolved(of, close, left)?.into()),
            Type::Map(key, value) => Type::map(self.resolved(key, close, left)?, self.resolved(value, close, left)?),
            other => other.clone(),
        })
    }
}

/// Upstream lets null be given for these.
fn nullable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Null | Type::Object(_) | Type::Opaque(_) | Type::Optional(_) | Type::Duration | Type::Timestamp
    )
}

/// Whether `a` says no more than `b`.
pub(crate) fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Param(_), _) => true,
        (_, Type::Dyn | Type::Param(_)) => false,
        (Type::List(a), Type::List(b)) | (Type::Optional(a), Type::Optional(b)) => less_specific(a, b),
        (Type::Map(k, v), Type::Map(l, w)) => less_specific(k, l) && less_specific(v, w),
        (Type::Type(_), Type::Type(_)) => true,
        _ => a == b,
    }
}

/// An overload's types with its variables made fresh.
pub(crate) fn instantiate(ty: &Type, fresh: &[Type]) -> Type {
    match ty {
        Type::Param(n) => fresh.get(*n as usize).cloned().unwrap_or(Type::Dyn),
        Type::List(of) => Type::list(instantiate(of, fresh)),
        Type::Optional(of) => Type::optional(instantiate(of, fresh)),
        Type::Map(key, value) => Type::map(instantiate(key, fresh), instantiate(value, fresh)),
        other => other.clone(),
    }
}
