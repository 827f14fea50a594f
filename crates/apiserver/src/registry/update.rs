//! Replacement of an object, or of its status, by PUT and by every kind of
//! patch: both are a function from the old state to the wanted one.

use std::sync::Arc;

use bytes::Bytes;
use meta::field::ErrorList;
use meta::{Object, Status};
use serde_json::Value;

use super::commit::Written;
use super::create::{dry, report, shape};
use super::metadata::{self, meta_list, meta_str};
use super::{Answer, Call, Draft, Input, Target};
use crate::admission::{Attributes, Operation};
use crate::core::Core;
use crate::machinery::{self, Manager};
use crate::projection::catch_up;

/// How often a write that names no revision is tried against a moving object.
const TRIES: usize = 8;

/// What a writer wants.
pub struct Change {
    /// The wanted state.
    pub value: Value,
    /// Managed fields, when the writer (apply) has worked them out.
    pub managed: Option<Option<Bytes>>,
}

impl Core {
    /// PUT of an object or of its status.
    pub async fn update(&self, call: &Call, target: Target<'_>, input: Input) -> Result<Answer, Status> {
        let Input { mut value, problems } = input;
        report(call, problems)?;
        metadata::check_place(target, &mut value)?;
        let name = meta_str(&value, "name");
        if name.is_empty() {
            if let Some(metadata) = metadata::meta_mut(&mut value) {
                metadata.insert("name".into(), target.name.into());
            }
        } else if name != target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                target.name
            )));
        }
        self.change(call, target, &|_| {
            Ok(Change {
                value: value.clone(),
                managed: None,
            })
        })
        .await
    }

    /// Changes an object by a function of its present state. A race is tried again unless the
    /// wanted state names the revision that it replaces.
    pub async fn change(
        &self,
        call: &Call,
        target: Target<'_>,
        wanted: &(dyn Fn(&Arc<Object>) -> Result<Change, Status> + Sync),
    ) -> Result<Answer, Status> {
        for _ in 0..TRIES {
            catch_up(target.resource).await?;
            let old = self.current(target)?;
            let Change { value, managed } = wanted(&old)?;
            let pinned = check_preconditions(target, &value, &old)?;
            match self.change_once(call, target, &old, value, managed).await? {
                Written::Done(object) => return Ok(object),
                Written::Lost if pinned => return Err(target.modified()),
                Written::Lost => {}
            }
        }
        Err(target.modified())
    }

    /// The present state of the target.
    pub(crate) fn current(&self, target: Target<'_>) -> Result<Arc<Object>, Status> {
        let key = crate::resource::object_key(target.namespace, target.name);
        let item = target.resource.cache.get(&key).ok_or_else(|| target.not_found())?;
        Ok(item.object.clone())
    }

    async fn change_once(
        &self,
        call: &Call,
        target: Target<'_>,
        old: &Arc<Object>,
        mut value: Value,
        managed: Option<Option<Bytes>>,
    ) -> Result<Written, Status> {
        let (resource, kind) = (target.resource, &target.resource.kind);
        let before = old.to_value();
        let given = value.pointer_mut("/metadata/managedFields").map(Value::take);
        metadata::keep_old(&mut value, &before);
        prepare(call, target, &mut value, &before);
        let mut attributes = Attributes {
            call,
            target,
            operation: Operation::Update,
            object: value,
            old: Some(&before),
            held: Vec::new(),
        };
        self.admit(&mut attributes).await?;
        let value = &mut attributes.object;
        shape(call, resource, value)?;
        metadata::tidy(value);
        let is_status = target.subresource == "status";
        if resource.counts_generation && !is_status && spec_changed(value, &before) {
            let generation = old.header().generation + 1;
            value["metadata"]["generation"] = generation.into();
        }
        check(call, target, value, &before)?;
        self.validate_admission(&mut attributes).await?;
        // What plug-ins reserved is theirs until the object is in the cache.
        let (value, _held) = (attributes.object, attributes.held);
        let managed = match managed {
            Some(managed) => managed,
            None => {
                let live = (&before, old.managed_fields());
                machinery::track(
                    kind,
                    Some(live),
                    &value,
                    given.as_ref(),
                    &Manager::of(call, target.subresource),
                )
            }
        };
        self.write_change(call, target, old, &before, Draft { value, managed })
            .await
    }

    async fn write_change(
        &self,
        call: &Call,
        target: Target<'_>,
        old: &Arc<Object>,
        before: &Value,
        draft: Draft,
    ) -> Result<Written, Status> {
        let gone = is_finished(&draft.value);
        if draft.value == *before && !gone && machinery::same_managers(old.managed_fields(), draft.managed.as_ref()) {
            return Ok(Written::Done(old.clone()));
        }
        if call.dry_run {
            return Ok(Written::Done(dry(draft)?));
        }
        if gone {
            return self.commit_delete(target, old.resource_version()).await;
        }
        self.commit_update(target, old.resource_version(), &draft).await
    }
}

/// Keeps what this kind of write may not change.
fn prepare(call: &Call, target: Target<'_>, value: &mut Value, before: &Value) {
    let kind = &target.resource.kind;
    if target.subresource == "status" {
        keep_all_but_status(value, before);
        return;
    }
    if kind.has_status() {
        copy_field(value, before, "status");
    }
    let context = kinds::Context {
        now: call.now,
        namespace: target.namespace,
        user: &call.user.name,
    };
    kind.strategy().prepare_update(&context, value, before);
}

/// Refuses what is not valid; warns of what is unwise.
fn check(call: &Call, target: Target<'_>, value: &Value, before: &Value) -> Result<(), Status> {
    let kind = &target.resource.kind;
    let is_status = target.subresource == "status";
    let mut errors = ErrorList::new();
    metadata::validate(target.resource, value, &mut errors);
    metadata::validate_update(value, before, &mut errors);
    let mut faults = machinery::validate(kind, value);
    if kind.custom && !faults.is_empty() {
        // What was wrong before the schema said so may stay as it is.
        let known = machinery::validate(kind, before);
        faults.0.retain(|fault| !known.0.contains(fault));
    }
    errors.extend(faults);
    if errors.is_empty() {
        errors.extend(if is_status {
            kind.strategy().validate_status_update(value, before)
        } else {
            kind.strategy().validate_update(value, before)
        });
    }
    if !errors.is_empty() {
        return Err(Status::invalid(&kind.group, &kind.kind, target.name, &errors));
    }
    if !is_status {
        kind.strategy().warnings(value).into_iter().for_each(|w| call.warn(w));
    }
    Ok(())
}

/// Checks uid and revision that the writer named; `true` if it named a revision.
fn check_preconditions(target: Target<'_>, wanted: &Value, old: &Object) -> Result<bool, Status> {
    let uid = meta_str(wanted, "uid");
    if !uid.is_empty() && uid != old.uid() {
        return Err(target.conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.uid()
        )));
    }
    let revision = meta_str(wanted, "resourceVersion");
    if matches!(revision, "" | "0") {
        return Ok(false);
    }
    match revision.parse::<u64>() {
        Ok(n) if n == old.resource_version() => Ok(true),
        Ok(_) => Err(target.modified()),
        Err(_) => {
            let mut errors = ErrorList::new();
            let path = meta::field::Path::new("metadata").child("resourceVersion");
            errors.invalid(&path, meta::field::quoted(revision), "must be an unsigned integer");
            let kind = &target.resource.kind;
            Err(Status::invalid(&kind.group, &kind.kind, target.name, &errors))
        }
    }
}

/// A status write keeps everything else; of the metadata it may change annotations and
/// labels no more than upstream lets it: nothing but `status` of most kinds.
fn keep_all_but_status(value: &mut Value, before: &Value) {
    let status = value.get_mut("status").map(Value::take);
    let mut kept = before.clone();
    match status {
        Some(status) => kept["status"] = status,
        None => {
            kept.as_object_mut().map(|o| o.remove("status"));
        }
    }
    *value = kept;
}

fn copy_field(value: &mut Value, from: &Value, field: &str) {
    if let Some(object) = value.as_object_mut() {
        match from.get(field) {
            Some(kept) => object.insert(field.into(), kept.clone()),
            None => object.remove(field),
        };
    }
}

/// Whether anything outside metadata and status differs.
fn spec_changed(new: &Value, old: &Value) -> bool {
    let (Some(new), Some(old)) = (new.as_object(), old.as_object()) else {
        return true;
    };
    let counts = |k: &str| !matches!(k, "metadata" | "status" | "apiVersion" | "kind");
    new.iter().any(|(k, v)| counts(k) && old.get(k) != Some(v)) || old.keys().any(|k| counts(k) && !new.contains_key(k))
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(super) fn is_finished(value: &Value) -> bool {
    let deleting = !meta_str(value, "deletionTimestamp").is_empty();
    let grace = value
        .pointer("/metadata/deletionGracePeriodSeconds")
        .and_then(Value::as_i64)
        .unwrap_or(0);
    deleting && grace == 0 && meta_list(value, "finalizers").is_empty() && !namespace_waits(value)
}

/// Namespaces have finalizers in their spec too.
pub(super) fn namespace_waits(value: &Value) -> bool {
    value["kind"] == "Namespace"
        && value["apiVersion"] == "v1"
        && value
            .pointer("/spec/finalizers")
            .and_then(Value::as_array)
            .is_some_and(|f| !f.is_empty())
}
