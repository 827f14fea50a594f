//! Laying an applied configuration over an object, and taking out what is applied no
//! longer. Must not know managers.

use std::collections::HashMap;

use serde_json::{Map, Value};

use super::walk::{field_schema, is_named, item_step};
use crate::fieldset::{FieldSet, Step};
use crate::schema::{ListType, Schema, Shape};

/// Lays a configuration over a value, by the schema's list types. A null says that the
/// field is to be absent, unless it is nullable.
pub(super) fn merge(schema: &Schema, value: &mut Value, config: &Value) {
    match (&schema.shape, config) {
        (Shape::Object { atomic: false, .. } | Shape::Map { atomic: false, .. } | Shape::Any, Value::Object(given)) => {
            if !value.is_object() {
                *value = Value::Object(Map::new());
            }
            let Value::Object(map) = value else { return };
            for (name, v) in given {
                let node = field_schema(schema, name);
                // The schema of anything is nullable, but a null in it deletes all the same.
                if v.is_null() && (!node.nullable || matches!(node.shape, Shape::Any)) {
                    map.remove(name);
                } else {
                    merge(node, map.entry(name.as_str()).or_insert(Value::Null), v);
                }
            }
        }
        (Shape::List { items, list, .. }, Value::Array(given)) if *list != ListType::Atomic => {
            merge_items(items, list, value, given);
        }
        _ => *value = config.clone(),
    }
}

/// The configuration's order leads. Live items that it does not name keep their place before
/// the next one that it does.
fn merge_items(items: &Schema, list: &ListType, value: &mut Value, given: &[Value]) {
    let live = match value.take() {
        Value::Array(live) => live,
        _ => Vec::new(),
    };
    let steps = |values: &[Value]| -> Vec<Step> {
        values
            .iter()
            .enumerate()
            .map(|(i, v)| item_step(items, list, v, i))
            .collect()
    };
    let (live_steps, given_steps) = (steps(&live), steps(given));
    let place = |all: &[Step]| -> HashMap<String, usize> {
        all.iter()
            .enumerate()
            .rev()
            .map(|(i, s)| (s.as_str().to_owned(), i))
            .collect()
    };
    let (place_live, place_given) = (place(&live_steps), place(&given_steps));
    let shared: Vec<Option<usize>> = given_steps
        .iter()
        .map(|s| place_live.get(s.as_str()).copied())
        .collect();
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    let mut out = Vec::with_capacity(live.len() + given.len());
    let mut at = 0;
    let mut upcoming = shared
        .iter()
        .copied()
        .enumerate()
        .filter_map(|(i, s)| Some((i, s?)))
        .peekable();
    for (i, config) in given.iter().enumerate() {
        while upcoming.peek().is_some_and(|(j, _)| *j < i) {
            upcoming.next();
        }
        let stop = upcoming.peek().map(|(_, s)| *s);
        while at < live.len() && Some(at) != stop {
            let alone = live_steps
                .get(at)
                .is_some_and(|s| !place_given.contains_key(s.as_str()));
            if alone && let Some(v) = live.get_mut(at).and_then(Option::take) {
                out.push(v);
            }
            at += 1;
        }
        let found = shared
            .get(i)
            .copied()
            .flatten()
            .and_then(|at| live.get_mut(at))
            .and_then(Option::take);
        let mut v = found.unwrap_or(Value::Null);
        if *list != ListType::Set || v.is_null() {
            merge(items, &mut v, config);
        }
        out.push(v);
    }
    let left = live
        .into_iter()
        .zip(&live_steps)
        .filter(|(_, s)| !place_given.contains_key(s.as_str()));
    out.extend(left.filter_map(|(v, _)| v));
    *value = Value::Array(out);
}

/// Takes out of a value what is in `last` and not in `owned`. What goes takes with it all that is
/// below, except that a named field stays while anything in it is owned.
pub(super) fn remove_abandoned(schema: &Schema, value: &mut Value, last: &FieldSet, owned: &FieldSet) {
    match (&schema.shape, value) {
        (Shape::Object { atomic: false, .. } | Shape::Map { atomic: false, .. } | Shape::Any, Value::Object(map)) => {
            for (step, was) in last.children() {
                let Some(name) = step.field_name() else { continue };
                if abandoned(is_named(schema, name), was, owned.child(step)) {
                    map.remove(name);
                } else if let Some(v) = map.get_mut(name) {
                    remove_abandoned(
                        field_schema(schema, name),
                        v,
                        was,
                        owned.child(step).unwrap_or(&NOTHING),
                    );
                }
            }
        }
        (Shape::List { items, list, .. }, Value::Array(values)) if *list != ListType::Atomic => {
            let mut i = 0;
            values.retain_mut(|v| {
                let step = item_step(items, list, v, i);
                i += 1;
                let Some(was) = last.child(&step) else { return true };
                if abandoned(false, was, owned.child(&step)) {
                    return false;
                }
                remove_abandoned(items, v, was, owned.child(&step).unwrap_or(&NOTHING));
                true
            });
        }
        _ => {}
    }
}

static NOTHING: FieldSet = FieldSet::EMPTY;

fn abandoned(named: bool, was: &FieldSet, owned: Option<&FieldSet>) -> bool {
    let had = was.is_member() || named;
    let has = owned.is_some_and(|o| o.is_member() || named);
    had && !has
}
