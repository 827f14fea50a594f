//! Creation of an object. See the module above for the order of steps.

use std::sync::Arc;

use meta::field::ErrorList;
use meta::{Object, Status};
use serde_json::Value;

use super::commit::Written;
use super::metadata::{self, meta_str};
use super::{Answer, Call, Draft, FieldValidation, Input, Target};
use crate::admission::{Attributes, Operation};
use crate::core::Core;
use crate::machinery::{self, Manager};
use crate::resource::Resource;

/// How often a generated name may collide.
const NAME_TRIES: usize = 8;

impl Core {
    /// Creates an object in the target's collection.
    pub async fn create(&self, call: &Call, target: Target<'_>, input: Input) -> Result<Answer, Status> {
        let Input { mut value, problems } = input;
        report(call, problems)?;
        metadata::check_place(target, &mut value)?;
        if !target.resource.is_stored() {
            let answer = self.answer_review(call, target, value)?;
            return Object::from_value(answer).map(Arc::new).map_err(Status::internal);
        }
        let revision = meta_str(&value, "resourceVersion");
        if !matches!(revision, "" | "0") {
            return Err(Status::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        let generated = meta_str(&value, "name").is_empty() && !meta_str(&value, "generateName").is_empty();
        let mut tries = if generated { NAME_TRIES } else { 1 };
        loop {
            tries -= 1;
            let fresh = if tries > 0 {
                value.clone()
            } else {
                std::mem::take(&mut value)
            };
            match self.create_once(call, target, fresh, None).await {
                Err(status) if status.is_already_exists() && tries > 0 => {}
                done => return done,
            }
        }
    }

    /// One attempt. `apply` carries the managed fields of a server-side apply.
    pub(crate) async fn create_once(
        &self,
        call: &Call,
        target: Target<'_>,
        mut value: Value,
        apply: Option<Option<bytes::Bytes>>,
    ) -> Result<Answer, Status> {
        let (resource, kind) = (target.resource, &target.resource.kind);
        let given = value.pointer_mut("/metadata/managedFields").map(Value::take);
        metadata::fill_new(&mut value, resource, call.now);
        metadata::generate_name(&mut value);
        if kind.has_status() {
            value.as_object_mut().map(|o| o.remove("status"));
        }
        let context = kinds::Context {
            now: call.now,
            namespace: target.namespace,
            user: &call.user.name,
        };
        kind.strategy().prepare_create(&context, &mut value);
        let name = meta_str(&value, "name").to_owned();
        let mut attributes = Attributes {
            call,
            target: Target { name: &name, ..target },
            operation: Operation::Create,
            object: value,
            old: None,
            held: Vec::new(),
        };
        self.admit(&mut attributes).await?;
        value = attributes.object;
        // What plug-ins reserved is theirs until the object is in the cache.
        let _held = attributes.held;
        shape(call, resource, &mut value)?;
        let mut errors = ErrorList::new();
        metadata::validate(resource, &value, &mut errors);
        errors.extend(machinery::validate(kind, &value));
        if errors.is_empty() {
            errors.extend(kind.strategy().validate_create(&value));
        }
        if !errors.is_empty() {
            return Err(Status::invalid(&kind.group, &kind.kind, &name, &errors));
        }
        kind.strategy().warnings(&value).into_iter().for_each(|w| call.warn(w));
        let mut attributes = Attributes {
            call,
            target: Target { name: &name, ..target },
            operation: Operation::Create,
            object: value,
            old: None,
            held: Vec::new(),
        };
        self.validate_admission(&mut attributes).await?;
        let (mut value, _also_held) = (attributes.object, attributes.held);
        metadata::tidy(&mut value);
        let managed = match apply {
            Some(managed) => managed,
            None => machinery::track(kind, None, &value, given.as_ref(), &Manager::of(call, "")),
        };
        let draft = Draft { value, managed };
        if call.dry_run {
            return dry(draft);
        }
        match self.commit_create(target, &name, &draft).await? {
            Written::Done(object) => Ok(object),
            Written::Lost => Err(Status::already_exists(&kind.group, &kind.plural, &name)),
        }
    }
}

/// Prunes and defaults, and says what was dropped as the call asks.
pub(super) fn shape(call: &Call, resource: &Resource, value: &mut Value) -> Result<(), Status> {
    let unknown = machinery::prune(&resource.kind, value)?;
    report(call, unknown)?;
    machinery::default(&resource.kind, value);
    resource.kind.strategy().default(value);
    Ok(())
}

/// Unknown and duplicate fields: errors, warnings or nothing.
pub(super) fn report(call: &Call, problems: Vec<String>) -> Result<(), Status> {
    match call.field_validation {
        FieldValidation::Ignore => {}
        FieldValidation::Warn => problems.into_iter().for_each(|p| call.warn(p)),
        FieldValidation::Strict if problems.is_empty() => {}
        FieldValidation::Strict => {
            return Err(Status::bad_request(object::decode::strict_error(&problems)));
        }
    }
    Ok(())
}

/// The answer to a dry run.
pub(crate) fn dry(draft: Draft) -> Result<Answer, Status> {
    let raw = crate::cache::codec::encode_raw(&draft.value).map_err(Status::internal)?;
    Object::from_parts(raw.into(), draft.managed)
        .map(Arc::new)
        .map_err(Status::internal)
}
