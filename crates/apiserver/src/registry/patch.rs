//! PATCH in its four forms. A patch that names no revision is tried again
//! when the object moved under it.

use bytes::Bytes;
use client::PatchType;
use meta::{Reason, Status};
use serde_json::Value;

use super::create::report;
use super::metadata::{self, meta_str};
use super::{Answer, Call, Change, Target};
use crate::core::Core;
use crate::machinery::{self, Manager};

/// A decoded patch.
#[derive(Debug)]
pub struct PatchRequest {
    /// How it is meant.
    pub form: PatchType,
    /// The document.
    pub document: Value,
    /// What the decoder found.
    pub problems: Vec<String>,
}

impl Core {
    /// PATCH of an object or of its status.
    pub async fn patch(&self, call: &Call, target: Target<'_>, request: PatchRequest) -> Result<Answer, Status> {
        report(call, request.problems)?;
        let kind = &target.resource.kind;
        if request.form == PatchType::Apply {
            return self.apply(call, target, request.document).await;
        }
        let document = &request.document;
        self.change(call, target, &|old| {
            let mut value = if machinery::touches_managers(document) {
                old.to_full_value()
            } else {
                old.to_value()
            };
            match request.form {
                PatchType::Json => machinery::json_patch(&mut value, document),
                PatchType::Merge => machinery::merge_patch(&mut value, document),
                _ => machinery::strategic_patch(kind, &mut value, document),
            }?;
            // What the object had is no wish of the client's; what the patch names is.
            if document.pointer("/metadata/resourceVersion").is_none()
                && let Some(metadata) = metadata::meta_mut(&mut value)
                && request.form != PatchType::Json
            {
                metadata.remove("resourceVersion");
            }
            if request.form == PatchType::Json
                && meta_str(&value, "resourceVersion") == old.resource_version().to_string()
            {
                metadata::meta_mut(&mut value).map(|m| m.remove("resourceVersion"));
            }
            let name = meta_str(&value, "name");
            if name != target.name {
                return Err(Status::bad_request(format!(
                    "the name of the object ({name}) does not match the name on the URL ({})",
                    target.name
                )));
            }
            metadata::check_place(target, &mut value)?;
            if !machinery::touches_managers(document) {
                metadata::meta_mut(&mut value).map(|m| m.remove("managedFields"));
            }
            Ok(Change { value, managed: None })
        })
        .await
    }

    /// Server-side apply: creates what is not there.
    async fn apply(&self, call: &Call, target: Target<'_>, mut document: Value) -> Result<Answer, Status> {
        if call.field_manager.is_empty() {
            return Err(invalid_options(
                "fieldManager: Required value: is required for apply patch",
            ));
        }
        metadata::check_place(target, &mut document)?;
        if document
            .pointer("/metadata/managedFields")
            .is_some_and(|m| !m.is_null())
        {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        if meta_str(&document, "name").is_empty()
            && let Some(metadata) = metadata::meta_mut(&mut document)
        {
            metadata.insert("name".into(), target.name.into());
        }
        if meta_str(&document, "name") != target.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({}) does not match the name on the URL ({})",
                meta_str(&document, "name"),
                target.name
            )));
        }
        let kind = &target.resource.kind;
        let unknown = machinery::prune(kind, &mut document)?;
        report(call, unknown)?;
        let manager = Manager::of(call, target.subresource);
        loop {
            let exists = self.current(target).is_ok();
            if !exists && target.subresource.is_empty() {
                let uid = meta_str(&document, "uid");
                if !uid.is_empty() {
                    return Err(target.conflict(format!(
                        "uid mismatch: the provided object specified uid {uid}, and no existing object was found"
                    )));
                }
                let (value, managed) = machinery::apply(kind, None, &document, &manager, call.force)?;
                match self.create_once(call, target, value, Some(managed)).await {
                    Err(status) if status.is_already_exists() => continue,
                    done => return done,
                }
            }
            return self
                .change(call, target, &|old| {
                    let live = old.to_value();
                    let (mut value, managed): (Value, Option<Bytes>) = machinery::apply(
                        kind,
                        Some((&live, old.managed_fields())),
                        &document,
                        &manager,
                        call.force,
                    )?;
                    // Only a revision that the applied document names is a precondition.
                    if let Some(metadata) = metadata::meta_mut(&mut value) {
                        match document.pointer("/metadata/resourceVersion") {
                            Some(named) => metadata.insert("resourceVersion".into(), named.clone()),
                            None => metadata.remove("resourceVersion"),
                        };
                    }
                    Ok(Change {
                        value,
                        managed: Some(managed),
                    })
                })
                .await;
        }
    }
}

fn invalid_options(why: &str) -> Status {
    let message = format!("PatchOptions.meta.k8s.io \"\" is invalid: {why}");
    Status::new(422, Reason::Invalid, message).about("meta.k8s.io", "PatchOptions", "")
}
