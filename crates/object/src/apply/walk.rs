//! What an object's fields are, by its schema: sets of all fields and of those that
//! differ. Must not know managers.

use serde_json::Value;

use crate::fieldset::{FieldSet, Step};
use crate::schema::{ANY, ListType, Schema, Shape};

/// How a value is owned.
pub(super) enum Kind<'s, 'v> {
    /// Field by field.
    Fields(&'v serde_json::Map<String, Value>),
    /// Item by item.
    Items(&'s Schema, &'s ListType, &'v [Value]),
    /// Whole.
    Leaf,
}

/// How a value is owned, by its schema.
pub(super) fn kind<'s, 'v>(schema: &'s Schema, value: &'v Value) -> Kind<'s, 'v> {
    match (&schema.shape, value) {
        (Shape::Object { atomic: false, .. } | Shape::Map { atomic: false, .. } | Shape::Any, Value::Object(map)) => {
            Kind::Fields(map)
        }
        (Shape::List { items, list, .. }, Value::Array(values)) if *list != ListType::Atomic => {
            Kind::Items(items, list, values)
        }
        _ => Kind::Leaf,
    }
}

/// The schema of a field; of anything when unknown.
pub(super) fn field_schema<'s>(schema: &'s Schema, name: &str) -> &'s Schema {
    schema.field(name).unwrap_or(&ANY)
}

/// Whether the schema names the field, so that it has no life of its own: a named field is
/// owned by owning what is in it.
pub(super) fn is_named(schema: &Schema, name: &str) -> bool {
    matches!(&schema.shape, Shape::Object { fields, .. } if fields.contains_key(name))
}

/// How an item of a list is told from others. An item without any of its keys is known by its place.
pub(super) fn item_step(items: &Schema, list: &ListType, item: &Value, index: usize) -> Step {
    match list {
        ListType::Set => Step::value(item),
        ListType::Atomic => Step::index(index),
        ListType::Map(keys) => {
            // A key that is left out counts as its default.
            let of = |k: &str| item.get(k).or_else(|| items.field(k)?.default.as_ref());
            let mut given = keys.iter().filter_map(|k| Some((k.as_str(), of(k)?))).peekable();
            if given.peek().is_none() {
                return Step::index(index);
            }
            Step::key(given)
        }
    }
}

/// All fields of a value, as an applier owns them.
pub(super) fn all_fields(schema: &Schema, value: &Value) -> FieldSet {
    let mut set = FieldSet::new();
    collect(schema, value, &mut set);
    set.member = false;
    set
}

fn collect(schema: &Schema, value: &Value, set: &mut FieldSet) {
    match kind(schema, value) {
        Kind::Fields(map) => {
            for (name, v) in map {
                let mut child = FieldSet::new();
                collect(field_schema(schema, name), v, &mut child);
                // Upstream forgets an empty list, and so drops it at the first apply after a full one.
                let hollow = match v {
                    Value::Object(map) => map.is_empty(),
                    Value::Array(list) => list.is_empty(),
                    other => other.is_null(),
                };
                child.member |= hollow || !is_named(schema, name);
                set.add(Step::field(name), child);
            }
        }
        Kind::Items(items, list, values) => {
            let owned = values.iter().enumerate().map(|(i, v)| {
                let mut child = FieldSet::new();
                collect(items, v, &mut child);
                child.member = true;
                (item_step(items, list, v, i), child)
            });
            set.add_all(owned.collect());
        }
        Kind::Leaf => set.member = true,
    }
}

/// What a write did.
#[derive(Default)]
pub(super) struct Difference {
    /// Added and modified.
    pub changed: FieldSet,
    /// Gone.
    pub removed: FieldSet,
}

/// What differs between two versions of an object.
pub(super) fn compare(schema: &Schema, old: &Value, new: &Value) -> Difference {
    let mut out = Difference::default();
    differ(schema, old, new, &mut out);
    out.changed.member = false;
    out.removed.member = false;
    out
}

fn differ(schema: &Schema, old: &Value, new: &Value, out: &mut Difference) {
    match (kind(schema, old), kind(schema, new)) {
        (Kind::Fields(old), Kind::Fields(new)) => {
            for (name, was) in old {
                let node = field_schema(schema, name);
                let is = new.get(name);
                descend(
                    Step::field(name),
                    node,
                    Some(was),
                    is,
                    is_implicit(schema, name, node),
                    out,
                );
            }
            for (name, is) in new.iter().filter(|(name, _)| !old.contains_key(*name)) {
                let node = field_schema(schema, name);
                descend(
                    Step::field(name),
                    node,
                    None,
                    Some(is),
                    is_implicit(schema, name, node),
                    out,
                );
            }
        }
        (Kind::Items(items, list, old), Kind::Items(_, _, new)) => differ_items(items, list, old, new, out),
        (Kind::Leaf, Kind::Leaf) => out.changed.member |= old != new,
        _ => {
            // One is null, or of another type: nothing of the old is left.
            everything(schema, old, true, &mut out.removed);
            everything(schema, new, !old.is_null(), &mut out.changed);
            out.removed.member = false;
        }
    }
}

/// Compares what a step leads to; `None` is absent.
fn descend(
    step: Step,
    schema: &Schema,
    old: Option<&Value>,
    new: Option<&Value>,
    implicit: bool,
    out: &mut Difference,
) {
    let mut below = Difference::default();
    match (old, new) {
        (Some(old), Some(new)) => differ(schema, old, new, &mut below),
        (None, Some(new)) => everything(schema, new, !implicit, &mut below.changed),
        (Some(old), None) => everything(schema, old, true, &mut below.removed),
        (None, None) => return,
    }
    if below.removed.is_empty() {
        out.changed.add(step, below.changed);
    } else {
        out.changed.add(step.clone(), below.changed);
        out.removed.add(step, below.removed);
    }
}

fn differ_items(items: &Schema, list: &ListType, old: &[Value], new: &[Value], out: &mut Difference) {
    let old = Items::of(items, list, old);
    let new = Items::of(items, list, new);
    for group in &old.0 {
        match (group.1.as_slice(), new.get(&group.0)) {
            ([one], Some([other])) => descend(group.0.clone(), items, Some(one), Some(other), false, out),
            // Several items with the same key are one thing.
            (was, Some(is)) if was != is => {
                let mut set = FieldSet::new();
                is.iter().for_each(|v| everything(items, v, true, &mut set));
                out.changed.add(group.0.clone(), set);
            }
            (_, Some(_)) => {}
            (was, None) => was
                .iter()
                .for_each(|v| descend(group.0.clone(), items, Some(v), None, false, out)),
        }
    }
    for group in new.0.iter().filter(|g| old.get(&g.0).is_none()) {
        group
            .1
            .iter()
            .for_each(|v| descend(group.0.clone(), items, None, Some(v), false, out));
    }
}

/// Items of a list by step, in order of steps.
struct Items<'v>(Vec<(Step, Vec<&'v Value>)>);

impl<'v> Items<'v> {
    fn of(items: &Schema, list: &ListType, values: &'v [Value]) -> Self {
        let mut all: Vec<(Step, &Value)> = values
            .iter()
            .enumerate()
            .map(|(i, v)| (item_step(items, list, v, i), v))
            .collect();
        all.sort_by(|a, b| a.0.cmp(&b.0));
        let mut groups: Vec<(Step, Vec<&Value>)> = Vec::with_capacity(all.len());
        for (step, v) in all {
            match groups.last_mut() {
                Some((last, group)) if *last == step => group.push(v),
                _ => groups.push((step, vec![v])),
            }
        }
        Items(groups)
    }

    fn get(&self, step: &Step) -> Option<&[&'v Value]> {
        let at = self.0.binary_search_by(|g| g.0.cmp(step)).ok()?;
        self.0.get(at).map(|g| g.1.as_slice())
    }
}

/// All of a value that came or went, inner nodes included, and the node itself if `own`.
fn everything(schema: &Schema, value: &Value, own: bool, set: &mut FieldSet) {
    match kind(schema, value) {
        Kind::Fields(map) => {
            set.member |= own || map.is_empty();
            for (name, v) in map {
                let node = field_schema(schema, name);
                let mut child = FieldSet::new();
                everything(node, v, !is_implicit(schema, name, node), &mut child);
                set.add(Step::field(name), child);
            }
        }
        Kind::Items(items, list, values) => {
            set.member |= own;
            let owned = values.iter().enumerate().map(|(i, v)| {
                let mut child = FieldSet::new();
                everything(items, v, true, &mut child);
                (item_step(items, list, v, i), child)
            });
            set.add_all(owned.collect());
        }
        Kind::Leaf => set.member = true,
    }
}

/// Whether a field is there as soon as its parent is, so that nobody owns its presence. Upstream
/// knows from Go's structs; here it is what a built-in kind requires, and the three parts of an object.
fn is_implicit(parent: &Schema, name: &str, field: &Schema) -> bool {
    let Shape::Object { required, .. } = &parent.shape else {
        return false;
    };
    !parent.definition.is_empty()
        && matches!(field.shape, Shape::Object { .. } | Shape::List { .. })
        && (matches!(name, "metadata" | "spec" | "status") || required.iter().any(|r| r == name))
}
