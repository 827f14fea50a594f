//! A compiled expression.

use crate::activation::Activation;
use crate::check::check;
use crate::env::{Env, Extension};
use crate::error::{CompileError, EvalError};
use crate::estimate::estimate;
use crate::eval::Machine;
use crate::meter::Budget;
use crate::parser::{Macros, parse};
use crate::plan::{Node, Planner, Used};
use crate::range::CostEstimate;
use crate::types::Type;
use crate::value::Value;

/// A compiled expression: what is needed to evaluate it, and nothing of its source.
#[derive(Debug)]
pub struct Program {
    root: Node,
    used: Box<[Used]>,
    slots: u16,
    result: Type,
    estimate: CostEstimate,
}

impl Program {
    /// Parses, checks and plans a source.
    pub fn compile(env: &Env, source: &str) -> Result<Self, Vec<CompileError>> {
        let macros = Macros {
            bind: env.has(Extension::Bind),
        };
        let parsed = parse(source, macros).map_err(|e| vec![e])?;
        let checked = check(env, source, &parsed.expr, parsed.ids)?;
        let mut planner = Planner::new(env, source, &checked);
        let root = planner.plan(&parsed.expr).map_err(|e| vec![e])?;
        let (used, slots) = (planner.used.into(), planner.slots);
        let result = checked.types.get(parsed.expr.id as usize).cloned().unwrap_or(Type::Dyn);
        Ok(Program {
            root,
            used,
            slots,
            result,
            estimate: estimate(env, &checked, &parsed.expr),
        })
    }

    /// The type of what it evaluates to.
    pub fn result_type(&self) -> &Type {
        &self.result
    }

    /// What an evaluation costs by the sizes that are declared. A caller multiplies the maximum by
    /// how often the rule is evaluated for one object (the product of [`crate::Decl::max`] of the lists
    /// and maps it is below) and refuses what is above [`crate::ESTIMATE_LIMIT`].
    pub fn estimated_cost(&self) -> CostEstimate {
        self.estimate
    }

    /// Whether a variable is used.
    pub fn uses(&self, variable: &str) -> bool {
        self.used.iter().any(|u| &*u.name == variable)
    }

    /// Evaluates; the cost is taken from the budget.
    pub fn evaluate<'a>(&'a self, activation: &Activation<'a>, budget: &mut Budget) -> Result<Value<'a>, EvalError> {
        let mut machine = Machine {
            used: &self.used,
            activation,
            slots: vec![Ok(Value::Null); usize::from(self.slots)],
            meter: budget.meter(),
        };
        let result = machine.eval(&self.root);
        budget.settle(&machine.meter);
        result
    }
}
