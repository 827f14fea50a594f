//! Strategic merge patch: as merge patch, but lists with a merge key are merged
//! item by item, and directives say the rest: `$patch: replace|delete|merge`,
//! `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`. A field whose
//! schema has no strategy is replaced whole. Must not be used on custom resources.

use std::collections::{HashMap, HashSet};

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{ANY, PatchStrategy, Schema, Shape};

const DIRECTIVE: &str = "$patch";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";

type Result<T> = std::result::Result<T, PatchError>;

fn malformed<T>(why: impl Into<String>) -> Result<T> {
    Err(PatchError::Malformed(why.into()))
}

/// Applies a strategic merge patch to a value of the schema's kind. On error `value` is half
/// patched.
pub fn strategic(schema: &Schema, value: &mut Value, patch: &Value) -> Result<()> {
    let Value::Object(patch) = patch else {
        return malformed("a strategic merge patch must be an object");
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => merge_map(schema, map, patch),
        _ => Ok(()),
    }
}

/// What `$patch` says.
enum Directive {
    Merge,
    Replace,
    Delete,
}

fn directive(patch: &Map<String, Value>) -> Result<Directive> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => Ok(Directive::Merge),
        Some("replace") => Ok(Directive::Replace),
        Some("delete") => Ok(Directive::Delete),
        Some(other) => malformed(format!("unknown patch type found: {other}")),
    }
}

fn merge_map(schema: &Schema, value: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    match directive(patch)? {
        Directive::Merge => {}
        Directive::Replace => {
            *value = plain_map(patch);
            return Ok(());
        }
        Directive::Delete => {
            value.clear();
            return Ok(());
        }
    }
    retain_keys(value, patch)?;
    // Before the additions, so that an item may be deleted and added again.
    for (name, gone) in patch {
        let Some(field) = name.strip_prefix(DELETE_FROM) else {
            continue;
        };
        let Value::Array(gone) = gone else {
            return malformed(format!("{name} must be a list"));
        };
        if let Some(Value::Array(list)) = value.get_mut(field) {
            let gone: HashSet<String> = gone.iter().map(Value::to_string).collect();
            list.retain(|x| !gone.contains(&x.to_string()));
        }
    }
    for (name, given) in patch.iter().filter(|(name, _)| !is_directive(name)) {
        let order = order_of(patch, name)?;
        merge_field(child(schema, name), value, name, given, order)?;
    }
    for (name, order) in patch {
        let Some(field) = name.strip_prefix(ORDER).filter(|f| !patch.contains_key(*f)) else {
            continue;
        };
        let Value::Array(order) = order else {
            return malformed(format!("{name} must be a list"));
        };
        if let Some(Value::Array(list)) = value.get_mut(field) {
            let key = strategy(child(schema, field)).and_then(|p| p.merge_key.as_deref());
            let live = list.clone();
            put_in_order(list, &live, order, key);
        }
    }
    Ok(())
}

fn is_directive(name: &str) -> bool {
    name == DIRECTIVE || name == RETAIN || name.starts_with(ORDER) || name.starts_with(DELETE_FROM)
}

fn order_of<'p>(patch: &'p Map<String, Value>, field: &str) -> Result<Option<&'p [Value]>> {
    match patch.get(&format!("{ORDER}{field}")) {
        None => Ok(None),
        Some(Value::Array(order)) => Ok(Some(order)),
        Some(_) => malformed(format!("{ORDER}{field} must be a list")),
    }
}

/// Drops the fields of a union that the patch does not retain.
fn retain_keys(value: &mut Map<String, Value>, patch: &Map<String, Value>) -> Result<()> {
    let Some(keep) = patch.get(RETAIN) else {
        return Ok(());
    };
    let Some(keep) = keep.as_array() else {
        return malformed(format!("{RETAIN} must be a list"));
    };
    let keep: HashSet<&str> = keep.iter().filter_map(Value::as_str).collect();
    let extra = patch
        .iter()
        .find(|(k, v)| !is_directive(k) && !v.is_null() && !keep.contains(k.as_str()));
    if let Some((extra, _)) = extra {
        return malformed(format!("{RETAIN} does not name {extra}, which the patch sets"));
    }
    value.retain(|k, _| keep.contains(k.as_str()));
    Ok(())
}

fn merge_field(
    schema: &Schema,
    value: &mut Map<String, Value>,
    name: &str,
    given: &Value,
    order: Option<&[Value]>,
) -> Result<()> {
    match given {
        Value::Null => _ = value.remove(name),
        Value::Object(patch) => {
            let target = value.entry(name).or_insert(Value::Null);
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            if let Value::Object(target) = target {
                merge_map(schema, target, patch)?;
            }
            if matches!(directive(patch)?, Directive::Delete) {
                value.remove(name);
            }
        }
        Value::Array(patch) => {
            let merged = match (strategy(schema), &schema.shape) {
                (Some(s), Shape::List { items, .. }) if s.merge => {
                    let live = match value.remove(name) {
                        Some(Value::Array(list)) => list,
                        _ => Vec::new(),
                    };
                    merge_list(items, s, live, patch, order, name)?
                }
                _ => plain_list(patch),
            };
            value.insert(name.to_owned(), Value::Array(merged));
        }
        scalar => _ = value.insert(name.to_owned(), scalar.clone()),
    }
    Ok(())
}

fn merge_list(
    items: &Schema,
    strategy: &PatchStrategy,
    live: Vec<Value>,
    patch: &[Value],
    order: Option<&[Value]>,
    name: &str,
) -> Result<Vec<Value>> {
    let key = strategy.merge_key.as_deref();
    let says = |p: &Value, what: &str| p.get(DIRECTIVE).and_then(Value::as_str) == Some(what);
    if patch.iter().any(|p| says(p, "replace")) {
        return Ok(plain_list(patch));
    }
    let mut list = live.clone();
    match key {
        None => {
            let mut seen: HashSet<String> = list.iter().map(Value::to_string).collect();
            list.extend(patch.iter().filter(|v| seen.insert(v.to_string())).map(plain));
        }
        Some(key) => merge_items(items, key, &mut list, patch, name)?,
    }
    put_in_order(&mut list, &live, order.unwrap_or(patch), key);
    Ok(list)
}

fn merge_items(items: &Schema, key: &str, list: &mut Vec<Value>, patch: &[Value], name: &str) -> Result<()> {
    let mut gone = HashSet::new();
    let mut places: HashMap<String, usize> = list
        .iter()
        .enumerate()
        .rev()
        .map(|(i, v)| (identity(v, Some(key)), i))
        .collect();
    for given in patch {
        let Value::Object(map) = given else {
            return malformed(format!("items of {name} must be objects"));
        };
        if !map.contains_key(key) {
            return malformed(format!("map: {given} does not contain declared merge key: {key}"));
        }
        let id = identity(given, Some(key));
        if let Directive::Delete = directive(map)? {
            gone.insert(id);
            continue;
        }
        match places.get(&id).and_then(|at| list.get_mut(*at)) {
            Some(Value::Object(target)) => merge_map(items, target, map)?,
            _ => {
                let mut fresh = Map::new();
                merge_map(items, &mut fresh, map)?;
                places.insert(id, list.len());
                list.push(Value::Object(fresh));
            }
        }
    }
    if !gone.is_empty() {
        list.retain(|v| !gone.contains(&identity(v, Some(key))));
    }
    Ok(())
}

/// Puts the items that `order` names into its order. The others stay before what they stood
/// before in `live`, and otherwise come first.
fn put_in_order(list: &mut Vec<Value>, live: &[Value], order: &[Value], key: Option<&str>) {
    let ranks = |values: &[Value]| -> HashMap<String, usize> {
        values
            .iter()
            .enumerate()
            .rev()
            .map(|(i, v)| (identity(v, key), i))
            .collect()
    };
    let (wanted, was) = (ranks(order), ranks(live));
    let mut named: Vec<(usize, Option<usize>, Value)> = Vec::with_capacity(list.len());
    let mut others: Vec<(Option<usize>, Value)> = Vec::new();
    for item in list.drain(..) {
        let id = identity(&item, key);
        let before = was.get(&id).copied();
        match wanted.get(&id) {
            Some(rank) => named.push((*rank, before, item)),
            None => others.push((before, item)),
        }
    }
    named.sort_by_key(|(rank, _, _)| *rank);
    others.sort_by_key(|(before, _)| *before);
    let mut others = others.into_iter().peekable();
    for (_, before, item) in named {
        let waits = |o: &(Option<usize>, Value)| matches!((before, o.0), (Some(named), Some(other)) if named < other);
        while let Some((_, other)) = others.next_if(|o| !waits(o)) {
            list.push(other);
        }
        list.push(item);
    }
    list.extend(others.map(|(_, v)| v));
}

/// What tells an item from others, as text.
fn identity(item: &Value, key: Option<&str>) -> String {
    match key {
        Some(key) => item.get(key).map(Value::to_string).unwrap_or_default(),
        None => item.to_string(),
    }
}

/// A part of the patch as a value of its own: without directives, and without nulls in objects.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(map) => Value::Object(plain_map(map)),
        Value::Array(list) => Value::Array(plain_list(list)),
        other => other.clone(),
    }
}

fn plain_list(list: &[Value]) -> Vec<Value> {
    list.iter().filter(|v| v.get(DIRECTIVE).is_none()).map(plain).collect()
}

fn plain_map(map: &Map<String, Value>) -> Map<String, Value> {
    let kept = map.iter().filter(|(k, v)| !is_directive(k) && !v.is_null());
    kept.map(|(k, v)| (k.clone(), plain(v))).collect()
}

fn child<'s>(schema: &'s Schema, name: &str) -> &'s Schema {
    schema.field(name).unwrap_or(&ANY)
}

fn strategy(schema: &Schema) -> Option<&PatchStrategy> {
    match &schema.shape {
        Shape::List { patch, .. } => Some(patch),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::schema;
    use serde_json::json;

    fn patched(value: Value, patch: Value) -> Value {
        let mut value = value;
        strategic(&schema(), &mut value, &patch).unwrap();
        value
    }

    #[test]
    fn lists_are_merged_by_key() {
        let base = json!({"spec": {"items": [{"name": "a", "image": "1"}, {"name": "b", "image": "1"}]}});
        for (patch, items) in [
            (
                json!({"spec": {"items": [{"name": "b", "image": "2"}]}}),
                json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]),
            ),
            (
                json!({"spec": {"items": [{"name": "a", "$patch": "delete"}]}}),
                json!([{"name": "b", "image": "1"}]),
            ),
            (
                json!({"spec": {"items": [{"$patch": "replace"}, {"name": "c"}]}}),
                json!([{"name": "c"}]),
            ),
            (
                json!({"spec": {"$setElementOrder/items": [{"name": "c"}, {"name": "b"}, {"name": "a"}], "items": [{"name": "c"}]}}),
                json!([{"name": "c"}, {"name": "b", "image": "1"}, {"name": "a", "image": "1"}]),
            ),
            (
                json!({"spec": {"items": [{"name": "a", "image": null}]}}),
                json!([{"name": "a"}, {"name": "b", "image": "1"}]),
            ),
        ] {
            assert_eq!(patched(base.clone(), patch)["spec"]["items"], items);
        }
    }

    #[test]
    fn sets_maps_and_directives() {
        let base = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"finalizers": ["x", "y"], "replicas": 1}});
        let got = patched(
            base.clone(),
            json!({"spec": {"finalizers": ["z"], "$deleteFromPrimitiveList/finalizers": ["x"]}}),
        );
        assert_eq!(got["spec"]["finalizers"], json!(["y", "z"]));
        let got = patched(
            base.clone(),
            json!({"metadata": {"labels": {"$patch": "replace", "b": "2"}}}),
        );
        assert_eq!(got["metadata"]["labels"], json!({"b": "2"}));
        let got = patched(
            base.clone(),
            json!({"spec": {"$retainKeys": ["replicas"], "replicas": 2}}),
        );
        assert_eq!(got["spec"], json!({"replicas": 2}));
        assert_eq!(patched(base.clone(), json!({})), base);
        assert!(strategic(&schema(), &mut base.clone(), &json!({"spec": {"$patch": "junk"}})).is_err());
        assert!(
            strategic(
                &schema(),
                &mut base.clone(),
                &json!({"spec": {"items": [{"image": "x"}]}})
            )
            .is_err()
        );
    }

    #[test]
    fn order_of_items() {
        let names = |names: &[&str]| -> Value { names.iter().map(|n| json!({"name": n})).collect() };
        for (live, patch, order, want) in [
            // Without an order the patch's own counts.
            (&["a", "b"][..], &["b", "a"][..], None, &["b", "a"][..]),
            (&["a", "b"], &["c"], None, &["a", "b", "c"]),
            // Items that the client did not know of.
            (&["x", "a", "b"], &["b"], Some(&["b", "a"][..]), &["x", "b", "a"]),
            (&["a", "x", "b"], &[], Some(&["b", "a"]), &["x", "b", "a"]),
            (&["a", "b", "x"], &["c"], Some(&["a", "c", "b"]), &["a", "x", "c", "b"]),
        ] {
            let mut spec = json!({"items": names(patch)});
            if patch.is_empty() {
                spec = json!({});
            }
            if let Some(order) = order {
                spec["$setElementOrder/items"] = names(order);
            }
            let got = patched(json!({"spec": {"items": names(live)}}), json!({"spec": spec}));
            assert_eq!(got["spec"]["items"], names(want), "{live:?} {patch:?} {order:?}");
        }
    }

    #[test]
    fn directives_leave_nothing_behind() {
        let got = patched(
            json!({}),
            json!({"spec": {
                "$retainKeys": ["items", "replicas"],
                "$setElementOrder/items": [{"name": "a"}],
                "$deleteFromPrimitiveList/finalizers": ["x"],
                "items": [{"name": "a", "image": null, "args": [1, {"$patch": "delete"}]}, {"name": "b", "$patch": "delete"}],
                "replicas": null,
            }}),
        );
        assert_eq!(got, json!({"spec": {"items": [{"name": "a", "args": [1]}]}}));
        let got = patched(
            json!({"spec": {"replicas": 1}, "x": 1}),
            json!({"spec": {"$patch": "delete"}}),
        );
        assert_eq!(got, json!({"x": 1}));
        let got = patched(
            json!({"spec": {"replicas": 1}}),
            json!({"$patch": "replace", "x": null, "y": 1}),
        );
        assert_eq!(got, json!({"y": 1}));
    }

    #[test]
    fn malformed_patches_say_what_is_wrong() {
        for (patch, message) in [
            (json!([]), "a strategic merge patch must be an object"),
            (json!({"$patch": "junk"}), "unknown patch type found: junk"),
            (
                json!({"$retainKeys": ["a"], "b": 1}),
                "$retainKeys does not name b, which the patch sets",
            ),
            (json!({"spec": {"items": [1]}}), "items of items must be objects"),
            (
                json!({"spec": {"items": [{"image": "x"}]}}),
                "map: {\"image\":\"x\"} does not contain declared merge key: name",
            ),
            (
                json!({"$setElementOrder/x": 1, "x": []}),
                "$setElementOrder/x must be a list",
            ),
        ] {
            let err = strategic(&schema(), &mut json!({"spec": {}}), &patch).unwrap_err();
            assert_eq!(err, PatchError::Malformed(message.into()));
        }
    }
}
