//! Sets of field paths, and their `fieldsV1` wire form: `f:name` a field,
//! `k:{...}` a list item by key, `v:...` a set item by value, `i:n` an item by
//! index, `.` the node itself (KEP-555). Must not know schemas.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

/// One element of a path in its wire form, keys in order and without spaces, so that equal
/// elements are equal strings.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step(Box<str>);

impl Step {
    /// A field of an object.
    pub fn field(name: &str) -> Self {
        let mut s = String::with_capacity(name.len() + 2);
        s.push_str("f:");
        s.push_str(name);
        Step(s.into())
    }

    /// A list item by its keys.
    pub fn key<'k>(keys: impl IntoIterator<Item = (&'k str, &'k Value)>) -> Self {
        let mut keys: Vec<(&str, &Value)> = keys.into_iter().collect();
        keys.sort_by_key(|(k, _)| *k);
        let mut s = String::with_capacity(32);
        s.push_str("k:{");
        for (i, (k, v)) in keys.into_iter().enumerate() {
            if i > 0 {
                s.push(',');
            }
            push_quoted(&mut s, k);
            s.push(':');
            match v {
                Value::String(v) => push_quoted(&mut s, v),
                v => _ = write!(s, "{v}"),
            }
        }
        s.push('}');
        Step(s.into())
    }

    /// An item of a set.
    pub fn value(value: &Value) -> Self {
        Step(format!("v:{value}").into())
    }

    /// A list item by its place.
    pub fn index(i: usize) -> Self {
        Step(format!("i:{i}").into())
    }

    /// From the wire; `None` when it is no step.
    fn parse(wire: &str) -> Option<Self> {
        match wire.split_at_checked(2)? {
            ("f:", _) => Some(Step(wire.into())),
            ("k:", keys) => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(keys).ok()?;
                Some(Step::key(keys.iter().map(|(k, v)| (k.as_str(), v))))
            }
            ("v:", value) => Some(Step::value(&serde_json::from_str(value).ok()?)),
            ("i:", i) => Some(Step::index(i.parse().ok()?)),
            _ => None,
        }
    }

    /// The name, when the step is a field.
    pub fn field_name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// The wire form.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Step {
    /// `.name`, `[name="x",port=80]`, `[="x"]`, `[0]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, rest) = self.0.split_at_checked(2).unwrap_or(("", &self.0));
        match kind {
            "f:" => write!(f, ".{rest}"),
            "v:" => write!(f, "[={rest}]"),
            "i:" => write!(f, "[{rest}]"),
            _ => {
                let keys: BTreeMap<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                f.write_char('[')?;
                for (i, (k, v)) in keys.iter().enumerate() {
                    let comma = if i > 0 { "," } else { "" };
                    write!(f, "{comma}{k}={v}")?;
                }
                f.write_char(']')
            }
        }
    }
}

/// A set of fields, as a tree: the node itself, and what is below it.
///
/// Children are ordered by step and never empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    pub(crate) member: bool,
    children: Vec<(Step, FieldSet)>,
}

impl FieldSet {
    /// Nothing.
    pub const EMPTY: FieldSet = FieldSet {
        member: false,
        children: Vec::new(),
    };

    /// Nothing yet.
    pub fn new() -> Self {
        FieldSet::EMPTY
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.is_empty()
    }

    /// Whether the node itself is in it.
    pub fn is_member(&self) -> bool {
        self.member
    }

    /// The steps below, in order.
    pub fn children(&self) -> impl Iterator<Item = (&Step, &FieldSet)> {
        self.children.iter().map(|(s, c)| (s, c))
    }

    /// What is below a step.
    pub fn child(&self, step: &Step) -> Option<&FieldSet> {
        let at = self.children.binary_search_by(|(s, _)| s.cmp(step)).ok()?;
        self.children.get(at).map(|(_, c)| c)
    }

    /// Adds a subtree under a step, joining it with what is there. In order of steps this costs nothing.
    pub(crate) fn add(&mut self, step: Step, child: FieldSet) {
        if child.is_empty() {
            return;
        }
        if self.children.last().is_none_or(|(last, _)| *last < step) {
            self.children.push((step, child));
            return;
        }
        match self.children.binary_search_by(|(s, _)| s.cmp(&step)) {
            Ok(at) => {
                if let Some((_, old)) = self.children.get_mut(at) {
                    *old = std::mem::take(old).union(child);
                }
            }
            Err(at) => self.children.insert(at, (step, child)),
        }
    }

    /// Adds subtrees in any order; equal steps are joined.
    pub(crate) fn add_all(&mut self, mut items: Vec<(Step, FieldSet)>) {
        items.sort_by(|a, b| a.0.cmp(&b.0));
        items.into_iter().for_each(|(step, child)| self.add(step, child));
    }

    /// The set of these paths.
    pub fn of_paths<'p>(paths: impl IntoIterator<Item = &'p [Step]>) -> Self {
        let mut out = FieldSet::new();
        for path in paths {
            let mut leaf = FieldSet {
                member: true,
                children: Vec::new(),
            };
            for step in path.iter().rev() {
                leaf = FieldSet {
                    member: false,
                    children: vec![(step.clone(), leaf)],
                };
            }
            out = out.union(leaf);
        }
        out
    }

    /// What is in either.
    pub fn union(self, other: FieldSet) -> FieldSet {
        if self.children.is_empty() || other.children.is_empty() {
            let member = self.member || other.member;
            let children = if self.children.is_empty() {
                other.children
            } else {
                self.children
            };
            return FieldSet { member, children };
        }
        let mut children = Vec::with_capacity(self.children.len().max(other.children.len()));
        let (mut a, mut b) = (
            self.children.into_iter().peekable(),
            other.children.into_iter().peekable(),
        );
        loop {
            let order = match (a.peek(), b.peek()) {
                (Some((x, _)), Some((y, _))) => x.cmp(y),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => break,
            };
            let left = if order.is_le() { a.next() } else { None };
            let right = if order.is_ge() { b.next() } else { None };
            match (left, right) {
                (Some((step, x)), Some((_, y))) => children.push((step, x.union(y))),
                (one, other) => children.extend(one.or(other)),
            }
        }
        FieldSet {
            member: self.member || other.member,
            children,
        }
    }

    /// What is in this and not in the other; a node in the other says nothing of what is below it.
    pub fn difference(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, &|a, b| a && !b, true)
    }

    /// What is in both.
    pub fn intersection(&self, other: &FieldSet) -> FieldSet {
        self.combine(other, &|a, b| a && b, false)
    }

    /// What is in this and neither in the other nor below anything in it.
    pub fn recursive_difference(&self, other: &FieldSet) -> FieldSet {
        let mut out = FieldSet {
            member: self.member && !other.member,
            children: Vec::new(),
        };
        for (step, child) in &self.children {
            match other.child(step) {
                Some(o) if o.member => {}
                Some(o) => out.add(step.clone(), child.recursive_difference(o)),
                None => out.children.push((step.clone(), child.clone())),
            }
        }
        out
    }

    /// Whether the two share anything.
    pub fn intersects(&self, other: &FieldSet) -> bool {
        if self.member && other.member {
            return true;
        }
        let (few, many) = if self.children.len() < other.children.len() {
            (self, other)
        } else {
            (other, self)
        };
        few.children
            .iter()
            .any(|(step, c)| many.child(step).is_some_and(|o| c.intersects(o)))
    }

    fn combine(&self, other: &FieldSet, keep: &dyn Fn(bool, bool) -> bool, keep_alone: bool) -> FieldSet {
        let mut out = FieldSet {
            member: keep(self.member, other.member),
            children: Vec::new(),
        };
        for (step, child) in &self.children {
            match other.child(step) {
                Some(o) => {
                    let both = child.combine(o, keep, keep_alone);
                    if !both.is_empty() {
                        out.children.push((step.clone(), both));
                    }
                }
                None if keep_alone => out.children.push((step.clone(), child.clone())),
                None => {}
            }
        }
        out
    }

    /// Drops the fields of an object that `keep` refuses, with all below them.
    pub(crate) fn retain_fields(&mut self, keep: impl Fn(&str) -> bool) {
        self.children.retain(|(s, _)| s.field_name().is_none_or(&keep));
    }

    /// Takes out exactly these members.
    pub(crate) fn remove_members(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            self.member = false;
            return;
        };
        let found = self.children.iter().position(|(s, _)| s.field_name() == Some(first));
        if let Some(at) = found
            && let Some((_, child)) = self.children.get_mut(at)
        {
            child.remove_members(rest);
            if child.is_empty() {
                self.children.remove(at);
            }
        }
    }

    /// All paths in the set as messages print them: `.spec.containers[name="x"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        self.print(&mut String::new(), &mut out);
        out
    }

    fn print(&self, path: &mut String, out: &mut Vec<String>) {
        if self.member {
            out.push(path.clone());
        }
        let at = path.len();
        for (step, child) in &self.children {
            _ = write!(path, "{step}");
            child.print(path, out);
            path.truncate(at);
        }
    }

    /// The `fieldsV1` JSON.
    pub fn encode(&self) -> String {
        let mut out = String::with_capacity(256);
        self.write(&mut out, true);
        out
    }

    fn write(&self, out: &mut String, root: bool) {
        out.push('{');
        if self.member && !root && !self.children.is_empty() {
            out.push_str("\".\":{},");
        }
        for (step, child) in &self.children {
            push_quoted(out, &step.0);
            out.push(':');
            child.write(out, false);
            out.push(',');
        }
        if out.ends_with(',') {
            out.pop();
        }
        out.push('}');
    }

    /// From `fieldsV1` JSON; `None` when it is not that. Steps of unknown kinds are left out.
    pub fn decode(json: &str) -> Option<FieldSet> {
        let mut set: FieldSet = serde_json::from_str(json).ok()?;
        set.member = false;
        Some(set)
    }
}

impl<'de> Deserialize<'de> for FieldSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Node)
    }
}

struct Node;

impl<'de> Visitor<'de> for Node {
    type Value = FieldSet;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field set")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<FieldSet, A::Error> {
        let (mut out, mut given, mut items) = (FieldSet::new(), false, Vec::new());
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            given = true;
            let child: FieldSet = map.next_value()?;
            match Step::parse(&key) {
                Some(step) => items.push((step, child)),
                None => out.member |= key == ".",
            }
        }
        out.add_all(items);
        // `{}` is a leaf.
        out.member |= !given;
        Ok(out)
    }
}

/// Writes a JSON string.
pub(crate) fn push_quoted(out: &mut String, s: &str) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if u32::from(c) < 0x20 => _ = write!(out, "\\u{:04x}", u32::from(c)),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn set(json: &str) -> FieldSet {
        FieldSet::decode(json).unwrap()
    }

    #[test]
    fn wire_form_round_trips() {
        let wire = r#"{"f:metadata":{"f:labels":{".":{},"f:a\"b":{}}},"f:spec":{"f:c":{"k:{\"name\":\"x\",\"port\":80}":{".":{},"f:image":{}}},"f:s":{"v:\"q\"":{}},"f:i":{"i:0":{}}}}"#;
        let decoded = set(wire);
        assert_eq!(set(&decoded.encode()), decoded);
        assert_eq!(
            decoded.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.a\"b",
                ".spec.c[name=\"x\",port=80]",
                ".spec.c[name=\"x\",port=80].image",
                ".spec.i[0]",
                ".spec.s[=\"q\"]"
            ]
        );
        assert_eq!(set("{}"), FieldSet::new());
        assert_eq!(FieldSet::new().encode(), "{}");
        assert!(FieldSet::decode("[]").is_none());
    }

    #[test]
    fn equal_keys_are_equal_however_they_are_written() {
        let spaced = set(r#"{"k:{ \"port\": 80, \"name\": \"x\" }":{"f:a":{}}}"#);
        assert_eq!(spaced, set(r#"{"k:{\"name\":\"x\",\"port\":80}":{"f:a":{}}}"#));
    }

    #[test]
    fn set_algebra() {
        let a = set(r#"{"f:a":{},"f:b":{".":{},"f:c":{},"f:d":{}}}"#);
        let b = set(r#"{"f:b":{"f:c":{}},"f:e":{}}"#);
        assert_eq!(a.intersection(&b), set(r#"{"f:b":{"f:c":{}}}"#));
        assert!(a.intersects(&b));
        assert!(!a.intersects(&set(r#"{"f:b":{"f:z":{}}}"#)));
        assert_eq!(a.difference(&b), set(r#"{"f:a":{},"f:b":{".":{},"f:d":{}}}"#));
        assert_eq!(b.difference(&a), set(r#"{"f:e":{}}"#));
        assert_eq!(
            a.clone().union(b),
            set(r#"{"f:a":{},"f:b":{".":{},"f:c":{},"f:d":{}},"f:e":{}}"#)
        );
        assert_eq!(a.recursive_difference(&set(r#"{"f:b":{}}"#)), set(r#"{"f:a":{}}"#));
        assert_eq!(
            a.difference(&set(r#"{"f:b":{}}"#)),
            set(r#"{"f:a":{},"f:b":{"f:c":{},"f:d":{}}}"#)
        );
    }

    fn any_set() -> impl Strategy<Value = FieldSet> {
        let step = prop_oneof![
            "[a-c\"\\\\é]{0,3}".prop_map(|s| Step::field(&s)),
            ("[a-b]", 0..3).prop_map(|(k, n)| Step::key([(k.as_str(), &json!(n))])),
            any::<i8>().prop_map(|n| Step::value(&json!(n))),
            (0..3usize).prop_map(Step::index),
        ];
        let paths = proptest::collection::vec(proptest::collection::vec(step, 1..4), 0..8);
        paths.prop_map(|p| FieldSet::of_paths(p.iter().map(Vec::as_slice)))
    }

    proptest! {
        #[test]
        fn any_set_round_trips(a in any_set()) {
            prop_assert_eq!(FieldSet::decode(&a.encode()), Some(a));
        }

        #[test]
        fn laws_of_sets(a in any_set(), b in any_set()) {
            prop_assert_eq!(a.difference(&b).union(a.intersection(&b)), a.clone());
            prop_assert_eq!(a.clone().union(b.clone()), b.clone().union(a.clone()));
            prop_assert_eq!(a.intersection(&b).is_empty(), !a.intersects(&b));
            prop_assert!(a.difference(&a).is_empty());
        }

        #[test]
        fn junk_never_panics(s in ".{0,60}") {
            let _ = FieldSet::decode(&s);
            let _ = FieldSet::decode(&format!("{{\"k:{s}\":{{}}}}"));
        }
    }
}
