//! Deletion: preconditions, grace periods, finalizers and the ways in which
//! dependents follow. Must not remove an object that somebody still holds by a finalizer.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use meta::{Object, Status, time};
use serde_json::{Value, json};

use super::commit::Written;
use super::create::dry;
use super::metadata::{meta_list, meta_mut, meta_str};
use super::update::{is_finished, namespace_waits};
use super::{Answer, Call, Draft, Target};
use crate::admission::{Attributes, Operation};
use crate::cache::{Selection, select};
use crate::core::Core;
use crate::projection::catch_up;
use crate::resource::object_key;

const TRIES: usize = 8;
/// Finalizer of objects whose dependents shall be orphaned.
const ORPHAN: &str = "orphan";
/// Finalizer of objects that wait for their dependents.
const FOREGROUND: &str = "foregroundDeletion";

/// What becomes of dependents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They live on without owner.
    Orphan,
    /// They are collected after the owner is gone.
    Background,
    /// The owner goes after them.
    Foreground,
}

/// `DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteRequest {
    /// Overrides the kind's grace period.
    pub grace_period_seconds: Option<i64>,
    /// The object must have this uid.
    pub uid: Option<String>,
    /// The object must have this revision.
    pub resource_version: Option<String>,
    /// `None` for the kind's default.
    pub propagation: Option<Propagation>,
}

/// What DELETE answers.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// The object is gone; this was its last state.
    Gone(Answer),
    /// It still exists, marked.
    Marked(Answer),
}

impl DeleteRequest {
    /// From the wire form; missing fields are defaults.
    pub fn from_value(value: &Value) -> Result<Self, Status> {
        let mut out = DeleteRequest::default();
        match value.get("gracePeriodSeconds") {
            None | Some(Value::Null) => {}
            Some(n) => {
                let n = n
                    .as_i64()
                    .ok_or_else(|| Status::bad_request("gracePeriodSeconds must be an integer"))?;
                if n < 0 {
                    return Err(Status::bad_request("gracePeriodSeconds must not be negative"));
                }
                out.grace_period_seconds = Some(n);
            }
        }
        let precondition = |field: &str| {
            let found = value
                .get("preconditions")
                .and_then(|p| p.get(field))
                .and_then(Value::as_str);
            found.map(str::to_owned)
        };
        out.uid = precondition("uid");
        out.resource_version = precondition("resourceVersion");
        let orphan = value.get("orphanDependents").and_then(Value::as_bool);
        let policy = value.get("propagationPolicy").and_then(Value::as_str);
        if orphan.is_some() && policy.is_some() {
            return Err(Status::bad_request(
                "orphanDependents and deletionPropagation cannot be both set",
            ));
        }
        out.propagation = match (policy, orphan) {
            (Some(policy), _) => Some(Self::policy(policy)?),
            (None, Some(true)) => Some(Propagation::Orphan),
            (None, Some(false)) => Some(Propagation::Background),
            (None, None) => None,
        };
        Ok(out)
    }

    /// Reads a propagation policy.
    pub fn policy(text: &str) -> Result<Propagation, Status> {
        match text {
            "Orphan" => Ok(Propagation::Orphan),
            "Background" => Ok(Propagation::Background),
            "Foreground" => Ok(Propagation::Foreground),
            other => Err(Status::bad_request(format!(
                "invalid deletion propagation policy \"{other}\", must be one of: Foreground, Background, Orphan"
            ))),
        }
    }
}

impl Core {
    /// DELETE of one object.
    pub async fn delete(&self, call: &Call, target: Target<'_>, request: &DeleteRequest) -> Result<Deleted, Status> {
        for _ in 0..TRIES {
            catch_up(target.resource).await?;
            let old = self.current(target)?;
            check(target, request, &old)?;
            let before = old.to_value();
            let mut attributes = Attributes {
                call,
                target,
                operation: Operation::Delete,
                object: Value::Null,
                old: Some(&before),
                held: Vec::new(),
            };
            self.admit(&mut attributes).await?;
            self.validate_admission(&mut attributes).await?;
            let after = mark(target, &before, request, call.now);
            if is_finished(&after) {
                if call.dry_run {
                    return Ok(Deleted::Gone(old));
                }
                match self.commit_delete(target, old.resource_version()).await? {
                    Written::Done(last) => return Ok(Deleted::Gone(last)),
                    Written::Lost => continue,
                }
            }
            if after == before {
                return Ok(Deleted::Marked(old));
            }
            let draft = Draft {
                value: after,
                managed: old.managed_fields().cloned(),
            };
            if call.dry_run {
                return Ok(Deleted::Marked(dry(draft)?));
            }
            match self.commit_update(target, old.resource_version(), &draft).await? {
                Written::Done(object) => return Ok(Deleted::Marked(object)),
                Written::Lost => {}
            }
        }
        Err(target.modified())
    }

    /// DELETE of all selected objects of a collection; returns them as they were.
    pub async fn delete_collection(
        &self,
        call: &Call,
        target: Target<'_>,
        selection: &Selection,
        request: &DeleteRequest,
    ) -> Result<Vec<Arc<Object>>, Status> {
        catch_up(target.resource).await?;
        let (snapshot, _) = target.resource.cache.snapshot();
        let (items, _) = select(&snapshot, &target.resource.kind, selection, "", usize::MAX);
        let mut out = Vec::with_capacity(items.len());
        for (_, item) in items {
            let object = &item.object;
            let one = Target {
                namespace: object.namespace(),
                name: object.name(),
                ..target
            };
            match self.delete(call, one, request).await {
                Ok(Deleted::Gone(o) | Deleted::Marked(o)) => out.push(o),
                // Somebody else was quicker.
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        Ok(out)
    }

    /// Removes the object if it is marked and nothing holds it any more.
    pub async fn remove_if_finished(&self, target: Target<'_>) -> Result<(), Status> {
        let key = object_key(target.namespace, target.name);
        let Some(item) = target.resource.cache.get(&key) else {
            return Ok(());
        };
        if is_finished(&item.object.to_value()) {
            self.commit_delete(target, item.object.resource_version()).await?;
        }
        Ok(())
    }
}

fn check(target: Target<'_>, request: &DeleteRequest, old: &Object) -> Result<(), Status> {
    if let Some(uid) = &request.uid
        && uid != old.uid()
    {
        return Err(target.conflict(format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            old.uid()
        )));
    }
    if let Some(revision) = &request.resource_version
        && *revision != old.resource_version().to_string()
    {
        return Err(target.conflict(format!(
            "Precondition failed: ResourceVersion in precondition: {revision}, ResourceVersion in object meta: {}",
            old.resource_version()
        )));
    }
    Ok(())
}

/// The object as DELETE leaves it if it may not go at once.
fn mark(target: Target<'_>, before: &Value, request: &DeleteRequest, now: Timestamp) -> Value {
    let mut value = before.clone();
    let mut finalizers = meta_list(before, "finalizers");
    let has = |list: &[String], f: &str| list.iter().any(|x| x == f);
    let (orphan, foreground) = match request.propagation {
        Some(Propagation::Orphan) => (true, false),
        Some(Propagation::Foreground) => (false, true),
        Some(Propagation::Background) => (false, false),
        None => (has(&finalizers, ORPHAN), has(&finalizers, FOREGROUND)),
    };
    finalizers.retain(|f| f != ORPHAN && f != FOREGROUND);
    let own = target.resource.kind.strategy().delete_finalizers();
    let own = own.iter().filter(|f| !finalizers.iter().any(|x| x == *f));
    if meta_str(before, "deletionTimestamp").is_empty() {
        finalizers.extend(own.map(|&f| f.to_owned()).collect::<Vec<_>>());
    }
    if orphan {
        finalizers.push(ORPHAN.into());
    }
    if foreground {
        finalizers.push(FOREGROUND.into());
    }
    let was_marked = !meta_str(before, "deletionTimestamp").is_empty();
    let grace = target
        .resource
        .kind
        .strategy()
        .delete_grace(before, request.grace_period_seconds)
        .unwrap_or(0)
        .max(0);
    let held = !finalizers.is_empty() || namespace_waits(before);
    let Some(metadata) = meta_mut(&mut value) else {
        return value;
    };
    if finalizers.is_empty() {
        metadata.remove("finalizers");
    } else {
        metadata.insert("finalizers".into(), json!(finalizers));
    }
    let earlier = metadata.get("deletionGracePeriodSeconds").and_then(Value::as_i64);
    // A second DELETE may shorten the grace period, never lengthen it.
    if !was_marked || earlier.is_some_and(|e| grace < e) {
        let deadline = now.checked_add(SignedDuration::from_secs(grace)).unwrap_or(now);
        metadata.insert("deletionTimestamp".into(), time::rfc3339(deadline).into());
        metadata.insert("deletionGracePeriodSeconds".into(), grace.into());
        if target.resource.counts_generation && !was_marked && (held || grace > 0) {
            let generation = metadata.get("generation").and_then(Value::as_i64).unwrap_or(0) + 1;
            metadata.insert("generation".into(), generation.into());
        }
    }
    if target.resource.kind.kind == "Namespace" && target.resource.kind.group.is_empty() {
        value["status"]["phase"] = "Terminating".into();
    }
    value
}
