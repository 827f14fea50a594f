//! The builder that all built-in kinds use, and a strategy for those that need little.

use jiff::Timestamp;
use serde_json::Value;

use crate::columns::{age, text_or_none};
use crate::{Cell, Column, Declared, Scope, Strategy, Subresource};

/// Names of a kind.
pub(crate) struct Names {
    /// API group.
    pub group: &'static str,
    /// Version.
    pub version: &'static str,
    /// Kind.
    pub kind: &'static str,
    /// Resource.
    pub plural: &'static str,
    /// Singular.
    pub singular: &'static str,
    /// Short names.
    pub short_names: &'static [&'static str],
}

impl Names {
    /// A namespaced kind without subresources, with columns after the name.
    pub(crate) fn with(
        self,
        schema: fn() -> &'static object::schema::Schema,
        columns: &'static [Column],
        strategy: &'static dyn Strategy,
    ) -> Declared {
        Declared {
            group: self.group,
            version: self.version,
            kind: self.kind,
            plural: self.plural,
            singular: self.singular,
            short_names: self.short_names,
            categories: &[],
            scope: Scope::Namespaced,
            subresources: const { &[] },
            verbs: crate::Kind::ALL_VERBS,
            schema,
            columns,
            strategy,
            selectable_fields: &[],
        }
    }
}

impl Declared {
    /// Not in a namespace.
    pub(crate) fn cluster(self) -> Self {
        Declared {
            scope: Scope::Cluster,
            ..self
        }
    }

    /// With a status that is written apart.
    pub(crate) fn status(self) -> Self {
        Declared {
            subresources: STATUS,
            ..self
        }
    }

    /// With fields that field selectors may use.
    pub(crate) fn fields(self, selectable_fields: &'static [&'static str]) -> Self {
        Declared {
            selectable_fields,
            ..self
        }
    }
}

/// A strategy that only draws a row: pointers into the object, then the age.
pub(crate) struct Row(pub &'static [&'static str]);

impl Strategy for Row {
    fn row(&self, object: &Value, now: Timestamp) -> Vec<Cell> {
        let mut out: Vec<Cell> = self.0.iter().map(|p| text_or_none(object, p)).collect();
        out.push(age(object, now));
        out
    }
}

/// Shows the age alone.
pub(crate) static AGE_ONLY: Row = Row(&[]);

const STATUS: &[Subresource] = &[Subresource::Status];

/// Names in one line.
pub(crate) const fn names(
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
) -> Names {
    Names {
        group,
        version,
        kind,
        plural,
        singular,
        short_names,
    }
}
