//! Field ownership: what each manager owns, how a write moves ownership, and
//! server-side apply (KEP-555, structured-merge-diff). Must not read a clock: times
//! come with the writer.

mod managers;
mod merge;
mod walk;

use meta::{Cause, Reason, Status};
use serde_json::{Map, Value};

use crate::fieldset::{FieldSet, Step};
use crate::schema::{ListType, Schema};
use walk::Difference;

pub use managers::{Manager, Managers};

/// Metadata that nobody owns: the server writes it, or it names the object.
const NEVER_OWNED: [&[&str]; 11] = [
    &["apiVersion"],
    &["kind"],
    &["metadata"],
    &["metadata", "name"],
    &["metadata", "namespace"],
    &["metadata", "uid"],
    &["metadata", "resourceVersion"],
    &["metadata", "generation"],
    &["metadata", "creationTimestamp"],
    &["metadata", "managedFields"],
    &["metadata", "selfLink"],
];

/// Who owned what there was before anybody applied, upstream's name.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";

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
        return format!(
            "Apply failed with 1 conflict: conflict with {}: {}",
            one.manager, one.field
        );
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

/// Moves ownership for a write that is no apply: what it added or changed is its manager's now
/// and nobody else's. `old` is `None` at creation. A write that changes nothing keeps the managers
/// as they are, times included.
pub fn track(schema: &Schema, old: Option<&Value>, new: &Value, managers: &mut Managers, writer: &Writer<'_>) {
    let nothing = Value::Object(Map::new());
    let Difference { changed, removed } = walk::compare(schema, old.unwrap_or(&nothing), new);
    let (changed, removed) = (writer.may_own(changed), writer.may_own(removed));
    if changed.is_empty() && removed.is_empty() {
        return;
    }
    for m in managers.iter_mut() {
        take_away(m, &changed, &removed);
    }
    if !changed.is_empty() {
        match managers.find_mut(writer, false) {
            Some(m) => {
                m.set_fields(m.fields().into_owned().union(changed));
                m.time = writer.time.to_owned();
            }
            None => managers.push(Manager::new(writer, false, changed)),
        }
    }
    managers.drop_empty();
    managers.fold_ancient();
}

/// A manager without the fields that are somebody else's now, and those that are no more.
fn take_away(m: &mut Manager, changed: &FieldSet, removed: &FieldSet) {
    let fields = m.fields();
    if fields.intersects(changed) || fields.intersects(removed) {
        let left = fields.difference(changed).difference(removed);
        m.set_fields(left);
    }
}

impl Writer<'_> {
    /// What of these fields the writer can own, given what it writes through.
    fn may_own(&self, mut fields: FieldSet) -> FieldSet {
        NEVER_OWNED.iter().for_each(|path| fields.remove_members(path));
        match self.subresource {
            "status" => fields.retain_fields(|f| matches!(f, "status" | "metadata")),
            "" if self.has_status => fields.retain_fields(|f| f != "status"),
            _ => {}
        }
        fields
    }
}

/// Applies a configuration: the new object, or the conflicts that `force` would override. On
/// error `managers` may be changed; drop them.
///
/// The configuration is merged into the live object; what the manager applied before, applies no
/// longer and nobody else owns goes. When the result equals `live` and the managers are the
/// [same but for times](Managers::same_but_times), nothing needs to be written.
pub fn apply(
    schema: &Schema,
    live: Option<&Value>,
    config: &Value,
    managers: &mut Managers,
    writer: &Writer<'_>,
    force: bool,
) -> Result<Value, ApplyError> {
    check(schema, config)?;
    let nothing = Value::Object(Map::new());
    let before = live.unwrap_or(&nothing);
    if live.is_some() && managers.is_empty() {
        let first = Writer {
            name: BEFORE_FIRST_APPLY,
            subresource: "",
            ..*writer
        };
        track(schema, None, before, managers, &first);
    }
    let fields = writer.may_own(walk::all_fields(schema, config));
    let mut merged = before.clone();
    merge::merge(schema, &mut merged, config);
    if let Some(last) = managers.find(writer, true) {
        let others = managers.iter().filter(|m| !m.is(writer, true));
        let owned = others.fold(fields.clone(), |all, m| all.union(m.fields().into_owned()));
        merge::remove_abandoned(schema, &mut merged, &last.fields(), &owned);
    }
    let Difference { changed, removed } = walk::compare(schema, before, &merged);
    // What the endpoint resets anyway is no cause for a conflict.
    let (changed, removed) = (writer.may_own(changed), writer.may_own(removed));
    if !force {
        let conflicts = conflicts(managers, &changed, writer);
        if !conflicts.is_empty() {
            return Err(ApplyError::Conflicts(conflicts));
        }
    }
    managers
        .iter_mut()
        .filter(|m| !m.is(writer, true))
        .for_each(|m| take_away(m, &changed, &removed));
    let moved = !changed.is_empty() || !removed.is_empty();
    match managers.find_mut(writer, true) {
        Some(m) if !moved && m.api_version == writer.api_version && *m.fields() == fields => {}
        Some(m) => *m = Manager::new(writer, true, fields),
        None => managers.push(Manager::new(writer, true, fields)),
    }
    managers.drop_empty();
    Ok(merged)
}

fn conflicts(managers: &Managers, changed: &FieldSet, writer: &Writer<'_>) -> Vec<Conflict> {
    let mut out = Vec::new();
    for m in managers.iter().filter(|m| !m.is(writer, true)) {
        let contested = m.fields().intersection(changed);
        let manager = m.words();
        out.extend(contested.paths().into_iter().map(|field| Conflict {
            manager: manager.clone(),
            field,
        }));
    }
    out
}

/// Refuses a configuration whose items cannot be told apart.
fn check(schema: &Schema, config: &Value) -> Result<(), ApplyError> {
    if !config.is_object() {
        return Err(ApplyError::Malformed("an applied configuration is an object".into()));
    }
    if config.pointer("/metadata/managedFields").is_some_and(|m| !m.is_null()) {
        return Err(ApplyError::Malformed("metadata.managedFields must be nil".into()));
    }
    check_items(schema, config, &mut String::new()).map_err(ApplyError::Malformed)
}

fn check_items(schema: &Schema, value: &Value, path: &mut String) -> Result<(), String> {
    let at = path.len();
    match walk::kind(schema, value) {
        walk::Kind::Leaf => {}
        walk::Kind::Fields(map) => {
            for (name, v) in map.iter().filter(|(_, v)| v.is_object() || v.is_array()) {
                path.push('.');
                path.push_str(name);
                check_items(walk::field_schema(schema, name), v, path)?;
                path.truncate(at);
            }
        }
        walk::Kind::Items(items, list, values) => {
            let mut seen: Vec<Step> = Vec::with_capacity(values.len());
            for (i, v) in values.iter().enumerate() {
                let step = walk::item_step(items, list, v, i);
                if let (ListType::Map(keys), true) = (list, step.as_str().starts_with("i:")) {
                    let key = keys.first().map_or("", String::as_str);
                    let key = meta::field::quoted(key);
                    return Err(format!(
                        "{path}: element {i}: associative list with keys has an element that omits key field {key} (and doesn't have default value)"
                    ));
                }
                path.push_str(&step.to_string());
                check_items(items, v, path)?;
                path.truncate(at);
                seen.push(step);
            }
            seen.sort();
            if let Some(pair) = seen.windows(2).find(|w| w.first() == w.get(1)) {
                let step = pair.first().map(Step::to_string).unwrap_or_default();
                return Err(format!("{path}: duplicate entries for key {step}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
