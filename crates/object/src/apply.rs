//! Field ownership: what each manager owns, how a write moves ownership, and
//! server-side apply (KEP-555, structured-merge-diff).

use bytes::Bytes;
use meta::{Cause, Reason, Status};
use serde_json::{Map, Value, json};

use crate::fieldset::{FieldSet, Step, compare, item_step, of_value};
use crate::schema::{ListType, Schema, Shape};

/// Updating managers beyond this number are folded into one, as upstream.
const MAX_UPDATE_MANAGERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// Metadata that nobody owns: the server writes it.
const NEVER_OWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "deletionTimestamp"],
    &["metadata", "managedFields"],
    &["metadata", "selfLink"],
];

/// One entry of `metadata.managedFields`.
#[derive(Clone, Debug, PartialEq)]
pub struct Manager {
    /// Name.
    pub name: String,
    /// Whether by apply; otherwise by update.
    pub apply: bool,
    /// API version that the fields are named in.
    pub api_version: String,
    /// RFC 3339 time of the last change.
    pub time: String,
    /// Subresource; empty for the main resource.
    pub subresource: String,
    /// What it owns.
    pub fields: FieldSet,
}

/// All managers of an object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Managers(pub Vec<Manager>);

impl Managers {
    /// From `metadata.managedFields`; entries of another form are left out.
    pub fn from_value(value: &Value) -> Self {
        let text = |e: &Value, f: &str| e[f].as_str().unwrap_or_default().to_owned();
        let list = value.as_array().into_iter().flatten();
        Managers(
            list.filter(|e| e["fieldsType"] == "FieldsV1")
                .map(|e| Manager {
                    name: text(e, "manager"),
                    apply: e["operation"] == "Apply",
                    api_version: text(e, "apiVersion"),
                    time: text(e, "time"),
                    subresource: text(e, "subresource"),
                    fields: FieldSet::from_value(&e["fieldsV1"]),
                })
                .collect(),
        )
    }

    /// From the JSON of `metadata.managedFields`; nobody when it is not that.
    pub fn decode(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).map(|v| Self::from_value(&v)).unwrap_or_default()
    }

    /// The JSON of `metadata.managedFields`; `None` when nobody owns anything.
    pub fn encode(&self) -> Option<Bytes> {
        self.to_value().map(|v| v.to_string().into())
    }

    /// Whether nobody owns anything.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether both say the same but for times.
    pub fn same_but_times(&self, other: &Managers) -> bool {
        self == other
    }

    /// The managers that a write starts from: those that the client sent, when they are good
    /// and not empty, else the live ones; an explicitly empty list (`[]` or `[{}]`) resets. A
    /// write to a subresource always starts from the live ones.
    pub fn choose(live: Managers, given: Option<&Value>, subresource: &str) -> Managers {
        let Some(given) = given.filter(|_| subresource.is_empty()) else {
            return live;
        };
        match given.as_array().map(Vec::as_slice) {
            Some([]) => Managers::default(),
            Some([one]) if one.as_object().is_some_and(Map::is_empty) => Managers::default(),
            _ => Some(Managers::from_value(given)).filter(|m| !m.is_empty()).unwrap_or(live),
        }
    }

    /// The wire form; `None` when nobody owns anything.
    pub fn to_value(&self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        let mut sorted: Vec<&Manager> = self.0.iter().collect();
        // Appliers first, then by time, then by name: the order that upstream prints.
        sorted.sort_by(|a, b| (!a.apply, &a.time, &a.name).cmp(&(!b.apply, &b.time, &b.name)));
        Some(sorted.into_iter().map(entry).collect())
    }
}

fn entry(m: &Manager) -> Value {
    let mut out = json!({
        "manager": m.name,
        "operation": if m.apply { "Apply" } else { "Update" },
        "apiVersion": m.api_version,
        "time": m.time,
        "fieldsType": "FieldsV1",
        "fieldsV1": m.fields.to_value(),
    });
    if !m.subresource.is_empty() {
        out["subresource"] = m.subresource.as_str().into();
    }
    out
}

/// Who writes.
#[derive(Clone, Debug)]
pub struct Writer<'a> {
    /// Name of the manager.
    pub name: &'a str,
    /// API version of the object.
    pub api_version: &'a str,
    /// Empty for the main resource.
    pub subresource: &'a str,
    /// RFC 3339 time.
    pub time: &'a str,
    /// Whether the kind serves `status` apart: then the main resource owns nothing of the
    /// status, and `status` nothing but it and metadata.
    pub has_status: bool,
}

/// A field that another manager owns with another value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    /// Who owns it, as messages print it: `"name"` or `"name" with subresource "status" using apps/v1`.
    pub manager: String,
    /// Path.
    pub field: String,
}

/// Why an apply did not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// Others own fields that would change: 409.
    #[error("{}", conflict_message(.0))]
    Conflicts(Vec<Conflict>),
    /// The applied configuration is not usable: 400.
    #[error("{0}")]
    Malformed(String),
}

impl From<ApplyError> for Status {
    fn from(error: ApplyError) -> Status {
        let message = error.to_string();
        match error {
            ApplyError::Malformed(_) => Status::bad_request(message),
            ApplyError::Conflicts(conflicts) => {
                let mut status = Status::new(409, Reason::Conflict, message);
                status.causes = conflicts
                    .into_iter()
                    .map(|c| Cause {
                        reason: "FieldManagerConflict".into(),
                        message: format!("conflict with {}", c.manager),
                        field: c.field,
                    })
                    .collect();
                status
            }
        }
    }
}

/// One conflict on one line; several under the name of each manager.
fn conflict_message(conflicts: &[Conflict]) -> String {
    if let [one] = conflicts {
        return format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.field);
    }
    let mut sorted: Vec<&Conflict> = conflicts.iter().collect();
    sorted.sort_by(|a, b| a.manager.cmp(&b.manager));
    let mut lines: Vec<String> = Vec::new();
    let mut last = None;
    for c in sorted {
        if last != Some(&c.manager) {
            lines.push(format!("conflicts with {}:", c.manager));
            last = Some(&c.manager);
        }
        lines.push(format!("- {}", c.field));
    }
    format!("Apply failed with {} conflicts: {}", conflicts.len(), lines.join("\n"))
}

/// Moves ownership for a write that is no apply: what it changed is its manager's now.
pub fn track(schema: &Schema, old: Option<&Value>, new: &Value, managers: &mut Managers, writer: &Writer<'_>) {
    let empty = Value::Object(Map::new());
    let mut difference = compare(schema, old.unwrap_or(&empty), new);
    for path in NEVER_OWNED {
        difference.changed.remove(path);
        difference.removed.remove(path);
    }
    scope(&mut difference.changed, writer.subresource);
    if difference.changed.is_empty() && difference.removed.is_empty() {
        return;
    }
    let is_writer = |m: &Manager| !m.apply && m.name == writer.name && m.subresource == writer.subresource;
    for m in &mut managers.0 {
        m.fields = m.fields.without(&difference.removed);
        if !is_writer(m) {
            m.fields = m.fields.without(&difference.changed);
        }
    }
    if !difference.changed.is_empty() {
        match managers.0.iter_mut().find(|m| is_writer(m)) {
            Some(m) => {
                m.fields.union(&difference.changed);
                m.time = writer.time.to_owned();
                m.api_version = writer.api_version.to_owned();
            }
            None => managers.0.push(Manager {
                name: writer.name.to_owned(),
                apply: false,
                api_version: writer.api_version.to_owned(),
                time: writer.time.to_owned(),
                subresource: writer.subresource.to_owned(),
                fields: difference.changed,
            }),
        }
    }
    managers.0.retain(|m| !m.fields.is_empty());
    fold_ancient(managers);
}

/// A write to `status` owns nothing else but what it may touch of the metadata; one to the main
/// resource owns no status.
fn scope(fields: &mut FieldSet, subresource: &str) {
    if subresource == "status" {
        fields.children.retain(|s, _| s == "f:status" || s == "f:metadata");
    }
}

fn fold_ancient(managers: &mut Managers) {
    let updaters = managers.0.iter().filter(|m| !m.apply).count();
    if updaters <= MAX_UPDATE_MANAGERS {
        return;
    }
    let mut order: Vec<usize> = (0..managers.0.len()).filter(|i| !managers.0[*i].apply).collect();
    order.sort_by(|a, b| managers.0[*a].time.cmp(&managers.0[*b].time));
    order.truncate(updaters - MAX_UPDATE_MANAGERS + 1);
    let mut folded: Option<Manager> = None;
    for i in &order {
        let m = managers.0[*i].clone();
        match &mut folded {
            Some(f) => {
                f.fields.union(&m.fields);
                f.time = m.time;
            }
            None => {
                folded = Some(Manager {
                    name: ANCIENT.into(),
                    ..m
                });
            }
        }
    }
    let mut index = 0;
    managers.0.retain(|_| {
        index += 1;
        !order.contains(&(index - 1))
    });
    managers.0.extend(folded);
}

/// Applies a configuration: the new object, or the conflicts that `force` would override.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    managers: &mut Managers,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    let mut config_set = of_value(schema, config);
    for path in NEVER_OWNED {
        config_set.remove(path);
    }
    scope(&mut config_set, writer.subresource);
    let empty = Value::Object(Map::new());
    let before = live.unwrap_or(&empty);
    let mut merged = before.clone();
    merge(schema, &mut merged, config);

    let changed = compare(schema, before, &merged).changed;
    let is_writer = |m: &Manager| m.apply && m.name == writer.name && m.subresource == writer.subresource;
    let mut conflicts = Vec::new();
    for m in managers.0.iter_mut().filter(|m| !is_writer(m)) {
        let contested = m.fields.intersection(&changed);
        if contested.is_empty() {
            continue;
        }
        if force {
            m.fields = m.fields.without(&contested);
        } else {
            let manager = owner_words(m);
            conflicts.extend(contested.paths().into_iter().map(|field| Conflict {
                manager: manager.clone(),
                field,
            }));
        }
    }
    if !conflicts.is_empty() {
        return Err(ApplyError::Conflicts(conflicts));
    }
    remove_abandoned(schema, &mut merged, managers, &config_set, is_writer);
    record(managers, writer, config_set, is_writer);
    Ok(merged)
}

/// Fields that this manager applied before, applies no more, and nobody else owns, go.
fn remove_abandoned(
    schema: &Schema,
    merged: &mut Value,
    managers: &Managers,
    config: &FieldSet,
    is_writer: impl Fn(&Manager) -> bool,
) {
    let Some(last) = managers.0.iter().find(|m| is_writer(m)) else {
        return;
    };
    let mut abandoned = last.fields.without(config);
    for other in managers.0.iter().filter(|m| !is_writer(m)) {
        abandoned = abandoned.without(&other.fields);
    }
    if !abandoned.is_empty() {
        let mut kept = config.clone();
        for other in managers.0.iter().filter(|m| !is_writer(m)) {
            kept.union(&other.fields);
        }
        remove(schema, merged, &abandoned, Some(&kept));
    }
}

fn record(managers: &mut Managers, writer: &Writer<'_>, fields: FieldSet, is_writer: impl Fn(&Manager) -> bool) {
    match managers.0.iter_mut().find(|m| is_writer(m)) {
        Some(m) => {
            if m.fields != fields || m.api_version != writer.api_version {
                m.fields = fields;
                m.time = writer.time.to_owned();
                m.api_version = writer.api_version.to_owned();
            }
        }
        None => managers.0.push(Manager {
            name: writer.name.to_owned(),
            apply: true,
            api_version: writer.api_version.to_owned(),
            time: writer.time.to_owned(),
            subresource: writer.subresource.to_owned(),
            fields,
        }),
    }
    managers.0.retain(|m| !m.fields.is_empty());
}

fn owner_words(m: &Manager) -> String {
    let mut out = format!("{:?}", m.name);
    if !m.subresource.is_empty() {
        out.push_str(&format!(" with subresource {:?}", m.subresource));
    }
    if !m.apply {
        out.push_str(&format!(" using {}", m.api_version));
    }
    out
}

/// Lays a configuration over a value, by the schema's list types.
fn merge(schema: &Schema, value: &mut Value, config: &Value) {
    match (&schema.shape, config) {
        (
            Shape::Object {
                fields, atomic: false, ..
            },
            Value::Object(given),
        ) => {
            let any = Schema::default();
            merge_fields(value, given, |name| fields.get(name).map_or(&any, |f| f));
        }
        (Shape::Map { values, atomic: false }, Value::Object(given)) => merge_fields(value, given, |_| values),
        (Shape::Any, Value::Object(given)) => merge_fields(value, given, |_| schema),
        (Shape::List { items, list, .. }, Value::Array(given)) if *list != ListType::Atomic => {
            merge_items(items, list, value, given);
        }
        _ => *value = config.clone(),
    }
}

fn merge_fields<'s>(value: &mut Value, given: &Map<String, Value>, schema: impl Fn(&str) -> &'s Schema) {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    for (name, v) in given {
        if v.is_null() {
            map.remove(name);
        } else {
            merge(schema(name), map.entry(name.clone()).or_insert(Value::Null), v);
        }
    }
}

fn merge_items(items: &Schema, list: &ListType, value: &mut Value, given: &[Value]) {
    let had = match value.take() {
        Value::Array(had) => had,
        _ => Vec::new(),
    };
    let mut left: Vec<(Step, Value)> = had.into_iter().map(|v| (item_step(list, items, &v), v)).collect();
    let mut out = Vec::with_capacity(left.len() + given.len());
    // The configuration's order leads; what it does not name keeps its place before the next it names.
    for v in given {
        let step = item_step(list, items, v);
        if let Some(at) = left.iter().position(|(s, _)| *s == step) {
            let named: Vec<Step> = given.iter().map(|g| item_step(list, items, g)).collect();
            let mut rest = left.split_off(at);
            let (_, mut found) = rest.remove(0);
            let (stay, earlier): (Vec<_>, Vec<_>) = left.into_iter().partition(|(s, _)| named.contains(s));
            out.extend(earlier.into_iter().map(|(_, v)| v));
            left = stay;
            left.extend(rest);
            if *list != ListType::Set {
                merge(items, &mut found, v);
            }
            out.push(found);
        } else {
            out.push(v.clone());
        }
    }
    out.extend(left.into_iter().map(|(_, v)| v));
    *value = Value::Array(out);
}

/// Takes paths out of a value; items and containers that `kept` still names stay.
fn remove(schema: &Schema, value: &mut Value, gone: &FieldSet, kept: Option<&FieldSet>) {
    let any = Schema::default();
    match value {
        Value::Object(map) => {
            for (step, below) in &gone.children {
                let Some(name) = step.strip_prefix("f:") else { continue };
                let field: &Schema = match &schema.shape {
                    Shape::Object { fields, .. } => fields.get(name).map_or(&any, |f| f),
                    Shape::Map { values, .. } => values,
                    _ => &any,
                };
                let keep = kept.and_then(|k| k.children.get(step));
                if below.member && keep.is_none() {
                    map.remove(name);
                } else if let Some(v) = map.get_mut(name) {
                    remove(field, v, below, keep);
                    // What held nothing but abandoned fields goes with them.
                    let hollow = v.as_object().is_some_and(Map::is_empty) || v.as_array().is_some_and(Vec::is_empty);
                    if hollow && keep.is_none() {
                        map.remove(name);
                    }
                }
            }
        }
        Value::Array(list) => {
            let Shape::List { items, list: kind, .. } = &schema.shape else {
                return;
            };
            list.retain_mut(|item| {
                let step = item_step(kind, items, item);
                let Some(below) = gone.children.get(&step) else {
                    return true;
                };
                let keep = kept.and_then(|k| k.children.get(&step));
                if below.member && keep.is_none() {
                    return false;
                }
                remove(items, item, below, keep);
                true
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shape::samples::schema;

    fn writer(name: &str) -> Writer<'_> {
        Writer {
            name,
            api_version: "v1",
            subresource: "",
            time: "2026-01-01T00:00:00Z",
            has_status: false,
        }
    }

    fn applied(live: Option<&Value>, config: &Value, m: &mut Managers, who: &str) -> Result<Value, ApplyError> {
        apply(&schema(), live, config, m, &writer(who), false)
    }

    #[test]
    fn applying_again_changes_nothing_and_removal_removes() {
        let mut m = Managers::default();
        let one = json!({"metadata": {"labels": {"a": "1", "b": "2"}}, "spec": {"replicas": 2, "items": [{"name": "x"}, {"name": "y"}]}});
        let live = applied(None, &one, &mut m, "me").unwrap();
        let before = m.clone();
        assert_eq!(applied(Some(&live), &one, &mut m, "me").unwrap(), live);
        assert_eq!(m, before);
        let two = json!({"metadata": {"labels": {"a": "1"}}, "spec": {"items": [{"name": "y"}]}});
        let live = applied(Some(&live), &two, &mut m, "me").unwrap();
        assert_eq!(live, two);
    }

    #[test]
    fn conflicts_are_named_and_force_takes_over() {
        let mut m = Managers::default();
        let live = applied(None, &json!({"spec": {"replicas": 1, "items": []}}), &mut m, "one").unwrap();
        let other = json!({"spec": {"replicas": 5}});
        let conflicts = applied(Some(&live), &other, &mut m, "two").unwrap_err();
        assert_eq!(
            conflicts,
            ApplyError::Conflicts(vec![Conflict {
                manager: "\"one\"".into(),
                field: ".spec.replicas".into()
            }])
        );
        let live = apply(&schema(), Some(&live), &other, &mut m, &writer("two"), true).unwrap();
        assert_eq!(live["spec"]["replicas"], 5);
        let one = m.0.iter().find(|x| x.name == "one").unwrap();
        assert!(!one.fields.paths().contains(&".spec.replicas".to_owned()));
        // Equal values are shared without conflict.
        assert!(applied(Some(&live), &other, &mut m, "three").is_ok());
    }

    #[test]
    fn what_others_own_is_not_removed() {
        let mut m = Managers::default();
        let live = applied(None, &json!({"metadata": {"labels": {"a": "1"}}}), &mut m, "one").unwrap();
        let live = applied(
            Some(&live),
            &json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            &mut m,
            "two",
        )
        .unwrap();
        let live = applied(Some(&live), &json!({"metadata": {}}), &mut m, "two").unwrap();
        assert_eq!(live["metadata"]["labels"], json!({"a": "1"}));
    }

    #[test]
    fn updates_take_ownership() {
        let mut m = Managers::default();
        let live = applied(None, &json!({"spec": {"replicas": 1}}), &mut m, "one").unwrap();
        let new = json!({"spec": {"replicas": 3}});
        track(&schema(), Some(&live), &new, &mut m, &writer("scaler"));
        assert_eq!(m.0.len(), 1);
        assert_eq!((m.0[0].name.as_str(), m.0[0].apply), ("scaler", false));
        let before = m.clone();
        track(&schema(), Some(&new), &new, &mut m, &writer("other"));
        assert_eq!(m, before);
        let wire = m.to_value().unwrap();
        assert_eq!(Managers::from_value(&wire), m);
    }

    #[test]
    fn many_updaters_are_folded() {
        let mut m = Managers::default();
        let mut old = json!({"metadata": {"labels": {}}});
        for i in 0..15 {
            let mut new = old.clone();
            new["metadata"]["labels"][format!("l{i}")] = "x".into();
            track(&schema(), Some(&old), &new, &mut m, &writer(&format!("m{i}")));
            old = new;
        }
        assert_eq!(m.0.len(), MAX_UPDATE_MANAGERS);
        assert!(m.0.iter().any(|x| x.name == ANCIENT));
    }
}
