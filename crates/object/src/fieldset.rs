//! Sets of field paths, and their `fieldsV1` wire form: `f:name` a field,
//! `k:{...}` a list item by key, `v:...` a set item by value, `i:n` an item by
//! index, `.` the node itself (KEP-555).

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{ListType, Schema, Shape};

/// A step of a path, in its wire form; order and equality are those of the text.
pub type Step = String;

/// A set of paths, as a tree.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// Whether the path to this node is itself in the set.
    pub member: bool,
    /// What is below.
    pub children: BTreeMap<Step, FieldSet>,
}

impl FieldSet {
    /// Whether nothing is in the set.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(FieldSet::is_empty)
    }

    /// All that is in one or the other.
    pub fn union(&mut self, other: &FieldSet) {
        self.member |= other.member;
        for (step, theirs) in &other.children {
            self.children.entry(step.clone()).or_default().union(theirs);
        }
    }

    /// What is here and not there.
    pub fn without(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet {
            member: self.member && !other.member,
            children: BTreeMap::new(),
        };
        for (step, mine) in &self.children {
            let left = match other.children.get(step) {
                Some(theirs) => mine.without(theirs),
                None => mine.clone(),
            };
            if !left.is_empty() {
                out.children.insert(step.clone(), left);
            }
        }
        out
    }

    /// What is in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet {
            member: self.member && other.member,
            children: BTreeMap::new(),
        };
        for (step, mine) in &self.children {
            if let Some(theirs) = other.children.get(step) {
                let both = mine.intersection(theirs);
                if !both.is_empty() {
                    out.children.insert(step.clone(), both);
                }
            }
        }
        out
    }

    /// Takes a top-level path out, such as `["metadata", "uid"]`.
    pub fn remove(&mut self, path: &[&str]) {
        match path {
            [] => *self = FieldSet::default(),
            [last] => {
                self.children.remove(&format!("f:{last}"));
            }
            [first, rest @ ..] => {
                let step = format!("f:{first}");
                if let Some(child) = self.children.get_mut(&step) {
                    child.remove(rest);
                    if child.is_empty() {
                        self.children.remove(&step);
                    }
                }
            }
        }
    }

    /// Keeps only a top-level field.
    pub fn keep_only(&mut self, field: &str) {
        let step = format!("f:{field}");
        self.children.retain(|s, _| *s == step);
    }

    /// The wire form.
    pub fn to_value(&self) -> Value {
        let mut map = Map::new();
        if self.member && !self.children.is_empty() {
            map.insert(".".into(), Value::Object(Map::new()));
        }
        for (step, child) in &self.children {
            map.insert(step.clone(), child.to_value());
        }
        Value::Object(map)
    }

    /// From the wire form; what cannot be understood is left out.
    pub fn from_value(value: &Value) -> FieldSet {
        let Value::Object(map) = value else {
            return FieldSet::default();
        };
        let mut out = FieldSet {
            member: map.is_empty() || map.contains_key("."),
            children: BTreeMap::new(),
        };
        for (step, child) in map {
            if step != "." {
                out.children.insert(step.clone(), FieldSet::from_value(child));
            }
        }
        out
    }

    /// The paths as messages print them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.collect(String::new(), &mut out);
        out
    }

    fn collect(&self, at: String, out: &mut Vec<String>) {
        if self.member && !at.is_empty() {
            out.push(at.clone());
        }
        for (step, child) in &self.children {
            child.collect(format!("{at}{}", printed(step)), out);
        }
    }
}

fn printed(step: &str) -> String {
    match step.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => {
            let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
            let list: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
            format!("[{}]", list.join(","))
        }
        Some(("v", value)) => format!("[={value}]"),
        Some((_, index)) => format!("[{index}]"),
        None => step.to_owned(),
    }
}

/// The paths that a value sets: leaves, list items, and empty containers.
pub fn of_value(schema: &Schema, value: &Value) -> FieldSet {
    let mut out = FieldSet::default();
    match (&schema.shape, value) {
        (
            Shape::Object {
                fields, atomic: false, ..
            },
            Value::Object(map),
        ) if !schema.preserve_unknown => {
            for (name, v) in map {
                let child = fields.get(name).map_or_else(leaf, |s| of_value(s, v));
                out.children.insert(format!("f:{name}"), child);
            }
        }
        (
            Shape::Object {
                fields, atomic: false, ..
            },
            Value::Object(map),
        ) => {
            for (name, v) in map {
                let child = fields.get(name).map_or_else(|| of_untyped(v), |s| of_value(s, v));
                out.children.insert(format!("f:{name}"), child);
            }
        }
        (Shape::Map { values, atomic: false }, Value::Object(map)) => {
            for (name, v) in map {
                out.children.insert(format!("f:{name}"), of_value(values, v));
            }
        }
        (Shape::List { items, list, .. }, Value::Array(values)) if *list != ListType::Atomic => {
            for v in values {
                let mut child = if *list == ListType::Set {
                    FieldSet::default()
                } else {
                    of_value(items, v)
                };
                child.member = true;
                out.children.insert(item_step(list, items, v), child);
            }
        }
        (Shape::Any, v) => return of_untyped(v),
        _ => return leaf(),
    }
    // An empty container is a leaf: otherwise nobody would own it.
    out.member = out.children.is_empty();
    out
}

fn of_untyped(value: &Value) -> FieldSet {
    match value {
        Value::Object(map) if !map.is_empty() => FieldSet {
            member: false,
            children: map.iter().map(|(k, v)| (format!("f:{k}"), of_untyped(v))).collect(),
        },
        _ => leaf(),
    }
}

fn leaf() -> FieldSet {
    FieldSet {
        member: true,
        children: BTreeMap::new(),
    }
}

/// The step that identifies an item of a list.
pub fn item_step(list: &ListType, items: &Schema, item: &Value) -> Step {
    match list {
        ListType::Map(keys) => {
            let mut id = Map::new();
            for key in keys {
                let default = || match &items.shape {
                    Shape::Object { fields, .. } => fields.get(key).and_then(|f| f.default.clone()),
                    _ => None,
                };
                let value = item.get(key).filter(|v| !v.is_null()).cloned().or_else(default);
                if let Some(value) = value {
                    id.insert(key.clone(), value);
                }
            }
            format!("k:{}", Value::Object(id))
        }
        _ => format!("v:{item}"),
    }
}

/// How two values differ.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Difference {
    /// Paths that are new or have another value.
    pub changed: FieldSet,
    /// Paths that are gone.
    pub removed: FieldSet,
}

/// Compares two values of one type.
pub fn compare(schema: &Schema, old: &Value, new: &Value) -> Difference {
    let (before, after) = (of_value(schema, old), of_value(schema, new));
    let removed = before.without(&after);
    let mut changed = after.without(&before);
    changed_leaves(schema, old, new, &mut changed);
    Difference { changed, removed }
}

/// Adds the leaves that are in both with different values.
fn changed_leaves(schema: &Schema, old: &Value, new: &Value, out: &mut FieldSet) {
    if old == new {
        return;
    }
    match (&schema.shape, old, new) {
        (
            Shape::Object {
                fields, atomic: false, ..
            },
            Value::Object(a),
            Value::Object(b),
        ) => {
            for (name, v) in b {
                let Some(was) = a.get(name).filter(|was| *was != v) else {
                    continue;
                };
                let any = Schema::default();
                let field = fields.get(name).map_or(&any, |f| f);
                changed_child(field, was, v, format!("f:{name}"), out);
            }
        }
        (Shape::Map { values, atomic: false }, Value::Object(a), Value::Object(b)) => {
            for (name, v) in b {
                if let Some(was) = a.get(name).filter(|was| *was != v) {
                    changed_child(values, was, v, format!("f:{name}"), out);
                }
            }
        }
        (Shape::Any, Value::Object(a), Value::Object(b)) if !a.is_empty() && !b.is_empty() => {
            for (name, v) in b {
                if let Some(was) = a.get(name).filter(|was| *was != v) {
                    changed_child(schema, was, v, format!("f:{name}"), out);
                }
            }
        }
        (
            Shape::List {
                items,
                list: list @ ListType::Map(_),
                ..
            },
            Value::Array(a),
            Value::Array(b),
        ) => {
            let had: BTreeMap<Step, &Value> = a.iter().map(|v| (item_step(list, items, v), v)).collect();
            for v in b {
                let step = item_step(list, items, v);
                if let Some(was) = had.get(&step).filter(|was| **was != v) {
                    changed_child(items, was, v, step, out);
                }
            }
        }
        (
            Shape::List {
                list: ListType::Set, ..
            },
            Value::Array(_),
            Value::Array(_),
        ) => {}
        _ => out.member = true,
    }
}

fn changed_child(schema: &Schema, old: &Value, new: &Value, step: Step, out: &mut FieldSet) {
    let mut child = out.children.remove(&step).unwrap_or_default();
    changed_leaves(schema, old, new, &mut child);
    if !child.is_empty() {
        out.children.insert(step, child);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::schema;
    use serde_json::json;

    #[test]
    fn wire_form_round_trips() {
        let value = json!({"spec": {"replicas": 1, "items": [{"name": "a", "image": "x"}], "finalizers": ["f"]}});
        let set = of_value(&schema(), &value);
        let wire = set.to_value();
        assert_eq!(
            wire,
            json!({"f:spec": {
                "f:replicas": {},
                "f:items": {"k:{\"name\":\"a\"}": {".": {}, "f:image": {}, "f:name": {}}},
                "f:finalizers": {"v:\"f\"": {}},
            }})
        );
        assert_eq!(FieldSet::from_value(&wire), set);
        assert!(
            set.paths().contains(&".spec.items[name=\"a\"].image".to_owned()),
            "{:?}",
            set.paths()
        );
    }

    #[test]
    fn differences() {
        let old = json!({"spec": {"replicas": 1, "items": [{"name": "a", "image": "x"}, {"name": "b"}]}});
        let new = json!({"spec": {"replicas": 2, "items": [{"name": "a", "image": "y"}, {"name": "c"}]}});
        let d = compare(&schema(), &old, &new);
        assert_eq!(
            d.changed.paths(),
            [
                ".spec.items[name=\"a\"].image",
                ".spec.items[name=\"c\"]",
                ".spec.items[name=\"c\"].name",
                ".spec.replicas"
            ]
        );
        assert_eq!(
            d.removed.paths(),
            [".spec.items[name=\"b\"]", ".spec.items[name=\"b\"].name"]
        );
        assert!(compare(&schema(), &old, &old).changed.is_empty());
    }

    #[test]
    fn set_algebra() {
        let all = of_value(&schema(), &json!({"spec": {"replicas": 1, "finalizers": ["a", "b"]}}));
        let some = of_value(&schema(), &json!({"spec": {"finalizers": ["a"]}}));
        let left = all.without(&some);
        assert_eq!(left.paths(), [".spec.finalizers[=\"b\"]", ".spec.replicas"]);
        let mut back = left;
        back.union(&some);
        assert_eq!(back, all);
        assert_eq!(all.intersection(&some), some);
    }
}
