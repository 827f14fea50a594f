//! What an evaluation may cost, and what it has cost so far.

use regex::Regex;

use crate::error::EvalError;
use crate::regexp;

/// Upstream's limit for one evaluation.
pub const PER_CALL_LIMIT: u64 = 1_000_000;
/// Upstream's limit for all rules of one custom resource and request.
pub const PER_REQUEST_LIMIT: u64 = 10_000_000;

/// Upstream's limit for the estimate of one rule, times how often it is evaluated for one object.
pub const ESTIMATE_LIMIT: u64 = 10_000_000;
/// Upstream's limit for the estimates of all rules of one schema.
pub const SCHEMA_ESTIMATE_LIMIT: u64 = 100_000_000;

/// What the caller lets a number of evaluations spend together.
#[derive(Clone, Debug)]
pub struct Budget {
    remaining: u64,
    per_call: u64,
    last: u64,
}

impl Default for Budget {
    /// Upstream's limits.
    fn default() -> Self {
        Budget::new(PER_REQUEST_LIMIT)
    }
}

impl Budget {
    /// So much altogether, and upstream's limit for each evaluation.
    pub fn new(total: u64) -> Self {
        Budget {
            remaining: total,
            per_call: PER_CALL_LIMIT,
            last: 0,
        }
    }

    /// Another limit for each evaluation.
    #[must_use]
    pub fn with_call_limit(mut self, limit: u64) -> Self {
        self.per_call = limit;
        self
    }

    /// What is left.
    pub fn remaining(&self) -> u64 {
        self.remaining
    }

    /// What the last evaluation cost.
    pub fn last(&self) -> u64 {
        self.last
    }

    pub(crate) fn meter(&self) -> Meter {
        let limit = self.per_call.min(self.remaining);
        Meter {
            cost: 0,
            limit,
            work: 0,
            last_of_budget: self.remaining < self.per_call,
            pattern: None,
        }
    }

    pub(crate) fn settle(&mut self, meter: &Meter) {
        self.last = meter.cost;
        self.remaining = self.remaining.saturating_sub(meter.cost);
    }
}

/// Work that upstream's costs do not count, such as comparing deep values, may be this many times the limit.
const WORK_FACTOR: u64 = 4;

/// Compiling a pattern takes up to milliseconds, which costs know nothing of.
const PATTERN_WORK: u64 = 20_000;

/// Counts the cost of one evaluation.
#[derive(Debug)]
pub(crate) struct Meter {
    cost: u64,
    limit: u64,
    work: u64,
    last_of_budget: bool,
    pattern: Option<(Box<str>, Regex)>,
}

impl Meter {
    /// Adds to the cost.
    pub fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > self.limit {
            Err(self.exceeded())
        } else {
            Ok(())
        }
    }

    /// Whether a cost that is charged when a result is there can be paid at all.
    pub fn afford(&self, cost: u64) -> Result<(), EvalError> {
        if self.cost.saturating_add(cost) > self.limit {
            Err(self.exceeded())
        } else {
            Ok(())
        }
    }

    /// Counts steps inside of one operation: values can be made that share their parts, and
    /// walking through them would take forever.
    pub fn work(&mut self, steps: u64) -> Result<(), EvalError> {
        self.work = self.work.saturating_add(steps);
        if self.work > self.limit.saturating_mul(WORK_FACTOR).saturating_add(100_000) {
            return Err(self.exceeded());
        }
        Ok(())
    }

    /// A pattern that is not a constant; one that is used for many elements is compiled once.
    pub fn regex(&mut self, pattern: &str) -> Result<Regex, EvalError> {
        if let Some((known, regex)) = &self.pattern
            && **known == *pattern
        {
            return Ok(regex.clone());
        }
        self.work(PATTERN_WORK)?;
        let regex = regexp::compile(pattern).map_err(EvalError::new)?;
        self.pattern = Some((pattern.into(), regex.clone()));
        Ok(regex)
    }

    fn exceeded(&self) -> EvalError {
        if self.last_of_budget {
            EvalError::budget()
        } else {
            EvalError::cost_limit()
        }
    }
}
