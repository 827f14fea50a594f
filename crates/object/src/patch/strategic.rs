//! Strategic merge patch: as merge patch, but lists with a merge key are merged
//! item by item, and directives say the rest: `$patch: replace|delete|merge`,
//! `$deleteFromPrimitiveList/f`, `$setElementOrder/f`, `$retainKeys`.

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{PatchStrategy, Schema, Shape};

const DIRECTIVE: &str = "$patch";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ORDER: &str = "$setElementOrder/";
const RETAIN: &str = "$retainKeys";

/// Applies a patch to a value of the schema's type.
pub fn strategic(schema: &Schema, value: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(patch) = patch else {
        return Err(PatchError::Malformed(
            "a strategic merge patch must be an object".into(),
        ));
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    match value {
        Value::Object(map) => merge_map(Some(schema), map, patch),
        _ => Ok(()),
    }
}

fn merge_map(
    schema: Option<&Schema>,
    value: &mut Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<(), PatchError> {
    match patch.get(DIRECTIVE).map(|d| d.as_str().unwrap_or_default()) {
        None | Some("merge") => {}
        Some("replace") => {
            *value = patch
                .iter()
                .filter(|(k, _)| !k.starts_with('$'))
                .map(|(k, v)| (k.clone(), v.clone()))
                .collect();
            return Ok(());
        }
        Some("delete") => {
            value.clear();
            return Ok(());
        }
        Some(other) => {
            return Err(PatchError::Malformed(format!(
                "invalid value for $patch directive: {other:?}"
            )));
        }
    }
    if let Some(keep) = patch.get(RETAIN) {
        let keep = keep
            .as_array()
            .ok_or_else(|| PatchError::Malformed("$retainKeys must be a list".into()))?;
        value.retain(|k, _| keep.iter().any(|x| x == k));
    }
    for (name, given) in patch {
        if let Some(field) = name.strip_prefix(DELETE_FROM) {
            if let (Some(Value::Array(list)), Some(gone)) = (value.get_mut(field), given.as_array()) {
                list.retain(|x| !gone.contains(x));
            }
        } else if !name.starts_with('$') {
            merge_field(child(schema, name), value, name, given)?;
        }
    }
    for (name, order) in patch {
        if let Some(field) = name.strip_prefix(ORDER)
            && let (Some(Value::Array(list)), Some(order)) = (value.get_mut(field), order.as_array())
        {
            let key = child(schema, field)
                .and_then(|s| strategy(s))
                .and_then(|p| p.merge_key.clone());
            reorder(list, order, key.as_deref());
        }
    }
    Ok(())
}

fn merge_field(
    schema: Option<&Schema>,
    value: &mut Map<String, Value>,
    name: &str,
    given: &Value,
) -> Result<(), PatchError> {
    match given {
        Value::Null => {
            value.remove(name);
        }
        Value::Object(patch) => {
            if patch.get(DIRECTIVE).and_then(Value::as_str) == Some("delete") {
                value.remove(name);
                return Ok(());
            }
            let target = value.entry(name.to_owned()).or_insert_with(|| Value::Object(Map::new()));
            if !target.is_object() {
                *target = Value::Object(Map::new());
            }
            if let Value::Object(target) = target {
                merge_map(schema, target, patch)?;
            }
        }
        Value::Array(patch) => {
            let merged = match schema.and_then(strategy) {
                Some(s) if s.merge => {
                    let had = match value.remove(name) {
                        Some(Value::Array(list)) => list,
                        _ => Vec::new(),
                    };
                    let items = schema.and_then(|s| match &s.shape {
                        Shape::List { items, .. } => Some(items.as_ref()),
                        _ => None,
                    });
                    merge_list(items, s, had, patch, name)?
                }
                _ => patch.clone(),
            };
            value.insert(name.to_owned(), Value::Array(merged));
        }
        scalar => {
            value.insert(name.to_owned(), scalar.clone());
        }
    }
    Ok(())
}

fn merge_list(
    items: Option<&Schema>,
    strategy: &PatchStrategy,
    mut list: Vec<Value>,
    patch: &[Value],
    name: &str,
) -> Result<Vec<Value>, PatchError> {
    let Some(key) = &strategy.merge_key else {
        for v in patch {
            if !list.contains(v) {
                list.push(v.clone());
            }
        }
        return Ok(list);
    };
    if patch
        .iter()
        .any(|p| p.get(DIRECTIVE).and_then(Value::as_str) == Some("replace"))
    {
        return Ok(patch.iter().filter(|p| p.get(DIRECTIVE).is_none()).cloned().collect());
    }
    for given in patch {
        let Value::Object(map) = given else {
            return Err(PatchError::Malformed(format!("items of {name} must be objects")));
        };
        let Some(id) = map.get(key) else {
            return Err(PatchError::Malformed(format!(
                "map: {given} does not contain declared merge key: {key}"
            )));
        };
        let found = list.iter().position(|x| x.get(key) == Some(id));
        match (map.get(DIRECTIVE).and_then(Value::as_str), found) {
            (Some("delete"), _) => list.retain(|x| x.get(key) != Some(id)),
            (_, Some(i)) => {
                if let Some(Value::Object(target)) = list.get_mut(i) {
                    merge_map(items, target, map)?;
                }
            }
            (_, None) => {
                let mut fresh = Map::new();
                merge_map(items, &mut fresh, map)?;
                list.push(Value::Object(fresh));
            }
        }
    }
    Ok(list)
}

/// Puts the items that `order` names into its order; others stay behind the item they followed.
fn reorder(list: &mut Vec<Value>, order: &[Value], key: Option<&str>) {
    let id = |v: &Value| match key {
        Some(key) => v.get(key).cloned().unwrap_or(Value::Null),
        None => v.clone(),
    };
    let wanted: Vec<Value> = order.iter().map(id).collect();
    let rank = |v: &Value| wanted.iter().position(|w| *w == id(v));
    // Groups begin at each named item; what is unnamed travels with the item before it.
    let mut groups: Vec<(Option<usize>, Vec<Value>)> = vec![(None, Vec::new())];
    for item in list.drain(..) {
        match rank(&item) {
            Some(r) => groups.push((Some(r), vec![item])),
            None => {
                if let Some(last) = groups.last_mut() {
                    last.1.push(item);
                }
            }
        }
    }
    groups.sort_by_key(|(r, _)| *r);
    list.extend(groups.into_iter().flat_map(|(_, items)| items));
}

fn child<'a>(schema: Option<&'a Schema>, name: &str) -> Option<&'a Schema> {
    match &schema?.shape {
        Shape::Object { fields, .. } => fields.get(name).map(AsRef::as_ref),
        Shape::Map { values, .. } => Some(values),
        _ => None,
    }
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
}
