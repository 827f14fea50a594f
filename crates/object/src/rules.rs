//! Validations of a custom resource's schema that go beyond type, required and
//! enum (`JSONSchemaProps`). Must not be made for built-in kinds: they check in
//! their strategies.

use serde_json::Value;

/// What a value must hold to. Absent means anything goes.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    /// A regular expression that a string must contain a match of.
    pub pattern: Option<Pattern>,
    /// Least number.
    pub minimum: Option<f64>,
    /// Whether the least number itself is left out.
    pub exclusive_minimum: bool,
    /// Greatest number.
    pub maximum: Option<f64>,
    /// Whether the greatest number itself is left out.
    pub exclusive_maximum: bool,
    /// A divisor of the number.
    pub multiple_of: Option<f64>,
    /// Least length of a string, in characters.
    pub min_length: Option<u64>,
    /// Greatest length of a string, in characters.
    pub max_length: Option<u64>,
    /// Fewest items.
    pub min_items: Option<u64>,
    /// Most items.
    pub max_items: Option<u64>,
    /// Whether items must differ.
    pub unique_items: bool,
    /// Fewest fields.
    pub min_properties: Option<u64>,
    /// Most fields.
    pub max_properties: Option<u64>,
    /// Each must hold.
    pub all_of: Vec<Assertion>,
    /// At least one must hold.
    pub any_of: Vec<Assertion>,
    /// Exactly one must hold.
    pub one_of: Vec<Assertion>,
    /// Must not hold.
    pub not: Option<Assertion>,
    /// `x-kubernetes-validations`, kept for whoever evaluates CEL.
    pub validations: Vec<Value>,
}

impl Rules {
    /// Whether anything goes.
    pub fn is_empty(&self) -> bool {
        let counts = [self.min_length, self.max_length, self.min_items, self.max_items];
        let numbers = [self.minimum, self.maximum, self.multiple_of];
        self.pattern.is_none()
            && numbers.iter().all(Option::is_none)
            && counts.iter().all(Option::is_none)
            && self.min_properties.is_none()
            && self.max_properties.is_none()
            && !self.unique_items
            && [&self.all_of, &self.any_of, &self.one_of].iter().all(|b| b.is_empty())
            && self.not.is_none()
            && self.validations.is_empty()
    }
}

/// A branch of `allOf`, `anyOf`, `oneOf` or `not`: a schema that only asserts. Types
/// matter in it only where given.
pub type Assertion = crate::schema::Schema;

/// A compiled regular expression with its source.
#[derive(Clone, Debug)]
pub struct Pattern {
    /// As written.
    pub source: String,
    /// Ready to match.
    pub regex: regex::Regex,
}
